"""From the bytes of a video to its frames: exact, upright, RGB.

In: a video file, a folder of pictures, or a folder inside a tar archive; local or at a URI. Out: frames with index and
time, or UnreadableVideo, which says why there are none.

    frames    what every kind of video gives: Frame, Source, UnreadableVideo
    sampling  which frames of a video are taken: even, stride, fps, clips
    decode    the decoding of exactly these
    stills    pictures in folders and archives as videos
    fetch     a remote video as a local copy, for as long as it is read
    spool     the frames of one video in bounded memory
    sandbox   calls in a child process, which may crash, hang or run out of memory without harm
    probe     sizes, digests and faults of files, for the doctor
"""
