"""One stage, trained: in this process, or by Ray Train on N workers with DDP. Same loop, same numbers.

Whatever dies, the same call continues from the newest checkpoint in the stage's folder. A step's samples
and randomness depend on (seed, step) alone, so a resumed training ends with the same weights. The number of
workers may change on the way (`Job.min_workers`): only what a network draws for itself, such as dropout, is then
drawn anew, as each worker has its own seed.
The epoch that is kept is chosen on the validation part of the training dataset.
"""

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import models
from models import BadSample
from models._distributed import alone, total
from pipelines.common import device, progress, storage, tables
from pipelines.metrics import detection
from pipelines.training import views
from pipelines.training.batches import ahead, chunks, stack
from pipelines.training.job import Job
from pipelines.training.samples import VAL_FRAMES, Arrays, Samples
from pipelines.training.train import _newest
from pipelines.training.views import Pick
from pipelines.training.workers import World

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 300  # within an epoch, so that a killed worker costs minutes
# Between looks whether more workers could train. To take them in costs a start, and what came after the newest
# checkpoint: so a group lives through one at least, and nodes that come one after the other make one change.
RESIZE_SECONDS = 2 * CHECKPOINT_SECONDS
NOTE_SECONDS = 1  # between notes of where the training stands


class NonFiniteLoss(ValueError):
    """The loss is NaN or infinite; the text names the step and the samples."""


def loop(job: Job, world: World) -> None:
    """Trains from the newest checkpoint to the end, and finishes the stage."""
    if job.planned.done:  # a worker died between the marker and its own end
        return
    seed = int(job.planned.spec["seed"])
    torch.manual_seed(seed)
    module = job.stage(job.config)
    if job.stage.starts_from:
        module.load_start(
            safetensors.torch.load_file(job.earlier[job.stage.starts_from].folder / "weights.safetensors")
        )
    module.to(world.device)
    view, samples = job.view(), job.samples()
    cuts = job.sharing(view).cuts(world.size)
    val_samples = job.select_samples()  # its own: a thread reads the training samples ahead
    num_steps = view.steps_per_epoch * job.stage.feed(job.config).num_epochs
    optimizer, scheduler = module.optimizer(num_steps)
    state = _resume(job, module, optimizer, scheduler, world)
    _note_workers(state, world)
    model, trainable = world.wrap(module), _trainable(module)
    parts = _Mean(*state["parts"])
    started = since_checkpoint = noted = time.monotonic()
    module.train()
    steps = range(state["step"], num_steps)
    for step, (picks, arrays) in zip(steps, world.batches(job, samples, view, steps), strict=True):
        if step % view.steps_per_epoch == 0:
            module.start_epoch(step // view.steps_per_epoch + 1)
        if trainable != _trainable(module):  # at the start of an epoch; or a training goes on behind one
            model, trainable = world.wrap(module), _trainable(module)
        torch.manual_seed(_seed_of(seed, step, world.rank))
        batch = _to_device(arrays, world.device) | {"step_seed": torch.tensor(_seed_of(seed, step, 0))}
        parts.add(_step(model, optimizer, _cut(module, batch, cuts), step, picks, world))
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        state["step"] = step + 1
        if world.rank == 0 and time.monotonic() - noted > NOTE_SECONDS:
            progress.note(job.planned.folder, job.planned.name, state["step"], num_steps)
            noted = time.monotonic()
        if state["step"] % view.steps_per_epoch == 0:
            epoch = state["step"] // view.steps_per_epoch
            seconds = time.monotonic() - started
            line = {
                "epoch": epoch,
                "step": state["step"],
                "lr": scheduler.get_last_lr()[0],
                "seconds": round(seconds, 3),
            }
            line |= {f"train/{name}": value for name, value in _over_workers(parts.take(), world).items()}
            line |= {f"val/{name}": value for name, value in validate(job, module, val_samples, world).items()}
            module.train()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(line["val/loss"])
            _keep_best(job, module, state, line, world)
            state["curve"].append(line)
            if world.rank == 0:
                text = "".join(json.dumps(entry) + "\n" for entry in state["curve"])
                storage.write_atomic(job.planned.folder / "curves.jsonl", text.encode())
            started = time.monotonic()
        due = time.monotonic() - since_checkpoint > CHECKPOINT_SECONDS
        due |= bool(job.checkpoint_steps) and state["step"] % job.checkpoint_steps == 0
        if world.rank == 0 and (due or state["step"] % view.steps_per_epoch == 0):
            state["parts"] = parts.state()
            _save(job, module, optimizer, scheduler, state)
            since_checkpoint = time.monotonic()
    if world.rank == 0:
        job.planned.finish(state["best_epoch"], _summary(job, module, state, num_steps))
    world.gather(None)  # nobody leaves before the marker is written


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cuts: Sequence[tuple[Mapping[str, Tensor], float]],
    step: int,
    picks: Sequence[Pick],
    world: World,
) -> dict[str, float]:
    """One optimizer step. The closure may run more than once (SAM); its first losses are the ones reported.

    cuts: of the worker's samples, with what each one's loss counts; the gradients of all add up.
    """
    parts: dict[str, float] = {}

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        repeat, whole = torch.tensor(bool(parts)), torch.zeros(())
        for number, (batch, counts) in enumerate(cuts, 1):
            with _gradients_stay_here(model, number < len(cuts)):
                with device.autocast(world.device):
                    out = model({**batch, "repeat": repeat})
                _check_finite(out["loss"], step, picks, world)
                (out["loss"] * counts).backward()
            whole = whole + out["loss"].detach().cpu() * counts
            if not repeat:
                for name, value in out.items():
                    if value.ndim == 0:
                        parts[name] = parts.get(name, 0.0) + float(value.detach()) * counts
        return whole

    optimizer.step(closure)  # type: ignore[arg-type]  # torch's own closures return tensors
    return parts


