"""The geometry of LAA-Net's face crops: alignment, cuts, and the augmentation that images and maps share.

Source: Nguyen et al., "LAA-Net", CVPR 2024, Sec. 4.1, and its released code for what the paper leaves open.

Arrays are uint8, (H, W, 3) images or (H, W) maps, and never changed in place. All sampling is bilinear.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from models._blend import Image, Landmarks

Pixels = np.ndarray  # uint8 (H, W, 3) or (H, W)
Step = Callable[[Pixels], Pixels]

TRIES = 10  # rectangles drawn before none is erased


def align(image: Image, landmarks: Landmarks) -> tuple[Image, Landmarks]:
    """Turn a face about the image's centre until the inner corners of the eyes are level; black where nothing was."""
    height, width = image.shape[:2]
    dx, dy = (landmarks[42] - landmarks[39]).tolist()
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), math.degrees(math.atan2(dy, dx)), 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR)
    return turned, (landmarks @ turn[:, :2].T + turn[:, 2]).astype(np.float32)


def cut_border(array: Pixels, border_px: int) -> Pixels:
    """Cut `border_px` off each of the four sides."""
    height, width = array.shape[:2]
    return array[border_px : height - border_px, border_px : width - border_px]


def fit_square(array: Pixels, side_px: int) -> Pixels:
    """Scale to what fits into a square of `side_px`, in its middle, black around it; never stretched."""
    height, width = array.shape[:2]
    scale = side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = cv2.resize(array, size, interpolation=cv2.INTER_LINEAR)
    left, top = (side_px - size[0]) // 2, (side_px - size[1]) // 2
    square = np.zeros((side_px, side_px, *array.shape[2:]), np.uint8)
    square[top : top + size[1], left : left + size[0]] = fitted
    return square


def geometric(arrays: Sequence[Pixels], rng: np.random.Generator, canvas_px: int, *, keep_size: bool) -> list[Pixels]:
    """Augment arrays of one size, all by the same steps with the same parameters.

    With probability 0.5 they are mirrored; with probability 0.5 cropped, scaled, or a rectangle is erased, each as
    likely. canvas_px: side of the square on which the rectangle is drawn; what of it lies outside is lost.

    keep_size: what was cropped or scaled is put in the upper left corner of the size that the arrays had, black to the
    right of and below it, so that a crop shifts a face and a scale is a zoom. Otherwise the size may change.
    """
    height, width = arrays[0].shape[:2]
    if rng.random() < 0.5:
        arrays = [np.ascontiguousarray(array[:, ::-1]) for array in arrays]
    if rng.random() < 0.5:
        draw = (_draw_crop, _draw_scale, _draw_erasing)[rng.integers(3)]
        step = draw(rng, height, width, canvas_px)
        arrays = [step(array) for array in arrays]
        if keep_size:
            arrays = [_at_upper_left(array, height, width) for array in arrays]
    return list(arrays)


def _at_upper_left(array: Pixels, height: int, width: int) -> Pixels:
    """Return what of the array lies on a black canvas of that size when their upper left corners meet."""
    canvas = np.zeros((height, width, *array.shape[2:]), np.uint8)
    array = array[:height, :width]
    canvas[: array.shape[0], : array.shape[1]] = array
    return canvas


def _draw_crop(rng: np.random.Generator, height: int, width: int, canvas_px: int) -> Step:
    """Draw a crop: each side on its own shorter by 0 to 14 %, anywhere."""
    kept_height, kept_width = (max(1, int(side * (1 - rng.integers(15) / 100))) for side in (height, width))
    top, left = int(rng.integers(height - kept_height + 1)), int(rng.integers(width - kept_width + 1))
    return lambda array: array[top : top + kept_height, left : left + kept_width]


def _draw_scale(rng: np.random.Generator, height: int, width: int, canvas_px: int) -> Step:
    """Draw a scale of 0.85 to 1.15. Maps are scaled to the nearest pixel, so that they keep their values."""
    factor = rng.uniform(0.85, 1.15)
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return lambda array: cv2.resize(
        array, size, interpolation=cv2.INTER_LINEAR if array.ndim == 3 else cv2.INTER_NEAREST
    )


def _draw_erasing(rng: np.random.Generator, height: int, width: int, canvas_px: int) -> Step:
    """Draw a black rectangle of 2 to 33 % of the canvas, anywhere on it, its sides related as 0.3 to 3.33."""
    for _ in range(TRIES):
        area = rng.uniform(0.02, 1 / 3) * canvas_px**2
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < canvas_px and columns < canvas_px:
            break
    else:
        return lambda array: array
    top, left = int(rng.integers(canvas_px - rows + 1)), int(rng.integers(canvas_px - columns + 1))

    def erase(array: Pixels) -> Pixels:
        array = array.copy()
        array[top : top + rows, left : left + columns] = 0
        return array

    return erase
