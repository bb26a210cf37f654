"""LAA-Net's settings: the paper's as defaults, and the presets small and tiny. `models/laa_net.py` explains them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from models._blend import BlendFacesConfig, TransformConfig
from models._config import check, check_choices, check_range
from models._laa_samples import SBI, BiConfig, DataConfig, SbiConfig

Merge = Literal["efpn", "fpn"]
SCHEDULES = {
    "paper": {"lr": 5e-5, "boost": 4, "freeze_epochs": 6},  # Sec. 4.1
    "released": {"lr": 1e-7, "boost": 500, "freeze_epochs": 0},  # "1e7_boost500_UnFZ"
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig:
    """Encoder, E-FPN and heads (Sec. 3.2)."""

    encoder: str = "tf_efficientnet_b4.ap_in1k"  # a timm EfficientNet; AdvProp's weights take RGB in [-1, 1]
    bn_momentum: float = 0.01
    drop_path: float = 0.2
    dropout: float = 0.4
    lowest_level: int = 3  # F6 .. F3 are merged; Table 4, rows a to e: 6 to 2. Table 3 without E-FPN: 6
    merge: Merge = "efpn"  # Table 4
    gamma_w: float = 1.0  # Eq. 9
    shared_squeeze: bool = True  # as in the released code; shifts all scores in evaluation: `_efpn.Inception`
    use_heatmap: bool = True  # Table 3, H
    use_consistency: bool = True  # Table 3, C
    head_width: int = 64
    embedding_width: int = 256  # E

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, 2, 6, "lowest_level")
        check_range(self, 0, 1, "bn_momentum", "drop_path", "dropout")
        check_range(self, 0, float("inf"), "gamma_w")
        check_range(self, 1, float("inf"), "head_width", "embedding_width")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The terms of Eq. 8 and their weights."""

    heatmap_weight: float = 10.0  # lambda_1 of Eq. 8; Table 5
    consistency_weight: float = 100.0  # lambda_2
    gamma: float = 2.0  # Eq. 5
    beta: float = 4.0  # CornerNet's (1 - h)^beta off the points
    heatmap_smoothing: float = 0.35  # at the points the loss counts 1 - 0.8 of this
    heatmap_over: Literal["points", "images"] = "points"  # what L_H is divided by
    label_smoothing: float = 0.0  # of the classes

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, 0, float("inf"), "heatmap_weight", "consistency_weight", "gamma", "beta")
        check_range(self, 0, 1, "heatmap_smoothing", "label_smoothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """SAM around Adam. None: as in `SCHEDULES[variant]`."""

    variant: Literal["paper", "released"] = "paper"
    lr: float | None = None  # in the first epoch
    boost: float | None = None  # after a quarter of the epochs the rate is so many times as high
    freeze_epochs: int | None = None  # the first ones, in which the encoder keeps its weights
    num_epochs: int = 100
    batch_size: int = 16  # images
    samples_per_video: int | None = None  # in an epoch; None: 8 (SBI), 32 (BI)
    rho: float = 0.05
    weight_decay: float = 1e-4  # added to the gradient
    freeze_bn_second: bool = False  # batch norm's statistics follow SAM's first pass only

    def __post_init__(self) -> None:
        check_choices(self)
        schedule = self.schedule
        check(schedule["lr"] > 0, f"lr must be positive, got {schedule['lr']}")
        check(schedule["boost"] >= 1, f"boost must be at least 1, got {schedule['boost']}")
        check(schedule["freeze_epochs"] >= 0, f"freeze_epochs must not be negative, got {schedule['freeze_epochs']}")
        check(
            self.batch_size > 0 and self.batch_size % 2 == 0,
            f"batch_size must be positive and even, real and fake, got {self.batch_size}",
        )
        check(self.rho > 0, f"rho must be positive, got {self.rho}")
        check_range(self, 1, float("inf"), "num_epochs")
        check_range(self, 0, float("inf"), "weight_decay")

    @property
    def schedule(self) -> dict[str, float]:
        """lr, boost and freeze_epochs: those of the variant, unless they are set."""
        own = {"lr": self.lr, "boost": self.boost, "freeze_epochs": self.freeze_epochs}
        return SCHEDULES[self.variant] | {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("detect",)
    video_frames: int = 32
    crop_margin: float = 1.5  # side of the face crop in sides of the detector's box
    constant_box: bool = False  # each frame has a crop of its own
    detector: str = "retinaface"  # that of the extraction
    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pretrained: bool = True  # ImageNet weights for the encoder

    def __post_init__(self) -> None:
        check(self.stages == ("detect",), f"stages must be ('detect',), got {self.stages}")

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: a face is blended in it."""
        return self.data.face_px


# Within minutes a network without ImageNet's weights learns from fakes that differ where they are blended and nowhere
# else. Masks range from soft to hard edges and from the face to a mouth: with soft ones alone it learns sharpness, and
# misses a face that has the frame's own; with whole faces alone it misses a mouth.
SMALL = Config(
    video_frames=10,
    crop_margin=1.25,
    detector="dlib",  # its boxes are tighter: at this size the face has a third more pixels than with RetinaFace's
    data=DataConfig(
        face_px=128,
        input_px=128,
        augment=False,
        sbi=SbiConfig(
            blend=replace(
                SBI,
                mask=replace(SBI.mask, kind="lal_or_local", blur_kernel=(1, 25)),
                transform=TransformConfig(objects="source"),
                ratios=(1.0,),
            ),
            border_px=(0, 2),
            score_border_px=1,
        ),
        bi=BiConfig(
            blend=BlendFacesConfig(
                canvas_px=128,
                side_px=(96, 128),
                jitter=(0.0, 0.05),
                erode_px=(1, 9),
                dilate_px=(1, 3),
                feather=0.1,
                rescale_prob=0.0,
                crop=None,
            ),
            score_border_px=0,
        ),
    ),
    net=NetConfig(
        encoder="test_efficientnet",
        bn_momentum=0.1,
        drop_path=0.0,
        dropout=0.1,
        shared_squeeze=False,
        head_width=16,
        embedding_width=16,
    ),
    loss=LossConfig(heatmap_weight=1.0, consistency_weight=1.0),  # Table 5, first row
    optim=OptimConfig(lr=1e-3, boost=3.0, freeze_epochs=1, num_epochs=16, samples_per_video=10, rho=0.02),
    pretrained=False,
)
TINY = replace(  # two epochs: in the first the encoder is frozen
    SMALL,
    video_frames=3,
    data=replace(SMALL.data, face_px=64, input_px=64),
    optim=replace(SMALL.optim, batch_size=4, num_epochs=2, samples_per_video=1),
)
