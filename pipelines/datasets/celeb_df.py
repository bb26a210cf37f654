"""Celeb-DF v2 (Li et al., CVPR 2020).

Licence: the form at https://github.com/yuezunli/celeb-deepfakeforensics gives the download link.
Split: the dataset's `List_of_testing_videos.txt` is `test`, everything else `train`; there is no `val`. The
list has no header, and its first column is 1 for real and 0 for fake, the reverse of ours.

A listed video that is not on disk keeps its row, so that the 518 test videos never become fewer unnoticed.
`idA_idB_NNNN` shows celebrity idB on the body of idA; its real counterpart is `Celeb-real/idA_NNNN`.
video_id: `celeb_df/<folder>/<stem>`, since the two folders of real videos could share a stem. One celebrity
appears in several videos, so that the dataset's own train and test parts share people.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pipelines import schemas
from pipelines.datasets._root import Root, by_id, row

LAYOUT = """\
    List_of_testing_videos.txt
    Celeb-real/idA_NNNN.mp4
    YouTube-real/NNNNN.mp4
    Celeb-synthesis/idA_idB_NNNN.mp4                       each folder may have a videos/ level"""
NEEDS: tuple[str, ...] = ()

FAKE_FOLDER = "Celeb-synthesis"
FOLDERS = {  # folder -> how its files are named
    "Celeb-real": re.compile(r"(id\d+)_(\d+)"),
    "YouTube-real": re.compile(r"\d+"),
    FAKE_FOLDER: re.compile(r"(id\d+)_(id\d+)_(\d+)"),
}
LIST = "List_of_testing_videos.txt"


def videos(roots: Mapping[str, Path]) -> list[dict]:
    """Rows of VIDEOS for every video on disk or in the list. Raises DatasetError."""
    root = Root("celeb_df", roots["celeb_df"], LAYOUT)
    tested = _read_list(root)
    on_disk = {folder: root.videos(folder) for folder in FOLDERS}
    if not any(on_disk.values()):
        raise root.error(f"none of {', '.join(FOLDERS)} holds a video")
    uris = {(folder, stem): root.uri(path) for folder, found in on_disk.items() for stem, path in found.items()}
    uris = {key: f"{key[0]}/{key[1]}.mp4" for key in tested} | uris
    return by_id(_row(root, folder, stem, uris, tested) for folder, stem in uris)


def _read_list(root: Root) -> set[tuple[str, str]]:
    """(folder, stem) of the test videos."""
    listed = set()
    spelled = {folder.lower(): folder for folder in FOLDERS}
    for number, line in enumerate(root.text(LIST).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([01])\s+([^/]+)/(?:videos/)?([^/]+)\.\w+", line.strip(), re.IGNORECASE)
        folder = spelled.get(match[2].lower()) if match else None
        if match is None or folder is None:
            raise root.error(f"{LIST}, line {number}: {line!r}, expected such as '1 YouTube-real/00170.mp4'")
        if (match[1] == "0") != (folder == FAKE_FOLDER):
            raise root.error(f"{LIST}, line {number}: {line!r}, but in this list 1 means real and 0 means fake")
        listed.add((folder, match[3]))
    if not listed:
        raise root.error(f"{LIST} is empty")
    return listed


def _row(root: Root, folder: str, stem: str, uris: Mapping[tuple[str, str], str], tested: set) -> dict:
    match = FOLDERS[folder].fullmatch(stem)
    if match is None:
        raise root.error(f"{uris[folder, stem]} is not named like the videos of {folder}")
    fake = folder == FAKE_FOLDER
    people = re.findall(r"id\d+", stem) or [f"{folder}/{stem}"]
    real = f"{match[1]}_{match[3]}" if fake and ("Celeb-real", f"{match[1]}_{match[3]}") in uris else None
    return row(
        "celeb_df",
        f"celeb_df/{folder}/{stem}",
        uris[folder, stem],
        label=schemas.FAKE if fake else schemas.REAL,
        method=FAKE_FOLDER if fake else "real",
        split="test" if (folder, stem) in tested else "train",
        real_id=f"celeb_df/Celeb-real/{real}" if real else None,
        real_uri=uris["Celeb-real", real] if real else None,
        source_ids=[f"celeb_df/{person}" for person in people],
    )
