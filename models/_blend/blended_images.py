"""Blended Images (BI): another person's face blended onto a real one, as in Face X-ray (Li et al., CVPR 2020).

Source: Face X-ray's released code, as LAA-Net uses it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as Pillow

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
from models._config import check


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
        smallest = {
            "side_px": 1,
            "grid": 2,
            "jitter": 0,
            "erode_px": 1,
            "dilate_px": 1,
            "rescale_px": 1,
            "jpeg_quality": 1,
        }
        for name, limit in smallest.items():
            low, high = getattr(self, name)
            check(limit <= low <= high, f"{name} must be a range, the smaller end first, got {(low, high)}")
        check(
            self.crop is None or max(self.crop[:2]) + self.crop[2] <= self.canvas_px,
            f"crop (left, top, side) must lie on the canvas of {self.canvas_px} px, got {self.crop}",
        )


def blend_faces(
    background: Image,
    background_landmarks: Landmarks,
    foreground: Image,
    foreground_landmarks: Landmarks,
    rng: np.random.Generator,
    config: BlendFacesConfig,
) -> Blended:
    """Blend another person's face onto the background: BI. All results have the side of `config.crop`.

    `real` is the background, which, as in the released code, has not been through the random size of the blending.
    Raises BadSample for landmarks that are of no use, and EmptyMask when ten masks in a row were empty.
    """
    for image, landmarks in ((background, background_landmarks), (foreground, foreground_landmarks)):
        check_image(image)
        check_landmarks(landmarks, image.shape)
    side = _draw_int(rng, config.side_px)
    target, target_landmarks = _to_side(background, background_landmarks, side)
    source, source_landmarks = _to_side(foreground, foreground_landmarks, side)
    if config.align:
        source = _aligned(source, source_landmarks, target_landmarks)
    region, weight = _draw_weight(target_landmarks, side, rng, config)
    shift = np.subtract(cv2.mean(target, region), cv2.mean(source, region))[:3]  # to the target's mean colour
    fake = blend(transforms.rgb_shift(source, shift), target, weight)

    size = (config.canvas_px, config.canvas_px)
    mask = cv2.resize(weight, size, interpolation=cv2.INTER_LINEAR)
    fake = cv2.resize(fake, size, interpolation=cv2.INTER_LINEAR)
    images = _degraded([background, fake], rng, config)
    left, top, kept = config.crop or (0, 0, config.canvas_px)
    window = slice(top, top + kept), slice(left, left + kept)
    mask, real, fake = (np.ascontiguousarray(array[window]) for array in (mask, *images))
    if not mask.any():
        raise EmptyMask("the face lies outside the window that is kept of the canvas")
    return Blended(real=real, fake=fake, mask=mask, ratio=1.0)


def _draw_int(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _to_side(image: Image, landmarks: Landmarks, side: int) -> tuple[Image, Landmarks]:
    """Resize image and landmarks to side x side px.

    Differs from LAA-Net's code, which scales landmarks of 256 px images as if these had 317 px.
    """
    height, width = image.shape[:2]
    scale = np.array([side / width, side / height], np.float32)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), (landmarks + 0.5) * scale - 0.5


def _aligned(image: Image, landmarks: Landmarks, onto: Landmarks) -> Image:
    """Turn, scale and shift the image so that its first 68 landmarks lie on the others; least squares."""
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
    """Draw the region to blend and its weight, again while empty. Raises EmptyMask after ten of these."""
    for _ in range(TRIES):
        region = draw_region(landmarks, side, rng, config)
        if region.any():
            weight = feathered(region, config.feather)
            if weight.any():
                return region, weight
    raise EmptyMask(f"{TRIES} masks of the face in a row were empty")


def draw_region(landmarks: Landmarks, side: int, rng: np.random.Generator, config: BlendFacesConfig) -> Region:
    """Draw a LAL region, deformed on a coarse grid, then eroded or dilated; {0, 1}, may be empty.

    The deformation is bilinear between the nodes of the grid; in the released code it is affine in triangles.
    """
    region = lal_region(landmarks, (side, side), rng, config.drop_to_68)
    num_rows, num_columns = _draw_int(rng, config.grid), _draw_int(rng, config.grid)
    moved = rng.normal(0, rng.uniform(*config.jitter) * side, (num_rows, num_columns, 2))
    rows, columns = (np.linspace(0, side - 1, num) for num in (num_rows, num_columns))
    maps = grid_map(columns, rows, moved, (side, side))
    # Between mask and background the warp yields less than 1; rounded down, that is background.
    region = (cv2.remap(region * np.uint8(255), *maps, cv2.INTER_LINEAR) == 255).view(np.uint8)
    change, ends = (cv2.erode, config.erode_px) if rng.random() < 0.5 else (cv2.dilate, config.dilate_px)
    kernel_px = _draw_int(rng, ends) | 1  # odd
    return change(region, np.ones((kernel_px, kernel_px), np.uint8))


def feathered(region: Region, share: float) -> Mask:
    """Weigh a region: 0 outside and on the outline of its convex hull, rising to 1 over `share` of its longer side.

    Where the region has a notch or a hole, the weight falls to 0 at once.
    """
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
    longer = max(width, height, 2) - 1  # between the centres of the outermost pixels
    weight[y : y + height, x : x + width] = np.clip(distance / (share * longer), 0, 1)
    weight[region == 0] = 0
    return weight


def _degraded(images: list[Image], rng: np.random.Generator, config: BlendFacesConfig) -> list[Image]:
    """Bring images to the canvas: made small first, compressed as JPEG after, or neither; always all alike.

    They are made small by the nearest pixel or by Pillow's bilinear filter, which takes in all pixels that a new one
    covers (OpenCV's takes four), and enlarged bilinearly in any case.
    """
    if rng.random() < config.rescale_prob:
        small = (_draw_int(rng, config.rescale_px),) * 2
        how = Pillow.Resampling.BILINEAR if rng.random() < 0.5 else Pillow.Resampling.NEAREST
        images = [np.asarray(Pillow.fromarray(image).resize(small, how)) for image in images]
    size = (config.canvas_px, config.canvas_px)
    images = [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in images]
    if rng.random() < config.jpeg_prob:
        quality = _draw_int(rng, config.jpeg_quality)
        images = [transforms.jpeg(image, quality) for image in images]
    return images
