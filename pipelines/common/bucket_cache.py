"""Copies of a bucket's objects on this machine's disk, for what is read again and again.

All processes of the machine share one folder: `$CROSSFORGE_CACHE`, or `objects` in the user's cache folder. It holds at
most `$CROSSFORGE_CACHE_GB` GB, by default half of what the disk has free at first; what was used longest ago goes
first. A copy is named by the object's name and version, so an object that was written anew is copied anew, and none is
ever seen half. What a process has used last it keeps a shared lock on, so that nobody deletes it before it is opened.
Of several that want a copy one downloads it, under a lock that goes with its process; the others wait.
"""

import fcntl
import logging
import os
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from pipelines.common import user_cache

log = logging.getLogger(__name__)

_IN_HAND = 32  # copies that a process keeps from being deleted
_LATELY_S = 3600.0

_held: OrderedDict[Path, int] = OrderedDict()  # copy -> its open file, with a shared lock
_mutex = threading.Lock()
_coming: dict[Path, threading.Lock] = {}  # for one thread at a time: locks of files on NFS know processes only
_asked: dict[Path, float] = {}  # copy that `get_later` was asked for and that is not there -> when, of monotonic()
_queue: SimpleQueue[tuple[str, str, int, Callable[[IO[bytes]], None]]] = SimpleQueue()
_copier: threading.Thread | None = None


def folder() -> Path:
    """Return where the copies lie."""
    named = os.environ.get("CROSSFORGE_CACHE")
    return Path(named).expanduser() if named else user_cache.folder() / "objects"


def limit_bytes(copies: list[tuple[float, int, Path]] | None = None) -> int:
    """Return how many bytes of copies may lie there. Raise ValueError for a size that is none.

    copies: what `_copies` has returned just now; without it the folder is looked at.
    """
    named = os.environ.get("CROSSFORGE_CACHE_GB", "")
    try:
        if named:
            return int(float(named) * 1e9)
    except (ValueError, OverflowError):
        raise ValueError(f"CROSSFORGE_CACHE_GB={named} is no number of GB") from None
    folder().mkdir(parents=True, exist_ok=True)
    there = sum(size for _, size, _ in (_copies() if copies is None else copies))
    return (shutil.disk_usage(folder()).free + there) // 2


def get(name: str, version: str, size: int, download: Callable[[IO[bytes]], None]) -> Path:
    """Return the copy of an object at a version; `download(file)` writes it, all `size` bytes, where there is none."""
    path = _path_of(name, version, size)
    with _coming.setdefault(path, threading.Lock()):
        while not _hold(path):
            _fetch(path, name, size, download)
    return path


def find(name: str, version: str, size: int) -> Path | None:
    """Return the copy of an object at a version, None where there is none."""
    path = _path_of(name, version, size)
    return path if _hold(path) else None


def get_later(name: str, version: str, size: int, download: Callable[[IO[bytes]], None]) -> None:
    """Let a thread of this process do what `get` does, after what it was asked for before, if the copy `fits`.

    It ends with the process. What did not fit, or failed, it tries again only when asked after a while.
    """
    global _copier
    path, now_s = _path_of(name, version, size), time.monotonic()
    with _mutex:
        if path in _asked and now_s - _asked[path] < _LATELY_S:
            return
        _asked[path] = now_s
        _queue.put((name, version, size, download))
        if _copier is None or not _copier.is_alive():
            _copier = threading.Thread(target=_copy_what_is_asked_for, name="copies of a bucket's objects", daemon=True)
            _copier.start()


def _copy_what_is_asked_for() -> None:
    while _copy(*_queue.get()):
        pass  # and nothing is kept of what it was asked by, which may hold a file open


def _copy(name: str, version: str, size: int, download: Callable[[IO[bytes]], None]) -> bool:
    """Make one copy, if it fits; return False when the process is about to end."""
    try:
        if fits(size):
            path = get(name, version, size, download)
            with _mutex:
                _asked.pop(path, None)
    except RuntimeError:
        return False  # no thread starts any more
    except Exception as error:  # noqa: BLE001  # who reads without a copy meets what matters, and says so
        log.warning("%s is read from where it lies, without a copy on this machine: %s", name, error)
    return True


def fits(size: int) -> bool:
    """Say whether so many bytes fit without the deletion of copies that were used lately."""
    copies = _copies()
    kept = sum(of_copy for used_s, of_copy, _ in copies if time.time() - used_s < _LATELY_S)
    return kept + size <= limit_bytes(copies)


def _path_of(name: str, version: str, size: int) -> Path:
    return folder() / f"{sha256(f'{name} {version} {size}'.encode()).hexdigest()[:40]}{Path(name).suffix}"


def _fetch(path: Path, name: str, size: int, download: Callable[[IO[bytes]], None]) -> None:
    """Download a copy, or wait for another process that does; it is there afterwards unless that one has failed.

    The lock is on the unfinished copy itself: so it isn't deleted as a leftover, and what a killed process has left is
    begun anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not _is_at(temporary, file):  # who had the lock has finished the copy, or removed it
            return
        try:
            file.truncate(0)
            _make_room(size, but=temporary)
            download(file)
            file.flush()
            if (got := os.fstat(file.fileno()).st_size) != size:
                raise OSError(f"{got} of {size} bytes of {name} came")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fcntl.flock(file, fcntl.LOCK_SH)
        with _mutex:
            _keep(path, os.dup(file.fileno()))


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


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
        _keep(path, descriptor)
        return True


def _keep(path: Path, descriptor: int) -> None:
    """Keep a copy's open file, which has a shared lock, in place of the one used longest ago. Needs `_mutex`."""
    if path in _held:
        os.close(_held.pop(path))
    _held[path] = descriptor
    while len(_held) > _IN_HAND:
        os.close(_held.popitem(last=False)[1])


def _make_room(size: int, but: Path) -> None:
    """Delete copies, those used longest ago first, until `size` bytes more fit; those in hand of a process stay."""
    copies = sorted(_copies())
    limit, total = limit_bytes(copies), sum(of_copy for _, of_copy, _ in copies) + size
    for _, of_copy, path in copies:
        if total <= limit:
            return
        if path != but and _delete(path):
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
