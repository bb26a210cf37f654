"""DeepFake Detection Challenge, full set (Dolhansky et al., 2020).

Licence: that of https://ai.meta.com/datasets/dfdc (an account and a form give the download).
Split: the folders `dfdc_train_part_*`, labelled by their `metadata.json`, are `train`; the 5,000 videos of
`labels.csv` are `test`. There is no `val`. With `list = "names.txt"` in datasets.toml only those of the 5,000 that this
file names are (several papers test on the 3,215 that LipForensics chose): text with a name in each line, or CSV with a
column `filename` and maybe `label`, as labels.csv. A name that labels.csv lacks, or another label, is an error.

A video that a metadata.json or labels.csv names keeps its row when it is not on disk. Who was swapped in is
not told: the source of a fake is its original, in the test part, where none is told, the video itself.
video_id: `dfdc/train/<stem>` and `dfdc/test/<stem>`; the part's number is left out, since copies spell it
differently (0, 00) and names are unique over all parts.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipelines.common import tables
from pipelines.common.text import first
from pipelines.datasets._lists import PublishedList, digest
from pipelines.datasets._root import Root, by_id, is_video, parent, row

LAYOUT = """\
    dfdc_train_part_N/{*.mp4,metadata.json}                here or in train/
    labels.csv                                             here or in test/; columns filename,label
    test/*.mp4                                             or test/videos/, or videos/"""
NEEDS: tuple[str, ...] = ()
OPTIONS: Mapping[str, tuple[str, ...]] = {"list": ()}

LABELS_AT = ("labels.csv", "test/labels.csv")
# The paper's 119,154 training videos with 100,000 fakes; half of the 5,000 videos of labels.csv are fakes.
PUBLISHED = {("real", "train"): 19154, ("dfdc", "train"): 100000, ("real", "test"): 2500, ("dfdc", "test"): 2500}
LABELS_DIGEST = "ddfb03b9986285eb"  # of labels.csv, of lines such as "aalscayrfi.mp4 0"
KNOWN_LISTS = {"a50209c66d9c0eba": "LipForensics' 3,215"}  # digest of lines such as "aalscayrfi.mp4" -> whose it is
METADATA_AT = ("test/metadata.json", "metadata.json")  # of the test part; not every copy has it
METHOD = "dfdc"  # eight methods were used; which one made a video is not published
LABELS = {"REAL": tables.REAL, "FAKE": tables.FAKE, "0": tables.REAL, "1": tables.FAKE}


def videos(roots: Mapping[str, Root], **options: str) -> list[dict]:
    """Return rows of VIDEOS for every video that the dataset's own lists name. Raise DatasetError.

    options: `list`, the path of a file that says which of the test videos count.
    """
    root = roots["dfdc"]
    train = root.folder("train")
    parts = [
        part
        for place in ("", train)
        if place is not None
        for part in root.folders(place)
        if PurePosixPath(part).name.lower().startswith("dfdc_train_part")
    ]
    test = root.videos("test") or root.videos("videos")
    listed = any(root.find(place) for place in LABELS_AT)
    if not parts and not test and not listed:
        raise root.error("neither train parts nor a test part")
    if not (test or listed):
        return by_id(_train(root, parts))
    labels = _read_labels(root)
    wanted = _chosen(options["list"], labels, root) if "list" in options else labels
    return by_id(_train(root, parts) + _test(root, test, labels, wanted))


def lists(roots: Mapping[str, Root], **options: str) -> list[PublishedList]:
    """Return what labels.csv, or a list of one's own, and the metadata of the test part promise. Raise DatasetError."""
    root = roots["dfdc"]
    if not any(root.find(place) for place in LABELS_AT):
        return []
    labels = _read_labels(root)
    if "list" in options:
        wanted = {name: labels[name] for name in _chosen(options["list"], labels, root)}
        whose = KNOWN_LISTS.get(digest(wanted))
        promised = [_promised(f"list: {whose or PurePosixPath(options['list']).name}", wanted, bool(whose) or None)]
    else:
        wanted = labels
        as_published = digest(f"{name} {label}" for name, label in labels.items()) == LABELS_DIGEST
        promised = [_promised("labels.csv", labels, as_published)]
    if place := next(filter(None, map(root.find, METADATA_AT)), None):
        told = _read_metadata(root, place, "is_fake", (0, 1))
        labelled = {name: told[name]["is_fake"] for name in wanted if name in told}
        promised.append(replace(_promised(place, labelled, None), tells_labels=True))
    return promised


def _promised(name: str, labels: Mapping[str, int], as_published: bool | None) -> PublishedList:
    return PublishedList(
        name=name,
        labels={f"dfdc/test/{PurePosixPath(video).stem}": label for video, label in labels.items()},
        covers=lambda row: row["split"] == "test",
        as_published=as_published,
    )


def _train(root: Root, parts: Iterable[str]) -> list[dict]:
    entries: dict[str, tuple[str, dict]] = {}  # file name -> its uri, its metadata
    for part in parts:
        paths = {PurePosixPath(path).name: path for path in root.videos(base=part).values()}
        metadata = _read_metadata(root, f"{part}/metadata.json", "label", ("REAL", "FAKE"))
        _check_all_listed(root, paths.values(), metadata, f"{PurePosixPath(part).name}/metadata.json")
        for name, entry in metadata.items():
            if name in entries:
                raise root.error(f"{name} is in two train parts")
            entries[name] = paths.get(name, f"{part}/{name}"), entry
    rows = []
    for name, (uri, entry) in entries.items():
        original = entry.get("original")
        rows.append(
            _row(
                f"dfdc/train/{PurePosixPath(name).stem}",
                uri,
                LABELS[entry["label"]],
                "train",
                original or name,
                real_id=f"dfdc/train/{PurePosixPath(original).stem}" if original in entries else None,
                real_uri=entries[original][0] if original in entries else None,
            )
        )
    return rows


def _read_metadata(root: Root, place: str, label: str, allowed: tuple[Any, ...]) -> dict[str, dict]:
    """Return {file name: entry} of a metadata.json, whose `label` must be an allowed one. Raise DatasetError."""
    try:
        metadata = json.loads(root.text(place))
    except json.JSONDecodeError as error:
        raise root.error(f"{place} is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise root.error(f"{place} must map file names to entries")
    for name, entry in metadata.items():
        if not isinstance(entry, dict) or entry.get(label) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise root.error(f'{place}: {name} must have "{label}" {wanted}, got {entry!r}')
    return metadata


def _test(root: Root, test: Mapping[str, str], labels: Mapping[str, int], wanted: Iterable[str]) -> list[dict]:
    if not test:
        raise root.error(f"labels.csv names {len(labels)} test videos, but test/, test/videos/ and videos/ hold none")
    paths = {PurePosixPath(path).name: path for path in test.values()}
    _check_all_listed(root, paths.values(), labels, "labels.csv")
    folder = PurePosixPath(next(iter(paths.values()))).parent
    return [
        _row(
            f"dfdc/test/{PurePosixPath(name).stem}",
            paths.get(name, f"{folder}/{name}"),
            labels[name],
            "test",
            f"test/{name}",
        )
        for name in wanted
    ]


def _read_labels(root: Root) -> dict[str, int]:
    """Return {file name: label} of labels.csv. Raise DatasetError."""
    reader = csv.DictReader(root.text(*LABELS_AT).splitlines())
    if not {"filename", "label"} <= set(reader.fieldnames or ()):
        raise root.error(f"labels.csv must have the columns filename and label, has {reader.fieldnames}")
    labels: dict[str, int] = {}
    for line in reader:
        name, label = line["filename"], line["label"]
        if not name or label not in LABELS:
            raise root.error(f"labels.csv, line {reader.line_num}: label must be 0 (real) or 1 (fake), got {label!r}")
        if name in labels:
            raise root.error(f"labels.csv, line {reader.line_num}: {name} is listed twice")
        labels[name] = LABELS[label]
    return labels


def _chosen(path: str, labels: Mapping[str, int], root: Root) -> list[str]:
    """Return the file names that a list of one's own chooses. Raise DatasetError where labels.csv says otherwise."""
    list_name = PurePosixPath(path).name
    text = Root("dfdc", parent(path), f"    {list_name}").text(list_name)
    lines = [[field.strip() for field in line] for line in csv.reader(text.splitlines()) if line]
    has_head = bool(lines) and "filename" in lines[0]
    head = lines[0] if has_head else ["filename"]
    entries = [dict(zip(head, line, strict=False)) for line in lines[has_head:]]
    wanted = {_file_name(entry.get("filename", "")): entry.get("label") for entry in entries}
    if not wanted:
        raise root.error(f"{list_name} names no videos")
    if unknown := [name for name in wanted if name not in labels]:
        names = f"{len(unknown)} of its {len(wanted)} videos are not in labels.csv: {first(unknown)}"
        raise root.error(f"{list_name}: {names}")
    if other := [name for name, label in wanted.items() if label and LABELS.get(label) != labels[name]]:
        names = f"{len(other)} of its {len(wanted)} labels are not those of labels.csv: {first(other)}"
        raise root.error(f"{list_name}: {names}")
    return list(wanted)


def _file_name(name: str) -> str:
    """Return the name of a video's file, of a name with or without folder and suffix."""
    name = PurePosixPath(name).name
    return name if is_video(name) else f"{name}.mp4"


def _check_all_listed(root: Root, paths: Iterable[str], listed: Mapping[str, object], list_name: str) -> None:
    """Raise DatasetError for files whose names are not in a list."""
    unlisted = [path for path in paths if PurePosixPath(path).name not in listed]
    if unlisted:
        raise root.error(f"{list_name} does not name {first(unlisted)}")


def _row(
    video_id: str,
    uri: str,
    label: int,
    split: str,
    source: str,
    *,
    real_id: str | None = None,
    real_uri: str | None = None,
) -> dict:
    return row(
        "dfdc",
        video_id,
        uri,
        label=label,
        method=METHOD if label == tables.FAKE else "real",
        split=split,
        source_ids=[f"dfdc/{source}"],
        real_id=real_id,
        real_uri=real_uri,
    )
