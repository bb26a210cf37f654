"""Objects of a bucket under the names and by the methods of `pathlib.Path`, and each request's patience.

A `BucketPath` is `s3://bucket/key` or `gs://bucket/key`. It takes the place of a Path wherever files are read, listed
or deleted: a folder is what lies below its name, and a library that opens files (`pyarrow`, `safetensors`, `open`) is
handed a copy on this machine's disk (`bucket_cache`). It is written through `pipelines.common.storage` only; what would
need the file system of a disk of one's own, such as a rename, raises `io.UnsupportedOperation`.

A server that is slow, too busy or away for a while is asked again; so is one whose answer got lost.
"""

import fnmatch
import io
import logging
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PosixPath
from typing import IO, Any, NoReturn, Protocol, TypeVar

import obstore
from obstore import exceptions

from pipelines.common import bucket_cache, bucket_client
from pipelines.common.bucket_client import ACCESS, SCHEMES, StorageError
from pipelines.common.text import printable

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 300.0  # how long a server may be away
_REFUSED_S = 20.0  # how long it may refuse a request for a reason of its own: a slow upload, an outdated token
_WAIT_S = (0.2, 10.0)  # before the second attempt, doubled before each further one up to the second number
CHUNK = 16 << 20  # bytes of one request of a large object
_AT_ONCE = 8  # requests of one transfer, or of one listing
_MOST_KEYS = 1000  # that one request lists


@dataclass(frozen=True, kw_only=True)
class Stat:
    """What is known of an object, by the names of `os.stat_result`; `version` changes whenever it is written."""

    st_size: int
    st_mtime_ns: int
    version: str

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9

    @property
    def st_mode(self) -> int:
        return stat.S_IFREG | 0o444


def is_bucket(uri: str) -> bool:
    """Say whether a text is the URI of a place in a bucket."""
    return uri.partition("://")[0] in SCHEMES and "://" in uri


