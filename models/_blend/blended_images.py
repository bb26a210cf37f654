"""Blended Images (BI): another person's face blended onto a real one, as in Face X-ray (Li et al., CVPR 2020).

Source: Face X-ray's released code, as LAA-Net uses it.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from models._blend import transforms
from models._blend.blending_mask import TRIES
from models._blend.landmark_masks import (
    EmptyMask,
    Image,
    Landmarks,
    Mask,
    Region,
    check_landmarks,
    grid_map,
    lal_region,
)
from models._blend.synthesize import Blended, blend, check_image


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendFacesConfig:
    """BI: Face X-ray's released code, as LAA-Net uses it. Sizes in px, ends included."""

    canvas_px: int = 317
    side_px: tuple[int, int] = (128, 317)  # the faces are blended at a random size
    drop_to_68: float = 0.0
    align: bool = False  # our choice, for faces that are not aligned: moves the foreground's landmarks onto the others
    grid: tuple[int, int] = (2, 4)  # rows and columns of the grid that deforms the mask
    jitter: tuple[float, float] = (0.01, 0.15)  # of its nodes: range of the standard deviation, in sides of the face
    erode_px: tuple[int, int] = (1, 21)  # even draws are raised by one
    dilate_px: tuple[int, int] = (1, 5)
    feather: float = 0.2  # width of the blending boundary, in longer sides of the mask
    rescale_prob: float = 0.5  # real and fake alike are made small and enlarged again
    rescale_px: tuple[int, int] = (64, 317)
    jpeg_prob: float = 0.0  # Face X-ray: 0.5
    jpeg_quality: tuple[int, int] = (60, 100)
    crop: tuple[int, int, int] | None = (30, 60, 257)  # left, top, side of what is kept of the canvas

    def __post_init__(self) -> None:
        for name in ("side_px", "grid", "jitter", "erode_px", "dilate_px", "rescale_px", "jpeg_quality"):
            low, high = getattr(self, name)
            if not (0 <= low <= high if name == "jitter" else (2 if name == "grid" else 1) <= low <= high):
                raise ValueError(f"{name} must be a range, the smaller end first, got {(low, high)}")
        if self.crop is not None and max(self.crop[:2]) + self.crop[2] > self.canvas_px:
            raise ValueError(f"crop (left, top, side) must lie on the canvas of {self.canvas_px} px, got {self.crop}")

    def scaled(self, factor: float) -> "BlendFacesConfig":
        """The same for a canvas `factor` times as large: all sizes in px are multiplied."""

        def px(sizes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(1, round(size * factor)) for size in sizes)

        names = ("side_px", "erode_px", "dilate_px", "rescale_px")
        changes: dict[str, Any] = {name: px(getattr(self, name)) for name in names}
        changes["canvas_px"] = max(1, round(self.canvas_px * factor))
        changes["crop"] = self.crop and tuple(int(size * factor) for size in self.crop)
        return replace(self, **changes)


def blend_faces(
    background: Image,
    background_landmarks: Landmarks,
    foreground: Image,
    foreground_landmarks: Landmarks,
    rng: np.random.Generator,
    config: BlendFacesConfig,
) -> Blended:
    """Another person's face blended onto the background: BI. All results have the side of `config.crop`.

    `real` is the background, which, as in the released code, has not been through the random size of the blending.
    Raises BadSample for landmarks that are of no use, and EmptyMask when ten masks in a row were empty.
    """
    for image, landmarks in ((background, background_landmarks), (foreground, foreground_landmarks)):
        check_image(image)
        check_landmarks(landmarks, image.shape)
    side = _draw(rng, config.side_px)
    back, back_points = _to_side(background, background_landmarks, side)
    fore, fore_points = _to_side(foreground, foreground_landmarks, side)
    if config.align:
        fore = _aligned(fore, fore_points, back_points)
    region, weight = _draw_weight(back_points, side, rng, config)
    shift = np.subtract(cv2.mean(back, region), cv2.mean(fore, region))[:3]
    fake = blend(transforms.rgb_shift(fore, shift), back, weight)

    size = (config.canvas_px, config.canvas_px)
    mask = cv2.resize(weight, size, interpolation=cv2.INTER_LINEAR)
    images = [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in (background, fake)]
    images = _degraded(images, rng, config)
    left, top, kept = config.crop or (0, 0, config.canvas_px)
    window = slice(top, top + kept), slice(left, left + kept)
    mask, real, fake = (np.ascontiguousarray(array[window]) for array in (mask, *images))
    if not mask.any():
        raise EmptyMask("the face lies outside the window that is kept of the canvas")
    return Blended(real=real, fake=fake, mask=mask, ratio=1.0)


