"""A remote video as a local copy, for as long as it is read. Remote is any URI that fsspec can open.

Many pictures come together: side by side from remote storage, and in one pass from an archive.
"""

import errno
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
import fsspec

from pipelines.common.bucket import PATIENCE_S
from pipelines.common.filenames import on_disk
from pipelines.common.text import one_line
from pipelines.media import decode, stills
from pipelines.media.frames import Source, UnreadableVideo

log = logging.getLogger(__name__)

T = TypeVar("T")
_Types = tuple[type[Exception], ...]

ATTEMPTS = 3
WAIT_S = 1.0  # before the second attempt; twice that before the third, and so on up to ten times that
_BUCKETS = {"s3", "s3a", "gs", "gcs"}
_AT_ONCE = 16  # transfers of single pictures: each waits for its server longer than it takes

# What a transfer that fails raises: fsspec's timeouts and most backends' errors are OSErrors, aiohttp's are not all.
_TRANSFER = (OSError, EOFError, aiohttp.ClientError)
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
# Of the disk that copies and frames wait on: no video is to blame.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What says that a server is away, or too busy.
_AWAY = (ConnectionError, TimeoutError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY))  # as s3fs calls the statuses 503 and 500
_TRY_AGAIN = (408, 429)  # HTTP statuses, beside those from 500 on


@contextmanager
def local(uri: str) -> Iterator[Path]:
    """Yield a local path of a video: a local one as it is; for a URI that of a copy, which is removed at the end.

    Folders of pictures and paths into archives work as in `decode.open_source`. Raise UnreadableVideo when the video
    cannot be downloaded whole. An UnreadableVideo that the block raises comes out with the URI in place of the copy's
    path.
    """
    if not _is_remote(uri):
        yield _on_disk(uri)
        return
    with tempfile.TemporaryDirectory(prefix="crossforge-") as folder:
        path = _copy(uri, Path(folder))
        try:
            yield path
        except UnreadableVideo as error:
            raise UnreadableVideo(str(error).replace(str(path), uri)) from error


def sources(uris: Sequence[str]) -> Iterator[tuple[int, Source | UnreadableVideo]]:
    """Yield (place among `uris`, the video) for each, in any order; why it cannot be opened in its place.

    Meant for pictures: a remote one is copied for as long as all are read, and an archive is read through once for all
    that is wanted of it.
    """
    archives: dict[str, dict[int, str]] = {}
    remote: dict[int, str] = {}
    for place, uri in enumerate(uris):
        if inside := stills.split(uri):
            archives.setdefault(inside[0], {})[place] = inside[1]
        elif _is_remote(uri):
            remote[place] = uri
        else:
            yield place, _opened(uri, _on_disk(uri))
    for archive, wanted in archives.items():
        try:
            with local(archive) as path:
                for place, source in stills.open_members(path, wanted):
                    yield place, _named(source, str(path), archive)
        except UnreadableVideo as error:
            for place in wanted:
                yield place, error
    if remote:
        with tempfile.TemporaryDirectory(prefix="crossforge-") as name, ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(lambda place: (place, _copied(remote[place], Path(name) / str(place))), remote)


def _copied(uri: str, folder: Path) -> Source | UnreadableVideo:
    """Return a remote video from its copy in a folder, which is made."""
    folder.mkdir()
    try:
        return _opened(uri, _copy(uri, folder))
    except UnreadableVideo as error:
        return error


def _opened(uri: str, path: Path) -> Source | UnreadableVideo:
    try:
        return decode.open_source(path)
    except UnreadableVideo as error:
        return _named(error, str(path), uri)


def _named(source: T, path: str, uri: str) -> T | UnreadableVideo:
    """Return a source as it is, and an error with the URI in place of the copy's path."""
    return UnreadableVideo(str(source).replace(path, uri)) if isinstance(source, UnreadableVideo) else source


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def _on_disk(uri: str) -> Path:
    return Path(on_disk(uri.removeprefix("file://")))


def _copy(uri: str, folder: Path) -> Path:
    """Download a video into a folder; return where it lies. Raise UnreadableVideo.

    An OSError for a disk that is full or takes nothing comes through: it says nothing about the video.
    """
    archive = stills.split(uri)
    system, path = fsspec.url_to_fs(archive[0] if archive else uri)
    # The name is ours, but for what tells kinds of files apart; a name on a server may be anything.
    target = folder / f"video{_suffix(path)}"
    try:
        if archive:
            _download(system, path, target)
        else:
            _download_any(system, path, target)
    except FileNotFoundError as error:
        raise UnreadableVideo(f"{uri}: no such file") from error
    except PermissionError as error:
        raise UnreadableVideo(f"{uri}: no permission to read it") from error
    except _TRANSFER as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise UnreadableVideo(f"{uri}: cannot be downloaded: {one_line(error)}") from error
    return target / archive[1] if archive else target


