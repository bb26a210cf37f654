"""The videos and pictures that paths given to `predict` stand for, and what is left out of their folders.

A file is what its name says; where the name says nothing, its first bytes do. Files that are plainly something else
(text, documents, sound) are not opened, so that ten videos among 100,000 files are found in seconds.
"""

import mimetypes
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.text import first
from pipelines.datasets._root import VIDEO_SUFFIXES
from pipelines.media import stills

# Of files that FFmpeg opens by themselves. `.ts` is TypeScript, too: its content decides.
# fmt: off
SUFFIXES = (
    *VIDEO_SUFFIXES, ".264", ".265", ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc",
    ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogv",
    ".qt", ".rm", ".rmvb", ".vob", ".webm", ".wmv", ".y4m",
)
# fmt: on
HIDDEN, OTHER = "hidden", "neither a video nor a picture"
ARCHIVE = "an archive; name a folder of pictures in it, as in clips.tar/7"

_TYPES = mimetypes.MimeTypes(filenames=())  # Python's own table: the same on every machine
_HEAD_BYTES = 4 + 2 * 192 + 1  # three packets of a transport stream begin in these
# How files begin: Matroska and WebM, ASF and WMV, FLV, MPEG program and video streams, GIF, PNG, JPEG.
_BEGINNINGS = (
    *(b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),
    *(b"GIF87a", b"GIF89a", b"\x89PNG\r\n", b"\xff\xd8\xff"),
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is to be scored, and what lies beside it."""

    videos: Sequence[Path]  # files, folders of frames, paths into archives; each once
    left_out: Mapping[str, Sequence[Path]]  # reason -> files and folders

    def remarks(self) -> list[str]:
        """Return a line for each reason why something is left out, and one on folders that count as videos."""
        lines = [f"Left out, {why}: {first(map(str, paths), 3)}" for why, paths in self.left_out.items()]
        if frames := [str(path) for path in self.videos if path.is_dir()]:
            lines.append(f"Numbered pictures, taken for the frames of a video: {first(frames, 3)}")
        return lines


def find(names: Sequence[str]) -> Inputs:
    """Return the videos that are named or lie in a named folder, at any depth, also behind links.

    A picture is a video of one frame. Two or more pictures in a folder without videos, whose names differ in the last
    number only, are the frames of one video. Raise ValueError for a path where nothing is, or without any video.
    """
    videos: dict[Path, None] = {}
    left_out: dict[str, list[Path]] = defaultdict(list)
    for name in names:
        path = Path(os.path.expanduser(name))  # unlike `Path.expanduser` it takes `~x` as it is without a user x
        archive = stills.split(path)
        if path.is_dir():
            beside: dict[str, list[Path]] = defaultdict(list)
            here = Inputs(videos=list(_walk(path, beside)), left_out=beside)
            if not here.videos:
                raise ValueError("\n".join([f"{path} holds no videos or pictures; name others", *here.remarks()]))
            videos |= dict.fromkeys(here.videos)
            for why, paths in here.left_out.items():
                left_out[why] += paths
        elif path.is_file() or (archive is not None and Path(archive[0]).is_file()):
            videos[path] = None
        else:
            raise ValueError(f"there is no file or folder {path}")
    return Inputs(videos=list(videos), left_out=dict(left_out))


def _walk(top: Path, left_out: dict[str, list[Path]]) -> Iterator[Path]:
    """Yield the videos below a folder, and write down what is none."""

    def refused(error: OSError) -> None:
        left_out[error.strerror or str(error)].append(Path(error.filename))

    seen: set[tuple[int, int]] = set()  # links may lead in circles
    for name, folders, files in os.walk(top, followlinks=True, onerror=refused):
        folder = Path(name)
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:
            left_out["a link to a folder that is searched already"].append(folder)
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        for each in folders:
            if each.startswith("."):
                left_out[HIDDEN].append(folder / each)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        found = []
        for file in sorted(files):
            if why := _why_not(folder / file):
                left_out[why].append(folder / file)
            else:
                found.append(folder / file)
        yield from [folder] if _are_frames([path.name for path in found]) else found


def _why_not(path: Path) -> str:
    """Return why a file is taken neither for a video nor for a picture, or nothing."""
    suffix = path.suffix.lower()
    by_name = suffix in SUFFIXES or stills.is_picture(path.name)
    if path.name.startswith("."):
        return HIDDEN
    if path.name.lower().endswith(stills.ARCHIVES):
        return ARCHIVE
    if not by_name and _TYPES.guess_type(path.name)[0]:
        return OTHER
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            return "not a regular file"
        if by_name:
            return ""
        with path.open("rb") as file:
            return "" if _begins_like_media(file.read(_HEAD_BYTES)) else OTHER
    except FileNotFoundError:
        return "a link that leads nowhere"
    except OSError as error:
        return error.strerror or str(error)


def _begins_like_media(head: bytes) -> bool:
    boxes = head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"))
    packets = any(head[start : start + 2 * size + 1 : size] == b"GGG" for start, size in ((0, 188), (4, 192)))
    return boxes or packets or head.startswith(_BEGINNINGS)


def _are_frames(names: Sequence[str]) -> bool:
    """Say whether these are pictures whose names differ in their last number only."""
    if len(names) < 2 or not all(map(stills.is_picture, names)):
        return False
    return len({re.sub(r"\d+(?=\D*$)", "#", name) for name in names}) == 1
