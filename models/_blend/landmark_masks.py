"""Regions of a face and of its features, drawn from 68 or 81 landmarks.

Sources: the landmark masks of Face X-ray's released code ("LAL", used by SBI), and the local masks of SLADD (Chen et
al., CVPR 2022), which ADFD borrows.

Landmarks are float32 (68 | 81, 2): x, y in pixels, 0 is the centre of the first pixel. 0-16 jaw, 17-26 brows, 27-35
nose, 36-41 and 42-47 eyes (left and right in the image), 48-67 lips, 68-80 forehead, in any order: only their hull is
used. To draw, landmarks are truncated to whole pixels, as everywhere in the field. Regions are uint8 (H, W) of {0, 1}.

They are drawn in 8 bits whatever the type of the mask that is made of them: filling a polygon in float32 gives the same
pixels, with and without anti-aliasing, which OpenCV leaves out on canvases that are not 8 bit.
"""

import math
from typing import Literal, get_args

import cv2
import numpy as np

from models._feed import BadSample
from models._masking import flip_landmarks

# Names for what an array holds; OpenCV's own annotations promise no more than an array.
Image = np.ndarray  # uint8 (H, W, 3) RGB
Landmarks = np.ndarray  # float32 (68 | 81, 2) x, y
Mask = np.ndarray  # float32 (H, W) in [0, 1]
Region = np.ndarray  # uint8 (H, W) in {0, 1}
Shape = tuple[int, ...]  # of the canvas: H, W and whatever follows

LocalShape = Literal["sladd", "hull"]

HULL_KINDS = ("dfl", "components", "extended", "facehull")
FEATURES = ("left_eye", "right_eye", "nose", "mouth")

# Landmarks of the convex hulls whose union is a kind of LAL mask; then of each feature.
_DFL = ((*range(17), *range(48, 68)), (27, 28, 29, 30, 33), (*range(17, 27), 0, 16, 27, 33))
_COMPONENTS = (
    (*range(9), 17),
    (*range(8, 17), 26),
    (17, 18, 19, 8),
    (24, 25, 26, 8),
    (19, 20, 21, 22, 23, 24, 8),
    (*range(17, 22), 27, *range(31, 36), 8),
    (*range(22, 27), 27, *range(31, 36), 8),
    tuple(range(27, 36)),
)
_HULLS = {kind: [np.array(hull) for hull in hulls] for kind, hulls in (("dfl", _DFL), ("components", _COMPONENTS))}
_POINTS = {"left_eye": slice(36, 42), "right_eye": slice(42, 48), "nose": slice(27, 36), "mouth": slice(48, 68)}

_BOTH_EYES = "both_eyes"
SLADD_COMBINATIONS: tuple[tuple[str, ...], ...] = (
    ("left_eye",),
    ("right_eye",),
    (_BOTH_EYES,),
    ("nose",),
    ("mouth",),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
    ("nose", _BOTH_EYES),
    ("nose", "mouth"),
    (_BOTH_EYES, "nose", "mouth"),
)


class EmptyMask(BadSample):
    """A face of which no pixel is left to blend."""


def check_landmarks(landmarks: Landmarks, shape: Shape) -> None:
    """Raise BadSample, saying why, for landmarks that no region of a face can be drawn from.

    These are: not 68 or 81 points; NaN or infinite; all on one line; most of them outside the image, or one
    further outside than the image is long.
    """
    if landmarks.shape not in ((68, 2), (81, 2)):
        raise BadSample(f"landmarks must have shape (68, 2) or (81, 2), got {landmarks.shape}")
    height, width = shape[:2]
    (x0, y0), (x1, y1) = landmarks.min(0).tolist(), landmarks.max(0).tolist()  # NaN and infinity carry through
    if not math.isfinite(x0 + y0 + x1 + y1):
        raise BadSample(f"{int((~np.isfinite(landmarks)).any(1).sum())} landmarks are NaN or infinite")
    if min(x0, y0) < -0.5 or x1 >= width - 0.5 or y1 >= height - 0.5:
        size = np.array([width, height], landmarks.dtype)
        outside = int(((landmarks < -0.5) | (landmarks >= size - 0.5)).any(1).sum())
        far = max(-x0, -y0, x1 - width, y1 - height) > max(height, width)
        if far or 2 * outside > len(landmarks):
            raise BadSample(f"{outside} of {len(landmarks)} landmarks lie outside the {width} x {height} image")
    centred = landmarks - landmarks.mean(0)
    (xx, xy), (_, yy) = (centred.T @ centred).tolist()
    # Smaller eigenvalue of the scatter matrix against the larger one: squared extents of the cloud of points.
    spread, difference = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    if spread - difference < 1e-3 * (spread + difference) or spread < 1.0:
        raise BadSample("landmarks lie on one line or in one point")


