"""The storage folder: one way to write a file, and names for what lies in it.

Everything that is to outlive its process is written by `writing`, or by what calls it.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class StorageError(ValueError):
    """The storage folder can't be used; the text says what to do."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its name when the block ends well.

    Whatever happens, even a power cut, `path` holds either its old content or all of the new: the bytes are on the
    disk before the name changes, and the name is on the disk before this returns. So a marker that is written after
    other files can't be there without them. Missing folders are made. What an error leaves is removed; a killed process
    leaves `.<name>.<random>.tmp`.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # not the pid: nodes share the folder
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `writing`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, its keys in alphabetical order; see `writing`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Return the value. Raises StorageError naming a file that is not JSON."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not readable JSON ({error}); delete {path.parent} and run again") from error


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet; see `writing`."""
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def make_folder(path: Path) -> None:
    """Make a folder and its parents, their names on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _to_disk(path.parent)


def tree_to_disk(folder: Path) -> None:
    """Flush all that lies below a folder, before it takes the name by which readers know it."""
    for path in (*folder.rglob("*"), folder):
        _to_disk(path)


def _to_disk(path: Path) -> None:
    """Flush a file's bytes, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def put_folder(parent: Path, prefix: str, number: int, files: Mapping[str, bytes]) -> None:
    """Add `<prefix>-<number>` with these files, whole or not at all, and drop all but the two newest.

    One that exists already stays: it was written at the same point of the same training, maybe at this moment by a
    worker on a node that was given up for lost and is still there.
    """
    path, fresh = parent / f"{prefix}-{number:08d}", parent / f".{prefix}-{uuid.uuid4().hex}.new"
    if not path.exists():
        make_folder(fresh)
        try:
            for name, data in files.items():
                write_bytes(fresh / name, data)
            fresh.rename(path)
            _to_disk(parent)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not path.exists():
                raise
    for outdated in folders(parent, prefix)[:-2]:
        shutil.rmtree(outdated, ignore_errors=True)


def folders(parent: Path, prefix: str) -> list[Path]:
    """Return what `put_folder` wrote, oldest first."""
    return sorted(path for path in parent.glob(f"{prefix}-*") if path.is_dir())


def check_storage(uri: str, *, write: bool = True) -> Path:
    """The storage folder, made if missing where `write`. Raises StorageError if it can't be written."""
    if "://" in uri:
        raise StorageError(f"--storage {uri}: only folders are supported so far; mount the bucket and name the folder")
    path = Path(uri).expanduser().resolve()
    if not write:
        return path
    try:
        write_bytes(path / ".writable", b"")
        (path / ".writable").unlink()
    except OSError as error:
        raise StorageError(
            f"--storage {path} can't be written ({error.strerror}); name a folder that can, with some GB free"
        ) from error
    return path


def digest(value: Any) -> str:
    """16 hex digits that name a JSON value (dataclasses and tuples allowed); equal values, equal names."""
    text = json.dumps(value, sort_keys=True, default=_jsonable, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a digest")


DEFAULT_STORAGE = "crossforge-storage"
