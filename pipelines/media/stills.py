"""Videos given as pictures: a folder of them, or a folder inside a tar archive; one picture is a video of one frame.

A picture may lie in an archive, too; many of one archive are read in one pass.

A frame's index is its place in the natural order of the names (2 before 10); hidden files are left out. Pictures carry
no times: 25 a second are assumed. They may differ in size, and come upright (Exif) as RGB.

An archive is never unpacked to disk. It is read through once to list it, and once for the wanted pictures.
"""

import gzip
import io
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from os import PathLike
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.common.filenames import escaped
from pipelines.common.text import one_line
from pipelines.media.frames import Frame, UnreadableVideo

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FPS = 25
MAX_BYTES = 64 * 2**20  # of one file; larger ones are taken for decompression bombs
MAX_PIXELS = 2**26  # 8 times 4K

ARCHIVES = (".tar", ".tar.gz", ".tgz")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_SPOOL_BYTES = 2**26
# What a damaged archive raises. gzip's own error is an OSError, but not every OSError says that an archive is damaged.
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)

Place = tuple[int, int]  # of a file in an archive: first byte, number of bytes


class _BadPicture(Exception):
    """A picture cannot be read; the message is one line that says why."""


class Pictures:
    """A source (see `frames.Source`) made of pictures.

    `read` takes sorted places in `names` and yields (place, bytes of the picture or why there are none) in that order.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[Sequence[int]], Iterator[tuple[int, bytes | _BadPicture]]],
        note: str = "",
    ) -> None:
        self.times = [index / FPS for index in range(len(names))]
        self._names, self._read, self._damage = names, read, note
        self._lost: dict[int, str] = {}  # frame index -> why

    @property
    def note(self) -> str:
        if not self._lost:
            return self._damage
        first = min(self._lost)
        also = f" and {len(self._lost) - 1} more" if len(self._lost) > 1 else ""
        return "; ".join(filter(None, [self._damage, f"{escaped(self._names[first])}{also}: {self._lost[first]}"]))

    def frames(self, frame_indices: Iterable[int]) -> Iterator[Frame]:
        wanted = sorted({index for index in frame_indices if 0 <= index < len(self._names)})
        for index, data in self._read(wanted):
            try:
                yield Frame(index, self.times[index], _decode(data))
            except _BadPicture as error:
                self._lost[index] = str(error)


def split(path: str | PathLike[str]) -> tuple[str, str] | None:
    """Split a path that leads into a tar archive into (archive, folder inside it); return None for any other path.

    Archives are told by their names.
    """
    parts = str(path).split("/")
    for count in range(1, len(parts) + 1):
        if parts[count - 1].lower().endswith(ARCHIVES):
            return "/".join(parts[:count]), "/".join(parts[count:])
    return None


def is_picture(path: str) -> bool:
    """Say whether a file of this name is a picture. Hidden files are not: macOS leaves files such as `._1.png`."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def open_folder(folder: Path) -> Pictures:
    """Return the video in a folder. Raise UnreadableVideo when the folder cannot be listed or holds no picture."""
    try:
        names = sorted((path.name for path in folder.iterdir() if is_picture(path.name)), key=_natural)
    except OSError as error:
        raise UnreadableVideo(f"{folder}: {_why(error)}") from error
    if not names:
        raise UnreadableVideo(f"{folder}: is a folder without pictures ({', '.join(SUFFIXES)})")

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, bytes | _BadPicture]]:
        for index in wanted:
            yield index, _file_bytes(folder / names[index])

    return Pictures(names, read)


def open_picture(path: Path) -> Pictures:
    """Return a picture as a video of one frame. Raise UnreadableVideo where there is no such file."""
    if not path.is_file():
        raise UnreadableVideo(f"{path}: no such file")
    return Pictures([path.name], lambda wanted: ((index, _file_bytes(path)) for index in wanted))


