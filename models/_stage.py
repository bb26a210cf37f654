"""The contract between a paper and the pipeline: a paper is a chain of stages, and this is a stage.

A stage knows tensors only. It names the rows it trains on by a *view* and turns one row into its
input; where rows are stored, how workers are started and what is logged is not its concern.

Views (made by `pipelines.training.views`):
    real_clips     T sampled frames of one face track, real videos
    clips          the same of real and fake videos, as many fake as real in an epoch
    real_frames    single faces of real videos
    real_pairs     the same; the stage makes a pseudo-fake of each real face, and trains and selects on both
    frames         single faces, as many fake as real in an epoch
    domain_frames  single faces; each step holds every manipulation ("domain") in equal numbers, each
                   with as many real as fake faces, and no real face serves two domains of one step

A sample, as `prepare` gets it (clip views have a leading T, frame views have none):
    image       uint8    (T, H, W, 3)  RGB, H = W = `Feed.input_px`: the extracted crop at that size
    landmarks   float32  (T, 68, 2)    x, y in pixels of that image; 0 is the centre of the first pixel.
                                       (T, 81, 2) with a predictor of 81 points
    box         float32  (T, 4)        x0, y0, x1, y1 of the detector's box in pixels of that image
    label       int      0 real, 1 fake
    mask        uint8    (T, H, W)     1 = manipulated; all zero for a real face
    mask_valid  bool     (T,)          False where the manipulated pixels are not known
    native_px   float32  (T,)          side that the crop has in its frame, before it is resized
    key         int64    (T,)          the same number whenever it is the same face of the same frame
    domain      int      0 .. D-1 in `domain_frames`, else -1
    donor       a face of another video with a similar pose: {image, landmarks}; only with `Feed.donors`
    plus what the stage named in `reads` derived for the frame

Many workers: each calls `forward` with its equal share of the step's samples, and gradients are averaged
over workers. A stage gives the same update on one worker and on N if its loss is a mean over samples of
equal weight; sums over the whole step's samples (`_distributed.total`, `_distributed.gather`) do the rest.
Batch normalisation is over all workers.

Gradient accumulation: a worker calls `forward` and backward for one cut of its share after the other, before the
optimizer steps. A stage says in `accumulates` what becomes of its method then:
    exactly          nothing: the loss of a step is the mean of its cuts' losses, weighed by `weight`
    but_batch_norm   the same, except that batch normalisation, and random draws within the network, see one cut at a
                     time: the weights come out different, and the stage gets another digest
    no               another method: the loss looks at all samples of a step at once, or keeps something from one call
                     of `forward` to the next; accumulation is refused
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from models._feed import BadSample, Feed, Mode, Pooling, Sample

Batch = Mapping[str, Tensor]
ON_CPU = "_on_cpu"  # ends the name of such a copy
Accumulates = Literal["exactly", "but_batch_norm", "no"]


@dataclass(frozen=True, slots=True)
class CamLayer:
    """The module whose output Grad-CAM weighs."""

    module: nn.Module
    to_maps: Callable[[Tensor], Tensor] | None = None  # turns an output of another shape into (B, C, [t,] h, w)


def on_cpu(batch: Batch, name: str) -> Tensor:
    """Return an array's copy on the CPU, if one was left there; to read the array itself is to wait for its GPU."""
    return batch.get(name + ON_CPU, batch[name])


