"""Delocate: recover masked facial parts of real videos, then detect and localize what does not recover.

Paper: Hu, Xiao, Wang, Gan, Wu, Liu, Wang, "Delocate: Detection and Localization for Deepfake Videos with
Randomly-Located Tampered Traces", IJCAI 2024, arXiv:2401.13516. Sec. 3, Eq. 1 to 6, Algorithm 1.

    recover   masked autoencoder on real clips; hides regions of interest of one facial part (Sec. 3.1, Eq. 1)
    finetune  its encoder and a linear head, real and fake clips, nothing hidden (Eq. 2)
    localize  a mapping net A^m must repeat the recovered face A^r; with the face A^o it goes through an
              encoder-decoder that predicts the manipulated pixels; both classify; meta-learning over
              manipulations (Sec. 3.2, Eq. 6)
    score     mean of finetune and localize; the recovered face is a training target and not needed to score

Differs from the paper, or settles what it leaves open:
- A mask is constant in time and one part is drawn per clip (`recover.temporal`); boxes are in `_masking`.
- The frozen recovery model of all passes, one per part, gives A^r: masked tubelets are pasted into A^o.
- "First convolutional layer ... first three residual blocks" of ResNet-18 are its stem and stages 1 to 3.
- Each of A^m and the encoder's deepest feature has a linear head; P(fake) is the mean of their two
  probabilities. SE-ResNeXt-50 is the default encoder (`localize.encoder`).
- Eq. 5 is a threshold for evaluation; L_loc compares the soft mask, because a threshold has no gradient.
- Eq. 6 is used once; Algorithm 1, line 24, would count three of its terms twice.
- The inner step of Eq. 6 moves the mapping convolutions and the two heads, not the shared backbones.
- lr: 1e-3 in finetune is per 256 samples, as in VideoMAE; SGD in localize starts at 0.01, not 0.1.
- Eq. 3 and 4 motivate and are not computed.

Shapes: B samples, T frames, N tokens, P values of a tubelet, H = W = `input_px`, S = H / 4, K heads.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from models._distributed import mean_over_workers, total, world_size
from models._layers import without_prefix
from models._localization_net import LocalizationNet, Localized
from models._masking import PARTS, draw_cells, flip_landmarks, part_cells
from models._schedule import parameter_groups, warmup_cosine
from models._stage import Batch, Feed, Mode, Sample, Stage
from models._video_mae import Decoder, Encoder, to_tubelets, to_video, visible_index

VERSION = 1

# Table 6: the parts of the face that a strategy knows; "clip" is no part but every token.
STRATEGIES = {
    "proposed": PARTS,
    "eyes": ("eyes",),
    "cheek_nose": ("cheek_nose",),
    "lips": ("lips",),
    "without_rois": PARTS,
    "mae": ("clip",),  # any token, slots differ
    "video_mae": ("clip",),  # the same positions in every slot
}
MAP_STRIDE = 4  # of the mapped face; the paper's 56 for 224


# ------------------------------------------------------------------------------------- configuration
def _check(valid: bool, message: str) -> None:
    if not valid:
        raise ValueError(message)


def _check_positive(cfg: Any, *names: str) -> None:
    for name in names:
        value = getattr(cfg, name)
        _check(value > 0, f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    input_px: int = 224
    num_frames: int = 16
    patch_px: int = 16
    tubelet_frames: int = 2

    def __post_init__(self) -> None:
        _check_positive(self, "input_px", "num_frames", "patch_px", "tubelet_frames")
        _check(self.input_px % 32 == 0, f"input_px must be a multiple of 32, got {self.input_px}")
        _check(self.input_px % self.patch_px == 0, f"patch_px {self.patch_px} must divide input_px {self.input_px}")
        _check(
            self.num_frames % self.tubelet_frames == 0,
            f"tubelet_frames {self.tubelet_frames} must divide num_frames {self.num_frames}",
        )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.input_px // self.patch_px

    @property
    def num_slots(self) -> int:
        return self.num_frames // self.tubelet_frames

    @property
    def num_tokens(self) -> int:
        return self.num_slots * self.grid**2

    @property
    def tubelet_values(self) -> int:
        return 3 * self.tubelet_frames * self.patch_px**2


@dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    checkpoint_activations: bool = False  # less memory, a third more time, the same numbers

    def __post_init__(self) -> None:
        _check_positive(self, "width", "depth", "num_heads")
        _check(self.width % self.num_heads == 0, f"num_heads {self.num_heads} must divide width {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverConfig:
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
        _check(self.strategy in STRATEGIES, f"strategy must be one of {tuple(STRATEGIES)}, got {self.strategy!r}")
        _check(self.temporal in ("tube", "per_slot"), f"temporal must be tube or per_slot, got {self.temporal!r}")
        _check(0 < self.mask_ratio <= 1, f"mask_ratio must be in (0, 1], got {self.mask_ratio}")
        whole_clip = STRATEGIES[self.strategy] == ("clip",)
        _check(
            not whole_clip or self.mask_ratio < 1, f"{self.strategy} needs a mask_ratio below 1: nothing is left to see"
        )
        _check_positive(self, "decoder_width", "decoder_depth", "decoder_heads", "batch_size", "num_epochs", "lr")
        _check(
            self.decoder_width % self.decoder_heads == 0,
            f"decoder_heads {self.decoder_heads} must divide decoder_width {self.decoder_width}",
        )
        _check_warmup(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    batch_size: int = 8
    num_epochs: int = 20
    warmup_epochs: int = 5
    base_lr: float = 1e-3  # for 256 samples in a step: used as base_lr * batch_size / 256
    layer_decay: float = 0.75  # factor on the rate from one block to the one below
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size", "num_epochs", "base_lr")
        _check(0 < self.layer_decay <= 1, f"layer_decay must be in (0, 1], got {self.layer_decay}")
        _check_warmup(self)


def _check_warmup(cfg: RecoverConfig | FinetuneConfig) -> None:
    _check(
        0 <= cfg.warmup_epochs < cfg.num_epochs,
        f"warmup_epochs must be in [0, num_epochs = {cfg.num_epochs}), got {cfg.warmup_epochs}",
    )
    _check(cfg.weight_decay >= 0, f"weight_decay must not be negative, got {cfg.weight_decay}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalizeConfig:
    # Table 7. A part that is switched off has no parameters.
    use_map_loss: bool = True
    use_loc_loss: bool = True
    use_meta: bool = True
    use_mapping: bool = True
    use_encoder_decoder: bool = True
    mapping: str = "resnet18"  # timm names
    encoder: str = "legacy_seresnext50_32x4d"
    map_widths: tuple[int, int] = (224, 112)
    decoder_widths: tuple[int, int, int, int, int] = (384, 256, 128, 64, 32)  # at H / 16, 8, 4, 2, 1
    num_inner_steps: int = 1
    inner_lr: float = 1e-3
    inner_loss: str = "cls"  # cls, or all: the three terms of Eq. 6
    first_order: bool = False
    batch_size: int = 8  # of each manipulation, half real and half fake
    num_epochs: int = 50
    steps_per_epoch: int = 200
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _check(self.use_mapping or self.use_encoder_decoder, "use_mapping and use_encoder_decoder cannot both be off")
        _check(self.use_mapping or not self.use_map_loss, "use_map_loss needs use_mapping: switch both off")
        _check(
            self.use_encoder_decoder or not self.use_loc_loss,
            "use_loc_loss needs use_encoder_decoder: switch both off",
        )
        _check(self.inner_loss in ("cls", "all"), f"inner_loss must be cls or all, got {self.inner_loss!r}")
        _check(self.inner_lr >= 0, f"inner_lr must not be negative, got {self.inner_lr}")
        _check(min(self.map_widths + self.decoder_widths) > 0, "map_widths and decoder_widths must be positive")
        _check(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        _check(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        _check_positive(self, "num_inner_steps", "batch_size", "num_epochs", "steps_per_epoch", "lr")


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
        chosen = tuple(name for name in order if name in self.stages)
        _check(
            self.stages == chosen and len(chosen) > 0,
            f"stages must be some of {order}, in that order, got {self.stages}",
        )
        reads_recovered = "localize" in chosen and self.localize.use_map_loss
        _check(
            "recover" in chosen or not ("finetune" in chosen or reads_recovered),
            "finetune, and localize with use_map_loss, need the stage recover;"
            " without it set stages to ['localize'] and localize.use_map_loss to false",
        )


SMALL = Config(
    video_frames=10,
    clip=ClipConfig(input_px=64, num_frames=8, patch_px=8),
    vit=VitConfig(width=96, depth=3, num_heads=4),
    recover=RecoverConfig(
        decoder_width=48, decoder_depth=1, decoder_heads=4, batch_size=4, num_epochs=48, warmup_epochs=3, lr=3e-3
    ),
    finetune=FinetuneConfig(batch_size=8, num_epochs=6, warmup_epochs=1, base_lr=0.015, layer_decay=0.9),
    localize=LocalizeConfig(
        mapping="test_resnet",
        encoder="test_resnet",  # no squeeze-and-excitation: timm has none as small that is as fast
        map_widths=(32, 16),
        decoder_widths=(64, 48, 32, 16, 8),
        batch_size=4,
        num_epochs=8,
        steps_per_epoch=10,
        lr=0.006,
    ),
    pretrained=False,
)


# ----------------------------------------------------------------------------------------- samples
def draw_mask(cfg: Config, landmarks: NDArray[np.float32], part: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,): True for hidden tokens. landmarks: (T, 68, 2); part: one of `STRATEGIES[cfg.recover.strategy]`."""
    clip, recover = cfg.clip, cfg.recover
    grid, slots = clip.grid, clip.num_slots
    if recover.strategy == "mae":
        return draw_cells(np.ones((slots, grid, grid), bool), recover.mask_ratio, rng).ravel()

    def draw_slot(points: NDArray[np.float32]) -> NDArray[np.bool_]:
        if part == "clip":
            cells = np.ones((grid, grid), bool)
        else:
            cells = part_cells(points, part, grid, clip.patch_px, use_rois=recover.strategy != "without_rois")
        return draw_cells(cells, recover.mask_ratio, rng)

    if recover.temporal == "tube" or part == "clip":
        # The same positions in all slots: nothing to copy from the frame before.
        return np.tile(draw_slot(landmarks.mean(0)).ravel(), slots)
    by_slot = landmarks.reshape(slots, clip.tubelet_frames, 68, 2).mean(1)
    return np.concatenate([draw_slot(points).ravel() for points in by_slot])


