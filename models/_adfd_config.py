"""ADFD's settings: the paper's as defaults, and the presets small and tiny. `models/adfd.py` explains them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from models._blend import BlendConfig, MaskConfig, TransformConfig
from models._config import check, check_choices, check_not_negative, check_positive, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Faces, pseudo-fakes and what the network sees of them."""

    canvas_px: int = 640  # side of the stored crop, in which faces are blended
    native_size: bool = True  # blend at the size that the crop has in its frame, as SBI does, not at canvas_px
    input_px: int = 380  # S
    blend: BlendConfig = field(default_factory=lambda: BlendConfig(mask=MaskConfig(kind="bbmg")))
    augment: bool = True  # the photometric augmentation that a pair shares in training
    margin: tuple[float, float] = (0.05, 0.20)  # of the box, added on each side, drawn for each in training
    score_margin: float = 0.125  # in validation and test

    def __post_init__(self) -> None:
        check_range(self, 32, 4096, "canvas_px", "input_px")
        low, high = self.margin
        check(0 <= low <= high <= 1, f"margin must be a range in [0, 1], the smaller end first, got {self.margin}")
        check_range(self, 0, 1, "score_margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig:
    """The network."""

    backbone: str = "tf_efficientnet_b4.ap_in1k"  # a timm name
    normalize: Literal["none", "half"] = "none"  # half: to [-1, 1], which AdvProp's weights were trained for
    dropout: float = 0.4
    drop_path: float = 0.2
    bn_momentum: float = 0.01

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, 0, 1, "dropout", "drop_path", "bn_momentum")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """SAM around SGD."""

    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    rho: float = 0.05
    freeze_bn_second: bool = False  # batch norm's statistics follow SAM's first pass only
    batch_size: int = 32  # images: 16 real faces and their fakes
    num_epochs: int = 100
    decay_start: int = 75  # epoch, from 0, from which on the rate falls linearly to 0 at num_epochs
    samples_per_video: int = 8  # in an epoch
    fixed_frames: bool = True  # always the same, evenly spaced; False: drawn anew in each epoch

    def __post_init__(self) -> None:
        check_positive(self, "lr", "rho", "num_epochs", "samples_per_video", "batch_size")
        check(self.batch_size % 2 == 0, f"batch_size must be even, real and fake, got {self.batch_size}")
        check(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        check_not_negative(self, "weight_decay")
        check(
            0 <= self.decay_start < self.num_epochs,
            f"decay_start must be in [0, num_epochs = {self.num_epochs}), got {self.decay_start}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NrsConfig:
    """Noise refinement (Sec. 3.4)."""

    enabled: bool = True  # Table 11
    threshold: float = 0.5  # lambda: a fake nearer to a centre than this is noise
    beta: float = 200.0  # in epochs
    num_centres: int = 5  # k
    memory_size: int = 500  # k_s
    start_epoch: int = 10  # T_k, counted from 1: the first epoch with weights; the paper gives no number
    filter: Literal["predicts", "random"] = "predicts"  # Table 13: the k_s most confidently real faces, or random ones
    distance: Literal["cosine", "l2"] = "cosine"  # Table 13

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "beta")
        check(
            0 <= self.threshold <= 2, f"threshold must be in [0, 2], the range of both distances, got {self.threshold}"
        )
        check(
            1 <= self.num_centres <= self.memory_size,
            f"num_centres must be from 1 to memory_size = {self.memory_size}, got {self.num_centres}",
        )
        check(
            self.start_epoch >= 2,
            f"start_epoch must be at least 2: the first has no centres yet, got {self.start_epoch}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("detect",)
    video_frames: int = 32
    crop_margin: float = 2.0  # side of the face crop in sides of the detector's box
    detector: str = "retinaface"  # that of the extraction
    max_faces: int = 4  # of a frame, the largest: a frame's score is the highest of theirs
    # A face counts beside the largest one of its frame if its area is at least this share of that one's (SBI's code);
    # 0: every face counts (the paper). It changes no weights, as the last epoch is kept, but stands in the training's
    # digest: with the weights lies each epoch's AUC on validation, by which searches and champions are chosen.
    smallest_face: float = 0.5
    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    nrs: NrsConfig = field(default_factory=NrsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pretrained: bool = True  # ImageNet weights

    def __post_init__(self) -> None:
        check(self.stages == ("detect",), f"stages must be ('detect',), got {self.stages}")
        check_positive(self, "video_frames", "max_faces")
        check(0 <= self.smallest_face <= 1, f"smallest_face must be in [0, 1], got {self.smallest_face}")
        widest = 1 + 2 * max(self.data.margin[1], self.data.score_margin)
        check(
            self.crop_margin >= widest,
            f"crop_margin must be at least {widest:g}, what the network's margins need, got {self.crop_margin}",
        )
        check(
            not self.nrs.enabled or self.nrs.beta >= self.optim.num_epochs,
            f"nrs.beta must be at least num_epochs = {self.optim.num_epochs}, or weights become negative;"
            f" got {self.nrs.beta}",
        )

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: a face is blended in it."""
        return self.data.canvas_px


# Within minutes a network without ImageNet's weights learns from fakes that differ where they are blended and nowhere
# else. Masks range from soft to hard edges: with soft ones alone it learns sharpness, and misses a face that has the
# frame's own. NRS keeps the paper's proportions of beta and T_k to the epochs, roughly.
SMALL = Config(
    video_frames=10,
    max_faces=1,  # looking for small faces takes longer
    detector="dlib",  # its boxes are tighter: at this size the face has a third more pixels than with RetinaFace's
    data=DataConfig(
        canvas_px=240,
        native_size=False,
        input_px=128,
        augment=False,
        blend=BlendConfig(
            mask=MaskConfig(kind="bbmg", blur_kernel=(1, 25), reference_px=512),
            transform=TransformConfig(objects="source"),
            ratios=(1.0,),
        ),
    ),
    net=NetConfig(backbone="test_resnet", dropout=0.0, drop_path=0.0, bn_momentum=0.1),
    nrs=NrsConfig(beta=24.0, num_centres=2, memory_size=50, start_epoch=6),
    optim=OptimConfig(
        lr=0.05, rho=0.02, batch_size=16, num_epochs=12, decay_start=7, samples_per_video=10, fixed_frames=False
    ),
    pretrained=False,
)
TINY = replace(  # two epochs: the first is before NRS
    SMALL,
    video_frames=3,
    data=replace(SMALL.data, canvas_px=112, input_px=64),
    nrs=replace(SMALL.nrs, num_centres=1, start_epoch=2),
    optim=replace(SMALL.optim, batch_size=4, num_epochs=2, decay_start=1, samples_per_video=1, fixed_frames=True),
)
