"""TODO pipelines.training.job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from pipelines.training import stages
from pipelines.training.loop import RESIZE_SECONDS
from pipelines.training.samples import Derived, Samples
from pipelines.training.sharing import Sharing
from pipelines.training.views import Video, View


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to train one stage."""

    planned: stages.PlannedStage
    config: Any  # the paper's Config
    train: tuple[Video, ...]
    select: tuple[Video, ...]
    faces: Mapping[str, Path]  # FACES folder of each dataset
    earlier: Mapping[str, stages.PlannedStage]  # by name; finished
    derived: Path | None = None  # what the stage `reads`, if it reads anything
    num_workers: int = 0  # 0: in this process
    min_workers: int | None = None  # it goes on with so many while there are no more; None: it waits for all
    gpus_per_worker: float = 0
    cpus_per_worker: float = 1
    num_loaders: int = 1  # of each worker, at most, with a CPU each: so few that all workers' find one
    checkpoint_steps: int | None = None  # additionally to `CHECKPOINT_SECONDS`
    resize_seconds: float = RESIZE_SECONDS
    accumulate: int = 1  # cuts of a worker's share of a step, with `num_workers`

    @property
    def stage(self) -> type[models.Stage]:
        return models.stage(self.planned.paper, self.planned.name)

    def samples(self) -> Samples:
        return self._samples(self.train)

    def select_samples(self) -> Samples:
        return self._samples(self.select)

    def _samples(self, donors: Sequence[Video]) -> Samples:
        derived = Derived(self.derived) if self.derived else None
        return Samples(self.stage, self.config, self.faces, derived, donors)

    def view(self) -> View:
        feed = self.stage.feed(self.config)
        return View(self.stage.view, self.train, feed, int(self.planned.spec["seed"]))

    def sharing(self, view: View) -> Sharing:
        most = max(1, self.num_workers)
        least = self.min_workers or most
        return Sharing(stage=self.stage, view=view, least=least, most=most, accumulate=self.accumulate)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What one trial may use."""

    num_workers: int = 0  # 0: training happens in the trial's own process
    min_workers: int | None = None  # fewer, with which a training goes on while there are no more
    gpus_per_worker: float = 0
    num_loaders: int = 1  # of each worker, at most
    scoring_actors: int = 1  # 0: it is also scored there
    gpus_per_actor: float = 0  # of those
    accumulate: Mapping[str, int] = field(
        default_factory=dict
    )  # `<paper>.<stage>` -> cuts of a worker's share of a step

    def cuts(self, planned: stages.PlannedStage) -> int:
        return self.accumulate.get(f"{planned.paper}.{planned.name}", 1)
