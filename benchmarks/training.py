"""What a training step of every method costs beside its bare backbone, and how long training waits for data.

    uv run python benchmarks/training.py [--methods lre plain] [--preset paper] [--device cuda] [--batch-size 8]
                                         [--loaders 1 2 4] [--step-ms 50] [--storage DIR]

Every stage of every method, on faces of the sample corpus, which is made and extracted on first use. Weights are
random. Stage and bare backbone run in turn in one process of their own, in the precision that training has. On a CPU
all times are CPU seconds of one thread. A sample is what the stage's view gives: a face, a pair of faces, or a clip.

Steps:
    bare      forward and backward of the backbone (`BARE`) on as many images as the samples hold, at the network's size
    stage     forward and backward of the stage; with SAM both passes
    ratio     of the two
    update    the rest of the optimizer's step
    peak      memory of weights, gradients, optimizer and activations. CPU: growth of the resident memory

Data:
    load      CPU time of one loader process for a sample: read a video's faces, decode, `Stage.prepare`. No video is
              in a cache, because a real dataset has more of them than a cache holds; files are in the system's cache
    waits     share of its time that training waits for the next batch, measured with so many loader processes of
              `training.batches.ray_batches` beside it; `in process` is the thread of a training without Ray Train.
              --step-ms: beside a consumer of that speed instead of the real step
    needs     loader processes with which it would wait less than 5 %: what loading takes over what a step takes
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from _jobs import jobs
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import models
from models._layers import timm_model
from models._xception import Features, Xception
from pipelines import datasets
from pipelines.common import cluster, device
from pipelines.common.numerics import Numerics
from pipelines.datasets.sample import corpus
from pipelines.experiments import protocol
from pipelines.experiments.experiment import PRESETS, Experiment
from pipelines.faces import store
from pipelines.faces.plan import faces_folder
from pipelines.training import views
from pipelines.training.batches import local_batches, ray_batches
from pipelines.training.job import Job
from pipelines.training.samples import Arrays, Samples
from pipelines.training.transfer import left_on_cpu
from pipelines.trials import planner
from pipelines.trials.trial import Trial

WARM_UP = 2  # steps that do not count
NUM_LOADED = 4  # batches
ENOUGH = 0.05  # share of its time that training may wait


# ------------------------------------------------------------------------------------ bare backbones
@dataclass(frozen=True)
class Bare:
    """A stage's backbone alone."""

    name: str
    make: Callable[[], nn.Module]
    input_px: int


def _timm(name: str, input_px: int) -> Bare:
    return Bare(name, partial(timm_model, name, pretrained=False, num_classes=1), input_px)


def _xception(width: float, num_middle: int, input_px: int) -> Bare:
    name = "legacy_xception" + (f" x {width:g}, {num_middle} middle" if (width, num_middle) != (1, 8) else "")
    return Bare(name, partial(Xception, width=width, num_middle=num_middle), input_px)


def _vit(input_px: int, patch_px: int, width: int, depth: int, num_heads: int) -> Bare:
    """timm's vision transformer of that shape, frame by frame."""

    def make() -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        sizes = {"img_size": input_px, "patch_size": patch_px, "embed_dim": width}
        return VisionTransformer(**sizes, depth=depth, num_heads=num_heads, num_classes=1)

    return Bare(f"ViT {width} x {depth}, {patch_px} px patches", make, input_px)


def _delocate_vit(cfg: Any) -> Bare:
    """Not the same shape: the encoder sees a clip as one sequence of tubelets, this one each of its frames."""
    return _vit(cfg.clip.input_px, cfg.clip.patch_px, cfg.vit.width, cfg.vit.depth, cfg.vit.num_heads)


def _lre_vit(cfg: Any) -> Bare:
    """All patches, where the autoencoder's encoder sees a quarter and its decoder all."""
    r = cfg.reconstruct
    return _vit(cfg.face.input_px, r.patch_px, r.width, r.depth, r.num_heads)


BARE: Mapping[tuple[str, str], Callable[[Any], Bare]] = {
    ("plain", "detect"): lambda cfg: _timm(cfg.backbone, cfg.input_px),
    ("mc_lcr", "detect"): lambda cfg: _xception(cfg.backbone_width, cfg.backbone_middle, cfg.input_px),
    ("laa_net", "detect"): lambda cfg: _timm(cfg.net.encoder, cfg.data.input_px),
    ("adfd", "detect"): lambda cfg: _timm(cfg.net.backbone, cfg.data.input_px),
    ("lre", "reconstruct"): _lre_vit,
    ("lre", "detect"): lambda cfg: _xception(cfg.detect.xception_width, cfg.detect.xception_middle, cfg.face.input_px),
    ("delocate", "recover"): _delocate_vit,
    ("delocate", "finetune"): _delocate_vit,
    ("delocate", "localize"): lambda cfg: _timm(cfg.localize.encoder, cfg.clip.input_px),
}


