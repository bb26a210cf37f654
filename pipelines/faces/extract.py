"""Videos -> faces, in one Ray Data pass that can be killed anywhere and started again.

In   schemas.VIDEOS  one row per video
Out  folder/recipe.json                        what decides the rows; a folder has one recipe for ever
     folder/parts/<digest>.parquet             one video, written by the actor that decoded it; gone at the end
     folder/faces/split=<split>/<name>.parquet schemas.FACES, sorted by video_id; no row group holds two videos
     folder/ledger.parquet                     schemas.LEDGER, sorted by video_id
     folder/_done.json                         written last: readers refuse a folder without it

Every file appears under its name by an atomic rename. A part and a faces file carry in their metadata what the
ledger says about their videos, so the files themselves say what is done, and ledger and `_done.json` follow from
them. On a cluster `folder` must lie on storage that all nodes share.

Several folders with a recipe each (the crops of several papers) are made in one pass over the videos.
"""

import errno
import hashlib
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray import cloudpickle

from pipelines.common import cluster
from pipelines.common.storage import write_json, write_parquet, writing
from pipelines.common.tables import COPIED, FACES, LEDGER, STATUSES, VERSION, VIDEOS, to_table
from pipelines.faces.recipe import FACES_VERSION, Recipe
from pipelines.faces.store import FAILED, METADATA, ROWS_PER_GROUP, Extracted, ExtractionError, compacted, scan
from pipelines.faces.video import Result, VideoReader, without_faces
from pipelines.media import sandbox

log = logging.getLogger(__name__)

Reader = Callable[[Mapping[str, Any], Sequence[int]], list[Result]]

_NEEDED = (*COPIED, "root", "uri", "mask_uri", "real_uri", "face_rule")
_RECORDED = (*COPIED, "face_rule")  # what must not change once a video is extracted
_WITH_STATISTICS = ["video_id", "label", "method", "codec", "status", "frame_index", "face_index", "time_s"]
_PNG = ("image_png", "mask_png")
_VIDEOS_PER_FILE = 256  # about 500 MB at 30 faces of 224 pixels
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # of the disk that copies and frames wait on: no video is to blame
# Videos whose actor was lost, with its node or to the out-of-memory killer, are read again, until so many passes in a
# row over what is left have finished none.
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Target:
    """A folder and what it is to hold: the faces of `videos` (schemas.VIDEOS) as `recipe` cuts them."""

    folder: Path
    recipe: Recipe
    videos: pa.Table


