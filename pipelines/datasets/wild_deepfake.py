"""WildDeepfake (Zi et al., ACM MM 2020): faces from 707 videos found on the internet, cropped by its authors.

Licence: the form at https://github.com/OpenTAI/wild-deepfake gives the download link.
Split: the folders `{real,fake}_train` are `train`, `{real,fake}_test` are `test`; there is no `val`.

A sequence of face crops is the "video": its uri is a folder of pictures, or a path into an archive such as
real_train/12.tar.gz/12/real/3. The picture is the face, so that none is looked for. Nothing is told about people,
methods or counterparts; `real` and `fake` inside an archive must say the same as the folder it lies in.
Archives need not be unpacked; the first time, they are read through to list them. A damaged one gives the sequences
before the damage, and one row for the archive itself, which stands for what is lost: no face can be had from it, so
that it counts as unreadable.
video_id: `wild_deepfake/<label>_<split>/<number of the archive>/<sequence>`, packed or not; copies that were
unpacked without the archives' folders lack the number. A damaged archive has its file's name in place of both.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from pipelines.common import tables
from pipelines.datasets._archives import is_archive, picture_folders
from pipelines.datasets._root import Root, by_id, join, row

LAYOUT = """\
    {real,fake}_{train,test}/N.tar.gz                      here or in deepfake_in_the_wild/
  or, unpacked, {real,fake}_{train,test}/N/{real,fake}/<sequence>/*.png
             or {train,test}/frames/{real,fake}_{train,test}/<sequence>/*.png"""
NEEDS: tuple[str, ...] = ()

METHOD = "wild_deepfake"
LABELS = {"real": tables.REAL, "fake": tables.FAKE}
PART = re.compile(r"(real|fake)[ _-](train|test)", re.IGNORECASE)
ABOVE = ("deepfake_in_the_wild", "train", "test", "frames")  # levels that parts may lie in
PUBLISHED = {("real", ""): 3805, (METHOD, ""): 3509}  # the paper's 7,314 sequences


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every sequence. Raise DatasetError."""
    root = roots["wild_deepfake"]
    rows = []
    for label, split, folder in _parts(root):
        for uri, parts in _sequences(root, folder):
            kinds = {part.lower() for part in parts[:-1]} & LABELS.keys()
            if kinds - {label}:
                raise root.error(f"{uri} says {kinds.pop()}, but lies in {folder}")
            rows.append(
                _row(label, split, uri, [part for part in parts[:-1] if part.lower() not in LABELS] + parts[-1:])
            )
    return by_id(rows)


def _parts(root: Root, above: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (label, split, path) of each part."""
    for folder in root.folders(above):
        name = PurePosixPath(folder).name
        if match := PART.fullmatch(name):
            yield match[1].lower(), match[2].lower(), folder
        elif name.lower() in ABOVE:
            yield from _parts(root, folder)


def _sequences(root: Root, folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (uri, levels below the part that tell sequences apart) of each sequence of a part."""
    for name, is_folder in root.entries(folder).items():
        path = join(folder, name)
        if is_folder and name.lower() == "frames":
            yield from _sequences(root, path)
        elif is_folder and not name.startswith("."):
            # Below real/ and fake/ nothing is listed: there are thousands of folders, with a million pictures.
            kinds = [kind for kind in root.folders(path) if PurePosixPath(kind).name.lower() in LABELS]
            for kind in kinds:
                for sequence in root.folders(kind):
                    yield sequence, [name, *PurePosixPath(sequence).parts[-2:]]
            if not kinds:
                yield path, [name]
        elif is_archive(name):
            number = name.partition(".")[0]
            folders, damage = picture_folders(root, path)
            for inside in folders:
                parts = list(PurePosixPath(inside).parts)
                yield join(path, inside), parts if parts[:1] == [number] else [number, *parts]
            if damage:
                yield path, [name]


def _row(label: str, split: str, uri: str, levels: list[str]) -> dict:
    video_id = "/".join(("wild_deepfake", f"{label}_{split}", *levels))
    return row(
        "wild_deepfake",
        video_id,
        uri,
        label=LABELS[label],
        method=METHOD if label == "fake" else "real",
        split=split,
        source_ids=[video_id],
        face_rule="whole",
    )
