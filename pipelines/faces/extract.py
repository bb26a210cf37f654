"""Videos to faces, in one Ray Data pass that can be killed anywhere and started again.

In   VIDEOS  one row per video
Out  folder/recipe.json                        what decides the rows; a folder has one recipe for ever
     folder/parts/<digest>.parquet             one video, or pictures that were read together, written by the actor
                                               that decoded them; gone at the end
     folder/faces/split=<split>/<name>.parquet FACES, sorted by video_id; no row group holds two videos. Gathered from
                                               parts as soon as there are enough, while others are written
     folder/index/, folder/index.arrow         where each row and picture lies in these: see `store`
     folder/ledger.parquet                     LEDGER, sorted by video_id
     folder/_done.json                         written last: readers refuse a folder without it

The files are written by `writer`, which says why no kill can lose or double a row. On a cluster `folder` must lie on
storage that all nodes share. The process that extracts holds tables of its videos, and no file passes through it.

Several folders with a recipe each (the crops of several papers) are made in one pass over the videos.

An actor gets several videos in a call, and writes the part of each as soon as it is read. Pictures, which are videos of
one frame, are read together: for one alone, a file of its own would cost more than its face.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray
from ray import cloudpickle

from pipelines.common import cluster
from pipelines.common.lease import Claim, LeaseLost
from pipelines.common.storage import path_of
from pipelines.common.tables import COPIED, LEDGER, VIDEOS
from pipelines.faces import files, writer
from pipelines.faces.recipe import Recipe
from pipelines.faces.store import FAILED, ExtractionError, found, ledger_table, records
from pipelines.faces.video import Reader, VideoReader, VideoRows, read_together, without_faces
from pipelines.media import fetch, sandbox, stills

log = logging.getLogger(__name__)

_NEEDED = tuple(dict.fromkeys((*COPIED, *files.NEEDED)))  # columns of VIDEOS
# Videos whose actor was lost, with its node or to the out-of-memory killer, are read again, until so many passes in a
# row over what is left have finished none.
_ROUNDS = 2
# In a call at most, so that the head's work for a call is shared by many; and calls for each actor at least, so that
# none waits long for the last, and progress is seen.
_VIDEOS, _CALLS = 16, 16
_PICTURES, _BATCHES = 64, 4  # pictures read together, about a second
_AT_ONCE = 2**17  # videos whose calls the head holds, some 0.4 GB; then actors start anew, which takes half a minute
_ACTORS_PER_GATHERING = 8  # processes that read for one that gathers: more than it could keep up with


# What an actor returns of each video: its LEDGER row but `source`; its `number` of `to_do`, its part, whose videos have
# one split, and which targets have one; and why the extraction as a whole cannot go on, or "".
DONE = pa.schema(
    [
        *(field for field in LEDGER if field.name != "source"),
        pa.field("number", pa.int64()),
        pa.field("part", pa.string()),
        pa.field("split", pa.string()),
        pa.field("targets", pa.list_(pa.int32())),
        pa.field("error", pa.string()),
    ]
)


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
    """The actor: videos in; their parts on disk and their ledger rows out.

    Decoding happens in a child process: a video that crashes or hangs it is recorded as `crashed`.
    """

    def __init__(self, factory: bytes, folders: Sequence[str], timeout_s: int, memory_gib: float) -> None:
        self.folders = [path_of(folder) for folder in folders]
        self.read = sandbox.Sandbox(factory, timeout_s=timeout_s, memory_gib=memory_gib)

    def __call__(self, call: pa.Table) -> pa.Table:
        """Extract the videos of a call, a table of `calls`, batch by batch; return their DONE.

        Batches that were finished before the actor was lost are not read again.
        """
        rows: list[dict[str, Any]] = []
        for _, batch in groupby(call.to_pylist(), lambda video: video["batch"]):
            videos = list(batch)
            targets = videos[0]["targets"]
            ledgers = self._finished(videos, targets) or self.extract(videos, targets)
            part = writer.part_path(Path(), videos).name
            rows += [
                ledger | {"part": part} | {name: video[name] for name in ("number", "split", "targets")}
                for video, ledger in zip(videos, ledgers, strict=True)
            ]
            if rows[-1]["error"]:
                break
        return pa.Table.from_pylist(rows, schema=DONE)

    def _finished(self, videos: Sequence[Mapping[str, Any]], targets: Sequence[int]) -> list[dict[str, Any]]:
        """Return what `extract` returned when it wrote the part of these videos; nothing where it has not."""
        paths = [writer.part_path(self.folders[target], videos) for target in targets]
        if not all(path.exists() for path in paths):
            return []
        try:
            return [record["ledger"] | {"error": ""} for record in records(paths[0])]
        except FileNotFoundError:  # gathered just now
            return []

    def extract(self, videos: Sequence[Mapping[str, Any]], targets: Sequence[int]) -> list[dict[str, Any]]:
        """Read videos, one or some pictures; write a part into the folder of each of `targets`, numbers of folders.

        Return of each video the LEDGER row of the first target, and `error`: why the extraction as a whole cannot go
        on, else "".
        """
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
                if isinstance(error, OSError) and error.errno in fetch.NO_ROOM:
                    raise
                log.warning("%s: %s", video["video_id"], error, exc_info=True)
                reason = f"{type(error).__name__}: {error}"
                break
        faces, ledger = without_faces(video, "crashed", reason)
        return [(faces, ledger | {"seconds": time.monotonic() - start})] * len(targets)


_gather = ray.remote(max_retries=2)(writer.gather)


class Gathering:
    """Moves parts into faces files of `writer.VIDEOS_PER_FILE` videos while others are written.

    Ray's processes do it, `at_once` at the same time; with 0, or where Ray is not there, this one does it at the end.
    """

    def __init__(self, at_once: int = 1) -> None:
        self.at_once = at_once
        self.parts: dict[tuple[Path, str], dict[str, int]] = {}  # folder, split -> part -> its videos
        self.waiting: list[tuple[Path, list[str]]] = []
        self.running: list[ray.ObjectRef] = []

    def add(self, folder: Path, split: str, part: str, num_videos: int) -> None:
        """Take over a part, all of whose videos are finished."""
        parts = self.parts.setdefault((folder, split), {})
        parts[part] = num_videos
        if sum(parts.values()) >= writer.VIDEOS_PER_FILE:
            self.waiting.append((folder, list(self.parts.pop((folder, split)))))
        self._start(num_cpus=0)  # all are those of the actors

    def _start(self, num_cpus: int) -> None:
        """Start what may run; a call that failed is left to the end, which says why."""
        if not self.waiting or not self._by_ray():
            return
        _, self.running = ray.wait(self.running, num_returns=len(self.running), timeout=0) if self.running else ([], [])
        while self.waiting and len(self.running) < self.at_once:
            options = {"num_cpus": num_cpus, "label_selector": cluster.selector(cluster.VIDEO)}
            self.running.append(_gather.options(**options).remote(*self.waiting.pop(0)))

    def _by_ray(self) -> bool:
        return self.at_once > 0 and ray.is_initialized()

    def finish(self) -> None:
        """Gather what is left; return when all is."""
        self.waiting += [(folder, list(parts)) for (folder, _), parts in self.parts.items()]
        self.parts = {}
        while self._by_ray() and (self.waiting or self.running):
            self._start(num_cpus=1)  # there may be no node for it yet, and none is started for nothing
            _, self.running = ray.wait(self.running)
        for folder, parts in self.waiting:
            writer.gather(folder, parts)
        self.waiting = []


def extract(videos: pa.Table, roots: Mapping[str, str], folder: Path, recipe: Recipe, **options: Any) -> pa.Table:
    """Extract into one folder; return the LEDGER rows of `videos`, in their order. Options as of `extract_all`."""
    extract_all([Target(folder=folder, recipe=recipe, videos=videos)], roots, **options)
    ledger = ledger_table(folder)
    return ledger.take(found(videos["video_id"], ledger["video_id"]))


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
) -> None:
    """Make sure that each target's folder holds the faces of its videos.

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
    targets = [Target(folder=path_of(t.folder).absolute(), recipe=t.recipe, videos=t.videos) for t in targets]
    if len({target.folder for target in targets}) < len(targets):
        raise ValueError("two targets name the same folder: a folder has one recipe")
    asked = [checked(target.videos, roots) for target in targets]
    with ExitStack() as stack:
        claims: dict[Path, Claim] = {}
        for target in sorted(targets, key=lambda target: target.folder):  # in one order: no two can wait for each other
            claims[target.folder] = stack.enter_context(writer.claimed(target.folder, target.recipe, predictor))
        gathering = Gathering()
        wants = []
        for target, videos in zip(targets, asked, strict=True):
            there = writer.tidy(target.folder)
            wants.append(lacking(videos, there, retry_failed, files.accepted(target.folder)))
            writer.forget(target.folder, there, videos["video_id"].filter(wants[-1]))
            for part in writer.parts(target.folder, there):
                gathering.add(target.folder, *part)
        todo = to_do(asked, wants)
        num_videos = pc.count_distinct(pa.concat_tables(asked)["video_id"]).as_py()
        if todo.num_rows:
            size = min(actors or cluster.free_cpus(), todo.num_rows)
            gathering.at_once = 1 + size // _ACTORS_PER_GATHERING
            arguments = {
                "factory": factory(reader, dict(roots), tuple(target.recipe for target in targets), predictor),
                "folders": [str(target.folder) for target in targets],
                "timeout_s": timeout_s,
                "memory_gib": memory_gib,
            }
            _read(todo, num_videos, arguments, size, gathering, on_video)
        gathering.finish()
        for target, videos in zip(targets, asked, strict=True):
            _complete(target, videos, claims[target.folder])