class ExtractFaces:
    """The actor: one video in, its parts on disk and a ledger row out.

    Decoding happens in a child process: a video that crashes or hangs it is recorded as `crashed`.
    """

    def __init__(self, factory: bytes, folders: Sequence[str], timeout_s: int, memory_gib: float) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.read = sandbox.Sandbox(factory, timeout_s=timeout_s, memory_gib=memory_gib)

    def __call__(self, video: dict[str, Any]) -> dict[str, Any]:
        """The ledger row of its first target, and `error`: why the extraction as a whole cannot go on, else empty."""
        targets = video["targets"]
        try:
            results = self._results(video, targets)
            copied = {name: video[name] for name in _RECORDED}
            for target, (table, ledger) in zip(targets, results, strict=True):
                part = _part(self.folders[target], video["video_id"])
                _write_faces(part, [table], [{"copied": copied, "ledger": ledger}])
        except (sandbox.NotStarted, OSError) as error:
            _, ledger = without_faces(video, "crashed", str(error), 0.0)
            return ledger | {"error": str(error)}
        return results[0][1] | {"error": ""}

    def _results(self, video: dict[str, Any], targets: Sequence[int]) -> list[Result]:
        start = time.monotonic()
        try:
            try:
                return self.read(video, targets)
            except sandbox.Crashed as error:
                # SIGKILL comes from outside, as a rule from the out-of-memory killer: maybe another's fault.
                if "SIGKILL" not in str(error):
                    raise
                return self.read(video, targets)
        except sandbox.Crashed as error:
            reason = str(error)
        except sandbox.NotStarted:
            raise
        except Exception as error:  # whatever a media library raises on this one video
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            log.warning("%s: %s", video["video_id"], error, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
        return [without_faces(video, "crashed", reason, time.monotonic() - start)] * len(targets)


def extract(videos: pa.Table, roots: Mapping[str, str], folder: Path, recipe: Recipe, **options: Any) -> pa.Table:
    """As `extract_all`, into one folder; returns the LEDGER rows of `videos`, in their order."""
    return extract_all([Target(folder=folder, recipe=recipe, videos=videos)], roots, **options)[0]


def extract_all(
    targets: Sequence[Target],
    roots: Mapping[str, str],
    *,
    actors: int | None = None,
    on_video: Callable[[dict[str, Any]], None] | None = None,
    predictor: Path | None = None,
    timeout_s: int = 900,
    memory_gib: float = 8,
    retry_failed: bool = False,
    reader: Callable[..., Reader] = VideoReader,
) -> list[pa.Table]:
    """Make sure that each target's folder holds the faces of its videos; returns their LEDGER rows, per target.

    Only what the folders lack is extracted, and a video is decoded once for all that want it. `on_video` is called
    in this process for each video that is finished, with a ledger row and the counts `num_done` (earlier runs
    included) and `num_videos`. A video may take `timeout_s` seconds and `memory_gib` of memory.
    With `retry_failed`, videos that were unreadable or crashed before are read again: they may have been repaired.
    `reader(roots, recipes, predictor)` makes what reads a video. Ray must be initialised; at most one actor runs
    for each free CPU, on a cluster with roles for each CPU of its video nodes, running or not yet.

    Raises ValueError for a table, root or folder that cannot be used, ExtractionError when videos are missing
    at the end.
    """
    targets = [Target(folder=Path(t.folder).absolute(), recipe=t.recipe, videos=t.videos) for t in targets]
    if len({target.folder for target in targets}) < len(targets):
        raise ValueError("two targets name the same folder: a folder has one recipe")
    asked = [_check(target.videos, roots) for target in targets]
    everything = {name: row for rows in asked for name, row in rows.items()}
    with ExitStack() as stack:
        for target in sorted(targets, key=lambda target: target.folder):  # in one order: no two can wait for each other
            stack.enter_context(_claimed(target.folder, target.recipe, _digest_of(predictor)))
        if retry_failed:
            for target, rows in zip(targets, asked, strict=True):
                _forget_failed(target.folder, rows.keys())
        todo = _todo(targets, asked)
        num_done = len(everything) - len(todo)
        recipes = tuple(target.recipe for target in targets)
        arguments = {
            "factory": cloudpickle.dumps(partial(reader, dict(roots), recipes, predictor)),
            "folders": [str(target.folder) for target in targets],
            "timeout_s": timeout_s,
            "memory_gib": memory_gib,
        }
        fruitless = 0
        while todo and fruitless < _ROUNDS:
            before = len(todo)
            for row in _run(list(todo.values()), arguments, actors):
                if error := row.pop("error"):
                    raise ExtractionError(f"extraction stopped at {row['video_id']}: {error}")
                if todo.pop(row["video_id"], None) is not None:
                    num_done += 1
                    if on_video is not None:
                        on_video(row | {"num_done": num_done, "num_videos": len(everything)})
            fruitless = 0 if len(todo) < before else fruitless + 1
        return [_complete(target, rows) for target, rows in zip(targets, asked, strict=True)]


def _todo(targets: Sequence[Target], asked: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """video_id -> its row, with the numbers of the `targets` that lack it."""
    todo: dict[str, dict[str, Any]] = {}
    for number, (target, rows) in enumerate(zip(targets, asked, strict=True)):
        known = compacted(target.folder)
        known |= scan(target.folder.glob("parts/*.parquet"))
        _check_unchanged(rows, known, target.folder)
        for video_id, row in rows.items():
            if video_id not in known:
                todo.setdefault(video_id, row | {"targets": []})["targets"].append(number)
    return todo


def _complete(target: Target, asked: Mapping[str, dict[str, Any]]) -> pa.Table:
    """Compact the folder and mark it as done. Raises ExtractionError when videos are missing."""
    compact(target.folder)
    known = compacted(target.folder)
    missing = sorted(asked.keys() - known.keys())
    if missing:
        raise ExtractionError(
            f"{len(missing)} of {len(asked)} videos were lost with their actors, again and again: "
            f"{', '.join(missing[:5])}; the others are kept, so run the same command again"
        )
    _finish(target.folder, target.recipe, known)
    return to_table([known[video_id].ledger for video_id in asked], LEDGER)


def compact(folder: Path) -> None:
    """Move the parts into faces files: by split, sorted by video_id, `_VIDEOS_PER_FILE` to a file."""
    _drop_doubles(folder)
    known = compacted(folder)
    parts = {name: at for name, at in scan(folder.glob("parts/*.parquet")).items() if name not in known}
    for split in sorted({at.copied["split"] for at in parts.values()}):
        names = sorted(name for name, at in parts.items() if at.copied["split"] == split)
        for start in range(0, len(names), _VIDEOS_PER_FILE):
            some = names[start : start + _VIDEOS_PER_FILE]
            tables = (pq.ParquetFile(parts[name].path).read().drop_columns("split") for name in some)
            records = [{"copied": parts[name].copied, "ledger": parts[name].ledger} for name in some]
            _write_faces(folder / "faces" / f"split={split}" / _file_name(some), tables, records)
    _drop_leftovers(folder, compacted(folder))


def _forget_failed(folder: Path, video_ids: Collection[str]) -> None:
    """Take those of the videos that were unreadable or crashed out of the files. Only under the folder's lock."""
    (folder / "_done.json").unlink(missing_ok=True)  # until they are back, the folder is not complete
    for path in sorted([*folder.glob("faces/split=*/*.parquet"), *folder.glob("parts/*.parquet")]):
        here = scan([path])
        kept = [name for name, at in here.items() if name not in video_ids or at.ledger["status"] not in FAILED]
        if len(kept) == len(here):
            continue
        if kept:
            file = pq.ParquetFile(path)
            tables = (file.read_row_groups(list(here[name].row_groups)) for name in kept)
            records = [{"copied": here[name].copied, "ledger": here[name].ledger} for name in kept]
            _write_faces(path.with_name(_file_name(kept)), tables, records)
        path.unlink()


def _drop_doubles(folder: Path) -> None:
    """Remove the faces files whose videos others hold: of the two that `_forget_failed` leaves when it is killed, the
    new one.
    """
    files = {path: list(scan([path])) for path in folder.glob("faces/split=*/*.parquet")}
    copies = Counter(name for names in files.values() for name in names)
    for path in sorted(files, key=lambda path: len(files[path])):
        if all(copies[name] > 1 for name in files[path]):
            copies.subtract(files[path])
            path.unlink()


def _file_name(video_ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(video_ids).encode()).hexdigest()[:16] + ".parquet"


def _run(videos: list[dict[str, Any]], arguments: dict[str, Any], actors: int | None) -> Iterator[dict[str, Any]]:
    """Ledger rows in the order in which the videos are finished; those of lost actors are left out."""
    if not videos:
        return
    size = min(actors or cluster.free_cpus(), len(videos))
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # an actor that is lost for good costs its video, which the next round takes up
    context.execution_no_progress_timeout_s = max(1800, 3 * arguments["timeout_s"])
    with ray.data.DataContext.current(context), _quiet():
        rows = ray.data.from_items(videos, override_num_blocks=len(videos)).map(
            ExtractFaces,  # type: ignore[arg-type]  # Ray's stub knows functions only
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            label_selector=cluster.selector(cluster.VIDEO),
            max_restarts=2,  # without a bound, Ray restarts an actor that cannot live for ever
            max_task_retries=1,
        )
        yield from rows.iter_rows()


@contextmanager
def _quiet() -> Iterator[None]:
    """The caller draws the progress; and Ray 2.60 has no other way yet to bound restarts than the deprecated one."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # of lost actors, whose videos come back or are missed at the end
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            yield
    finally:
        logger.setLevel(level)


def _check(videos: pa.Table, roots: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """video_id -> the columns of VIDEOS that extraction needs."""
    absent = sorted(set(VIDEOS.names) - set(videos.column_names))
    if absent:
        raise ValueError(f"VIDEOS lacks the columns {absent}")
    rows = videos.select(_NEEDED).to_pylist()
    asked = {row["video_id"]: row for row in rows}
    if len(asked) < len(rows):
        counts = Counter(row["video_id"] for row in rows)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"VIDEOS names {len(twice)} videos more than once: {', '.join(twice[:5])}")
    unknown = sorted({row["root"] for row in rows} - roots.keys())
    if unknown:
        raise ValueError(f"no path is known for the roots {unknown}; known are {sorted(roots)}")
    return asked


def _check_unchanged(asked: Mapping[str, dict[str, Any]], known: Mapping[str, Extracted], folder: Path) -> None:
    for video_id in asked.keys() & known.keys():
        for name in _RECORDED:
            now = asked[video_id][name]
            before = known[video_id].copied.get(name, now)  # earlier versions recorded fewer
            if before != now:
                raise ValueError(
                    f"{folder} holds {video_id} with {name} = {before!r}, now it is asked for with {now!r}: "
                    "extract into a new folder"
                )


@contextmanager
def _claimed(folder: Path, recipe: Recipe, predictor: str) -> Iterator[None]:
    """The folder, made if need be, under this recipe and predictor and for this process alone."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.warning("another process is extracting into %s: waiting until it is done", folder)
            lock.acquire()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    with lock:
        lock.release()  # acquired once above and once by `with`
        _check_recipe(folder, recipe, predictor)
        for folder_name in ("parts", "faces"):
            (folder / folder_name).mkdir(exist_ok=True)
        yield


def _check_recipe(folder: Path, recipe: Recipe, predictor: str) -> None:
    path = folder / "recipe.json"
    wanted = {"schema_version": VERSION, "faces_version": FACES_VERSION, "recipe": asdict(recipe)}
    wanted |= {"predictor": predictor}
    if not path.exists():
        write_json(path, wanted)
        return
    there = {"predictor": predictor} | json.loads(path.read_text())  # earlier versions did not name it
    if there != wanted:
        old, new = _flat(there), _flat(wanted)
        names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
        changed = ", ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in names)
        raise ValueError(f"{folder} was extracted otherwise ({changed}): use a new folder")


def _digest_of(predictor: Path | None) -> str:
    """What tells one landmark predictor from another."""
    if predictor is None or not predictor.is_file():  # the actors say what is wrong with it
        return "packaged"
    with predictor.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _flat(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim.items() if name != "recipe"} | claim["recipe"]


def _finish(folder: Path, recipe: Recipe, known: Mapping[str, Extracted]) -> None:
    ledger = to_table([known[video_id].ledger for video_id in sorted(known)], LEDGER)
    write_parquet(folder / "ledger.parquet", ledger)
    statuses = ledger["status"].to_pylist()
    summary = {
        "schema_version": VERSION,
        "faces_version": FACES_VERSION,
        "recipe": asdict(recipe),
        "num_videos": ledger.num_rows,
        "num_faces": sum(ledger["num_faces"].to_pylist()),
        "num_by_status": {status: statuses.count(status) for status in STATUSES},
    }
    write_json(folder / "_done.json", summary)


def _drop_leftovers(folder: Path, known: Mapping[str, Extracted]) -> None:
    """Remove parts whose video is in a faces file, and what killed writers left. Only under the folder's lock."""
    for video_id in known:
        _part(folder, video_id).unlink(missing_ok=True)
    for temporary in [*folder.glob(".*.tmp"), *folder.glob("parts/.*.tmp"), *folder.glob("faces/split=*/.*.tmp")]:
        temporary.unlink(missing_ok=True)


def _part(folder: Path, video_id: str) -> Path:
    return folder / "parts" / f"{hashlib.sha256(video_id.encode()).hexdigest()[:32]}.parquet"


def _write_faces(path: Path, tables: Iterable[pa.Table], records: list[dict[str, Any]]) -> None:
    """The rows of one video for each table and record. Readers find a video, or a part of it, by its row groups."""
    tables = iter(tables)
    first = next(tables)
    schema = first.schema.with_metadata({**FACES.metadata, METADATA: json.dumps(records).encode()})
    with writing(path) as temporary, pq.ParquetWriter(temporary, schema, **_parquet_options(schema)) as writer:
        for table in chain([first], tables):
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROWS_PER_GROUP)


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """PNG is compressed already; statistics of what one selects by let any Parquet reader skip the rest."""
    repeated = [name for name in ("dataset", "video_id", "method", "codec", "status") if name in schema.names]
    return {
        "compression": {name: "none" if name in _PNG else "zstd" for name in schema.names},
        "use_dictionary": repeated,
        "write_statistics": [name for name in _WITH_STATISTICS if name in schema.names],
    }
