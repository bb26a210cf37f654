"""MC-LCR's settings: the paper's as defaults, and the presets small and tiny. `models/mc_lcr.py` explains them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from models._config import check, check_choices, check_not_negative, check_positive

Form = Literal["standard", "eq13"]
Reduction = Literal["mean", "sum"]
GlobalFeature = Literal["fc1024", "b13", "raw2048"]
Phase = Literal["atan2", "arctan"]
AmplitudeScale = Literal["linear", "log1p", "log"]
DROPOUTS = ("fused", "encoded", "attention", "mixer")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrequencyConfig:
    """The frequency stream (Sec. 3.2 and 3.3)."""

    patch_px: int = 16  # P
    width: int = 256  # D; the paper's is P^2
    num_heads: int = 4
    num_layers: int = 2  # of each Mixer
    phase: Phase = "atan2"
    amplitude: AmplitudeScale = "linear"
    cross_attention: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "patch_px", "width", "num_heads", "num_layers")
        check(self.patch_px % 2 == 0, f"patch_px must be even, got {self.patch_px}")
        check(self.width % self.num_heads == 0, f"num_heads {self.num_heads} must divide width {self.width}")
        check_choices(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The contrastive loss and its share (Sec. 3.4)."""

    alpha: float = 0.5  # Eq. 15; 0: cross-entropy alone, and no projection
    temperature: float = 0.1
    form: Form = "standard"  # standard: all others in the denominator; eq13: those of the other class
    reduction: Reduction = "mean"  # over anchors
    gather_negatives: bool = True  # False: each worker contrasts its own share of the batch

    def __post_init__(self) -> None:
        check(0 <= self.alpha <= 1, f"alpha must be in [0, 1], got {self.alpha}")
        check_positive(self, "temperature")
        check_choices(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectConfig:
    """The training."""

    batch_size: int = 16  # half real, half fake
    num_epochs: int = 50
    steps_per_epoch: int = 2700  # 720 real videos x 30 frames / 8 in a batch
    optimizer: Literal["adam", "adamw"] = "adam"  # the paper says Adam and cites AdamW
    lr: float = 1e-3
    backbone_lr_scale: float = 1.0  # for the Xception
    weight_decay: float = 1e-4
    lr_factor: float = 0.5  # on the rate, when the loss on val has not gone down for more than `lr_patience` epochs
    lr_patience: int = 5

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "num_epochs", "steps_per_epoch", "lr", "backbone_lr_scale")
        check(self.batch_size % 2 == 0, f"batch_size must be even, half real and half fake, got {self.batch_size}")
        check_choices(self)
        check_not_negative(self, "weight_decay")
        check(0 < self.lr_factor < 1, f"lr_factor must be in (0, 1), got {self.lr_factor}")
        check_not_negative(self, "lr_patience")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("detect",)
    video_frames: int = 30  # Sec. 4.1
    crop_margin: float = 1.85  # side of the stored crop in sides of the detector's box: 1.3 at any angle
    face_margin: float = 1.3  # side of the network's picture in sides of the detector's box
    align: bool = True  # level the eyes
    flip: bool = True
    input_px: int = 256
    use_ssrb: bool = True
    use_frequency: bool = True
    use_encoder: bool = True  # F_E, between F_MM and the two heads
    gf: GlobalFeature = "fc1024"  # fc1024: block 14 and a linear layer; b13: no block 14; raw2048: no such layer
    gram_mean: bool = True  # Eq. 1 over the number of positions; False: the sum as printed
    norm_ssf: bool = False  # a layer norm on each style feature
    gf_width: int = 1024  # of fc1024
    encoded_width: int = 1024
    projected_width: int = 128
    dropout: float = 0.5
    dropout_at: tuple[str, ...] = ("fused", "encoded")
    backbone_width: float = 1.0  # factor on the Xception's channels
    backbone_middle: int = 8  # its middle blocks
    pretrained: bool = True  # ImageNet weights for the Xception
    frequency: FrequencyConfig = field(default_factory=FrequencyConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        check(self.stages == ("detect",), f"stages must be ('detect',), got {self.stages}")
        check_positive(self, "video_frames", "face_margin", "backbone_width", "backbone_middle")
        check_positive(self, "gf_width", "encoded_width", "projected_width")
        check(
            self.crop_margin >= self.face_margin,
            f"crop_margin {self.crop_margin} must not be below face_margin {self.face_margin}",
        )
        check(self.input_px >= 48, f"input_px must be at least 48: Xception halves it five times, got {self.input_px}")
        check(
            not self.use_frequency or self.input_px % self.frequency.patch_px == 0,
            f"frequency.patch_px {self.frequency.patch_px} must divide input_px {self.input_px}",
        )
        check_choices(self)
        check(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        check(set(self.dropout_at) <= set(DROPOUTS), f"dropout_at must be some of {DROPOUTS}, got {self.dropout_at}")
        check(
            not self.pretrained or (self.backbone_width == 1 and self.backbone_middle == 8),
            "ImageNet weights fit backbone_width 1 and backbone_middle 8: set pretrained to false",
        )

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: a face is turned and cut from it, at the scale of the network."""
        return round(self.input_px * self.crop_margin / self.face_margin)


SMALL = Config(
    video_frames=10,
    input_px=160,  # the sample corpus has faces of 120 px, forged at half of that: smaller, and nothing is left to see
    gf_width=128,
    encoded_width=128,
    projected_width=32,
    dropout_at=DROPOUTS,  # a few dozen videos are soon known by heart
    backbone_width=0.125,
    backbone_middle=1,
    pretrained=False,
    frequency=FrequencyConfig(width=32, num_layers=1),
    detect=DetectConfig(num_epochs=16, steps_per_epoch=40),
)
TINY = replace(
    SMALL,
    video_frames=3,
    input_px=64,
    gf_width=32,
    encoded_width=32,
    detect=replace(SMALL.detect, batch_size=4, num_epochs=1, steps_per_epoch=2),
)
