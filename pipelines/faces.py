"""Frames -> faces: tracks of boxes, 68 landmarks, square crops. Numpy in, numpy out.

Boxes are float (x0, y0, x1, y1) in source pixels, x1 and y1 exclusive. Detection is the cost of
extraction (0.7 s for dlib's HOG on a 1080p frame with one upsampling, against 4 ms for the same detector
in a window around a known face), so a face is searched over the whole frame once and then followed.

The crop is that of FaceForensics++: a square of `margin` times the longer side of the detector's box,
inside the frame. Differs from it: one constant square for a track, so that the picture does not jitter
(Delocate, implementation notes Sec. 2).
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import cv2
import dlib
import numpy as np

from pipelines.decode import Frame

Crop = tuple[int, int, int, int]  # x0, y0, x1, y1, whole pixels inside the frame

VERSION = 1  # raise when the same video would give other faces

NUM_LANDMARKS = 68
_PREDICTOR = "shape_predictor_68_face_landmarks.dat"
_CNN = "mmod_human_face_detector.dat"

_COARSE_PX = 640  # longer side of the picture in which the whole-frame search begins
_FINEST_PX = 3840  # ... and at most ends: a 1080p frame with one upsampling, a 4K frame as it is
_WINDOW_FACE_PX = 100  # width of a followed face in its search window
_WINDOW_SIDES = 3.0  # side of that window, in sides of the face's box: it may move by one between sampled frames
_SURE = 0.35  # HOG score above which a face is taken without a second sign of it
_LOOK_ROUND = 5  # frames after which the whole frame is looked at for faces that came in
_SAME_FACE = 0.4  # intersection over union of two boxes in one frame that are one face
_SAME_LAYOUT = 0.5  # correlation of two frames' thumbnails, and
_SAME_COLOURS = 0.6  # share of common colours: with less of both there is a cut between them
_MAX_OUTSIDE = 0.1  # share of a face's box that the track's constant crop may miss
_MAX_UNION = 2.0  # a union crop larger than this many median crops would show the face too small


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides what a video's faces look like; two extractions with one recipe are the same rows."""

    num_frames: int = 30  # evenly spaced over the video
    max_faces: int = 1  # faces kept in a frame
    margin: float = 1.3  # side of the crop in longer sides of the face's box
    size_px: int = 224  # side of the stored crop
    constant_box: bool = True  # one crop box for a track; False: each frame its own
    hold_lost: bool = True  # fill a track's gaps with the nearest box, face_score 0
    detector: Literal["dlib", "dlib-cnn"] = "dlib"
    mask_source: Literal["auto", "difference", "dataset", "none"] = "auto"  # auto: difference if it can be had
    mask_threshold: float = 0.1  # |fake - real| in gray levels / 255 that counts as manipulated
    mask_clean_px: int = 5  # kernel of the closing and opening that remove codec specks; 0: none

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not 1 <= self.max_faces <= 127 or self.size_px < 16:
            raise ValueError(
                f"num_frames must be >= 1, max_faces in 1..127, size_px >= 16; got "
                f"{self.num_frames}, {self.max_faces}, {self.size_px}"
            )
        if not self.margin >= 1 or not 0 < self.mask_threshold < 1 or self.mask_clean_px < 0:
            raise ValueError(
                f"margin must be >= 1, mask_threshold in (0, 1), mask_clean_px >= 0; got "
                f"{self.margin}, {self.mask_threshold}, {self.mask_clean_px}"
            )
        for name, allowed in (
            ("detector", tuple(DETECTORS)),
            ("mask_source", ("auto", "difference", "dataset", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Detection:
    box: np.ndarray  # (4,)
    score: float  # the detector's own scale; dlib's HOG: 0 is its threshold, 1 and more a clear face


@dataclass(frozen=True, slots=True)
class Face:
    """One row of FACES. `landmarks` are float32 (68, 2), x, y in crop pixels; `image` is uint8 (S, S, 3) RGB."""

    frame_index: int
    face_index: int
    time_s: float
    box: np.ndarray
    crop: Crop
    landmarks: np.ndarray
    score: float  # logistic of the detector's score, above 0; 0: held from the nearest frame
    image: np.ndarray


class Detector(Protocol):
    """A face detector over whole pictures, RGB uint8 (H, W, 3)."""

    sure: float  # score above which a face needs no confirmation

    def __call__(self, rgb: np.ndarray) -> list[Detection]: ...


class HogDetector:
    """dlib's frontal face detector; finds faces of about 80 pixels and more."""

    sure = _SURE

    def __init__(self) -> None:
        self._detect = dlib.get_frontal_face_detector()

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        boxes, scores, _ = self._detect.run(rgb, 0, 0.0)
        return [Detection(_corners(box), float(score)) for box, score in zip(boxes, scores, strict=True)]


class CnnDetector:
    """dlib's max-margin CNN; slow without a GPU, and better with turned faces."""

    sure = 0.8

    def __init__(self) -> None:
        self._detect = dlib.cnn_face_detection_model_v1(str(_packaged(_CNN)))

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        return [Detection(_corners(found.rect), float(found.confidence)) for found in self._detect(rgb, 0)]


DETECTORS: dict[str, type[HogDetector] | type[CnnDetector]] = {"dlib": HogDetector, "dlib-cnn": CnnDetector}


class Landmarks:
    """dlib's 68-point predictor. Raises ValueError when its file is missing or not a predictor."""

    def __init__(self, path: Path | None = None) -> None:
        path = path or _packaged(_PREDICTOR)
        if not path.is_file():
            raise ValueError(f"landmark predictor {path}: no such file; give the path of {_PREDICTOR}")
        try:
            self._predict = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ValueError(f"landmark predictor {path}: not a dlib shape predictor ({error})") from error

    def __call__(self, rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(68, 2) float32, x, y in pixels of `rgb`."""
        shape = self._predict(rgb, dlib.rectangle(*(int(value) for value in np.round(box - [0, 0, 1, 1]))))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float32)
        if points.shape != (NUM_LANDMARKS, 2):
            raise ValueError(f"the landmark predictor gives {len(points)} points, {NUM_LANDMARKS} are needed")
        return points


@dataclass(slots=True)
class Track:
    """One face through one shot: `found` maps the place of a frame in the sample to its detection."""

    shot: range
    found: dict[int, Detection] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Median area of its boxes times the frames it was seen in."""
        return float(np.median([_area(seen.box) for seen in self.found.values()])) * len(self.found)

    @property
    def score(self) -> float:
        return max(seen.score for seen in self.found.values())


class FaceFinder:
    """Follows the faces of one video after the other; holds the loaded models.

    `predictor` is the path of a 68-point dlib predictor, by default the one in the package
    face_recognition_models.
    """

    def __init__(self, recipe: Recipe, predictor: Path | None = None) -> None:
        self.recipe = recipe
        self.detect: Detector = DETECTORS[recipe.detector]()
        self.landmarks = Landmarks(predictor)

    def __call__(self, frames: Sequence[Frame]) -> Iterator[Face]:
        """The faces of a video's sampled frames, by face_index, then frame."""
        tracks = self.tracks(frames)
        crops = [self._crops(track, frames) for track in tracks]
        for face_index, chain in enumerate(chains(tracks, self.recipe.max_faces)):
            rows = (
                hold(chain, tracks)
                if self.recipe.hold_lost
                else {place: (place, number) for place, number in chain.items()}
            )
            for place in sorted(rows):
                source, number = rows[place]
                seen, crop = tracks[number].found[source], crops[number][source]
                yield self._face(frames[place], frames[source], face_index, seen, crop)

    def tracks(self, frames: Sequence[Frame]) -> list[Track]:
        """Every face that was followed, shot by shot, without those that the detector was never sure of.

        Where it was sure of none, those that it saw twice or more.
        """
        tracks = [track for shot in shots(frames) for track in self._follow(frames, shot)]
        sure = [track for track in tracks if track.score >= self.detect.sure]
        return sure or [track for track in tracks if len(track.found) > 1]

    def _follow(self, frames: Sequence[Frame], shot: range) -> list[Track]:
        tracks: list[Track] = []
        for place in shot:
            rgb = frames[place].rgb
            live = [track for track in tracks if place - 1 in track.found]
            for track in live:
                self._step(track, tracks, place, rgb, track.found[place - 1].box)
            lost = not any(place in track.found for track in tracks) or not all(place in track.found for track in live)
            if lost:
                _assign(self._search_all(rgb, coarse_first=bool(live) or place == shot[0]), place, shot, tracks)
            elif (place - shot[0]) % _LOOK_ROUND == 0:
                _assign(self._look_round(rgb), place, shot, tracks)
        for track in tracks:  # a face may have been there before it was found
            place = min(track.found)
            while place > shot[0] and self._step(
                track, tracks, place - 1, frames[place - 1].rgb, track.found[place].box
            ):
                place -= 1
        return tracks

    def _step(self, track: Track, tracks: list[Track], place: int, rgb: np.ndarray, box: np.ndarray) -> bool:
        """Look for the track's face in the frame at `place`, near `box`; a face has one track only."""
        near = self._search_near(rgb, box)
        taken = [other.found[place].box for other in tracks if place in other.found]
        if near is None or any(_overlap(near.box, other) > _SAME_FACE for other in taken):
            return False
        track.found[place] = near
        return True

    def _search_near(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
        """The face in a window around `box`, scaled so that it is about 100 pixels wide."""
        side = _side(box)
        x0, y0, x1, y1 = _window(box, _WINDOW_SIDES * side, rgb.shape[:2])
        found = self._scaled(rgb[y0:y1, x0:x1], _WINDOW_FACE_PX / side, (x0, y0))
        return max((seen for seen in found if _continues(box, seen.box)), key=lambda seen: seen.score, default=None)

    def _search_all(self, rgb: np.ndarray, coarse_first: bool) -> list[Detection]:
        """Faces in the whole frame, from coarse to fine; last with a border, for pictures cut tight around a face.

        The coarse picture shows the large faces and costs a fraction. Where only the largest face is kept, a
        sure one there ends the search: a finer picture would add smaller faces only.
        """
        scales = _scales(rgb.shape)
        if self.recipe.max_faces > 1 or not coarse_first:
            scales = scales[-1:]
        found: list[Detection] = []
        for scale in scales:
            found = self._scaled(rgb, scale)
            if any(seen.score >= self.detect.sure for seen in found):
                return found
        return found or self._search_padded(rgb)

    def _look_round(self, rgb: np.ndarray) -> list[Detection]:
        """Faces that may have come in: all, or where only the largest is kept, the large ones."""
        return self._scaled(rgb, _scales(rgb.shape)[-1 if self.recipe.max_faces > 1 else 0])

    def _search_padded(self, rgb: np.ndarray) -> list[Detection]:
        border = max(rgb.shape[:2]) // 4
        padded = cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)
        return self._scaled(padded, min(1.0, _COARSE_PX / max(rgb.shape[:2])), (-border, -border))

    def _scaled(self, rgb: np.ndarray, scale: float, corner: tuple[int, int] = (0, 0)) -> list[Detection]:
        """Detections in `rgb` resized by `scale`, whose top left corner lies at `corner` of the frame."""
        size = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
        picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        offset = np.array([*corner, *corner], float)
        return [Detection(seen.box / scale + offset, seen.score) for seen in self.detect(picture)]

    def _crops(self, track: Track, frames: Sequence[Frame]) -> dict[int, Crop]:
        """Place -> crop box, for the places where the track's face was found."""
        boxes = [seen.box for seen in track.found.values()]
        shape = frames[track.shot[0]].rgb.shape
        if self.recipe.constant_box:
            return dict(zip(track.found, constant_crop(boxes, self.recipe.margin, shape), strict=True))
        margin = self.recipe.margin
        return {place: square_crop(seen.box, margin * _side(seen.box), shape) for place, seen in track.found.items()}

    def _face(self, frame: Frame, source: Frame, face_index: int, seen: Detection, crop: Crop) -> Face:
        """The face of `frame`, with box and landmarks as they are in `source`: itself, or the nearest with a face."""
        x0, y0, x1, y1 = _window(seen.box, 2 * _side(seen.box), source.rgb.shape)
        corner = np.array([x0, y0], np.float32)
        points = self.landmarks(np.ascontiguousarray(source.rgb[y0:y1, x0:x1]), seen.box - np.tile(corner, 2)) + corner
        size = self.recipe.size_px
        score = float(1 / (1 + np.exp(-seen.score))) if frame is source else 0.0
        image = cut(frame.rgb, crop, size)
        return Face(
            frame.frame_index, face_index, frame.time_s, seen.box, crop, to_crop(points, crop, size), score, image
        )


def shots(frames: Sequence[Frame]) -> list[range]:
    """Runs of sampled frames with no cut between them.

    A cut changes both what is where (thumbnails no longer correlate) and the colours; something that moves
    before a plain wall changes only the first, a lamp only the second. A change of size is a cut, too.
    """
    starts = [0]
    small = [cv2.resize(frame.rgb, (32, 32), interpolation=cv2.INTER_AREA) for frame in frames]
    for place in range(1, len(frames)):
        before, now = small[place - 1], small[place]
        same_size = frames[place - 1].rgb.shape == frames[place].rgb.shape
        if not same_size or (_correlation(before, now) < _SAME_LAYOUT and _common_colours(before, now) < _SAME_COLOURS):
            starts.append(place)
    return [range(start, stop) for start, stop in pairwise([*starts, len(frames)]) if stop > start]


def chains(tracks: Sequence[Track], max_faces: int) -> list[dict[int, int]]:
    """For each face_index: place -> number of the track that has this index there.

    The heaviest track is face 0. A lighter one takes the lowest index that no track holds in any of its
    frames, so that face 0 goes on after a cut, and two faces seen together never share an index.
    """
    taken: list[dict[int, int]] = [{} for _ in range(max_faces)]
    for number in sorted(range(len(tracks)), key=lambda number: (-tracks[number].weight, min(tracks[number].found))):
        free = next((chain for chain in taken if not chain.keys() & tracks[number].found.keys()), None)
        if free is not None:
            free.update(dict.fromkeys(tracks[number].found, number))
    return [chain for chain in taken if chain]


def hold(chain: Mapping[int, int], tracks: Sequence[Track]) -> dict[int, tuple[int, int]]:
    """Place -> (place whose box it gets, track). In a shot where the face was found in half the frames or
    more, the other frames get the nearest one's (of two, the earlier); elsewhere a lost face has no row.
    """
    rows = {place: (place, number) for place, number in chain.items()}
    for shot in {tracks[number].shot for number in chain.values()}:
        known = sorted(chain.keys() & set(shot))
        if 2 * len(known) >= len(shot):
            for place in set(shot) - chain.keys():
                source = min(known, key=lambda known_place: (abs(known_place - place), known_place))
                rows[place] = (source, chain[source])
    return rows


def constant_crop(boxes: Sequence[np.ndarray], margin: float, shape: Sequence[int]) -> list[Crop]:
    """One crop box for each face box of a track, the same for all unless the face moves too far.

    It is the square around the median box; where that misses more than a tenth of some frame's face, the
    one around the union of all. Where the union would show the face at less than half the size, the square
    keeps the median's side and moves with the face.
    """
    median = np.median(boxes, axis=0)
    union = np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])
    for box in (median, union):
        crop = square_crop(box, margin * _side(box), shape)
        if _side(box) <= _MAX_UNION * _side(median) and all(
            _outside(face, crop, shape) <= _MAX_OUTSIDE for face in boxes
        ):
            return [crop] * len(boxes)
    return [square_crop(face, margin * _side(median), shape) for face in boxes]


def square_crop(box: np.ndarray, side: float, shape: Sequence[int]) -> Crop:
    """The square of about `side` pixels with the box's centre, in whole pixels, moved into the frame (H, W).

    A square larger than the frame's shorter side shrinks to it: no pixel of a crop is made up.
    """
    height, width = shape[:2]
    whole = max(1, min(round(side), height, width))
    x0 = int(np.clip(round((box[0] + box[2] - whole) / 2), 0, width - whole))
    y0 = int(np.clip(round((box[1] + box[3] - whole) / 2), 0, height - whole))
    return x0, y0, x0 + whole, y0 + whole


def cut(picture: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    """The crop of a picture (H, W, ...) at size_px x size_px: area-averaged when it shrinks, cubic when it grows."""
    x0, y0, x1, y1 = crop
    interpolation = cv2.INTER_AREA if x1 - x0 > size_px else cv2.INTER_CUBIC
    return cv2.resize(picture[y0:y1, x0:x1], (size_px, size_px), interpolation=interpolation)


def to_crop(points: np.ndarray, crop: Crop, size_px: int) -> np.ndarray:
    """Points (N, 2) of the frame in pixels of its resized crop; whole numbers are pixel centres in both."""
    scale = size_px / (crop[2] - crop[0])
    return ((points - np.array(crop[:2]) + 0.5) * scale - 0.5).astype(np.float32)


def _assign(found: Iterable[Detection], place: int, shot: range, tracks: list[Track]) -> None:
    """Give each detection that is no track's yet to the track that it continues, or start one."""
    for seen in sorted(found, key=lambda detection: -_area(detection.box)):
        if any(_overlap(seen.box, track.found[place].box) > _SAME_FACE for track in tracks if place in track.found):
            continue
        open_tracks = [track for track in tracks if place not in track.found]
        open_tracks = [track for track in open_tracks if _continues(_last(track).box, seen.box)]
        if not open_tracks:
            open_tracks = [Track(shot)]
            tracks += open_tracks
        min(open_tracks, key=lambda track: _distance(_last(track).box, seen.box) if track.found else 0).found[place] = (
            seen
        )


def _last(track: Track) -> Detection:
    return track.found[max(track.found)]


def _continues(before: np.ndarray, now: np.ndarray) -> bool:
    """Can the two be one face in neighbouring frames: centres within one side, sizes within a factor of 1.7?"""
    sides = sorted((_side(before), _side(now)))
    return _distance(before, now) < sides[1] and sides[1] < 1.7 * sides[0]


def _scales(shape: Sequence[int]) -> list[float]:
    """Scales of the whole-frame search, coarse to fine by factors of two."""
    longer = max(shape[:2])
    scales = [max(1.0, min(2.0, _FINEST_PX / longer)) if longer < _FINEST_PX else _FINEST_PX / longer]
    while longer * scales[-1] >= 2 * _COARSE_PX:
        scales.append(scales[-1] / 2)
    return scales[::-1]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the gray levels of two pictures of one size, -1 to 1; 0 if one of them is flat."""
    gray = np.stack([a.mean(axis=2).ravel(), b.mean(axis=2).ravel()])
    gray -= gray.mean(axis=1, keepdims=True)
    return float(np.prod(gray, axis=0).mean() / max(np.prod(gray.std(axis=1)), 1e-6))


def _common_colours(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that the colour histograms (8 x 8 x 8) of two pictures of one size have in common."""
    counts = [cv2.calcHist([picture], [0, 1, 2], None, [8] * 3, [0, 256] * 3) for picture in (a, b)]
    return float(np.minimum(*counts).sum() / counts[0].sum())


def _window(box: np.ndarray, side: float, shape: Sequence[int]) -> Crop:
    """The square around the box's centre, cut off at the frame (H, W); never empty."""
    height, width = shape[:2]
    middle_x, middle_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x0, y0 = (int(np.clip(middle - side / 2, 0, end - 1)) for middle, end in ((middle_x, width), (middle_y, height)))
    x1, y1 = (int(np.clip(middle + side / 2, 1, end)) for middle, end in ((middle_x, width), (middle_y, height)))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _outside(face: np.ndarray, crop: Crop, shape: Sequence[int]) -> float:
    """Share of the face's box, as far as it lies in the frame, that the crop misses."""
    frame = (0, 0, shape[1], shape[0])
    return 1 - _common(face, crop) / max(_common(face, frame), 1e-9)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    common = _common(a, b)
    return common / (_area(a) + _area(b) - common)


def _common(a: np.ndarray | Crop, b: np.ndarray | Crop) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return float(max(width, 0) * max(height, 0))


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _side(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1]))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2)


def _corners(box: dlib.rectangle) -> np.ndarray:
    return np.array([box.left(), box.top(), box.right() + 1, box.bottom() + 1], float)


def _packaged(name: str) -> Path:
    """A model file of face_recognition_models, which is not imported: it needs the removed pkg_resources."""
    spec = importlib.util.find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ValueError(f"{name}: package face_recognition_models is not installed; install it or give a path")
    return Path(folders[0]) / "models" / name
