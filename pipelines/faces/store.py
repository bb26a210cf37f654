"""What an extraction left on disk, read without Ray. `extract` says which files there are, `writer` makes them.

A face is found without a search and read without its neighbours:

    index.arrow           PLACES: of each video, sorted by video_id, its faces file and its number in it. Mapped into
                          memory: opening it reads nothing, and processes of a node share what they have read
    index/split=<split>/<name>.arrow
                          ROWS of one faces file, a batch for each video: all that it holds but the pictures, and where
                          these lie in it

Pictures are not compressed by Parquet, so each is one range of bytes of its faces file. Folders of before have no
index; what it would say is then computed by each process that reads them, until the next extraction writes it down.
"""

import json
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, lru_cache
from itertools import accumulate, pairwise
from operator import methodcaller
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import storage, tables
from pipelines.common.bucket import SettledFile
from pipelines.common.storage import path_of
from pipelines.common.text import meant

# Key in the metadata of a faces file: JSON, an object for each video in order, {"copied": {...}, "ledger": {...}}
METADATA = b"videos"
INDEX = "index.arrow"
FAILED = ("unreadable", "crashed")  # statuses that may change when the file is repaired
ROWS_PER_GROUP = 16  # whose pictures lie one after the other in the file
PICTURES = ("image_png", "mask_png")
LIGHT = tuple(name for name in tables.FACES.names if name not in PICTURES)

_OPEN = 64  # faces files and their ROWS that a reader keeps open
_THREADS = 8  # that wait for footers
_FOOTERS = 32  # of which one table is made: each by itself would cost 30 kB

PLACES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("file", pa.dictionary(pa.int32(), pa.string()), nullable=False),  # below the folder
        pa.field("number", pa.int32(), nullable=False),  # among the videos of the file
    ]
)
ROWS = pa.schema(
    [
        *(tables.FACES.field(name) for name in LIGHT),
        *(pa.field(f"{name}_at", pa.int64()) for name in PICTURES),  # its first byte in the file; null: no picture
        *(pa.field(f"{name}_size", pa.int32()) for name in PICTURES),
    ]
)
# What footers of faces files and parts say of a video: what FACES copies of it, its LEDGER row, and its place.
VIDEOS = pa.schema(
    [
        *(tables.FACES.field(name) for name in tables.COPIED),
        *(field for field in tables.LEDGER if field.name != "video_id"),
        *(field for field in PLACES if field.name != "video_id"),
        pa.field("first", pa.int32(), nullable=False),  # of its rows in the file
        pa.field("num_rows", pa.int32(), nullable=False),
    ]
)


class ExtractionError(RuntimeError):
    """The extraction could not be completed; what is done so far is kept, and the next run goes on from there."""


class Faces:
    """Read access to an extracted folder, one video at a time.

    Files stay open once used, some of them. In a bucket, a file is taken to stay what it was when it was used first;
    another object may find it written anew, as its name tells its videos only. Pickles as its path. Raises ValueError
    for a folder without `_done.json`, or with another version of the tables.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = path_of(folder)
        done = self.folder / "_done.json"
        if not done.is_file():
            raise ValueError(f"{self.folder} holds no finished extraction (no _done.json): run the extraction again")
        self.summary: dict[str, Any] = json.loads(done.read_text())
        if self.summary["schema_version"] != tables.VERSION:
            raise ValueError(
                f"{self.folder} has schema version {self.summary['schema_version']}, "
                f"this code reads {tables.VERSION}: extract into a new folder"
            )
        self._places = places(compacted(self.folder)) if lacks_index(self.folder) else read_arrow(self.folder / INDEX)
        self._ids = self._places["video_id"].combine_chunks()
        self._stat = cache(methodcaller("stat"))
        self._rows = lru_cache(maxsize=_OPEN)(self._open_rows)
        self._file = lru_cache(maxsize=_OPEN)(lambda path: _open(path, self._stat(path)))

    def __reduce__(self) -> tuple[type["Faces"], tuple[Path]]:
        return Faces, (self.folder,)

    @cached_property
    def ledger(self) -> pa.Table:
        """The LEDGER table, sorted by video_id."""
        return ledger_table(self.folder)

    def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Return the FACES rows of one video, by face_index then frame_index; only `columns` if given.

        With `rows`, a range of step 1, only those of them are read and returned. Raises ValueError for an unknown
        video.
        """
        file, number = self.place(video_id)
        found = self._rows(file)(number)
        if rows is not None:
            found = found.slice(rows.start, len(rows))
        names = tables.FACES.names if columns is None else columns
        arrays = [self._pictures(file, found, name) if name in PICTURES else found[name] for name in names]
        schema = pa.schema([tables.FACES.field(name) for name in names], tables.FACES.metadata)
        return pa.Table.from_arrays(arrays, schema=schema)

    def place(self, video_id: str) -> tuple[str, int]:
        """Return a video's faces file and its number there. Raises ValueError if it is unknown."""
        number = bisect_left(range(len(self._ids)), video_id, key=lambda place: self._ids[place].as_py())
        if number == len(self._ids) or self._ids[number].as_py() != video_id:
            raise ValueError(f"{self.folder} has no video {video_id!r}; its ledger names the {len(self._ids)} it has")
        return self._places["file"][number].as_py(), self._places["number"][number].as_py()

    def _open_rows(self, file: str) -> Callable[[int], pa.RecordBatch]:
        """Return what returns the ROWS of a video by its number in a faces file."""
        known = rows_path(self.folder, file)
        try:
            at = self._stat(known)
        except FileNotFoundError:
            return rows_of(self.folder / file).__getitem__
        return pa.ipc.open_file(_open(storage.local(known, at), at)).get_batch

    def _pictures(self, file: str, rows: pa.RecordBatch, name: str) -> pa.Array:
        """Read the pictures of some rows of a file; those that lie side by side are read at once."""
        spans = list(zip(rows[f"{name}_at"].to_pylist(), rows[f"{name}_size"].to_pylist(), strict=True))
        there = [(at, at + size) for at, size in spans if at is not None]
        starts = [0, *(i for i, ((_, end), (at, _)) in enumerate(pairwise(there), 1) if at - end != _LENGTH.size)]
        data: dict[int, bytes] = {}  # by place
        for start, stop in pairwise([*starts, len(there)]) if there else ():
            begin = there[start][0]
            read = read_range(self._file(self.folder / file), begin, there[stop - 1][1] - begin)
            data |= {at: read[at - begin : end - begin] for at, end in there[start:stop]}
        return pa.array([None if at is None else data[at] for at, _ in spans], pa.binary())


