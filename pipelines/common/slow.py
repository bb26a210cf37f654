"""Files of a folder that is slow to read, such as a network mount: copied to this machine's disk, as those of a bucket.

`$CROSSFORGE_SLOW_FOLDERS` names such folders, with `:` between them. What is written there goes there as ever.
"""

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from pipelines.common.bucket import Stat

_AT_A_TIME = 16 * 2**20


def is_slow(path: Path) -> bool:
    """Say whether a file lies in a folder that is named as slow."""
    named = os.environ.get("CROSSFORGE_SLOW_FOLDERS", "").split(os.pathsep)
    return any(path.absolute().is_relative_to(Path(folder).expanduser()) for folder in named if folder)


@dataclass(frozen=True)
class SlowFile:
    """A file that is read as an object of a bucket."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.absolute())

    def stat(self, at: os.stat_result | None = None) -> Stat:
        """Return what tells whether it is the same file still. at: what `Path.stat` has returned, if it was asked."""
        at = self.path.stat() if at is None else at
        return Stat(st_size=at.st_size, st_mtime_ns=at.st_mtime_ns, version=str(at.st_mtime_ns))

    @cached_property
    def _opened(self) -> IO[bytes]:
        return self.path.open("rb", buffering=0)

    def read_range(self, start: int, end: int, version: str = "") -> bytes:
        """Return the bytes from `start` up to `end`. Raise OSError where the file ends before."""
        del version  # what is open stays as it is
        data = os.pread(self._opened.fileno(), end - start, start)
        if len(data) < end - start:
            raise OSError(f"{self} ends before byte {end}: it was cut off or replaced")
        return data

    def download(self, target: IO[bytes], at: Stat) -> None:
        """Write all of it into an open file. Raise FileNotFoundError if it was written anew since `at`."""
        with self.path.open("rb") as source:
            found = os.fstat(source.fileno())
            if self.stat(found) != at:
                raise FileNotFoundError(f"{self} was written anew")
            shutil.copyfileobj(source, target, _AT_A_TIME)
