"""The training loop of one worker: the same alone, and as one of many.

A step's samples and randomness depend on (seed, step) alone, so a resumed training ends with the same weights. The
number of workers may change on the way (`Compute.min_workers`): only what a network draws for itself, such as dropout,
is then drawn anew, as each worker has its own seed.
The epoch that is kept is chosen on the validation part of the training dataset, by the stage's rule (`selects_by`).
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

import models
from models import BadSample
from models._distributed import alone
from pipelines.common import device, progress, provenance, tables
from pipelines.common.numerics import Numerics
from pipelines.common.storage import write_text
from pipelines.metrics import detection
from pipelines.training import views
from pipelines.training.batches import ahead, chunks, stack
from pipelines.training.job import Job
from pipelines.training.kept import Kept
from pipelines.training.learner import Learner, Saver, newest_checkpoint
from pipelines.training.samples import VAL_FRAMES, Samples, face_area_px
from pipelines.training.transfer import tensors, to_device
from pipelines.training.views import Pick
from pipelines.training.workers import World

NOTE_SECONDS = 1  # between notes of where the training stands
# Between two looks at whether losses were finite and a checkpoint is due, at most so many steps and about so many
# seconds: to look is to wait for the device and for all workers.
CHECK_STEPS, CHECK_SECONDS = 20, 30.0


class NonFiniteLoss(ValueError):
    """The loss is NaN or infinite; the text names the step and the samples."""


def loop(job: Job, world: World) -> None:
    """Train from the newest checkpoint to the end, and finish the stage."""
    if job.planned.done:  # a worker died between the marker and its own end
        return
    with device.in_force(job.planned.numerics, same_shapes=True):
        _train(job, world)


def _train(job: Job, world: World) -> None:
    view, samples = job.view(), job.samples()
    val_samples = Kept(job.select_samples())  # its own: a thread reads the training samples ahead
    epoch_steps = view.steps_per_epoch
    num_steps = epoch_steps * job.stage.feed(job.config).num_epochs
    cuts = job.sharing(view).cuts(world.size)

    # The first worker's choice: one on a node that was given up for lost may still be writing another.
    learner = Learner.begin(job, num_steps, world.device, world.gather(newest_checkpoint(job))[0])
    module, state = learner.module, learner.state
    state.note_workers(world.size, cuts)
    state.note_made_with(world.gather(device.made_with(job.planned.numerics, world.device)))
    model, trainable = world.wrap(module), _trainable(module)
    module.train()
    epoch_began = noted_at = looked_at = time.monotonic()
    looked, look = state.step, state.step + 1  # the steps of the last look and of the next

    steps, watch = range(state.step, num_steps), Watch(world)
    batches = to_device(world.batches(job, samples, view, steps), world.device, job.stage.left_on_cpu)
    # Closed here, also after an error: its threads would else be waited for wherever garbage is collected next.
    with Saver(job.planned.folder, job.claim) as saver, closing(batches):
        for step, (picks, arrays) in zip(steps, batches, strict=True):
            if step % epoch_steps == 0:
                module.start_epoch(step // epoch_steps + 1)
            # A stage may set parameters free when an epoch starts; one that goes on may have done so before.
            if trainable != _trainable(module):
                model, trainable = world.wrap(module), _trainable(module)
            torch.manual_seed(_seed_of(job.seed, step, world.rank))
            batch = arrays | {"step_seed": torch.tensor(_seed_of(job.seed, step, 0))}
            watch.begin(step, picks)
            try:
                cut = _cut(module, batch, cuts)
                learner.losses.add(_step(model, learner.optimizer, cut, step, watch, world, job.planned.numerics))
            except Exception:
                watch.check_here(module)  # it may come of a loss that was not finite
                raise
            if not isinstance(learner.scheduler, ReduceLROnPlateau):
                learner.scheduler.step()
            state.step = step + 1
            if world.rank == 0 and time.monotonic() - noted_at > NOTE_SECONDS:
                progress.note(job.planned.folder, job.planned.name, state.step, num_steps)
                noted_at = time.monotonic()

            epoch_ends = state.step % epoch_steps == 0
            asked = job.checkpoint_steps is not None and state.step % job.checkpoint_steps == 0
            if not (epoch_ends or asked or state.step >= look):
                continue
            watch.check()  # before anything of these steps is kept
            took_s = max(world.gather(time.monotonic() - looked_at)) / (state.step - looked)
            looked, look = state.step, state.step + min(CHECK_STEPS, max(1, int(CHECK_SECONDS / max(took_s, 1e-9))))
            if epoch_ends:
                end_epoch(job, learner, val_samples, world, state.step // epoch_steps, time.monotonic() - epoch_began)
                epoch_began = time.monotonic()
            looked_at = time.monotonic()
            if world.rank == 0 and state.step < num_steps and (asked or saver.due(epoch_ends)):
                saver.save(learner)
    if world.rank == 0:
        best = safetensors.torch.save(learner.best) if learner.best is not None else None
        job.claim.check()
        job.planned.finish(state.best_epoch, _summary(job, learner, num_steps), best)
    world.gather(None)  # nobody leaves before the marker is written


def end_epoch(
    job: Job, learner: Learner, val_samples: Samples | Kept, world: World, epoch: int, seconds: float
) -> None:
    """Validate, let the plateau scheduler see the loss, keep the weights if they are the best, write the curve."""
    state, scheduler = learner.state, learner.scheduler
    line: dict[str, float] = {
        "epoch": epoch,
        "step": state.step,
        "lr": float(scheduler.get_last_lr()[0]),
        "seconds": round(seconds, 3),
    }
    means = world.gather(learner.losses.take_means())
    line |= {f"train/{name}": float(np.mean([own[name] for own in means])) for name in means[0]}
    line |= {f"val/{name}": value for name, value in validate(job, learner.module, val_samples, world).items()}
    learner.module.train()
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(line["val/loss"])
    if world.rank == 0:
        job.claim.check()  # what is written now replaces what who has taken over wrote
    learner.keep_best(job, line, world.rank)
    state.curve.append(line)
    if world.rank == 0:
        write_text(job.planned.folder / "curves.jsonl", "".join(json.dumps(entry) + "\n" for entry in state.curve))


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cuts: Sequence[tuple[Mapping[str, Tensor], float]],
    step: int,
    watch: "Watch",
    world: World,
    numerics: Numerics,
) -> dict[str, Tensor]:
    """Take one optimizer step; return its losses, in 64 bits on the device: to read one is to wait for the step.

    The closure may run more than once (SAM): its first losses count.
    cuts: of the worker's samples, with what each one's loss counts; the gradients of all add up.
    """
    parts: dict[str, Tensor] = {}

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        repeat, whole = torch.tensor(bool(parts)), torch.zeros((), device=world.device)
        first = not parts
        for number, (batch, counts) in enumerate(cuts, 1):
            with _gradients_stay_here(model, number < len(cuts)):
                with device.autocast(numerics, world.device):
                    out = model({**batch, "repeat": repeat})
                watch.see(out["loss"].detach())
                (out["loss"] * counts).backward()
            whole = whole + out["loss"].detach() * counts
            if first:
                for name, value in out.items():
                    if value.ndim == 0:
                        counted = value.detach().to(world.device, torch.float64) * counts
                        parts[name] = parts[name] + counted if name in parts else counted
        return whole

    optimizer.step(closure)  # type: ignore[arg-type]  # torch's own closures return tensors
    return parts


class Watch:
    """Whether losses are finite: noted on the device, read now and then."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.picks: dict[int, Sequence[Pick]] = {}  # of the steps since the last check
        self._fine = torch.tensor(torch.iinfo(torch.int64).max, device=world.device)
        self.first_ill, self._step = self._fine, self._fine

    def begin(self, step: int, picks: Sequence[Pick]) -> None:
        """Note what a step trains on."""
        self.picks[step] = picks
        self._step = torch.full_like(self._fine, step)

    def see(self, loss: Tensor) -> None:
        """Note whether a loss of this step is finite."""
        self.first_ill = torch.where(torch.isfinite(loss), self.first_ill, self.first_ill.minimum(self._step))

    def check(self) -> None:
        """Raise NonFiniteLoss on every worker if a loss of one was not finite since the last check."""
        own = self._own()
        self.picks.clear()
        told = [entry for entry in self.world.gather(own) if entry[1]]
        if told:
            step = min(step for step, _ in told)
            raise _not_finite(step, {video_id for at, of_worker in told if at == step for video_id in of_worker})

    def check_here(self, module: nn.Module) -> None:
        """Raise NonFiniteLoss if a loss of this worker was not finite since the last check, or the weights are not.

        That is what another worker's loss makes of them. The others are not asked: they may wait for this one.
        """
        step, video_ids = self._own()
        if video_ids:
            raise _not_finite(step, video_ids)
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            raise NonFiniteLoss(f"the weights are not finite any more at step {max(self.picks)}")

    def _own(self) -> tuple[int, list[str]]:
        """Return the first step since the last check at which this worker's loss was not finite, and its samples."""
        step = int(self.first_ill)
        return step, sorted({pick.video.video_id for pick in self.picks.get(step, ())})