def _gradients_stay_here(model: nn.Module, stay: bool) -> AbstractContextManager[None]:
    """Within it, DDP does not yet average gradients over workers: once is enough, after a step's last cut."""
    return model.no_sync() if stay and isinstance(model, DistributedDataParallel) else nullcontext()


def _cut(module: models.Stage, batch: Mapping[str, Tensor], cuts: int) -> list[tuple[Mapping[str, Tensor], float]]:
    """Equal parts of a worker's samples in their order, and the share of the step's loss that each one's loss is."""
    if cuts == 1:
        return [(batch, 1.0)]
    parts = {name: value.chunk(cuts) if value.ndim else [value] * cuts for name, value in batch.items()}
    batches = [{name: part[i] for name, part in parts.items()} for i in range(cuts)]
    weights = [module.weight(one) for one in batches]
    return [(one, weight / sum(weights)) for one, weight in zip(batches, weights, strict=True)]


def _check_finite(loss: Tensor, step: int, picks: Sequence[Pick], world: World) -> None:
    """Raises NonFiniteLoss on every worker if the loss of one is not finite: none may wait for another."""
    ill = (~torch.isfinite(loss.detach())).float().clone()
    if total(ill) == 0:
        return
    own = sorted({pick.video.video_id for pick in picks}) if ill else []
    ids = sorted({video_id for found in world.gather(own) for video_id in found})
    raise NonFiniteLoss(f"the loss is not finite at step {step}; the samples were {', '.join(ids)}")