# --------------------------------------------------------------------------------------------- steps
@dataclass(frozen=True, kw_only=True)
class Options:
    device: torch.device
    batch_size: int | None
    num_steps: int
    num_batches: int
    loaders: tuple[int, ...]
    step_s: float | None


@dataclass(kw_only=True)
class Measured:
    """Seconds of one step, or of loading one step's samples; medians."""

    samples: int
    images: int
    bare: str
    bare_s: float
    stage_s: float
    update_s: float
    peak_bytes: int
    load_s: float
    load_samples: int
    step_s: float  # of the consumer beside which waiting was measured
    waits: dict[int, float] = field(default_factory=dict)  # loader processes -> share of time; 0: in process

    @property
    def needs(self) -> int:
        """Waiting is max(step, load / n) - step of every max(step, load / n)."""
        return max(1, math.ceil((1 - ENOUGH) * self.load_s / self.step_s))


class Stopwatch:
    """Seconds: on a GPU of the clock, when its work is done; else CPU time of this process."""

    def __init__(self, on: torch.device) -> None:
        self.on = on

    def __call__(self) -> float:
        if self.on.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


class Trained:
    """A stage in training mode at its last epoch, when nothing that is freed later is still frozen."""

    def __init__(self, job: Job, on: torch.device) -> None:
        feed = job.stage.feed(job.config)
        torch.manual_seed(0)
        self.module = job.stage(job.config)
        if job.stage.starts_from:
            weights = job.earlier[job.stage.starts_from].folder / "weights.safetensors"
            self.module.load_start(safetensors.torch.load_file(weights))
        self.module.to(on).train()
        self.optimizer, _ = self.module.optimizer(job.view().steps_per_epoch * feed.num_epochs)
        self.on, self.last_epoch = on, feed.num_epochs
        self.module.start_epoch(self.last_epoch)

    def step(self, batch: Mapping[str, Tensor], now: Callable[[], float]) -> tuple[float, float]:
        """Seconds of forward and backward, and of the rest, in one step of the optimizer."""
        passes: list[float] = []

        def closure() -> Tensor:
            started = now()
            self.optimizer.zero_grad(set_to_none=True)
            with device.autocast(Numerics(), self.on):
                loss = self.module({**batch, "repeat": torch.tensor(bool(passes))})["loss"]
            loss.backward()
            passes.append(now() - started)
            return loss

        started = now()
        self.optimizer.step(closure)
        return sum(passes), now() - started - sum(passes)


def to_device(job: Job, arrays: Mapping[str, Any], on: torch.device, size: int | None) -> dict[str, Tensor]:
    here = {name: torch.from_numpy(value[:size]) for name, value in arrays.items()}
    there = {name: value.to(on) for name, value in here.items()}
    return there | left_on_cpu(here, job.stage.left_on_cpu) | {"step_seed": torch.tensor(0)}


def images_of(job: Job, samples: int) -> int:
    """How many images the networks get."""
    if job.stage.view in views.CLIP_VIEWS:
        return samples * job.stage.feed(job.config).clip_frames
    return samples * (2 if job.stage.view == "real_pairs" else 1)


class Untied:
    """A stage's backbone alone, and images for it; nothing where `BARE` does not know it."""

    def __init__(self, job: Job, num_images: int, on: torch.device) -> None:
        known = BARE.get((job.planned.paper, job.planned.name))
        self.bare = known(job.config) if known else None
        if self.bare is not None:
            px = self.bare.input_px
            self.net = self.bare.make().to(on).train()
            # Channels last in memory, as images come from a batch: convolutions are faster that way.
            self.images = torch.rand(num_images, px, px, 3, device=on).permute(0, 3, 1, 2)

    @property
    def name(self) -> str:
        return f"{self.bare.name} @ {self.bare.input_px}" if self.bare else "none known"

    def step(self, now: Callable[[], float]) -> float:
        """Seconds of forward and backward."""
        if self.bare is None:
            return math.nan
        started = now()
        self.net.zero_grad(set_to_none=True)
        with device.autocast(Numerics(), self.images.device):
            out = self.net(self.images)
        (out.top if isinstance(out, Features) else out).float().mean().backward()
        return now() - started


