"""Self-blending: a pseudo-fake from one real face (SBI, and BBMG).

Sources: "SBI": Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022, and its released
code; "ADFD": Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection", whose Sec. 3.3
is BBMG (Eqs. 2-4) and whose Tables 2-7 and 12 are the options here; "LAA-Net": Nguyen et al., CVPR 2024.

Everything is a pure function of its arguments and the generator: equal inputs and seeds give equal pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from models._blend import transforms
from models._blend.blending_mask import TRIES, MaskConfig, draw_labels, merge, size_factor
from models._blend.landmark_masks import EmptyMask, Image, Landmarks, Mask, Region, Shape, check_landmarks
from models._blend.transforms import Affine, Steps
from models._config import check


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformConfig:
    """What makes source and target differ (ADFD Tables 5 and 6). Defaults: SBI."""

    color: bool = True
    frequency: bool = True
    affine: bool = True  # shift and scale of source and mask, elastic deformation of the mask
    objects: Literal["either", "source", "target", "target_and_source"] = "either"  # get colour and frequency
    downscale: tuple[int, ...] = (2, 4)  # ratios of the frequency transform, each as likely
    elastic_alpha: float = 50.0
    elastic_sigma: float = 7.0  # px

    def __post_init__(self) -> None:
        check(
            len(self.downscale) > 0 and all(ratio in (1, 2, 4) for ratio in self.downscale),
            f"downscale must be ratios among 1, 2 and 4, at least one, got {self.downscale}",
        )
        check(
            self.elastic_sigma > 0 and self.elastic_alpha >= 0,
            f"elastic_sigma must be positive and elastic_alpha not negative, got {self}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """Self-blending. Defaults: SBI with LAL masks."""

    mask: MaskConfig = field(default_factory=MaskConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)  # mu, each entry as likely; Table 7, alpha blend: (1,)

    def __post_init__(self) -> None:
        check(
            len(self.ratios) > 0 and all(0 < ratio <= 1 for ratio in self.ratios),
            f"ratios must be numbers in (0, 1], at least one, got {self.ratios}",
        )


@dataclass(frozen=True, slots=True)
class Blended:
    """A pseudo-fake and the real image that it differs from inside the mask only."""

    real: Image  # the target, after its transform if it had one
    fake: Image
    mask: Mask  # M, before it is multiplied by the ratio: what ground truth is made of
    ratio: float  # mu; fake = mu M source + (1 - mu M) target


def boundary(mask: Mask) -> Mask:
    """Return 4 M (1 - M): 1 where the mask is one half, 0 where it is 0 or 1 (Face X-ray Eq. 2, LAA-Net Eq. 2)."""
    return 4 * mask * (1 - mask)


def self_blend(image: Image, landmarks: Landmarks, rng: np.random.Generator, config: BlendConfig) -> Blended:
    """Blend a face with itself: SBI, and with mask kind "bbmg" BBMG.

    Raises BadSample for landmarks that are of no use, and EmptyMask when ten masks in a row were empty.
    """
    check_image(image)
    check_landmarks(landmarks, image.shape)
    mask, affine = draw_mask(landmarks, image.shape, rng, config)
    ratio = config.ratios[rng.integers(len(config.ratios))]
    source_steps, target_steps = _draw_steps(rng, config.transform)
    target = transforms.apply(image, target_steps) if target_steps else image.copy()
    box = cv2.boundingRect((mask > 0).view(np.uint8))
    x, y, width, height = box
    inside = slice(y, y + height), slice(x, x + width)
    fake = target.copy()
    fake[inside] = blend(_source(image, source_steps, affine, box), target[inside], mask[inside], ratio)
    return Blended(real=target, fake=fake, mask=mask, ratio=ratio)


def check_image(image: Image) -> None:
    """Raise ValueError unless the image is uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")


def _draw_steps(rng: np.random.Generator, config: TransformConfig) -> tuple[Steps, Steps]:
    """Draw what happens to the colours and frequencies of the source, and of the target."""
    objects = config.objects
    if objects == "either":
        objects = "source" if rng.random() < 0.5 else "target"

    def steps(name: str) -> Steps:
        if name not in objects:  # a part of the text: "target_and_source" names both
            return []
        return transforms.draw_appearance(rng, config.downscale if config.frequency else (), color=config.color)

    return steps("source"), steps("target")


def _source(image: Image, steps: Steps, affine: Affine | None, box: Sequence[int]) -> Image:
    """Return what is blended in, the image after the steps and the affine map, in the box x, y, width, height only."""
    x, y, width, height = box
    if affine is None:
        affine = Affine(1, 1, 0, 0)
    x0, x1 = _needed(x, width, affine.sx, affine.tx, image.shape[1])
    y0, y1 = _needed(y, height, affine.sy, affine.ty, image.shape[0])
    matrix = np.array(
        [[affine.sx, 0, affine.sx * x0 + affine.tx - x], [0, affine.sy, affine.sy * y0 + affine.ty - y]], np.float64
    )
    patch = transforms.apply(np.ascontiguousarray(image[y0:y1, x0:x1]), steps)
    return cv2.warpAffine(patch, matrix, (width, height), flags=cv2.INTER_LINEAR)


def _needed(start: int, length: int, scale: float, shift: float, side: int) -> tuple[int, int]:
    """Return the ends of the part of an axis of the source that, scaled and shifted, covers so much of the result.

    8 px more than that, for the reach of filters, and on multiples of 4, so that taking every second or fourth pixel
    takes the same ones as on the whole axis; where that cannot be, the whole axis.
    """
    if side % 4:
        return 0, side
    low, high = (start - shift) / scale - 8, (start + length - shift) / scale + 8
    return max(0, int(low) // 4 * 4), min(side, (int(high) // 4 + 1) * 4)


def blend(source: Image, target: Image, mask: Mask, ratio: float = 1.0) -> Image:
    """Return mu M source + (1 - mu M) target, truncated to 8 bit as in SBI."""
    alpha = cv2.merge([mask * np.float32(ratio)] * 3)
    change = cv2.subtract(source, target, dtype=cv2.CV_32F)
    cv2.multiply(change, alpha, change)
    return cv2.add(change, target, change, dtype=cv2.CV_32F).astype(np.uint8)


def draw_mask(
    landmarks: Landmarks, shape: Shape, rng: np.random.Generator, config: BlendConfig
) -> tuple[Mask, Affine | None]:
    """Draw the blending mask, before mu, and the affine map that it shares with the source. Raises EmptyMask."""
    for _ in range(TRIES):
        labels, affine = deform(draw_labels(landmarks, shape, rng, config.mask), rng, config)
        try:
            return merge(labels, rng, config.mask), affine
        except EmptyMask:
            continue
    raise EmptyMask(f"{TRIES} masks of kind {config.mask.kind!r} in a row were empty")


def deform(labels: Region, rng: np.random.Generator, config: BlendConfig) -> tuple[Region, Affine | None]:
    """Shift, scale and elastically deform a region, all of its parts alike; return also the shift and scale."""
    if not config.transform.affine:
        return labels, None
    scale = size_factor(labels.shape, config.mask)
    sigma = config.transform.elastic_sigma * scale
    std = config.transform.elastic_alpha / math.sqrt(12 * math.pi) / config.transform.elastic_sigma * scale
    affine = transforms.draw_affine(rng, labels.shape)
    return transforms.elastic(transforms.move(labels, affine), rng, sigma, std), affine
