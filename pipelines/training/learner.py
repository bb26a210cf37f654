"""A training as it stands: the network, its optimizer, how far it is; kept in checkpoints, and read back."""

import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import models
from models._weights import given
from pipelines.common.lease import NOT_LEASED, Claim
from pipelines.common.provenance import MadeWith
from pipelines.common.storage import folders, number_of, put_folder, read_json, remove_folder, remove_folders
from pipelines.training import pretrained
from pipelines.training.job import CHECKPOINT_SECONDS, Job

log = logging.getLogger(__name__)

# An epoch's end makes a checkpoint due if so many times as long has passed as the last one took to write.
CHECKPOINT_TIMES = 50


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


class Losses:
    """The losses of an epoch, added up where they are computed: to read them is to wait for the device."""

    def __init__(self, sums: Mapping[str, float], steps: int) -> None:
        self.sums: dict[str, float | Tensor] = dict(sums)
        self.steps = steps

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Count the losses of a step, each in 64 bits."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in parts.items()}
        self.steps += 1

    def read(self) -> tuple[dict[str, float], int]:
        """Return the sum of each, and of how many steps."""
        if not self.sums:
            return {}, self.steps
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in self.sums.values()])
        return dict(zip(self.sums, values.tolist(), strict=True)), self.steps

    def take_means(self) -> dict[str, float]:
        """Return the mean losses of the epoch, and forget them."""
        sums, steps = self.read()
        self.sums, self.steps = {}, 0
        return {name: value / steps for name, value in sums.items()}


@dataclass(kw_only=True)
class Learner:
    """What a training changes."""

    module: models.Stage
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau
    state: TrainState
    losses: Losses = field(default_factory=lambda: Losses({}, 0))
    best: dict[str, Tensor] | None = None  # weights of `state.best_epoch`, on the CPU; None: they are on the disk

    @classmethod
    def begin(cls, job: Job, num_steps: int, on: torch.device, checkpoint: str = "") -> "Learner":
        """Make the network from the job's seed, or from the weights of the stage that it starts from.

        checkpoint: the name of one of the stage's, to go on from. It replaces all weights, so no others are asked for:
        a node without them can go on.
        """
        torch.manual_seed(job.seed)
        config = models.override(job.config, {"pretrained": False}) if checkpoint else job.config
        with given({} if checkpoint else pretrained.load(job.planned.weights)):
            module = job.stage(config)
        if (start := job.stage.starts_from) and not checkpoint:
            module.load_start(safetensors.torch.load_file(job.earlier[start].folder / "weights.safetensors"))
        module.to(on)
        optimizer, scheduler = module.optimizer(num_steps)
        fuse(optimizer, on)
        learner = cls(module=module, optimizer=optimizer, scheduler=scheduler, state=TrainState())
        if checkpoint:
            learner._resume(job.planned.folder / checkpoint)
        else:  # of a training that was killed before its first checkpoint
            remove_folders(job.planned.folder, "best")
        return learner

    def _resume(self, checkpoint: Path) -> None:
        log.info("going on from %s", checkpoint)
        self.module.load_state_dict(safetensors.torch.load_file(checkpoint / "weights.safetensors"))
        saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        for saved_group, group in zip(saved["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            if "fused" in group:  # as on this device, which may be another
                saved_group |= {"fused": group["fused"], "foreach": group["foreach"]}
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.state = TrainState(**read_json(checkpoint / "state.json"))
        self.losses = Losses(*self.state.parts)
        for later in folders(checkpoint.parent, "best"):  # which would outlive the one that the checkpoint needs
            if number_of(later) > self.state.best_epoch:
                remove_folder(later)

    def snapshot(self) -> Callable[[Path], None]:
        """Return what writes a checkpoint of now into the stage's folder, whatever the training does meanwhile."""
        self.state.parts = self.losses.read()
        weights, state, best = self.weights(), asdict(self.state), self.best
        optimizer = _on_cpu({"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()})

        def write(folder: Path) -> None:
            # Before the checkpoint, which says that they are there.
            if best is not None and state["best_epoch"] not in map(number_of, folders(folder, "best")):
                put_folder(folder, "best", state["best_epoch"], {"weights.safetensors": safetensors.torch.save(best)})
            buffer = io.BytesIO()
            torch.save(optimizer, buffer)
            files = {
                "weights.safetensors": safetensors.torch.save(weights),
                "optimizer.pt": buffer.getvalue(),
                "state.json": json.dumps(state).encode(),
            }
            put_folder(folder, "checkpoint", state["step"], files)

        return write

    def keep_best(self, job: Job, line: Mapping[str, float], rank: int) -> None:
        """Keep the weights of the epoch of this line if `selects_by` says so; in rule auc a tie goes to the lower loss.

        A loss that is NaN is worse than any other. All workers decide alike; the first one keeps them in memory, until
        a checkpoint or the end writes them.
        """
        best, rule = self.state.best_key, job.stage.selects_by
        loss = math.inf if math.isnan(line["val/loss"]) else line["val/loss"]
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
                self.best = self.weights()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's weights, on the CPU."""
        copied: dict[str, Tensor] = _on_cpu(self.module.state_dict())
        return copied


class Saver:
    """Writes checkpoints while the training goes on: a thread writes one, and the next waits for it.

    Leaving the block waits for the last one. None is written once the claim to the folder is lost.
    """

    def __init__(self, folder: Path, claim: Claim = NOT_LEASED) -> None:
        self.folder, self.claim = folder, claim
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._at, self._took_s = time.monotonic(), 0.0

    def due(self, epoch_ends: bool) -> bool:
        """Return whether it is time: after minutes, at an epoch's end also when writing takes little of the time."""
        passed_s = time.monotonic() - self._at
        return passed_s > CHECKPOINT_SECONDS or (epoch_ends and passed_s > CHECKPOINT_TIMES * self._took_s)

    def save(self, learner: Learner) -> None:
        """Write a checkpoint of now. Raise what kept the last one from being written."""
        self.wait()
        self._writing = self._pool.submit(self._write, learner.snapshot())
        self._at = time.monotonic()

    def _write(self, write: Callable[[Path], None]) -> None:
        began = time.monotonic()
        self.claim.check()
        write(self.folder)
        self._took_s = time.monotonic() - began

    def wait(self) -> None:
        """Wait until the last one is written. Raise what kept it from being written."""
        if self._writing is not None:
            self._writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()


def fuse(optimizer: Optimizer, on: torch.device) -> None:
    """Let an optimizer of torch's take its step on a GPU in one kernel, also one inside of SAM."""
    if on.type == "cuda" and isinstance(getattr(optimizer, "base", optimizer), Adam | SGD):
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False


def _on_cpu(value: Any) -> Any:
    """Return a copy of what a state dict holds, its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {key: _on_cpu(own) for key, own in value.items()}
    return [_on_cpu(own) for own in value] if isinstance(value, list) else value


def newest_checkpoint(job: Job) -> str:
    """Return the name of the newest checkpoint; empty where there is none yet, or none is needed any more."""
    checkpoints = folders(job.planned.folder, "checkpoint")
    return checkpoints[-1].name if checkpoints else ""