def _flipped(array: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.flip(array, axis))


def _to_unit(image: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]."""
    return image.float() / 255


# ----------------------------------------------------------------------------------------- recover
class Recover(Stage):
    """Sec. 3.1: hides patches of one facial part of a real clip and predicts them from all the others.

    Batch: image (B, T, H, W, 3) uint8, mask (B, N) bool; `derive` also part_masks (B, parts, N) bool.
    """

    name = "recover"
    view = "real_clips"
    selects_by = "loss"
    scores = False

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return _encoder_settings(cfg) | {"recover": asdict(cfg.recover)}

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.clip.input_px,
            clip_frames=cfg.clip.num_frames,
            batch_size=cfg.recover.batch_size,
            num_epochs=cfg.recover.num_epochs,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image, landmarks = sample["image"], sample["landmarks"]
        if mode == "train" and rng.random() < 0.5:
            image, landmarks = _flipped(image, 2), flip_landmarks(landmarks, cfg.clip.input_px)
        parts = STRATEGIES[cfg.recover.strategy]
        part = parts[rng.integers(len(parts))]
        arrays = {"image": image, "mask": draw_mask(cfg, landmarks, part, rng)}
        if mode != "train":
            arrays["part_masks"] = np.stack([draw_mask(cfg, landmarks, part, rng) for part in parts])
        return arrays

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = _encoder(cfg, final_norm=True)
        recover = cfg.recover
        self.decoder = Decoder(
            cfg.clip.num_tokens,
            cfg.clip.tubelet_values,
            cfg.vit.width,
            recover.decoder_width,
            recover.decoder_depth,
            recover.decoder_heads,
        )

    def predict(self, tubelets_BNP: Tensor, mask_BN: Tensor) -> Tensor:
        """(M, P): the masked tubelets, in the order of `tubelets_BNP[mask_BN]`, from the visible ones."""
        index_BV, valid_BV = visible_index(mask_BN)
        visible = tubelets_BNP.gather(1, index_BV[..., None].expand(-1, -1, tubelets_BNP.shape[-1]))
        encoded = self.encoder(visible, index_BV, valid_BV)
        return self.decoder(encoded, index_BV, mask_BN)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        tubelets_BNP = _tubelets(self.cfg, batch["image"])
        predicted = self.predict(tubelets_BNP, batch["mask"])
        error_M = (predicted.float() - tubelets_BNP[batch["mask"]]).square().mean(1)
        loss = mean_over_workers(error_M.sum(), error_M.new_tensor(len(error_M)))  # Eq. 1
        return {"loss": loss, "mae": loss.detach()}

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.recover
        groups = parameter_groups(self.named_parameters(), cfg.lr, cfg.weight_decay)
        optimizer = AdamW(groups, betas=(0.9, 0.95))
        return optimizer, warmup_cosine(optimizer, num_steps, num_steps * cfg.warmup_epochs // cfg.num_epochs)

    def derive(self, batch: Batch) -> dict[str, Tensor]:
        """A^r as `recovered` uint8 (B, T, S, S, 3): each part hidden in turn, its prediction pasted into A^o.

        A patch of two parts shows the later one.
        """
        clip = self.cfg.clip
        tubelets_BNP = _tubelets(self.cfg, batch["image"])
        recovered_BNP = tubelets_BNP.clone()
        for mask_BN in batch["part_masks"].unbind(1):
            recovered_BNP[mask_BN] = self.predict(tubelets_BNP, mask_BN).float().clamp(0, 1)
        video = to_video(recovered_BNP, clip.tubelet_frames, clip.patch_px, clip.grid)
        frames = F.avg_pool2d(video.flatten(0, 1).permute(0, 3, 1, 2), MAP_STRIDE)
        small = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return {"recovered": small.unflatten(0, video.shape[:2])}


def _encoder(cfg: Config, *, final_norm: bool) -> Encoder:
    return Encoder(
        cfg.clip.num_tokens,
        cfg.clip.tubelet_values,
        cfg.vit.width,
        cfg.vit.depth,
        cfg.vit.num_heads,
        final_norm=final_norm,
        checkpoint_activations=cfg.vit.checkpoint_activations,
    )


def _encoder_settings(cfg: Config) -> dict[str, Any]:
    vit = asdict(cfg.vit)
    del vit["checkpoint_activations"]  # changes memory and time only
    return {"clip": asdict(cfg.clip), "vit": vit}


def _tubelets(cfg: Config, image: Tensor) -> Tensor:
    """(B, N, P) in [0, 1] of a uint8 clip (B, T, H, W, 3)."""
    return to_tubelets(_to_unit(image), cfg.clip.tubelet_frames, cfg.clip.patch_px)


# ---------------------------------------------------------------------------------------- finetune
class Finetune(Stage):
    """Sec. 3.1, Eq. 2: the recovery encoder on whole clips, mean over tokens, norm, one logit.

    Batch: image (B, T, H, W, 3) uint8, label (B,).
    """

    name = "finetune"
    view = "clips"
    starts_from = "recover"

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return _encoder_settings(cfg) | {"finetune": asdict(cfg.finetune)}

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.clip.input_px,
            clip_frames=cfg.clip.num_frames,
            batch_size=cfg.finetune.batch_size,
            num_epochs=cfg.finetune.num_epochs,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image = sample["image"]
        if mode == "train" and rng.random() < 0.5:
            image = _flipped(image, 2)
        return {"image": image, "label": np.asarray(sample["label"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = _encoder(cfg, final_norm=False)
        self.norm = nn.LayerNorm(cfg.vit.width, eps=1e-6)
        self.head = nn.Linear(cfg.vit.width, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.02 * 0.001)  # starts at P(fake) = 0.5 for every clip
        nn.init.zeros_(self.head.bias)

    def load_start(self, weights: Mapping[str, Tensor]) -> None:
        """The encoder of `recover`; its closing norm and its decoder are dropped."""
        encoder = without_prefix(weights, "encoder.")
        self.encoder.load_state_dict({name: w for name, w in encoder.items() if not name.startswith("norm.")})

    def logit(self, batch: Batch) -> Tensor:
        """(B,), above 0 means fake."""
        tokens_BND = self.encoder(_tubelets(self.cfg, batch["image"]))
        return self.head(self.norm(tokens_BND.mean(1))).squeeze(1).float()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logit = self.logit(batch)
        loss = F.binary_cross_entropy_with_logits(logit, batch["label"].float())  # Eq. 2
        return {"loss": loss, "cls": loss.detach(), "score": logit.detach().sigmoid()}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"score": self.logit(batch).sigmoid()}

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg, depth = self.cfg.finetune, self.cfg.vit.depth

        def lr_scale(name: str) -> float:
            if name.startswith("encoder.blocks."):
                layer = 1 + int(name.split(".")[2])
            else:
                layer = 0 if name.startswith("encoder.") else depth + 1
            return cfg.layer_decay ** (depth + 1 - layer)

        lr = cfg.base_lr * cfg.batch_size / 256
        optimizer = AdamW(parameter_groups(self.named_parameters(), lr, cfg.weight_decay, lr_scale), betas=(0.9, 0.999))
        return optimizer, warmup_cosine(optimizer, num_steps, num_steps * cfg.warmup_epochs // cfg.num_epochs)


# ---------------------------------------------------------------------------------------- localize
def mean_probability_bce(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy (B,) of the mean of K probabilities, from their logits: log(mean(sigmoid(z))) without overflow."""
    heads = math.log(logits_BK.shape[1])
    log_fake = F.logsigmoid(logits_BK).logsumexp(1) - heads
    log_real = F.logsigmoid(-logits_BK).logsumexp(1) - heads
    return -torch.where(label_B.bool(), log_fake, log_real)