def _read(
    todo: pa.Table,
    num_videos: int,
    arguments: dict[str, Any],
    size: int,
    gathering: Gathering,
    on_video: Callable[[dict[str, Any]], None] | None,
) -> None:
    """Have `size` actors read the videos, those of lost actors again; hand their parts to `gathering` meanwhile.

    Raises ExtractionError where it cannot go on.
    """
    folders = [path_of(folder) for folder in arguments["folders"]]
    left, fruitless = np.ones(todo.num_rows, bool), 0
    num_done = num_videos - todo.num_rows
    while left.any() and fruitless < _ROUNDS:
        before = left.sum()
        for call in _in_turn(todo.filter(left), arguments, size, together=not fruitless):
            for part, batch in groupby(call.to_pylist(), lambda row: row["part"]):
                rows = list(batch)
                for row in rows:
                    if row["error"]:
                        raise ExtractionError(f"extraction stopped at {row['video_id']}: {row['error']}")
                fresh = [row for row in rows if left[row["number"]]]  # not those of a call that was made twice
                for row in fresh:
                    left[row["number"]] = False
                    num_done += 1
                    if on_video is not None:
                        on_video(row | {"num_done": num_done, "num_videos": num_videos})
                for target in fresh[0]["targets"] if fresh else ():
                    gathering.add(folders[target], rows[0]["split"], part, len(rows))
        fruitless = 0 if left.sum() < before else fruitless + 1


