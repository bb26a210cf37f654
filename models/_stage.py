"""The contract between a paper and the pipeline: a paper is a chain of stages, and this is a stage.

A stage knows tensors only. It names the rows it trains on by a *view* and turns one row into its
input; where rows are stored, how workers are started and what is logged is not its concern.

Views (made by `pipelines.ingest`):
    real_clips     T sampled frames of one face track, real videos
    clips          the same, as many fake as real in an epoch
    frames         single faces, as many fake as real
    domain_frames  single faces; each step holds every manipulation ("domain") in equal numbers, each
                   with as many real as fake faces, and no real face serves two domains of one step

A sample, as `prepare` gets it (clip views have a leading T, frame views have none):
    image       uint8    (T, H, W, 3)  RGB, H = W = `Feed.input_px`
    landmarks   float32  (T, 68, 2)    x, y in pixels of that image
    label       int      0 real, 1 fake
    mask        uint8    (T, H, W)     1 = manipulated; all zero for a real face
    mask_valid  bool     (T,)          False where the manipulated pixels are not known
    domain      int      0 .. D-1 in `domain_frames`, else -1
    plus what the stage named in `reads` derived for the frame
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Sample = Mapping[str, Any]
Batch = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """How a stage wants to be fed in training."""

    input_px: int
    clip_frames: int = 1  # T; 1 in frame views
    batch_size: int = 8  # samples in one step, over all workers; in `domain_frames`: per domain
    num_epochs: int = 1
    steps_per_epoch: int | None = None  # None: every training video once


class Stage(nn.Module):
    """Base class. A stage is built as `StageClass(cfg)` with its paper's `Config`."""

    name: ClassVar[str]
    view: ClassVar[str]
    selects_by: ClassVar[Literal["auc", "loss"]] = "auc"  # the epoch that is kept: highest AUC or lowest loss on val
    starts_from: ClassVar[str | None] = None  # earlier stage whose weights `load_start` gets
    reads: ClassVar[str | None] = None  # earlier stage whose `derive` output joins each sample
    scores: ClassVar[bool] = True  # its score counts in the paper's final score

    @staticmethod
    def settings(cfg: Any) -> Mapping[str, Any]:
        """The part of `cfg` that can change this stage's weights, as JSON values; its digest names the stage."""
        raise NotImplementedError

    @classmethod
    def reads_of(cls, cfg: Any) -> str | None:
        """`reads`, unless `cfg` switches off what needs it."""
        return cls.reads

    @staticmethod
    def feed(cfg: Any) -> Feed:
        raise NotImplementedError

    @classmethod
    def prepare(cls, cfg: Any, sample: Sample, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
        """One sample as the arrays that are stacked into a batch. Pure: all randomness comes from `rng`."""
        raise NotImplementedError

    def load_start(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of the stage named in `starts_from`."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` () and its named parts, detached; classifiers also `score` (B,).

        In training mode `batch["step_seed"]` (int64, ()) is the same on every worker: the source of
        randomness that all must share.
        """
        raise NotImplementedError

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its schedule, which is stepped once after each of `num_steps` optimizer steps."""
        raise NotImplementedError

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """`score` (B,) = P(fake); where the paper localizes also `mask` (B, H, W) in [0, 1]."""
        raise NotImplementedError

    def derive(self, batch: Batch) -> dict[str, Tensor]:
        """Per-frame arrays for later stages, uint8 (B, T, ...). Only for a stage that another one `reads`."""
        raise NotImplementedError