def _download_any(system: Any, path: str, target: Path) -> None:
    """Download a file or a folder of pictures. Not every server knows which it is: the name says what to try first."""
    if _suffix(path):
        try:
            _download(system, path, target)
        except (FileNotFoundError, IsADirectoryError):
            if not _download_pictures(system, path, target):
                raise
    elif not _download_pictures(system, path, target):
        _download(system, path, target)


def _download_pictures(system: Any, path: str, target: Path) -> bool:
    """Download the pictures of a folder; return False when `path` is no folder, or one without pictures."""
    try:
        listed = _retry(system, lambda: system.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return False
    names = {_name(name): name for name in listed if name.rstrip("/") != path.rstrip("/")}
    pictures = {name: source for name, source in names.items() if stills.is_picture(name)}
    for name, source in pictures.items():
        target.mkdir(exist_ok=True)
        _download(system, source, target / name)
    return bool(pictures)


def _download(system: Any, path: str, target: Path) -> None:
    """Download one file, and check that all of it came."""

    def once() -> None:
        info = system.info(path)
        if info["type"] == "directory":  # of which some backends would make a folder
            raise IsADirectoryError(path)
        system.get_file(path, str(target))
        size, got = info.get("size"), target.stat().st_size
        if size is not None and got != size:
            raise EOFError(f"{got} of {size} bytes came")

    _retry(system, once)


def _retry(system: Any, transfer: Callable[[], T]) -> T:
    """Try a transfer `ATTEMPTS` times: networks fail for a moment, and a lost video would be missing for good.

    While a bucket's server is away or busy it is asked again for as long as the storage's would be: no video of it is
    to blame. Raise what the last attempt raised, as an OSError where `_TRANSFER` doesn't know it.
    """
    of = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    own, away = _errors_of(of)
    fails: _Types = (*_TRANSFER, *own)
    until, attempt = (time.monotonic() + PATIENCE_S if of & _BUCKETS else 0.0), 1
    while True:
        try:
            return transfer()
        except _FINAL:
            raise
        except fails as error:
            wait_s = WAIT_S * min(attempt, 10)
            patient = _is_away(error, away) and time.monotonic() + wait_s <= until
            if not (attempt < ATTEMPTS or patient) or _is_final(error):
                raise error if isinstance(error, _TRANSFER) else OSError(one_line(error)) from error
            log.info("attempt %d failed: %s", attempt, error)
            time.sleep(wait_s)
            attempt += 1


def _errors_of(protocols: set[str]) -> tuple[_Types, _Types]:
    """Return what a bucket's file system raises beside `_TRANSFER`, and what of all says that its server is away."""
    # Imported here: it takes long, and who has made the file system has done it; gcsfs comes with an extra.
    if protocols & {"s3", "s3a"}:
        from botocore.exceptions import ConnectionError as NotConnected
        from s3fs.core import S3_RETRYABLE_ERRORS

        unreachable = (NotConnected, *S3_RETRYABLE_ERRORS)
        return unreachable, unreachable
    if protocols & {"gs", "gcs"}:
        try:
            from gcsfs.retry import ChecksumError, HttpError
            from google.auth.exceptions import TransportError
            from requests import exceptions
        except ImportError:
            return (), ()
        unreachable = (TransportError, exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError)
        return (HttpError, ChecksumError, TransportError), unreachable
    return (), ()


def _is_away(error: Exception, types: _Types) -> bool:
    """Say whether an error means that the server is away or busy; `types`: those of the file system that do."""
    if isinstance(error, (*_AWAY, *types)) or (isinstance(error, OSError) and error.errno in _BUSY):
        return True
    status = _status(error)
    return status >= 500 or status in _TRY_AGAIN


def _is_final(error: Exception) -> bool:
    """Say whether another attempt fails too: this machine's disk takes nothing, or Google's server has refused."""
    if isinstance(error, _TRANSFER):
        return isinstance(error, OSError) and error.errno in NO_ROOM
    return 0 < _status(error) < 500 and _status(error) not in _TRY_AGAIN


def _status(error: Exception) -> int:
    """Return the HTTP status that a server has answered with; 0 where none is known."""
    response = getattr(error.__cause__, "response", None)  # of botocore's error, of which s3fs makes an OSError
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp's, of gcsfs's
    return int(status) if str(status).isdecimal() else 0


def _suffix(path: str) -> str:
    name = _name(path).lower()
    archive = next((suffix for suffix in stills.ARCHIVES if name.endswith(suffix)), None)
    return archive or PurePosixPath(name).suffix


def _name(path: str) -> str:
    """Return the file's name; in URLs, %-escapes are decoded, and a query or fragment is left out."""
    return PurePosixPath(unquote(urlsplit(path).path) if "://" in path else path).name
