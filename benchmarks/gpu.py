"""What ten minutes of a GPU can tell: steps, the loop around them, batch norm, loaders, options, one after the other.

    uv run python benchmarks/gpu.py [--device cuda] [--preset paper] [--methods plain lre] [--parts steps loop]
                                    [--steps 20] [--minutes 10] [--loaders 1 4 8 15]

Without Ray and without data: faces are those of the sample corpus's people, drawn here. Figures are printed as they are
measured, of a stage or a part, as a line of JSON. What would begin after --minutes is left out and said to be; so is
what fails. On a CPU it runs too, in sizes to choose: its figures are then of the CPU.

    machine   what computes; GB/s to the device from pageable and from pinned memory
    steps     each stage at the preset's batch, resident on the device: seconds of a step by the device's own clock and
              by the wall, seconds until a step is launched, values that Python reads back in a pass, peak memory
    loop      two epochs of each stage's training: seconds in steps, of the first and the second validation, of what the
              loop waits for checkpoints; and the same with validation samples made anew each time
    norm      forward and backward of a batch norm in 32 bits: torch's, ours over workers, torch's over workers (GPUs
              only), each with its collectives, of one worker
    loaders   samples/s of so many processes
    options   seconds of a step with one thing changed: no prefetch, a loss read in each step, no cuDNN benchmark, no
              fused optimizer, torch.compile
    together  steps/s of 1, 2 and 4 trainings at once on the device
    resume    largest difference of the weights after N steps, and after N/2, a checkpoint, and the rest
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
import torch.distributed as dist
from _jobs import jobs
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models import _distributed
from pipelines.common import device, tables
from pipelines.common.pictures import encode_png
from pipelines.datasets.sample.people import make_person, portraits
from pipelines.experiments.experiment import PRESETS, Experiment, Preset
from pipelines.training import kept, learner, loop, samples, stages, views
from pipelines.training.batches import local_batches
from pipelines.training.job import Job
from pipelines.training.learner import Learner
from pipelines.training.transfer import tensors, to_device
from pipelines.training.views import Video
from pipelines.training.workers import Alone

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
WARM_UP = 3  # steps that do not count
FACE_PX = 256  # of the stored crops
PER_VIDEO = 32  # faces
PEOPLE = 2  # whom the videos show in turn

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured."""

    on: torch.device
    preset: Preset
    methods: tuple[str, ...]
    steps: int
    loaders: tuple[int, ...]
    videos: int  # real ones, in training and in validation each; as many of each manipulation
    until: float  # by the monotonic clock: no stage begins later


