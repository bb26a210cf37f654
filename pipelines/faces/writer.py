"""The folder of an extraction, as it is written. `extract` says which files it holds, `store` reads them.

Parts are written by many processes, each by the one that read the video. Processes that `extract` starts gather them
into faces files, each its own parts. All else is done by one process at a time, inside `claimed`. Every file appears
under its name by an atomic rename, and a part or faces file carries in its metadata what the ledger says about its
videos: so the files themselves say what is done, whenever a process is killed.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import tables
from pipelines.common.lease import Claim
from pipelines.common.storage import claim_of, locked, make_folder, to_disk, write_json, write_parquet, writing
from pipelines.faces import store
from pipelines.faces.detect import MISSING, predictor_digest
from pipelines.faces.files import reject
from pipelines.faces.recipe import FACES_VERSION, Recipe
from pipelines.faces.store import METADATA, ROWS_PER_GROUP
from pipelines.faces.video import VideoRows

log = logging.getLogger(__name__)

VIDEOS_PER_FILE = 256  # about 500 MB at 30 faces of 224 pixels
_THREADS = 8

_WITH_STATISTICS = ("video_id", "label", "method", "codec", "status", "frame_index", "face_index", "time_s")
_REPEATED = ("dataset", "video_id", "method", "codec", "status")  # few distinct values: stored as a dictionary


@contextmanager
def claimed(folder: Path, recipe: Recipe, predictor: Path | None) -> Iterator[Claim]:
    """Make the folder if need be, and hold it for this recipe and landmark predictor, and for this process alone.

    Waits while another process holds it. Yields what shows that it is still held.
    Raises ValueError when the folder cannot be written, or holds faces that were cut by another recipe, predictor or
    version.
    """
    with ExitStack() as held:
        try:
            make_folder(folder)
            try:
                lock = held.enter_context(locked(folder / ".lock", 0.0))
            except TimeoutError:
                log.warning("another process is extracting into %s: waiting until it is done", folder)
                lock = held.enter_context(locked(folder / ".lock"))
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{folder} cannot be written ({reason}): choose another folder") from error
        _check_recipe(folder, recipe, predictor)
        for name in ("parts", "faces", "index"):
            make_folder(folder / name)
        yield claim_of(lock)


def _check_recipe(folder: Path, recipe: Recipe, predictor: Path | None) -> None:
    """Write recipe.json, or raise ValueError when there is one that says something else.

    Without its landmark predictor nothing is extracted, as those who load it will say: then nothing is written here.
    """
    if (predictor_name := predictor_digest(predictor)) == MISSING:
        return
    asked = {
        "schema_version": tables.VERSION,
        "faces_version": FACES_VERSION,
        "recipe": asdict(recipe),
        "predictor": predictor_name,
    }
    path = folder / "recipe.json"
    if not path.exists():
        write_json(path, asked)
        return
    written = json.loads(path.read_text())
    if written != asked:
        old, new = _flat(written), _flat(asked)
        names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
        changed = ", ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in names)
        raise ValueError(f"{folder} was extracted otherwise ({changed}): use a new folder")


def _flat(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim.items() if name != "recipe"} | claim["recipe"]


def write_part(folder: Path, videos: Sequence[Mapping[str, Any]], results: Sequence[VideoRows]) -> None:
    """Write what was read of videos, one or more, into one file; `videos` are their rows of VIDEOS."""
    all_records = [
        {"copied": {name: video[name] for name in tables.COPIED}, "ledger": ledger}
        for video, (_, ledger) in zip(videos, results, strict=True)
    ]
    _write_file(folder, part_path(folder, videos), [faces for faces, _ in results], all_records)


def part_path(folder: Path, videos: Iterable[Mapping[str, Any]]) -> Path:
    """Return where the part of these videos lies."""
    return folder / "parts" / _file_name(video["video_id"] for video in videos)


def gather(folder: Path, parts: Sequence[str]) -> None:
    """Move parts, given by their names, into a faces file of their own: one for each split, sorted by video_id.

    May be killed and called again, or run twice at once. Parts that are gone are in faces files already.
    """
    paths = [path for name in parts if (path := folder / "parts" / name).exists()]
    every = store.scan(folder, paths)
    videos = every.filter(store.found(every["video_id"], every["video_id"]) == np.arange(every.num_rows))
    splits = videos["split"].unique().to_pylist()
    files = [folder / "faces" / f"split={split}" / _file_name(parts) for split in splits]
    try:
        for split, path in zip(splits, files, strict=True):
            if not path.exists():
                _move(folder, videos.filter(pc.equal(videos["split"], split)).sort_by("video_id"), path)
    except FileNotFoundError:
        if all(path.exists() for path in paths):
            raise
        return gather(folder, parts)  # another call was faster, and has removed a part
    moved = pc.is_in(every["video_id"], store.scan(folder, files)["video_id"])
    left = set(every.filter(pc.invert(moved))["file"].to_pylist())  # not seen by the call that wrote the file
    for file in every["file"].unique().to_pylist():
        if file not in left:
            (folder / file).unlink(missing_ok=True)


def _move(folder: Path, videos: pa.Table, path: Path) -> None:
    """Write the rows of videos, which lie in parts, into a faces file."""
    read = lru_cache(maxsize=16)(lambda part: pq.read_table(folder / part, partitioning=None).drop_columns("split"))
    rows = videos.to_pylist()
    all_records = [
        {
            "copied": {name: row[name] for name in tables.COPIED},
            "ledger": {name: row[name] for name in tables.LEDGER.names},
        }
        for row in rows
    ]
    _write_file(folder, path, (read(row["file"]).slice(row["first"], row["num_rows"]) for row in rows), all_records)


def tidy(folder: Path) -> pa.Table:
    """Remove what killed processes have left twice; return the `store.VIDEOS` that are there, in parts or in files."""
    # First of parts: those that a process gathers meanwhile, which lives on after a kill, are in a file before they go.
    parts = store.scan(folder, sorted(folder.glob("parts/*.parquet"))).sort_by("video_id")
    videos = store.compacted(folder)
    counts = videos["video_id"].value_counts()
    doubled = {count["values"].as_py() for count in counts.filter(pc.greater(counts.field("counts"), 1))}
    if doubled:
        _drop_doubles(folder, videos, doubled)
        videos = store.compacted(folder)
    waiting = parts.filter(pc.invert(pc.is_in(parts["video_id"], videos["video_id"])))
    useful = set(waiting["file"].unique().to_pylist())
    for file in parts["file"].unique().to_pylist():
        if file not in useful:
            (folder / file).unlink(missing_ok=True)
    return pa.concat_tables([videos, waiting])


def parts(folder: Path, videos: pa.Table) -> list[tuple[str, str, int]]:
    """Return the parts that `tidy` has found and that are there still: split, name, and number of videos of each."""
    within = videos.filter(pc.starts_with(videos["file"].cast(pa.string()), "parts/"))
    wanted = [("split", "min"), ("video_id", "count"), ("video_id", "min")]
    rows = within.group_by("file").aggregate(wanted).sort_by("video_id_min").to_pylist()
    there = [row for row in rows if (folder / row["file"]).exists()]
    return [(row["split_min"], Path(row["file"]).name, row["video_id_count"]) for row in there]


def _drop_doubles(folder: Path, videos: pa.Table, doubled: Collection[str]) -> None:
    """Leave each of these videos in one faces file, the largest that has it.

    Killed between its two steps, `forget` leaves a file and its copy without the forgotten videos: the copy goes.
    """
    files: dict[str, set[str]] = {}
    for row in videos.select(["video_id", "file"]).to_pylist():
        files.setdefault(row["file"], set()).add(row["video_id"])
    kept: set[str] = set()
    for file in sorted(files, key=lambda file: len(files[file]), reverse=True):
        if files[file] & kept:
            _take_out(folder, file, files[file] & kept)
        kept |= files[file] & set(doubled)


def forget(folder: Path, videos: pa.Table, video_ids: pa.ChunkedArray) -> None:
    """Take some of the `videos` that `tidy` has found out of their files, so that they can be read again."""
    hit = videos.filter(pc.is_in(videos["video_id"], video_ids)).select(["video_id", "file"]).to_pylist()
    if not hit:
        return
    reject(folder, video_ids)
    (folder / "_done.json").unlink(missing_ok=True)  # until they are back, the folder is not complete
    to_disk(folder)  # also after a power cut
    files: dict[str, set[str]] = {}
    for row in hit:
        files.setdefault(row["file"], set()).add(row["video_id"])
    for file, without in files.items():
        _take_out(folder, file, without)


def _take_out(folder: Path, file: str, video_ids: Collection[str]) -> None:
    """Write a faces file or part anew without some of its videos, and remove the old one."""
    path = folder / file
    all_records = store.records(path)
    kept = [record for record in all_records if record["ledger"]["video_id"] not in video_ids]
    if kept:
        groups = store.groups_of(all_records)
        names = [record["ledger"]["video_id"] for record in kept]
        opened = pq.ParquetFile(path)
        faces = (opened.read_row_groups(list(groups[name])) for name in names)
        _write_file(folder, path.with_name(_file_name(names)), faces, kept)
    path.unlink()
    store.rows_path(folder, file).unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Remove what killed writers have left under temporary names; none must be at work."""
    for pattern in (".*.tmp", "parts/.*.tmp", "index/split=*/.*.tmp", "faces/split=*/.*.tmp"):
        for temporary in folder.glob(pattern):
            temporary.unlink(missing_ok=True)


