"""How long what is left of a launch takes: from what its storage says that videos and epochs took before.

Rates are those of this storage, whatever machine it was; scoring, pictures and the report come on top.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common.cluster import Resources
from pipelines.common.progress import duration
from pipelines.common.storage import read_json
from pipelines.common.text import counted
from pipelines.faces.plan import Extraction
from pipelines.launch import resources
from pipelines.launch.options import Options
from pipelines.training.stages import PlannedStage


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left to do, and the seconds of one process that it takes; None where nothing like it was measured."""

    what: str  # e.g. `15 stages`
    seconds: float | None


def of_faces(extractions: Sequence[Extraction], storage: Path) -> list[Left]:
    """Return what extraction takes, for each dataset and recipe of which faces are missing.

    A video takes as long as the mean of those of the same dataset before, or else of all.
    """
    known: dict[str, list[float]] = {}
    for path in storage.glob("faces/*/*/_done.json"):
        seconds = pq.read_table(path.parent / "ledger.parquet", columns=["seconds"])["seconds"]
        if len(seconds):
            known.setdefault(path.parents[1].name, []).append(pc.mean(seconds).as_py())
    everywhere = [mean for means in known.values() for mean in means]
    left = []
    for extraction in extractions:
        if extraction.num_missing:
            means = known.get(extraction.dataset, everywhere)
            seconds = extraction.num_missing * sum(means) / len(means) if means else None
            left.append(
                Left(what=f"{counted(extraction.num_missing, 'video')} of {extraction.dataset}", seconds=seconds)
            )
    return left


def of_stages(planned: Iterable[PlannedStage], storage: Path) -> list[Left]:
    """Return what training takes, for each paper and stage of which some are not trained.

    An epoch takes as long as the mean of those of trained stages with the same samples and steps.
    """
    left: dict[str, list[float | None]] = {}
    rates: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for stage in planned:
        if stage.done:
            continue
        name = f"{stage.paper}/{stage.name}"
        if name not in rates:
            rates[name] = list(_seconds_of_epochs(storage / "stages" / name))
        wanted, num_epochs = _epoch(stage.spec["feed"])
        own = [seconds for feed, seconds in rates[name] if feed == wanted]
        left.setdefault(name, []).append(num_epochs * sum(own) / len(own) if own else None)
    return [
        Left(
            what=f"{counted(len(each), 'stage')} {name.replace('/', ' ')}",
            seconds=None if None in each else sum(seconds for seconds in each if seconds is not None),
        )
        for name, each in left.items()
    ]


def _seconds_of_epochs(folder: Path) -> Iterable[tuple[Mapping[str, Any], float]]:
    """Yield, for each trained stage, what an epoch of it is and how long one took."""
    for done in folder.glob("*/_done.json"):
        epoch, num_epochs = _epoch(read_json(done.parent / "spec.json")["feed"])
        yield epoch, read_json(done)["seconds"] / num_epochs


def _epoch(feed: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    return {name: value for name, value in feed.items() if name != "num_epochs"}, feed["num_epochs"]


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


def told(faces: Sequence[Left], stages: Sequence[Left], together: tuple[int, int] | None) -> str:
    """Return the line of a plan that says how long it takes. together: see `at_once`."""
    every = [*faces, *stages]
    if not every:
        return "Nothing is left to extract or train"
    if unknown := [each.what for each in every if each.seconds is None]:
        return f"Time: not known; the storage has measured nothing like {'; '.join(unknown)}"
    work = [sum(each.seconds or 0.0 for each in group) for group in (faces, stages)]
    if together is None:
        return f"Time: {duration(sum(work))} of work, shared by what the cluster works on at once"
    parts = [
        f"{duration(seconds / number)} for {', '.join(each.what for each in group)}"
        for seconds, number, group in zip(work, together, (faces, stages), strict=True)
        if group
    ]
    whole = sum(seconds / number for seconds, number in zip(work, together, strict=True))
    return f"Time: about {duration(whole)}: {'; '.join(parts)}; then scoring and the report"
