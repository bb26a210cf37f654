"""How long what is left of a launch takes: from what videos and epochs took before, in its storage or on this machine.

Rates are those of the storage, whatever machine it was, and where it has none those of earlier launches on this
machine (`common.rates`). Scoring, pictures and the report come on top.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import rates
from pipelines.common.cluster import Resources
from pipelines.common.progress import duration
from pipelines.common.storage import digest, read_json
from pipelines.common.text import counted, first
from pipelines.datasets.sample import corpus
from pipelines.faces import sources
from pipelines.faces.plan import Extraction
from pipelines.launch import resources
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.training.stages import PlannedStage
from pipelines.trials.trial import Trial

VIDEO, EPOCH = "video of", "epoch of"  # what the names of kept rates begin with


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left to do, and the seconds of one process that it takes; None where nothing like it was measured."""

    what: str  # e.g. `15 stages`
    seconds: float | None
    elsewhere: bool = False  # by rates of earlier launches on this machine, with another storage


def of_corpus(size: str, names: Sequence[str], storage: Path, kept: Mapping[str, float]) -> Left:
    """Return what the making of the sample corpus takes, of which other datasets may be there; see `corpus.made`."""
    number = corpus.num_missing_clips(storage, size=size, names=names)
    rate = kept.get(sources.clip(size))
    seconds = None if rate is None else number * rate
    return Left(what=f"{counted(number, 'clip')} of the sample corpus", seconds=seconds, elsewhere=True)


def of_faces(extractions: Sequence[Extraction], storage: Path, kept: Mapping[str, float]) -> list[Left]:
    """Return what extraction takes, for each dataset of which faces are missing.

    A video takes as long as the mean of those before that were cut alike: of the same dataset, or else of all. Where
    there is none, it takes as long as the storage's videos that were cut in another way.
    """
    here: dict[tuple[str, str], float] = {}  # dataset and name of the folder, which is one for videos cut alike
    for path in storage.glob("faces/*/*/_done.json"):
        seconds = pq.read_table(path.parent / "ledger.parquet", columns=["seconds"])["seconds"]
        if len(seconds):
            here[path.parents[1].name, path.parent.name] = pc.mean(seconds).as_py()
    before = {
        (dataset, cut): seconds
        for name, seconds in kept.items()
        if name.startswith(VIDEO)
        for dataset, cut in [name.removeprefix(VIDEO).split()]
    }

    def rate(of: str, cut: str) -> tuple[float | None, bool]:
        alike = {key: seconds for key, seconds in here.items() if key[1] == cut}
        alike_before = {key: seconds for key, seconds in before.items() if key[1] == cut}
        for known in (alike, alike_before):
            if (of, cut) in known:
                return known[of, cut], known is alike_before
        for known in (alike, alike_before, {key: here[key] for key in here if key[0] == of}, here):
            if known:
                return fmean(known.values()), known is alike_before
        return None, False

    by_dataset: dict[str, list[Left]] = {}
    missing: dict[str, int] = {}
    for each in extractions:
        if number := each.num_missing:
            seconds_each, elsewhere = rate(each.dataset, each.folder.name)
            seconds = None if seconds_each is None else number * seconds_each
            by_dataset.setdefault(each.dataset, []).append(Left(what="", seconds=seconds, elsewhere=elsewhere))
            missing[each.dataset] = max(number, missing.get(each.dataset, 0))
    return [
        Left(
            what=f"{counted(missing[name], 'video')} of {name}" + (f" ({len(cuts)} crops)" if len(cuts) > 1 else ""),
            seconds=_sum(each.seconds for each in cuts),
            elsewhere=any(each.elsewhere for each in cuts),
        )
        for name, cuts in by_dataset.items()
    ]


def of_stages(planned: Iterable[PlannedStage], storage: Path, kept: Mapping[str, float]) -> list[Left]:
    """Return what training takes, for each paper and stage.

    An epoch takes as long as the mean of those of trained stages with the same samples and steps.
    """
    left: dict[str, list[Left]] = {}
    here: dict[str, dict[str, list[float]]] = {}
    for stage in planned:
        name = f"{stage.paper}/{stage.name}"
        if name not in here:
            here[name] = _rates(storage / "stages" / name)
        kind, num_epochs = _epoch(stage.spec["feed"])
        own = here[name].get(kind)
        rate = fmean(own) if own else kept.get(_name(stage))
        seconds = None if rate is None else num_epochs * rate
        left.setdefault(name, []).append(Left(what="", seconds=seconds, elsewhere=not own and rate is not None))
    return [
        Left(
            what=f"{counted(len(each), 'stage')} {name.replace('/', ' ')}",
            seconds=_sum(stage.seconds for stage in each),
            elsewhere=any(stage.elsewhere for stage in each),
        )
        for name, each in left.items()
    ]


def of_candidates(number: int, planned: Iterable[PlannedStage], storage: Path, kept: Mapping[str, float]) -> Left:
    """Return what a search's other candidates take at most: each as long as all stages of the declared setting."""
    each = of_stages(planned, storage, kept)
    seconds = _sum(stage.seconds for stage in each)
    return Left(
        what=f"at most {counted(number, 'more candidate')}",
        seconds=None if seconds is None else number * seconds,
        elsewhere=any(stage.elsewhere for stage in each),
    )