def peak_of(work: Callable[[], None], on: torch.device) -> int:
    """Bytes that `work` needed at most, beyond what there was before."""
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    before = psutil.Process().memory_info().rss
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before  # Linux counts in KiB


# ---------------------------------------------------------------------------------------------- data
def uncached(job: Job) -> Callable[[], Samples]:
    """Makes the stage's training samples without their memory of videos read before."""

    def make() -> Samples:  # in loaders too, to which nothing of this file is known
        samples = job.samples()
        samples._rows = samples._read_rows  # type: ignore[assignment]
        if samples.derived is not None:
            samples.derived.video = samples.derived.video.__wrapped__
        return samples

    return make


def waiting(batches: Iterator[Any], consume: Callable[[Any], None]) -> float:
    """Share of the time that the consumer waits for the next batch, once loading and consuming have started."""
    waited = 0.0
    for _ in range(WARM_UP):
        consume(next(batches)[1])
    begin = asked = time.perf_counter()
    for _, arrays in batches:
        waited += time.perf_counter() - asked
        consume(arrays)
        asked = time.perf_counter()
    return waited / (asked - begin)


def measure_waiting(job: Job, trained: Trained, options: Options, measured: Measured) -> None:
    """Fills in `waits`; the loaders are Ray's, on this machine."""
    view, steps = job.view(), range(WARM_UP + options.num_batches)

    def consume(arrays: Mapping[str, Any]) -> None:
        if options.step_s is not None:
            time.sleep(options.step_s)
        else:
            trained.step(to_device(job, arrays, options.device, None), Stopwatch(options.device))

    for number in options.loaders:
        if number == 0:
            measured.waits[0] = waiting(local_batches(uncached(job)(), view, steps, 0, 1), consume)
            continue
        with cluster.connect(None, num_cpus=number + 1):
            measured.waits[number] = waiting(ray_batches(uncached(job), view, steps, 0, 1, number), consume)


# --------------------------------------------------------------------------------------- one process
def measure(job: Job, options: Options) -> Measured:
    """In a process of its own, so that its memory is the stage's."""
    cluster.prepare_environment(None)
    import ray.data  # noqa: F401  # before its log level is set
    import timm  # noqa: F401  # its memory is not the stage's

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to a batch
    on = options.device
    if on.type == "cpu":
        torch.set_num_threads(1)
    loaded, load_s = load(job)
    batches = [to_device(job, arrays, on, options.batch_size) for arrays in loaded]
    trained, peak = started(job, batches, on)
    samples = len(batches[0]["image"])
    untied = Untied(job, images_of(job, samples), on)
    bare_s, stage_s, update_s = time_steps(trained, untied, batches, options.num_steps)
    step_size = job.view().step_size
    measured = Measured(
        samples=samples,
        images=images_of(job, samples),
        bare=untied.name,
        bare_s=bare_s,
        stage_s=stage_s,
        update_s=update_s,
        peak_bytes=peak,
        load_s=load_s,
        load_samples=step_size,
        step_s=options.step_s or (stage_s + update_s) * step_size / samples,
    )
    measure_waiting(job, trained, options, measured)
    return measured


def load(job: Job) -> tuple[list[Arrays], float]:
    """Batches, and the CPU seconds that each took."""
    samples, view = uncached(job)(), job.view()
    list(local_batches(samples, view, range(1), 0, 1))  # what is made or imported once
    before = time.process_time()
    loaded = [arrays for _, arrays in local_batches(samples, view, range(1, 1 + NUM_LOADED), 0, 1)]
    return loaded, (time.process_time() - before) / NUM_LOADED


def started(job: Job, batches: Sequence[Mapping[str, Tensor]], on: torch.device) -> tuple[Trained, int]:
    """The stage after a step on each batch, and the bytes that it took at most."""
    held: list[Trained] = []

    def work() -> None:
        held.append(Trained(job, on))
        for batch in batches:
            held[0].step(batch, Stopwatch(on))

    peak = peak_of(work, on)
    held[0].module.start_epoch(held[0].last_epoch)  # again: what a memory was filled with comes into use
    return held[0], peak


def time_steps(
    trained: Trained, untied: Untied, batches: Sequence[Mapping[str, Tensor]], num_steps: int
) -> tuple[float, float, float]:
    """Median seconds: bare, stage, update. One of each in turn, so that what else the machine does meets both."""
    now = Stopwatch(trained.on)
    times = [
        (untied.step(now), *trained.step(batches[number % len(batches)], now)) for number in range(WARM_UP + num_steps)
    ]
    bare_s, stage_s, update_s = (statistics.median(values) for values in zip(*times[WARM_UP:], strict=True))
    return bare_s, stage_s, update_s


