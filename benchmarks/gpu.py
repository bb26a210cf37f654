"""What ten minutes of a GPU can tell: steps, the loop around them, batch norm, loaders, options, one after the other.

    uv run python benchmarks/gpu.py [--device cuda] [--preset paper] [--methods plain lre] [--parts steps loop]
                                    [--steps 20] [--minutes 10] [--loaders 1 4 8 15] [--scorers 1 4 8 12]

Without Ray and without data: faces are those of the sample corpus's people, drawn here. Figures are printed as they are
measured, of a stage or a part, as a line of JSON. What would begin after --minutes is left out and said to be; so is
what fails. On a CPU it runs too, in sizes to choose: its figures are then of the CPU.

    machine   what computes, its driver, CPU cores; GB/s to the device from pageable and from pinned memory
    steps     each stage at the preset's batch, resident on the device: seconds of a step by the device's own clock and
              by the wall, seconds until a step is launched, how often a pass waits for the device, peak memory
    loop      two epochs of each stage's training: seconds in steps, of the first and the second validation, of what the
              loop waits for checkpoints; and the same with validation samples made anew each time
    norm      forward and backward of a batch norm in 32 bits: torch's, ours over workers, torch's over workers (GPUs
              only), each with its collectives, of one worker
    loaders   samples/s of so many processes; here and below all are warm before the clock begins
    scoring   faces/s of so many processes that score with one stage on the same device
    options   seconds of a step with one thing changed: no prefetch, a loss read in each step, no cuDNN benchmark, no
              fused optimizer, SAM one parameter after the other, attention written out, and without a mask;
              torch.compile, and with CUDA graphs
    together  steps/s of 1, 2 and 4 trainings at once on the device, of all of them
    resume    largest difference of the weights after N steps, and after N/2, a checkpoint, and the rest
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import safetensors.torch
import torch
import torch.distributed as dist
from _gpu import WARM_UP, Drawn, Options, Trained, World, at, few_steps, videos, waits
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules._functions import SyncBatchNorm

import models
from models import _distributed, _sam, delocate
from models._layers import Attention
from pipelines.common import device
from pipelines.experiments.experiment import PRESETS
from pipelines.scoring import score
from pipelines.training import kept, learner, loop, samples
from pipelines.training.batches import local_batches
from pipelines.training.job import Job
from pipelines.training.transfer import to_device

Figures = dict[str, Any]


# ----------------------------------------------------------------------------------------------------- steps
def machine(options: Options, folder: Path) -> Figures:
    """Return what computes, and how fast bytes come to it."""
    del folder
    figures: Figures = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.on.type}
    figures["cpu_cores"] = len(os.sched_getaffinity(0))  # that this process may use
    data = torch.empty(2**26 if options.on.type == "cuda" else 2**22, dtype=torch.uint8)
    if options.on.type == "cuda":
        properties = torch.cuda.get_device_properties(options.on)
        figures |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        figures["driver"] = driver()
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


def driver() -> str:
    """Return the version of NVIDIA's driver, as its own tool says it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")[0].strip()
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known: {error}"


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
    with patch.object(trained.learner.optimizer, "step", lambda closure: closure()), waits(options.on) as waited:
        trained.step(0)
        own["waits"] = waited()
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
# The share of one process: it yields once when it is warm, and then how much it has done.
Share = Iterator[int]

_all_warm: Any = None  # a barrier of all processes that work at once


def _begin(all_warm: Any) -> None:
    """Prepare a process that loads, trains or scores."""
    global _all_warm
    _all_warm = all_warm
    samples.Faces = Drawn  # type: ignore[misc, assignment]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _load(options: Options, folder: Path, number: int) -> Share:
    """Make batches of the first stage; samples."""
    held = few_steps(options, folder / f"loader-{number}")  # as long as it is held, the stage asks for few steps
    job = next(held)
    made = local_batches(job.samples(), job.view(), range(number, number + 1 + options.steps), 0, 1)
    next(made)
    yield 0
    yield sum(len(picks) for picks, _ in made)


def _train(options: Options, folder: Path, number: int) -> Share:
    """Train the first stage; steps."""
    held = few_steps(options, folder / f"training-{number}")
    trained = Trained(next(held), options.on)
    trained.seconds(1)
    yield 0
    for step in range(options.steps):
        trained.step(step)
    trained.wait()
    yield options.steps