def _in_turn(videos: pa.Table, arguments: dict[str, Any], size: int, together: bool) -> Iterator[pa.Table]:
    """Do what `read_videos` does, `_AT_ONCE` videos after the other."""
    for start in range(0, videos.num_rows, _AT_ONCE):
        yield from read_videos(videos.slice(start, _AT_ONCE), arguments, size, together)


def checked(videos: pa.Table, roots: Mapping[str, str]) -> pa.Table:
    """Return the columns of VIDEOS that extraction needs, and `source`: what LEDGER is to record of each.

    Raises ValueError for a table without some column, a video named twice, or a root that is not among `roots`.
    """
    absent = sorted(set(VIDEOS.names) - set(videos.column_names))
    if absent:
        raise ValueError(f"VIDEOS lacks the columns {absent}")
    counts = videos["video_id"].value_counts()
    twice = sorted(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())
    if twice:
        raise ValueError(f"VIDEOS names {len(twice)} videos more than once: {', '.join(twice[:5])}")
    unknown = sorted(set(videos["root"].unique().to_pylist()) - roots.keys())
    if unknown:
        raise ValueError(f"no path is known for the roots {unknown}; known are {sorted(roots)}")
    return videos.select(_NEEDED).append_column(LEDGER.field("source"), files.sources(videos, roots))


def lacking(
    videos: pa.Table, there: pa.Table, retry_failed: bool = False, accepted: pa.Table | None = None
) -> NDArray[np.bool_]:
    """Say for each video, a row of `checked`, whether it must be read; `there`: what `writer.tidy` has found;
    `accepted`: what `files.accepted` has.

    It is absent, or there as it was before something changed (see `files.changed`), or, with `retry_failed`, as one
    that failed.
    """
    at = found(videos["video_id"], there["video_id"])
    wanted = at < 0
    known = there.select([*COPIED, "status", "source"]).take(at[~wanted])
    now = videos["source"].filter(~wanted).combine_chunks()
    again = files.changed(videos["video_id"].filter(~wanted), now, known["source"], accepted, known.select(COPIED))
    if retry_failed:
        again |= np.asarray(pc.is_in(known["status"], pa.array(FAILED)))
    wanted[~wanted] = again
    return wanted


