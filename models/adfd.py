"""ADFD: a detector that learns from real faces, blended with themselves (BBMG), and trusts convincing fakes less (NRS).

Paper: Wang, Chen, Yao, Ma, Zhang, Tan, "Explore and Enhance the Generalization of Anomaly DeepFake Detection".
Sec. 3, Eq. 1 to 9, Algorithm 1. It adds BBMG and NRS to "SBI" (Shiohara and Yamasaki, CVPR 2022).

    detect   every real face and the pseudo-fake made of it (Sec. 3.3, Eq. 1 to 4: `_blend`); EfficientNet-B4 with two
             logits (Eq. 7); cross-entropy (Eq. 8), in which a fake near the centres of real features weighs less
             (Sec. 3.4, Eq. 5, 6, 9: `_noise_refinement`); SAM
    score    softmax of "fake"; the largest over the faces of a frame, then the mean over frames

Tables as options, below `data.blend`: 2, 3 mask.kind, dtype, line; 4 and Fig. 5 mask.operation, blur_kernel,
fixed_core; 5, 6 transform; 7 ratios; 12 mask.bbmg. 11: mask.kind lal or bbmg, nrs.enabled; 13: nrs.filter, distance.

Differs from the paper, or settles what it leaves open; "SBI" is its released code:
- BBMG's face region is SBI's with landmark masks, its features are SLADD's regions, its blur is SBI's routine, on each
  of the two masks alone. 68 or 81 landmarks, as the predictor gives them.
- The real face of a pair is the blend's target, with its transforms, as in SBI.
- Boxes are RetinaFace's, as in SBI, on MobileNet where SBI has ResNet-50; margins are SBI's 5 to 20 %, not 4 to 20 %.
- Faces are blended in a crop of 2 boxes, not in the frame, so the region that SBI blends in is clipped there. Of 179
  faces the crops held 99 % of that region on average, and 92 % or more of it for 19 in 20.
- Crops are stored at 640 px and brought back to the size that they have in the frame, so that steps of so many pixels
  change a face as much as in SBI (`data.native_size`); of faces above 320 px some detail is lost, above 640 px they are
  blended smaller.
- Nothing is blended of frames in which no face was found, as in SBI; such frames are scored, with the box of the
  nearest frame that has one, where SBI leaves them out.
- A frame's score is the highest of its faces that are at least half as large as its largest, as in SBI; Sec. 4.1 says
  of all: `smallest_face=0`. Of a frame 4 faces at most are scored (`max_faces`).
- Training is on a fixed 8 of a video's 32 frames, as in Sec. 4.1 and in SBI; `optim.fixed_frames=False` draws 8 anew in
  each epoch.
- Mirrored, landmarks lie on the pixels that they lay on; in SBI one further to the right.
- A video without a face scores 0.5 in the sweeps, as in Sec. 4.1.
- RGB in [0, 1] without mean and deviation, as in SBI (`net.normalize`), though the weights are AdvProp's.
- SGD with momentum 0.9, rho 0.05 and the schedule are SBI's. Of SAM's two passes the first gives weights and memory.
- T_k = 10 (`nrs.start_epoch`). The memory takes features of the training's passes (Algorithm 1), not of a further pass
  at the end of the epoch, which is not offered. P_r is the probability of "real". L2 is that of unit vectors.
- The last epoch is the result. Perturbed test faces (Table 10) are not part of this file.

Shapes: B pairs, N = 2 B images, reals first; S = input_px, D width of the pooled feature.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from models._adfd_config import SMALL, Config
from models._blend import Image, Landmarks, check_landmarks, flip, photometric, self_blend
from models._config import check, named
from models._layers import batch_norm_at_rest, last_maps, set_bn_momentum, tagged, timm_model
from models._noise_refinement import NoiseRefinement
from models._sam import SAM
from models._stage import BadSample, Batch, CamLayer, Feed, Mode, Pooling, Sample, Stage

VERSION = 3

REAL, FAKE = 0, 1
Box = np.ndarray  # float (4,): x0, y0, x1, y1, edges in pixels


# ----------------------------------------------------------------------------------------- samples
def native_face(sample: Sample) -> tuple[Image, Landmarks, Box]:
    """Return image, landmarks and box at the size that the crop has in its frame, at most twice that of the image.

    A crop that was enlarged to be stored is smooth: the pixels that it had are read off again, to 1 of 255 levels.
    """
    image = sample["image"]
    side = round(min(max(float(sample["native_px"]), 32), 2 * image.shape[0]))
    scale = side / image.shape[0]
    box, landmarks = np.asarray(sample["box"], np.float64) * scale, sample["landmarks"]
    if side != image.shape[0]:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LANCZOS4)
        # Rounded, so that whole pixels of the frame are whole again, and not just below.
        landmarks = ((landmarks + 0.5) * scale - 0.5).round(2).astype(np.float32)
    return image, landmarks, box.round(2)


def synthesis_region(landmarks: Landmarks, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of the crop in which a face is blended, clipped to the image.

    It is the box of landmarks 0-67 with half its width on each side, its height above and 0.4 of its height below.
    """
    (x0, y0), (x1, y1) = landmarks[:68].min(0), landmarks[:68].max(0)
    width, height = x1 - x0, y1 - y0
    return _slices(np.array([x0 - width / 2, y0 - height, x1 + width / 2, y1 + 0.4 * height]), shape)


