"""VIDEOS to FACES.

In: rows of VIDEOS, their roots, and a recipe. Out: a folder of FACES and LEDGER, in which each video is found again:
with its faces, or with the reason why it has none.

    recipe   all settings that decide what the faces look like
    detect   the models: where faces are in a picture, and their landmarks
    boxes    arithmetic of boxes
    follow   one face from frame to frame (tracks), and which track is face 0
    crops    landmarks and square crops of the tracks
    masks    which pixels of a fake were manipulated
    counterpart  which frame of its real counterpart belongs to a frame of a fake
    video    one video to its rows, for all recipes that are asked for
    extract  all videos, by Ray Data; may be killed anywhere and started again
    writer   the files of an extraction as they are written, so that no kill loses or doubles a row
    files    where a video's files are, and whether they are those that its faces were cut from
    store    what an extraction left on disk, read without Ray
    plan     which videos still lack faces, in which folder these belong, and the call that extracts them
    sources  where the videos are: datasets.toml or the made-up sample corpus
    perturb  what a stored face is put through before it is scored: blur, JPEG, noise ...
"""
