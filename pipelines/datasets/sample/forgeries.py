"""Forgeries of the sample corpus, as arrays: a face that is rendered into the frames of a take.

Outside its mask nothing is changed. For units see `drawing`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.datasets.sample.drawing import (
    Image,
    Mask,
    Points,
    feather,
    fill_hull,
    match_colour,
    to_lab,
    to_rgb,
    warp,
)
from pipelines.datasets.sample.people import FACE_PX
from pipelines.datasets.sample.takes import Take, canvas_points, darken_mouth, frame_points, grain_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgery:
    """How a manipulation makes its faces."""

    swaps: bool  # the donor's face on the target's head; else the target's own face with the donor's expression
    keeps_shape: bool = True  # a swapped face takes the target's landmarks; else it brings its own inner features
    lower_face: bool = False  # only mouth and chin are changed
    face_px: tuple[float, float]  # width at which the face is generated, range over videos
    feather_px: tuple[float, float]  # width of the blended border, range over videos
    match: tuple[float, float]  # share of the colour difference to the target that is removed, range over videos
    match_spread: bool = False  # also match the contrast
    sharpen: float = 0.0  # amount of unsharp masking
    grain: float = 0.0  # share of the camera's noise that is put back


def forge(frames: Image, take: Take, donor: Take, forgery: Forgery, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Return the frames of a take with its face forged, and the mask of changed pixels, (T, H, W).

    `frames` is `film(take)`. `donor` gives the face, or the expression. Outside the mask nothing is changed.
    """
    face_px, feather_px, match = (
        rng.uniform(*limits) for limits in (forgery.face_px, forgery.feather_px, forgery.match)
    )
    fakes, masks = frames.copy(), np.zeros(frames.shape[:3], bool)
    for t in range(len(frames)):
        masks[t] = _region(take, donor, forgery, t)
        x, y, width, height = cv2.boundingRect(masks[t].astype(np.uint8))
        window = slice(y, y + height), slice(x, x + width)
        region, target = masks[t][window], frames[t][window]
        face = _render(take, donor, forgery, t, window)
        face = _at_width(face, face_px / (FACE_PX * take.place[t, 0]), forgery.sharpen)
        lab = to_lab(face)
        lab += match * (match_colour(lab, to_lab(target), region, forgery.match_spread) - lab)
        face = to_rgb(lab) + forgery.grain * grain_at(take, t)[window]
        weight = feather(region, feather_px)[..., None]
        fakes[t][window] = np.clip(target + weight * (face - target) + 0.5, 0, 255)
    return fakes, masks


def _forged_points(take: Take, donor: Take, forgery: Forgery, t: int) -> Points:
    """Return where the points of the forged face lie in frame `t`."""
    if not forgery.swaps:
        return frame_points(take, t, take.person.landmarks, np.r_[donor.expression[t, :2], take.expression[t, 2:]])
    points = frame_points(take, t, take.person.landmarks, take.expression[t])
    if not forgery.keeps_shape:
        points[17:68] = frame_points(take, t, donor.person.landmarks, take.expression[t])[17:68]
    return points


def _region(take: Take, donor: Take, forgery: Forgery, t: int) -> Mask:
    """Return the pixels to change, (H, W): the hull of the face, or of its part below the nose, before and after."""
    before = frame_points(take, t, take.person.landmarks, take.expression[t])
    after = _forged_points(take, donor, forgery, t)
    part = np.r_[4:13, 31, 35, 48, 54] if forgery.lower_face else np.r_[1:16, 17:27]
    inward = before[30] + 0.97 * (np.r_[before[part], after[part]] - before[30])
    plane = np.zeros(take.light.shape[:2], np.float32)
    fill_hull(plane, inward, 1.0)
    return plane > 0


def _render(take: Take, donor: Take, forgery: Forgery, t: int, window: tuple[slice, slice]) -> Image:
    """Return the forged face in frame `t` under the take's light, without noise."""
    rows, columns = window
    person = donor.person if forgery.swaps else take.person
    points = _forged_points(take, donor, forgery, t) - [columns.start, rows.start]
    size = columns.stop - columns.start, rows.stop - rows.start
    face = warp(person.image, canvas_points(person.landmarks), points, size).astype(np.float32)
    darken_mouth(face, points)
    return np.clip(face * take.light[window], 0, 255).astype(np.uint8)


def _at_width(face: Image, scale: float, sharpen: float) -> Image:
    """Return a face as if it had been generated `scale` times as large, and sharpened."""
    height, width = face.shape[:2]
    if scale < 1:
        small = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        face = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if sharpen:
        face = cv2.addWeighted(face, 1 + sharpen, cv2.GaussianBlur(face, (0, 0), 1.5), -sharpen, 0)
    return face
