"""Ground truth of LAA-Net: vulnerable points, their heat-map and the self-consistency map. numpy only.

Source: Nguyen et al., "LAA-Net", CVPR 2024, Sec. 3.1.2, Eq. 3, 4 and 7, and its released code where the paper
leaves something open. The radius is CornerNet's (Law and Deng, ECCV 2018), as published in its code.

Everything is computed from the blending boundary B as it is at the size of the maps: uint8 (D, D), 0 to 255 for
0 to 1, D even; all zero for a real image. The 8 bits matter: equal values are several points, and the loss of the
heat-map is divided by the number of points.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Boundary = NDArray[np.uint8]  # (D, D)
Map = NDArray[np.float32]  # (D, D) in [0, 1]
Search = Literal["quadrant", "global"]  # where a maximum of B is looked for
Centre = Literal["point", "released"]  # where a Gaussian is 1

OVERLAP = 0.7  # t: IoU of the boxes that a radius allows
MIN_SIGMA = 1e-4  # px
BOUNDARY_LEVEL = 128  # where B is above it, a pixel belongs to the blending boundary around a point


def vulnerable_points(boundary: Boundary, search: Search = "quadrant") -> NDArray[np.intp]:
    """Return y, x (K, 2) of the pixels where B is highest, by row; none for a real image.

    global: Eq. 3. quadrant: the highest of each quadrant of the image that is not empty (released code).
    """
    peak = np.zeros_like(boundary)
    for part in _parts(search, boundary.shape[0]):
        peak[part] = boundary[part].max()
    return np.argwhere((boundary == peak) & (peak > 0))


def heatmap(boundary: Boundary, points: NDArray[np.intp], centre: Centre = "point") -> Map:
    """Return H: at each pixel the largest of the Gaussians around the points (Eq. 4).

    A Gaussian has a sigma of a third of its point's radius, and is cut off at that radius. point: it is centred on its
    point, so that H is exactly 1 at the points only. released: as the released code places it, one pixel to the left of
    and above its point where the radius has a fraction below one half.
    """
    is_boundary = boundary > BOUNDARY_LEVEL
    heat = np.zeros(boundary.shape, np.float32)
    heights, widths = _run_lengths(is_boundary.T).T, _run_lengths(is_boundary)
    for y, x in points:
        # The released code counts the point itself once more; where B is low the runs are empty, the radius is 0.
        extra = int(is_boundary[y, x])
        radius_px = radius(float(heights[y, x] + extra), float(widths[y, x] + extra))
        rows, middle_y = _placed(int(y), radius_px, len(heat), centre)
        columns, middle_x = _placed(int(x), radius_px, len(heat), centre)
        dy, dx = np.arange(rows.start, rows.stop)[:, None] - middle_y, np.arange(columns.start, columns.stop) - middle_x
        window = heat[rows, columns]
        np.maximum(window, np.exp(-(dy**2 + dx**2) / (2 * (radius_px / 3 + MIN_SIGMA) ** 2)), out=window)
    return heat


def _placed(place: int, radius_px: float, side: int, centre: Centre) -> tuple[slice, int]:
    """Return along one axis what part of the map a point's Gaussian covers, and where its middle is."""
    if centre == "point":
        reach = int(radius_px)
        return slice(max(place - reach, 0), min(place + reach + 1, side)), place
    reach_px = radius_px + 3 * MIN_SIGMA
    start = int(place - reach_px)  # towards 0, so that a Gaussian that begins just outside the map is not moved
    return slice(max(start, 0), min(int(place + reach_px + 1), side)), start + int(reach_px + 0.5)


def consistency(boundary: Boundary, search: Search = "quadrant") -> NDArray[np.uint8]:
    """Return C of Eq. 7, 0 to 255 for 0 to 1: 1 - |b - B|, b the value at the chosen point, the highest of all.

    Zero where no point is: in a real image, and, searching by quadrant, in quadrants where B is zero.
    """
    similar = np.zeros_like(boundary)
    for part in _parts(search, boundary.shape[0]):
        if boundary[part].any():
            similar[part] = 255 - (boundary.max() - boundary[part])
    return similar


def radius(height: float, width: float, overlap: float = OVERLAP) -> float:
    """Return how far, in px, the corners of a box may be off for it to overlap with the true one by `overlap` (IoU).

    CornerNet's formula as its code has it, the smallest of its three cases. The code solves a quadratic equation
    wrongly: the true radius is about 3.3 times smaller. "Similar to [23]" means this one.
    """
    total = overlap * (height + width)
    return float(np.sqrt(total**2 + 4 * overlap * (1 - overlap) * height * width)) - total


def _parts(search: Search, side: int) -> list[tuple[slice, slice]]:
    """Return rows and columns of the parts of the image that each have a maximum of their own."""
    if search == "global":
        return [(slice(None), slice(None))]
    halves = slice(0, side // 2), slice(side // 2, side)
    return [(rows, columns) for rows in halves for columns in halves]


def _run_lengths(inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return at each pixel the length of the run of True in its row that it lies in; 0 at False."""
    side = inside.shape[1]
    column = np.arange(side)
    before = np.maximum.accumulate(np.where(inside, -1, column), axis=1)  # the nearest False to the left
    after = np.minimum.accumulate(np.where(inside, side, column)[:, ::-1], axis=1)[:, ::-1]
    return np.where(inside, after - before - 1, 0)
