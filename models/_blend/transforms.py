"""Image operations of pseudo-fake synthesis: colour, frequency, shift and scale, elastic deformation, compression.

The operations are those of albumentations 1.1, which SBI's released code uses, with its 8-bit semantics: tables of
256 entries, truncated. Strengths are given by the caller; the functions named `draw_...` draw them.
Images are uint8 (H, W, 3) RGB and never changed in place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from models._blend.landmark_masks import Image, Shape

Field = np.ndarray  # (H, W, 2): x, y in px
Steps = list[Callable[[Image], Image]]

LEVELS = np.arange(256, dtype=np.float32)
IDENTITY = np.arange(256, dtype=np.uint8)
IN_USE = np.array([IDENTITY < 180, IDENTITY < 256, IDENTITY < 256])  # levels of hue, saturation, value in 8 bits
NO_MAP = np.empty(0, np.float32)  # for `cv2.remap`, when one map holds both coordinates

# --- colour --------------------------------------------------------------------------------------------------------


def rgb_shift(image: Image, shift: Sequence[float] | np.ndarray) -> Image:
    """Add to each channel its own shift, in levels."""
    # Truncating a level plus a shift, with 0 for what is below, is adding the shift rounded down.
    return cv2.add(image, np.array([*np.floor(shift), 0], np.float64))


def hsv_shift(image: Image, shift: Sequence[float] | np.ndarray) -> Image:
    """Add a shift each to hue, saturation and value, in OpenCV's 8-bit units (hue 0..179), truncated.

    SBI draws shifts of at most 0.3 units, meant as shares perhaps: a negative one takes one level off, a positive one
    does nothing, and the way to HSV and back rounds. It is kept like that.
    """
    levels = LEVELS + np.asarray(shift, np.float32)[:, None]
    levels[0] %= 180
    tables = np.clip(levels, 0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    changed = ((tables != IDENTITY) & IN_USE).any(1).nonzero()[0].tolist()
    if changed:
        channels = list(cv2.split(hsv))
        for channel in changed:
            channels[channel] = cv2.LUT(channels[channel], tables[channel])
        hsv = cv2.merge(channels)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def brightness_contrast(image: Image, gain: float, offset: float) -> Image:
    """Return `gain` times the level plus `offset` in levels, the same for all channels."""
    return cv2.LUT(image, np.clip(LEVELS * np.float32(gain) + np.float32(offset), 0, 255).astype(np.uint8))


# --- frequency -----------------------------------------------------------------------------------------------------


def downscale(image: Image, ratio: int) -> Image:
    """Take every `ratio`-th pixel and enlarge the result again bilinearly."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // ratio), max(1, height // ratio)), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def sharpen(image: Image, alpha: float, lightness: float) -> Image:
    """Return (1 - alpha) of the image plus alpha of it filtered by -1 everywhere and 8 + lightness in the centre."""
    kernel = np.full((3, 3), -alpha, np.float32)
    kernel[1, 1] = (1 - alpha) + alpha * (8 + lightness)
    return cv2.filter2D(image, -1, kernel)


def jpeg(image: Image, quality: int) -> Image:
    """Compress the image as JPEG, red taken for blue and blue for red, as in albumentations and Face X-ray."""
    _, coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


# --- SBI's source-target transform ---------------------------------------------------------------------------------


def draw_appearance(rng: np.random.Generator, ratios: Sequence[int], *, color: bool) -> Steps:
    """Draw the steps of SBI's source-target transform, in their order, and their strengths.

    First colour, if asked for, then either `downscale` by one of the ratios or `sharpen`; without ratios neither.
    """
    steps: Steps = []
    if color:
        if rng.random() < 0.3:
            shift = rng.uniform(-20, 20, 3)
            steps.append(lambda image: rgb_shift(image, shift))
        hsv, (gain, offset) = rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.1, 0.1, 2)
        steps.append(lambda image: hsv_shift(image, hsv))
        steps.append(lambda image: brightness_contrast(image, 1 + gain, 255 * offset))
    if ratios:
        if rng.random() < 0.5:
            ratio = ratios[int(rng.integers(len(ratios)))]
            steps.append(lambda image: downscale(image, ratio))
        else:
            alpha, lightness = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.0)
            steps.append(lambda image: sharpen(image, alpha, lightness))
    return steps


