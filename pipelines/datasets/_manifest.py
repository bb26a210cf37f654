"""Your own videos, listed in a .csv or .parquet file with one row for each, under any name in datasets.toml.

    path       below the folder that the file lies in, with `/`; or of a file on this machine also a whole path, from
               `/` on; required. A video file, a folder of pictures, or a folder inside a tar archive such as
               clips.tar.gz/clips/7; or one picture, in an archive or not
    label      real or fake, or 0 or 1; required
    split      train, val or test; default: test
    method     of a fake, the name of what made it; default: the dataset's name
    codec      raw, c23, c40 or unknown; default: unknown, which belongs to every compression
    person     who or what it is made from, several with `;` between them; default: that of `real`, else the video
               itself. Who is in training is left out of tests, so that it pays to fill this in
    mask       path of a mask video of a fake
    real       path of a fake's real counterpart, frame by frame; a row of this file too
    face_rule  which faces count: largest (default), mask, all, whole; see tables.VIDEOS

Other columns are ignored. A video that is listed but missing keeps its row. video_id: `<name>/<path without suffix>`,
of a whole path without its first `/`.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import tables
from pipelines.datasets._root import DatasetError, Root, is_remote, parent, row

SUFFIXES = (".csv", ".parquet")
REQUIRED = ("path", "label")
LABELS = {"real": tables.REAL, "0": tables.REAL, "fake": tables.FAKE, "1": tables.FAKE}
CODECS = ("raw", "c23", "c40", "unknown")
BATCH = 10_000  # rows at a time that are Python objects: a million take gigabytes, in Arrow a tenth of that
LISTED = pa.schema(
    [
        *tables.VIDEOS,
        pa.field("place", pa.string(), nullable=False),  # in the file, for errors
        pa.field("counterpart", pa.string()),  # path of a fake's real counterpart
        pa.field("names_people", pa.bool_(), nullable=False),
    ],
    metadata=tables.VIDEOS.metadata,
)
_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}")  # of a file; not that of a folder such as clip.07

Line = Mapping[str, str]


def is_manifest(root: str) -> bool:
    """Say whether a root is a manifest, by its name."""
    return root.lower().endswith(SUFFIXES)


def videos(name: str, uri: str) -> pa.Table:
    """Return VIDEOS, a row for every row of the manifest. Raise DatasetError, which names the line and what to do."""
    listed = _listed(name, uri)
    _check_once(uri, listed)
    return _paired(uri, listed).sort_by("video_id")


def _listed(name: str, uri: str) -> pa.Table:
    """Return `LISTED`, a row for every row of the manifest, in its order."""
    lines, parts = _read(name, uri), []
    while batch := list(islice(lines, BATCH)):
        parts.append(tables.to_table([_row(name, uri, place, line) for place, line in batch], LISTED))
    if not parts:
        raise DatasetError(f"{uri} lists no videos")
    return pa.concat_tables(parts).combine_chunks()


def _row(name: str, uri: str, place: str, line: Line) -> dict:
    """Return a row of `LISTED`; what it takes from its real counterpart is not filled in."""
    where = f"{uri}, {place}"
    local = not is_remote(uri)
    path = _path(where, line, "path", local)
    label = LABELS[_choice(where, line, "label", tuple(LABELS))]
    method = line.get("method", "") or ("real" if label == tables.REAL else name)
    if (method == "real") != (label == tables.REAL):
        raise DatasetError(f"{where}: method of a {'real' if label == tables.REAL else 'fake'} video is {method!r}")
    pure = PurePosixPath(path.lstrip("/"))
    video_id = f"{name}/{pure.with_suffix('') if _SUFFIX.fullmatch(pure.suffix) else pure}"
    people = [person.strip() for person in line.get("person", "").split(";") if person.strip()]
    own = row(
        name,
        video_id,
        path,
        label=label,
        method=method,
        codec=_choice(where, line, "codec", CODECS, "unknown"),
        split=_choice(where, line, "split", tables.SPLITS, "test"),
        source_ids=[f"{name}/{person}" for person in people] or [video_id],
        mask_uri=_path(where, line, "mask", local) if line.get("mask") else None,
        face_rule=_choice(where, line, "face_rule", tables.FACE_RULES, "largest"),
    )
    return own | {"place": place, "counterpart": _counterpart(where, line, label, local), "names_people": bool(people)}


def _counterpart(where: str, line: Line, label: int, local: bool) -> str | None:
    """Return the path of a fake's real counterpart, where it has one."""
    for column in ("real", "mask"):
        if line.get(column) and label == tables.REAL:
            raise DatasetError(f"{where}: a real video has no {column!r}; leave it empty")
    return _path(where, line, "real", local) if line.get("real") else None


