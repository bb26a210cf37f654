"""The mask of self-blending: which region of a face is blended, in which parts, and how its boundary is blurred.

Sources: SBI's released code; ADFD Sec. 3.3 (BBMG, Eqs. 2-4) and its Tables 2-4 and 12, whose rows are options here.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from models._blend.landmark_masks import (
    FEATURES,
    EmptyMask,
    Landmarks,
    LocalShape,
    Mask,
    Region,
    Shape,
    feature_region,
    lal_region,
    landmark_region,
    sladd_region,
)
from models._config import check, check_range

TRIES = 10  # masks drawn before a face is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """The blending mask. Defaults: SBI with LAL masks in float32, the baseline of ADFD (Table 2, row 2).

    Absolute sizes are in px of the canvas that the face is given on, as in the papers; with `reference_px` they
    are meant for a canvas of that side and scale with the actual one.
    """

    # "local": SLADD's regions. Table 2: facehull with dtype uint8, lal, local, lal_or_local. "bbmg": Sec. 3.3.
    kind: Literal["lal", "dfl", "components", "extended", "facehull", "local", "lal_or_local", "bbmg"] = "lal"
    dtype: Literal["float32", "uint8"] = "float32"  # Table 3; in uint8 the boundary blur hardly erodes
    line: Literal["8", "aa"] = "8"  # Table 3; has an effect on a facehull in uint8 only
    drop_to_68: float = 0.25  # probability of leaving out the forehead
    # BBMG. Table 12: 1 global_only, 2 narrow_local, 3 full.
    bbmg: Literal["full", "narrow_local", "global_only"] = "full"
    local_shape: LocalShape = "sladd"
    feature_prob: float = 0.5  # of each of the four features, drawn again while there is none; 0: never any
    narrow: float = 0.75  # narrow_local: size of a feature against its hole
    # Boundary blur. "single": one blur, without the erosion of SBI's routine.
    blur: Literal["sbi", "single"] = "sbi"
    operation: Literal["gaussian", "average", "median"] = "gaussian"  # Table 4
    mask_resize: tuple[float, float] = (192, 256)  # both sides, each drawn on its own, before the blur
    mask_resize_unit: Literal["px", "canvas"] = "px"  # LAA-Net: (0.8, 1.25) of the canvas
    erode_kernel: tuple[int, int] = (5, 25)  # odd sizes; equal ends fix it
    blur_kernel: tuple[int, int] = (5, 25)
    sigma: tuple[int, int] = (5, 45)  # of the blur
    fixed_core: bool = False  # Fig. 5: what the erosion leaves stays 1, and only its surroundings are blurred
    reference_px: int | None = None

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "drop_to_68", "feature_prob")
        for name in ("erode_kernel", "blur_kernel"):
            low, high = getattr(self, name)
            odd = low % 2 == 1 and high % 2 == 1
            check(
                1 <= low <= high and odd, f"{name} must be two odd sizes from 1, the smaller first, got {(low, high)}"
            )
        for name in ("mask_resize", "sigma"):
            low, high = getattr(self, name)
            check(0 < low <= high, f"{name} must be two positive numbers, the smaller first, got {(low, high)}")
        check(0 < self.narrow <= 1, f"narrow must be in (0, 1], got {self.narrow}")
        check(
            self.reference_px is None or self.reference_px >= 1,
            f"reference_px must be positive or None, got {self.reference_px}",
        )


# A region of BBMG is a map of labels, so that one warp moves all of its parts: outside; the face without its chosen
# features; the rim around a narrowed feature; the chosen features.
OUTSIDE, GLOBAL, RIM, LOCAL = range(4)


def draw_labels(landmarks: Landmarks, shape: Shape, rng: np.random.Generator, config: MaskConfig) -> Region:
    """Draw the region to blend, uint8 (H, W): 0 outside, 1 inside; with kind "bbmg" also LOCAL, and RIM if narrowed."""
    kind = config.kind
    if kind == "local" or (kind == "lal_or_local" and rng.random() < 0.5):
        return sladd_region(landmarks, shape, rng, 10.0 * size_factor(shape, config))
    if kind in ("lal", "lal_or_local", "bbmg"):
        face = lal_region(landmarks, shape, rng, config.drop_to_68)
        return _split(face, landmarks, rng, config) if kind == "bbmg" else face
    if rng.random() < config.drop_to_68:
        landmarks = landmarks[:68]
    return landmark_region(landmarks, shape, kind, anti_aliased=config.line == "aa" and config.dtype == "uint8")


def draw_features(rng: np.random.Generator, prob: float) -> list[str]:
    """Draw facial features, each with its own coin; again while there is none, unless `prob` is 0."""
    chosen: list[str] = []
    while prob > 0 and not chosen:
        chosen = [feature for feature, coin in zip(FEATURES, rng.random(len(FEATURES)), strict=True) if coin < prob]
    return chosen


def _split(face: Region, landmarks: Landmarks, rng: np.random.Generator, config: MaskConfig) -> Region:
    """Split a face by ADFD Eq. 2: M_local is the chosen features inside the face, M_global the rest of it."""
    labels = face.copy()
    for feature in draw_features(rng, config.feature_prob):
        region = feature_region(landmarks, face.shape, feature, config.local_shape) & face
        if config.bbmg == "narrow_local":
            labels[(region > 0) & (labels != LOCAL)] = RIM
            region = _shrink(region, config.narrow)
        np.copyto(labels, np.uint8(LOCAL), where=region.view(bool))
    return labels


def _shrink(region: Region, share: float) -> Region:
    """Return the region, `share` times as wide and high about its centroid."""
    moments = cv2.moments(region, binaryImage=True)
    if not moments["m00"]:
        return region
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    matrix = np.array([[share, 0, (1 - share) * x], [0, share, (1 - share) * y]])
    return cv2.warpAffine(region, matrix, region.shape[::-1], flags=cv2.INTER_NEAREST) & region


def merge(labels: Region, rng: np.random.Generator, config: MaskConfig) -> Mask:
    """Blur the boundary of each part on its own; return the maximum (ADFD Eqs. 3, 4). Raises EmptyMask."""
    if config.kind != "bbmg" or not (labels == LOCAL).any():
        return boundary_blur((labels > 0).view(np.uint8), rng, config)
    parts = [(labels == GLOBAL).view(np.uint8)]
    if config.bbmg != "global_only":
        parts.append((labels == LOCAL).view(np.uint8))
    blurred = [boundary_blur(part, rng, config) for part in parts if part.any()]
    if not blurred:
        raise EmptyMask("the chosen features cover the whole face, and only the rest of it is blended")
    return blurred[0] if len(blurred) == 1 else np.maximum(*blurred)


def size_factor(shape: Shape, config: MaskConfig) -> float:
    """Return what absolute sizes are multiplied by on a canvas of this shape."""
    return 1.0 if config.reference_px is None else max(shape[:2]) / config.reference_px


def boundary_blur(region: Region, rng: np.random.Generator, config: MaskConfig) -> Mask:
    """Make SBI's blending mask B(M) of a region {0, 1}: float32 (H, W) in [0, 1].

    Resized to a random size; blurred, divided by its maximum and everything below 1 set to 0, which is an erosion;
    blurred again and divided by its maximum; resized back. Raises EmptyMask.
    """
    if not region.any():
        raise EmptyMask("nothing to blend: the region is empty")
    scale = size_factor(region.shape, config)
    width, height = (_draw_side(rng, side, config, scale) for side in region.shape[::-1])
    erode_px, blur_px = (_draw_kernel(rng, ends, scale) for ends in (config.erode_kernel, config.blur_kernel))
    sigma = scale * int(rng.integers(config.sigma[0], config.sigma[1] + 1))
    small = _resized(region, width, height, config)
    core = small if config.blur == "single" else _erode(small, erode_px, config)
    mask = _blur_around(core, blur_px, sigma, config)
    highest = float(mask.max())
    if highest <= 0:
        raise EmptyMask(f"nothing is left of the region after the {config.operation} blur")
    mask *= 1 / highest
    if config.fixed_core:
        mask = np.maximum(mask, core)
    mask = cv2.resize(mask, region.shape[::-1], interpolation=cv2.INTER_LINEAR)
    cv2.threshold(mask, 1, 1, cv2.THRESH_TRUNC, mask)
    if not mask.any():
        raise EmptyMask("what is left of the region falls between the pixels")
    return mask


def _draw_side(rng: np.random.Generator, side: int, config: MaskConfig, scale: float) -> int:
    """Draw to which side the mask is resized before the blur, in px."""
    low, high = config.mask_resize
    if config.mask_resize_unit == "canvas":  # [low, high): LAA-Net's released code
        return max(1, int(rng.integers(int(low * side), max(int(high * side), int(low * side) + 1))))
    return max(1, round(scale * int(rng.integers(int(low), int(high) + 1))))


def _draw_kernel(rng: np.random.Generator, ends: tuple[int, int], scale: float) -> int:
    """Draw an odd size between the ends; scaled, the nearest odd size."""
    size = ends[0] + 2 * int(rng.integers((ends[1] - ends[0]) // 2 + 1))
    return 2 * round((size * scale - 1) / 2) + 1 if scale != 1 else size


def _resized(region: Region, width: int, height: int, config: MaskConfig) -> Mask:
    values = region if config.dtype == "uint8" else region.astype(np.float32)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _erode(mask: Mask, kernel_px: int, config: MaskConfig) -> Mask:
    """Blur, divide by the maximum, and set to 0 what is below 1.

    A blurred float mask is 1 exactly where the whole kernel sees 1: an erosion by its square. Where the kernel
    fits nowhere, the pixels with the most mask around them are left.
    """
    if config.operation != "median" and config.dtype == "float32":
        full = (mask >= 1 - 1e-6).view(np.uint8)
        eroded = cv2.erode(full, np.ones((kernel_px, kernel_px), np.uint8))
        if eroded.any():
            return eroded.astype(np.float32)
    sigma = 0.3 * ((kernel_px - 1) / 2 - 1) + 0.8
    blurred = _blur(mask.astype(config.dtype), kernel_px, sigma, config)  # in 8 bit rounded to 0 or 1
    highest = float(blurred.max())
    if highest <= 0:
        raise EmptyMask("nothing is left of the region after the first blur")
    return (blurred >= highest * (1 - 1e-6)).astype(np.float32)


def _blur_around(mask: Mask, kernel_px: int, sigma: float, config: MaskConfig) -> Mask:
    """Blur like `_blur`, computed only where the result can be anything but 0."""
    x, y, width, height = cv2.boundingRect((mask > 0).view(np.uint8))
    reach = kernel_px  # half of it beyond the mask, and half that the border may mirror
    window = slice(max(0, y - reach), y + height + reach), slice(max(0, x - reach), x + width + reach)
    result = np.zeros_like(mask)
    result[window] = _blur(mask[window], kernel_px, sigma, config)
    return result


def _blur(mask: Mask, kernel_px: int, sigma: float, config: MaskConfig) -> Mask:
    size = (kernel_px, kernel_px)
    if config.operation == "average":
        return cv2.blur(mask, size)
    if config.operation == "median":  # OpenCV's takes large kernels in 8 bit only
        return cv2.medianBlur((mask * 255).astype(np.uint8), kernel_px).astype(np.float32) / 255
    return cv2.GaussianBlur(mask, size, sigma)
