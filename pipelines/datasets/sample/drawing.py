"""How images of the sample corpus are warped, coloured and cut.

Units: points are (N, 2) float64 x, y in px; images uint8 RGB unless stated.
"""

import cv2
import numpy as np

# Names for what an array holds; OpenCV's own annotations promise no more than an array.
Points = np.ndarray  # (N, 2) or (T, k) float64
Image = np.ndarray  # (..., H, W, 3) uint8
Plane = np.ndarray  # (H, W) or (H, W, C) float32
Mask = np.ndarray  # (..., H, W) bool

GRID_PX = 8  # warps are solved on this grid and interpolated linearly in between


def warp(image: np.ndarray, source: Points, target: Points, size: tuple[int, int]) -> np.ndarray:
    """Warp an image so that its `source` points come to lie on `target`; return it cut to `size`, (width, height).

    Thin-plate spline (Bookstein 1989) from frame to image, lightly regularised so that crowded landmarks,
    as those of a closed eye, do not fold it.
    """
    width, height = size
    xs, ys = np.arange(-GRID_PX, width + 2 * GRID_PX, GRID_PX), np.arange(-GRID_PX, height + 2 * GRID_PX, GRID_PX)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(float)
    num = len(target)
    system = np.zeros((num + 3, num + 3))
    system[:num, :num] = _thin_plate(target, target) + 20.0 * np.eye(num)
    system[:num, num:] = np.c_[np.ones(num), target]
    system[num:, :num] = system[:num, num:].T
    weights = np.linalg.solve(system, np.r_[source, np.zeros((3, 2))])
    # Not `@`: BLAS cuts a large product into as many parts as it has idle threads, and so does not round alike
    # each time. einsum without `optimize` does not call BLAS.
    terms = np.c_[_thin_plate(grid, target), np.ones(len(grid)), grid]
    coarse = np.einsum("gn,nc->gc", terms, weights, optimize=False)
    coarse = coarse.reshape(len(ys), len(xs), 2).astype(np.float32)
    # The coarse map sampled at every pixel of the frame: pixel (0, 0) is grid point (1, 1).
    to_frame = np.array([[1 / GRID_PX, 0, 1], [0, 1 / GRID_PX, 1]])
    full = cv2.warpAffine(coarse, to_frame, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return cv2.remap(image, full[..., 0], full[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _thin_plate(a: Points, b: Points) -> np.ndarray:
    squared = np.square(np.subtract.outer(a[:, 0], b[:, 0])) + np.square(np.subtract.outer(a[:, 1], b[:, 1]))
    return squared * np.log(squared + 1e-6)


def fill_hull(plane: Plane, points: Points, value: float) -> None:
    """Set the convex hull of the points in a plane (H, W) to a value."""
    cv2.fillConvexPoly(plane, cv2.convexHull(np.round(points).astype(np.int32)), value)


def feather(region: Mask, width_px: float) -> Plane:
    """Return 1 inside `region`, falling to 0 over the last `width_px` before its edge; exactly 0 outside."""
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
    ramp = np.clip(distance / width_px, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def to_lab(image: Image) -> Plane:
    """Return an image in CIELAB: lightness 0 to 100, a and b about 0."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def to_rgb(lab: Plane) -> Image:
    """Return the image of what `to_lab` returns; colours that it can't show are cut off."""
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def match_colour(lab: Plane, like: Plane, region: Mask, spread: bool = False) -> Plane:
    """Return `lab` with the mean colour (and, if asked, the standard deviation) that `like` has in `region`.

    The darker a pixel, the less it changes, as under another light; else pupils and nostrils would glow.
    """
    inside, wanted = lab[region], like[region]
    mean = inside.mean(0)
    gain = wanted.std(0) / (inside.std(0) + 1e-3) if spread else 1.0
    lit = np.clip(lab[..., :1] / mean[0], 0, 1)
    return lab + lit * ((lab - mean) * (gain - 1) + wanted.mean(0) - mean)
