"""LAA-Net: a detector that learns from real faces where a blending would show.

Paper: Nguyen, Mejri, Singh, Kuleshova, Astrid, Kacem, Ghorbel, Aouada, "LAA-Net: Localized Artifact Attention
Network for Quality-Agnostic and Generalizable Deepfake Detection", CVPR 2024. Sec. 3, Eq. 1 to 9, Tables 1 to 5.

    detect   every real face and the pseudo-fake made of it (Sec. 3.1.1, Eq. 1 and 2: `_laa_samples`), by self-blending
             (SBI) or from another face (BI); EfficientNet-B4 and E-FPN (Sec. 3.2, Eq. 9: `_efpn`); heads for the class,
             the heat-map of vulnerable points (Eq. 3 and 4: `_vulnerable_points`; Eq. 5 and 6) and self-consistency
             (Eq. 7), trained together (Eq. 8)
    score    sigmoid of the class logit: mean over a face and its mirror image, then over frames

Differs from the paper: 32 frames of a training video are kept, not 128. Where the paper and its released code differ,
the default is what the paper's numbers come from, mostly the code:
- Crop: 25 % of the detector's box on each side, 1.5 times its length and not 1.25, without a border of 5 to 24 of its
  256 px, enlarged to 384; each frame by its own box (`constant_box`). The code stretches the box to a square; our crop
  is a square. Both boxes are RetinaFace's, here on MobileNet, in the code on ResNet-50.
- Nothing is blended of frames in which no face was found; they are scored, with the box of the nearest frame that has
  one. The code leaves them out of both.
- A test video's frames are scored once each; the code draws 32 of them with repetition, anew in each evaluation.
- Landmarks are found in the frame, in the code in the crop, by a detector of their own. A mirrored face has them on the
  pixels that they lay on, in the code one further to the right.
- Eyes are levelled in training only (`data.align`). SBI uses 81 landmarks where the predictor gives them, BI 68.
- Random cropping shifts a self-blended face, black to the right and below, and random scaling is a zoom of 0.85 to 1.15
  with the upper left corner fixed; a blended face (BI) fills the square again after both. The paper only names them.
- Points: B in 8 bits at the size of the maps, one maximum per quadrant, not one in all (`data.points`).
- Gaussians of the heat-map are centred on their points (Eq. 4). In the code about half of them are one pixel to the
  left and above (`data.heatmap_centre`), and what makes them wide is counted around the map's upper and left border.
- C of a real face is 0, by Eq. 7 it is 1 (`data.real_consistency`); C compares with the first of the points, in the
  paper with a random one (`data.anchor`).
- B is made of the mask before SBI's ratio of blending (`data.ratio_in_boundary`).
- L_H has CornerNet's weights and is divided by the number of points; its positive part is smoothed, which is the
  paper's "label smoothing" (`loss`). All three off: Eq. 5.
- The losses weigh 1, 10 and 100, as in Sec. 4.1; in the code's settings for SBI L_H weighs 100 (`loss`; Table 5).
- Learning rate and freezing: `optim.variant`, as in Sec. 4.1 or as the name of the published SBI weights says.
- Noise, blur and colour jitter belong to BI (`data.sbi.listed_augmentation` adds them to SBI).
- "Traditional FPN" of Table 4 is the code's: E-FPN's layers, F as it is, a ReLU on E5 and E2 only.
- E-FPN's last step has one 1 x 1 convolution, with its batch norm, for the map and for the pooled map; in evaluation
  that shifts all scores, and the accuracy on val, by which an epoch is kept, may stand still (`net.shared_squeeze`).
- Resizing maps edges onto edges, in the code corner pixels onto corner pixels; float32 or bf16 where the code has
  float64; SAM climbs along the gradient of the whole batch of all workers.
- BI picks donors by landmarks that are not aligned, deforms its mask bilinearly, not in triangles, and draws it by the
  face's landmarks, in the code by those of 256 px as if the picture had 317.

Shapes: B samples, K images of each (real and fake: 2; BI in training takes one of them: 1), N = B K, S = input_px,
D = S / 4 side of the maps, E width of the embedding.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from models._blend import photometric
from models._config import named
from models._distributed import total, world_size
from models._efpn import Encoder, decoder
from models._face_geometry import fit_square, geometric
from models._laa_net_config import SMALL, Config, LossConfig, NetConfig, OptimConfig
from models._laa_samples import ground_truth, pseudo_fake, scoring_view
from models._layers import batch_norm_at_rest, tagged
from models._sam import SAM
from models._stage import Batch, CamLayer, Feed, Mode, Pooling, Sample, Stage

VERSION = 5

MAP_STRIDE = 4  # S / D


# ------------------------------------------------------------------------------------------- network
class Prediction(NamedTuple):
    """What the heads give; None for a head that is switched off."""

    logit_N: Tensor  # above 0 means fake
    heatmap_NDD: Tensor | None  # logits
    embedding_NEDD: Tensor | None


class Network(nn.Module):
    """Fig. 2: encoder, E-FPN, and three heads on its map."""

    def __init__(self, cfg: NetConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.encoder = Encoder(cfg.encoder, pretrained=pretrained, bn_momentum=cfg.bn_momentum, drop_path=cfg.drop_path)
        self.decoder = decoder(
            self.encoder.channels, cfg.lowest_level, cfg.merge, cfg.gamma_w, cfg.dropout, shared=cfg.shared_squeeze
        )
        channels, width = self.decoder.out_channels, cfg.head_width

        def head(*last: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), *last)

        self.classify = head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))
        self.heatmap = self.embed = None
        if cfg.use_heatmap:
            self.heatmap = head(_closing(width, 1, bias=-2.19))  # points are rare: begins with a probability of 0.1
        if cfg.use_consistency:
            closing = _closing(width, cfg.embedding_width, bias=0.0)
            nn.init.normal_(closing.weight, std=(2 / cfg.embedding_width) ** 0.5)
            self.embed = head(closing)

    def maps(self, x_NCSS: Tensor) -> Tensor:
        """Return what all heads see: (N, C, D, D)."""
        return self.decoder(self.encoder(x_NCSS))

    def forward(self, x_NCSS: Tensor) -> Prediction:
        map_NCDD = self.maps(x_NCSS)
        return Prediction(
            logit_N=self.classify(map_NCDD).squeeze(1).float(),
            heatmap_NDD=None if self.heatmap is None else self.heatmap(map_NCDD).squeeze(1).float(),
            embedding_NEDD=None if self.embed is None else self.embed(map_NCDD),
        )


def _closing(width_in: int, width: int, *, bias: float) -> nn.Conv2d:
    """Return the last layer of a head, whose bias starts at `bias`."""
    conv = nn.Conv2d(width_in, width, 1)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


def similarity(embedding_NEDD: Tensor, anchor_N: Tensor) -> Tensor:
    """Return logits (N, D, D) of the predicted C: scaled products with the anchor's embedding; float32 in any case."""
    with torch.autocast(embedding_NEDD.device.type, enabled=False):
        embedding_NEI = embedding_NEDD.float().flatten(2)  # I = D^2 places
        num_images, width, _ = embedding_NEI.shape
        anchor_NE = embedding_NEI[torch.arange(num_images, device=embedding_NEI.device), :, anchor_N]
        products_NI = torch.einsum("ne,nei->ni", anchor_NE, embedding_NEI) / width**0.5
    return products_NI.unflatten(1, embedding_NEDD.shape[2:])