def _sum(every: Iterable[float | None]) -> float | None:
    """Return the sum; None where a value is not known."""
    known = list(every)
    return None if None in known else sum(each for each in known if each is not None)


def _rates(folder: Path) -> dict[str, list[float]]:
    """Return the seconds of an epoch of each trained stage, by what kind of epoch it is."""
    found: dict[str, list[float]] = {}
    for done in folder.glob("*/_done.json"):
        kind, num_epochs = _epoch(read_json(done.parent / "spec.json")["feed"])
        found.setdefault(kind, []).append(read_json(done)["seconds"] / num_epochs)
    return found


def _epoch(feed: Mapping[str, Any]) -> tuple[str, int]:
    """Return a name for epochs with the same samples and steps, and how many there are."""
    return digest({name: value for name, value in feed.items() if name != "num_epochs"}), feed["num_epochs"]


def _name(stage: PlannedStage) -> str:
    """Return what the rate of a stage's epochs is kept under."""
    return f"{EPOCH} {stage.paper} {stage.name} {_epoch(stage.spec['feed'])[0]}"


def due(extractions: Iterable[Extraction]) -> list[tuple[Extraction, pa.ChunkedArray]]:
    """Return the extractions of which videos are missing, and none was read, each with the video_ids of these."""
    every = [(each, each.missing["video_id"]) for each in extractions if not each.interrupted]
    return [(each, missing) for each, missing in every if len(missing)]


def untrained(trials: Iterable[Trial]) -> list[PlannedStage]:
    """Return the stages that are still to be trained from their first step on."""
    return [stage for trial in trials for stage in trial.planned if not stage.begun]


def keep(
    request: Request,
    extracted: Iterable[tuple[Extraction, pa.ChunkedArray]],
    trained: Iterable[PlannedStage],
) -> None:
    """Keep the rates of what a launch has just done on this machine, for plans with other storages.

    extracted, trained: what `due` and `untrained` returned before it was done. Not the rates of a cluster, nor of the
    preset tiny, which is over before there is a rate.
    """
    if request.options.address is not None or request.preset == "tiny":
        return
    found: dict[str, list[float]] = {}
    for each, video_ids in extracted:
        ledger = each.ledger_table()
        seconds = ledger["seconds"].filter(pc.is_in(ledger["video_id"], video_ids.combine_chunks()))
        if len(seconds) == len(video_ids):
            found.setdefault(f"{VIDEO} {each.dataset} {each.folder.name}", []).append(pc.mean(seconds).as_py())
    for stage in trained:
        if stage.done:
            found.setdefault(_name(stage), []).append(stage.summary()["seconds"] / stage.spec["feed"]["num_epochs"])
    rates.keep({name: fmean(seconds) for name, seconds in found.items()})


def at_once(options: Options, preset: str, num_trials: int) -> tuple[int, int] | None:
    """Return how many videos, and how many trials, this machine works on at once; None for a cluster, or no room."""
    if options.address is not None:
        return None
    import torch  # here: what plans stages has it imported already

    cpus = os.cpu_count() or 1
    memory = int(0.7 * psutil.virtual_memory().total)  # what Ray leaves to work
    there = Resources(cpus=cpus, gpus=torch.cuda.device_count(), memory_bytes=memory)
    try:
        return cpus, resources.divide(options, preset, there, num_trials)[1]
    except ValueError:  # said when Ray is there
        return None


def told(
    corpus: Sequence[Left], faces: Sequence[Left], stages: Sequence[Left], together: tuple[int, int] | None
) -> str:
    """Return the lines of a plan that say how long it takes: what is known in all, then each kind of work.

    together: see `at_once`.
    """
    groups = ((corpus, 1), (faces, (together or (1, 1))[0]), (stages, (together or (1, 1))[1]))
    every = [each for group, _ in groups for each in group]
    if not every:
        return "Nothing is left to extract or train"
    if all(each.seconds is None for each in every):
        return (
            "Time: not known yet, as neither this storage nor an earlier run on this machine has measured the like; "
            "once work has begun, the progress estimates it"
        )
    lines, total = [], 0.0
    for group, number in groups:
        known = [each for each in group if each.seconds]
        unknown = [each.what for each in group if each.seconds is None]
        time = sum(each.seconds or 0.0 for each in known) / number
        total += time
        by = " (by earlier runs on this machine)" if any(each.elsewhere for each in known) else ""
        if known:
            lines.append(f"{duration(time)} for {first([each.what for each in known], 3)}{by}")
        if unknown:
            lines.append(f"not known yet for {first(unknown, 3)}")
    amount, of_work = duration(total), ""
    if together is None:
        of_work = " of work, shared by what the cluster works on at once"
    if any(each.seconds is None for each in every):
        amount = f"at least {amount}"
    elif together is not None:
        amount = f"about {amount}"
    return "\n  ".join([f"Time: {amount}{of_work}", *lines, "then scoring and the report"])
