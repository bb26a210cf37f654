"""Celeb-DF v2 (Li et al., CVPR 2020) and Celeb-DF++ (Li et al., 2025), which adds fakes of 21 further methods.

Licence: the forms at https://github.com/yuezunli/celeb-deepfakeforensics and, for Celeb-DF++,
https://github.com/OUC-VAS/Celeb-DF-PP give the download link.
Split: the dataset's `List_of_testing_videos.txt` is `test`, everything else `train`; there is no `val`. The
list has no header, and its first column is 1 for real and 0 for fake, the reverse of ours.

A listed video that is not on disk keeps its row, so that the 518 test videos never become fewer unnoticed. Where
there is no file, a folder of pictures in `images/` or `frames/` serves as the video.
`idA_idB_NNNN` shows celebrity idB on the body of idA; its real counterpart is `Celeb-real/idA_NNNN`. Reenacted
and talking faces move in their own way, so that they have none.
video_id: `celeb_df/<folder>/<stem>`, since the two folders of real videos could share a stem, and
`celeb_df/Celeb-synthesis/<method>/<stem>` for the methods of Celeb-DF++. Its FaceSwap/Celeb-DF are the fakes of
v2: they have the same id, and the method "Celeb-synthesis", wherever they lie. One celebrity appears in several
videos, so that the dataset's own train and test parts share people. Celeb-DF v1 is `celeb_df_v1`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from pipelines.common import tables
from pipelines.datasets._lists import PublishedList, digest
from pipelines.datasets._root import Root, by_id, is_video, row

LAYOUT = """\
    List_of_testing_videos.txt
    Celeb-real/idA_NNNN.mp4
    YouTube-real/NNNNN.mp4
    Celeb-synthesis/idA_idB_NNNN.mp4                       each folder may have a videos/ level, or frames/NAME/*.png
  or, in Celeb-DF++, Celeb-synthesis/{FaceSwap,FaceReenact,TalkingFace}/<method>/*.mp4"""
NEEDS: tuple[str, ...] = ()

FAKE_FOLDER = "Celeb-synthesis"
MANIPULATIONS = (FAKE_FOLDER,)  # Celeb-DF-v2; those of Celeb-DF++ are test sets of their own
FOLDERS = {  # folder -> how its files are named
    "Celeb-real": re.compile(r"(id\d+)_(\d+)"),
    "YouTube-real": re.compile(r"\d+"),
    FAKE_FOLDER: re.compile(r"(id\d+)_(id\d+)_(\d+)"),
}
SCENARIOS = ("FaceSwap", "FaceReenact", "TalkingFace")
V2 = ("celeb-df", "celeb-df-v2")  # what Celeb-DF++ calls the method of v2
LIST = "List_of_testing_videos.txt"
# v2: 590 and 300 real videos, 5,639 fakes; its list holds 178 real videos and 340 fakes.
PUBLISHED = {("real", "train"): 712, ("real", "test"): 178, (FAKE_FOLDER, "train"): 5299, (FAKE_FOLDER, "test"): 340}

LIST_DIGEST = "7c8233635857146f"  # of the list of v2, of lines such as YouTube-real/00170

Key = tuple[str, str, str]  # folder as in FOLDERS; scenario/method, "" of v2; stem


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk or in the list. Raise DatasetError."""
    return rows(roots["celeb_df"])


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what the test list promises. Raise DatasetError."""
    return [test_list(roots["celeb_df"], LIST_DIGEST)]


def rows(root: Root) -> list[dict]:
    """Return rows of VIDEOS for a root in this layout, of the dataset `root.name`. Raise DatasetError."""
    tested = _read_list(root)
    on_disk: dict[Key, str] = {}
    for key, path in _on_disk(root):
        if key in on_disk:
            raise root.error(f"{path} and {on_disk[key]} are the same video; keep one")
        on_disk[key] = path
    if not on_disk:
        raise root.error(f"none of {', '.join(FOLDERS)} holds a video")
    uris = tested | on_disk
    return by_id(_row(root, key, uris, tested) for key in uris)


def test_list(root: Root, published: str | None) -> PublishedList:
    """Return what the test list of a root in this layout promises. Raise DatasetError.

    published: digest of the owners' list, of lines such as YouTube-real/00170; None: not known.
    """
    listed = _read_list(root)
    found = digest("/".join(filter(None, key)) for key in listed)
    return PublishedList(
        name=LIST,
        labels={_video_id(root, key): tables.FAKE if key[0] == FAKE_FOLDER else tables.REAL for key in listed},
        covers=lambda row: row["split"] == "test",
        as_published=None if published is None else found == published,
    )


def _on_disk(root: Root) -> Iterator[tuple[Key, str]]:
    """Yield (key, path) of every video on disk."""
    for folder in FOLDERS:
        for stem, path in root.footage(folder).items():
            yield (folder, "", stem), path
    for scenario in SCENARIOS:
        place = root.folder(FAKE_FOLDER, scenario)
        for folder in root.folders(place) if place else ():
            for stem, path in root.footage(base=folder).items():
                yield (FAKE_FOLDER, _part(scenario, PurePosixPath(folder).name), stem), path


def _part(scenario: str, method: str) -> str:
    return "" if method.lower() in V2 else f"{scenario}/{method}"


def _read_list(root: Root) -> dict[Key, str]:
    """Return {key: path as it is listed} of the test videos. Raise DatasetError."""
    listed: dict[Key, str] = {}
    for number, line in enumerate(root.text(LIST).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([01])\s+(\S+)\.\w+", line.strip())
        key = _key(match[2].split("/")) if match else None
        if match is None or key is None:
            raise root.error(f"{LIST}, line {number}: {line!r}, expected such as '1 YouTube-real/00170.mp4'")
        if (match[1] == "0") != (key[0] == FAKE_FOLDER):
            raise root.error(f"{LIST}, line {number}: {line!r}, but in this list 1 means real and 0 means fake")
        listed[key] = f"{'/'.join(filter(None, key))}.mp4"
    if not listed:
        raise root.error(f"{LIST} is empty")
    return listed


def _key(parts: list[str]) -> Key | None:
    """Return the key of a listed path, given in parts; None when it is no path of this dataset."""
    parts = [part for part in parts if part.lower() != "videos"]
    if len(parts) < 2:  # a bare name, or one with backslashes
        return None
    folder, *between, stem = parts
    spelled = {name.lower(): name for name in (*FOLDERS, *SCENARIOS)}
    names = [spelled.get(name.lower(), name) for name in (folder, *between)]
    if names in ([name] for name in FOLDERS):
        return names[0], "", stem
    if len(names) == 3 and names[0] == FAKE_FOLDER and names[1] in SCENARIOS:
        return FAKE_FOLDER, _part(names[1], names[2]), stem
    return None


def _row(root: Root, key: Key, uris: Mapping[Key, str], tested: Mapping[Key, str]) -> dict:
    folder, part, stem = key
    match = FOLDERS[folder].fullmatch(stem)
    if match is None and not part:
        raise root.error(f"{uris[key]} is not named like the videos of {folder}")
    fake, method = folder == FAKE_FOLDER, part.rpartition("/")[2]
    people = re.findall(r"id\d+", stem)
    swapped = fake and (not part or part.startswith("FaceSwap/"))
    real = ("Celeb-real", "", f"{match[1]}_{match[3]}") if swapped and match else None
    real = real if real in uris else None
    return row(
        root.name,
        _video_id(root, key),
        uris[key],
        label=tables.FAKE if fake else tables.REAL,
        method=(method or FAKE_FOLDER) if fake else "real",
        split="test" if key in tested else "train",
        real_id=_video_id(root, real) if real else None,
        real_uri=uris[real] if real and is_video(uris[real]) and is_video(uris[key]) else None,
        source_ids=[f"{root.name}/{person}" for person in people or [f"{folder}/{stem}"]],
    )


def _video_id(root: Root, key: Key) -> str:
    folder, part, stem = key
    return "/".join(filter(None, (root.name, folder, part.rpartition("/")[2], stem)))