# --------------------------------------------------------------------------------------- preparation
def plan(method: str, preset: str, storage: Path, work: Path) -> Trial:
    """A trial on the sample corpus, its faces extracted below `storage`; its stages live below `work`."""
    from pipelines.faces.extract import extract

    experiment = Experiment(
        model=method, train_on="ffpp", test_on=("ffpp",), preset=preset, model_args={"pretrained": False}
    )
    roots = corpus.make(storage, names=("ffpp",))
    videos = {"ffpp": datasets.load("ffpp", roots)}
    built = protocol.build(experiment, videos)
    wanted = {i for part in (built.train, built.select, *built.test) for i in part.video_ids}
    recipe = experiment.recipe()
    faces = faces_folder(storage, "ffpp", recipe, roots["ffpp"])
    if not wanted <= store.ledger(faces).keys():
        needed = videos["ffpp"].filter(pc.is_in(videos["ffpp"]["video_id"], pa.array(sorted(wanted))))
        with cluster.connect(None):
            extract(needed, roots, faces, recipe)
    return planner.plan(experiment, videos, {"ffpp": store.ledger(faces)}, {"ffpp": faces}, work)


# -------------------------------------------------------------------------------------------- output
STEPS = ("method, stage", "samples", "images", "bare backbone", "bare ms", "stage ms", "ratio", "update ms")
STEPS += ("samples/s", "peak MiB")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def step_row(name: str, m: Measured) -> tuple[str, ...]:
    sizes = (str(m.samples), str(m.images), m.bare)
    times = (_milliseconds(m.bare_s), _milliseconds(m.stage_s), f"{m.stage_s / m.bare_s:.2f}")
    speed = m.samples / (m.stage_s + m.update_s)
    return name, *sizes, *times, _milliseconds(m.update_s), f"{speed:.1f}", f"{m.peak_bytes / 2**20:.0f}"


def data_row(name: str, m: Measured) -> tuple[str, ...]:
    waits = (f"{100 * share:.1f} %" for share in m.waits.values())
    return (
        name,
        str(m.load_samples),
        _milliseconds(m.load_s / m.load_samples),
        _milliseconds(m.step_s),
        *waits,
        str(m.needs),
    )


def tables(results: Mapping[str, Measured], options: Options) -> list[Table]:
    steps = Table(*STEPS, title=f"Steps, {options.device.type}")
    beside = (f"waits, {n} loaders" if n else "waits, in process" for n in options.loaders)
    data = Table("method, stage", "samples", "load ms each", "step ms", *beside, "needs", title="Data")
    for name, measured in results.items():
        steps.add_row(*step_row(name, measured))
        data.add_row(*data_row(name, measured))
    return [steps, data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=models.names(), default=list(models.names()))
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device.best().type)
    parser.add_argument("--batch-size", type=int, help="samples of a step that are used in `Steps`, at most; all")
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--batches", type=int, default=20, help="beside which waiting is timed")
    parser.add_argument("--loaders", type=int, nargs="*", default=[0, 1], help="numbers of processes; 0: in process")
    parser.add_argument("--step-ms", type=float, help="of a consumer to wait for data beside; the stage's own step")
    parser.add_argument("--storage", type=Path, default=Path("crossforge-storage"))
    arguments = parser.parse_args()
    options = Options(
        device=torch.device(arguments.device),
        batch_size=arguments.batch_size,
        num_steps=arguments.steps,
        num_batches=arguments.batches,
        loaders=tuple(arguments.loaders),
        step_s=arguments.step_ms / 1e3 if arguments.step_ms else None,
    )
    cluster.prepare_environment(None)
    console, results = Console(width=150), dict[str, Measured]()
    with tempfile.TemporaryDirectory() as work:
        for method in arguments.methods:
            trial = plan(method, arguments.preset, arguments.storage.resolve(), Path(work))
            parts = trial.train.videos, trial.select.videos
            for job in jobs(trial.planned, trial.experiment.config(), *parts, trial.faces):
                name = f"{method}, {job.planned.name}"
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    results[name] = process.submit(measure, job, options).result()
                console.print(*step_row(name, results[name]), *data_row(name, results[name])[1:], highlight=False)
    for table in tables(results, options):
        console.print(table)


if __name__ == "__main__":
    main()
