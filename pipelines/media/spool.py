"""Sequences of frames in bounded memory: a hundred frames in 4K would take 2.5 GB."""

import tempfile
from collections.abc import Sequence
from typing import IO, overload

import numpy as np

from pipelines.media.frames import Frame


class Spool(Sequence[Frame]):
    """A growing sequence of frames, of which at most `memory_bytes` are kept in memory.

    The others lie in an unnamed temporary file. A frame from the file is read again whenever it is asked for: keep it
    while you work on it.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._free = memory_bytes
        self._frames: list[Frame | tuple[int, float, tuple[int, ...], int]] = []
        self._file: IO[bytes] | None = None

    def append(self, frame: Frame) -> None:
        """Add a frame at the end."""
        if frame.rgb.nbytes <= self._free:
            self._free -= frame.rgb.nbytes
            self._frames.append(frame)
            return
        self._free = 0  # what comes later goes to the file too
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the frames
        start = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(frame.rgb).data)
        self._frames.append((frame.frame_index, frame.time_s, frame.rgb.shape, start))

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Frame]: ...
    def __getitem__(self, place: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        held = self._frames[place]
        if isinstance(held, Frame):
            return held
        assert self._file is not None
        frame_index, time_s, shape, start = held
        self._file.seek(start)
        rgb = np.empty(shape, np.uint8)
        self._file.readinto(rgb.data)  # type: ignore[attr-defined]  # typing's IO has no readinto
        return Frame(frame_index, time_s, rgb)

    def __len__(self) -> int:
        return len(self._frames)


class Chosen(Sequence[Frame]):
    """A view of some frames of another sequence, given by their places in it."""

    def __init__(self, frames: Sequence[Frame], places: Sequence[int]) -> None:
        self._frames, self._places = frames, places

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Frame]: ...
    def __getitem__(self, place: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(place, slice):
            return [self._frames[i] for i in self._places[place]]
        return self._frames[self._places[place]]

    def __len__(self) -> int:
        return len(self._places)