# --- geometry ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Affine:
    """Scale about the centre of the image, then shift: x' = sx x + tx, y' = sy y + ty."""

    sx: float
    sy: float
    tx: float
    ty: float

    def matrix(self) -> np.ndarray:
        return np.array([[self.sx, 0, self.tx], [0, self.sy, self.ty]])


def draw_affine(rng: np.random.Generator, shape: Shape) -> Affine:
    """Draw SBI's map: shift by up to 3 % of the width and 1.5 % of the height, each axis scaled by 0.95 to 1 / 0.95."""
    height, width = shape[:2]
    sx, sy = rng.uniform(0.95, 1 / 0.95, 2)
    right, down = rng.uniform(-1, 1, 2)
    return Affine(
        sx, sy, (1 - sx) * (width - 1) / 2 + 0.03 * right * width, (1 - sy) * (height - 1) / 2 + 0.015 * down * height
    )


def move(labels: np.ndarray, affine: Affine) -> np.ndarray:
    """Scale and shift a uint8 (H, W); nearest pixel, 0 outside. Only where something can arrive is computed."""
    height, width = labels.shape
    x, y, w, h = cv2.boundingRect(labels)
    x0, x1 = (min(max(0, math.floor(affine.sx * at + affine.tx)), width) for at in (x - 1, x + w + 1))
    y0, y1 = (min(max(0, math.floor(affine.sy * at + affine.ty)), height) for at in (y - 1, y + h + 1))
    moved = np.zeros_like(labels)
    if x0 < x1 and y0 < y1:
        matrix = affine.matrix() - [[0, 0, x0], [0, 0, y0]]
        moved[y0:y1, x0:x1] = cv2.warpAffine(labels, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_NEAREST)
    return moved