# ----------------------------------------------------------------------------------------------------- faces
class Drawn:
    """In place of `Faces`: rows of any video, drawn from its name."""

    def __init__(self, folder: Path) -> None:
        del folder

    def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Return what `Faces.video` does."""
        table = _rows(video_id.split("/")[1] != "real", int(video_id.rpartition("/")[2]) % PEOPLE)
        table = table.set_column(
            table.schema.get_field_index("video_id"), "video_id", pa.array([video_id] * len(table))
        )
        table = table if rows is None else table.slice(rows.start, len(rows))
        return table if columns is None else table.select(list(columns))


@cache
def _rows(fake: bool, person: int) -> pa.Table:
    """Return the rows of a video, but for its name; there are few different ones, each as large as real ones."""
    rng = np.random.default_rng(person)
    shown = make_person(portraits(), rng)
    low, high = shown.landmarks.min(0), shown.landmarks.max(0)
    side = 1.6 * float((high - low).max())
    scale, corner = FACE_PX / side, (low + high) / 2 - side / 2
    matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    face = cv2.warpAffine(shown.image, matrix, (FACE_PX, FACE_PX), borderMode=cv2.BORDER_REPLICATE)
    points = ((shown.landmarks - corner) * scale).astype(np.float32)
    corners = dict(zip(("x0", "y0", "x1", "y1"), map(float, [*points.min(0), *points.max(0)]), strict=True))
    mask = np.zeros((FACE_PX, FACE_PX), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 255)
    made = []
    for frame in range(PER_VIDEO):
        image = np.clip(face + rng.normal(0, 2 + 2 * fake, face.shape), 0, 255).astype(np.uint8)
        made.append(
            {
                "dataset": "ffpp",
                "video_id": "",
                "method": "Deepfakes" if fake else "real",
                "codec": "c23",
                "split": "train",
                "time_s": 0.4 * frame,
                "label": int(fake),
                "status": "ok",
                "frame_index": frame,
                "face_index": 0,
                "face_score": 1.0,
                "image_png": encode_png(image),
                "mask_png": encode_png(mask) if fake else None,
                "landmarks_px": points.ravel().tolist(),
                "box_px": corners,
                "crop_px": {"x0": 0.0, "y0": 0.0, "x1": float(FACE_PX), "y1": float(FACE_PX)},
            }
        )
    return tables.to_table([dict.fromkeys(tables.FACES.names) | row for row in made], tables.FACES)


def videos(part: int, number: int) -> tuple[Video, ...]:
    """Return a real video of each person of a part, and a fake by each manipulation."""
    of_all = [(method, 1000 * part + i) for method in ("real", *METHODS) for i in range(number)]
    made = [Video(f"ffpp/{m}/c23/{i}", int(m != "real"), m, f"ffpp/{i}") for m, i in of_all]
    return tuple(sorted(made, key=lambda video: video.video_id))


def few_steps(options: Options, folder: Path, epochs: int = 2) -> Iterator[Job]:
    """Yield the job of each stage, as long as there is time; while it is out, the stage asks for these few steps."""
    train, select = (videos(part, options.videos) for part in (0, 1))
    for method in options.methods:
        drawn = Experiment(model=method, train_on="ffpp", test_on=(), protocol="in_dataset", preset=options.preset)
        drawn = drawn.override({"model.pretrained": False})
        planned = stages.plan(drawn, dict.fromkeys(views.VIEWS, "drawn"), folder)
        coming = jobs(planned, drawn.config(), train, select, {"ffpp": folder})
        while time.monotonic() <= options.until and (job := next(coming, None)):
            few = replace(job.stage.feed(job.config), num_epochs=epochs, steps_per_epoch=options.steps)
            with patch.object(job.stage, "feed", staticmethod(lambda cfg, few=few: few)):
                yield job


def at(job: Job, folder: Path, **changes: Any) -> Job:
    """Return the job with its stage in this folder, which is made."""
    folder.mkdir(parents=True)
    return replace(job, planned=replace(job.planned, folder=folder), **changes)


class World(Alone):
    """One worker on a device; it is stopped by InterruptedError after so many batches, if that is asked for."""

    def __init__(self, on: torch.device, most_batches: int | None = None) -> None:
        super().__init__()
        self.device, self.most_batches = on, most_batches

    def batches(self, *args: Any) -> Iterator[Any]:
        """Yield what `Alone` does, up to where it is stopped."""
        for number, batch in enumerate(super().batches(*args)):
            if number == self.most_batches:
                raise InterruptedError
            yield batch


# ----------------------------------------------------------------------------------------------------- steps
class Reads(TorchDispatchMode):
    """Counts how often Python reads a value of a tensor: on a GPU it waits for all work until then."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Trained:
    """A stage at its last epoch, when nothing that is freed later is still frozen, and batches for it."""

    def __init__(self, job: Job, on: torch.device, *, compiled: bool = False) -> None:
        feed = job.stage.feed(job.config)
        self.job, self.on, self.world = job, on, World(on)
        self.learner = Learner.begin(job, feed.num_epochs * job.view().steps_per_epoch, on)
        self.learner.module.train()
        self.learner.module.start_epoch(feed.num_epochs)
        self.model: nn.Module = torch.compile(self.learner.module) if compiled else self.learner.module  # type: ignore[assignment]
        self.watch = loop.Watch(self.world)
        self.arrays = [arrays for _, arrays in local_batches(job.samples(), job.view(), range(2), 0, 1)]
        self.batches = [{name: value.to(on) for name, value in tensors(arrays).items()} for arrays in self.arrays]

    def step(self, number: int, batch: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Take a step on a batch, by default on one that is on the device."""
        whole = {**(batch or self.batches[number % len(self.batches)]), "step_seed": torch.tensor(number)}
        self.watch.begin(number, [])
        return loop._step(
            self.model,
            self.learner.optimizer,
            [(whole, 1.0)],
            number,
            self.watch,
            self.world,
            self.job.planned.numerics,
        )

    def wait(self) -> None:
        """Wait for the device."""
        if self.on.type == "cuda":
            torch.cuda.synchronize(self.on)

    def seconds(self, steps: int, step: Callable[[int], Any] | None = None) -> float:
        """Return the seconds of a step, warmed up."""
        for number in range(WARM_UP):
            (step or self.step)(number)
        self.wait()
        began = time.perf_counter()
        for number in range(steps):
            (step or self.step)(number)
        self.wait()
        return (time.perf_counter() - began) / steps


def machine(options: Options, folder: Path) -> Figures:
    """Return what computes, and how fast bytes come to it."""
    del folder
    figures: Figures = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.on.type}
    data = torch.empty(2**26 if options.on.type == "cuda" else 2**22, dtype=torch.uint8)
    if options.on.type == "cuda":
        properties = torch.cuda.get_device_properties(options.on)
        figures |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
    for name, source in [("pageable", data), *([("pinned", data.pin_memory())] if options.on.type == "cuda" else [])]:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            source.to(options.on, copy=True)
            if options.on.type == "cuda":
                torch.cuda.synchronize(options.on)
            seconds.append(time.perf_counter() - began)
        figures[f"{name}_gb_s"] = len(data) / statistics.median(seconds) / 1e9
    return figures


def steps(options: Options, folder: Path) -> Iterator[Figures]:
    """Yield what a step of each stage takes."""
    for job in few_steps(options, folder):
        with device.in_force(job.planned.numerics, same_shapes=True):
            yield {f"{job.planned.paper}.{job.planned.name}": _steps(options, job)}


def _steps(options: Options, job: Job) -> Figures:
    trained = Trained(job, options.on)
    own: Figures = {"samples": job.view().step_size, "wall_s": trained.seconds(options.steps)}
    trained.wait()
    began = time.perf_counter()
    trained.step(0)
    own["launch_s"] = time.perf_counter() - began
    # Without the optimizer's own step: on a CPU it reads the number of its steps.
    with patch.object(trained.learner.optimizer, "step", lambda closure: closure()), Reads() as reads:
        trained.step(0)
    own["reads"] = reads.number
    if options.on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(options.on)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for number in range(options.steps):
            trained.step(number)
        last.record()
        trained.wait()
        own["device_s"] = first.elapsed_time(last) / 1e3 / options.steps
        own["peak_gb"] = torch.cuda.max_memory_allocated(options.on) / 1e9
    return own


# ------------------------------------------------------------------------------------------------------ loop
def timed(into: list[float], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that notes how many seconds each call took."""

    def call(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            into.append(time.perf_counter() - began)

    return call


def training(options: Options, folder: Path) -> Iterator[Figures]:
    """Yield where the time of two epochs goes, with and without validation samples that are kept."""
    for job in few_steps(options, folder):
        for name, room in (("kept", kept.MOST_KEPT_BYTES), ("made anew", 0)):
            notes: dict[str, list[float]] = {"validation": [], "step": [], "checkpoint": []}
            own = at(job, folder / name / job.planned.digest)
            with ExitStack() as stack:
                for target, what, note in (
                    (loop, "validate", "validation"),
                    (loop, "_step", "step"),
                    (learner.Saver, "save", "checkpoint"),
                ):
                    stack.enter_context(patch.object(target, what, timed(notes[note], getattr(target, what))))
                stack.enter_context(patch.object(loop, "Kept", partial(kept.Kept, most_bytes=room)))
                began = time.perf_counter()
                loop.loop(own, World(options.on))
                whole = time.perf_counter() - began
            figures: Figures = {
                "whole_s": whole,
                "steps_s": sum(notes["step"]),  # on a GPU: until they are launched
                "first_validation_s": notes["validation"][0],
                "last_validation_s": notes["validation"][-1],
                "waited_for_checkpoints_s": sum(notes["checkpoint"]),
            }
            yield {f"{job.planned.paper}.{job.planned.name}, {name}": figures}


def _synchronized(layer: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """Apply torch's batch norm over workers, though there is one only."""
    running, group = (layer.running_mean, layer.running_var), dist.group.WORLD
    result: Tensor = SyncBatchNorm.apply(x, layer.weight, layer.bias, *running, layer.eps, layer.momentum, group, 1)
    return result


def norm(options: Options, folder: Path) -> Figures:
    """Return seconds of a batch norm's forward and backward on a layer of Xception's size, and how it differs."""
    shape = (16, 128, 74, 74) if options.preset == "paper" else (4, 8, 16, 16)
    x = torch.randn(shape, device=options.on, requires_grad=True)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {"torch": nn.BatchNorm2d(shape[1]).to(options.on).train()}
    backend = "nccl" if options.on.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
    try:
        for name, native in (("ours over workers", False), ("torch's over workers", True)):
            if not native or options.on.type == "cuda":
                net = nn.Sequential(nn.BatchNorm2d(shape[1])).to(options.on).train()
                _distributed.synchronize_batch_norm(net, native=native)
                layer: Any = net[0]
                # Of one worker both would pass for torch's plain one.
                kinds[name] = partial(_synchronized, layer) if native else lambda x, layer=layer: layer._global(x)
        figures: Figures = {}
        expected: Tensor | None = None
        for name, apply in kinds.items():
            seconds = []
            for _ in range(WARM_UP + options.steps):
                began = time.perf_counter()
                y = apply(x)
                y.square().mean().backward()
                if options.on.type == "cuda":
                    torch.cuda.synchronize(options.on)
                seconds.append(time.perf_counter() - began)
            expected = y.detach() if expected is None else expected
            difference = float((y.detach() - expected).abs().max())
            figures[name] = {"seconds": statistics.median(seconds[WARM_UP:]), "difference": difference}
        return figures
    finally:
        dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------- processes
def _drawn_here() -> None:
    """Prepare a process that loads or trains."""
    samples.Faces = Drawn  # type: ignore[misc, assignment]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _load(options: Options, folder: Path, number: int) -> int:
    """Make batches of the first stage; return of how many samples."""
    held = few_steps(options, folder / f"loader-{number}")  # as long as it is held, the stage asks for few steps
    job = next(held)
    made = local_batches(job.samples(), job.view(), range(number, number + options.steps), 0, 1)
    return sum(len(picks) for picks, _ in made)


def _train(options: Options, folder: Path, number: int) -> float:
    """Return steps/s of a training of the first stage."""
    held = few_steps(options, folder / f"training-{number}")
    trained = Trained(next(held), options.on)
    return 1 / trained.seconds(options.steps)


def _at_once(number: int, work: Callable[[int], Any]) -> tuple[list[Any], float]:
    """Return what so many processes return, and the seconds of the slowest once all have started."""
    with ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _drawn_here) as pool:
        list(pool.map(time.sleep, [0.2] * number))
        began = time.perf_counter()
        return list(pool.map(work, range(number))), time.perf_counter() - began


def loaders(options: Options, folder: Path) -> Figures:
    """Return samples/s of so many loaders of the first stage; with what they do before their first sample."""
    figures = {}
    for number in options.loaders:
        made, seconds = _at_once(number, partial(_load, options, folder))
        figures[str(number)] = sum(made) / seconds
    return figures


def together(options: Options, folder: Path) -> Figures:
    """Return steps/s of all trainings at once."""
    return {
        str(number): sum(_at_once(number, partial(_train, options, folder))[0])
        for number in ((1, 2, 4) if options.on.type == "cuda" else (1, 2))
    }


# --------------------------------------------------------------------------------------------------- options
def choices(options: Options, folder: Path) -> Iterator[Figures]:
    """Yield the seconds of a step of each stage with one thing changed."""
    for job in few_steps(options, folder):
        yield {f"{job.planned.paper}.{job.planned.name}": _choices(options, job)}


def _choices(options: Options, job: Job) -> Figures:
    own: Figures = {}
    with device.in_force(job.planned.numerics, same_shapes=True):
        trained = Trained(job, options.on)
        stream = [((), trained.arrays[number % 2]) for number in range(options.steps + WARM_UP)]
        coming = to_device(iter(stream), options.on)
        own["prefetch"] = trained.seconds(options.steps, lambda n: trained.step(n, next(coming)[1]))
        sent = (tensors(arrays) for _, arrays in stream)
        own["no prefetch"] = trained.seconds(
            options.steps, lambda n: trained.step(n, {name: value.to(options.on) for name, value in next(sent).items()})
        )
        own["resident"] = trained.seconds(options.steps)
        own["a loss read in each step"] = trained.seconds(options.steps, lambda n: float(trained.step(n)["loss"]))
        with patch.object(learner, "fuse", lambda optimizer, on: None):
            own["not fused"] = Trained(job, options.on).seconds(options.steps)
        if options.on.type == "cuda":  # on a CPU it asks for a compiler
            own["compiled"] = Trained(job, options.on, compiled=True).seconds(options.steps)
    with device.in_force(job.planned.numerics):
        own["no cuDNN benchmark"] = Trained(job, options.on).seconds(options.steps)
    return own


def resume(options: Options, folder: Path) -> Figures:
    """Return how far the weights of the first stage are apart, trained at once and with a checkpoint in between."""
    held = few_steps(options, folder, epochs=1)
    job, half = next(held), max(1, options.steps // 2)
    whole, broken = (at(job, folder / name, checkpoint_steps=half) for name in ("whole", "broken"))
    loop.loop(whole, World(options.on))
    with suppress(InterruptedError):
        loop.loop(broken, World(options.on, most_batches=half))
    loop.loop(broken, World(options.on))
    one, other = (safetensors.torch.load_file(each.planned.folder / "weights.safetensors") for each in (whole, broken))
    return {"difference": max(float((one[name].double() - other[name].double()).abs().max()) for name in one)}


PARTS: Mapping[str, Callable[[Options, Path], Figures | Iterator[Figures]]] = {
    "machine": machine,
    "steps": steps,
    "loop": training,
    "norm": norm,
    "loaders": loaders,
    "options": choices,
    "together": together,
    "resume": resume,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device.best().type)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--methods", nargs="+", choices=models.names(), default=list(models.names()))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--videos", type=int, default=32, help="real ones, in training and in validation each")
    parser.add_argument("--minutes", type=float, default=10, help="after which no part begins")
    parser.add_argument("--loaders", type=int, nargs="+", default=[1, 4, 8, 15])
    told = parser.parse_args(arguments)
    options = Options(
        on=torch.device(told.device),
        preset=told.preset,
        methods=tuple(told.methods),
        steps=told.steps,
        loaders=tuple(told.loaders),
        videos=told.videos,
        until=time.monotonic() + 60 * told.minutes,
    )

    def say(part: str, figures: Figures) -> None:
        sys.stdout.write(json.dumps({"part": part, **figures}) + "\n")
        sys.stdout.flush()

    with patch.object(samples, "Faces", Drawn):
        for name in told.parts:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    if time.monotonic() <= options.until:
                        found = PARTS[name](options, Path(folder))
                        for figures in [found] if isinstance(found, dict) else found:
                            say(name, figures)
            except Exception as error:  # noqa: BLE001  # the other parts' figures are worth as much
                say(name, {"failed": f"{type(error).__name__}: {error}"})
            if time.monotonic() > options.until:
                say(name, {"left out": f"what would have begun after {told.minutes:g} minutes"})


if __name__ == "__main__":
    main()
