"""Upright faces, cut from larger crops: turned until the eyes are level, without a pixel that was not filmed."""

import cv2
import numpy as np
from numpy.typing import NDArray

Landmarks = NDArray[np.float32]


def eye_angle(landmarks: Landmarks) -> float:
    """Return the slope of the line through the eyes in radians, from landmarks (68, 2).

    Positive where the eye on the right of the picture is the lower one; 0 where the landmarks do not say.
    """
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    dx, dy = right - left
    known = np.isfinite([dx, dy]).all() and np.hypot(dx, dy) >= 1
    return float(np.arctan2(dy, dx)) if known else 0.0


def upright_face(
    image: NDArray[np.uint8],
    landmarks: Landmarks,
    box: NDArray[np.float32],
    margin: float,
    size_px: int,
    *,
    align: bool,
) -> tuple[NDArray[np.uint8], Landmarks]:
    """Return the face (size_px, size_px, 3) and its landmarks: a square of `margin` boxes around the detector's box.

    With `align` the square is turned so that the eyes are level. Every pixel comes from `image` (H, H, 3): where a
    turned square would reach beyond it (a face at the edge of the frame, or a small crop), the square is moved, and if
    need be made smaller. Raises ValueError for an image or a box of another form.
    """
    box = np.asarray(box, np.float64)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image must be uint8 of shape (H, H, 3), got {image.dtype} {image.shape}")
    if box.shape != (4,) or not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box must be x0 < x1, y0 < y1 in pixels, got {box.tolist()}")
    angle = eye_angle(landmarks) if align else 0.0
    size = image.shape[0]
    reach = (abs(np.cos(angle)) + abs(np.sin(angle))) / 2  # of a turned square of side 1, from its centre
    side = min(margin * max(box[2] - box[0], box[3] - box[1]), size / (2 * reach))
    centre = np.clip((box[:2] + box[2:]) / 2, side * reach, size - side * reach) - 0.5  # edges -> pixel centres
    turn = cv2.getRotationMatrix2D((centre[0], centre[1]), np.degrees(angle), size_px / side)
    matrix = np.column_stack([turn[:, :2], turn[:, 2] + (size_px - 1) / 2 - centre])
    # Cubic, because linear interpolation would take more of the high frequencies. At the outermost pixel it reads
    # beyond the image: there the border is repeated.
    face = cv2.warpAffine(
        image, matrix, (size_px, size_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.uint8, copy=False)
    return face, (landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
