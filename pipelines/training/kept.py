"""Validation samples, made in the first epoch and kept: they are the same in every one."""

import logging
import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from pipelines.common import storage
from pipelines.training.samples import Arrays, Samples
from pipelines.training.views import Video

log = logging.getLogger(__name__)

MOST_KEPT_BYTES = 4 * 2**30  # of a worker's samples; the paper presets' on FaceForensics++ are 0.7 to 1.5 GB
MOST_OF_DISK = 0.25  # of what is free: other workers of the node keep theirs
MOST_OF_MEMORY = 0.1  # likewise: on some machines the folder for temporary files is memory


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Sample:
    rows: list[dict[str, Any]]  # of FACES
    places: dict[str, _Place]


class Kept:
    """Samples that make the scoring samples of a video once, and read them back when they are asked for again.

    They lie in a file without a name on the node's own disk, which is gone with the process, however it ends. What has
    no room there is made anew each time.
    """

    def __init__(self, samples: Samples, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self.samples = samples
        try:
            self._file = storage.scratch()
            free = MOST_OF_DISK * storage.free_bytes(self._file.fileno())
            self._room = int(min(most_bytes, free, MOST_OF_MEMORY * psutil.virtual_memory().available))
        except OSError as error:
            log.warning("validation samples are made anew in each epoch: %s", error)
            self._room = -1
        self._end = 0
        self._kept: dict[Hashable, list[_Sample]] = {}

    def scoring_samples(self, video: Video, **options: Any) -> Iterator[tuple[list[dict[str, Any]], Arrays]]:
        """Yield what `Samples.scoring_samples` does, which must draw the same for the same video and options."""
        key = (video.video_id, *sorted(options.items()))
        if key in self._kept:
            for sample in self._kept[key]:
                yield sample.rows, {name: self._read(place) for name, place in sample.places.items()}
            return
        made = []
        for rows, arrays in self.samples.scoring_samples(video, **options):
            made.append((rows, arrays))
            yield rows, arrays
        size = sum(np.asarray(value).nbytes for _, arrays in made for value in arrays.values())
        if self._end + size <= self._room:
            try:
                self._kept[key] = [_Sample(rows, self._write(arrays)) for rows, arrays in made]
            except OSError as error:  # others have filled the disk
                log.warning("validation samples are made anew in each epoch: %s", error)
                self._room = 0

    def _write(self, arrays: Arrays) -> dict[str, _Place]:
        places = {}
        for name, value in arrays.items():
            array = np.ascontiguousarray(value)
            # Of an array without axes `ascontiguousarray` makes one with one.
            places[name] = _Place(self._end, np.shape(value), array.dtype)
            data = array.reshape(-1).view(np.uint8).data
            while data:
                written = os.pwrite(self._file.fileno(), data, self._end)
                data, self._end = data[written:], self._end + written
        return places

    def _read(self, place: _Place) -> np.ndarray:
        array = np.empty(place.shape, place.dtype)
        data, offset = array.reshape(-1).view(np.uint8).data, place.offset
        while data:
            read = os.preadv(self._file.fileno(), [data], offset)
            if not read:
                raise EOFError("the file of kept validation samples has been cut")
            data, offset = data[read:], offset + read
        return array
