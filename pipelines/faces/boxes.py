"""Arithmetic of boxes. A box is float (4,): x0, y0, x1, y1 in source pixels, x1 and y1 exclusive."""

from collections.abc import Sequence

import numpy as np

Crop = tuple[int, int, int, int]  # x0, y0, x1, y1, whole pixels inside the frame


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    shared = shared_area(a, b)
    return shared / (area(a) + area(b) - shared)


def shared_area(a: np.ndarray | Crop, b: np.ndarray | Crop) -> float:
    """Return the area that two boxes have in common, in square pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return float(max(width, 0) * max(height, 0))


def area(box: np.ndarray) -> float:
    """Return the box's area in square pixels."""
    return float((box[2] - box[0]) * (box[3] - box[1]))


def longer_side(box: np.ndarray) -> float:
    """Return the larger of the box's width and height."""
    return float(max(box[2] - box[0], box[3] - box[1]))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance between the centres of two boxes."""
    return float(np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2)


def continues(before: np.ndarray, now: np.ndarray) -> bool:
    """Return whether two boxes can be one face in neighbouring frames.

    Their centres must lie within one side of each other, their sizes differ by less than a factor of 1.7.
    """
    sides = sorted((longer_side(before), longer_side(now)))
    return distance(before, now) < sides[1] and sides[1] < 1.7 * sides[0]


def window(box: np.ndarray, width: float, shape: Sequence[int]) -> Crop:
    """Return the square of this width around the box's centre, cut off at the frame (H, W); never empty."""
    frame_height, frame_width = shape[:2]
    middles = ((box[0] + box[2]) / 2, frame_width), ((box[1] + box[3]) / 2, frame_height)
    x0, y0 = (int(np.clip(middle - width / 2, 0, end - 1)) for middle, end in middles)
    x1, y1 = (int(np.clip(middle + width / 2, 1, end)) for middle, end in middles)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
