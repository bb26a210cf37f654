"""What it takes to train one stage, and what a trial may use for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from pipelines.common.lease import NOT_LEASED, Claim
from pipelines.training.samples import Derived, Samples
from pipelines.training.sharing import Sharing
from pipelines.training.stages import PlannedStage
from pipelines.training.views import Video, View

CHECKPOINT_SECONDS = 300  # within an epoch, so that a killed worker costs minutes
# Between looks whether more workers could train. To take them in costs a start, and what came after the newest
# checkpoint: so a group lives through one at least, and nodes that come one after the other make one change.
RESIZE_SECONDS = 2 * CHECKPOINT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What one trial may use."""

    num_workers: int = 0  # 0: training happens in the trial's own process
    min_workers: int | None = None  # training goes on with so few while there are no more; None: it waits for all
    gpus_per_worker: float = 0
    cpus_per_worker: float = 1
    num_loaders: int = 1  # of each worker, at most, with a CPU each: so few that all workers' find one
    loaders_on_node: bool = False  # they run on their worker's own node only
    scoring_actors: int = 1  # 0: it is also scored in the trial's own process
    gpus_per_actor: float = 0  # of those
    accumulate: Mapping[str, int] = field(
        default_factory=dict
    )  # `<paper>.<stage>` -> cuts of a worker's share of a step

    def cuts(self, stage: PlannedStage) -> int:
        """Return into how many parts a worker cuts its share of a step of this stage."""
        return self.accumulate.get(f"{stage.paper}.{stage.name}", 1)

    def sharing(self, planned: PlannedStage, stage: type[models.Stage], view: View) -> Sharing:
        """Return how so many workers share the steps of a stage."""
        most = max(1, self.num_workers)
        least = self.min_workers or most
        return Sharing(stage=stage, view=view, least=least, most=most, accumulate=self.cuts(planned))


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to train one stage."""

    planned: PlannedStage
    config: Any  # the paper's Config
    train: tuple[Video, ...]
    select: tuple[Video, ...]
    every_face: frozenset[str] = frozenset()  # ids of those videos of `select` in which every face counts
    faces: Mapping[str, Path]  # FACES folder of each dataset
    earlier: Mapping[str, PlannedStage]  # by name; finished
    derived: Path | None = None  # what the stage `reads`, if it reads anything
    compute: Compute = Compute()
    claim: Claim = NOT_LEASED  # to the stage's folder, asked before anything is published there
    checkpoint_steps: int | None = None  # additionally to `CHECKPOINT_SECONDS`
    resize_seconds: float = RESIZE_SECONDS

    @property
    def stage(self) -> type[models.Stage]:
        return models.stage(self.planned.paper, self.planned.name)

    @property
    def seed(self) -> int:
        return int(self.planned.spec["seed"])

    def samples(self) -> Samples:
        """Return the samples of the training videos."""
        return self._samples(self.train)

    def select_samples(self) -> Samples:
        """Return the samples of the validation videos."""
        return self._samples(self.select)

    def _samples(self, donors: Sequence[Video]) -> Samples:
        derived = Derived(self.derived) if self.derived else None
        return Samples(self.stage, self.config, self.faces, derived, donors)

    def view(self) -> View:
        """Return the order in which the training samples come."""
        return View(self.stage.view, self.train, self.stage.feed(self.config), self.seed)

    def sharing(self, view: View) -> Sharing:
        """Return how the workers share its steps."""
        return self.compute.sharing(self.planned, self.stage, view)
