"""What the parts of `gpu.py` share: faces that are drawn, few steps of a stage, what takes them and is timed."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import torch
from _jobs import jobs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.common import tables
from pipelines.common.pictures import encode_png
from pipelines.datasets.sample.people import make_person, portraits
from pipelines.experiments.experiment import Experiment, Preset
from pipelines.training import loop, stages, views
from pipelines.training.batches import local_batches
from pipelines.training.job import Job
from pipelines.training.learner import Learner
from pipelines.training.samples import Arrays
from pipelines.training.transfer import left_on_cpu, tensors
from pipelines.training.views import Video
from pipelines.training.workers import Alone

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
WARM_UP = 3  # steps that do not count
FACE_PX = 256  # of the stored crops
PER_VIDEO = 32  # faces
PEOPLE = 2  # whom the videos show in turn


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured."""

    on: torch.device
    preset: Preset
    methods: tuple[str, ...]
    steps: int
    loaders: tuple[int, ...]
    scorers: tuple[int, ...]
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
    """Counts how often Python reads a value of a tensor, also of one that is on the CPU anyway."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(on: torch.device) -> Iterator[Callable[[], int]]:
    """Yield what returns how often the block has waited for the device; on a CPU, how many values Python has read."""
    if on.type != "cuda":
        with Reads() as reads:
            yield lambda: reads.number
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchronizing" in str(warning.message) for warning in told)
        finally:
            torch.cuda.set_sync_debug_mode(before)


class Trained:
    """A stage at its last epoch, when nothing that is freed later is still frozen, and batches for it."""

    def __init__(self, job: Job, on: torch.device, *, mode: str | None = None) -> None:
        """mode: of `torch.compile`; None: not compiled."""
        feed = job.stage.feed(job.config)
        self.job, self.on, self.world = job, on, World(on)
        self.learner = Learner.begin(job, feed.num_epochs * job.view().steps_per_epoch, on)
        self.learner.module.train()
        self.learner.module.start_epoch(feed.num_epochs)
        self.model: nn.Module = self.learner.module
        if mode is not None:
            self.model = torch.compile(self.model, mode=mode)  # type: ignore[assignment]  # it calls as a module does
        self.watch = loop.Watch(self.world)
        self.arrays = [arrays for _, arrays in local_batches(job.samples(), job.view(), range(2), 0, 1)]
        self.batches = [self.sent(arrays) for arrays in self.arrays]

    def sent(self, arrays: Arrays) -> dict[str, Tensor]:
        """Return a batch on the device, sent from memory as it comes."""
        here = tensors(arrays)
        there = {name: value.to(self.on) for name, value in here.items()}
        return there | left_on_cpu(here, self.job.stage.left_on_cpu)

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
