"""Videos to faces, in one Ray Data pass that can be killed anywhere and started again.

In   VIDEOS  one row per video
Out  folder/recipe.json                        what decides the rows; a folder has one recipe for ever
     folder/parts/<digest>.parquet             one video, written by the actor that decoded it; gone at the end
     folder/faces/split=<split>/<name>.parquet FACES, sorted by video_id; no row group holds two videos
     folder/ledger.parquet                     LEDGER, sorted by video_id
     folder/_done.json                         written last: readers refuse a folder without it

The files are written by `writer`, which says why no kill can lose or double a row. On a cluster `folder` must lie on
storage that all nodes share.

Several folders with a recipe each (the crops of several papers) are made in one pass over the videos.
"""

import errno
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle

from pipelines.common import cluster
from pipelines.common.tables import COPIED, LEDGER, VIDEOS, to_table
from pipelines.faces import files, writer
from pipelines.faces.recipe import Recipe
from pipelines.faces.store import FAILED, ExtractionError, compacted
from pipelines.faces.video import VideoReader, VideoRows, without_faces
from pipelines.media import sandbox

log = logging.getLogger(__name__)

Reader = Callable[[Mapping[str, Any], Sequence[int]], list[VideoRows]]

_NEEDED = tuple(dict.fromkeys((*COPIED, *files.NEEDED)))  # columns of VIDEOS
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # of the disk that copies and frames wait on: no video is to blame
# Videos whose actor was lost, with its node or to the out-of-memory killer, are read again, until so many passes in a
# row over what is left have finished none.
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Target:
    """A folder and what it is to hold: the faces of `videos` (a VIDEOS table) as `recipe` cuts them."""

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
        """Write a part into the folder of each of the video's `targets`, which are numbers of folders.

        Return the LEDGER row of the first target, and `error`: why the extraction as a whole cannot go on, else "".
        """
        targets = video["targets"]
        try:
            results = self._read(video, targets)
            for target, (faces, ledger) in zip(targets, results, strict=True):
                writer.write_part(self.folders[target], video, faces, ledger)
        except (sandbox.NotStarted, OSError) as error:
            _, ledger = without_faces(video, "crashed", str(error))
            return ledger | {"error": str(error)}
        return results[0][1] | {"error": ""}

    def _read(self, video: dict[str, Any], targets: Sequence[int]) -> list[VideoRows]:
        """Return the rows for each target; they say `crashed` and why when reading the video fails.

        Raises sandbox.NotStarted and OSError when the video is not to blame.
        """
        start = time.monotonic()
        for _ in range(2):
            try:
                return self.read(video, targets)
            except sandbox.Crashed as error:
                reason = str(error)
                # SIGKILL comes from outside, as a rule from the out-of-memory killer: maybe another's fault.
                if "SIGKILL" not in reason:
                    break
            except sandbox.NotStarted:
                raise
            except Exception as error:  # whatever a media library raises on this one video
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise
                log.warning("%s: %s", video["video_id"], error, exc_info=True)
                reason = f"{type(error).__name__}: {error}"
                break
        faces, ledger = without_faces(video, "crashed", reason)
        return [(faces, ledger | {"seconds": time.monotonic() - start})] * len(targets)


