"""Which frame of its real counterpart belongs to a frame of a fake: a fake may begin later, or show something else.

A fake is its counterpart but for the face, so that the surroundings of the faces tell. Numpy in, numpy out.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from pipelines.faces.boxes import Crop
from pipelines.media.frames import Frame, Source

_SMALL_PX = 160  # longer side of the pictures that are compared
_LEAST_LEFT = 0.1  # share of a frame that must lie beside its faces
_SAME_SCENE = 0.8  # correlation of two frames' surroundings, or
_SAME_GRAY = 10 / 255  # mean difference of their gray levels, up to which they can show the same
_MOST_OFFSET = 300  # frames by which a fake may begin later or earlier: 10 s
_PROBES = 5  # frames of a fake that are looked for in its counterpart
_CLEARLY = 0.8  # of the difference where both begin together, that an offset must undercut


class Surroundings:
    """What a frame shows beside its faces, small and gray. `faces`: their crops in pixels of the frame."""

    def __init__(self, frame: Frame, faces: Sequence[Crop]) -> None:
        height, width = frame.rgb.shape[:2]
        self.shape = frame.rgb.shape
        self._gray = _small(frame.rgb)
        scale = self._gray.shape[1] / width, self._gray.shape[0] / height
        self._beside = np.ones(self._gray.shape, bool)
        for x0, y0, x1, y1 in faces:
            left, right = int(x0 * scale[0]), int(np.ceil(x1 * scale[0]))
            self._beside[int(y0 * scale[1]) : int(np.ceil(y1 * scale[1])), left:right] = False
        self.tell = bool(self._beside.mean() >= _LEAST_LEFT)  # whether there is enough to compare

    def difference(self, other: np.ndarray) -> float:
        """Return the mean difference to another frame (H, W, 3) of the same shape, 0 to 1."""
        return float(np.abs(self._gray - _small(other))[self._beside].mean())

    def is_scene_of(self, other: np.ndarray) -> bool:
        """Say whether another frame (H, W, 3) can show the same; yes where too little is left to tell."""
        if not self.tell:
            return True
        if self.shape != other.shape:
            return False
        if self.difference(other) <= _SAME_GRAY:
            return True
        pair = np.stack([self._gray[self._beside], _small(other)[self._beside]])
        pair -= pair.mean(axis=1, keepdims=True)
        return float(np.prod(pair, axis=0).mean()) >= _SAME_SCENE * float(np.prod(pair.std(axis=1)))


def offset(surroundings: Mapping[int, Surroundings], num_frames: int, real: Source) -> int:
    """Return how many frames later than the fake its counterpart `real` shows the same.

    `surroundings` are those of some of the fake's `num_frames` frames, by frame index. Where both have as many frames,
    they are taken to begin together. Else the offset is that at which the surroundings differ least, if that is clearly
    less than where they begin together.
    """
    spare = len(real.times) - num_frames
    probes = [index for index, around in surroundings.items() if around.tell]
    if not spare or not probes:
        return 0
    probes = [probes[(2 * part + 1) * len(probes) // (2 * _PROBES)] for part in range(_PROBES)]
    offsets = range(0, min(spare, _MOST_OFFSET) + 1) if spare > 0 else range(max(spare, -_MOST_OFFSET), 1)
    differences: dict[int, list[float]] = {each: [] for each in offsets}
    wanted = {index + each for index in probes for each in offsets}
    for frame in real.frames(wanted):
        for index in dict.fromkeys(probes):
            each, around = frame.frame_index - index, surroundings[index]
            if each in differences and around.shape == frame.rgb.shape:
                differences[each].append(around.difference(frame.rgb))
    most = max(map(len, differences.values()))
    means = {each: float(np.mean(found)) for each, found in differences.items() if found and len(found) == most}
    best = min(means, key=means.__getitem__, default=0)
    return best if means.get(best, 0) < _CLEARLY * means.get(0, np.inf) else 0


def _small(rgb: np.ndarray) -> np.ndarray:
    """Return a picture as gray levels 0 to 1, its longer side about `_SMALL_PX`."""
    step = max(1, max(rgb.shape[:2]) // (2 * _SMALL_PX))  # of a large picture every so many pixels are enough
    scale = min(1.0, _SMALL_PX / max(rgb.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in rgb.shape[1::-1])
    small = cv2.resize(rgb[::step, ::step], size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
