"""What an extraction left on disk, read without Ray."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schemas

METADATA = b"videos"  # of a faces file: JSON, one object for each row group, {"copied": {...}, "ledger": {...}}


@dataclass(frozen=True, slots=True)
class Extracted:
    """Where a video's rows lie, and what was recorded about it."""

    path: Path
    row_group: int
    copied: dict[str, Any]
    ledger: dict[str, Any]


class Faces:
    """Read access to an extracted folder, one video at a time.

    `ledger` is a table of schemas.LEDGER, `index` maps a video_id to its file and row group. Files stay open
    once used. Pickles as its path. Raises ValueError for a folder without `_done.json`, or of another schema.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        done = self.folder / "_done.json"
        if not done.is_file():
            raise ValueError(f"{self.folder} holds no finished extraction (no _done.json): run the extraction again")
        self.summary: dict[str, Any] = json.loads(done.read_text())
        if self.summary["schema_version"] != schemas.VERSION:
            raise ValueError(
                f"{self.folder} has schema version {self.summary['schema_version']}, "
                f"this code reads {schemas.VERSION}: extract into a new folder"
            )
        self.ledger = pq.read_table(self.folder / "ledger.parquet", schema=schemas.LEDGER)
        self.index = {name: (at.path, at.row_group) for name, at in compacted(self.folder).items()}
        self._files: dict[Path, pq.ParquetFile] = {}

    def __reduce__(self) -> tuple[type["Faces"], tuple[Path]]:
        return Faces, (self.folder,)

    def video(self, video_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The FACES rows of one video, by face_index then frame_index; only `columns` if given."""
        if video_id not in self.index:
            raise ValueError(f"{self.folder} has no video {video_id!r}; its ledger names the {len(self.index)} it has")
        path, row_group = self.index[video_id]
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path, memory_map=True)
        names = list(columns) if columns is not None else schemas.FACES.names
        table = self._files[path].read_row_group(row_group, columns=[name for name in names if name != "split"])
        split = pa.array([path.parent.name.removeprefix("split=")] * table.num_rows, pa.string())
        arrays = [split if name == "split" else table[name] for name in names]
        schema = pa.schema([schemas.FACES.field(name) for name in names], schemas.FACES.metadata)
        return pa.Table.from_arrays(arrays, schema=schema)


def compacted(folder: Path) -> dict[str, Extracted]:
    return scan(sorted(folder.glob("faces/split=*/*.parquet")))


def scan(paths: Iterable[Path]) -> dict[str, Extracted]:
    """video_id -> where it is, from the files' footers."""
    found = {}
    for path in paths:
        for row_group, record in enumerate(json.loads(pq.read_schema(path).metadata[METADATA])):
            found[record["ledger"]["video_id"]] = Extracted(path, row_group, record["copied"], record["ledger"])
    return found


def ledger(folder: Path) -> dict[str, dict[str, Any]]:
    """video_id -> LEDGER row of a finished extraction; empty where there is none."""
    if not (folder / "_done.json").exists():
        return {}
    return {row["video_id"]: row for row in pq.read_table(folder / "ledger.parquet", schema=schemas.LEDGER).to_pylist()}
