"""Which patches LRE hides: mostly those of the key region around the facial features (Wu, Leng, Yu, Sec. III-B-1).

Landmarks are float32 (68, 2), x and y in pixels, 0 the centre of the first pixel; "left" is left in the image.
"""

import numpy as np
from numpy.typing import NDArray

from models._masking import Landmarks

# Each corner of the region is the landmark of its group that is nearest to that corner (x, y) of the image.
CORNERS = {
    "left brow": (range(17, 22), (0, 0)),
    "right brow": (range(22, 27), (1, 0)),
    "left jaw": (range(9), (0, 1)),
    "right jaw": (range(8, 17), (1, 1)),
}
USUAL_REGION = (3 / 14, 3 / 14, 11 / 14, 12 / 14)  # x0, y0, x1, y1 in sides of the image, where landmarks say nothing


def corner_points(landmarks: Landmarks, size_px: int) -> dict[str, int]:
    """Return the indices of P1 to P4, the landmarks at the corners of the key region, by name of their group."""
    return {
        name: min(group, key=lambda i: float(np.hypot(*(landmarks[i] - np.multiply(corner, size_px - 1)))))
        for name, (group, corner) in CORNERS.items()
    }


def key_patches(landmarks: Landmarks, grid: int, patch_px: int, margin_px: float = 0.0) -> NDArray[np.bool_]:
    """Return T (grid, grid): the patches that the rectangle around P1 to P4 covers, also those it covers in part.

    The rectangle is `margin_px` wider on each side. Where the landmarks are no use (NaN, or the rectangle lies outside
    the image) it is `USUAL_REGION`.
    """
    size_px = grid * patch_px
    x0, y0, x1, y1 = (edge * size_px for edge in USUAL_REGION)
    if np.isfinite(landmarks[:27]).all():
        edges = landmarks[list(corner_points(landmarks, size_px).values())] + 0.5  # pixel centres -> edges
        low, high = edges.min(0) - margin_px, edges.max(0) + margin_px
        if (high > 0).all() and (low < size_px).all():
            (x0, y0), (x1, y1) = low, high
    first = np.clip(np.floor(np.array([x0, y0]) / patch_px).astype(int), 0, grid - 1)
    # The far edges are exclusive: a patch that begins where the rectangle ends has nothing of it.
    stop = np.clip(np.ceil(np.array([x1, y1]) / patch_px).astype(int), first + 1, grid)
    cells = np.zeros((grid, grid), bool)
    cells[first[1] : stop[1], first[0] : stop[0]] = True
    return cells


def num_hidden_of(ratio: float, num_patches: int) -> int:
    """Return how many patches of an image are hidden: `ratio` of all, rounded half up."""
    return int(ratio * num_patches + 0.5)


def num_hidden(ratio: float, key_fraction: float, num_key: int, num_patches: int) -> tuple[int, int]:
    """Return how many patches are hidden within T and outside."""
    num_all = num_hidden_of(ratio, num_patches)
    within = min(int(key_fraction * num_key + 0.5), num_all)
    within = max(within, num_all - (num_patches - num_key))  # the rest must find room outside
    return within, num_all - within


def draw_mask(
    cells: NDArray[np.bool_], ratio: float, key_fraction: float | None, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a mask (N,), True for the `num_hidden_of` hidden patches. cells: T.

    key_fraction: the share of T that is hidden; None: no patch is special, as in MAE.
    """
    is_key = cells.ravel()
    mask = np.zeros(is_key.size, bool)
    if key_fraction is None:
        mask[rng.permutation(is_key.size)[: int(ratio * is_key.size + 0.5)]] = True
        return mask
    within, outside = num_hidden(ratio, key_fraction, int(is_key.sum()), is_key.size)
    mask[rng.permutation(np.flatnonzero(is_key))[:within]] = True
    mask[rng.permutation(np.flatnonzero(~is_key))[:outside]] = True
    return mask
