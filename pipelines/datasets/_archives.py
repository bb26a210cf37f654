"""Which folders of pictures a tar archive holds.

Listing an archive means reading all of it, so that listings are kept in the user's cache folder
(`user_cache`). A kept listing is used as long as the archive has the same size and time of change.
"""

import gzip
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from pipelines.common import user_cache
from pipelines.common.storage import write_text
from pipelines.datasets._root import Root, is_remote
from pipelines.media import stills

VERSION = 3


def is_archive(path: str) -> bool:
    """Say whether a file of this name is a tar archive; hidden files are not."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(stills.ARCHIVES) and not name.startswith(".")


def picture_folders(root: Root, archive: str) -> tuple[list[str], str]:
    """Return the folders in the archive at this path that hold pictures, sorted, and what is damaged, or "".

    For a damaged archive, return the folders before the damage, without its top folder "", and keep nothing, since it
    is to be fetched again. Raise DatasetError when the storage cannot be read; that says nothing about the archive.
    """
    kept = _kept(root, archive)
    try:
        folders = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(folders, list) and all(isinstance(folder, str) for folder in folders):
            return folders, ""
    except (OSError, ValueError):
        pass  # not kept yet, or spoiled
    with root.open(archive) as file:
        folders, damage = root.ask(archive, lambda: _read_through(file))
    if damage:
        return [folder for folder in folders if folder], damage
    with suppress(OSError):  # what cannot be kept is read again next time
        write_text(kept, json.dumps(folders))
    return folders, ""


def _read_through(file: IO[bytes]) -> tuple[list[str], str]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    folders: set[str] = set()
    damage = stills.walk(plain, lambda folder, name, place: folders.add(folder))
    return sorted(folders), damage


def _kept(root: Root, archive: str) -> Path:
    """Return the file that holds the listing of this archive in its present state, whether or not it exists."""
    uri = root.uri if is_remote(root.uri) else os.path.abspath(root.uri)
    key = json.dumps([VERSION, uri, archive, root.state(archive)])
    return user_cache.folder() / "archives" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
