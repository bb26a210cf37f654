"""What an extraction left on disk, read without Ray. `extract` says which files there are, `writer` makes them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common import tables

# Key in the metadata of a faces file: JSON, an object for each video in order, {"copied": {...}, "ledger": {...}}
METADATA = b"videos"
FAILED = ("unreadable", "crashed")  # statuses that may change when the file is repaired
ROWS_PER_GROUP = 16  # about 1 MB at 224 pixels: what is read for the sake of one face


class ExtractionError(RuntimeError):
    """The extraction could not be completed; what is done so far is kept, and the next run goes on from there."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """Where a video's rows lie, and what was recorded about it."""

    path: Path
    row_groups: range  # full ones of ROWS_PER_GROUP rows, then one with the rest
    copied: dict[str, Any]  # columns of VIDEOS
    ledger: dict[str, Any]  # LEDGER row

    @property
    def source(self) -> Mapping[str, Any]:
        """What the rows were made from, as far as it was recorded: LEDGER.source, or of old files `copied`."""
        return self.ledger["source"] or self.copied


class Faces:
    """Read access to an extracted folder, one video at a time.

    `ledger` is the LEDGER table, `index` maps a video_id to its file and row groups. Files stay open once used.
    Pickles as its path. Raises ValueError for a folder without `_done.json`, or with another version of the tables.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        done = self.folder / "_done.json"
        if not done.is_file():
            raise ValueError(f"{self.folder} holds no finished extraction (no _done.json): run the extraction again")
        self.summary: dict[str, Any] = json.loads(done.read_text())
        if self.summary["schema_version"] != tables.VERSION:
            raise ValueError(
                f"{self.folder} has schema version {self.summary['schema_version']}, "
                f"this code reads {tables.VERSION}: extract into a new folder"
            )
        self.ledger = pq.read_table(self.folder / "ledger.parquet", schema=tables.LEDGER)
        self.index = {name: (at.path, at.row_groups) for name, at in compacted(self.folder).items()}
        self._files: dict[Path, pq.ParquetFile] = {}

    def __reduce__(self) -> tuple[type["Faces"], tuple[Path]]:
        return Faces, (self.folder,)

    def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Return the FACES rows of one video, by face_index then frame_index; only `columns` if given.

        With `rows`, a range of step 1, only those of them are read and returned. Raises ValueError for an unknown
        video.
        """
        if video_id not in self.index:
            raise ValueError(f"{self.folder} has no video {video_id!r}; its ledger names the {len(self.index)} it has")
        path, groups = self.index[video_id]
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path, memory_map=True)
        names = list(columns) if columns is not None else tables.FACES.names
        first = 0
        if rows is not None:
            first, last = rows.start // ROWS_PER_GROUP, (rows.stop - 1) // ROWS_PER_GROUP
            groups = groups[first : last + 1]
        table = self._files[path].read_row_groups(list(groups), columns=[name for name in names if name != "split"])
        if rows is not None:
            table = table.slice(rows.start - first * ROWS_PER_GROUP, len(rows))
        split = pa.array([path.parent.name.removeprefix("split=")] * table.num_rows, pa.string())
        arrays = [split if name == "split" else table[name] for name in names]
        schema = pa.schema([tables.FACES.field(name) for name in names], tables.FACES.metadata)
        return pa.Table.from_arrays(arrays, schema=schema)


def finished(name: str, storage: Path) -> list[Path]:
    """Return the folders of finished extractions that a name means, the newest first.

    name: a dataset of which the storage has faces, or the folder itself. Raises ValueError, which says what there is,
    where it is neither.
    """
    done = (storage / "faces" / name).glob("*/_done.json")
    if found := [path.parent for path in sorted(done, key=lambda path: path.stat().st_mtime, reverse=True)]:
        return found
    if Path(name).is_dir():
        return [Path(name)]
    there = sorted({path.parents[1].name for path in storage.glob("faces/*/*/_done.json")})
    raise ValueError(
        f"{name} is neither the folder of an extraction nor a dataset of which {storage} has faces; it has "
        f"{', '.join(there) or 'none'}"
    )


def compacted(folder: Path) -> dict[str, Extracted]:
    """Return video_id -> where it is, for the videos in the faces files of a folder, finished or not."""
    return scan(sorted(folder.glob("faces/split=*/*.parquet")))


def scan(paths: Iterable[Path]) -> dict[str, Extracted]:
    """Return video_id -> where it is, for the videos in these faces files; only the files' footers are read."""
    videos = {}
    for path in paths:
        first = 0
        for record in json.loads(pq.read_schema(path).metadata[METADATA]):
            num_rows = max(1, record["ledger"]["num_faces"])  # a video without faces has one row that says so
            groups = range(first, first - (-num_rows // ROWS_PER_GROUP))
            row = {"source": None} | record["ledger"]
            videos[row["video_id"]] = Extracted(path, groups, record["copied"], row)
            first = groups.stop
    return videos


def ledger(folder: Path) -> dict[str, dict[str, Any]]:
    """Return video_id -> LEDGER row, without `source`, of a finished extraction; empty where there is none."""
    names = [name for name in tables.LEDGER.names if name != "source"]
    return {row["video_id"]: row for row in ledger_table(folder, names).to_pylist()}


def sources(folder: Path) -> dict[str, dict[str, Any] | None]:
    """Return video_id -> LEDGER.source of a finished extraction; empty where there is none."""
    table = ledger_table(folder, ["video_id", "source"])
    return dict(zip(table["video_id"].to_pylist(), table["source"].to_pylist(), strict=True))


def ledger_table(folder: Path, columns: Sequence[str] = tuple(tables.LEDGER.names)) -> pa.Table:
    """Return columns of LEDGER of a finished extraction; no rows where there is none."""
    if not (folder / "_done.json").exists():
        return tables.LEDGER.empty_table().select(columns)
    return pq.read_table(folder / "ledger.parquet", schema=tables.LEDGER, columns=list(columns))