def flip(image: Image, landmarks: Landmarks) -> tuple[Image, Landmarks]:
    """Mirror image and landmarks left to right; twice gives back both."""
    return np.ascontiguousarray(image[:, ::-1]), flip_landmarks(landmarks, image.shape[1])


# --- the whole face ------------------------------------------------------------------------------------------------


def landmark_region(landmarks: Landmarks, shape: Shape, kind: str, *, anti_aliased: bool = False) -> Region:
    """Draw one of the four kinds of LAL: a union of convex hulls of landmarks.

    `facehull` is the hull of all points given, so that 81 points cover the forehead too; the others use 68.
    anti_aliased: the 8-bit line type of ADFD Table 3, row 3; has an effect on `facehull` only. Raises ValueError for
    another kind.
    """
    canvas = np.zeros(shape[:2], np.uint8)
    points = landmarks.astype(np.int32)
    if kind == "facehull":
        cv2.fillConvexPoly(canvas, cv2.convexHull(points), (1,), cv2.LINE_AA if anti_aliased else cv2.LINE_8)
        return canvas
    if kind == "extended":
        points = _raise_brows(points)
    elif kind not in _HULLS:
        raise ValueError(f"kind of landmark mask must be one of {HULL_KINDS}, got {kind!r}")
    for hull in _HULLS["components" if kind == "extended" else kind]:
        cv2.fillConvexPoly(canvas, cv2.convexHull(points[hull]), (1,))
    return canvas


def lal_region(landmarks: Landmarks, shape: Shape, rng: np.random.Generator, drop_to_68: float = 0.25) -> Region:
    """Draw a random kind of LAL, each as likely; with probability `drop_to_68` the forehead is left out first."""
    if rng.random() < drop_to_68:
        landmarks = landmarks[:68]
    return landmark_region(landmarks, shape, HULL_KINDS[rng.integers(len(HULL_KINDS))])


def _raise_brows(points: np.ndarray) -> np.ndarray:
    """Move the brows away from the eyes by half their distance; in whole numbers, rounded down."""
    p = points.copy()
    left_middle, right_middle = (p[36] + p[0]) // 2, (p[16] + p[45]) // 2
    left_end, right_end = (p[36] + left_middle) // 2, (p[45] + right_middle) // 2
    p[17:22] += (p[17:22] - np.vstack([left_end, p[36:40]])) // 2
    p[22:27] += (p[22:27] - np.vstack([p[42:46], right_end])) // 2
    return p


# --- single features -----------------------------------------------------------------------------------------------


def feature_region(landmarks: Landmarks, shape: Shape, feature: str, local_shape: LocalShape) -> Region:
    """Draw one facial feature, from the first 68 landmarks.

    local_shape `sladd`: a line through the feature, widened; about 15 % of the face each. `hull`: the hull of its
    landmarks. Raises ValueError for another feature or shape.
    """
    if feature not in FEATURES:
        raise ValueError(f"facial feature must be one of {FEATURES}, got {feature!r}")
    if local_shape == "sladd":
        return _segment(landmarks, shape, feature)
    if local_shape != "hull":
        raise ValueError(f"local_shape must be one of {get_args(LocalShape)}, got {local_shape!r}")
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(landmarks[_POINTS[feature]].astype(np.int32)), (1,))
    return canvas


