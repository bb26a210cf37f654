"""Perturbations of faces for scoring: what a video may suffer on its way, at the levels that papers print.

Two suites, told apart by their names:

    saturation, contrast, block, noise, blur, pixelation   five levels each, `blur-1` ... `blur-5`: DeeperForensics-1.0,
        as LipForensics and LAA-Net (Table 2) use it; `blur` alone names all five, and their mean
    resize-256, resize-128, gaussian-3, gaussian-5, jpeg-100, jpeg-50   BBMG + NRS (Table 10), by their parameter

An operation takes uint8 RGB (H, W, 3) and a random generator, and returns the same shape; it leaves its input alone.
`apply` runs one on a crop of FACES at the scale that it is meant for:

    source   DeeperForensics-1.0 perturbs whole frames before faces are cut. A kernel of 21 pixels is 21 pixels of the
             frame, so the crop is brought to its size there, perturbed, and cut to its stored size again.
    network  BBMG + NRS perturbs what its network sees: 1.25 boxes at 380 pixels, so the crop is brought to 304 pixels
             for the longer side of the face's box. That is the same wear of a face for every method and preset.
    any      works on each pixel by itself: the stored crop is taken as it is.

Differs from perturbed frames: landmarks, boxes and masks are those of the clean video; near the crop's border blurring
sees the crop mirrored; what a crop stored smaller than in its frame has lost is lost already; and the number of blocks
follows `FRAME_PX`. A picture that is a face crop (WildDeepfake) has no frame: it is taken as its own.
Differs from BBMG + NRS: blocks of JPEG are counted from the corner of the stored crop, not of the network's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.common.text import meant

VERSION = 1  # raise when a perturbation would make other pixels: faces are then scored anew

Image = NDArray[np.uint8]
Operation = Callable[[Image, np.random.Generator], Image]
Scale = Literal["source", "network", "any"]

# DeeperForensics-1.0 puts n * floor(shorter side / 256) blocks into a frame. FACES do not hold the frame's size: a crop
# gets n blocks for as many pixels as a frame of 854 x 480 has. Frames of 640 x 480, 1280 x 720 and 1920 x 1080 have
# 1.33, 0.89 and 0.79 times as many blocks on the same area.
FRAME_PX = 854 * 480
BLOCK_PX, BLOCK_VALUE = 8, 128
NETWORK_PX = 380 / 1.25  # of the longer side of a face's box, in what BBMG + NRS's network sees
# The published noise is added to 8-bit YCbCr in its narrow range (16..235, 16..240), then stretched to the full one.
_STRETCH = np.array([255 / 219, 255 / 224, 255 / 224], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbation:
    """One operation at one level."""

    name: str  # e.g. blur-3
    family: str  # e.g. blur
    level: int  # 1 is the mildest; a curve's x, where 0 is the clean face
    parameter: str  # as printed in tables and plots
    scale: Scale
    operation: Operation


# --------------------------------------------------------------------------------------- operations
def saturation(image: Image, factor: float) -> Image:
    """Multiply the chroma of BT.601 YCbCr by `factor`; 0 is gray. Values are rounded down, as published."""
    ycc = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    neutral = np.float32(0.5)  # OpenCV's for floats
    ycc[..., 1:] = neutral + (ycc[..., 1:] - neutral) * np.float32(factor)
    # A value that is whole but for rounding errors must not lose a level.
    return _bytes(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB) + np.float32(1e-3))


def contrast(image: Image, factor: float) -> Image:
    """Multiply every value by `factor` and round down."""
    return _bytes(image.astype(np.float32) * np.float32(factor))


def block(image: Image, rng: np.random.Generator, number: float) -> Image:
    """Draw gray squares of 8 x 8 pixels, `number` of them for each `FRAME_PX` of the image's area.

    A fraction of a block is drawn with that probability. Blocks lie within the image and may overlap.
    """
    height, width = image.shape[:2]
    out = image.copy()
    count = int(number * height * width / FRAME_PX + rng.random())
    for y, x in rng.integers(0, [max(1, height - BLOCK_PX + 1), max(1, width - BLOCK_PX + 1)], (count, 2)):
        out[y : y + BLOCK_PX, x : x + BLOCK_PX] = BLOCK_VALUE
    return out


def noise(image: Image, rng: np.random.Generator, variance: float) -> Image:
    """Add white Gaussian noise to Y, Cb and Cr, each in its narrow range of 8 bits; 255 counts as 1 in `variance`."""
    ycc = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    drawn = rng.standard_normal(image.shape, dtype=np.float32)
    return _bytes(cv2.cvtColor(ycc + drawn * (_STRETCH * np.float32(255 * np.sqrt(variance))), cv2.COLOR_YCrCb2RGB))


def blur(image: Image, kernel_px: int) -> Image:
    """Blur with a Gaussian, sigma = kernel / 6."""
    return _image(cv2.GaussianBlur(image, (kernel_px, kernel_px), kernel_px / 6))


def pixelation(image: Image, factor: int) -> Image:
    """Resize to 1 / factor, rounded down, and back; bilinear both times, without a low-pass filter."""
    height, width = image.shape[:2]
    return _down_and_up(image, (max(1, width // factor), max(1, height // factor)))


def resize(image: Image, side_px: int) -> Image:
    """Resize as a face of 380 x 380 to side x side, and back, bilinear; other sizes are reduced by the same factor."""
    height, width = image.shape[:2]
    share = side_px / 380
    return _down_and_up(image, (max(1, round(width * share)), max(1, round(height * share))))


def gaussian(image: Image, kernel_px: int) -> Image:
    """Blur with the kernel that OpenCV takes where no sigma is given: 1 2 1 or 1 4 6 4 1, over their sum, both ways."""
    return _image(cv2.GaussianBlur(image, (kernel_px, kernel_px), 0))


def jpeg(image: Image, quality: int) -> Image:
    """Encode as baseline JPEG, chroma at half the resolution, and decode again."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "a uint8 image can't be written as JPEG"
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "a JPEG that was just written can't be read"
    return _image(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _down_and_up(image: Image, size: tuple[int, int]) -> Image:
    small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return _image(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def _bytes(values: NDArray[Any]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)


def _image(pixels: Any) -> Image:
    return np.asarray(pixels, np.uint8)


# ----------------------------------------------------------------------------------------- registry
def _pure(operation: Callable[[Image, Any], Image]) -> Callable[[Any], Operation]:
    """Return what makes of a parameter an operation that draws nothing."""
    return lambda value: lambda image, rng: operation(image, value)


def _random(operation: Callable[[Image, np.random.Generator, Any], Image]) -> Callable[[Any], Operation]:
    """Return what makes of a parameter an operation that draws from the random generator."""
    return lambda value: lambda image, rng: operation(image, rng, value)


# family, what its parameter is, scale, operation of a parameter, parameters from mild to strong
_Family = tuple[str, str, Scale, Callable[[Any], Operation], tuple[float, ...]]
_SUITE: tuple[_Family, ...] = (
    ("saturation", "factor of chroma", "any", _pure(saturation), (0.4, 0.3, 0.2, 0.1, 0.0)),
    ("contrast", "factor", "any", _pure(contrast), (0.85, 0.725, 0.6, 0.475, 0.35)),
    ("block", "blocks in a frame", "source", _random(block), (16, 32, 48, 64, 80)),
    ("noise", "variance", "source", _random(noise), (0.001, 0.002, 0.005, 0.01, 0.05)),
    ("blur", "kernel (px of the video)", "source", _pure(blur), (7, 9, 13, 17, 21)),
    ("pixelation", "factor", "source", _pure(pixelation), (2, 3, 4, 5, 6)),
)
_BY_PARAMETER: tuple[_Family, ...] = (
    ("resize", "side (px of 380)", "network", _pure(resize), (256, 128)),
    ("gaussian", "kernel (px of 380)", "network", _pure(gaussian), (3, 5)),
    ("jpeg", "quality", "network", _pure(jpeg), (100, 50)),
)


def _registry() -> dict[str, Perturbation]:
    perturbations = {}
    for suite in (_SUITE, _BY_PARAMETER):
        for family, _, scale, operation_of, values in suite:
            for level, value in enumerate(values, start=1):
                name = f"{family}-{level if suite is _SUITE else value}"
                perturbations[name] = Perturbation(
                    name=name,
                    family=family,
                    level=level,
                    parameter=f"{value:g}",
                    scale=scale,
                    operation=operation_of(value),
                )
    return perturbations


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(_registry())
# What a family's name stands for: its levels, and in RESULTS their mean.
MEANS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {family: tuple(f"{family}-{level + 1}" for level in range(len(values))) for family, _, _, _, values in _SUITE}
)
PARAMETERS: Mapping[str, str] = MappingProxyType({family: name for family, name, *_ in (*_SUITE, *_BY_PARAMETER)})


def names() -> tuple[str, ...]:
    """Return all that an experiment may name: families of five levels, and single levels."""
    return (*MEANS, *PERTURBATIONS)


def levels(named: Iterable[str]) -> tuple[str, ...]:
    """Return the single levels that these names stand for, each once, in the order of `PERTURBATIONS`.

    Raises ValueError for an unknown name, listing the allowed ones.
    """
    named = tuple(named)
    if unknown := [name for name in named if name not in MEANS and name not in PERTURBATIONS]:
        every = f"allowed: {', '.join(MEANS)} (all five levels and their mean), {', '.join(PERTURBATIONS)}"
        guess = meant(unknown[0], names(), every)
        raise ValueError(f"unknown perturbation {', '.join(map(repr, unknown))}; {guess}")
    wanted = {level for name in named for level in MEANS.get(name, (name,))}
    return tuple(name for name in PERTURBATIONS if name in wanted)


# -------------------------------------------------------------------------------------- on a crop
def apply(name: str, image: Image, row: Mapping[str, Any], seed: int) -> Image:
    """Return a stored crop (S, S, 3) of FACES under the perturbation `name`, at its stored size.

    row: its FACES row, of which `box_px` and `crop_px` are read. seed: the face's own, so that its score is the same in
    any batch; the levels of a family share it, and so the places of blocks and the shape of noise.
    """
    perturbation = PERTURBATIONS[name]
    stored_px = image.shape[0]
    side = side_px(perturbation.scale, row, stored_px)
    rng = np.random.default_rng(seed)
    out = perturbation.operation(_at_scale(perturbation.scale, image, side), rng)
    if side == stored_px:
        return out
    interpolation = cv2.INTER_AREA if side > stored_px else cv2.INTER_CUBIC  # as the crop was cut
    return _image(cv2.resize(out, (stored_px, stored_px), interpolation=interpolation))


def side_px(scale: Scale, row: Mapping[str, Any], stored_px: int) -> int:
    """Return the side that a crop (its FACES row, its stored side) is brought to for a perturbation of this scale."""
    crop, box = row["crop_px"], row["box_px"]
    if scale == "any":
        return stored_px
    side = crop["x1"] - crop["x0"]
    if scale == "source":
        return max(1, round(side))
    return max(1, round(NETWORK_PX * side / max(1.0, box["x1"] - box["x0"], box["y1"] - box["y0"])))


def _at_scale(scale: Scale, image: Image, side: int) -> Image:
    """Return the stored crop, which is square, at another size.

    A crop that was enlarged when it was stored holds nothing finer than its source's pixels: to come back to them it is
    sampled, not averaged, which would blur it.
    """
    if side == image.shape[0]:
        return image
    shrinks = side < image.shape[0] and scale == "network"
    return _image(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))
