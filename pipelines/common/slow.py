"""Files of a folder that is slow to read, such as a network mount: copied to this machine's disk, as those of a bucket.

`$CROSSFORGE_SLOW_FOLDERS` names such folders, with `:` between them. What is written there goes there as ever.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from pipelines.common.bucket import Stat

log = logging.getLogger(__name__)

_AT_A_TIME = 16 * 2**20


def is_slow(path: Path) -> bool:
    """Say whether a file lies in a folder that is named as slow, by whatever links."""
    named = os.environ.get("CROSSFORGE_SLOW_FOLDERS")
    return bool(named) and any(path.resolve().is_relative_to(folder) for folder in _folders(named))


@cache
def _folders(named: str) -> tuple[Path, ...]:
    """Return where the folders really are that the variable names; warn of each that is not there."""
    folders = [Path(os.path.expanduser(folder)) for folder in named.split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            log.warning("CROSSFORGE_SLOW_FOLDERS names %s, and there is no such folder", folder.absolute())
    return tuple(folder.resolve() for folder in folders)


@dataclass(frozen=True)
class SlowFile:
    """A file that is copied as an object of a bucket."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.absolute())

    def stat(self, at: os.stat_result | None = None) -> Stat:
        """Return what tells whether it is the same file still. at: what `Path.stat` has returned, if it was asked."""
        at = self.path.stat() if at is None else at
        return Stat(st_size=at.st_size, st_mtime_ns=at.st_mtime_ns, version=str(at.st_mtime_ns))

    def open(self, at: Stat) -> "OpenSlowFile":
        """Open it for reading parts. Raise FileNotFoundError if it was written anew since `at`."""
        file = self.path.open("rb", buffering=0)
        try:
            self._check(file, at)
        except BaseException:
            file.close()
            raise
        return OpenSlowFile(self.path, file)

    def download(self, target: IO[bytes], at: Stat) -> None:
        """Write all of it into an open file. Raise FileNotFoundError if it was written anew since `at`."""
        with self.path.open("rb") as source:
            self._check(source, at)
            shutil.copyfileobj(source, target, _AT_A_TIME)

    def _check(self, file: IO[bytes], at: Stat) -> None:
        if self.stat(os.fstat(file.fileno())) != at:
            raise FileNotFoundError(f"{self} was written anew")


@dataclass(frozen=True)
class OpenSlowFile(SlowFile):
    """A file of which parts are read as of an object of a bucket: of what it was when it was opened."""

    file: IO[bytes]

    def read_range(self, start: int, end: int, version: str = "") -> bytes:
        """Return the bytes from `start` up to `end`. Raise OSError where the file ends before."""
        del version  # what is open stays as it is
        data = os.pread(self.file.fileno(), end - start, start)
        if len(data) < end - start:
            raise OSError(f"{self} ends before byte {end}: it was cut off or replaced")
        return data