def extract(videos: pa.Table, roots: Mapping[str, str], folder: Path, recipe: Recipe, **options: Any) -> pa.Table:
    """Extract into one folder; return the LEDGER rows of `videos`, in their order. Options as of `extract_all`."""
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
    """Make sure that each target's folder holds the faces of its videos; return their LEDGER rows, per target.

    Only what the folders lack is extracted, and what has changed since it was (see `files.differs`); a video is decoded
    once for all that want it. `on_video` is called
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
    asked = [checked(target.videos, roots) for target in targets]
    num_videos = len({video_id for videos in asked for video_id in videos})
    with ExitStack() as stack:
        for target in sorted(targets, key=lambda target: target.folder):  # in one order: no two can wait for each other
            stack.enter_context(writer.claimed(target.folder, target.recipe, predictor))
        todo = to_do(targets, asked, retry_failed)
        for number, target in enumerate(targets):
            writer.forget(target.folder, {video_id for video_id, row in todo.items() if number in row["targets"]})
        num_done = num_videos - len(todo)
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
            for row in read_videos(list(todo.values()), arguments, actors):
                if error := row.pop("error"):
                    raise ExtractionError(f"extraction stopped at {row['video_id']}: {error}")
                if todo.pop(row["video_id"], None) is not None:
                    num_done += 1
                    if on_video is not None:
                        on_video(row | {"num_done": num_done, "num_videos": num_videos})
            fruitless = 0 if len(todo) < before else fruitless + 1
        return [_completed(target, videos) for target, videos in zip(targets, asked, strict=True)]


def checked(videos: pa.Table, roots: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return video_id -> the columns of VIDEOS that extraction needs, and `source`: what LEDGER is to record of it.

    Raises ValueError for a table without some column, a video named twice, or a root that is not among `roots`.
    """
    absent = sorted(set(VIDEOS.names) - set(videos.column_names))
    if absent:
        raise ValueError(f"VIDEOS lacks the columns {absent}")
    rows = videos.select(_NEEDED).to_pylist()
    twice = sorted(name for name, count in Counter(row["video_id"] for row in rows).items() if count > 1)
    if twice:
        raise ValueError(f"VIDEOS names {len(twice)} videos more than once: {', '.join(twice[:5])}")
    unknown = sorted({row["root"] for row in rows} - roots.keys())
    if unknown:
        raise ValueError(f"no path is known for the roots {unknown}; known are {sorted(roots)}")
    sources = files.sources(rows, roots)
    return {row["video_id"]: row | {"source": sources[row["video_id"]]} for row in rows}


def to_do(
    targets: Sequence[Target], asked: Sequence[Mapping[str, dict[str, Any]]], retry_failed: bool = False
) -> dict[str, dict[str, Any]]:
    """Return video_id -> its row of `asked`, with `targets`: the numbers of the targets that want it read.

    These lack it, or hold it as it was before something changed (see `files.differs`), or, with `retry_failed`, as one
    that failed.
    """
    todo: dict[str, dict[str, Any]] = {}
    for number, (target, videos) in enumerate(zip(targets, asked, strict=True)):
        known = compacted(target.folder) | writer.parts(target.folder)
        for video_id, row in videos.items():
            at = known.get(video_id)
            failed = at is not None and retry_failed and at.ledger["status"] in FAILED
            if at is None or failed or files.differs(row["source"], at.source):
                todo.setdefault(video_id, row | {"targets": []})["targets"].append(number)
    return todo


def read_videos(
    videos: list[dict[str, Any]], arguments: dict[str, Any], actors: int | None
) -> Iterator[dict[str, Any]]:
    """Have actors, made with `arguments`, read the videos; yield what `ExtractFaces` returns, as videos are finished.

    Those of actors that are lost for good are left out.
    """
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
    """Silence Ray Data: the caller draws the progress, and lost actors are no news, their videos are read again.

    The warning is about `max_restarts`, which Ray 2.60 can bound in no other way than the deprecated one.
    """
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            yield
    finally:
        logger.setLevel(level)


def _completed(target: Target, asked: Mapping[str, dict[str, Any]]) -> pa.Table:
    """Compact the folder and mark it as done; return the LEDGER rows of the videos that were asked for.

    Raises ExtractionError when some are missing.
    """
    writer.compact(target.folder)
    known = compacted(target.folder)
    missing = sorted(asked.keys() - known.keys())
    if missing:
        raise ExtractionError(
            f"{len(missing)} of {len(asked)} videos were lost with their actors, again and again: "
            f"{', '.join(missing[:5])}; the others are kept, so run the same command again"
        )
    writer.finish(target.folder, target.recipe, known)
    return to_table([known[video_id].ledger for video_id in asked], LEDGER)