def open_archive(archive: Path, folder: str) -> Pictures:
    """Return the video in a folder inside a tar archive, compressed or not; folder "" is the archive as a whole.

    `folder` may be the path of a picture, too, which is a video of one frame. Raise UnreadableVideo when the archive
    cannot be read or the folder holds no picture. For folder "", raise it also when the archive is damaged, since
    nobody knows then what it held.
    """
    places, damage = _inside(archive, folder)
    names = sorted(places, key=_natural)

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, bytes | _BadPicture]]:
        return _members(archive, {index: places[names[index]] for index in wanted})

    return Pictures(names, read, damage)


def open_members(archive: Path, inside: Mapping[int, str]) -> Iterator[tuple[int, Pictures | UnreadableVideo]]:
    """Yield (key, the video) for each of the pictures or folders in a tar archive; why there is none in its place.

    Pictures are read in one pass over the archive, in its order.
    """
    pictures: dict[int, tuple[str, Place, str]] = {}
    for key, path in inside.items():
        try:
            places, damage = _inside(archive, path)
        except UnreadableVideo as error:
            yield key, error
            continue
        if len(places) > 1:
            yield key, open_archive(archive, path)
        else:
            (picture,) = places.items()
            pictures[key] = *picture, damage
    if not pictures:
        return
    with _unpacked(archive) as file:
        for key in sorted(pictures, key=lambda key: pictures[key][1]):
            name, place, damage = pictures[key]
            yield key, _picture(name, _member_bytes(file, place), damage)


def _picture(name: str, data: bytes | _BadPicture, note: str) -> Pictures:
    return Pictures([name], lambda wanted: ((index, data) for index in wanted), note)


def _inside(archive: Path, path: str) -> tuple[Mapping[str, Place], str]:
    """Return {name: place} of what lies in a folder of an archive, or of one picture, and what is damaged, or "".

    Raise UnreadableVideo as `open_archive` does.
    """
    try:
        state = archive.stat()
        listing, damage = _listing(archive, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UnreadableVideo(f"{archive}: {_why(error)}") from error
    inside = "/".join(_parts(path) or ())
    folder, _, name = inside.rpartition("/")
    alone = listing.get(folder, {}).get(name)
    places = listing.get(inside, {}) if alone is None else {name: alone}
    if not places or (damage and not inside):
        missing = f"picture {inside!r}" if is_picture(name) else f"pictures in {inside or 'its top folder'!r}"
        why = damage or f"holds no {missing}"
        raise UnreadableVideo(f"{archive}: {why}")
    return places, damage


def _file_bytes(path: Path) -> bytes | _BadPicture:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _BadPicture(error.strerror or str(error))
    return data if len(data) <= MAX_BYTES else _too_large()


@lru_cache(maxsize=4)  # several sequences of one archive are usually read one after the other
def _listing(archive: Path, size: int, mtime_ns: int) -> tuple[Mapping[str, Mapping[str, Place]], str]:
    """Return {folder: {name: place}} of the pictures in an archive, and what is damaged, or "".

    Size and time of change are there for the cache: a changed archive is listed anew.
    """
    folders: dict[str, dict[str, Place]] = {}
    with _unpacked(archive) as file:
        damage = walk(file, lambda folder, name, place: folders.setdefault(folder, {}).update({name: place}))
    return MappingProxyType(folders), damage


def walk(file: IO[bytes], on_picture: Callable[[str, str, Place], None]) -> str:
    """Call on_picture(folder, name, place) for each picture in a tar, in its order; return what is damaged, or "".

    A name may come twice; then the later one counts, as when tar unpacks. Raise OSError when the storage fails.
    """
    count = 0
    bounded = _Bounded(file)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as tar:
            while member := tar.next():
                count += 1
                parts = _parts(member.name)
                if parts and member.isreg() and not member.issparse() and is_picture(parts[-1]):
                    on_picture("/".join(parts[:-1]), parts[-1], (member.offset_data, member.size))
                tar.members.clear()  # type: ignore[attr-defined]  # or tarfile keeps them all
        bounded.check_end()
    except _DAMAGED as error:
        what = f"reading the archive stops after {count} entries" if count else "not a tar archive"
        return f"{what}: {one_line(error)}"
    return ""


def _members(archive: Path, wanted: Mapping[int, Place]) -> Iterator[tuple[int, bytes | _BadPicture]]:
    """Yield (frame index, bytes) in order of index, in one pass over the archive.

    A picture that lies before its turn waits in memory or in a temporary file, still encoded.
    """
    order = sorted(wanted)
    early: dict[int, Place | _BadPicture] = {}
    with _unpacked(archive) as file, tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        for index in sorted(wanted, key=lambda index: wanted[index]):
            data = _member_bytes(file, wanted[index])
            if index == order[0]:
                yield order.pop(0), data
            elif isinstance(data, bytes):
                early[index] = spool.seek(0, io.SEEK_END), len(data)
                spool.write(data)
            else:
                early[index] = data
            while order and order[0] in early:
                kept = early.pop(order[0])
                if isinstance(kept, tuple):
                    spool.seek(kept[0])
                    yield order.pop(0), spool.read(kept[1])
                else:
                    yield order.pop(0), kept


def _member_bytes(file: IO[bytes], place: Place) -> bytes | _BadPicture:
    start, size = place
    if size > MAX_BYTES:
        return _too_large()
    try:
        file.seek(start)
        data = file.read(size)
    except (*_DAMAGED, OSError) as error:
        return _BadPicture(one_line(error))
    return data if len(data) == size else _BadPicture("cut off")


def _unpacked(archive: Path) -> AbstractContextManager[IO[bytes]]:
    """Open the tar inside an archive; its first bytes, not its name, say whether it is compressed."""
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(archive, "rb")) if packed else open(archive, "rb")