def losses(out: Localized, batch: Batch) -> dict[str, Tensor]:
    """The terms of one bracket of Eq. 6 that the net and the batch allow: cls, map, loc."""
    terms = {"cls": mean_probability_bce(out.logits, batch["label"]).mean()}
    if out.mapped is not None and "recovered" in batch:
        target = _to_unit(batch["recovered"]).permute(0, 3, 1, 2)
        terms["map"] = F.mse_loss(out.mapped, target)
    if out.mask is not None:
        error_B = (out.mask - batch["mask"].float()).square().mean((1, 2))
        known_B = batch["mask_valid"].float()
        terms["loc"] = mean_over_workers((error_B * known_B).sum(), known_B.sum())
    return terms


def inner_update(parameters: Mapping[str, Tensor], loss: Tensor, lr: float, *, first_order: bool) -> dict[str, Tensor]:
    """One gradient step as new tensors, along the mean gradient of all workers; the given ones stay as they are.

    first_order: the step counts as a constant, instead of as a function of the parameters, in what is
    computed from its result.
    """
    grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=not first_order, retain_graph=True)
    flat = total(torch.cat([grad.flatten() for grad in grads])) / world_size()
    sizes = [grad.numel() for grad in grads]
    return {
        name: value - lr * grad.view_as(value)
        for (name, value), grad in zip(parameters.items(), flat.split(sizes), strict=True)
    }