# -------------------------------------------------------------------------------------------- losses
def heatmap_loss(cfg: LossConfig, logit_NDD: Tensor, target_NDD: Tensor) -> Tensor:
    """Return L_H (Eq. 5 and 6). Points are counted over all workers, so that it is the same on many as on one."""
    p_NDD = logit_NDD.sigmoid().clamp(1e-4, 1 - 1e-4)  # the predicted heat-map
    at_point_NDD = target_NDD == 1
    hit_NDD = (1 - 0.8 * cfg.heatmap_smoothing) * (1 - p_NDD) ** cfg.gamma * p_NDD.log()
    miss_NDD = (1 - target_NDD) ** cfg.beta * p_NDD**cfg.gamma * (1 - p_NDD).log()
    if cfg.heatmap_over == "images":
        count = p_NDD.new_full((), len(p_NDD))
    else:
        count = total(at_point_NDD.sum().float()).clamp(min=1) / world_size()
    return -torch.where(at_point_NDD, hit_NDD, miss_NDD).sum() / count


def losses(cfg: LossConfig, out: Prediction, target: Batch) -> dict[str, Tensor]:
    """Return the terms of Eq. 8, not weighted: bce and, where the network has the head, heatmap and consistency."""
    label = target["label"].float() * (1 - cfg.label_smoothing) + cfg.label_smoothing / 2
    terms = {"bce": F.binary_cross_entropy_with_logits(out.logit_N, label)}
    if out.heatmap_NDD is not None:
        terms["heatmap"] = heatmap_loss(cfg, out.heatmap_NDD, target["heatmap"].float() / 255)
    if out.embedding_NEDD is not None:
        similar = similarity(out.embedding_NEDD, target["anchor"])
        terms["consistency"] = F.binary_cross_entropy_with_logits(similar, target["consistency"].float() / 255)
    return terms


