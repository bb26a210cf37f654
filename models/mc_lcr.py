"""MC-LCR: a detector that looks at textures in shallow layers, and at amplitude and phase of small patches together.

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290.
Sec. 3, Eq. 1 to 15, Table 1.

    detect  Xception with the style of its shallow layers (SSRB, Eq. 1) and its global feature; amplitude and phase
            of 16 px patches with PAPDA and Mixers (Eq. 2 to 11, in `_patch_spectra`); all of it joined (Eq. 12),
            encoded, classified (Eq. 14) and pulled together by class (Eq. 13)

Tables 5 and 6, by config: w/o SSRB `use_ssrb=False`; w/o PAPDA `use_frequency=False`, as the table's baseline has
no PAPDA and is Xception alone (or `frequency.cross_attention=False`, which keeps embeddings and Mixers);
w/o SC loss `loss.alpha=0`; baseline all three, and `use_encoder=False, gf="raw2048"`: pooled, then classified.

Differs from the paper, or settles what it leaves open:
- The paper counts Xception's stem as block 1: its blocks 1, 2, 3 are timm's stem, block1, block2, after the ReLU.
- Eq. 1 is divided by the number of positions (`gram_mean`); "pooling each row of G" is the mean of a row.
- Table 1 gives GF 1024 numbers, Sec. 3.1 takes it from block 14, which has 2048: `gf` has three readings.
- Eq. 4 prints arctan, which loses the quadrant: atan2 (`frequency.phase`); a bin that is zero has phase 0.
- Sec. 3.4 takes the supervised contrastive loss of Khosla et al., but Eq. 13 prints only negatives in the
  denominator and a sum over anchors, where Eq. 14 is a mean: `loss.form` and `loss.reduction`.
- Contrast is among the images of all workers, so that N of them compute what one does (`loss.gather_negatives`).
- Validation loss, which lowers the learning rate, is the cross-entropy: a validation batch holds frames of one or
  two videos, often of one class, so that Eq. 13 would depend on how it is cut. It is the mean of its means over real
  and over fake frames, as training is half real, half fake. The epoch kept has the best AUC.
- The frequency stream computes in float32 also where the rest computes in bf16: what a forgery changes in the
  amplitudes is less than bf16 rounds.
- "All dropout layers" are one before the encoder and one before the classifier (`dropout_at`).
- An epoch is as many steps as it takes to show FF++'s 21,600 real training frames; which ones are shown is drawn.
- Faces: dlib's box, turned upright about its centre until the eyes are level; 1.3 boxes of it are the picture.
  Flips are the only augmentation.

Shapes: B images, H = W = `input_px`, C channels, S positions of a feature map, D width of a projection.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models._alignment import upright_face
from models._config import check, named
from models._distributed import gather
from models._mc_lcr_config import (
    DROPOUTS,
    SMALL,
    Config,
    DetectConfig,
    Form,
    FrequencyConfig,
    LossConfig,
    Reduction,
)
from models._patch_spectra import FrequencyStream
from models._stage import Batch, CamLayer, Feed, Mode, Sample, Stage
from models._xception import MEAN, STD, TIMM_NAME, Features, Xception

VERSION = 2


# ----------------------------------------------------------------------------------------- samples
def aligned_face(cfg: Config, sample: Sample) -> NDArray[np.uint8]:
    """Cut out `face_margin` boxes around the detector's box, turned until the eyes are level: (H, W, 3)."""
    face, _ = upright_face(
        sample["image"], sample["landmarks"], sample["box"], cfg.face_margin, cfg.input_px, align=cfg.align
    )
    return face


# ----------------------------------------------------------------------------- spatial stream (Sec. 3.1)
def style(features_BCHW: Tensor, *, mean: bool = True) -> Tensor:
    """Return the style (B, C) of a feature map, the mean of each row of its Gram matrix (SSRB, Eq. 1, Fig. 2); float32.

    The mean over j of <F_i, F_j> is <F_i, mean over j of F_j>: no C x C matrix is needed. mean: divide the products by
    the number of positions too.
    """
    with torch.autocast(features_BCHW.device.type, enabled=False):
        f_BCS = features_BCHW.float().flatten(2)
        correlation_BCS = f_BCS * f_BCS.mean(1, keepdim=True)
        return correlation_BCS.mean(2) if mean else correlation_BCS.sum(2)