def _segment(landmarks: Landmarks, shape: Shape, part: str) -> Region:
    """Draw SLADD's region of a part: all pixels within some steps (left, right, up, down) of a line 2 px wide.

    SLADD dilates with a cross, step by step; the threshold of an L1 distance gives the same pixels.
    """
    start, end, reach = _segment_line(landmarks, part)
    height, width = shape[:2]
    # The region lies within x0, y0, x1, y1.
    x0, y0 = (max(int(min(ends)) - reach - 2, 0) for ends in zip(start, end, strict=True))
    x1, y1 = (int(max(ends)) + reach + 3 for ends in zip(start, end, strict=True))
    canvas = np.zeros((height, width), np.uint8)
    window = canvas[y0:y1, x0:x1]
    if not window.size:
        return canvas
    background = np.ones(window.shape, np.uint8)
    cv2.line(background, (start[0] - x0, start[1] - y0), (end[0] - x0, end[1] - y0), (0,), 2)
    if background.all():  # the line itself lies outside the image
        return canvas
    distance = cv2.distanceTransform(background, cv2.DIST_L1, 3)
    window[:] = distance <= reach
    return canvas


def _segment_line(landmarks: Landmarks, part: str) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return the ends of the line through a part and the number of dilations, as SLADD's released code has them."""

    def pixel(point: np.ndarray) -> np.ndarray:
        return point.astype(np.int64)

    left_eye, right_eye = pixel((landmarks[36] + landmarks[39]) / 2), pixel((landmarks[42] + landmarks[45]) / 2)
    if part == _BOTH_EYES:
        start, end = left_eye, right_eye
    elif part == "nose":
        start, end = pixel(landmarks[33]), (left_eye + right_eye) // 2
    else:
        first, last = {"left_eye": (36, 39), "right_eye": (42, 45), "mouth": (48, 54)}[part]
        start, end = pixel(landmarks[first]), pixel(landmarks[last])
    length = end - start if part != "nose" else right_eye - left_eye
    width_px = int(np.hypot(*length))
    reach = {"mouth": width_px // 3, "nose": width_px // 4, _BOTH_EYES: width_px // 4}.get(part, width_px // 4 * 4)
    return (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), reach


def sladd_region(landmarks: Landmarks, shape: Shape, rng: np.random.Generator, jitter_px: float = 10.0) -> Region:
    """Draw one of SLADD's 10 combinations of parts, each as likely, gnawed at by a 5 x 5 warp.

    SLADD's final 5 x 5 blur is left out: the boundary blur of SBI follows. The warp is bilinear between the nodes of
    its grid, where SLADD's is affine in triangles. May be empty: the warp can move a small region off itself.
    """
    parts = SLADD_COMBINATIONS[rng.integers(len(SLADD_COMBINATIONS))]
    region = _segment(landmarks, shape, parts[0])
    for part in parts[1:]:
        region |= _segment(landmarks, shape, part)
    rows, columns = (np.linspace(0, side - 1, 5).astype(int) for side in shape[:2])
    for _ in range(2):  # the second jitter was probably meant for the rows
        columns = columns + rng.normal(0, jitter_px, 5).astype(int)
    moved = rng.normal(0, jitter_px, (5, 5, 2))
    maps = grid_map(np.sort(columns), rows, moved, shape)
    return cv2.remap(region, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(0,)) & region


def grid_map(columns: np.ndarray, rows: np.ndarray, moved: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Return maps for `cv2.remap` of a warp given on a grid: the pixel at a node comes from the node plus `moved`.

    `columns` and `rows` are the positions of the nodes in px, ascending; `moved` (rows, columns, 2) is x, y in px.
    What a node reads is clipped to the image; pixels beyond the outermost nodes read nothing (-1).
    """
    height, width = shape[:2]
    across, down = _node_weights(columns, width), _node_weights(rows, height)
    x = down.T @ np.clip(columns + moved[..., 0], 0, width - 1).astype(np.float32) @ across
    y = down.T @ np.clip(rows[:, None] + moved[..., 1], 0, height - 1).astype(np.float32) @ across
    x[:, : max(0, int(np.ceil(columns[0])))] = -1
    x[:, int(columns[-1]) + 1 :] = -1
    x[: max(0, int(np.ceil(rows[0])))] = -1
    x[int(rows[-1]) + 1 :] = -1
    return x, y


def _node_weights(nodes: np.ndarray, length: int) -> np.ndarray:
    """Return the weight of each node at 0 .. length - 1 in linear interpolation: (nodes, length)."""
    positions = np.arange(length)
    return np.stack([np.interp(positions, nodes, at_node) for at_node in np.eye(len(nodes))]).astype(np.float32)