def _split(out: Prediction, target: Batch, size: int) -> Iterator[tuple[Prediction, Batch]]:
    """Yield `size` images after the other: what is predicted of them, and what is true."""
    for first in range(0, len(out.logit_N), size):
        some = slice(first, first + size)
        predicted = {name: value[some] for name, value in out._asdict().items() if value is not None}
        yield out._replace(**predicted), {name: value[some] for name, value in target.items()}


def lr_factor(epoch: int, num_epochs: int, boost: float) -> float:
    """Return the factor on the first epoch's learning rate in an epoch, counted from 0.

    It rises from 1 to `boost` in the first quarter of the epochs and falls to 0 in the others.
    """
    ramp = num_epochs / 4
    if epoch < ramp:
        return 1 + (boost - 1) * epoch / ramp
    return boost * (1 - (epoch - ramp) / (num_epochs - ramp))


# -------------------------------------------------------------------------------------------- detect
class Detect(Stage):
    """Sec. 3: real faces and the pseudo-fakes made of them, with the maps that the heads learn.

    Batch: image (B, K, S, S, 3), heatmap, consistency (B, K, D, D) uint8; label, anchor (B, K) int64.
    To score: image (B, S, S, 3).
    """

    name = "detect"
    view = "real_pairs"
    selects_by = "accuracy_and_loss"
    accumulates = "no"  # L_H is divided by the points of the whole step, the other terms are means over images
    encoder_frozen: Tensor

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        parts = {name: named(getattr(cfg, name)) for name in ("data", "net", "loss", "optim")}
        parts["optim"] |= cfg.optim.schedule
        return parts | {"pretrained": cfg.pretrained}

    @staticmethod
    def pretrained_networks(cfg: Config) -> tuple[str, ...]:
        return (tagged(cfg.net.encoder),) if cfg.pretrained else ()

    @staticmethod
    def feed(cfg: Config) -> Feed:
        bi = cfg.data.synthesis == "bi"
        return Feed(
            input_px=cfg.stored_px,
            batch_size=cfg.optim.batch_size if bi else cfg.optim.batch_size // 2,
            num_epochs=cfg.optim.num_epochs,
            samples_per_video=cfg.optim.samples_per_video or (32 if bi else 8),
            donors=cfg.data.bi.donors if bi else 0,
        )

    @staticmethod
    def pooling(cfg: Config) -> Pooling:
        return Pooling(frames="mean_logit")

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, np.ndarray]:
        data = cfg.data
        if mode == "score":
            return {"image": scoring_view(data, sample["image"])}
        real, fake, edges = pseudo_fake(data, sample, rng, mode)
        if mode == "train" and data.augment:
            arrays = [real, fake, edges]
            real, fake, edges = geometric(arrays, rng, data.face_px + 1, keep_size=data.synthesis == "sbi")
        images = [fit_square(image, data.input_px) for image in (real, fake)]
        if data.synthesis == "sbi" and data.augment:
            images = photometric(images, rng)
        edges = fit_square(edges, data.input_px // MAP_STRIDE)
        rows = [
            {"image": image, "label": np.asarray(label), **ground_truth(data, boundary, rng)}
            for image, label, boundary in zip(images, (0, 1), (np.zeros_like(edges), edges), strict=True)
        ]
        if data.synthesis == "bi" and mode == "train":
            rows = [rows[rng.integers(2)]]  # an item is one image, real or fake
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.net = Network(cfg.net, pretrained=cfg.pretrained)
        # A buffer, and set again whenever weights are loaded: a training that goes on within one of the first epochs
        # finds the encoder frozen.
        self.register_buffer("encoder_frozen", torch.tensor(False))
        self.register_load_state_dict_post_hook(lambda stage, keys: stage._freeze_encoder(bool(stage.encoder_frozen)))

    def start_epoch(self, epoch: int) -> None:
        """Freeze the encoder in the first epochs. It stays in training mode: its batch norm follows the data."""
        self._freeze_encoder(epoch <= self.cfg.optim.schedule["freeze_epochs"])

    def _freeze_encoder(self, frozen: bool) -> None:
        self.encoder_frozen.fill_(frozen)
        self.net.encoder.requires_grad_(not frozen)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        target = {name: value.flatten(0, 1) for name, value in batch.items() if value.ndim > 1}
        second = self.training and "repeat" in batch and bool(batch["repeat"])
        with batch_norm_at_rest(self.net, second and self.cfg.optim.freeze_bn_second):
            out = self.net(self._input(target["image"]))
        terms = losses(self.cfg.loss, out, target)
        if self.training:
            loss = self._weighed(terms)
        else:  # of each sample: L_H is divided by the number of points, of which images have unequal numbers
            parts = _split(out, target, batch["label"].shape[1])
            loss = torch.stack([self._weighed(losses(self.cfg.loss, *part)) for part in parts])
        logit = out.logit_N.detach().view(batch["label"].shape).squeeze(1)
        return {"loss": loss, "logit": logit} | {name: term.detach() for name, term in terms.items()}

    def _weighed(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the terms of Eq. 8, weighed."""
        weight = {"heatmap": self.cfg.loss.heatmap_weight, "consistency": self.cfg.loss.consistency_weight}
        return torch.stack([weight.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def score(self, batch: Batch) -> dict[str, Tensor]:
        x_BCSS = self._input(batch["image"])
        return {"logit": (self.net(x_BCSS).logit_N + self.net(x_BCSS.flip(3)).logit_N) / 2}

    def cam_layer(self) -> CamLayer:
        """Return the last maps of the class head, a quarter of the face's side."""
        return CamLayer(self.net.classify[2])

    def logit(self, batch: Batch) -> Tensor:
        """Return logits (B,), above 0 means fake, without the mirror image."""
        return self.net(self._input(batch["image"])).logit_N

    def features(self, batch: Batch) -> Tensor:
        """Return what the class head's last layer gets, pooled, without the mirror image."""
        return self.net.classify[:-1](self.net.maps(self._input(batch["image"])))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted heat-map of vulnerable points, where the network has one."""
        heatmap = self.net(self._input(batch["image"])).heatmap_NDD
        return {} if heatmap is None else {"heat-map": heatmap.sigmoid()}

    def _input(self, image_NSSC: Tensor) -> Tensor:
        """Return images (N, 3, S, S) in [-1, 1]. Raises ValueError for those of another type or size."""
        wanted = (self.cfg.data.input_px, self.cfg.data.input_px, 3)
        if image_NSSC.dtype != torch.uint8 or image_NSSC.shape[1:] != wanted:
            raise ValueError(f"image must be uint8 (N, *{wanted}), got {image_NSSC.dtype} {tuple(image_NSSC.shape)}")
        return image_NSSC.permute(0, 3, 1, 2).float() / 127.5 - 1

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.optim
        schedule, num_epochs = cfg.schedule, cfg.num_epochs
        # All parameters: a frozen encoder has no gradients, and Adam leaves alone what has none.
        optimizer = SAM(Adam(self.parameters(), lr=schedule["lr"], weight_decay=cfg.weight_decay), cfg.rho)

        def factor(step: int) -> float:  # called for each optimizer step, changes with each epoch
            return lr_factor(step * num_epochs // num_steps, num_epochs, schedule["boost"])

        return optimizer, LambdaLR(optimizer, factor)


STAGES = (Detect,)

__all__ = ["SMALL", "STAGES", "VERSION", "Config", "LossConfig", "NetConfig", "OptimConfig"]
