"""The folder of an extraction, as it is written. `extract` says which files it holds, `store` reads them.

Parts are written by many processes, each by the one that read the video. All else is done by one process at a time,
inside `claimed`. Every file appears under its name by an atomic rename, and a part or faces file carries in its
metadata what the ledger says about its videos: so the files themselves say what is done, whenever a process is killed.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common import tables
from pipelines.common.storage import make_folder, to_disk, write_json, write_parquet, writing
from pipelines.faces.detect import MISSING, predictor_digest
from pipelines.faces.recipe import FACES_VERSION, Recipe
from pipelines.faces.store import METADATA, ROWS_PER_GROUP, Extracted, compacted, scan
from pipelines.faces.video import VideoRows

log = logging.getLogger(__name__)

VIDEOS_PER_FILE = 256  # about 500 MB at 30 faces of 224 pixels

_WITH_STATISTICS = ("video_id", "label", "method", "codec", "status", "frame_index", "face_index", "time_s")
_REPEATED = ("dataset", "video_id", "method", "codec", "status")  # few distinct values: stored as a dictionary
_PNG = ("image_png", "mask_png")


@contextmanager
def claimed(folder: Path, recipe: Recipe, predictor: Path | None) -> Iterator[None]:
    """Make the folder if need be, and hold it for this recipe and landmark predictor, and for this process alone.

    Waits while another process holds it. Raises ValueError when the folder cannot be written, or holds faces that
    were cut by another recipe, predictor or version.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        make_folder(folder)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.warning("another process is extracting into %s: waiting until it is done", folder)
            lock.acquire()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    try:
        _check_recipe(folder, recipe, predictor)
        for name in ("parts", "faces"):
            make_folder(folder / name)
        yield
    finally:
        lock.release()


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
    records = [
        {"copied": {name: video[name] for name in tables.COPIED}, "ledger": ledger}
        for video, (_, ledger) in zip(videos, results, strict=True)
    ]
    name = _file_name(video["video_id"] for video in videos)
    _write_faces(folder / "parts" / name, [faces for faces, _ in results], records)


def parts(folder: Path) -> dict[str, Extracted]:
    """Return video_id -> where it is, for the parts."""
    return scan(folder.glob("parts/*.parquet"))


def forget(folder: Path, video_ids: Collection[str]) -> None:
    """Take those of the videos that are in the files out of them, so that they can be read again."""
    paths = sorted([*folder.glob("faces/split=*/*.parquet"), *folder.glob("parts/*.parquet")])
    hit = {path: here for path in paths if not (here := scan([path])).keys().isdisjoint(video_ids)}
    if not hit:
        return
    (folder / "_done.json").unlink(missing_ok=True)  # until they are back, the folder is not complete
    to_disk(folder)  # also after a power cut
    for path, here in hit.items():
        kept = [name for name in here if name not in video_ids]
        if kept:
            file = pq.ParquetFile(path)
            faces = (file.read_row_groups(list(here[name].row_groups)) for name in kept)
            records = [{"copied": here[name].copied, "ledger": here[name].ledger} for name in kept]
            _write_faces(path.with_name(_file_name(kept)), faces, records)
        path.unlink()


def compact(folder: Path) -> None:
    """Move the parts into faces files: by split, sorted by video_id, `VIDEOS_PER_FILE` to a file."""
    _drop_doubles(folder)
    known = compacted(folder)
    paths = sorted(folder.glob("parts/*.parquet"))
    waiting = {name: at for name, at in scan(paths).items() if name not in known}
    for split in sorted({at.copied["split"] for at in waiting.values()}):
        names = sorted(name for name, at in waiting.items() if at.copied["split"] == split)
        for start in range(0, len(names), VIDEOS_PER_FILE):
            some = [waiting[name] for name in names[start : start + VIDEOS_PER_FILE]]
            records = [{"copied": at.copied, "ledger": at.ledger} for at in some]
            name = _file_name(at.copied["video_id"] for at in some)
            _write_faces(folder / "faces" / f"split={split}" / name, _rows_of(some), records)
    for path in paths:
        path.unlink()
    for pattern in (".*.tmp", "parts/.*.tmp", "faces/split=*/.*.tmp"):  # of killed writers
        for temporary in folder.glob(pattern):
            temporary.unlink(missing_ok=True)


def _rows_of(videos: Iterable[Extracted]) -> Iterator[pa.Table]:
    """Yield the rows of each video in its part, without the column `split`. A part is read whole: at most some MB."""
    path: Path | None = None
    for at in videos:
        if path != at.path:
            path, part = at.path, pq.ParquetFile(at.path)
            rows = part.read().drop_columns("split")
            sizes = [part.metadata.row_group(number).num_rows for number in range(part.num_row_groups)]
        first = sum(sizes[: at.row_groups.start])
        yield rows.slice(first, sum(sizes[at.row_groups.start : at.row_groups.stop]))


def _drop_doubles(folder: Path) -> None:
    """Remove faces files all of whose videos are in others.

    Killed between its two steps, `forget` leaves a file and its copy without the forgotten videos: the copy goes.
    """
    files = {path: list(scan([path])) for path in folder.glob("faces/split=*/*.parquet")}
    copies = Counter(name for names in files.values() for name in names)
    for path in sorted(files, key=lambda path: len(files[path])):
        if all(copies[name] > 1 for name in files[path]):
            copies.subtract(files[path])
            path.unlink()


def finish(folder: Path, recipe: Recipe, known: Mapping[str, Extracted]) -> None:
    """Write the ledger of the compacted videos, and last the marker without which readers refuse the folder."""
    ledger = tables.to_table([known[video_id].ledger for video_id in sorted(known)], tables.LEDGER)
    write_parquet(folder / "ledger.parquet", ledger)
    statuses = ledger["status"].to_pylist()
    summary = {
        "schema_version": tables.VERSION,
        "faces_version": FACES_VERSION,
        "recipe": asdict(recipe),
        "num_videos": ledger.num_rows,
        "num_faces": sum(ledger["num_faces"].to_pylist()),
        "num_by_status": {status: statuses.count(status) for status in tables.STATUSES},
    }
    write_json(folder / "_done.json", summary)


def _file_name(video_ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(video_ids).encode()).hexdigest()[:16] + ".parquet"


def _write_faces(path: Path, faces: Iterable[pa.Table], records: list[dict[str, Any]]) -> None:
    """Write the rows of one video for each table and record, in row groups of their own.

    PNG is not compressed again. The columns by which one selects have statistics: any Parquet reader can skip the rest.
    """
    faces = iter(faces)
    first = next(faces)
    schema = first.schema.with_metadata({**tables.FACES.metadata, METADATA: json.dumps(records).encode()})
    options = {
        "compression": {name: "none" if name in _PNG else "zstd" for name in schema.names},
        "use_dictionary": [name for name in _REPEATED if name in schema.names],
        "write_statistics": [name for name in _WITH_STATISTICS if name in schema.names],
    }
    with writing(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        for table in chain([first], faces):
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROWS_PER_GROUP)
