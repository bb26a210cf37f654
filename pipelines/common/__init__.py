"""What every package needs.

It knows nothing of videos, faces or scores but the columns of their tables.

    storage     the one way to write a file (`writing`), JSON and Parquet by it; digests that name a value
    tables      VIDEOS, FACES, LEDGER, PREDICTIONS, RESULTS and the others: columns, types, units
    cluster     Ray, started here or joined; on which nodes work runs, and how much there is of them
    device      GPU or CPU, and the precision of its arithmetic
    pictures    arrays to PNG and back
    progress    the live view of a command, and the notes by which it follows other processes
    provenance  the commit that made a number
    text        text that came with files, made fit to be shown
"""