def parse(uri: str) -> "BucketPath":
    """Return the place that a URI names. Raise StorageError where it names none."""
    scheme, _, rest = uri.partition("://")
    bucket, *parts = rest.rstrip("/").split("/")
    if scheme not in SCHEMES:
        known = " and ".join(f"{name}://bucket/prefix" for name in SCHEMES)
        raise StorageError(f"{printable(uri)}: there is no storage {printable(scheme)}://; known are folders, {known}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
        raise StorageError(f"{printable(uri)} names no bucket; write {scheme}://bucket/prefix")
    if bad := [
        part for part in parts if part in ("", ".", "..") or not part.isprintable() or set(part) & set('\\*?"<>|#')
    ]:
        raise StorageError(f"{printable(uri)}: {printable(bad[0]) or 'an empty name'} can't be a part of the prefix")
    return BucketPath(f"{scheme}:", bucket, *parts)


class BucketPath(PosixPath):
    """A place in a bucket. What is pure in `pathlib` (names, parents, `/`) is inherited, what asks a disk is not."""

    __slots__ = ()

    def __str__(self) -> str:
        text = super().__str__()
        scheme, colon, rest = text.partition(":/")
        return f"{scheme}://{rest.lstrip('/')}" if colon and scheme in SCHEMES else text

    def __fspath__(self) -> str:
        """Return where a copy of the object lies on this machine, for reading. Raise FileNotFoundError."""
        return str(self.local())

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def with_segments(self, *parts: Any) -> "BucketPath":
        return type(self)(*parts)

    @property
    def scheme(self) -> str:
        return self.parts[0].rstrip(":")

    @property
    def bucket(self) -> str:
        return self.parts[1]

    @property
    def key(self) -> str:
        """The name of the object in the bucket."""
        return "/".join(self.parts[2:])

    # ------------------------------------------------------------------------------------- what is there
    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Return a `Stat`. Raise FileNotFoundError, also for a folder."""
        return _stat(self._ask("read", lambda store: obstore.head(store, self.key)))

    def is_file(self, **_: Any) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        return any(self._ask("list", lambda store: next(iter(obstore.list(store, self.key or None, chunk_size=1)), [])))

    def exists(self, **_: Any) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["BucketPath"]:  # type: ignore[override]
        """Yield what lies in the folder. Raise FileNotFoundError where nothing does."""
        found = list(self._children())
        if not found:
            raise FileNotFoundError(2, "No such folder in the bucket", str(self))
        yield from found

    def _children(self, *, folders_only: bool = False) -> list["BucketPath"]:
        listed = self._ask("list", lambda store: obstore.list_with_delimiter(store, self.key or None))
        keys = [*listed["common_prefixes"], *(() if folders_only else (one["path"] for one in listed["objects"]))]
        return [self / key.rpartition("/")[2] for key in keys]

    def glob(self, pattern: str, **_: Any) -> Iterator["BucketPath"]:  # type: ignore[override]
        """Yield what matches, in any order; as in `pathlib`, `*` matches names that begin with a dot, too.

        A level of folders takes a request for each of its folders.
        """
        places: list[BucketPath] = [self]
        parts = pattern.split("/")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for level, part in enumerate(parts, 1):
                last = level == len(parts)
                if not set(part) & set("*?["):
                    places = [place / part for place in places]
                    if last:
                        there = pool.map(BucketPath.exists, places)
                        places = [place for place, exists in zip(places, there, strict=True) if exists]
                    continue
                listed = pool.map(lambda place: place._children(folders_only=not last), places)  # noqa: B023
                places = [one for found in listed for one in found if fnmatch.fnmatchcase(one.name, part)]
        yield from places

    def rglob(self, pattern: str, **_: Any) -> Iterator["BucketPath"]:  # type: ignore[override]
        """Yield the objects below that match, by their last name; folders are none."""
        for path in self.objects():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def objects(self) -> Iterator["BucketPath"]:
        """Yield every object below."""
        listing = self._ask("list", lambda store: [one["path"] for page in _pages(store, self.key) for one in page])
        root = BucketPath(*self.parts[:2])
        yield from (root.joinpath(*key.split("/")) for key in listing)

    # ------------------------------------------------------------------------------------------- reading
    def read_bytes(self) -> bytes:
        data = self._ask("read", lambda store: _fetched(obstore.get(store, self.key)))
        return bytes(data)

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def local(self, at: Stat | None = None) -> Path:
        """Return a copy of the object on this machine's disk, for reading. Raise FileNotFoundError.

        at: its `Stat`, where that is known; the bucket is then asked for nothing if there is a copy.
        """
        at = self.stat() if at is None else at
        return bucket_cache.get(str(self), at.version, at.st_size, partial(self.download, at=at))

    def download(self, target: IO[bytes], at: Stat) -> None:
        """Write the object into an open file. Raise FileNotFoundError if it was written anew since `at`."""

        def part(start: int) -> None:
            end = min(start + CHUNK, at.st_size)
            data = self.read_range(start, end, at.version)
            os.pwrite(target.fileno(), data, start)

        starts = range(0, at.st_size, CHUNK)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for first in range(0, len(starts), _AT_ONCE):  # a process that ends waits for all that were begun
                list(pool.map(part, starts[first : first + _AT_ONCE]))

    def read_range(self, start: int, end: int, version: str = "") -> bytes:
        """Return the bytes from `start` up to `end`. Raise FileNotFoundError if it was written anew since `version`."""
        options: Any = {"range": (start, end)} | ({"if_match": _e_tag(version)} if _e_tag(version) else {})
        try:
            data = self._ask("read", lambda store: _fetched(obstore.get(store, self.key, options=options)))
        except exceptions.PreconditionError as error:
            raise FileNotFoundError(2, "The object was replaced while it was read", str(self)) from error
        if len(data) != end - start:
            raise StorageError(f"{self}: {len(data)} bytes came for {end - start}; run again")
        return bytes(data)

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Open a copy on this machine's disk, for reading."""
        if set(mode) & set("wax+"):
            self._refuse()
        return open(self.local(), mode, *args, **kwargs)

    # ------------------------------------------------------------------------------------------- writing
    def put(self, data: "bytes | Path") -> None:
        """Write the object: it holds either its old content or all of the new. data: the bytes, or the file of them."""
        self._ask("write", lambda store: obstore.put(store, self.key, data, chunk_size=CHUNK, max_concurrency=_AT_ONCE))

    def put_if(self, data: bytes, version: str | None) -> str | None:
        """Write the object if it is as at `version`, or, for None, if there is none; return its new version, or None.

        `data` must be like no other's: by its content one knows one's own object when the answer has got lost.
        """
        mode: Any = "create" if version is None else _conditions(version)
        try:
            made = self._ask("write", lambda store: obstore.put(store, self.key, data, mode=mode, use_multipart=False))
            return _version(made)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileNotFoundError):
            there = self.read()
            return there[1] if there is not None and there[0] == data else None

    def read(self) -> tuple[bytes, str] | None:
        """Return the object's content and its version, of one moment; None where there is no object."""

        def get(store: Any) -> tuple[bytes, str]:
            answer = obstore.get(store, self.key)
            return bytes(answer.bytes()), _version(answer.meta)

        try:
            return self._ask("read", get)
        except FileNotFoundError:
            return None

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            self.stat()
        delete([self])

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: folders of a bucket come with what lies in them."""

    # --------------------------------------------------------- what differs from a disk, or has no meaning here
    def absolute(self) -> "BucketPath":
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        return self

    def expanduser(self) -> "BucketPath":
        return self

    def is_symlink(self) -> bool:
        return False

    is_mount = is_socket = is_fifo = is_block_device = is_char_device = is_junction = is_symlink

    def as_uri(self) -> str:
        return str(self)

    def samefile(self, other_path: Any) -> bool:
        return str(self) == str(other_path)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise io.UnsupportedOperation(f"{self} lies in a bucket: it is written through pipelines.common.storage")

    rename = replace = touch = write_bytes = write_text = rmdir = _refuse
    symlink_to = hardlink_to = link_to = readlink = chmod = lchmod = owner = group = lstat = walk = _refuse
    copy = copy_into = move = move_into = _refuse

    # ------------------------------------------------------------------------------------------ requests
    def _ask(self, verb: str, request: Callable[[Any], T]) -> T:
        """Ask the bucket, again as long as its server fails and `PATIENCE_S` lasts. Raise StorageError.

        FileNotFoundError, AlreadyExistsError and PreconditionError are answers: they come through.
        """
        began, wait_s, told = time.monotonic(), _WAIT_S[0], False
        while True:
            try:
                return request(bucket_client.store(self.scheme, self.bucket))
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotModifiedError):
                raise
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise FileNotFoundError(2, "No such object in the bucket", str(self)) from None
            except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
                raise StorageError(
                    f"{self} may not be {_PARTICIPLES[verb]}: {_reason(error)}; {ACCESS[self.scheme]}"
                ) from None
            except (exceptions.BaseError, OSError) as error:
                self._check_bucket(error)
                passed_s = time.monotonic() - began
                refused = re.search(r"status code: 4(?!08|09|29)\d\d|token request", str(error))
                if passed_s + wait_s > (_REFUSED_S if refused else PATIENCE_S):
                    if refused and refused[0] == "token request":  # of the machine's service account, the last resort
                        raise StorageError(
                            f"{self.scheme}:// can't be used: no credentials found; {ACCESS[self.scheme]}"
                        ) from None
                    raise StorageError(
                        f"{self} can't be {_PARTICIPLES[verb]} for {passed_s:.0f} s: {_reason(error)}; see whether the "
                        f"server can be reached, then run again; {ACCESS[self.scheme]}"
                    ) from None
                if not told and passed_s > _WAIT_S[1]:
                    left = PATIENCE_S - passed_s
                    log.warning(
                        "%s can't be %s: %s; trying for %.0f s more", self, _PARTICIPLES[verb], _reason(error), left
                    )
                    told = True
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _WAIT_S[1])

    def _check_bucket(self, error: Exception) -> None:
        """Raise StorageError where a server says that there is no such bucket."""
        if re.search("NoSuchBucket|bucket does not exist", str(error)):
            raise StorageError(f"{self}: there is no bucket {self.bucket}; make it, or correct the name") from None


_PARTICIPLES = {"read": "read", "list": "listed", "write": "written", "delete": "deleted from"}


def delete(paths: Iterable[BucketPath]) -> None:
    """Delete objects, many in one request; those that do not exist count as deleted."""
    by_bucket: dict[tuple[str, str], list[BucketPath]] = {}
    for path in paths:
        by_bucket.setdefault((path.scheme, path.bucket), []).append(path)
    for of_bucket in by_bucket.values():
        for start in range(0, len(of_bucket), _MOST_KEYS):
            some = of_bucket[start : start + _MOST_KEYS]
            keys = [path.key for path in some]
            try:
                some[0]._ask("delete", lambda store: obstore.delete(store, keys))  # noqa: B023
            except FileNotFoundError:  # some servers mind, and stop there
                if len(some) > 1:
                    for path in some:
                        delete([path])


class RangedFile(io.RawIOBase):
    """An object as a file that is read by ranges: each read is one request. Wrap it where many small ones follow."""

    def __init__(self, path: BucketPath) -> None:
        self.path, self._at, self._stat = path, 0, path.stat()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stat.st_size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes from here, all of them where the object has so many."""
        end = self._stat.st_size if size is None or size < 0 else min(self._at + size, self._stat.st_size)
        if end <= self._at:
            return b""
        data = self.path.read_range(self._at, end, self._stat.version)
        self._at = end
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Ranged(Protocol):
    """An object, or a file that passes for one."""

    def read_range(self, start: int, end: int, version: str = "") -> bytes:
        """Return the bytes from `start` up to `end`."""
        ...

    def download(self, target: IO[bytes], at: Stat) -> None:
        """Write all of it into an open file."""
        ...