def _not_finite(step: int, video_ids: Iterable[str]) -> NonFiniteLoss:
    return NonFiniteLoss(f"the loss is not finite at step {step}; the samples were {', '.join(sorted(video_ids))}")


def _gradients_stay_here(model: nn.Module, stay: bool) -> AbstractContextManager[None]:
    """Keep DDP from averaging gradients over workers: once is enough, after a step's last cut."""
    return model.no_sync() if stay and isinstance(model, DistributedDataParallel) else nullcontext()


def _cut(module: models.Stage, batch: Mapping[str, Tensor], cuts: int) -> list[tuple[Mapping[str, Tensor], float]]:
    """Return equal parts of a worker's samples in their order, and which share of the step's loss each part's is."""
    if cuts == 1:
        return [(batch, 1.0)]
    parts = {name: value.chunk(cuts) if value.ndim else [value] * cuts for name, value in batch.items()}
    batches = [{name: part[i] for name, part in parts.items()} for i in range(cuts)]
    weights = [module.weight(part) for part in batches]
    return [(part, weight / sum(weights)) for part, weight in zip(batches, weights, strict=True)]


def _trainable(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def validate(job: Job, module: models.Stage, samples: Samples | Kept, world: World) -> dict[str, float]:
    """Return `loss` and, for classifiers, video-level `auc` and frame-level `accuracy` on the selection part.

    Every sample counts once, whatever the number of workers and however samples are cut into batches; faces make up the
    score of a video as in tests. The random parts of validation samples (masks, pseudo-fakes) are the same in every
    epoch. In view `real_pairs` the pseudo-fakes of a video count as a fake video.
    """
    module.eval()
    videos = [v for v in job.select if v.label == tables.REAL or job.stage.view not in views.REAL_VIEWS]
    losses: list[tuple[int, float, float]] = []  # label, loss, how much it counts
    logits: dict[_Face, list[float]] = {}  # of a face in two clips there are two
    loaded = (
        (video, faces, arrays)
        for video in videos[world.rank :: world.size]
        for faces, arrays in samples.scoring_samples(video, seed=0, mode="select", most_frames=VAL_FRAMES)
    )
    stacked = (
        ((chunk, whole), whole)
        for chunk in chunks(loaded, job.stage.feed(job.config).batch_size)
        for whole in [stack([arrays for _, _, arrays in chunk])]
    )
    computed = []
    for (chunk, whole), batch in to_device(ahead(stacked), world.device, module.left_on_cpu):
        with alone():  # workers have unequal numbers of batches
            with device.autocast(job.planned.numerics, world.device):
                out = module(batch)
            counts = 1.0 if out["loss"].ndim else module.weight(tensors(whole)) / len(chunk)  # of each sample
        covered = [(video, faces) for video, faces, _ in chunk]
        computed.append((covered, out["loss"].expand(len(chunk)), out.get("logit"), counts))
    for covered, loss_B, logit_B, counts in computed:  # the device has been busy until here
        pairs = logit_B is not None and logit_B.ndim == 2
        scored_B = [None] * len(covered) if logit_B is None else logit_B.view(len(covered), -1).tolist()
        for (video, faces), loss, own in zip(covered, loss_B.tolist(), scored_B, strict=True):
            labels = (tables.REAL, tables.FAKE) if pairs else (video.label,)
            losses += [(label, loss, counts) for label in labels]
            for label, logit in zip(labels, own or (), strict=bool(own)):
                for face in faces:
                    logits.setdefault(_Face.of(video.video_id, label, face), []).append(logit)
    of_workers = world.gather((losses, list(logits.items())))
    losses = [entry for of_worker, _ in of_workers for entry in of_worker]
    scored = [entry for _, of_worker in of_workers for entry in of_worker]
    if not losses:
        raise BadSample(f"none of the {len(videos)} validation videos has a face that {job.stage.name} can use")
    groups = [losses]
    if job.stage.balances_val_loss:
        groups = [[entry for entry in losses if entry[0] == label] for label in (tables.REAL, tables.FAKE)]
    means = [np.average([e[1] for e in group], weights=[e[2] for e in group]) for group in groups if group]
    result = {"loss": float(np.mean(means))}
    if scored:
        rows = [face._asdict() | {"logit": float(detection.mean_score(several))} for face, several in scored]
        table = pa.Table.from_pylist(rows)
        every_face = {_Face.name_of(name, label) for name in job.every_face for label in (tables.REAL, tables.FAKE)}
        of_videos = detection.by_video(table, job.stage.pooling(job.config), every_face)
        of_frames = detection.with_score(detection.highest_faces(table, every_face))
        result["auc"] = detection.auc(of_videos["label"], of_videos["logit"])
        result["accuracy"] = detection.accuracy(of_frames["label"], of_frames["score"])
    return result


class _Face(NamedTuple):
    """A face of the selection part, or the pseudo-fake made of it."""

    video_id: str  # see `name_of`
    label: int
    frame_index: int
    face_index: int
    face_area_px: float

    @classmethod
    def of(cls, video_id: str, label: int, face: Mapping[str, Any]) -> "_Face":
        name = cls.name_of(video_id, label)
        return cls(name, label, face["frame_index"], face["face_index"], face_area_px(face))

    @staticmethod
    def name_of(video_id: str, label: int) -> str:
        """Return an id of a video's faces as they are, or of the pseudo-fakes made of them."""
        return f"{video_id} {label}"


def _summary(job: Job, learner: Learner, num_steps: int) -> dict[str, Any]:
    """Return what `_done.json` says of the training."""
    state = learner.state
    return {
        "best_epoch": state.best_epoch,
        "selected_by": job.stage.selects_by,
        "steps": num_steps,
        "parameters": sum(p.numel() for p in learner.module.parameters()),
        "train_videos": len(job.train),
        "select_videos": len(job.select),
        "seconds": round(sum(line["seconds"] for line in state.curve), 1),
        "made_with": provenance.joined(state.made_with) | {"pretrained": ", ".join(job.planned.pretrained) or "none"},
        "threads": torch.get_num_threads(),
        "workers": state.workers,
        "accumulate": state.cuts,
    }


def _seed_of(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
