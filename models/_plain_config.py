"""The plain classifier's settings: the paper's as defaults, presets small and tiny. `models/plain.py` explains them."""

from dataclasses import dataclass, replace
from typing import Literal

from models._config import check, check_choices, check_not_negative, check_positive

SMALLEST_PX = 32  # networks halve their input up to five times


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("detect",)
    video_frames: int = 32
    crop_margin: float = 1.3  # side of the face crop in sides of the detector's box
    detector: str = "retinaface"  # that of the extraction; benchmarks/detection.py
    backbone: str = "legacy_xception.tf_in1k"  # a timm name, with or without the tag of its weights
    input_px: int = 299
    pretrained: bool = True  # ImageNet weights
    dropout: float = 0.0  # before the last layer
    flip: bool = True
    smallest_crop: float = 1.0  # side of a random square of the face that is shown, at least; 1: all of it
    batch_size: int = 32  # half real, half fake
    num_epochs: int = 15
    samples_per_video: int = 8  # in an epoch
    lr: float = 2e-4
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: half a cosine down to zero
    weight_decay: float = 0.0  # added to the gradient

    def __post_init__(self) -> None:
        check(self.stages == ("detect",), f"stages must be ('detect',), got {self.stages}")
        check_choices(self)
        check_positive(self, "video_frames", "num_epochs", "samples_per_video", "lr")
        check(self.crop_margin >= 1, f"crop_margin must be at least 1, got {self.crop_margin}")
        check(self.input_px >= SMALLEST_PX, f"input_px must be at least {SMALLEST_PX}, got {self.input_px}")
        check(0 < self.smallest_crop <= 1, f"smallest_crop must be in (0, 1], got {self.smallest_crop}")
        check(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        check_not_negative(self, "weight_decay")
        check(
            self.batch_size > 0 and self.batch_size % 2 == 0,
            f"batch_size must be positive and even, half real and half fake, got {self.batch_size}",
        )

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: what the network is shown."""
        return self.input_px


SMALL = Config(
    video_frames=10,
    detector="dlib",  # its boxes are tighter: at this size the face has a third more pixels than with RetinaFace's
    backbone="test_resnet",
    input_px=128,  # at 64 px most of the traces are gone
    pretrained=False,
    batch_size=16,
    num_epochs=10,
    samples_per_video=4,
    lr=1e-3,
    schedule="cosine",
)
TINY = replace(SMALL, video_frames=3, input_px=64, batch_size=4, num_epochs=1, samples_per_video=1)
