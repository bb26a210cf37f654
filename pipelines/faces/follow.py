"""Sampled frames -> tracks: which faces there are, and where each is in which frame.

Detection is the cost of extraction (0.7 s for dlib's HOG on a 1080p frame with one upsampling, against 4 ms for
the same detector in a window around a known face), so a face is searched over the whole frame once, and then
followed: the next frame's window is where it was, and the detector confirms it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from pipelines.faces.boxes import area, continues, distance, longer_side, overlap, window
from pipelines.faces.detect import Detection, Detector
from pipelines.media.decode import Frame

_COARSE_PX = 640  # longer side of the picture in which the whole-frame search begins
_FINEST_PX = 3840  # ... and at most ends: a 1080p frame with one upsampling, a 4K frame as it is
_WINDOW_FACE_PX = 100  # width of a followed face in its search window
_WINDOW_SIDES = 3.0  # side of that window, in sides of the face's box: it may move by one between sampled frames
_LOOK_ROUND = 5  # frames, and
_LOOK_ROUND_S = 2.0  # seconds after which the whole frame is looked at for faces that came in; also before a cut
_SAME_FACE = 0.4  # intersection over union of two boxes in one frame that are one face
_SAME_LAYOUT = 0.5  # correlation of two frames' thumbnails, and
_SAME_COLOURS = 0.6  # share of common colours: with less of both there is a cut between them


@dataclass(slots=True)
class Track:
    """One face through one shot: `found` maps the place of a frame in the sample to its detection."""

    shot: range
    found: dict[int, Detection] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Median area of its boxes times the frames it was seen in."""
        return float(np.median([area(seen.box) for seen in self.found.values()])) * len(self.found)

    @property
    def score(self) -> float:
        return max(seen.score for seen in self.found.values())


class Follower:
    """Follows the faces of one video after the other. `several`: small faces count too, not only the largest."""

    def __init__(self, detect: Detector, several: bool) -> None:
        self.detect, self.several = detect, several

    def __call__(self, frames: Sequence[Frame]) -> list[Track]:
        """Every face that was followed, shot by shot, without those that the detector was never sure of.

        Where it was sure of none, those that it saw twice or more.
        """
        tracks = [track for shot in shots(frames) for track in self._follow(frames, shot)]
        sure = [track for track in tracks if track.score >= self.detect.sure]
        return sure or [track for track in tracks if len(track.found) > 1]

    def _follow(self, frames: Sequence[Frame], shot: range) -> list[Track]:
        tracks: list[Track] = []
        looked, since = shot[0], frames[shot[0]].time_s
        for place in shot:
            frame = frames[place]
            live = [track for track in tracks if place - 1 in track.found]
            for track in live:
                self._step(track, tracks, place, frame.rgb, track.found[place - 1].box)
            lost = not any(place in track.found for track in tracks) or not all(place in track.found for track in live)
            if lost:
                coarse_first = bool(live) or place == shot[0]
                _assign(self._search_all(frame.rgb, coarse_first), place, shot, tracks)
            elif place - looked >= _LOOK_ROUND and (frame.time_s - since >= _LOOK_ROUND_S or place == shot[-1]):
                looked, since = place, frame.time_s
                _assign(self._look_round(frame.rgb, [t.found[place].box for t in live]), place, shot, tracks)
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
        if near is None or any(overlap(near.box, other) > _SAME_FACE for other in taken):
            return False
        track.found[place] = near
        return True

    def _search_near(self, rgb: np.ndarray, box: np.ndarray) -> Detection | None:
        """The face in a window around `box`, scaled so that it is about 100 pixels wide."""
        side = longer_side(box)
        x0, y0, x1, y1 = window(box, _WINDOW_SIDES * side, rgb.shape)
        found = self._scaled(rgb[y0:y1, x0:x1], _WINDOW_FACE_PX / side, (x0, y0))
        follows = (seen for seen in found if continues(box, seen.box))
        return max(follows, key=lambda seen: seen.score, default=None)

    def _search_all(self, rgb: np.ndarray, coarse_first: bool) -> list[Detection]:
        """Faces in the whole frame, from coarse to fine; last with a border, for pictures cut tight around a face.

        The coarse picture shows the large faces and costs a fraction. Where only the largest face is kept, a
        sure one there ends the search: a finer picture would add smaller faces only.
        """
        scales = _scales(rgb.shape)
        if self.several or not coarse_first:
            scales = scales[-1:]
        found: list[Detection] = []
        for scale in scales:
            found = self._scaled(rgb, scale)
            if any(seen.score >= self.detect.sure for seen in found):
                return found
        return found or self.search_padded(rgb)

    def _look_round(self, rgb: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Detection]:
        """Faces that may have come in: all, or where only the largest is kept, those larger than the known ones."""
        if self.several:
            return self._scaled(rgb, _scales(rgb.shape)[-1])
        largest = max(longer_side(box) for box in boxes)
        return self._scaled(rgb, min(_scales(rgb.shape)[0], _WINDOW_FACE_PX / largest))

    def search_padded(self, rgb: np.ndarray) -> list[Detection]:
        """Faces in the picture with a border round it: the detector is blind for a face that fills it."""
        border = max(rgb.shape[:2]) // 4
        padded = cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)
        return self._scaled(padded, min(1.0, _COARSE_PX / max(rgb.shape[:2])), (-border, -border))

    def _scaled(self, rgb: np.ndarray, scale: float, corner: tuple[int, int] = (0, 0)) -> list[Detection]:
        """Detections in `rgb` resized by `scale`, whose top left corner lies at `corner` of the frame."""
        size = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
        picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        offset = np.array([*corner, *corner], float)
        return [Detection(seen.box / scale + offset, seen.score) for seen in self.detect(picture)]