def to_do(asked: Sequence[pa.Table], wants: Sequence[NDArray[np.bool_]]) -> pa.Table:
    """Return the rows of all videos that some target wants: each once, with its `targets` and a `number` of its own.

    asked, wants: for each target what `checked` and `lacking` have returned.
    """
    every = pa.concat_tables([videos.filter(wanted) for videos, wanted in zip(asked, wants, strict=True)])
    of_row = np.repeat(np.arange(len(wants)), [wanted.sum() for wanted in wants])
    first, video = np.unique(found(every["video_id"], every["video_id"]), return_inverse=True)
    by_video = np.argsort(video, kind="stable")
    ends = np.searchsorted(video[by_video], np.arange(len(first) + 1))
    targets = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(of_row[by_video], pa.int32()))
    numbers = pa.array(np.arange(len(first)), pa.int64())
    return every.take(first).append_column("targets", targets).append_column("number", numbers)


def calls(videos: pa.Table, most_videos: int, most_pictures: int) -> list[pa.Table]:
    """Return what `ExtractFaces` gets in a call, tables of rows of `to_do`; of one `batch` are those read together.

    A video is a batch, and a call some of them. Pictures that the same targets want, of one root and split, are a batch
    and a call, in the order of their paths, so that those of a folder or an archive come together.
    """
    alone = np.array([most_pictures == 1 or not stills.is_picture(uri) for uri in videos["uri"].to_pylist()], bool)
    single = videos.filter(alone)
    single = single.append_column("batch", single["number"])
    made = [single.slice(start, most_videos) for start in range(0, single.num_rows, most_videos)]
    pictures = videos.filter(~alone)
    wanting = pc.binary_join(pictures["targets"].cast(pa.list_(pa.string())), ",")
    keys = ("wanting", "root", "split")
    pictures = pictures.append_column("wanting", wanting).sort_by([(key, "ascending") for key in (*keys, "uri")])
    kinds = np.stack([pictures[key].combine_chunks().dictionary_encode().indices.to_numpy() for key in keys])
    changes = np.flatnonzero((np.diff(kinds) != 0).any(0)) + 1
    for start, stop in pairwise([0, *changes.tolist(), pictures.num_rows]):
        for first in range(start, stop, most_pictures):
            some = pictures.slice(first, min(most_pictures, stop - first)).drop_columns("wanting")
            made.append(some.append_column("batch", pa.array([some["number"][0].as_py()] * some.num_rows, pa.int64())))
    return made


def read_videos(videos: pa.Table, arguments: dict[str, Any], size: int, together: bool = True) -> Iterator[pa.Table]:
    """Have `size` actors, made with `arguments`, read the videos of `to_do`; yield their DONE, as calls are finished.

    Those of actors that are lost for good are left out. `together`: several videos, or many pictures, go to a call.
    """
    most_videos, most_pictures = (
        min(most, -(-videos.num_rows // (number * size))) if together else 1
        for most, number in ((_VIDEOS, _CALLS), (_PICTURES, _BATCHES))
    )
    blocks = calls(videos, most_videos, most_pictures)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.label_selector = cluster.selector(cluster.VIDEO)  # see `cluster.data_in_order`
    context.max_errored_blocks = -1  # an actor that is lost for good costs its call, which the next round takes up
    context.execution_no_progress_timeout_s = max(1800, 3 * most_videos * arguments["timeout_s"])
    with ray.data.DataContext.current(context), _quiet():
        done = ray.data.from_blocks(blocks).map_batches(
            ExtractFaces,
            fn_constructor_kwargs=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(size, len(blocks)), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            label_selector=cluster.selector(cluster.VIDEO),
            max_restarts=2,  # without a bound, Ray restarts an actor that cannot live for ever
            max_task_retries=1,
        )
        yield from done.iter_batches(batch_size=None, batch_format="pyarrow")


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


def _complete(target: Target, asked: pa.Table, claim: Claim) -> None:
    """Mark the folder as done.

    Raise ExtractionError when some of the videos that were asked for are missing, LeaseLost when another process has
    taken over the folder.
    """
    there = writer.tidy(target.folder)
    if left := writer.parts(target.folder, there):
        again = Gathering(at_once=0)  # raises what has kept other processes from it
        for part in left:
            again.add(target.folder, *part)
        again.finish()
        there = writer.tidy(target.folder)
    missing = asked["video_id"].filter(found(asked["video_id"], there["video_id"]) < 0).to_pylist()
    if missing:
        raise ExtractionError(
            f"{len(missing)} of {asked.num_rows} videos were lost with their actors, again and again: "
            f"{', '.join(sorted(missing)[:5])}; the others are kept, so run the same command again"
        )
    try:
        claim.check()
    except LeaseLost as lost:
        raise LeaseLost(f"{lost}; run the same command again to go on after it") from lost
    writer.clean(target.folder)
    writer.finish(target.folder, target.recipe, there)
