"""One way to write a file that must survive a crash; digests that name values; the storage of sweeps.

The storage is a folder, or a place in a bucket, whose paths (`bucket.BucketPath`) are read as those of a folder.

Every file that is to outlive its process is written through `writing`: in a folder under a temporary name, then
fsynced, then renamed; in a bucket as one object. Readers therefore see a file whole or not at all, even after a power
cut. `put_folder` does the same for a folder of files, `tree_to_disk` for a tree that other code has written. `locked`
is a lock among all that use the storage, `ranged` a file of which only parts are fetched.
"""

import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common import bucket, bucket_cache, slow
from pipelines.common.bucket import BucketPath
from pipelines.common.bucket_client import StorageError
from pipelines.common.lease import NOT_LEASED, Claim, Lease

DEFAULT_STORAGE = "crossforge-storage"  # below the current folder
log = logging.getLogger(__name__)
_QUIET_S = 2.0  # how long a person waits for a bucket without a word
_LEFT_S = 3600.0  # a folder that nobody has written to for so long is no longer being written
_WHOLE = "_whole"  # an object that is put last into a folder of a bucket, and deleted first


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it to `path` when the block ends without an error.

    Whatever happens, even a power cut, `path` holds either its old content or all of the new. The bytes are fsynced
    before the rename, and the folder is fsynced after it. So a marker file that is written after other files never
    exists without them. Missing folders are made. After an error the temporary file is removed; a killed process
    leaves it behind as `.<name>.<random>.tmp`. What a symbolic link names is written; a device or a pipe is written to
    as it is.

    Of a file in a bucket, the temporary one lies on this machine's disk, and is uploaded whole at the end.
    """
    if isinstance(path, BucketPath):
        with tempfile.TemporaryDirectory(prefix="crossforge-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.put(temporary)
        return
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # not the pid: nodes share the folder
    try:
        yield temporary
        to_disk(temporary)
        temporary.replace(path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; see `writing`."""
    if isinstance(path, BucketPath):
        path.put(data)
        return
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `writing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, its keys in alphabetical order; see `writing`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a value from a JSON file. Raise StorageError, which names the file, where it is not JSON in UTF-8."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not readable JSON ({error}); delete {path.parent} and run again") from error


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, compressed with zstd; see `writing`."""
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_note(path: Path, value: Any) -> None:
    """Write a value as JSON for a process that looks on, whole or not at all; a power cut may cost the whole file."""
    if isinstance(path, BucketPath):
        path.put(json.dumps(value).encode())
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps(value))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def scratch() -> IO[bytes]:
    """Open a file without a name on this machine's own disk, for what only this process reads: it is gone with it."""
    return tempfile.TemporaryFile(prefix="crossforge-")


def free_bytes(descriptor: int) -> int:
    """Return how much room there is on the disk of an open file, in bytes."""
    disk = os.fstatvfs(descriptor)
    return disk.f_bavail * disk.f_frsize


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; fsync the parent of each folder made, so that all survive a crash."""
    if not isinstance(path, BucketPath) and not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        to_disk(path.parent)


def tree_to_disk(folder: Path) -> None:
    """Fsync a folder and everything below it. Call this before renaming it to the name that readers look for."""
    for path in (*folder.rglob("*"), folder):
        to_disk(path)


def to_disk(path: Path) -> None:
    """Fsync a file, or the list of names in a folder; of a folder that may not be read, or can't be fsynced, none.

    What a bucket has taken is safe.
    """
    if isinstance(path, BucketPath):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise


def copy_tree(source: Path, target: BucketPath, last: str) -> None:
    """Upload the files below a folder of this machine, side by side, and the one that is named `last` after them."""
    files = [path for path in source.rglob("*") if path.is_file() and path != source / last]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: (target / path.relative_to(source)).put(path), files))
    (target / last).put(source / last)


def put_folder(parent: Path, prefix: str, number: int, files: Mapping[str, bytes]) -> None:
    """Write a folder of the given files that `folders` then finds, whole or not at all; keep the two newest only.

    A folder that exists already stays as it is: it was written at the same point of the same training, perhaps just now
    by a worker whose node was taken for lost and is not. Of two that are written to a bucket at once, both are whole,
    and all take the same one.
    """
    path, fresh = parent / f"{prefix}-{number:08d}", parent / f".{prefix}-{uuid.uuid4().hex}.new"
    if number not in map(number_of, folders(parent, prefix)):
        if isinstance(parent, BucketPath):
            path = parent / f"{path.name}-{uuid.uuid4().hex}"
            for name, data in files.items():
                write_bytes(path / name, data)
            write_bytes(path / _WHOLE, b"")
        else:
            make_folder(fresh)
            try:
                for name, data in files.items():
                    write_bytes(fresh / name, data)
                fresh.rename(path)
                to_disk(parent)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                if not path.exists():
                    raise
    if not isinstance(parent, BucketPath):
        for left in parent.glob(f".{prefix}-*.new"):  # by processes that were killed
            # Both times are of the file server's clock.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime - left.stat().st_mtime > _LEFT_S:
                    remove_folder(left)
    oldest = folders(parent, prefix)[-2:][0]
    every = parent.glob(f"{prefix}-*") if isinstance(parent, BucketPath) else folders(parent, prefix)
    for path in every:  # in a bucket also what a killed process has left
        if number_of(path) < number_of(oldest):
            remove_folder(path)


def folders(parent: Path, prefix: str) -> list[Path]:
    """Return the folders that `put_folder` wrote with this prefix, by their number; see `number_of`.

    They are named `<prefix>-<number>`, the number padded with zeros to eight digits; in a bucket, more follows.
    """
    if not isinstance(parent, BucketPath):
        return sorted(path for path in parent.glob(f"{prefix}-{8 * '[0-9]'}") if path.is_dir())
    whole = sorted((marker.parent for marker in parent.glob(f"{prefix}-*/{_WHOLE}")), reverse=True)
    return sorted({number_of(path): path for path in whole}.values())  # of several with one number, the first by name


def number_of(folder: Path) -> int:
    """Return the number that `put_folder` was given."""
    return int(re.search(r"-([0-9]{8})(-[0-9a-f]{32})?$", folder.name)[1])  # type: ignore[index]


def remove_folders(parent: Path, prefix: str) -> None:
    """Delete all that `put_folder` has written with this prefix, also what a killed process has left of it."""
    for path in (*parent.glob(f"{prefix}-*"), *parent.glob(f".{prefix}-*.new")):
        remove_folder(path)


def remove_folder(path: Path) -> None:
    """Delete a folder with all that is in it, as far as possible; in a bucket its marker goes first."""
    if isinstance(path, BucketPath):
        bucket.delete([path / _WHOLE])
        bucket.delete(path.objects())
    else:
        shutil.rmtree(path, ignore_errors=True)


def locked(path: Path, timeout_s: float = -1.0) -> AbstractContextManager[Any]:
    """Return a lock among all processes and machines that use the storage, by the name of a file for it.

    It belongs to the process and goes with it: in a bucket within half a minute, where the process ran on another
    machine. A process that was stopped or cut off for as long may lose it: see `claim_of`. timeout_s: how long to wait
    for it; negative for ever. Raises TimeoutError.
    """
    return Lease(path=path, timeout_s=timeout_s) if isinstance(path, BucketPath) else filelock.FileLock(path, timeout_s)


def claim_of(held: Any) -> Claim:
    """Return what shows, to any process, that a lock is still held; from what `locked` gave when it was taken."""
    return held.claim if isinstance(held, Lease) else NOT_LEASED


def on_this_machine(folder: Path, *, make: bool = True) -> Path:
    """Return the folder itself, or of one in a bucket a folder of this machine's disk, for what may go with it.

    make: whether to make it if it is missing.
    """
    if not isinstance(folder, BucketPath):
        return folder
    own = bucket_cache.folder() / digest(str(folder)) / folder.name
    if make:
        own.mkdir(parents=True, exist_ok=True)
    return own


def ranged(path: Path) -> Any:
    """Return what `pyarrow` reads parts of a file from: its path, or in a bucket a file that fetches no more."""
    return bucket.RangedFile(path) if isinstance(path, BucketPath) else path


def opened(path: Path, at: Any) -> Any:
    """Open a binary file without a buffer, for reading a part here and there.

    One in a bucket, or in a folder that is named as slow, as `bucket.SettledFile`. at: what its `stat` has returned,
    however long ago. Raise FileNotFoundError where one in a slow folder was written anew since.
    """
    if isinstance(path, BucketPath):
        return bucket.SettledFile(path, at)
    if slow.is_slow(path):
        file = slow.SlowFile(path)
        told = file.stat(at)
        return bucket.SettledFile(file.open(told), told)
    return path.open("rb", buffering=0)


def local(path: Path, at: Any = None) -> Path:
    """Return the file itself, or of one in a bucket or a slow folder its copy on this machine's disk, for reading.

    at: what its `stat` has returned; without it the bucket is asked.
    """
    if isinstance(path, BucketPath):
        return path.local(at)
    if not slow.is_slow(path):
        return path
    file = slow.SlowFile(path)
    told = file.stat(at)
    return bucket_cache.get(str(file), told.version, told.st_size, partial(file.download, at=told))


@contextmanager
def named_copy(path: Path) -> Iterator[Path]:
    """Yield the file itself, or of one in a bucket a copy that has its name, for as long as the block lasts."""
    if not isinstance(path, BucketPath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="crossforge-") as folder:
        yield Path(shutil.copyfile(path.local(), Path(folder) / path.name))


def state(path: Path) -> list[Any]:
    """Return what changes when a file is written anew."""
    at = path.stat()
    return [at.st_size, at.version if isinstance(path, BucketPath) else at.st_mtime_ns]  # type: ignore[attr-defined]


def expanded(path: str | Path) -> Path:
    """Return a path of this machine with the home folder in place of a leading `~` or `~user`.

    Raise StorageError for `~x` where there is neither a user x nor a file of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if Path(path).exists():
            return Path(path)
        user = Path(path).parts[0]
        raise StorageError(
            f"{path}: there is no home folder {user}; write ~/ for your own, or ./{path} for a file of that name"
        ) from error


def path_of(named: str | Path) -> Path:
    """Return the path of a file or folder that is named by a path or by a bucket's URI. Raise StorageError."""
    if isinstance(named, BucketPath):
        return named
    return bucket.parse(named) if isinstance(named, str) and bucket.is_bucket(named) else expanded(named)


def check_storage(uri: str, *, write: bool = True) -> Path:
    """Return the storage as an absolute path. With `write`, make it if it is missing and check that it works.

    Commands ask it before what works is imported, which takes seconds. Where a bucket is slow to answer, say so.

    Raise StorageError for what is neither a place in a bucket nor a folder that is there or can be made, for a bucket
    that there is not or that can't be read, and, with `write`, for what can't be written.
    """
    if not uri:
        raise StorageError("--storage is empty; name a folder, . for the current one, or s3://bucket/prefix")
    if re.match(r"(s3|gs):(?!//)", uri):
        raise StorageError(f"--storage {uri}: a place in a bucket is written {uri.partition(':')[0]}://bucket/prefix")
    path = (bucket.parse(uri) if "://" in uri else expanded(uri)).resolve()
    if not write:
        if isinstance(path, BucketPath):
            with _waiting(path):
                path.is_dir()  # which raises for a bucket that there is not
        elif not os.path.isdir(next(filter(os.path.exists, (path, *path.parents)))):
            raise StorageError(f"--storage {path} is a file, or below one; name a folder")
        return path
    try:
        with _waiting(path):
            write_bytes(path / ".writable", b"")
            (path / ".writable").unlink(missing_ok=True)  # another launch may try at the same moment
    except OSError as error:
        raise StorageError(
            f"--storage {path} can't be written ({error.strerror}); name a folder that can, with some GB free"
        ) from error
    return path


@contextmanager
def _waiting(path: Path) -> Iterator[None]:
    """Say of a bucket, where the block takes longer than `_QUIET_S`, what is waited for."""
    said = "%s has not answered yet; waiting for it, or for credentials, up to %.0f min"
    timer = threading.Timer(_QUIET_S, log.warning, (said, path, bucket.PATIENCE_S / 60))
    timer.daemon = True
    if isinstance(path, BucketPath):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def digest(value: Any) -> str:
    """Return 16 hex digits that name a value: equal values get equal names.

    The value is anything that JSON can hold, and tuples and dataclasses. Raise TypeError for anything else.
    """
    text = json.dumps(value, sort_keys=True, default=_jsonable, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a digest")