class _Bounded:
    """A file of which no header can demand more than MAX_BYTES at once: tarfile reads long names whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._last = self._file.read(size)
        return self._last

    def check_end(self) -> None:
        """Raise ReadError unless what was read last ends a tar. tarfile also stops at a header that it cannot read.

        Zeros end a tar, and only zeros may follow; else they are a gap in the middle.
        """
        if not self._last:
            raise tarfile.ReadError("cut off")
        rest = self._last
        while rest:
            if rest.count(0) < len(rest):
                raise tarfile.ReadError("damaged in the middle")
            rest = self._file.read(2**20)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _decode(data: bytes | _BadPicture) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8, upright. Raise _BadPicture."""
    if isinstance(data, _BadPicture):
        raise data
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _BadPicture(f"{image.width} x {image.height} pixels are too many")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bit gray, which `convert` would clip
                gray = (np.asarray(upright) >> 8).astype(np.uint8)
                return np.ascontiguousarray(np.repeat(gray[..., None], 3, axis=-1))
            return np.array(upright.convert("RGB"))
    except UnidentifiedImageError as error:  # whose message names an address in memory
        raise _BadPicture("not a picture of a known kind, or damaged") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise _BadPicture(one_line(error)) from error  # SyntaxError is Pillow's for broken PNG chunks


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares the numbers in a name as numbers, whatever their length."""
    parts = re.split("([0-9]+)", name.lower())
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return [(len(part) if i % 2 else 0, part) for i, part in enumerate(parts)], name


def _parts(name: str) -> tuple[str, ...] | None:
    """Return the parts of a name in an archive, `escaped`; None for a name that leads out of it."""
    parts = tuple(part for part in PurePosixPath(escaped(name).lstrip("/")).parts if part != ".")
    return None if ".." in parts else parts


def _too_large() -> _BadPicture:
    return _BadPicture(f"larger than {MAX_BYTES // 2**20} MB")


def _why(error: OSError) -> str:
    known = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
    return known.get(type(error)) or error.strerror or str(error)
