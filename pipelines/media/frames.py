"""What every kind of video gives, a file as well as a folder of pictures: frames, times, or the reason for none."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.common.filenames import escaped


class UnreadableVideo(ValueError):
    """No frame of the video can be read; the message is one line that names the video and says why."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame."""

    frame_index: int  # place in the video, from 0
    time_s: float  # seconds from the first frame
    rgb: np.ndarray  # (H, W, 3) uint8, upright


class Source(Protocol):
    """A video that has been looked through, but not decoded."""

    @property
    def times(self) -> Sequence[float]:
        """The time of every frame, in seconds from the first."""
        ...

    @property
    def note(self) -> str:
        """What is damaged, empty for a sound video; it may grow while frames are read."""
        ...

    def frames(self, frame_indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames at the given indices, in order, one at a time; unreadable ones are left out."""
        ...
