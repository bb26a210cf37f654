"""Videos to faces, in one Ray Data pass that can be killed anywhere and started again.

In   VIDEOS  one row per video
Out  folder/recipe.json                        what decides the rows; a folder has one recipe for ever
     folder/parts/<digest>.parquet             one video, or pictures that were read together, written by the actor
                                               that decoded them; gone at the end
     folder/faces/split=<split>/<name>.parquet FACES, sorted by video_id; no row group holds two videos
     folder/ledger.parquet                     LEDGER, sorted by video_id
     folder/_done.json                         written last: readers refuse a folder without it

The files are written by `writer`, which says why no kill can lose or double a row. On a cluster `folder` must lie on
storage that all nodes share.

Several folders with a recipe each (the crops of several papers) are made in one pass over the videos.

Pictures, which are videos of one frame, are handed to actors many at a time: for one alone, the way there and back and
a file of its own would cost more than its face.
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
from itertools import groupby
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
from pipelines.faces.video import Reader, VideoReader, VideoRows, read_together, without_faces
from pipelines.media import sandbox, stills

log = logging.getLogger(__name__)

_NEEDED = tuple(dict.fromkeys((*COPIED, *files.NEEDED)))  # columns of VIDEOS
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # of the disk that copies and frames wait on: no video is to blame
# Videos whose actor was lost, with its node or to the out-of-memory killer, are read again, until so many passes in a
# row over what is left have finished none.
_ROUNDS = 2
_PICTURES = 64  # read together at most: about a second
_BATCHES = 4  # of pictures for each actor at least, so that none waits long for the last


@dataclass(frozen=True, kw_only=True)
class Target:
    """A folder and what it is to hold: the faces of `videos` (a VIDEOS table) as `recipe` cuts them."""

    folder: Path
    recipe: Recipe
    videos: pa.Table


def factory(reader: Callable[..., Reader], *arguments: Any) -> bytes:
    """Return what `ExtractFaces` is made with: how its child process makes what reads videos."""
    return cloudpickle.dumps(partial(read_together, reader, *arguments))


class ExtractFaces:
    """The actor: videos in, one or some pictures; their parts on disk and their ledger rows out.

    Decoding happens in a child process: a video that crashes or hangs it is recorded as `crashed`.
    """

    def __init__(self, factory: bytes, folders: Sequence[str], timeout_s: int, memory_gib: float) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.read = sandbox.Sandbox(factory, timeout_s=timeout_s, memory_gib=memory_gib)

    def __call__(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the `videos` of a batch; write a part into the folder of each of its `targets`, numbers of folders.

        Return of each video the LEDGER row of the first target, and `error`: why the extraction as a whole cannot go
        on, else "".
        """
        videos, targets = batch["videos"], batch["targets"]
        try:
            results = self._read_all(videos, targets)
            for number, target in enumerate(targets):
                writer.write_part(self.folders[target], videos, [of_video[number] for of_video in results])
        except (sandbox.NotStarted, OSError) as error:
            return [without_faces(video, "crashed", str(error))[1] | {"error": str(error)} for video in videos]
        return [of_video[0][1] | {"error": ""} for of_video in results]

    def _read_all(self, videos: Sequence[Mapping[str, Any]], targets: Sequence[int]) -> list[list[VideoRows]]:
        """Return the rows of each video for each target; where reading them together fails, each is read alone."""
        if len(videos) > 1:
            try:
                return self.read(videos, targets)
            except sandbox.NotStarted:
                raise
            except Exception as error:  # noqa: BLE001  # the crash of the child, or whatever a media library raises
                log.info("%d pictures from %s on are read one by one: %s", len(videos), videos[0]["video_id"], error)
        return [self._read(video, targets) for video in videos]

    def _read(self, video: Mapping[str, Any], targets: Sequence[int]) -> list[VideoRows]:
        """Return the rows for each target; they say `crashed` and why when reading the video fails.

        Raises sandbox.NotStarted and OSError when the video is not to blame.
        """
        start = time.monotonic()
        for _ in range(2):
            try:
                return self.read([video], targets)[0]
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
            "factory": factory(reader, dict(roots), recipes, predictor),
            "folders": [str(target.folder) for target in targets],
            "timeout_s": timeout_s,
            "memory_gib": memory_gib,
        }
        fruitless = 0
        while todo and fruitless < _ROUNDS:
            before = len(todo)
            for row in read_videos(list(todo.values()), arguments, actors, together=not fruitless):
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


def batches(videos: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return what `ExtractFaces` gets in a call: a video, or up to `most` pictures that the same targets want.

    Pictures are put together in the order of their paths, so that those of a folder or an archive come together.
    """
    one_by_one = [video for video in videos if most == 1 or not stills.is_picture(video["uri"])]
    pictures = [video for video in videos if most > 1 and stills.is_picture(video["uri"])]

    def kind(video: Mapping[str, Any]) -> tuple[Any, ...]:
        return video["targets"], video["root"]

    made = [[video] for video in one_by_one]
    for _, group in groupby(sorted(pictures, key=lambda video: (*kind(video), video["uri"])), kind):
        some = list(group)
        made += [some[start : start + most] for start in range(0, len(some), most)]
    return [{"videos": some, "targets": some[0]["targets"]} for some in made]


def read_videos(
    videos: list[dict[str, Any]], arguments: dict[str, Any], actors: int | None, together: bool = True
) -> Iterator[dict[str, Any]]:
    """Have actors, made with `arguments`, read the videos; yield what `ExtractFaces` returns, as videos are finished.

    Those of actors that are lost for good are left out. `together`: pictures go many to a call.
    """
    size = min(actors or cluster.free_cpus(), len(videos))
    most = min(_PICTURES, -(-len(videos) // (_BATCHES * size))) if together else 1
    calls = batches(videos, most)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # an actor that is lost for good costs its video, which the next round takes up
    context.execution_no_progress_timeout_s = max(1800, 3 * arguments["timeout_s"])
    with ray.data.DataContext.current(context), _quiet():
        rows = ray.data.from_items(calls, override_num_blocks=len(calls)).flat_map(
            ExtractFaces,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(size=min(size, len(calls)), max_tasks_in_flight_per_actor=1),
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
