"""A training as it stands: the network, its optimizer, how far it is; kept in checkpoints, and read back."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import safetensors.torch
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import models
from models._weights import given
from pipelines.common.provenance import MadeWith
from pipelines.common.storage import folders, put_folder, read_json
from pipelines.training import pretrained
from pipelines.training.job import Job

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainState:
    """How far a training is: `state.json` of a checkpoint."""

    step: int = 0  # steps done
    best_key: list[float] | None = None  # of the epoch that is kept: larger is better
    best_epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)  # a line for each epoch
    parts: tuple[dict[str, float], int] = field(default_factory=lambda: ({}, 0))  # losses of this epoch: sums, steps
    workers: list[list[int]] = field(default_factory=list)  # [first step, how many trained], each until the next
    cuts: list[list[int]] = field(default_factory=list)  # [first step, into how many parts each cut its share]
    made_with: list[MadeWith] = field(default_factory=list)  # all kinds of machines that have trained

    def add(self, parts: Mapping[str, float]) -> None:
        """Count the losses of a step."""
        sums, steps = self.parts
        self.parts = {name: sums.get(name, 0.0) + value for name, value in parts.items()}, steps + 1

    def take_means(self) -> dict[str, float]:
        """Return the mean losses of the epoch, and forget them."""
        (sums, steps), self.parts = self.parts, ({}, 0)
        return {name: value / steps for name, value in sums.items()}

    def note_workers(self, size: int, cuts: int) -> None:
        """Note how many train from here on, and into how many parts each cuts its share of a step.

        What a lost group did after this step is done again, by this one.
        """
        for entries, number in ((self.workers, size), (self.cuts, cuts)):
            entries[:] = [entry for entry in entries if entry[0] < self.step]
            if not entries or entries[-1][1] != number:
                entries.append([self.step, number])

    def note_made_with(self, of_workers: Sequence[MadeWith]) -> None:
        """Note what the workers run on from here on."""
        for record in of_workers:
            if record not in self.made_with:
                self.made_with.append(record)


@dataclass(kw_only=True)
class Learner:
    """What a training changes."""

    module: models.Stage
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau
    state: TrainState

    @classmethod
    def begin(cls, job: Job, num_steps: int, on: torch.device, *, resumes: bool = False) -> "Learner":
        """Make the network from the job's seed, or from the weights of the stage that it starts from.

        resumes: a checkpoint will replace all weights, so none are asked for: a node without them can go on.
        """
        torch.manual_seed(job.seed)
        config = models.override(job.config, {"pretrained": False}) if resumes else job.config
        with given({} if resumes else pretrained.load(job.planned.weights)):
            module = job.stage(config)
        if start := job.stage.starts_from:
            module.load_start(safetensors.torch.load_file(job.earlier[start].folder / "weights.safetensors"))
        module.to(on)
        optimizer, scheduler = module.optimizer(num_steps)
        return cls(module=module, optimizer=optimizer, scheduler=scheduler, state=TrainState())

    def resume(self, checkpoint: str, job: Job, on: torch.device) -> None:
        """Go on from a checkpoint of the stage; from the start where its name is empty."""
        if not checkpoint:
            return
        folder = job.planned.folder / checkpoint
        log.info("going on from %s", folder)
        self.module.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
        saved = torch.load(folder / "optimizer.pt", map_location=on, weights_only=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.state = TrainState(**read_json(folder / "state.json"))

    def save(self, job: Job) -> None:
        """Write a checkpoint."""
        buffer = io.BytesIO()
        torch.save({"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}, buffer)
        files = {
            "weights.safetensors": safetensors.torch.save(self.weights()),
            "optimizer.pt": buffer.getvalue(),
            "state.json": json.dumps(asdict(self.state)).encode(),
        }
        put_folder(job.planned.folder, "checkpoint", self.state.step, files)

    def keep_best(self, job: Job, line: Mapping[str, float], rank: int) -> None:
        """Keep the weights of the epoch of this line if `selects_by` says so; in rule auc a tie goes to the lower loss.

        All workers decide alike; the first one writes.
        """
        loss, best, rule = line["val/loss"], self.state.best_key, job.stage.selects_by
        if rule == "auc":
            key = [line["val/auc"], -loss]
            better = best is None or key > best
        elif rule == "accuracy_and_loss":
            key = [line["val/accuracy"], -loss]
            better = best is None or all(now > before for now, before in zip(key, best, strict=True))
        else:
            key = [-loss]
            better = rule == "last" or best is None or key > best
        if better:
            self.state.best_key, self.state.best_epoch = key, int(line["epoch"])
            if rank == 0:
                weights = {"weights.safetensors": safetensors.torch.save(self.weights())}
                put_folder(job.planned.folder, "best", self.state.best_epoch, weights)

    def weights(self) -> dict[str, Tensor]:
        """Return the network's weights, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.module.state_dict().items()}


def newest_checkpoint(job: Job) -> str:
    """Return the name of the newest checkpoint; empty where there is none yet, or none is needed any more."""
    checkpoints = folders(job.planned.folder, "checkpoint")
    return checkpoints[-1].name if checkpoints else ""