def _check_once(uri: str, listed: pa.Table) -> None:
    """Raise DatasetError for a video that is listed twice, or differs from another in no more than its suffix."""
    if pc.count_distinct(listed["video_id"]).as_py() == len(listed):
        return
    others: dict[str, str] = {}
    for video_id, path, place in zip(*(listed[name].to_pylist() for name in ("video_id", "uri", "place")), strict=True):
        if others.get(video_id) == path:
            raise DatasetError(f"{uri}, {place}: {path} is listed twice")
        if video_id in others:
            other = others[video_id]
            what = "suffix" if path.startswith("/") == other.startswith("/") else "first /"
            raise DatasetError(f"{uri}, {place}: {path} and {other} differ in their {what} only; rename one")
        others[video_id] = path


def _paired(uri: str, listed: pa.Table) -> pa.Table:
    """Return VIDEOS with what fakes take from their real counterparts: id, path, and people where none are named."""
    at = pc.index_in(listed["counterpart"], value_set=listed["uri"].combine_chunks())
    is_real = pc.fill_null(pc.equal(listed["label"].take(at), tables.REAL), False)
    wrong = listed.append_column("at", at).filter(pc.and_not(listed["counterpart"].is_valid(), is_real)).slice(0, 1)
    for fake in wrong.to_pylist():
        why = "there is no such row" if fake["at"] is None else "that one is a fake"
        raise DatasetError(
            f"{uri}, {fake['place']}: real must be the path of a real video of this file, "
            f"got {fake['counterpart']!r}; {why}"
        )
    own = pa.array(np.arange(len(listed)), at.type)
    people = pc.if_else(listed["names_people"], own, pc.coalesce(at, own))
    found = {
        "real_uri": listed["counterpart"],
        "real_id": listed["video_id"].take(at),
        "source_ids": listed["source_ids"].take(people),
    }
    return pa.table([found.get(column, listed[column]) for column in tables.VIDEOS.names], schema=tables.VIDEOS)


def _choice(where: str, line: Line, column: str, allowed: tuple[str, ...], default: str = "") -> str:
    value = line.get(column, "").lower() or default
    if value not in allowed:
        raise DatasetError(f"{where}: {column} must be one of {', '.join(allowed)}; got {line.get(column, '')!r}")
    return value


def _path(where: str, line: Line, column: str, local: bool) -> str:
    """Return a file's path; where the list is `local`, on this machine, it may be a whole one."""
    text = line.get(column, "")
    whole = text.startswith("/")
    path = PurePosixPath(text.lstrip("/"))
    if not path.parts or ".." in path.parts or "\\" in text or ":" in path.parts[0] or (whole and not local):
        also = " or a whole path such as /data/0001.mp4," if local else ""
        todo = "; a list of files in a bucket must lie in that bucket, above them" if "://" in text else ""
        raise DatasetError(
            f"{where}: {column} must be a path below the folder of this file such as videos/0001.mp4,{also} "
            f"with / and without ..; got {text!r}{todo}"
        )
    return f"/{path}" if whole else str(path)


def _read(name: str, uri: str) -> Iterator[tuple[str, Line]]:
    """Yield (where it stands, {column: text without spaces around it}) for each row."""
    file_name = PurePosixPath(uri).name
    with Root(name, parent(uri), f"    {file_name}").open(file_name) as file:
        data = file.read()
    lines = _csv_lines(uri, data) if uri.lower().endswith(".csv") else _parquet_lines(uri, data)
    for number, (place, line) in enumerate(lines):
        missing = [column for column in REQUIRED if column not in line]
        if missing and not number:
            raise DatasetError(
                f"{uri} must have the columns path and label, named in its first line; lacks {missing}, "
                f"found {list(line)}: in small letters, with commas between them"
            )
        yield place, {column: _text(value) for column, value in line.items()}


def _csv_lines(uri: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    reader = csv.DictReader(text, skipinitialspace=True, strict=True)
    try:
        for line in reader:
            if None in line:
                raise DatasetError(f"{uri}, line {reader.line_num} has more fields than the first line; quote commas")
            yield f"line {reader.line_num}", line
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri} is not UTF-8 text ({error.reason}) after line {reader.line_num}") from error
    except csv.Error as error:
        raise DatasetError(f"{uri} is not CSV after line {reader.line_num}: {error}") from error


def _parquet_lines(uri: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(BATCH):
            for line in batch.to_pylist():
                number += 1
                yield f"row {number}", line
    except pa.ArrowException as error:
        raise DatasetError(f"{uri} is not a Parquet file: {error}") from error


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
