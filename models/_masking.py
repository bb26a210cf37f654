"""Which patches to hide, from 68 face landmarks. numpy only.

Landmarks are float32 (..., 68, 2): x, y of the 68 points of dlib's predictor, counted from 0, in
pixels, where 0 is the centre of the first pixel. "Left" is left in the image.

The part masks are those of Delocate (Hu et al., IJCAI 2024), Sec. 3.1 and 4.4. The paper names the seven
FACS units (eyebrows, lower eyelid, nose root, cheeks, mouth corner, side of the chin, chin) and the
three parts; the boxes themselves are ours, in units of the distance between the eyes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Landmarks = NDArray[np.float32]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1

PARTS = ("eyes", "cheek_nose", "lips")


def _mirror_order() -> NDArray[np.int64]:
    """Return (68,): the point that lies where point i was once the image is flipped."""
    order = np.arange(68)
    order[:17] = 16 - order[:17]  # jaw
    order[17:27] = 43 - order[17:27]  # brows
    pairs = (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)
    mouth = (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)
    for left, right in pairs + mouth:
        order[left], order[right] = right, left
    return order


MIRROR = _mirror_order()
_MIRROR_81 = np.concatenate([MIRROR, np.arange(80, 67, -1)])


def flip_landmarks(landmarks: Landmarks, width_px: int) -> Landmarks:
    """Return the landmarks of the horizontally flipped image; shape (..., 68 or 81, 2) in and out.

    Of 81 points the last 13 are the forehead. They are turned round as if they ran from left to right; nothing depends
    on their order, as only their hull is used. Raises ValueError for any other number of points.
    """
    if landmarks.shape[-2] not in (68, 81):
        raise ValueError(f"landmarks must be 68 or 81 points, got shape {landmarks.shape}")
    flipped = landmarks[..., MIRROR if landmarks.shape[-2] == 68 else _MIRROR_81, :].copy()
    flipped[..., 0] = width_px - 1 - flipped[..., 0]
    return flipped


def roi_boxes(landmarks: Landmarks, part: str) -> list[Box]:
    """Return the regions of interest of one facial part, for landmarks (68, 2). Raises ValueError for another part."""
    x, y = landmarks[:, 0], landmarks[:, 1]
    d = eye_distance(landmarks)
    left_lid, right_lid = max(y[40], y[41]) + 0.20 * d, max(y[46], y[47]) + 0.20 * d
    if part == "eyes":
        brows = [
            (x[i].min() - 0.05 * d, y[i].min() - 0.15 * d, x[i].max() + 0.05 * d, y[i].max() + 0.10 * d)
            for i in (slice(17, 22), slice(22, 27))
        ]
        return [
            *brows,
            (x[36] - 0.05 * d, (y[36] + y[39]) / 2, x[39] + 0.05 * d, left_lid),
            (x[42] - 0.05 * d, (y[42] + y[45]) / 2, x[45] + 0.05 * d, right_lid),
        ]
    if part == "cheek_nose":
        return [
            (x[39], max(y[21], y[22]), x[42], y[28]),  # nose root
            (x[36] - 0.05 * d, left_lid, x[31], y[48] - 0.10 * d),
            (x[35], right_lid, x[45] + 0.05 * d, y[54] - 0.10 * d),
        ]
    if part == "lips":
        corners = [(x[i] - 0.25 * d, y[i] - 0.20 * d, x[i] + 0.25 * d, y[i] + 0.20 * d) for i in (48, 54)]
        return [
            *corners,
            (x[5], y[48] + 0.20 * d, x[58], y[6]),  # sides of the chin
            (x[56], y[54] + 0.20 * d, x[11], y[10]),
            (x[58], y[57], x[56], y[8]),  # chin
        ]
    raise ValueError(f"facial part must be one of {PARTS}, got {part!r}")


def band_box(landmarks: Landmarks, part: str) -> Box:
    """Return one facial part as a horizontal band between the edges of the jaw: Table 6, "w/o ROIs"."""
    x, y = landmarks[:, 0], landmarks[:, 1]
    d = eye_distance(landmarks)
    below_eyes = y[[40, 41, 46, 47]].max() + 0.20 * d
    above_lips = (y[33] + y[51]) / 2
    bands = {
        "eyes": (y[17:27].min() - 0.15 * d, below_eyes),
        "cheek_nose": (below_eyes, above_lips),
        "lips": (above_lips, y[8]),
    }
    if part not in bands:
        raise ValueError(f"facial part must be one of {PARTS}, got {part!r}")
    top, bottom = bands[part]
    return x[:17].min(), top, x[:17].max(), bottom


def eye_distance(landmarks: Landmarks) -> float:
    """Return the distance between the centres of the eyes, in px."""
    return float(np.linalg.norm(landmarks[42:48].mean(0) - landmarks[36:42].mean(0)))


def cells_in_boxes(boxes: Sequence[Box], grid: int, patch_px: int) -> NDArray[np.bool_]:
    """Return the patches (grid, grid) whose centre lies in a box, after clipping to the image.

    A box that holds no centre takes the patch in which its own centre lies, so that no region is lost.
    """
    size_px = grid * patch_px
    centre = np.arange(grid) * patch_px + (patch_px - 1) / 2
    cells = np.zeros((grid, grid), bool)
    for box in boxes:
        x0, y0, x1, y1 = np.clip(box, 0, size_px - 1)
        inside = ((y0 <= centre) & (centre <= y1))[:, None] & ((x0 <= centre) & (centre <= x1))[None, :]
        if not inside.any():
            inside[int((y0 + y1 + 1) / 2 // patch_px), int((x0 + x1 + 1) / 2 // patch_px)] = True
        cells |= inside
    return cells


def part_cells(landmarks: Landmarks, part: str, grid: int, patch_px: int, *, use_rois: bool) -> NDArray[np.bool_]:
    """Return the patches (grid, grid) of a facial part, either of its regions of interest or of its whole band."""
    boxes = roi_boxes(landmarks, part) if use_rois else [band_box(landmarks, part)]
    return cells_in_boxes(boxes, grid, patch_px)


def num_masked(ratio: float, num_cells: int) -> int:
    """Return how many of `num_cells` patches to hide: rounded half up, at least one."""
    return max(1, int(ratio * num_cells + 0.5))


def draw_cells(cells: NDArray[np.bool_], ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw `num_masked` of the True entries of `cells`; True where drawn, in the shape of `cells`."""
    chosen = rng.choice(np.flatnonzero(cells), num_masked(ratio, int(cells.sum())), replace=False)
    mask = np.zeros(cells.size, bool)
    mask[chosen] = True
    return mask.reshape(cells.shape)