def network_region(box: Box, margins: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of the crop that the network sees, clipped to the image.

    It is the box with `margins` on the left, top, right and bottom, as shares of its width or height. Raises ValueError
    for a box that is none, BadSample for one outside the image.
    """
    box = np.asarray(box, np.float64)
    check(
        box.shape == (4,) and bool(np.isfinite(box).all()) and box[2] > box[0] and box[3] > box[1],
        f"box must be x0 < x1, y0 < y1 in pixels, got {box.tolist()}",
    )
    width, height = box[2:] - box[:2]
    rows, columns = _slices(box + margins * np.array([-width, -height, width, height]), shape)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        raise BadSample(f"the detector's box {box.round(1).tolist()} lies outside the {shape[1]} x {shape[0]} image")
    return rows, columns


def _slices(edges: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns from x0, y0 to x1, y1, the pixels that these fall on included, clipped to the image.

    As in SBI, to the pixel: an image whose side is odd changes up to a fifth more when it is halved and enlarged again.
    """
    x0, y0, x1, y1 = np.floor(edges).astype(int)
    return slice(max(0, y0), min(shape[0], y1 + 1)), slice(max(0, x0), min(shape[1], x1 + 1))


def _stretched(image: Image, region: tuple[slice, slice], size_px: int) -> Image:
    """Resize the region to (S, S, 3), whatever its aspect; bilinear."""
    return cv2.resize(image[region], (size_px, size_px), interpolation=cv2.INTER_LINEAR)


# ------------------------------------------------------------------------------------------ detect
def lr_factor(epoch: int, num_epochs: int, decay_start: int) -> float:
    """Return the factor on the learning rate in an epoch, counted from 0: 1, then down to 0 at `num_epochs`."""
    return 1 - max(0, epoch - decay_start) / (num_epochs - decay_start)


class Detect(Stage):
    """Sec. 3: real faces and the pseudo-fakes made of them, through an encoder E and a classifier F.

    Batch: image (B, 2, S, S, 3) uint8, real and fake; key (B,). To score: image (B, S, S, 3).
    """

    name = "detect"
    view = "real_pairs"
    selects_by = "last"
    accumulates = "no"  # NRS ranks the faces of a whole step, and SAM's second pass takes over weights of its first

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        parts = {name: named(getattr(cfg, name)) for name in ("data", "net", "nrs", "optim")}
        return parts | {"pretrained": cfg.pretrained}

    @staticmethod
    def pretrained_networks(cfg: Config) -> tuple[str, ...]:
        return (tagged(cfg.net.backbone),) if cfg.pretrained else ()

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return Feed(
            input_px=cfg.stored_px,
            batch_size=cfg.optim.batch_size // 2,
            num_epochs=cfg.optim.num_epochs,
            samples_per_video=cfg.optim.samples_per_video,
            fixed_frames=cfg.optim.fixed_frames,
        )

    @staticmethod
    def pooling(cfg: Config) -> Pooling:
        return Pooling(faces="max", min_area=cfg.smallest_face)

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, np.ndarray]:
        data = cfg.data
        image, landmarks, box = sample["image"], sample["landmarks"], np.asarray(sample["box"], np.float64)
        if data.native_size:
            image, landmarks, box = native_face(sample)
        margins = np.full(4, data.score_margin)
        if mode == "score":
            return {"image": _stretched(image, network_region(box, margins, image.shape), data.input_px)}
        train = mode == "train"
        check_landmarks(landmarks, image.shape)
        if train and rng.random() < 0.5:
            image, landmarks = flip(image, landmarks)
            box = np.array([image.shape[1] - box[2], box[1], image.shape[1] - box[0], box[3]])
        rows, columns = synthesis_region(landmarks, image.shape)
        corner = np.array([columns.start, rows.start])
        canvas = np.ascontiguousarray(image[rows, columns])
        blended = self_blend(canvas, (landmarks - corner).astype(np.float32), rng, data.blend)
        pair = [blended.real, blended.fake]
        if train and data.augment:
            pair = photometric(pair, rng)
        if train:
            margins = rng.uniform(*data.margin, 4)
        region = network_region(box - np.tile(corner, 2), margins, canvas.shape)
        images = np.stack([_stretched(face, region, data.input_px) for face in pair])
        return {"image": images, "key": np.asarray(sample["key"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        net = cfg.net
        self.encoder = timm_model(net.backbone, pretrained=cfg.pretrained, num_classes=0, drop_path_rate=net.drop_path)
        set_bn_momentum(self.encoder, net.bn_momentum)
        width: int = self.encoder.num_features  # type: ignore[assignment]  # timm's attributes have no types
        self.dropout = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(width, 2)
        self.nrs = NoiseRefinement(cfg.nrs, width) if cfg.nrs.enabled else None
        self._first_pass: dict[str, Tensor] = {}  # what SAM's second pass takes over

    def start_epoch(self, epoch: int) -> None:
        if self.nrs is not None:
            self.nrs.start_epoch(epoch)

    def encoded(self, image_NSSC: Tensor) -> Tensor:
        """Return E(I) (N, D), pooled, before dropout. Raises ValueError for images of another type or size."""
        wanted = (self.cfg.data.input_px, self.cfg.data.input_px, 3)
        if image_NSSC.dtype != torch.uint8 or image_NSSC.shape[1:] != wanted:
            raise ValueError(f"image must be uint8 (N, *{wanted}), got {image_NSSC.dtype} {tuple(image_NSSC.shape)}")
        x_NCSS = image_NSSC.permute(0, 3, 1, 2).float() / 255
        if self.cfg.net.normalize == "half":
            x_NCSS = 2 * x_NCSS - 1
        return self.encoder(x_NCSS)

    def logits(self, features_ND: Tensor) -> Tensor:
        """Return F(E(I)), the logits of real and fake (N, 2), float32 (Eq. 7)."""
        return self.classifier(self.dropout(features_ND)).float()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images_NSSC = batch["image"].transpose(0, 1).flatten(0, 1)
        num_pairs = len(batch["image"])
        second = self.training and bool(batch["repeat"])
        with batch_norm_at_rest(self.encoder, second and self.cfg.optim.freeze_bn_second):
            features_ND = self.encoded(images_NSSC)
        logits_N2 = self.logits(features_ND)
        label_N = torch.arange(2 * num_pairs, device=logits_N2.device) // num_pairs  # REAL, then FAKE
        cross_entropy_N = F.cross_entropy(logits_N2, label_N, reduction="none")  # Eq. 8
        parts = {"cls": cross_entropy_N.mean().detach()}
        loss = cross_entropy_N.mean()
        if self.training and self.nrs is not None:
            if not second:
                self._first_pass = self._refine(self.nrs, features_ND.detach(), logits_N2.detach(), batch)
            loss = (self._first_pass["weight_N"] * cross_entropy_N).mean()  # Eq. 9
            parts |= {name: value for name, value in self._first_pass.items() if value.ndim == 0}
        logit = (logits_N2[:, FAKE] - logits_N2[:, REAL]).detach().view(2, num_pairs).T
        return {"loss": loss, "logit": logit} | parts

    @torch.no_grad()
    def _refine(self, nrs: NoiseRefinement, features_ND: Tensor, logits_N2: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Take the step's real faces into the memory; return `weight_N` of Eq. 5, and what is logged of it."""
        real_BD, fake_BD = features_ND.chunk(2)
        margin_B = (logits_N2[:, REAL] - logits_N2[:, FAKE])[: len(real_BD)]
        nrs.collect(real_BD, margin_B, batch["key"], int(batch["step_seed"]))
        if not nrs.active:
            return {"weight_N": torch.ones(len(features_ND), device=features_ND.device)}
        distance_B = nrs.distance(fake_BD)
        weight_B = nrs.weight(distance_B)
        return {
            "weight_N": torch.cat([torch.ones_like(weight_B), weight_B]),
            "nrs_weight": weight_B.mean(),
            "nrs_noise": (distance_B < self.cfg.nrs.threshold).float().mean(),  # share of the fakes
            "nrs_distance_fake": distance_B.mean(),
            "nrs_distance_real": nrs.distance(real_BD).mean(),
            "nrs_memory": nrs.num_clustered.float(),
        }

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}

    def cam_layer(self) -> CamLayer:
        return last_maps(self.encoder)

    def logit(self, batch: Batch) -> Tensor:
        logits_B2 = self.logits(self.encoded(batch["image"]))
        return logits_B2[:, FAKE] - logits_B2[:, REAL]

    def features(self, batch: Batch) -> Tensor:
        return self.encoded(batch["image"])

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.optim
        sgd = SGD(self.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        optimizer = SAM(sgd, cfg.rho)

        def factor(step: int) -> float:  # called for each optimizer step, changes with each epoch
            return lr_factor(step * cfg.num_epochs // num_steps, cfg.num_epochs, cfg.decay_start)

        return optimizer, LambdaLR(optimizer, factor)


STAGES = (Detect,)

__all__ = ["SMALL", "STAGES", "VERSION", "Config"]
