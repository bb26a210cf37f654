"""TODO pipelines.common.storage."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StorageError(ValueError):
    """The storage folder can't be used; the text says what to do."""


def write_atomic(path: Path, data: bytes) -> None:
    """`path` holds either its old content or all of `data`, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # not the pid: nodes share the folder
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not readable JSON ({error}); delete {path.parent} and run again") from error


def put_folder(parent: Path, prefix: str, number: int, files: Mapping[str, bytes]) -> None:
    """Adds `<prefix>-<number>` with these files, whole or not at all, and drops all but the two newest.

    One that exists already stays: it was written at the same point of the same training, maybe at this moment by a
    worker on a node that was given up for lost and is still there.
    """
    path, fresh = parent / f"{prefix}-{number:08d}", parent / f".{prefix}-{uuid.uuid4().hex}.new"
    if not path.exists():
        fresh.mkdir(parents=True)
        try:
            for name, data in files.items():
                with (fresh / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            fresh.rename(path)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not path.exists():
                raise
    for outdated in folders(parent, prefix)[:-2]:
        shutil.rmtree(outdated, ignore_errors=True)


def folders(parent: Path, prefix: str) -> list[Path]:
    """What `put_folder` wrote, oldest first."""
    return sorted(path for path in parent.glob(f"{prefix}-*") if path.is_dir())


def check_storage(uri: str, *, write: bool = True) -> Path:
    """The storage folder, made if missing where `write`. Raises StorageError if it can't be written."""
    if "://" in uri:
        raise StorageError(f"--storage {uri}: only folders are supported so far; mount the bucket and name the folder")
    path = Path(uri).expanduser().resolve()
    if not write:
        return path
    try:
        write_atomic(path / ".writable", b"")
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
