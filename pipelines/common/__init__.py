"""What every other package needs.

It knows no video, face or score, only the columns of their tables.

    storage     the one way to write a file (`writing`), also as JSON and Parquet; digests that name values
    bucket      a place in a bucket under the methods of a Path; patience with its server
    bucket_client  its servers, and the credentials they are asked by
    bucket_cache  copies of a bucket's objects on this machine's disk
    slow          files of a network mount, copied to this machine's disk in the same way
    lease       a lock in a bucket
    tables      columns, types and units of VIDEOS, FACES, LEDGER, PREDICTIONS, RESULTS and the other tables
    cluster     Ray, started here or joined; which nodes do which work, and how many CPUs and GPUs there are
    numerics    precision, and whether each time the same: the setting
    device      GPU or CPU, and what that setting does there; imports torch
    pictures    arrays to PNG and back
    progress    the live view of a command, and the notes by which it follows other processes
    provenance  the commit that made a number
    own_code    Python code of the user's own, loaded from a file that was named
    user_cache  the folder of what a command keeps for the next call of the same user
    rates       what pieces of work took on this machine, kept there for plans
    command     what all commands share: parser, types of switches, errors as lines and exit codes
    filenames   file names that are not UTF-8, as text that tables and JSON can hold
    text        text from files and errors, made safe and short enough to be shown
"""