def _draw(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _to_side(image: Image, landmarks: Landmarks, side: int) -> tuple[Image, Landmarks]:
    """Image and landmarks at side x side px. (LAA-Net's code scales landmarks of 256 px images as if of 317 px.)"""
    height, width = image.shape[:2]
    scale = np.array([side / width, side / height], np.float32)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), (landmarks + 0.5) * scale - 0.5


def _aligned(image: Image, landmarks: Landmarks, onto: Landmarks) -> Image:
    """The image turned, scaled and shifted so that its landmarks lie on the others; least squares."""
    here, there = (points[:68].astype(np.float64) for points in (landmarks, onto))
    a, b = here - here.mean(0), there - there.mean(0)
    norm = float((a * a).sum())
    cos, sin = float((a * b).sum()) / norm, float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = np.c_[turn, there.mean(0) - turn @ here.mean(0)]
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _draw_weight(
    landmarks: Landmarks, side: int, rng: np.random.Generator, config: BlendFacesConfig
) -> tuple[Region, Mask]:
    """The region to blend and its weight, drawn again while empty. Raises EmptyMask."""
    for _ in range(TRIES):
        region = draw_region(landmarks, side, rng, config)
        if region.any():
            weight = feathered(region, config.feather)
            if weight.any():
                return region, weight
    raise EmptyMask(f"{TRIES} masks of the face in a row were empty")


def draw_region(landmarks: Landmarks, side: int, rng: np.random.Generator, config: BlendFacesConfig) -> Region:
    """A landmark mask, deformed on a coarse grid, then eroded or dilated; {0, 1}, may be empty.

    The deformation is bilinear between the nodes of the grid; in the released code it is affine in triangles.
    """
    region = lal_region(landmarks, (side, side), rng, config.drop_to_68)
    num_rows, num_columns = _draw(rng, config.grid), _draw(rng, config.grid)
    moved = rng.normal(0, rng.uniform(*config.jitter) * side, (num_rows, num_columns, 2))
    rows, columns = (np.linspace(0, side - 1, num) for num in (num_rows, num_columns))
    maps = grid_map(columns, rows, moved, (side, side))
    # Between mask and background the warp yields less than 1; rounded down, that is background.
    region = (cv2.remap(region * np.uint8(255), *maps, cv2.INTER_LINEAR) == 255).view(np.uint8)
    change, ends = (cv2.erode, config.erode_px) if rng.random() < 0.5 else (cv2.dilate, config.dilate_px)
    kernel_px = _draw(rng, ends) | 1
    return change(region, np.ones((kernel_px, kernel_px), np.uint8))


def feathered(region: Region, share: float) -> Mask:
    """0 on the outline of the region's convex hull and outside, rising to 1 over `share` of its longer side."""
    x, y, width, height = cv2.boundingRect(region)
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    hull = cv2.convexHull(np.concatenate(outlines))[:, 0].astype(np.float32)
    rows, columns = np.arange(y, y + height, dtype=np.float32)[:, None], np.arange(x, x + width, dtype=np.float32)
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([-edges[:, 1], edges[:, 0]], 1) / np.maximum(np.hypot(*edges.T), 1e-6)[:, None]
    normals *= np.sign(((hull.mean(0) - hull) * normals).sum(1))[:, None]  # inwards
    # A convex polygon is where all its edges' half planes meet; inside, the nearest edge is the nearest border.
    distance, to_edge = np.full((height, width), np.inf, np.float32), np.empty((height, width), np.float32)
    for corner, normal in zip(hull, normals, strict=True):
        np.add((rows - corner[1]) * normal[1], (columns - corner[0]) * normal[0], out=to_edge)
        np.minimum(distance, to_edge, out=distance)
    weight = np.zeros(region.shape, np.float32)
    weight[y : y + height, x : x + width] = np.clip(distance / (share * max(width, height)), 0, 1)
    return weight


def _degraded(images: list[Image], rng: np.random.Generator, config: BlendFacesConfig) -> list[Image]:
    """Real and fake, both made small and enlarged again, both compressed, or neither."""
    if rng.random() < config.rescale_prob:
        side = _draw(rng, config.rescale_px)
        how = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_NEAREST
        images = [
            cv2.resize(cv2.resize(image, (side, side), interpolation=how), image.shape[1::-1], interpolation=how)
            for image in images
        ]
    if rng.random() < config.jpeg_prob:
        quality = _draw(rng, config.jpeg_quality)
        images = [transforms.jpeg(image, quality) for image in images]
    return images
