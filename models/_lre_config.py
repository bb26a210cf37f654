"""LRE's settings: the paper's as defaults, and the presets small and tiny. `models/lre.py` explains them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from models._config import check, check_choices, check_not_negative, check_positive

Gate = Literal["mul", "residual", "none"]
Recipe = Literal["paper", "mae"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceConfig:
    """What the networks see of a face."""

    input_px: int = 224
    margin: float = 1.3  # side of the picture in sides of the detector's box
    align: bool = True  # level the eyes
    flip: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "input_px", "margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """Which patches are hidden (Sec. III-B-1)."""

    ratio: float = 0.75  # hidden share of all patches
    key_fraction: float | None = 0.9  # hidden share of the key region; None: it is not special
    key_margin_px: float = 0.0  # added to the region on each side

    def __post_init__(self) -> None:
        check(0 < self.ratio < 1, f"ratio must be in (0, 1), got {self.ratio}")
        check(
            self.key_fraction is None or 0 <= self.key_fraction <= 1,
            f"key_fraction must be in [0, 1] or none, got {self.key_fraction}",
        )
        check_not_negative(self, "key_margin_px")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructConfig:
    """The autoencoder and its training."""

    patch_px: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    codec: str | None = None  # compression of the real videos: raw, c23 or c40; None: the experiment's
    recipe: Recipe = "paper"  # mae: AdamW, warm-up, cosine, the rate per 256 images
    batch_size: int = 32
    num_epochs: int = 300
    lr: float = 1e-4  # mae: 1.5e-4 per 256 images is MAE's
    weight_decay: float = 0.0  # mae: 0.05 is MAE's
    warmup_epochs: int = 0  # of recipe mae, without effect in recipe paper; 40 is MAE's

    def __post_init__(self) -> None:
        check_positive(self, "patch_px", "width", "depth", "num_heads", "decoder_width", "decoder_depth")
        check_positive(self, "decoder_heads", "batch_size", "num_epochs", "lr")
        for width, heads in ((self.width, self.num_heads), (self.decoder_width, self.decoder_heads)):
            check(width % 4 == 0 and width % heads == 0, f"width {width} must be a multiple of 4 and of heads {heads}")
        check_choices(self)
        check(self.codec in (None, "raw", "c23", "c40"), f"codec must be raw, c23, c40 or none, got {self.codec!r}")
        check_not_negative(self, "weight_decay")
        check(
            0 <= self.warmup_epochs < self.num_epochs,
            f"warmup_epochs must be in [0, num_epochs = {self.num_epochs}), got {self.warmup_epochs}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectConfig:
    """The attention maps, the gated Xception and its training."""

    taps: tuple[int, ...] = (1, 2, 3)  # Xception blocks, counted from 1, whose outputs are compared and gated
    after_relu: bool = False  # compare after the ReLU; maps then stay below 0.5
    gate: Gate = "mul"  # mul: A y; residual: (1 + A) y; none: a plain Xception
    num_masks: int = 1  # R in evaluation
    xception_width: float = 1.0  # factor on the channels of both Xceptions
    xception_middle: int = 8  # their middle blocks
    batch_size: int = 32
    num_epochs: int = 30
    steps_per_epoch: int = 200
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "num_masks", "xception_width", "xception_middle", "batch_size", "num_epochs")
        check_positive(self, "steps_per_epoch", "lr")
        last = 4 + self.xception_middle
        check(
            len(self.taps) > 0 and all(1 <= tap <= last for tap in self.taps) and len(set(self.taps)) == len(self.taps),
            f"taps must be different blocks from 1 to {last}, got {self.taps}",
        )
        check_choices(self)
        check(self.batch_size % 2 == 0, f"batch_size must be even, half real and half fake, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("reconstruct", "detect")
    video_frames: int = 32
    crop_margin: float = 1.85  # side of the stored crop in sides of the detector's box: 1.3 at any angle
    detector: str = "retinaface"  # that of the extraction
    face: FaceConfig = field(default_factory=FaceConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    pretrained: bool = True  # ImageNet weights for both Xceptions

    def __post_init__(self) -> None:
        check(
            self.stages in (("reconstruct", "detect"), ("reconstruct",)),
            f"stages must be ('reconstruct', 'detect') or ('reconstruct',), got {self.stages}",
        )
        check_positive(self, "video_frames")
        check(
            self.crop_margin >= self.face.margin,
            f"crop_margin {self.crop_margin} must not be below face.margin {self.face.margin}",
        )
        check(
            self.face.input_px % self.reconstruct.patch_px == 0,
            f"reconstruct.patch_px {self.reconstruct.patch_px} must divide face.input_px {self.face.input_px}",
        )
        check(self.face.input_px >= 48, f"face.input_px must be at least 48, got {self.face.input_px}")
        check(
            not self.pretrained or (self.detect.xception_width == 1 and self.detect.xception_middle == 8),
            "ImageNet weights fit detect.xception_width 1 and xception_middle 8: set pretrained to false",
        )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.face.input_px // self.reconstruct.patch_px

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: a face is turned and cut from it, at the scale of the network."""
        return round(self.face.input_px * self.crop_margin / self.face.margin)


SMALL = Config(
    video_frames=10,
    detector="dlib",  # its boxes are tighter: at this size the face has a third more pixels than with RetinaFace's
    face=FaceConfig(input_px=128),
    reconstruct=ReconstructConfig(
        patch_px=16,
        width=96,
        depth=3,
        num_heads=4,
        decoder_width=48,
        decoder_depth=1,
        decoder_heads=4,
        batch_size=16,
        num_epochs=8,
        lr=1e-3,
    ),
    detect=DetectConfig(
        gate="residual",
        xception_width=0.25,
        xception_middle=1,
        batch_size=16,
        num_epochs=16,
        steps_per_epoch=40,
        lr=1e-3,
    ),
    pretrained=False,
)
TINY = replace(
    SMALL,
    video_frames=3,
    face=FaceConfig(input_px=64),
    reconstruct=replace(
        SMALL.reconstruct, patch_px=8, width=32, depth=1, decoder_width=16, decoder_heads=2, batch_size=2, num_epochs=1
    ),
    detect=replace(SMALL.detect, batch_size=4, num_epochs=1, steps_per_epoch=2),
)
