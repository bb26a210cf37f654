"""DeepFake Detection Challenge, preview set (Dolhansky et al., 2019): paid actors, two methods.

Licence: that of https://ai.meta.com/datasets/dfdc (an account and a form give the download).
Split: `set` in the dataset's own `dataset.json`, train or test; there is no `val`. Labels and people are told
there, too. A video that it names keeps its row when it is not on disk; one that it does not name is an error.

A fake shows `swapped_id` on a video of `target_id`; which one is not told, so that there are no counterparts. Some
copies insert `videos/` levels, some leave out the folders below the first: a file is then known by its name.
video_id: `dfdcp/<path in dataset.json without suffix>`.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipelines.common import tables
from pipelines.common.text import first
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import Root, by_id, is_video, join, row

LAYOUT = """\
    dataset.json                                           here or in dfdc_preview_set/, as all below
    original_videos/<id>/*.mp4
    {method_A,method_B}/<id>/<id>_<take>/*.mp4             each folder may have a videos/ level"""
NEEDS: tuple[str, ...] = ()

LIST = "dataset.json"
NESTED = "dfdc_preview_set"
FOLDERS = ("original_videos", "method_A", "method_B")
LABELS = {"real": tables.REAL, "fake": tables.FAKE}
SPLITS = ("train", "test")
# 1,131 real videos and 4,113 fakes in Table 1 of the Celeb-DF paper; per method and split nobody says.
PUBLISHED = {("real", ""): 1131}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video that dataset.json names. Raise DatasetError."""
    root = roots["dfdcp"]
    listed = _read_list(root)
    places = _places(root, listed)
    if not places:
        raise root.error(f"none of {', '.join(FOLDERS)} holds a video")
    base = root.folder(NESTED) or ""
    return by_id(_row(name, places.get(name, join(base, name)), entry) for name, entry in listed.items())


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what dataset.json promises; the labels are those that its folders tell. Raise DatasetError."""
    listed = _read_list(roots["dfdcp"])
    return [
        PublishedList(
            name=f"{LIST}, {split}",
            labels={
                _video_id(name): tables.REAL if name.split("/")[0] == FOLDERS[0] else tables.FAKE
                for name, entry in listed.items()
                if entry["set"] == split
            },
            covers=partial(_is_in, split),
            tells_labels=True,
        )
        for split in SPLITS
    ]


def _is_in(split: str, row: Mapping[str, Any]) -> bool:
    return row["split"] == split


def _video_id(name: str) -> str:
    return f"dfdcp/{PurePosixPath(name).with_suffix('')}"


def _read_list(root: Root) -> dict[str, Mapping[str, Any]]:
    """Return {path of a video: what is said about it} of dataset.json. Raise DatasetError."""
    try:
        listed = json.loads(root.text(LIST, f"{NESTED}/{LIST}"))
    except json.JSONDecodeError as error:
        raise root.error(f"{LIST} is not JSON: {error}") from error
    if not isinstance(listed, dict) or not listed:
        raise root.error(f"{LIST} must map paths of videos to entries")
    for name, entry in listed.items():
        if name.split("/")[0] not in FOLDERS or not is_video(name):
            raise root.error(f"{LIST}: {name!r} is no path such as method_A/<id>/<id>_<take>/<name>.mp4")
        if not isinstance(entry, dict) or entry.get("label") not in LABELS or entry.get("set") not in SPLITS:
            raise root.error(f'{LIST}: {name} must have "label" real or fake and "set" train or test, got {entry!r}')
        if "target_id" not in entry or (entry["label"] == "fake" and "swapped_id" not in entry):
            raise root.error(f'{LIST}: {name} must have "target_id" and, of a fake, "swapped_id", got {entry!r}')
    return listed


def _places(root: Root, listed: Mapping[str, Any]) -> dict[str, str]:
    """Return {listed path: path on disk} of the videos on disk. Raise DatasetError for a file that is not listed."""
    by_path = {name.lower(): name for name in listed}
    by_name = defaultdict(list)
    for name in listed:
        by_name[_flat(name)].append(name)
    places: dict[str, str] = {}
    unlisted = []
    for path, plain in _on_disk(root):
        names = [by_path[plain.lower()]] if plain.lower() in by_path else by_name[_flat(plain)]
        if len(names) > 1:
            raise root.error(f"{path} may be any of {first(names)}; keep the folders of {LIST}")
        if not names:
            unlisted.append(path)
        elif names[0] in places:
            raise root.error(f"{path} and {places[names[0]]} are the same video; keep one")
        else:
            places[names[0]] = path
    if unlisted:
        raise root.error(f"{LIST} does not name {first(unlisted)}")
    return places


def _flat(name: str) -> tuple[str, str]:
    """Return the first folder and the file name of a path, in lower case."""
    parts = name.lower().split("/")
    return parts[0], parts[-1]


def _on_disk(root: Root) -> Iterator[tuple[str, str]]:
    """Yield (path, path without the `videos/` levels that copies insert) of every video file."""
    base = root.folder(NESTED) or ""
    for name in FOLDERS:
        top = root.folder(name, base=base)
        waiting = [(top, name)] if top else []
        while waiting:
            folder, plain = waiting.pop()
            for path in root.folders(folder):
                level = PurePosixPath(path).name
                waiting.append((path, plain if level.lower() == "videos" else f"{plain}/{level}"))
            for file, is_folder in root.entries(folder).items():
                if is_video(file) and not is_folder:
                    yield join(folder, file), f"{plain}/{file}"


def _row(name: str, uri: str, entry: Mapping[str, Any]) -> dict:
    fake = entry["label"] == "fake"
    people = [entry["target_id"], *([entry["swapped_id"]] if fake else [])]
    return row(
        "dfdcp",
        _video_id(name),
        uri,
        label=LABELS[entry["label"]],
        method=name.split("/")[0] if fake else "real",
        split=entry["set"],
        source_ids=[f"dfdcp/{person}" for person in dict.fromkeys(people)],
    )
