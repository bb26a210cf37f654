"""Frames given as pictures: a folder of them, or a folder inside a tar archive.

A frame's index is its place in the natural order of the names (2 before 10), hidden files left out. Pictures carry
no times: 25 a second are assumed. They may differ in size, and come upright (Exif) as RGB.

An archive is never unpacked: it is read through once to list it, and once for the wanted pictures.
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
from PIL import Image, ImageOps

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
    """One line on why a picture cannot be had."""


class Pictures:
    """A source (see `_frames.Source`) made of pictures; `read` gives their bytes by place, in order, or an error."""

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
        return "; ".join(filter(None, [self._damage, f"{self._names[first]}{also}: {self._lost[first]}"]))

    def frames(self, frame_indices: Iterable[int]) -> Iterator[Frame]:
        wanted = sorted({index for index in frame_indices if 0 <= index < len(self._names)})
        for index, data in self._read(wanted):
            try:
                yield Frame(index, self.times[index], _decode(data))
            except _BadPicture as error:
                self._lost[index] = str(error)


def split(path: str | PathLike[str]) -> tuple[str, str] | None:
    """(archive, folder inside it) of a path that leads into a tar archive, by its name; None of any other."""
    parts = str(path).split("/")
    for count in range(1, len(parts) + 1):
        if parts[count - 1].lower().endswith(ARCHIVES):
            return "/".join(parts[:count]), "/".join(parts[count:])
    return None


def is_picture(name: str) -> bool:
    """Is a file of this name one of the pictures? Hidden files are not: `._1.png` is left by macOS."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def open_folder(folder: Path) -> Pictures:
    """Raises UnreadableVideo when the folder cannot be listed or holds no picture."""
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


def open_archive(archive: Path, folder: str) -> Pictures:
    """The pictures of a folder inside a tar archive, compressed or not.

    Raises UnreadableVideo when the archive cannot be read or the folder holds no picture; of the archive as a whole,
    folder "", also when it is damaged: what it holds is not known then.
    """
    try:
        state = archive.stat()
        listing, damage = _listing(archive, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UnreadableVideo(f"{archive}: {_why(error)}") from error
    inside = "/".join(_parts(folder) or ())
    places = listing.get(inside, {})
    names = sorted(places, key=_natural)
    if not names or (damage and not inside):
        why = damage or f"holds no pictures in {inside or 'its top folder'!r}"
        raise UnreadableVideo(f"{archive}: {why}")

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, bytes | _BadPicture]]:
        return _members(archive, {index: places[names[index]] for index in wanted})

    return Pictures(names, read, damage)


def _file_bytes(path: Path) -> bytes | _BadPicture:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return _BadPicture(error.strerror or str(error))
    return data if len(data) <= MAX_BYTES else _too_large()


@lru_cache(maxsize=4)  # several sequences of one archive are usually read one after the other
def _listing(archive: Path, size: int, mtime_ns: int) -> tuple[Mapping[str, Mapping[str, Place]], str]:
    """{folder: {name: place}} of the pictures in an archive, of that size and time, and what is damaged."""
    found: dict[str, dict[str, Place]] = {}
    with _unpacked(archive) as file:
        damage = walk(file, lambda folder, name, place: found.setdefault(folder, {}).update({name: place}))
    return MappingProxyType(found), damage


def walk(file: IO[bytes], on_picture: Callable[[str, str, Place], None]) -> str:
    """Calls on_picture(folder, name, place) for the pictures in a tar, in its order; returns what is damaged, or "".

    Of a name that comes twice the later one counts, as when tar unpacks. Raises OSError when the storage fails.
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
        return f"{what}: {_brief(error)}"
    return ""


def _members(archive: Path, wanted: Mapping[int, Place]) -> Iterator[tuple[int, bytes | _BadPicture]]:
    """(frame index, bytes) in order of index, in one pass; what comes too early waits, still encoded."""
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
        return _BadPicture(_brief(error))
    return data if len(data) == size else _BadPicture("cut off")


def _unpacked(archive: Path) -> AbstractContextManager[IO[bytes]]:
    """The bytes of the tar, by what the file is, not by its name."""
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
        """Raises ReadError unless what was read last ends a tar: tarfile takes a header that it cannot read for that.

        Zeros end it, and nothing but zeros may follow, or they are a gap in the middle.
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
    except Image.DecompressionBombError as error:
        raise _BadPicture(_brief(error)) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        zlib.error,
    ) as error:  # SyntaxError: Pillow on broken PNG chunks
        raise _BadPicture(_brief(error)) from error


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts by the numbers in a name as numbers, whatever their length."""
    parts = re.split("([0-9]+)", name.lower())
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return [(len(part) if i % 2 else 0, part) for i, part in enumerate(parts)], name


def _parts(name: str) -> tuple[str, ...] | None:
    """The parts of a name in an archive; None of one that leads out of it."""
    parts = tuple(part for part in PurePosixPath(name.lstrip("/")).parts if part != ".")
    return None if ".." in parts else parts


def _too_large() -> _BadPicture:
    return _BadPicture(f"larger than {MAX_BYTES // 2**20} MB")


def _why(error: OSError) -> str:
    known = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
    return known.get(type(error)) or error.strerror or str(error)


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
