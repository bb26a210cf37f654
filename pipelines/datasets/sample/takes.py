"""Takes of the sample corpus: a person who moves before a background, as arrays.

Every frame is one thin-plate warp of the person's canvas. For units see `drawing`.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipelines.datasets.sample.drawing import Image, Plane, Points, warp
from pipelines.datasets.sample.people import AROUND_HEAD, BROWS, EYES_AT, FACE_PX, STILL, Person

FPS = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the takes of one dataset have in common."""

    size: tuple[int, int]  # width, height in px, even
    face_px: tuple[float, float]  # width of the jaw, range over takes
    gain: tuple[float, float]  # exposure, range over takes
    noise: tuple[float, float]  # standard deviation of the sensor noise in grey levels, range over takes
    cast: float  # largest deviation of a colour channel's gain from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One video: who, before what, how lit, and what the head does in each of its T frames."""

    person: Person
    background: Image  # (H, W, 3)
    light: Plane  # (H, W, 3) gain
    noise: Plane  # (H, W, 3) grey levels, shifted anew in each frame
    shifts: np.ndarray  # (T, 2)
    place: Points  # (T, 3): scale of the canvas, and where its eyes lie in the frame
    turn: Points  # (T, 3): yaw, pitch, roll in radians
    expression: Points  # (T, 4): mouth open, smile, blink, brows up; 0 = as in the portrait, 1 = fully


def make_take(person: Person, look: Look, num_frames: int, rng: np.random.Generator, at: float = 0.5) -> Take:
    """Make a take of a person as the dataset of this look would film it; `at`: the head, in shares of the width."""
    width, height = look.size
    scale = rng.uniform(*look.face_px) / FACE_PX
    seconds = np.arange(num_frames) / FPS

    def sway(size: float) -> np.ndarray:
        speed, start = rng.uniform(0.5, 1.4), rng.uniform(0, 2 * np.pi)
        return rng.uniform(0.4, 1) * size * np.sin(2 * np.pi * speed * seconds + start)

    eyes = np.array([at * width, 0.49 * height]) + rng.uniform(-0.03, 0.03, 2) * width
    eyes[1] = max(eyes[1], height - 172 * scale)  # the canvas ends 180 px below the eyes
    place = np.c_[scale * (1 + sway(0.02)), eyes[0] + sway(7), eyes[1] + sway(4)]
    turn = np.c_[rng.uniform(-0.1, 0.1) + sway(0.16), sway(0.07), rng.uniform(-0.04, 0.04) + sway(0.05)]
    talk = np.clip(0.5 + sway(0.35) + 0.35 * np.sin(2 * np.pi * rng.uniform(2, 3.5) * seconds), 0, 1)
    blink = np.exp(-(((seconds - rng.uniform(-0.2, 1.2)) / 0.07) ** 2))
    expression = np.c_[
        rng.uniform(0.3, 1) * talk, rng.uniform(-0.6, 0.8) + sway(0.2), blink, rng.uniform(-0.3, 0.5) + sway(0.3)
    ]
    return Take(
        person=person,
        background=_background(look.size, rng),
        light=_light(look, rng),
        noise=_grain(look, rng),
        shifts=rng.integers(0, (height, width), (num_frames, 2)),
        place=place,
        turn=turn,
        expression=expression,
    )


def placed_beside(other: Take, take: Take) -> Take:
    """Put `other`'s person into the scene of `take`: same background, light and camera."""
    return replace(other, background=take.background, light=take.light, noise=take.noise, shifts=take.shifts)


def film(take: Take, behind: Take | None = None) -> Image:
    """Return the frames of a take, (T, H, W, 3), with a second person in its scene where there is one."""
    frames = np.empty((len(take.place), *take.background.shape), np.uint8)
    for t in range(len(frames)):
        clean = take.background if behind is None else _before(take.background, behind, t)
        clean = _before(clean, take, t)
        frames[t] = np.clip(clean * take.light + grain_at(take, t) + 0.5, 0, 255)
    return frames


def _before(scene: np.ndarray, take: Take, t: int) -> Plane:
    """Paint the person of `take` in frame `t` in front of a scene."""
    person = take.person
    layers = np.dstack([person.image, (255 * person.alpha).astype(np.uint8)])
    points = canvas_points(person.landmarks), frame_points(take, t, person.landmarks, take.expression[t])
    layer = warp(layers, *points, scene.shape[1::-1]).astype(np.float32)
    darken_mouth(layer, points[1])
    return scene + layer[..., 3:] / 255 * (layer[..., :3] - scene)


def grain_at(take: Take, t: int) -> Plane:
    """Return the sensor's noise of frame `t`, (H, W, 3), in grey levels."""
    return np.roll(take.noise, tuple(take.shifts[t]), (0, 1))