def elastic(labels: np.ndarray, rng: np.random.Generator, sigma_px: float, std_px: float) -> np.ndarray:
    """Take each pixel of a uint8 (H, W) from where an `elastic_field` points; nearest one, mirrored at the border."""
    height, width = labels.shape
    step = max(1, round(sigma_px * 8 / 7))
    nodes = elastic_nodes(rng, labels.shape, step, sigma_px, std_px)
    # Only where something can arrive; what is mirrored there must not be mirrored at the border of the window.
    reach = 2 * math.ceil(1.2 * float(np.abs(nodes).max())) + 1
    x, y, w, h = cv2.boundingRect(labels)
    x0, y0, x1, y1 = max(0, x - reach), max(0, y - reach), min(width, x + w + reach), min(height, y + h + reach)
    field = enlarge_nodes(nodes, step, (x0, y0, x1, y1))
    nearest = cv2.add(field, _positions(y1 - y0, x1 - x0), dtype=cv2.CV_16S)  # rounded: whole pixels
    window = labels[y0:y1, x0:x1]
    result = np.zeros_like(labels)
    result[y0:y1, x0:x1] = cv2.remap(window, nearest, NO_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return result


def elastic_field(rng: np.random.Generator, shape: Shape, sigma_px: float, std_px: float) -> Field:
    """Draw a smooth displacement, each axis on its own: Gaussian, autocorrelation exp(-(d / 2 sigma_px)^2).

    This is what white noise filtered by a Gaussian is. It holds nothing finer than `sigma_px`; so the noise is drawn
    on a grid of nodes, filtered there, and enlarged; at this distance of nodes the variance stays within 2 %.
    """
    step = max(1, round(sigma_px * 8 / 7))
    nodes = elastic_nodes(rng, shape, step, sigma_px, std_px)
    return enlarge_nodes(nodes, step, (0, 0, shape[1], shape[0]))


def elastic_nodes(rng: np.random.Generator, shape: Shape, step: int, sigma_px: float, std_px: float) -> Field:
    """Draw the displacement at every `step`-th pixel."""
    noise = rng.standard_normal((math.ceil(shape[0] / step), math.ceil(shape[1] / step), 2), np.float32)
    sigma = sigma_px / step
    noise *= std_px * 2 * math.sqrt(math.pi) * sigma  # white noise of std 1 has std 1 / (2 sqrt(pi) sigma) afterwards
    return cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def enlarge_nodes(nodes: Field, step: int, window: tuple[int, int, int, int]) -> Field:
    """Return the displacement at each pixel of a window x0, y0, x1, y1; cubic."""
    x0, y0, x1, y1 = window
    left, top = max(0, x0 // step - 2), max(0, y0 // step - 2)  # an interpolated value has two nodes on each side
    needed = nodes[top : y1 // step + 3, left : x1 // step + 3]
    full = cv2.resize(needed, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return full[y0 - top * step : y1 - top * step, x0 - left * step : x1 - left * step]


@lru_cache(maxsize=4)
def _all_positions(height: int, width: int) -> Field:
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
    return grid


def _positions(height: int, width: int) -> Field:
    """Return x, y of each pixel of a canvas."""
    whole = _all_positions(-(-height // 128) * 128, -(-width // 128) * 128)  # few sizes, so that they can be kept
    return whole[:height, :width]


# --- the same for several images -----------------------------------------------------------------------------------


def photometric(images: Sequence[Image], rng: np.random.Generator) -> list[Image]:
    """Augment the images, all by the same steps with the same parameters, as ADFD and LAA-Net do.

    In this order: RGB shift by up to 20 levels per channel (p 0.3); HSV shift by up to 0.3 8-bit units (p 0.3);
    contrast times 1 +- 0.3 and brightness +- 0.3 of 255 (p 0.3); JPEG of quality 40 to 100 (p 0.5).
    """
    steps: Steps = []
    if rng.random() < 0.3:
        shift = rng.uniform(-20, 20, 3)
        steps.append(lambda image: rgb_shift(image, shift))
    if rng.random() < 0.3:
        hsv = rng.uniform(-0.3, 0.3, 3)
        steps.append(lambda image: hsv_shift(image, hsv))
    if rng.random() < 0.3:
        gain, offset = rng.uniform(-0.3, 0.3, 2)
        steps.append(lambda image: brightness_contrast(image, 1 + gain, 255 * offset))
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 101))
        steps.append(lambda image: jpeg(image, quality))
    return [apply(image, steps) for image in images]


def photometric_bi(image: Image, rng: np.random.Generator) -> Image:
    """Augment the background image before BI, as LAA-Net does.

    In this order: colour jitter of 0.2 (p 0.3), JPEG 40..100 (p 0.5), RGB shift of up to 20 levels (p 0.3), gamma
    0.8..1.2 (p 0.5), then with p 0.5 Gaussian blur or Gaussian noise, and with p 0.5 brightness/contrast or HSV shift.
    """
    if rng.random() < 0.3:
        image = color_jitter(image, rng)
    if rng.random() < 0.5:
        image = jpeg(image, int(rng.integers(40, 101)))
    if rng.random() < 0.3:
        image = rgb_shift(image, rng.uniform(-20, 20, 3))
    if rng.random() < 0.5:
        gamma = rng.uniform(0.8, 1.2)
        image = cv2.LUT(image, (255 * (LEVELS / 255) ** np.float32(gamma)).astype(np.uint8))
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            size = 3 + 2 * int(rng.integers(3))
            image = cv2.GaussianBlur(image, (size, size), 0)
        else:
            noise = np.float32(math.sqrt(rng.uniform(10, 50))) * rng.standard_normal(image.shape, np.float32)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            gain, offset = rng.uniform(-0.1, 0.1, 2)
            image = brightness_contrast(image, 1 + gain, 255 * offset)
        else:
            image = hsv_shift(image, rng.uniform(-20, 20, 3))
    return image


def color_jitter(image: Image, rng: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation (factors 1 +- 0.2) and hue (+- 0.2 of the circle), in random order."""
    brightness, contrast, saturation = rng.uniform(1 - 0.2, 1 + 0.2, 3)
    hue = rng.uniform(-0.2, 0.2)
    for step in rng.permutation(4):
        if step == 0:
            image = brightness_contrast(image, brightness, 0)
        elif step == 1:
            mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
            image = brightness_contrast(image, contrast, (1 - contrast) * mean)
        elif step == 2:
            gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, saturation, gray, 1 - saturation, 0)
        else:
            image = hsv_shift(image, (180 * hue, 0, 0))
    return image


def apply(image: Image, steps: Steps) -> Image:
    """Apply the steps one after the other; without any, return the image itself."""
    for step in steps:
        image = step(image)
    return image
