"""What goes into a stage and how its scores are put together, as plain values: no torch, which takes seconds to import.

`_stage` says what a stage is, and what a sample holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models._config import newer

Sample = Mapping[str, Any]
Mode = Literal["train", "select", "score"]  # what a sample is for: training, choosing the epoch on val, scoring


class BadSample(ValueError):
    """A face that a stage cannot use; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a stage asks for in training: sizes of samples, steps and epochs."""

    input_px: int
    clip_frames: int = 1  # T; 1 in frame views
    batch_size: int = 8  # samples in one step, over all workers; in `domain_frames`: per domain
    num_epochs: int = 1
    steps_per_epoch: int | None = None  # None: every training video `samples_per_video` times
    samples_per_video: int = 1  # in an epoch
    fixed_frames: bool = False  # in views of single real faces: in each epoch the same, evenly spaced; else random ones
    # In views of real and fake: a real sample shows the target of the fake beside it; else anyone.
    pairs: bool = newer(default=False)
    donors: int = 0  # each sample brings one of so many faces of other videos with the nearest landmarks


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooling:
    """How a video's score follows from those of its faces: first over the faces of a frame, then over frames."""

    faces: Literal["mean", "max"] = "mean"
    min_area: float = 0.0  # a face smaller than this share of the largest one in its frame does not count
    frames: Literal["mean", "mean_logit"] = "mean"  # mean_logit: sigmoid of the mean log odds
