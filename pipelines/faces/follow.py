"""Sampled frames to tracks: which faces there are, and where each is in which frame.

Detection is the cost of extraction (0.7 s for dlib's HOG on a 1080p frame with one upsampling, against 4 ms for
the same detector in a window around a known face), so a face is searched over the whole frame once, and then
followed: the next frame's window is where it was, and the detector confirms it.

A frame's `place` is its number in the sample, from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from pipelines.faces.boxes import area, continues, distance, longer_side, overlap, window
from pipelines.faces.detect import Detection, Detector, Search
from pipelines.media.frames import Frame

# Side of a followed face's window, in sides of its box: as a rule it has hardly moved since the frame before, and the
# cost goes by the area; but it may move by one side.
_NARROW_SIDES, _WIDE_SIDES = 2.0, 3.0
_FILLED = 1.5  # longer side of a picture that a face fills, in sides of the face as the detector sees it well
_LOOK_ROUND = 5  # frames, and
_LOOK_ROUND_S = 2.0  # seconds after which the whole frame is looked at for faces that came in; also before a cut
_SAME_FACE = 0.4  # intersection over union of two boxes in one frame that are one face
_SAME_LAYOUT = 0.5  # correlation of two frames' thumbnails, and
_SAME_COLOURS = 0.6  # share of common colours: with less of both there is a cut between them


@dataclass(slots=True)
class Track:
    """One face through one shot: `detections` maps the place of a frame to the face there."""

    shot: range
    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """The median area of its boxes times the number of frames in which it was seen."""
        return float(np.median([area(face.box) for face in self.detections.values()])) * len(self.detections)

    @property
    def score(self) -> float:
        """The highest score of its detections."""
        return max(face.score for face in self.detections.values())


class Follower:
    """Follows the faces of one video after the other. `several`: small faces count too, not only the largest."""

    def __init__(self, detect: Detector, several: bool) -> None:
        self.detect, self.several = detect, several

    def __call__(self, frames: Sequence[Frame]) -> list[Track]:
        """Return the track of every face, shot by shot, without those of which the detector was never sure.

        Where it was sure of none, return those that it saw twice or more; of a single picture, which nothing can
        confirm, those that reach the detector's own threshold.
        """
        tracks = [track for shot in shots(frames) for track in self._follow(frames, shot)]
        sure = [track for track in tracks if track.score >= self.detect.sure]
        if len(frames) == 1:
            return sure or [track for track in tracks if track.score >= self.detect.threshold]
        return sure or [track for track in tracks if len(track.detections) > 1]

    def _follow(self, frames: Sequence[Frame], shot: range) -> list[Track]:
        """Return the tracks of one shot: forwards from where each face was first seen, then backwards from there."""
        tracks: list[Track] = []
        looked, looked_s = shot[0], frames[shot[0]].time_s
        for place in shot:
            frame = frames[place]
            live = [track for track in tracks if place - 1 in track.detections]
            for track in live:
                self._step(track, tracks, place, frame.rgb, track.detections[place - 1].box)
            if not live or not all(place in track.detections for track in live):
                coarse_first = bool(live) or place == shot[0]
                _assign(self.search_frame(frame.rgb, coarse_first), place, shot, tracks)
            elif place - looked >= _LOOK_ROUND and (frame.time_s - looked_s >= _LOOK_ROUND_S or place == shot[-1]):
                looked, looked_s = place, frame.time_s
                boxes = [track.detections[place].box for track in live]
                _assign(self._look_round(frame.rgb, boxes), place, shot, tracks)
        for track in tracks:  # a face may have been there before it was seen
            place = min(track.detections)
            while place > shot[0]:
                before = frames[place - 1].rgb
                if not self._step(track, tracks, place - 1, before, track.detections[place].box):
                    break
                place -= 1
        return tracks

    def _step(self, track: Track, tracks: list[Track], place: int, rgb: np.ndarray, box: np.ndarray) -> bool:
        """Add the track's face in the frame at `place`, near `box`; False if it is lost, or has a track already."""
        face = self.search_near(rgb, box)
        taken = [other.detections[place].box for other in tracks if place in other.detections]
        if face is None or any(overlap(face.box, other) > _SAME_FACE for other in taken):
            return False
        track.detections[place] = face
        return True

    def search_near(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
        """Return the face in a window around `box`, at the size that the detector sees well; None if it is lost."""
        side = longer_side(box)
        for sides in (_NARROW_SIDES, _WIDE_SIDES):
            x0, y0, x1, y1 = window(box, sides * side, rgb.shape)
            faces = self._detect_scaled(rgb[y0:y1, x0:x1], self.detect.search.face_px / side, (x0, y0))
            if following := [face for face in faces if continues(box, face.box)]:
                return max(following, key=lambda face: face.score)
        return None

    def search_frame(self, rgb: np.ndarray, coarse_first: bool) -> list[Detection]:
        """Return the faces in the whole frame, or if there are none, in the frame with a border.

        With `coarse_first`, where only the largest face is kept, the search goes from coarse to fine pictures. The
        coarse one shows the large faces and costs a fraction, and a sure face there that is large enough to be seen
        well ends the search: a finer picture would add smaller faces only.
        """
        scales = _scales(rgb.shape, self.detect.search, self.detect.search.coarse_px)
        if self.several or not coarse_first:
            scales = scales[-1:]
        faces: list[Detection] = []
        for scale in scales:
            faces = self._detect_scaled(rgb, scale)
            least = self.detect.search.face_px / scale
            if any(face.score >= self.detect.sure and longer_side(face.box) >= least for face in faces):
                return faces
        return faces or self.search_padded(rgb)

    def _look_round(self, rgb: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Detection]:
        """Return faces that may have come in: all, or where only the largest is kept, those larger than the known."""
        if self.several:
            return self._detect_scaled(rgb, _scales(rgb.shape, self.detect.search, self.detect.search.coarse_px)[-1])
        largest = max(longer_side(box) for box in boxes)
        coarse = _scales(rgb.shape, self.detect.search, self.detect.search.look_px)[0]
        return self._detect_scaled(rgb, min(coarse, self.detect.search.face_px / largest))

    def search_padded(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces in the picture with a border round it: the detector is blind for a face that fills it."""
        border = max(rgb.shape[:2]) // 4
        padded = cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)
        sides = _FILLED * self.detect.search.face_px, self.detect.search.look_px
        for scale in dict.fromkeys(min(1.0, side / max(rgb.shape[:2])) for side in sides):
            if faces := self._detect_scaled(padded, scale, (-border, -border)):
                return faces
        return []

    def _detect_scaled(self, rgb: np.ndarray, scale: float, corner: tuple[int, int] = (0, 0)) -> list[Detection]:
        """Detect in `rgb` resized by `scale`; boxes are in pixels of the frame, where its top left lies at `corner`."""
        size = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
        picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        return [face.in_frame(scale, corner) for face in self.detect(picture)]


def shots(frames: Sequence[Frame]) -> list[range]:
    """Return the runs of sampled frames with no cut between them, as ranges of places.

    A cut changes both what is where (thumbnails no longer correlate) and the colours; something that moves
    before a plain wall changes only the first, a lamp only the second. A change of size is a cut, too.
    """
    starts = [0]
    small = [(frame.rgb.shape, _thumbnail(frame.rgb)) for frame in frames]
    for place, ((shape, before), (new_shape, now)) in enumerate(pairwise(small), start=1):
        differs = _correlation(before, now) < _SAME_LAYOUT and _common_colours(before, now) < _SAME_COLOURS
        if shape != new_shape or differs:
            starts.append(place)
    return [range(start, stop) for start, stop in pairwise([*starts, len(frames)]) if stop > start]


def chains(tracks: Sequence[Track], max_faces: int, covered: Sequence[float] = ()) -> list[dict[int, int]]:
    """Return for each face_index: place -> number of the track that has this index there.

    The heaviest track is face 0; with `covered`, how much of each track's face a mask covers, the one that is
    covered most. A lighter one takes the lowest index that no track holds in any of its frames, so that face 0
    goes on after a cut, and two faces seen together never share an index.
    """
    covered = covered or [0.0] * len(tracks)
    order = sorted(
        range(len(tracks)),
        key=lambda number: (-covered[number], -tracks[number].weight, min(tracks[number].detections)),
    )
    taken: list[dict[int, int]] = [{} for _ in range(max_faces)]
    for number in order:
        free = next((chain for chain in taken if not chain.keys() & tracks[number].detections.keys()), None)
        if free is not None:
            free.update(dict.fromkeys(tracks[number].detections, number))
    return [chain for chain in taken if chain]


def hold(chain: Mapping[int, int], tracks: Sequence[Track]) -> dict[int, tuple[int, int]]:
    """Return place -> (place whose box it gets, number of the track), with the gaps of a face filled.

    In a shot where the face was seen in half the frames or more, the other frames get the nearest one's box (of
    two, the earlier one's); elsewhere a lost face has no row.
    """
    rows = {place: (place, number) for place, number in chain.items()}
    for shot in {tracks[number].shot for number in chain.values()}:
        known = sorted(chain.keys() & set(shot))
        if 2 * len(known) >= len(shot):
            for place in set(shot) - chain.keys():
                source = min(known, key=lambda known_place: (abs(known_place - place), known_place))
                rows[place] = (source, chain[source])
    return rows


def _assign(faces: Iterable[Detection], place: int, shot: range, tracks: list[Track]) -> None:
    """Give each face that has no track yet to the nearest track that it continues, or start one; largest first."""
    for face in sorted(faces, key=lambda face: -area(face.box)):
        if any(
            overlap(face.box, track.detections[place].box) > _SAME_FACE for track in tracks if place in track.detections
        ):
            continue
        last_boxes = [
            (track, track.detections[max(track.detections)].box) for track in tracks if place not in track.detections
        ]
        distances = [(distance(box, face.box), track) for track, box in last_boxes if continues(box, face.box)]
        if distances:
            _, nearest = min(distances, key=lambda pair: pair[0])
        else:
            tracks.append(nearest := Track(shot))
        nearest.detections[place] = face


def _scales(shape: Sequence[int], search: Search, coarse_px: int) -> list[float]:
    """Return the scales of a whole-frame search, coarse to fine by factors of two."""
    longer = max(shape[:2])
    scales = [min(search.enlarge, search.finest_px / longer)]
    while longer * scales[-1] >= 2 * coarse_px:
        scales.append(scales[-1] / 2)
    return scales[::-1]


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    """Return the picture at 32 x 32 pixels; of a large one every so many pixels are enough, and ten times as quick."""
    step = max(1, min(rgb.shape[:2]) // 128)
    return cv2.resize(rgb[::step, ::step], (32, 32), interpolation=cv2.INTER_AREA)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of the gray levels of two pictures of one size, -1 to 1; 0 if one of them is flat."""
    gray = np.stack([a.mean(axis=2).ravel(), b.mean(axis=2).ravel()])
    gray -= gray.mean(axis=1, keepdims=True)
    return float(np.prod(gray, axis=0).mean() / max(np.prod(gray.std(axis=1)), 1e-6))


def _common_colours(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of pixels that the colour histograms (8 x 8 x 8) of two pictures of one size have in common."""
    counts = [cv2.calcHist([picture], [0, 1, 2], None, [8] * 3, [0, 256] * 3) for picture in (a, b)]
    return float(np.minimum(*counts).sum() / counts[0].sum())