def shallow_maps(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the paper counts as blocks 1, 2 and 3, after the ReLU."""
    return features.stem, features.blocks[0].relu(), features.blocks[1].relu()


class SpatialStream(nn.Module):
    """Sec. 3.1: image (B, 3, H, W) in [0, 1] -> the style features that `use_ssrb` asks for, then GF."""

    mean: Tensor
    std: Tensor

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.backbone = Xception(width=cfg.backbone_width, num_middle=cfg.backbone_middle, pretrained=cfg.pretrained)
        if cfg.gf == "b13":
            # Without the paper's block 14: each of its layers passes on what it gets, so that `Features.top` is the
            # output of the last block, and no weight is left that nothing trains.
            for layer in ("conv3", "bn3", "act3", "conv4", "bn4", "act4"):
                setattr(self.backbone, layer, nn.Identity())
        pooled = self.backbone.widths[-1] if cfg.gf == "b13" else self.backbone.num_features
        self.fc = nn.Linear(pooled, cfg.gf_width) if cfg.gf == "fc1024" else nn.Identity()
        ssf_widths = self.backbone.widths[:3] if cfg.use_ssrb else ()
        self.norms = nn.ModuleList(nn.LayerNorm(width) if cfg.norm_ssf else nn.Identity() for width in ssf_widths)
        self.widths = (*ssf_widths, cfg.gf_width if cfg.gf == "fc1024" else pooled)

    def features(self, image: Tensor) -> Features:
        """Return what the layers of the Xception make of images in [0, 1]."""
        return self.backbone((image - self.mean) / self.std)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.features(image)
        ssf = []
        if self.cfg.use_ssrb:
            taps = zip(self.norms, shallow_maps(features), strict=True)
            ssf = [norm(style(tap, mean=self.cfg.gram_mean)) for norm, tap in taps]
        return [*ssf, self.fc(features.top.mean((2, 3)))]


# ------------------------------------------------------------------------------------ detect (Sec. 3.4)
def supervised_contrastive(
    z_BD: Tensor, label_B: Tensor, temperature: float, *, form: Form = "standard", reduction: Reduction = "mean"
) -> Tensor:
    """Return the supervised contrastive loss of unit vectors, by Khosla et al. (standard) or by Eq. 13 (eq13).

    Each vector is an anchor once. One without a positive, in eq13 also one without a negative, counts as 0.
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        similarity_BB = z_BD.float() @ z_BD.float().T / temperature
    same_BB = label_B[:, None] == label_B[None]
    others_BB = ~torch.eye(len(z_BD), dtype=torch.bool, device=z_BD.device)
    positive_BB = same_BB & others_BB
    against_BB = others_BB if form == "standard" else ~same_BB
    usable_B = positive_BB.any(1) & against_BB.any(1)
    log_sum_B = similarity_BB.masked_fill(~against_BB, -torch.inf).logsumexp(1)
    mean_positive_B = (similarity_BB * positive_BB).sum(1) / positive_BB.sum(1).clamp(min=1)
    loss_B = torch.where(usable_B, log_sum_B - mean_positive_B, 0.0)
    return loss_B.mean() if reduction == "mean" else loss_B.sum()


def _places(cfg: Config) -> tuple[str, ...]:
    """Return where there is dropout: those of `dropout_at` that the network has, in order."""
    exists = {
        "fused": cfg.use_encoder,
        "encoded": True,
        "attention": cfg.use_frequency and cfg.frequency.cross_attention,
        "mixer": cfg.use_frequency,
    }
    return tuple(place for place in DROPOUTS if place in cfg.dropout_at and exists[place] and cfg.dropout > 0)


def _dropout(cfg: Config, place: str) -> float:
    return cfg.dropout if place in cfg.dropout_at else 0.0


class Detect(Stage):
    """Fig. 1: both streams joined, encoded, classified, and pulled together by class.

    Batch: image (B, H, W, 3) uint8, label (B,).
    """

    name = "detect"
    view = "frames"
    balances_val_loss = True
    accumulates = "no"  # each face is contrasted with all others of the step

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        without_effect = {"stages", "video_frames", "crop_margin"}
        where_used = {
            "frequency": cfg.use_frequency,
            "gram_mean": cfg.use_ssrb,
            "norm_ssf": cfg.use_ssrb,
            "gf_width": cfg.gf == "fc1024",
            "encoded_width": cfg.use_encoder,
            "projected_width": cfg.loss.alpha > 0,
            "dropout": len(_places(cfg)) > 0,
        }
        without_effect |= {name for name, used in where_used.items() if not used}
        settings = {name: value for name, value in named(cfg).items() if name not in without_effect}
        settings["dropout_at"] = _places(cfg)
        if cfg.loss.alpha == 0:
            settings["loss"] = {"alpha": 0.0}
        if cfg.use_frequency and not cfg.frequency.cross_attention:
            del settings["frequency"]["num_heads"]
        return settings

    @staticmethod
    def pretrained_networks(cfg: Config) -> tuple[str, ...]:
        return (TIMM_NAME,) if cfg.pretrained else ()

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.stored_px,
            batch_size=cfg.detect.batch_size,
            num_epochs=cfg.detect.num_epochs,
            steps_per_epoch=cfg.detect.steps_per_epoch,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image = aligned_face(cfg, sample)
        if cfg.flip and mode == "train" and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return {"image": image, "label": np.asarray(sample["label"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.spatial = SpatialStream(cfg)
        fused = sum(self.spatial.widths)
        self.frequency: FrequencyStream | None = None
        if cfg.use_frequency:
            self.frequency = FrequencyStream(
                input_px=cfg.input_px,
                **named(cfg.frequency),
                attention_dropout=_dropout(cfg, "attention"),
                mixer_dropout=_dropout(cfg, "mixer"),
            )
            fused += 2 * cfg.frequency.width
        encoded = cfg.encoded_width if cfg.use_encoder else fused
        self.encode: nn.Sequential | None = None
        if cfg.use_encoder:
            self.encode = nn.Sequential(nn.Dropout(_dropout(cfg, "fused")), nn.Linear(fused, encoded))
        self.classify = nn.Sequential(nn.Dropout(_dropout(cfg, "encoded")), nn.Linear(encoded, 2))
        self.project = nn.Linear(encoded, cfg.projected_width) if cfg.loss.alpha > 0 else None

    def fuse(self, image: Tensor) -> Tensor:
        """Return F_MM (Eq. 12): SSF_b1, SSF_b2, SSF_b3, GF, AF, PF side by side, of uint8 images (B, H, W, 3)."""
        unit = self._unit(image)
        features = self.spatial(unit)
        if self.frequency is not None:
            features += self.frequency(unit)
        return torch.cat([feature.float() for feature in features], 1)

    def _unit(self, image: Tensor) -> Tensor:
        """Return uint8 images (B, H, W, 3) as float32 (B, 3, H, W) in [0, 1]. Raises ValueError for another size."""
        shape = (self.cfg.input_px, self.cfg.input_px, 3)
        check(tuple(image.shape[1:]) == shape, f"image must be (B, H, W, 3) = (B, {shape}), got {tuple(image.shape)}")
        return image.permute(0, 3, 1, 2).float() / 255

    def encoded(self, image: Tensor) -> Tensor:
        """Return F_E; without an encoder F_MM itself."""
        fused = self.fuse(image)
        return fused if self.encode is None else self.encode(fused)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        label_B, encoded = batch["label"].long(), self.encoded(batch["image"])
        logits_B2 = self.classify(encoded).float()
        ce_B = F.cross_entropy(logits_B2, label_B, reduction="none")
        loss = ce = ce_B.mean()  # Eq. 14
        terms = {"ce": ce.detach()}
        if not self.training:
            loss = ce_B  # of each sample, to be balanced over the classes
        if self.training and self.project is not None:
            cfg = self.cfg.loss
            z_BD = F.normalize(self.project(encoded).float(), dim=1)
            if cfg.gather_negatives:
                z_BD, label_B = gather(z_BD), gather(label_B)
            contrastive = supervised_contrastive(
                z_BD, label_B, cfg.temperature, form=cfg.form, reduction=cfg.reduction
            )  # Eq. 13
            loss = cfg.alpha * contrastive + (1 - cfg.alpha) * ce  # Eq. 15
            terms["contrastive"] = contrastive.detach()
        return {"loss": loss, "logit": (logits_B2[:, 1] - logits_B2[:, 0]).detach()} | terms

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}

    def cam_layer(self) -> CamLayer:
        """Return the layer of the global feature: style and frequency features have lost their places."""
        return CamLayer(self.spatial.backbone.act4)

    def logit(self, batch: Batch) -> Tensor:
        logits_B2 = self.classify(self.encoded(batch["image"])).float()
        return logits_B2[:, 1] - logits_B2[:, 0]

    def features(self, batch: Batch) -> Tensor:
        """Return F_E, as in Fig. 7."""
        return self.encoded(batch["image"])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return Fig. 6: the sum of all maps of each of blocks 1 to 3, brought to [0, 1], as it has no scale."""
        pictures = {}
        for number, map_BChw in enumerate(shallow_maps(self.spatial.features(self._unit(batch["image"]))), 1):
            sum_Bhw = map_BChw.float().sum(1)
            low, high = sum_Bhw.amin((1, 2), keepdim=True), sum_Bhw.amax((1, 2), keepdim=True)
            pictures[f"block {number}"] = (sum_Bhw - low) / (high - low).clamp(min=1e-8)
        return pictures

    def optimizer(self, num_steps: int) -> tuple[Optimizer, ReduceLROnPlateau]:
        cfg = self.cfg.detect
        not_from_imagenet = [p for name, p in self.named_parameters() if not name.startswith("spatial.backbone.")]
        groups = [
            {"params": not_from_imagenet, "lr": cfg.lr},
            {"params": list(self.spatial.backbone.parameters()), "lr": cfg.lr * cfg.backbone_lr_scale},
        ]
        make = Adam if cfg.optimizer == "adam" else AdamW
        optimizer = make(groups, lr=cfg.lr, weight_decay=cfg.weight_decay)
        return optimizer, ReduceLROnPlateau(optimizer, factor=cfg.lr_factor, patience=cfg.lr_patience)


STAGES = (Detect,)

__all__ = ["SMALL", "STAGES", "VERSION", "Config", "DetectConfig", "FrequencyConfig", "LossConfig"]
