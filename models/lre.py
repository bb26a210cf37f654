"""LRE: where a model of real faces cannot fill a face in again, the face is forged.

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection". Sec. III, Eq. 1 to 3.

    reconstruct  masked autoencoder of real faces; hides mostly the key region around the facial features
                 (Sec. III-B, Eq. 1: `_key_region`, `_image_mae`)
    detect       face and reconstruction go through a frozen ImageNet Xception; where their features at a place point
                 in other directions, an attention map is high (Eq. 2: `attention_map`); the maps gate the blocks of a
                 second Xception, which sees the face and is trained (`gated`, Eq. 3). The autoencoder is frozen too

Differs from the paper, or settles what it leaves open:
- The autoencoder's size is MAE's ViT-B (`reconstruct`); positions are fixed, its targets are pixels in [-1, 1].
- "Most" of the key region: `mask.key_fraction` of it, and `mask.ratio` of all patches, the same number in every face.
- The reconstruction shows the face's own pixels where it was visible; the loss says nothing of predictions there.
- "Middle layers" are the outputs of block1 to block3, before the ReLU: maps then cover 0 to 1. They could as well be
  those of Xception's middle flow, block4 to block11 (`detect.taps`).
- The "inner product" of features with a map is a product at every place (`gated`, `detect.gate`); two zero vectors
  point in one direction.
- Training draws a fresh mask whenever it sees a face; evaluation has one per face, or the mean over several
  (`detect.num_masks`).
- Adam at a constant rate, the same for both stages; MAE's own recipe can be had (`reconstruct.recipe`).
- An epoch of `reconstruct` shows every real video `video_frames` times, of `detect` 200 batches, half real, half fake.
- The autoencoder sees real faces in the experiment's compression or in one of its own (`reconstruct.codec`). The
  paper's saw high quality only, to which it puts down its results in c40: so does ours in the tables' rows of c40.
- Boxes are RetinaFace's, on MobileNet (the paper does not name its network), landmarks dlib's; faces are turned until
  the eyes are level. Flips are the only augmentation.

Shapes: B images, N patches, P values of a patch, R masks of a face, h x w places of a feature map, C channels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from models._alignment import upright_face
from models._config import named
from models._image_mae import MaskedAutoencoder, to_image
from models._key_region import draw_mask, key_patches, num_hidden_of
from models._layers import places_of, to_patches, without_prefix
from models._lre_config import SMALL, Config
from models._masking import flip_landmarks
from models._schedule import parameter_groups, warmup_cosine
from models._stage import Batch, CamLayer, Feed, Mode, Sample, Stage
from models._xception import TIMM_NAME, Xception

VERSION = 2


# ----------------------------------------------------------------------------------------- samples
def _face_and_masks(
    cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode, num_masks: int
) -> dict[str, NDArray[Any]]:
    """Return `image` (H, W, 3), upright, mirrored in half of the training samples, and `mask` (R, N)."""
    face = cfg.face
    image, landmarks = upright_face(
        sample["image"], sample["landmarks"], sample["box"], face.margin, face.input_px, align=face.align
    )
    if face.flip and mode == "train" and rng.random() < 0.5:
        image, landmarks = np.ascontiguousarray(image[:, ::-1]), flip_landmarks(landmarks, face.input_px)
    cells = key_patches(landmarks, cfg.grid, cfg.reconstruct.patch_px, cfg.mask.key_margin_px)
    masks = [draw_mask(cells, cfg.mask.ratio, cfg.mask.key_fraction, rng) for _ in range(num_masks)]
    return {"image": image, "mask": np.stack(masks)}


def _signed_unit(image_BHWC: Tensor) -> Tensor:
    """Return uint8 as float32 in [-1, 1]: mean and deviation 0.5, as Xception's ImageNet weights expect it."""
    return image_BHWC.float() / 127.5 - 1


def _num_hidden(cfg: Config) -> int:
    """Return how many patches of each face are hidden."""
    return num_hidden_of(cfg.mask.ratio, cfg.grid**2)


def _autoencoder(cfg: Config) -> MaskedAutoencoder:
    sizes = cfg.reconstruct
    return MaskedAutoencoder(
        cfg.grid,
        sizes.patch_px,
        width=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        decoder_width=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        decoder_heads=sizes.decoder_heads,
    )


