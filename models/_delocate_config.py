"""Delocate's settings: the paper's as defaults, and the presets small and tiny. `models/delocate.py` explains them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from models._config import check, check_choices, check_not_negative, check_positive
from models._masking import PARTS

# Table 6: the parts of the face that a strategy hides, one at a time; "clip" stands for all of it.
STRATEGIES = {
    "proposed": PARTS,
    "eyes": ("eyes",),
    "cheek_nose": ("cheek_nose",),
    "lips": ("lips",),
    "without_rois": PARTS,
    "mae": ("clip",),  # hides any tokens, other ones in each slot
    "video_mae": ("clip",),  # hides the same positions in every slot
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """A clip and its tokens: tubelets of `tubelet_frames` x `patch_px` x `patch_px` pixels."""

    input_px: int = 224
    num_frames: int = 16
    patch_px: int = 16
    tubelet_frames: int = 2

    def __post_init__(self) -> None:
        check_positive(self, "input_px", "num_frames", "patch_px", "tubelet_frames")
        check(self.input_px % 32 == 0, f"input_px must be a multiple of 32, got {self.input_px}")
        check(self.input_px % self.patch_px == 0, f"patch_px {self.patch_px} must divide input_px {self.input_px}")
        check(
            self.num_frames % self.tubelet_frames == 0,
            f"tubelet_frames {self.tubelet_frames} must divide num_frames {self.num_frames}",
        )

    @property
    def grid(self) -> int:
        """Patches along a side of a frame."""
        return self.input_px // self.patch_px

    @property
    def num_slots(self) -> int:
        """Tubelets along the time."""
        return self.num_frames // self.tubelet_frames

    @property
    def num_tokens(self) -> int:
        """N, tubelets of a clip."""
        return self.num_slots * self.grid**2

    @property
    def tubelet_values(self) -> int:
        """P, numbers in a tubelet."""
        return 3 * self.tubelet_frames * self.patch_px**2


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """The encoder that `recover` trains and `finetune` goes on with."""

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    checkpoint_activations: bool = False  # less memory, a third more time, the same numbers

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "num_heads")
        check(self.width % self.num_heads == 0, f"num_heads {self.num_heads} must divide width {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverConfig:
    """What is hidden, the decoder, and the training of `recover`."""

    strategy: str = "proposed"  # Table 6
    mask_ratio: float = 0.75  # Table 5; share of the drawn part's patches, of the clip in mae and video_mae
    temporal: str = "tube"  # tube: one mask for all slots; per_slot: drawn for each. Not in mae, video_mae
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    batch_size: int = 8
    num_epochs: int = 200
    warmup_epochs: int = 10
    lr: float = 1.5e-4
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        check(self.strategy in STRATEGIES, f"strategy must be one of {tuple(STRATEGIES)}, got {self.strategy!r}")
        check(self.temporal in ("tube", "per_slot"), f"temporal must be tube or per_slot, got {self.temporal!r}")
        check(0 < self.mask_ratio <= 1, f"mask_ratio must be in (0, 1], got {self.mask_ratio}")
        check(
            self.mask_ratio < 1 or STRATEGIES[self.strategy] != ("clip",),
            f"{self.strategy} needs a mask_ratio below 1: nothing is left to see",
        )
        check_positive(self, "decoder_width", "decoder_depth", "decoder_heads", "batch_size", "num_epochs", "lr")
        check(
            self.decoder_width % self.decoder_heads == 0,
            f"decoder_heads {self.decoder_heads} must divide decoder_width {self.decoder_width}",
        )
        _check_warmup(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """The training of `finetune`."""

    batch_size: int = 8
    num_epochs: int = 20
    warmup_epochs: int = 5
    base_lr: float = 1e-3  # for 256 samples in a step: used as base_lr * batch_size / 256
    layer_decay: float = 0.75  # factor on the rate from one block to the one below
    weight_decay: float = 0.05
    pairs: bool = False  # each real clip shows the target of the fake beside it; else anyone

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "num_epochs", "base_lr")
        check(0 < self.layer_decay <= 1, f"layer_decay must be in (0, 1], got {self.layer_decay}")
        _check_warmup(self)


def _check_warmup(cfg: RecoverConfig | FinetuneConfig) -> None:
    check(
        0 <= cfg.warmup_epochs < cfg.num_epochs,
        f"warmup_epochs must be in [0, num_epochs = {cfg.num_epochs}), got {cfg.warmup_epochs}",
    )
    check_not_negative(cfg, "weight_decay")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalizeConfig:
    """The parts of `localize`, its meta-learning and its training."""

    # Table 7. A part that is switched off has no parameters.
    use_map_loss: bool = True
    use_loc_loss: bool = True
    use_meta: bool = True
    use_mapping: bool = True
    use_encoder_decoder: bool = True
    mapping: str = "resnet18.a1_in1k"  # timm names
    encoder: str = "legacy_seresnext50_32x4d.in1k"
    map_widths: tuple[int, int] = (224, 112)
    decoder_widths: tuple[int, int, int, int, int] = (384, 256, 128, 64, 32)  # at H / 16, 8, 4, 2, 1
    num_inner_steps: int = 1
    inner_lr: float = 1e-3
    inner_loss: str = "cls"  # cls, or all: the three terms of Eq. 6
    first_order: bool = False
    batch_size: int = 8  # of each manipulation, half real and half fake
    pairs: bool = False  # each real face is that of the target of the fake beside it; else anyone's
    num_epochs: int = 50
    steps_per_epoch: int = 200
    optimizer: Literal["sgd", "adam"] = "sgd"  # the paper's; adam needs fewer steps
    lr: float = 0.01
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_choices(self)
        check(self.use_mapping or self.use_encoder_decoder, "use_mapping and use_encoder_decoder cannot both be off")
        check(self.use_mapping or not self.use_map_loss, "use_map_loss needs use_mapping: switch both off")
        check(
            self.use_encoder_decoder or not self.use_loc_loss,
            "use_loc_loss needs use_encoder_decoder: switch both off",
        )
        check(self.inner_loss in ("cls", "all"), f"inner_loss must be cls or all, got {self.inner_loss!r}")
        check_not_negative(self, "inner_lr")
        check(min(self.map_widths + self.decoder_widths) > 0, "map_widths and decoder_widths must be positive")
        check_not_negative(self, "weight_decay")
        check(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        check_positive(self, "num_inner_steps", "batch_size", "num_epochs", "steps_per_epoch", "lr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    stages: tuple[str, ...] = ("recover", "finetune", "localize")
    video_frames: int = 30  # sampled from a video, evenly (Sec. 4.1)
    crop_margin: float = 1.3  # side of the face crop in sides of the detector's box
    clip: ClipConfig = field(default_factory=ClipConfig)
    vit: VitConfig = field(default_factory=VitConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    localize: LocalizeConfig = field(default_factory=LocalizeConfig)
    pretrained: bool = True  # ImageNet weights for the two backbones of localize

    def __post_init__(self) -> None:
        order = ("recover", "finetune", "localize")
        chosen = tuple(stage for stage in order if stage in self.stages)
        check(
            self.stages == chosen and len(chosen) > 0,
            f"stages must be some of {order}, in that order, got {self.stages}",
        )
        reads_recovered = "localize" in chosen and self.localize.use_map_loss
        check(
            "recover" in chosen or not ("finetune" in chosen or reads_recovered),
            "finetune, and localize with use_map_loss, need the stage recover;"
            " without it set stages to ['localize'] and localize.use_map_loss to false",
        )

    @property
    def stored_px(self) -> int:
        """Side of the stored face crop, in pixels: what all networks are shown."""
        return self.clip.input_px


SMALL = Config(
    video_frames=6,
    clip=ClipConfig(input_px=128, num_frames=6, patch_px=16),
    vit=VitConfig(width=96, depth=3, num_heads=4),
    recover=RecoverConfig(
        decoder_width=48, decoder_depth=1, decoder_heads=4, batch_size=4, num_epochs=20, warmup_epochs=1, lr=3e-3
    ),
    finetune=FinetuneConfig(batch_size=8, num_epochs=8, warmup_epochs=1, base_lr=0.015, layer_decay=0.9, pairs=True),
    localize=LocalizeConfig(
        mapping="test_resnet",
        encoder="test_resnet",  # no squeeze-and-excitation: timm has none as small that is as fast
        map_widths=(8, 8),
        decoder_widths=(16, 16, 8, 8, 8),
        first_order=True,
        batch_size=4,
        pairs=True,  # what differs within a step is then the forgery, and fewer steps are enough
        num_epochs=5,
        steps_per_epoch=40,
        optimizer="adam",  # sgd is still at chance after 400 steps, at any rate from 0.006 to 0.03
        lr=4e-3,
    ),
    pretrained=False,
)
TINY = replace(
    SMALL,
    video_frames=3,
    clip=ClipConfig(input_px=64, num_frames=2, patch_px=8),
    vit=VitConfig(width=32, depth=1, num_heads=2),
    recover=replace(SMALL.recover, decoder_width=16, decoder_heads=2, batch_size=2, num_epochs=1, warmup_epochs=0),
    finetune=replace(SMALL.finetune, batch_size=2, num_epochs=1, warmup_epochs=0),
    localize=replace(SMALL.localize, batch_size=2, num_epochs=1, steps_per_epoch=2),
)
