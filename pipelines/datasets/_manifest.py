"""Your own videos, listed in a .csv or .parquet file with one row for each, under any name in datasets.toml.

    path       below the folder that the file lies in, with `/`; required. A video file, a folder of pictures, or a
               folder inside a tar archive such as clips.tar.gz/clips/7; or one picture, in an archive or not
    label      real or fake, or 0 or 1; required
    split      train, val or test; default: test
    method     of a fake, the name of what made it; default: the dataset's name
    codec      raw, c23, c40 or unknown; default: unknown, which belongs to every compression
    person     who or what it is made from, several with `;` between them; default: that of `real`, else the video
               itself. Who is in training is left out of tests, so that it pays to fill this in
    mask       path of a mask video of a fake
    real       path of a fake's real counterpart, frame by frame; a row of this file too
    face_rule  which faces count: largest (default), mask, all, whole; see tables.VIDEOS

Other columns are ignored. A video that is listed but missing keeps its row. video_id: `<name>/<path without suffix>`.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common import tables
from pipelines.datasets._root import DatasetError, Root, by_id, parent, row

SUFFIXES = (".csv", ".parquet")
REQUIRED = ("path", "label")
LABELS = {"real": tables.REAL, "0": tables.REAL, "fake": tables.FAKE, "1": tables.FAKE}
CODECS = ("raw", "c23", "c40", "unknown")
_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}")  # of a file; not that of a folder such as clip.07

Line = Mapping[str, str]


def is_manifest(root: str) -> bool:
    """Say whether a root is a manifest, by its name."""
    return root.lower().endswith(SUFFIXES)


def videos(name: str, uri: str) -> list[dict]:
    """Return a row of VIDEOS for every row of the manifest. Raise DatasetError, which names the line and what to do."""
    lines = list(_read(name, uri))
    if not lines:
        raise DatasetError(f"{uri} lists no videos")
    rows: dict[str, dict] = {}  # by uri
    ids: dict[str, str] = {}
    for place, line in lines:
        made = _row(name, place, line)
        if made["uri"] in rows:
            raise DatasetError(f"{place}: {made['uri']} is listed twice")
        if made["video_id"] in ids:
            raise DatasetError(
                f"{place}: {made['uri']} and {ids[made['video_id']]} differ in their suffix only; rename one"
            )
        rows[made["uri"]], ids[made["video_id"]] = made, made["uri"]
    for place, line in lines:
        _pair(rows[_path(place, line, "path")], rows, place, line)
    return by_id(rows.values())


def _row(name: str, place: str, line: Line) -> dict:
    path = _path(place, line, "path")
    label = LABELS[_choice(place, line, "label", tuple(LABELS))]
    method = line.get("method", "") or ("real" if label == tables.REAL else name)
    if (method == "real") != (label == tables.REAL):
        raise DatasetError(f"{place}: method of a {'real' if label == tables.REAL else 'fake'} video is {method!r}")
    pure = PurePosixPath(path)
    video_id = f"{name}/{pure.with_suffix('') if _SUFFIX.fullmatch(pure.suffix) else pure}"
    people = [person.strip() for person in line.get("person", "").split(";") if person.strip()]
    return row(
        name,
        video_id,
        path,
        label=label,
        method=method,
        codec=_choice(place, line, "codec", CODECS, "unknown"),
        split=_choice(place, line, "split", tables.SPLITS, "test"),
        source_ids=[f"{name}/{person}" for person in people] or [video_id],
        mask_uri=_path(place, line, "mask") if line.get("mask") else None,
        face_rule=_choice(place, line, "face_rule", tables.FACE_RULES, "largest"),
    )


def _pair(fake: dict, rows: Mapping[str, dict], place: str, line: Line) -> None:
    """Add to a fake's row what its real counterpart tells: `real_id`, `real_uri`, and people where none are named."""
    for column in ("real", "mask"):
        if line.get(column) and fake["label"] == tables.REAL:
            raise DatasetError(f"{place}: a real video has no {column!r}; leave it empty")
    if not line.get("real"):
        return
    path = _path(place, line, "real")
    if path not in rows or rows[path]["label"] != tables.REAL:
        why = "that one is a fake" if path in rows else "there is no such row"
        raise DatasetError(f"{place}: real must be the path of a real video of this file, got {path!r}; {why}")
    fake["real_uri"], fake["real_id"] = path, rows[path]["video_id"]
    if not line.get("person"):
        fake["source_ids"] = rows[path]["source_ids"]


def _choice(place: str, line: Line, column: str, allowed: tuple[str, ...], default: str = "") -> str:
    value = line.get(column, "").lower() or default
    if value not in allowed:
        raise DatasetError(f"{place}: {column} must be one of {', '.join(allowed)}; got {line.get(column, '')!r}")
    return value


def _path(place: str, line: Line, column: str) -> str:
    text = line.get(column, "")
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in text or ":" in path.parts[0]:
        raise DatasetError(
            f"{place}: {column} must be a path below the folder of this file, with / and without .., "
            f"such as videos/0001.mp4; got {text!r}"
        )
    return str(path)


def _read(name: str, uri: str) -> Iterator[tuple[str, Line]]:
    """Yield (where it stands, {column: text without spaces around it}) for each row."""
    file_name = PurePosixPath(uri).name
    with Root(name, parent(uri), f"    {file_name}").open(file_name) as file:
        data = file.read()
    lines = _csv_lines(uri, data) if uri.lower().endswith(".csv") else _parquet_lines(uri, data)
    for number, (place, line) in enumerate(lines):
        missing = [column for column in REQUIRED if column not in line]
        if missing and not number:
            raise DatasetError(f"{uri} must have the columns path and label, named in its first line; lacks {missing}")
        yield place, {column: _text(value) for column, value in line.items()}


def _csv_lines(uri: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True, strict=True)
        for line in reader:
            if None in line:
                raise DatasetError(f"{uri}, line {reader.line_num} has more fields than the first line; quote commas")
            yield f"{uri}, line {reader.line_num}", line
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise DatasetError(f"{uri} is not CSV after line {reader.line_num}: {error}") from error


def _parquet_lines(uri: str, data: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except pa.ArrowException as error:
        raise DatasetError(f"{uri} is not a Parquet file: {error}") from error
    for number, line in enumerate(rows, start=1):
        yield f"{uri}, row {number}", line


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