class Stage(nn.Module):
    """Base class. A stage is built as `StageClass(cfg)` with its paper's `Config`."""

    name: ClassVar[str]
    view: ClassVar[str]
    # Which epoch is kept: that of the highest AUC on val, the lowest loss, the last to be best so far in both accuracy
    # and loss, or the last of all.
    selects_by: ClassVar[Literal["auc", "loss", "accuracy_and_loss", "last"]] = "auc"
    # Loss on val: the mean over samples, or the mean of those over real and over fake samples.
    balances_val_loss: ClassVar[bool] = False
    starts_from: ClassVar[str | None] = None  # earlier stage whose weights `load_start` gets
    reads: ClassVar[str | None] = None  # earlier stage whose `derive` output joins each sample
    scores: ClassVar[bool] = True  # its score counts in the paper's final score
    differentiates_twice: ClassVar[bool] = False  # its loss holds a gradient: it needs second derivatives
    accumulates: ClassVar[Accumulates] = "no"  # whether a step can be cut; until a stage says so, it cannot
    # Arrays of which training and validation leave a copy on the CPU: what they hold decides shapes, see `on_cpu`.
    left_on_cpu: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def settings(cfg: Any) -> Mapping[str, Any]:
        """Return the part of `cfg` that can change this stage's weights, as JSON values; its digest names the stage."""
        raise NotImplementedError

    @classmethod
    def reads_of(cls, cfg: Any) -> str | None:
        """Return `reads`, or None where `cfg` switches off what needs it."""
        return cls.reads

    @staticmethod
    def codec_of(cfg: Any) -> str | None:
        """Return the compression of the videos that the stage trains on; None: the experiment's.

        Another one is for stages whose view holds real videos only.
        """
        return None

    @staticmethod
    def pretrained_networks(cfg: Any) -> tuple[str, ...]:
        """Return the names, with tags (`_layers.tagged`), of timm's networks whose weights the stage starts from."""
        return ()

    @staticmethod
    def feed(cfg: Any) -> Feed:
        """Return what the stage asks for in training."""
        raise NotImplementedError

    @staticmethod
    def pooling(cfg: Any) -> Pooling:
        """Return how the scores of its faces become that of a video."""
        return Pooling()

    @classmethod
    def prepare(cls, cfg: Any, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, np.ndarray]:
        """Turn one sample into the arrays that are stacked into a batch. Pure: all randomness comes from `rng`.

        In view `real_pairs` modes train and select also make the pseudo-fake; mode score gets faces of both labels.
        Raises BadSample for a face that the stage cannot use (no pseudo-fake can be made of it); mode score must
        take every face.
        """
        raise NotImplementedError

    def load_start(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of the stage named in `starts_from`."""
        raise NotImplementedError

    def start_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, counted from 1; called on every worker before its first step.

        Here a stage may freeze or free parameters (`requires_grad`) or renew a memory kept in buffers. Buffers
        are part of a checkpoint and must be equal on all workers.
        """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` () and its named parts, detached; in evaluation mode classifiers also `logit` (B,), as `score`.

        In evaluation mode `loss` may be (B,), that of each sample.
        In view `real_pairs` `logit` is (B, 2): of the real face and of its pseudo-fake.
        In training mode `batch["step_seed"]` (int64, ()) is the same on every worker: the source of
        randomness that all must share; `batch["repeat"]` (bool, ()) is True from the second time on that an
        optimizer (SAM) asks for the loss of the same batch.
        """
        raise NotImplementedError

    def weight(self, batch: Batch) -> float:
        """Return how much the loss of one part of a step, or of the validation samples, counts beside that of another.

        That is the number, over all workers, of what the loss is a mean over: of samples, unless these hold unequal
        numbers of it. A loss that is no such mean must be that of each sample in evaluation mode.
        """
        return float(next(len(value) for value in batch.values() if value.ndim))

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler | ReduceLROnPlateau]:
        """Return the optimizer, and its schedule, which is stepped once after each of `num_steps` optimizer steps.

        A `ReduceLROnPlateau` is stepped once after each epoch, with the loss on val.
        """
        raise NotImplementedError

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Return `logit` (B,), the log odds of P(fake); where the paper localizes also `mask` (B, H, W) in [0, 1].

        Not P(fake) itself: in 32 bits it is 1 from a logit of 17 on.
        """
        raise NotImplementedError

    def derive(self, batch: Batch) -> dict[str, Tensor]:
        """Return per-frame arrays for later stages, uint8 (B, T, ...). Only for a stage that another one `reads`."""
        raise NotImplementedError

    # The methods below show what a trained stage looks at, in evaluation mode and on batches of mode score, whose
    # `image` is uint8 (B, H, W, 3), in clip views (B, T, H, W, 3). None may change weights, buffers or scores.
    def cam_layer(self) -> CamLayer | None:
        """Return where Grad-CAM looks: the last layer before `logit` whose output still has places; None: nowhere."""
        return None

    def logit(self, batch: Batch) -> Tensor:
        """Return the `logit` (B,) of `score`: above 0 means fake, differentiable. Needed with a `cam_layer`.

        Where that is a mean over views of a face, the one of the face as it is.
        """
        raise NotImplementedError

    def features(self, batch: Batch) -> Tensor | None:
        """Return what the last layer gets (B, D); None where there is no such vector."""
        return None

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the paper itself shows of a face, by name, float in [0, 1].

        Maps (B, h, w) or RGB (B, 3, h, w) of any size, laid out as `image`; in clip views with T after B.
        """
        return {}


__all__ = [
    "ON_CPU",
    "Accumulates",
    "BadSample",
    "Batch",
    "CamLayer",
    "Feed",
    "Mode",
    "Pooling",
    "Sample",
    "Stage",
    "on_cpu",
]
