"""Which folders of pictures a tar archive holds. Listing one means reading it through, so that listings are kept.

They lie in the user's cache folder ($XDG_CACHE_HOME or ~/.cache), and are taken as long as the archive has the same
size and time of change.
"""

import gzip
import hashlib
import json
import os
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from pipelines.datasets._root import Root, is_picture, is_remote

SUFFIXES = (".tar.gz", ".tgz", ".tar")
VERSION = 1
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError)


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def picture_folders(root: Root, archive: str) -> list[str]:
    """The folders in the archive at this path that hold pictures, in order. Raises DatasetError."""
    kept = _kept(root, archive)
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(found, list) and all(isinstance(folder, str) for folder in found):
            return found
    except (OSError, ValueError):
        pass  # not kept yet, or spoiled
    with root.open(archive) as file:
        try:
            found = _read_through(file)
        except _DAMAGED as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise root.error(f"{archive} cannot be read through ({why}); fetch it again") from error
    _keep(kept, found)
    return found


def _read_through(file: IO[bytes]) -> list[str]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    folders: dict[str, None] = {}
    with tarfile.open(fileobj=plain, mode="r:") as tar:
        for member in tar:
            path = PurePosixPath(member.name.lstrip("/"))  # without "./"
            if member.isreg() and is_picture(path.name) and ".." not in path.parts:
                folders[str(path.parent)] = None
    # tarfile takes a header that it cannot read for the end; behind the true end there are zeros only.
    while block := plain.read(2**20):
        if block.count(0) < len(block):
            raise tarfile.ReadError("damaged in the middle")
    return sorted(folders)


def _kept(root: Root, archive: str) -> Path:
    """Where the listing of this state of the archive is kept."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~/.cache"))
    uri = root.uri if is_remote(root.uri) else os.path.abspath(root.uri)
    key = json.dumps([VERSION, uri, archive, root.state(archive)])
    return folder / "crossforge" / "archives" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _keep(place: Path, found: list[str]) -> None:
    """What cannot be kept is read again next time."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file)
        os.replace(partial, place)
    except OSError:
        Path(partial).unlink(missing_ok=True)