def shots(frames: Sequence[Frame]) -> list[range]:
    """Runs of sampled frames with no cut between them.

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
    """For each face_index: place -> number of the track that has this index there.

    The heaviest track is face 0; with `covered`, how much of each track's face a mask covers, the one that is
    covered most. A lighter one takes the lowest index that no track holds in any of its frames, so that face 0
    goes on after a cut, and two faces seen together never share an index.
    """
    covered = covered or [0.0] * len(tracks)
    taken: list[dict[int, int]] = [{} for _ in range(max_faces)]
    for number in sorted(
        range(len(tracks)), key=lambda number: (-covered[number], -tracks[number].weight, min(tracks[number].found))
    ):
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


def _assign(found: Iterable[Detection], place: int, shot: range, tracks: list[Track]) -> None:
    """Give each detection that is no track's yet to the track that it continues, or start one."""
    for seen in sorted(found, key=lambda detection: -area(detection.box)):
        here = [track.found[place].box for track in tracks if place in track.found]
        if any(overlap(seen.box, box) > _SAME_FACE for box in here):
            continue
        open_tracks = [track for track in tracks if place not in track.found]
        open_tracks = [track for track in open_tracks if continues(_last(track).box, seen.box)]
        if open_tracks:
            nearest = min(open_tracks, key=lambda track: distance(_last(track).box, seen.box))
        else:
            tracks.append(nearest := Track(shot))
        nearest.found[place] = seen


def _last(track: Track) -> Detection:
    return track.found[max(track.found)]


def _scales(shape: Sequence[int]) -> list[float]:
    """Scales of the whole-frame search, coarse to fine by factors of two."""
    longer = max(shape[:2])
    scales = [max(1.0, min(2.0, _FINEST_PX / longer)) if longer < _FINEST_PX else _FINEST_PX / longer]
    while longer * scales[-1] >= 2 * _COARSE_PX:
        scales.append(scales[-1] / 2)
    return scales[::-1]


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    """32 x 32 pixels. Of a large picture every so many pixels are enough, and ten times as quick."""
    step = max(1, min(rgb.shape[:2]) // 128)
    return cv2.resize(rgb[::step, ::step], (32, 32), interpolation=cv2.INTER_AREA)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the gray levels of two pictures of one size, -1 to 1; 0 if one of them is flat."""
    gray = np.stack([a.mean(axis=2).ravel(), b.mean(axis=2).ravel()])
    gray -= gray.mean(axis=1, keepdims=True)
    return float(np.prod(gray, axis=0).mean() / max(np.prod(gray.std(axis=1)), 1e-6))


def _common_colours(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that the colour histograms (8 x 8 x 8) of two pictures of one size have in common."""
    counts = [cv2.calcHist([picture], [0, 1, 2], None, [8] * 3, [0, 256] * 3) for picture in (a, b)]
    return float(np.minimum(*counts).sum() / counts[0].sum())