def _score(options: Options, folder: Path, number: int) -> Share:
    """Score with the first stage that scores, its network at random; faces."""
    held = few_steps(options, folder / f"scorer-{number}")
    job = next(job for job in held if job.stage.scores)
    own = at(job, folder / f"scorer-{number}" / "scored")
    weights = job.stage(job.config).state_dict()
    own.planned.finish(0, {"made_with": {}}, safetensors.torch.save(weights))
    with patch.object(score.device, "best", lambda: options.on):
        actor = score.ScoreVideos([score.FinishedStage(planned=own.planned, config=job.config)], job.faces)
    warm, *others = [score.as_table([video]) for video in videos(2 + number, 1 + options.steps // 4)]
    actor(warm)
    yield 0
    yield sum(actor(video).num_rows for video in others)


def _do(work: Callable[[int], Share], number: int) -> tuple[int, float, float]:
    """Do a share once all processes are warm; return how much it was, when it began and when it ended."""
    share = work(number)
    try:
        next(share)
        _all_warm.wait()  # so no process gets two shares
    except BaseException:
        _all_warm.abort()  # the others must not wait for this one
        raise
    began = time.monotonic()  # one clock for all processes of a machine
    return next(share), began, time.monotonic()


def _at_once(number: int, work: Callable[[int], Share]) -> float:
    """Return how much so many processes do in a second, all at once: from the first that begins to the last that ends.

    What they do before all are warm does not count. Raises what the share of one has raised.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, spawn, _begin, (spawn.Barrier(number),)) as pool:
        shares = [pool.submit(_do, work, each) for each in range(number)]
    errors = [error for share in shares if (error := share.exception())]
    if errors:  # of those that waited for it last
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    done, began, ended = zip(*(share.result() for share in shares), strict=True)
    return float(sum(done) / (max(ended) - min(began)))


def loaders(options: Options, folder: Path) -> Figures:
    """Return samples/s of so many loaders of the first stage."""
    return {str(number): _at_once(number, partial(_load, options, folder / str(number))) for number in options.loaders}


def scoring(options: Options, folder: Path) -> Figures:
    """Return faces/s of so many processes that score at once with the first stage that scores."""
    return {str(number): _at_once(number, partial(_score, options, folder / str(number))) for number in options.scorers}


def together(options: Options, folder: Path) -> Figures:
    """Return steps/s of so many trainings at once, of all of them."""
    numbers = (1, 2, 4) if options.on.type == "cuda" else (1, 2)
    return {str(number): _at_once(number, partial(_train, options, folder / str(number))) for number in numbers}


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
        coming = to_device(iter(stream), options.on, job.stage.left_on_cpu)
        own["prefetch"] = trained.seconds(options.steps, lambda n: trained.step(n, next(coming)[1]))
        made = (arrays for _, arrays in stream)
        own["no prefetch"] = trained.seconds(options.steps, lambda n: trained.step(n, trained.sent(next(made))))
        own["resident"] = trained.seconds(options.steps)
        own["a loss read in each step"] = trained.seconds(options.steps, lambda n: float(trained.step(n)["loss"]))
        with patch.object(learner, "fuse", lambda optimizer, on: None):
            own["not fused"] = Trained(job, options.on).seconds(options.steps)
        for name, other in _others(trained):
            with other:
                own[name] = Trained(job, options.on).seconds(options.steps)
        if options.on.type == "cuda":  # on a CPU it asks for a compiler
            for name, mode in {"compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}.items():
                try:
                    own[name] = Trained(job, options.on, mode=mode).seconds(options.steps)
                except Exception as error:  # noqa: BLE001  # the other figures are worth as much
                    own[name] = f"{type(error).__name__}: {error}"[:200]
    with device.in_force(job.planned.numerics):
        own["no cuDNN benchmark"] = Trained(job, options.on).seconds(options.steps)
    return own


class LoopedSAM(_sam.SAM):
    """The same step, one parameter after the other."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Take one step."""
        with torch.enable_grad():
            loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in moved]).norm()
        before = [p.clone() for p in moved]
        for p in moved:
            p.add_(p.grad * (self.rho / (norm + 1e-12)))
        with torch.enable_grad():
            closure()
        for p, was in zip(moved, before, strict=True):
            p.copy_(was)
        self.base.step()
        return loss


def _others(trained: Trained) -> Iterator[tuple[str, AbstractContextManager[Any]]]:
    """Yield what a stage's network or optimizer can do otherwise, by name; within the block, it does."""
    stage = trained.job.stage
    if isinstance(trained.learner.optimizer, _sam.SAM):
        yield "SAM in a loop", patch.object(sys.modules[stage.__module__], "SAM", LoopedSAM)
    if any(isinstance(module, Attention) for module in trained.learner.module.modules()):
        yield "attention written out", sdpa_kernel(SDPBackend.MATH)
    if stage is delocate.Recover:  # its padding is then seen: other numbers, of which the time alone counts

        def unmasked(*args: Any) -> tuple[Tensor, None]:
            return visible(*args)[0], None

        visible = delocate.visible_index
        yield "attention without a mask", patch.object(delocate, "visible_index", unmasked)


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
    "scoring": scoring,
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
    parser.add_argument("--scorers", type=int, nargs="+", default=[1, 4, 8, 12])
    told = parser.parse_args(arguments)
    options = Options(
        on=torch.device(told.device),
        preset=told.preset,
        methods=tuple(told.methods),
        steps=told.steps,
        loaders=tuple(told.loaders),
        scorers=tuple(told.scorers),
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