# ------------------------------------------------------------------------------------------ bytes
_LENGTH = struct.Struct("<I")  # before each value of a Parquet column of bytes that is stored plainly


def _open(path: Path, at: Any) -> IO[bytes] | SettledFile:
    """Open a file of which single ranges will be read: nothing is to be read ahead. `at`: what its `stat` returned."""
    file = storage.opened(path, at)
    if hasattr(os, "posix_fadvise") and not isinstance(file, SettledFile):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def read_range(file: IO[bytes] | SettledFile, start: int, size: int) -> bytes:
    """Return so many bytes of a file. Raise OSError where it ends before."""
    if isinstance(file, SettledFile):
        return file.pread(size, start)
    data = os.pread(file.fileno(), size, start)
    if len(data) < size:
        raise OSError(f"{file.name} ends before byte {start + size}: it was cut off or replaced")
    return data


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow file into memory: nothing is read before it is looked at, and then no more than that."""
    with storage.local(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


# ---------------------------------------------------------------------------------------- indexes
def lacks_index(folder: Path) -> bool:
    """Say whether a folder is a finished extraction without an index, as those of before are."""
    return (folder / "_done.json").is_file() and not (folder / INDEX).is_file()


def rows_path(folder: Path, file: str) -> Path:
    """Return where the ROWS of a faces file are kept; `file` is its path below the folder."""
    return (folder / "index").joinpath(*Path(file).parts[1:]).with_suffix(".arrow")


def rows_of(path: Path, split: str | None = None) -> list[pa.RecordBatch]:
    """Return the ROWS of each video of a faces file, from the file itself; `split`: where its path does not say so.

    Raises ValueError where a picture is not where it should be: other code wrote the file.
    """
    file = pq.ParquetFile(path)
    light = file.read([name for name in LIGHT if name != "split"])
    split = path.parent.name.removeprefix("split=") if split is None else split
    columns = {name: light[name].combine_chunks() for name in light.column_names}
    columns["split"] = pa.array([split] * light.num_rows, pa.string())
    with path.open("rb") as raw:
        for name in PICTURES:
            spans = [span for group in range(file.num_row_groups) for span in _spans(file, group, name, raw)]
            columns[f"{name}_at"] = pa.array([at for at, _ in spans], pa.int64())
            columns[f"{name}_size"] = pa.array([size for _, size in spans], pa.int32())
    rows = pa.record_batch([columns[name] for name in ROWS.names], schema=ROWS)
    ends = pc.run_end_encode(rows["video_id"]).run_ends.to_pylist()  # of the videos
    return [rows.slice(start, stop - start) for start, stop in pairwise([0, *ends])]


def _spans(file: pq.ParquetFile, group: int, name: str, raw: IO[bytes]) -> Iterator[tuple[int | None, int | None]]:
    """Yield where each value of a column lies in the file: its first byte and its size; None, None for null.

    A group's values are one page that ends with its column: the values, each after its length.
    """
    values = file.read_row_group(group, [name])[name].to_pylist()
    metadata = file.metadata.row_group(group)
    (column,) = (column for i in range(metadata.num_columns) if (column := metadata.column(i)).path_in_schema == name)
    end = column.data_page_offset + column.total_compressed_size
    lengths = [0 if value is None else _LENGTH.size + len(value) for value in values]
    for value, behind in zip(values, accumulate(lengths, initial=-sum(lengths)), strict=False):
        if value is None:
            yield None, None
            continue
        raw.seek(max(0, end + behind))
        if raw.read(_LENGTH.size + 8) != _LENGTH.pack(len(value)) + value[:8]:
            raise ValueError(f"{file.metadata.created_by} stored {name} otherwise than this code reads it: {raw.name}")
        yield end + behind + _LENGTH.size, len(value)


def places(videos: pa.Table) -> pa.Table:
    """Return the PLACES of a table of `scan`, sorted by video_id."""
    return videos.select(PLACES.names).sort_by("video_id").combine_chunks().unify_dictionaries()


# ---------------------------------------------------------------------------------------- folders
def finished(name: str, storage: Path) -> list[Path]:
    """Return the folders of finished extractions that a name means, the newest first.

    name: a dataset of which the storage has faces, or the folder itself. Raises ValueError, which says what there is,
    where it is neither.
    """
    done = (storage / "faces" / name).glob("*/_done.json")
    if found := [path.parent for path in sorted(done, key=lambda path: path.stat().st_mtime, reverse=True)]:
        return found
    if path_of(name).is_dir():
        return [path_of(name)]
    there = sorted({path.parents[1].name for path in storage.glob("faces/*/*/_done.json")})
    guess = meant(name, there, f"it has {', '.join(there) or 'none'}")
    neither = f"{name} is neither the folder of an extraction nor a dataset of which {storage} has faces"
    raise ValueError(f"{neither}; {guess}")


def compacted(folder: Path) -> pa.Table:
    """Return the VIDEOS in the faces files of a folder, finished or not."""
    return scan(folder, sorted(folder.glob("faces/split=*/*.parquet")))


def scan(folder: Path, paths: Iterable[Path]) -> pa.Table:
    """Return the VIDEOS in these faces files or parts of a folder, file by file; only the footers are read.

    Those that are removed meanwhile are left out.
    """
    paths = list(paths)
    groups = [paths[start : start + _FOOTERS] for start in range(0, len(paths), _FOOTERS)]

    def read(group: list[Path]) -> pa.Table:
        return pa.Table.from_pylist([row for path in group for row in _videos_in(folder, path)], schema=VIDEOS)

    with ThreadPoolExecutor(_THREADS) as pool:
        return pa.concat_tables([VIDEOS.empty_table(), *pool.map(read, groups)])


def _videos_in(folder: Path, path: Path) -> list[dict[str, Any]]:
    try:
        all_records = records(path)
    except FileNotFoundError:
        return []
    sizes = [max(1, record["ledger"]["num_faces"]) for record in all_records]  # without faces, one row that says so
    file = path.relative_to(folder).as_posix()
    return [
        {"source": None}
        | record["copied"]
        | record["ledger"]
        | {"file": file, "number": number, "first": first, "num_rows": num_rows}
        for number, (record, first, num_rows) in enumerate(
            zip(all_records, accumulate(sizes, initial=0), sizes, strict=False)
        )
    ]


def records(path: Path) -> list[dict[str, Any]]:
    """Return what the footer of a faces file or part says of its videos, in their order: see `METADATA`."""
    return json.loads(pq.read_schema(storage.ranged(path)).metadata[METADATA])


def groups_of(all_records: Sequence[dict[str, Any]]) -> dict[str, range]:
    """Return video_id -> its row groups in the file with these records: full ones, then one with the rest."""
    numbers = [max(1, -(-record["ledger"]["num_faces"] // ROWS_PER_GROUP)) for record in all_records]
    starts = pairwise(accumulate(numbers, initial=0))
    return {record["ledger"]["video_id"]: range(*of) for record, of in zip(all_records, starts, strict=True)}


def ledger(folder: Path) -> dict[str, dict[str, Any]]:
    """Return video_id -> LEDGER row, without `source`, of a finished extraction; empty where there is none."""
    names = [name for name in tables.LEDGER.names if name != "source"]
    return {row["video_id"]: row for row in ledger_table(folder, names).to_pylist()}


def ledger_table(folder: Path, columns: Sequence[str] = tuple(tables.LEDGER.names)) -> pa.Table:
    """Return columns of LEDGER of a finished extraction; no rows where there is none."""
    if not (folder / "_done.json").exists():
        return tables.LEDGER.empty_table().select(columns)
    return pq.read_table(folder / "ledger.parquet", schema=tables.LEDGER, columns=list(columns))


def found(ids: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Return for each id its row in another column, -1 where it is not there; the first of several."""
    return np.asarray(pc.fill_null(pc.index_in(ids, among), -1))
