"""Which folders of pictures a tar archive holds. Listing one means reading it through, so that listings are kept.

They lie in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), and are taken as long as the archive has the same
size and time of change.
"""

import gzip
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from pipelines.common.storage import write_text
from pipelines.datasets._root import Root, is_remote
from pipelines.media import stills

VERSION = 2


def is_archive(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(stills.ARCHIVES) and not name.startswith(".")


def picture_folders(root: Root, archive: str) -> tuple[list[str], str]:
    """The folders in the archive at this path that hold pictures, in order, and what is damaged, or "".

    Of a damaged archive they are those before the damage, without its top folder "", and nothing is kept: it is to be
    fetched again. Raises DatasetError when the storage cannot be read; that says nothing about the archive.
    """
    kept = _kept(root, archive)
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(found, list) and all(isinstance(folder, str) for folder in found):
            return found, ""
    except (OSError, ValueError):
        pass  # not kept yet, or spoiled
    with root.open(archive) as file:
        found, damage = root._ask(archive, lambda: _read_through(file))
    if damage:
        return [folder for folder in found if folder], damage
    _keep(kept, found)
    return found, ""


def _read_through(file: IO[bytes]) -> tuple[list[str], str]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    folders: set[str] = set()
    damage = stills.walk(plain, lambda folder, name, place: folders.add(folder))
    return sorted(folders), damage


def _kept(root: Root, archive: str) -> Path:
    """Where the listing of this state of the archive is kept."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~/.cache"))
    uri = root.uri if is_remote(root.uri) else os.path.abspath(root.uri)
    key = json.dumps([VERSION, uri, archive, root.state(archive)])
    return folder / "crossforge" / "archives" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _keep(place: Path, found: list[str]) -> None:
    """What cannot be kept is read again next time."""
    with suppress(OSError):
        write_text(place, json.dumps(found))
