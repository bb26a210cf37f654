"""Copies of a bucket's objects on this machine's disk, for what is read again and again.

All processes of the machine share one folder: `$CROSSFORGE_CACHE`, or `objects` in the user's cache folder. It holds at
most `$CROSSFORGE_CACHE_GB` GB, by default half of what the disk has free at first; what was used longest ago goes
first. A copy is named by the object's name and version, so an object that was written anew is copied anew, and none is
ever seen half. What a process has used last it keeps a shared lock on, so that nobody deletes it before it is opened.
"""

import fcntl
import os
import shutil
import stat
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import IO

from pipelines.common import user_cache

_IN_HAND = 32  # copies that a process keeps from being deleted
_LATELY_S = 3600.0

_held: OrderedDict[Path, int] = OrderedDict()  # copy -> its open file, with a shared lock
_mutex = threading.Lock()


def folder() -> Path:
    """Return where the copies lie."""
    named = os.environ.get("CROSSFORGE_CACHE")
    return Path(named).expanduser() if named else user_cache.folder() / "objects"


def limit_bytes() -> int:
    """Return how many bytes of copies may lie there. Raise ValueError for a size that is none."""
    named = os.environ.get("CROSSFORGE_CACHE_GB", "")
    try:
        if named:
            return int(float(named) * 1e9)
    except (ValueError, OverflowError):
        raise ValueError(f"CROSSFORGE_CACHE_GB={named} is no number of GB") from None
    there = sum(size for _, size, _ in _copies())
    return (shutil.disk_usage(folder()).free + there) // 2


def get(name: str, version: str, size: int, download: Callable[[IO[bytes]], None]) -> Path:
    """Return the copy of an object at a version; `download(file)` writes it, all `size` bytes, where there is none."""
    where = folder()
    path = where / f"{sha256(f'{name} {version} {size}'.encode()).hexdigest()[:40]}{Path(name).suffix}"
    if _hold(path):
        return path
    where.mkdir(parents=True, exist_ok=True)
    temporary = where / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        _make_room(size)
        with temporary.open("w+b") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # a download that is going on is not deleted as a leftover
            download(file)
            file.flush()
            if (got := os.fstat(file.fileno()).st_size) != size:
                raise OSError(f"{got} of {size} bytes of {name} came")
            temporary.replace(path)
            _hold(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def fits(size: int) -> bool:
    """Say whether so many bytes fit without the deletion of copies that were used lately."""
    kept = sum(of_copy for used_s, of_copy, _ in _copies() if time.time() - used_s < _LATELY_S)
    return kept + size <= limit_bytes()


def _hold(path: Path) -> bool:
    """Take a copy in hand and note that it is used; return False where there is none."""
    with _mutex:
        if path in _held and path.exists():
            _held.move_to_end(path)
            os.utime(path)
            return True
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not path.exists():  # it was deleted in between
            os.close(descriptor)
            return False
        os.utime(path)
        if path in _held:
            os.close(_held.pop(path))
        _held[path] = descriptor
        while len(_held) > _IN_HAND:
            os.close(_held.popitem(last=False)[1])
        return True


def _make_room(size: int) -> None:
    """Delete copies, those used longest ago first, until `size` bytes more fit; those in hand of a process stay."""
    copies, limit = sorted(_copies()), limit_bytes()
    total = sum(of_copy for _, of_copy, _ in copies) + size
    for _, of_copy, path in copies:
        if total <= limit:
            return
        if _delete(path):
            total -= of_copy


def _delete(path: Path) -> bool:
    """Delete a copy that no process has in hand; return whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks for one alone only what may be written
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _copies() -> list[tuple[float, int, Path]]:
    """Return when each copy was used last, its size and path; downloads that are going on count, too."""
    found = []
    for entry in os.scandir(folder()) if folder().is_dir() else ():
        try:
            at = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(at.st_mode):
            found.append((at.st_mtime, at.st_size, Path(entry.path)))
    return found
