"""What every kind of source gives, whatever it is kept in."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class UnreadableVideo(ValueError):
    """No frame of the video can be had; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`rgb` is uint8 (H, W, 3), upright; `time_s` counts from the first frame."""

    frame_index: int
    time_s: float
    rgb: np.ndarray


class Source(Protocol):
    """A video that has been looked through, but not decoded.

    `times` are the seconds of every frame, from the first. `note` says what is damaged; it may grow while frames
    are read, and is empty for a sound video.
    """

    @property
    def times(self) -> Sequence[float]: ...

    @property
    def note(self) -> str: ...

    def frames(self, frame_indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at the given indices, in order, one at a time; those that cannot be had are left out."""
        ...