# ------------------------------------------------------------------------------------- reconstruct
class Reconstruct(Stage):
    """Sec. III-B: the autoencoder learns to fill in the hidden patches of real faces.

    Batch: image (B, H, W, 3) uint8, mask (B, 1, N) bool.
    """

    name = "reconstruct"
    view = "real_frames"
    selects_by = "loss"
    scores = False
    accumulates = "exactly"

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        reconstruct = named(cfg.reconstruct)
        del reconstruct["codec"]  # says which videos; these name the stage too
        if cfg.reconstruct.recipe == "paper":  # at a constant rate
            del reconstruct["warmup_epochs"]
        return {"face": named(cfg.face), "mask": named(cfg.mask), "reconstruct": reconstruct}

    @staticmethod
    def codec_of(cfg: Config) -> str | None:
        return cfg.reconstruct.codec

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.stored_px,
            batch_size=cfg.reconstruct.batch_size,
            num_epochs=cfg.reconstruct.num_epochs,
            samples_per_video=cfg.video_frames,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        return _face_and_masks(cfg, sample, rng, mode, num_masks=1)

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.autoencoder = _autoencoder(cfg)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        patches_BNP = to_patches(_signed_unit(batch["image"]), self.cfg.reconstruct.patch_px).flatten(2)
        mask_BN, num_hidden = batch["mask"][:, 0], _num_hidden(self.cfg)
        predicted_BNP = self.autoencoder(patches_BNP, mask_BN, num_hidden)
        # Eq. 1 over hidden patches; every image hides as many, so a mean over all of them is one over images too.
        hidden = places_of(mask_BN, len(mask_BN) * num_hidden)
        loss = F.mse_loss(predicted_BNP.flatten(0, 1)[hidden].float(), patches_BNP.flatten(0, 1)[hidden])
        return {"loss": loss, "mse": loss.detach()}

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.reconstruct
        if cfg.recipe == "paper":
            optimizer: Optimizer = Adam(self.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
            return optimizer, ConstantLR(optimizer, factor=1.0)
        groups = parameter_groups(self.named_parameters(), cfg.lr * cfg.batch_size / 256, cfg.weight_decay)
        optimizer = AdamW(groups, betas=(0.9, 0.95))
        return optimizer, warmup_cosine(optimizer, num_steps, num_steps * cfg.warmup_epochs // cfg.num_epochs)


# ------------------------------------------------------------------------------------------ detect
def attention_map(face_BChw: Tensor, filled_in_BChw: Tensor) -> Tensor:
    """Return the map (B, 1, h, w) of Eq. 2 from features of a face and of its reconstruction.

    0 where their feature vectors at a place point in one direction, 1 where they point in opposite ones.
    """
    cosine_Bhw = F.cosine_similarity(face_BChw.float(), filled_in_BChw.float(), dim=1, eps=1e-8)
    both_zero_Bhw = (face_BChw.norm(dim=1) < 1e-8) & (filled_in_BChw.norm(dim=1) < 1e-8)
    cosine_Bhw = torch.where(both_zero_Bhw, 1.0, cosine_Bhw)
    return (1 - (1 + cosine_Bhw) / 2).clamp(0, 1)[:, None]


def gated(y_BChw: Tensor, map_B1hw: Tensor, *, residual: bool) -> Tensor:
    """Return the output y of a block, weighed at every place by the attention map A: A y, or (1 + A) y if `residual`.

    This is the "inner product" of Sec. III-C: the detector looks where the face could not be filled in.
    """
    weight_B1hw = 1 + map_B1hw if residual else map_B1hw
    return y_BChw * weight_B1hw.to(y_BChw.dtype)


class Detect(Stage):
    """Sec. III-C: the detector sees the face, and its blocks are gated where the reconstruction differs.

    Batch: image (B, H, W, 3) uint8, mask (B, R, N) bool, label (B,).
    """

    name = "detect"
    view = "frames"
    starts_from = "reconstruct"
    accumulates = "but_batch_norm"

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        parts = {name: named(getattr(cfg, name)) for name in ("face", "mask", "detect")}
        return parts | {"pretrained": cfg.pretrained}

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
        num_masks = 1 if mode == "train" else cfg.detect.num_masks
        arrays = _face_and_masks(cfg, sample, rng, mode, num_masks)
        return arrays | {"label": np.asarray(sample["label"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        width, num_middle = cfg.detect.xception_width, cfg.detect.xception_middle
        self.autoencoder = _autoencoder(cfg).requires_grad_(False)
        self.extractor = Xception(width=width, num_middle=num_middle, pretrained=cfg.pretrained)
        self.extractor.requires_grad_(False)
        self.detector = Xception(width=width, num_middle=num_middle, pretrained=cfg.pretrained)
        self.head = nn.Linear(self.detector.num_features, 1)

    def train(self, mode: bool = True) -> "Detect":
        """Set the mode; the two frozen networks stay in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        self.extractor.eval()
        return self

    def load_start(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the autoencoder of `reconstruct`."""
        self.autoencoder.load_state_dict(without_prefix(weights, "autoencoder."))

    @torch.no_grad()
    def reconstructed(self, image_BHWC: Tensor, mask_BN: Tensor) -> Tensor:
        """Fill an image in [-1, 1] in: (B, H, W, 3), hidden patches as predicted, visible ones as they are."""
        patch_px = self.cfg.reconstruct.patch_px
        patches_BNP = to_patches(image_BHWC, patch_px).flatten(2)
        predicted_BNP = self.autoencoder(patches_BNP, mask_BN, _num_hidden(self.cfg)).float().clamp(-1, 1)
        return to_image(torch.where(mask_BN[..., None], predicted_BNP, patches_BNP), patch_px)

    @torch.no_grad()
    def attention(self, image_BHWC: Tensor, mask_BRN: Tensor) -> dict[int, Tensor]:
        """Return the attention map (B, 1, h, w) of each tapped block, the mean over R masks, without gradients."""
        face = self._taps(image_BHWC)
        maps_by_mask = []
        for mask_BN in mask_BRN.unbind(1):
            filled_in = self._taps(self.reconstructed(image_BHWC, mask_BN))
            maps_by_mask.append({tap: attention_map(face[tap], filled_in[tap]) for tap in face})
        return {tap: torch.stack([maps[tap] for maps in maps_by_mask]).mean(0) for tap in face}

    def _taps(self, image_BHWC: Tensor) -> dict[int, Tensor]:
        """Return what the frozen Xception makes of an image in [-1, 1], by the number of the block, from 1."""
        blocks = self.extractor(image_BHWC.permute(0, 3, 1, 2)).blocks
        return {
            tap: blocks[tap - 1].relu() if self.cfg.detect.after_relu else blocks[tap - 1]
            for tap in self.cfg.detect.taps
        }

    def features(self, batch: Batch) -> Tensor:
        """Return the detector's last features, pooled: (B, C)."""
        image = _signed_unit(batch["image"])
        gate = self.cfg.detect.gate
        maps = {} if gate == "none" else self.attention(image, batch["mask"])

        def edit(block: int, y_BChw: Tensor) -> Tensor:
            return gated(y_BChw, maps[block], residual=gate == "residual") if block in maps else y_BChw

        return self.detector(image.permute(0, 3, 1, 2), edit=edit).top.mean((2, 3))

    def logit(self, batch: Batch) -> Tensor:
        """Return logits (B,), above 0 means fake."""
        return self.head(self.features(batch)).squeeze(1).float()

    def cam_layer(self) -> CamLayer:
        return CamLayer(self.detector.act4)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return `reconstruction`, by the first mask, and `attention <block>`, the maps of Eq. 2 (Fig. 3 and 4).

        There are maps also where they gate nothing.
        """
        image = _signed_unit(batch["image"])
        maps = {f"attention {tap}": map_B1hw[:, 0] for tap, map_B1hw in self.attention(image, batch["mask"]).items()}
        filled_in = self.reconstructed(image, batch["mask"][:, 0])
        return {"reconstruction": (filled_in.permute(0, 3, 1, 2) + 1) / 2, **maps}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logit = self.logit(batch)
        loss = F.binary_cross_entropy_with_logits(logit, batch["label"].float())  # Eq. 3
        return {"loss": loss, "bce": loss.detach(), "logit": logit.detach()}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = Adam(trained, lr=self.cfg.detect.lr)
        return optimizer, ConstantLR(optimizer, factor=1.0)


STAGES = (Reconstruct, Detect)

__all__ = ["SMALL", "STAGES", "VERSION", "Config"]