def finish(folder: Path, recipe: Recipe, videos: pa.Table) -> None:
    """Write ledger and index of the compacted videos, and last the marker without which readers refuse the folder.

    videos: as `tidy` returns them, none of them in a part.
    """
    with ThreadPoolExecutor(_THREADS) as pool:  # of files that were written before there was an index
        list(pool.map(partial(_index, folder), videos["file"].unique().to_pylist()))
    write_arrow(folder / store.INDEX, store.PLACES, store.places(videos).to_batches())
    ledger = videos.select(tables.LEDGER.names).sort_by("video_id").replace_schema_metadata(tables.LEDGER.metadata)
    write_parquet(folder / "ledger.parquet", ledger)
    counts = {count["values"]: count["counts"] for count in ledger["status"].value_counts().to_pylist()}
    summary = {
        "schema_version": tables.VERSION,
        "faces_version": FACES_VERSION,
        "recipe": asdict(recipe),
        "num_videos": ledger.num_rows,
        "num_faces": pc.sum(ledger["num_faces"], min_count=0).as_py(),
        "num_by_status": {status: counts.get(status, 0) for status in tables.STATUSES},
    }
    write_json(folder / "_done.json", summary)


def _index(folder: Path, file: str) -> None:
    """Write the ROWS of a faces file where they are not there."""
    if not store.rows_path(folder, file).exists():
        write_arrow(store.rows_path(folder, file), store.ROWS, store.rows_of(folder / file))


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an Arrow file, in which each batch lies in one piece."""
    with writing(path) as temporary, pa.ipc.new_file(temporary, schema) as file:
        for batch in batches:
            file.write_batch(batch)


def _file_name(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] + ".parquet"


def _write_file(folder: Path, path: Path, faces: Iterable[pa.Table], all_records: list[dict[str, Any]]) -> None:
    """Write a faces file or part; before it appears under its name, a faces file has its ROWS."""
    with writing(path) as temporary:
        _write_faces(temporary, faces, all_records)
        if path.parent.name.startswith("split="):
            split = path.parent.name.removeprefix("split=")
            rows = store.rows_of(temporary, split)
            write_arrow(store.rows_path(folder, str(path.relative_to(folder))), store.ROWS, rows)


def _write_faces(path: Path, faces: Iterable[pa.Table], all_records: list[dict[str, Any]]) -> None:
    """Write the rows of one video for each table and record, in row groups of their own.

    PNG is not compressed again. The columns by which one selects have statistics: any Parquet reader can skip the rest.
    """
    faces = iter(faces)
    first = next(faces)
    schema = first.schema.with_metadata({**tables.FACES.metadata, METADATA: json.dumps(all_records).encode()})
    options = {
        "compression": {name: "none" if name in store.PICTURES else "zstd" for name in schema.names},
        "use_dictionary": [name for name in _REPEATED if name in schema.names],
        "write_statistics": [name for name in _WITH_STATISTICS if name in schema.names],
    }
    with pq.ParquetWriter(path, schema, **options) as writer:
        for table in chain([first], faces):
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROWS_PER_GROUP)