def canvas_points(landmarks: Points) -> Points:
    """Return all points of the canvas that a warp holds: the landmarks, those around the head, those that stay."""
    return np.r_[landmarks, AROUND_HEAD, STILL]


def frame_points(take: Take, t: int, landmarks: Points, expression: np.ndarray) -> Points:
    """Return where the points of the canvas lie in frame `t`, for a face of this shape with this expression."""
    scale, x, y = take.place[t]
    moving = np.r_[_express(landmarks, expression), AROUND_HEAD] - EYES_AT
    depth = np.r_[_depth(landmarks), np.zeros(len(AROUND_HEAD))]
    yaw, pitch, roll = take.turn[t]
    across = moving[:, 0] * np.cos(yaw) + depth * np.sin(yaw)
    along = moving[:, 1] * np.cos(pitch) + depth * np.sin(pitch)
    rotated = np.c_[across * np.cos(roll) - along * np.sin(roll), across * np.sin(roll) + along * np.cos(roll)]
    drift = 0.4 * (take.place[t, 1:] - take.place[:, 1:].mean(0))  # shoulders follow the head, less
    still = (STILL - EYES_AT) * take.place[:, 0].mean() + take.place[:, 1:].mean(0) + drift
    return np.r_[rotated * scale + [x, y], still]


def _depth(landmarks: Points) -> np.ndarray:
    """Return how far each landmark is before the plane of the ears, in canvas px, roughly: an ellipsoid with a nose."""
    out = (landmarks - landmarks[29]) / [0.62 * FACE_PX, 0.95 * FACE_PX]
    depth = 0.38 * FACE_PX * np.sqrt(np.clip(1 - (out**2).sum(1), 0, 1))
    depth[28:36] += [4, 9, 14, 5, 8, 10, 8, 5]
    return depth


def _express(landmarks: Points, expression: np.ndarray) -> Points:
    """Move the landmarks of a face to an expression (see `Take.expression`)."""
    mouth_open, smile, blink, brows_up = expression
    points = landmarks.copy()
    lower = np.r_[55:60, 65:68]
    points[lower, 1] += 5 * mouth_open
    points[[48, 54, 60, 64], 1] += 1.5 * mouth_open
    points[4:13, 1] += 4 * mouth_open * np.array([0.3, 0.6, 0.85, 1, 1, 1, 0.85, 0.6, 0.3])
    points[[48, 60], :] += [-2 * smile, -2 * smile]
    points[[54, 64], :] += [2 * smile, -2 * smile]
    for upper, under in (([37, 38], [41, 40]), ([43, 44], [47, 46])):
        points[upper] += 0.85 * blink * (points[under] - points[upper])
    points[BROWS, 1] -= 3 * brows_up
    return points


def darken_mouth(layer: Plane, points: Points) -> None:
    """Darken the gap between the inner lips; the further they are apart, the darker."""
    gap = points[60:68]
    opening = np.linalg.norm(gap[6] - gap[2]) / np.linalg.norm(gap[4] - gap[0])
    (left, top), (right, bottom) = np.maximum(gap.min(0) - 5, 0).astype(int), gap.max(0).astype(int) + 6
    part = layer[top:bottom, left:right, :3]
    inside = np.zeros(part.shape[:2], np.float32)
    shade = float(np.clip(2.5 * (opening - 0.12), 0, 0.7))
    cv2.fillPoly(inside, [np.round(gap - [left, top]).astype(np.int32)], shade)
    part += cv2.GaussianBlur(inside, (0, 0), 1.2)[..., None] * (np.array([45, 24, 24], np.float32) - part)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image:
    """Make a wall with soft shades and, mostly, some out-of-focus upright and level edges."""
    width, height = size
    blotches = rng.normal(0, 1, (4, 5, 1)) + rng.normal(0, 0.3, (4, 5, 3))
    shades = cv2.resize(blotches.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    wall = rng.uniform(40, 215) + rng.uniform(-20, 20, 3) + shades * rng.uniform(4, 14)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 10, width // 2), rng.integers(height // 10, height)
        wall[y : y + h, x : x + w] += rng.uniform(-45, 45) + rng.uniform(-15, 15, 3)
    return np.clip(cv2.GaussianBlur(wall.astype(np.float32), (0, 0), rng.uniform(1, 5)), 0, 255).astype(np.uint8)


def _light(look: Look, rng: np.random.Generator) -> Plane:
    width, height = look.size
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    field = rng.uniform(*look.gain) * (1 + fall * (x * np.cos(angle) + y * np.sin(angle)))
    return (field[..., None] * (1 + rng.uniform(-look.cast, look.cast, 3))).astype(np.float32)


def _grain(look: Look, rng: np.random.Generator) -> Plane:
    width, height = look.size
    white = rng.normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 0.6)  # demosaicing correlates neighbours
    return smooth / smooth.std() * rng.uniform(*look.noise)