class SettledFile:
    """Ranges of an object that stays as it is: of its copy on this machine's disk, until there is one of the bucket.

    What is read is copied meanwhile (`bucket_cache.get_later`): nobody waits for a large file to come whole.
    """

    def __init__(self, path: Ranged, at: Stat) -> None:
        self._name, self._stat = str(path), at
        self._source: Ranged | io.FileIO = path

    def pread(self, size: int, offset: int) -> bytes:
        """Return bytes from a place, as `os.pread`. Raise OSError where the object ends before."""
        at = self._stat
        if offset + size > at.st_size:
            raise OSError(f"{self._name} ends before byte {offset + size}: it was cut off or replaced")
        if not size:
            return b""
        source = self._source
        if not isinstance(source, io.FileIO) and (copy := bucket_cache.find(self._name, at.version, at.st_size)):
            # What the one before holds open is closed with it, once no other thread reads from it.
            source = self._source = copy.open("rb", buffering=0)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        if isinstance(source, io.FileIO):
            return os.pread(source.fileno(), size, offset)
        bucket_cache.get_later(self._name, at.version, at.st_size, partial(source.download, at=at))
        return source.read_range(offset, offset + size, at.version)


# ---------------------------------------------------------------------------------------- what a server answers
def _pages(asked: Any, prefix: str) -> Iterable[Any]:
    return obstore.list(asked, prefix or None, chunk_size=_MOST_KEYS)


def _fetched(answer: Any) -> bytes:
    return bytes(answer.bytes())


def _stat(meta: Any) -> Stat:
    at = int(meta["last_modified"].timestamp() * 1000) * 1_000_000
    return Stat(st_size=meta["size"], st_mtime_ns=at, version=_version(meta))


def _version(made: Any) -> str:
    """Return the ETag, and behind a blank the generation, where the server counts them."""
    return " ".join(filter(None, (made["e_tag"], made["version"])))


def _conditions(version: str) -> dict[str, str]:
    e_tag, _, generation = version.partition(" ")
    return {"e_tag": e_tag} | ({"version": generation} if generation else {})


def _e_tag(version: str) -> str:
    return version.partition(" ")[0]


def _reason(error: Exception) -> str:
    """Return what a server or the network said, in one line, without the library's own debugging text."""
    text = str(error).partition("\n\nDebug source")[0]
    if code := re.search(r"<Code>(\w+)</Code>(?:.*?<Message>(.*?)</Message>)?", text, re.DOTALL):
        return printable(" ".join(" ".join(filter(None, code.groups())).split()))
    return printable(" ".join(text.split()))
