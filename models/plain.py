"""Plain classifier: one network, real or fake. Every method here is compared with it.

Paper: Rossler, Cozzolino, Verdoliva, Riess, Thies, Niessner, "FaceForensics++: Learning to Detect Manipulated
Facial Images", ICCV 2019, arXiv:1901.08971. Sec. 4, "XceptionNet", and the supplement's training details. The rows
"Xception" in MC-LCR's, LAA-Net's and Local Reconstruction Errors' tables are this one, the rows "EfficientNet-b4" in
MC-LCR's Table 4 and in Local Reconstruction Errors' Tables II and III are
`backbone="tf_efficientnet_b4.ap_in1k", input_px=380`.

    detect  any network of timm with ImageNet weights, one logit, binary cross-entropy, Adam

Differs from the paper, or settles what it leaves open:
- One logit in place of two outputs: sigmoid(z1 - z0) is their softmax.
- All weights learn from the first step; the paper trains the new last layer alone for 3 epochs before.
- The epoch kept has the best AUC on val; the paper takes the best accuracy.
- An epoch shows `samples_per_video` frames of each fake video, and as many real as fake faces; the paper takes 270
  frames of each video, and weighs them by class instead. 15 epochs, without its early end.
- Horizontal flips are the only augmentation; the paper names none.

Shapes: B images, H = W = `input_px`.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from models._config import check, named
from models._layers import last_maps, tagged, timm_model
from models._plain_config import SMALL, SMALLEST_PX, Config
from models._schedule import warmup_cosine
from models._stage import Batch, CamLayer, Feed, Mode, Sample, Stage

VERSION = 2


# ----------------------------------------------------------------------------------------- samples
def augmented(cfg: Config, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Mirror and crop an image uint8 (H, H, 3) at random, as `flip` and `smallest_crop` say; its size stays."""
    if cfg.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if cfg.smallest_crop < 1:
        size = len(image)
        side = round(size * rng.uniform(cfg.smallest_crop, 1))
        y, x = rng.integers(0, size - side + 1, 2)
        image = cv2.resize(image[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(image)


# ------------------------------------------------------------------------------------------ network
def backbone_mean_and_std(name: str, input_px: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, in [0, 1], of the RGB images that a network of timm was trained on.

    Raises ValueError for a name or tag that timm does not have, and for a network of another, fixed input size.
    """
    import timm  # seconds to import, see `timm_model`

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(
            f"backbone {name!r} is not one of timm's {len(timm.list_models())} models;"
            + (f" did you mean {' or '.join(near)}?" if near else "")
            + " timm.list_models('*part*') finds a name"
        )
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ValueError(f"backbone {name!r}: timm has weights of {architecture} by the tags {tags}, not {tag!r}")
    trained_on: Any = timm.get_pretrained_cfg(name)
    own_px = trained_on.input_size[-1]
    if trained_on.fixed_input_size and own_px != input_px:
        raise ValueError(f"backbone {name!r} takes images of {own_px} px only, got input_px {input_px}; set it so")
    return trained_on.mean, trained_on.std


def narrow_last_layer(network: nn.Module) -> None:
    """Draw the weights of a network's last layer anew if they are wider than torch draws those of a linear layer.

    timm's EfficientNets draw them up to one by the root of the outputs. With one output that is up to 1, and training
    would begin with log odds of several units.
    """
    last: Any = network.get_classifier()  # type: ignore[operator]  # each network of timm has it
    if not isinstance(last, nn.Linear) or last.weight.is_meta:
        return
    bound = last.in_features**-0.5
    if last.weight.abs().max() > bound:
        nn.init.uniform_(last.weight, -bound, bound)


class Detect(Stage):
    """A network of timm with one logit. Batch: image (B, H, W, 3) uint8, label (B,)."""

    name = "detect"
    view = "frames"
    accumulates = "but_batch_norm"
    mean: Tensor
    std: Tensor

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        extraction = ("stages", "video_frames", "crop_margin", "detector")
        return {name: value for name, value in named(cfg).items() if name not in extraction}

    @staticmethod
    def pretrained_networks(cfg: Config) -> tuple[str, ...]:
        return (tagged(cfg.backbone),) if cfg.pretrained else ()

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.stored_px,
            batch_size=cfg.batch_size,
            num_epochs=cfg.num_epochs,
            samples_per_video=cfg.samples_per_video,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image = augmented(cfg, sample["image"], rng) if mode == "train" else sample["image"]
        return {"image": image, "label": np.asarray(sample["label"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        mean, std = backbone_mean_and_std(cfg.backbone, cfg.input_px)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.network = timm_model(cfg.backbone, pretrained=cfg.pretrained, num_classes=1, drop_rate=cfg.dropout)
        narrow_last_layer(self.network)

    def logit(self, batch: Batch) -> Tensor:
        """Return logits (B,), above 0 means fake. Raises ValueError for images of another shape."""
        return self.network(self._input(batch)).squeeze(1).float()

    def _input(self, batch: Batch) -> Tensor:
        """Return the images as the network wants them: (B, 3, H, W), normalised."""
        image, shape = batch["image"], (self.cfg.input_px, self.cfg.input_px, 3)
        check(tuple(image.shape[1:]) == shape, f"image must be (B, {shape}), got {tuple(image.shape)}")
        unit = image.permute(0, 3, 1, 2).float() / 255
        return (unit - self.mean) / self.std

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logit = self.logit(batch)
        loss = F.binary_cross_entropy_with_logits(logit, batch["label"].float())
        return {"loss": loss, "logit": logit.detach()}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}

    def cam_layer(self) -> CamLayer:
        return last_maps(self.network)

    def features(self, batch: Batch) -> Tensor:
        """Return the pooled features, as timm's last layer gets them."""
        network: Any = self.network
        return network.forward_head(network.forward_features(self._input(batch)), pre_logits=True)

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(self.parameters(), lr=self.cfg.lr, weight_decay=self.cfg.weight_decay)
        if self.cfg.schedule == "constant":
            return optimizer, ConstantLR(optimizer, factor=1.0)
        return optimizer, warmup_cosine(optimizer, num_steps)


STAGES = (Detect,)

__all__ = ["SMALL", "SMALLEST_PX", "STAGES", "VERSION", "Config"]