def _trainable(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def validate(job: Job, module: models.Stage, samples: Samples, world: World) -> dict[str, float]:
    """`loss` and, for classifiers, video-level `auc` and frame-level `accuracy` on the selection part.

    Every sample counts once. The random parts of validation samples (masks, pseudo-fakes) are the same in every
    epoch. In view `real_pairs` the pseudo-fakes of a video count as a fake video.
    """
    module.eval()
    videos = [v for v in job.select if v.label == tables.REAL or job.stage.view not in views.REAL_VIEWS]
    mine: list[tuple[str, int, float, float | None]] = []  # video, label, loss, score
    loaded = (
        (video, arrays)
        for video in videos[world.rank :: world.size]
        for _, arrays in samples.scoring_samples(video, seed=0, mode="select", most_frames=VAL_FRAMES)
    )
    for chunk in ahead(chunks(loaded, job.stage.feed(job.config).batch_size)):
        batch = _to_device(stack([arrays for _, arrays in chunk]), world.device)
        with alone(), device.autocast(world.device):  # workers have unequal numbers of batches
            out = module(batch)
        loss = float(out["loss"])
        if "score" not in out:
            mine += [(video.video_id, video.label, loss, None) for video, _ in chunk]
        elif out["score"].ndim == 1:
            mine += [(v.video_id, v.label, loss, s) for (v, _), s in zip(chunk, out["score"].tolist(), strict=True)]
        else:
            for (video, _), (real, fake) in zip(chunk, out["score"].tolist(), strict=True):
                mine += [(video.video_id, tables.REAL, loss, real), (video.video_id, tables.FAKE, loss, fake)]
    rows = [row for found in world.gather(mine) for row in found]
    if not rows:
        raise BadSample(f"none of the {len(videos)} validation videos has a face that {job.stage.name} can use")
    result = {"loss": float(np.mean([loss for _, _, loss, _ in rows]))}
    by_video: dict[tuple[str, int], list[float]] = {}
    for video_id, label, _, score in rows:
        if score is not None:
            by_video.setdefault((video_id, label), []).append(score)
    if by_video:
        result["auc"] = detection.auc([label for _, label in by_video], [float(np.mean(s)) for s in by_video.values()])
        result["accuracy"] = detection.accuracy([row[1] for row in rows], [row[3] for row in rows])
    return result


def _keep_best(job: Job, module: models.Stage, state: dict[str, Any], line: Mapping[str, float], world: World) -> None:
    """Keeps the weights of this epoch if `selects_by` says so; in rule auc a tie goes to the lower loss."""
    loss, best, rule = line["val/loss"], state["best_key"], job.stage.selects_by
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
        state["best_key"], state["best_epoch"] = key, int(line["epoch"])
        if world.rank == 0:
            weights = safetensors.torch.save(_weights(module))
            storage.put_folder(job.planned.folder, "best", state["best_epoch"], {"weights.safetensors": weights})


def _save(
    job: Job,
    module: models.Stage,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | ReduceLROnPlateau,
    state: Mapping[str, Any],
) -> None:
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, buffer)
    files = {
        "weights.safetensors": safetensors.torch.save(_weights(module)),
        "optimizer.pt": buffer.getvalue(),
        "state.json": json.dumps(state).encode(),
    }
    storage.put_folder(job.planned.folder, "checkpoint", state["step"], files)


def _resume(
    job: Job,
    module: models.Stage,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | ReduceLROnPlateau,
    world: World,
) -> dict[str, Any]:
    # The first worker's choice: one on a node that was given up for lost may still be writing another.
    name = world.gather(_newest(job))[0]
    if not name:
        return {"step": 0, "best_key": None, "best_epoch": 0, "curve": [], "parts": [{}, 0]}
    newest = job.planned.folder / name
    log.info("going on from %s", newest)
    module.load_state_dict(safetensors.torch.load_file(newest / "weights.safetensors"))
    saved = torch.load(newest / "optimizer.pt", map_location=world.device, weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    return storage.read_json(newest / "state.json")


def _note_workers(state: dict[str, Any], world: World) -> None:
    """From which step on how many train: [first step, workers], ..., each until the next. Goes into the summary."""
    noted = [entry for entry in state.get("workers", []) if entry[0] < state["step"]]
    if not noted or noted[-1][1] != world.size:
        noted.append([state["step"], world.size])
    state["workers"] = noted


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def _summary(job: Job, module: nn.Module, state: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    return {
        "best_epoch": state["best_epoch"],
        "selected_by": job.stage.selects_by,
        "steps": num_steps,
        "parameters": sum(p.numel() for p in module.parameters()),
        "train_videos": len(job.train),
        "select_videos": len(job.select),
        "seconds": round(sum(line["seconds"] for line in state["curve"]), 1),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "workers": state["workers"],
        "accumulate": job.accumulate,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


class _Mean:
    """Mean of each loss part over the steps of an epoch."""

    def __init__(self, total: Mapping[str, float], count: int) -> None:
        self.total, self.count = dict(total), count

    def add(self, parts: Mapping[str, float]) -> None:
        self.total = {name: self.total.get(name, 0.0) + value for name, value in parts.items()}
        self.count += 1

    def take(self) -> dict[str, float]:
        means = {name: value / self.count for name, value in self.total.items()}
        self.total, self.count = {}, 0
        return means

    def state(self) -> list[Any]:
        return [self.total, self.count]


def _over_workers(values: Mapping[str, float], world: World) -> dict[str, float]:
    gathered = world.gather(dict(values))
    return {name: float(np.mean([entry[name] for entry in gathered])) for name in values}


def _to_device(arrays: Arrays, on: torch.device) -> dict[str, Tensor]:
    # What comes from Ray's object store can't be written to, which tensors do not know of.
    owned = {name: value if value.flags.writeable else value.copy() for name, value in arrays.items()}
    return {name: torch.from_numpy(value).to(on, non_blocking=True) for name, value in owned.items()}


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