class Localize(Stage):
    """Sec. 3.2 and Eq. 6.

    Batch: image (B, H, W, 3) uint8, label, domain (B,), mask (B, H, W), mask_valid (B,), and with
    `use_map_loss` recovered (B, S, S, 3) uint8. In evaluation a batch without recovered has no L_map.
    """

    name = "localize"
    view = "domain_frames"
    reads = "recover"

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return {"input_px": cfg.clip.input_px, "pretrained": cfg.pretrained, "localize": asdict(cfg.localize)}

    @classmethod
    def reads_of(cls, cfg: Config) -> str | None:
        return cls.reads if cfg.localize.use_map_loss else None

    @staticmethod
    def feed(cfg: Config) -> Feed:
        localize = cfg.localize
        return Feed(
            input_px=cfg.clip.input_px,
            batch_size=localize.batch_size,
            num_epochs=localize.num_epochs,
            steps_per_epoch=localize.steps_per_epoch,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        images = {name: sample[name] for name in ("image", "mask")}
        if cfg.localize.use_map_loss and (mode == "train" or "recovered" in sample):
            images["recovered"] = sample["recovered"]
        if mode == "train" and rng.random() < 0.5:
            images = {name: _flipped(value, 1) for name, value in images.items()}
        return images | {name: np.asarray(sample[name]) for name in ("label", "domain", "mask_valid")}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        localize = cfg.localize
        self.net = LocalizationNet(
            mapping=localize.mapping if localize.use_mapping else None,
            encoder=localize.encoder if localize.use_encoder_decoder else None,
            map_widths=localize.map_widths,
            decoder_widths=localize.decoder_widths if localize.use_loc_loss else None,
            pretrained=cfg.pretrained,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and self.cfg.localize.use_meta:
            return self._meta_forward(batch)
        out = self.net(_face(batch))
        terms = losses(out, batch)
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, "score": _probability(out)} | {name: term.detach() for name, term in terms.items()}

    def _meta_forward(self, batch: Batch) -> dict[str, Tensor]:
        """Eq. 6: the sum over meta-train manipulations of their loss and of the meta-test loss after a step on them."""
        train_domains, test_domain = split_domains(batch["domain"], int(batch["step_seed"]))
        test = _of_domain(batch, test_domain)
        train_terms, test_terms = [], []
        score = torch.zeros(len(batch["domain"]), device=batch["domain"].device)
        for domain in train_domains:
            train = _of_domain(batch, domain)
            out = self.net(_face(train))
            train_terms.append(losses(out, train))
            adapted = self._adapt(train, train_terms[-1])
            test_out = self._with(adapted, test)
            test_terms.append(losses(test_out, test))
            score[batch["domain"] == domain] = _probability(out)
            score[batch["domain"] == test_domain] += _probability(test_out) / len(train_domains)
        loss = torch.stack([term for terms in train_terms + test_terms for term in terms.values()]).sum()
        parts = _means(train_terms) | {f"meta_test_{name}": value for name, value in _means(test_terms).items()}
        return {"loss": loss, "score": score} | parts

    def _adapt(self, batch: Batch, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapted parameters after the inner steps on `batch`, whose losses at the first step are `terms`."""
        cfg = self.cfg.localize
        adapted: dict[str, Tensor] = {
            name: value for name, value in self.net.named_parameters() if name.startswith(LocalizationNet.ADAPTED)
        }
        for step in range(cfg.num_inner_steps):
            if step > 0:
                terms = losses(self._with(adapted, batch), batch)
            loss = terms["cls"] if cfg.inner_loss == "cls" else torch.stack(list(terms.values())).sum()
            adapted = inner_update(adapted, loss, cfg.inner_lr, first_order=cfg.first_order)
        return adapted

    def _with(self, adapted: Mapping[str, Tensor], batch: Batch) -> Localized:
        """The net with other parameters. Batch norm uses the batch, and writes its running statistics into copies."""
        buffers = {name: value.clone() for name, value in self.net.named_buffers()}
        return functional_call(self.net, {**adapted, **buffers}, (_face(batch),))

    def score(self, batch: Batch) -> dict[str, Tensor]:
        out = self.net(_face(batch))
        return {"score": _probability(out)} | ({} if out.mask is None else {"mask": out.mask})

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.localize
        optimizer = SGD(self.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        return optimizer, warmup_cosine(optimizer, num_steps)


def split_domains(domain_B: Tensor, seed: int) -> tuple[list[int], int]:
    """Meta-train domains and the one meta-test domain, drawn from those in the batch."""
    domains = domain_B.unique().tolist()
    if len(domains) < 2:
        raise ValueError(
            f"meta-learning needs faces of at least 2 manipulations in a step, got domains {domains};"
            " train on more of them, or set localize.use_meta to false"
        )
    generator = torch.Generator().manual_seed(seed)
    test_domain = domains.pop(int(torch.randint(len(domains), (), generator=generator)))
    return domains, test_domain


def _of_domain(batch: Batch, domain: int) -> Batch:
    rows = batch["domain"] == domain
    return {name: value[rows] for name, value in batch.items() if value.ndim > 0}


def _face(batch: Batch) -> Tensor:
    return _to_unit(batch["image"]).permute(0, 3, 1, 2)


def _probability(out: Localized) -> Tensor:
    return out.logits.detach().sigmoid().mean(1)


def _means(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in terms]).mean().detach() for name in terms[0]}


STAGES = (Recover, Finetune, Localize)
