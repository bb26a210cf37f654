"""A dataset's folder, local or remote, as the adapters see it; and the rows of VIDEOS that they make.

Names match in any case, and errors show what is there. Bytes of a name that are not UTF-8 are written as `\\xe9` (see
`common.filenames`). Paths below a root are plain `str` with `/`; "" is the root itself.
"""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote

import fsspec

from pipelines.common.filenames import escaped, on_disk
from pipelines.common.text import first, one_line

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")
FRAME_FOLDERS = ("images", "frames")  # of videos that were unpacked into pictures
LITTER = "__MACOSX"  # a folder that macOS adds to its archives: `._` files, named as the real ones

# What a person can do when a server refuses, by the scheme of the URI.
_ACCESS = {
    "s3": "credentials are taken from the usual places (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws), a server other than "
    "Amazon's from AWS_ENDPOINT_URL; FSSPEC_S3_ANON=true reads a public bucket without any",
    "gs": "credentials are taken from GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "http": "the server must be reachable from here and answer with a list of the folder's files",
}
_ACCESS |= {"s3a": _ACCESS["s3"], "gcs": _ACCESS["gs"], "https": _ACCESS["http"]}
_EXTRAS = {"gs": "uv sync --extra gcs", "gcs": "uv sync --extra gcs"}

T = TypeVar("T")


class DatasetError(ValueError):
    """A dataset is not where, or not what, it is said to be; the message says what was expected and what to do."""


class Root:
    """The folder or URI of a dataset. `layout` is the folder tree that errors show. Each folder is listed only once."""

    def __init__(self, name: str, uri: str, layout: str) -> None:
        self.name, self.uri, self.layout = name, uri, layout
        self._local = None if is_remote(uri) else Path(uri.removeprefix("file://"))
        self._listed: dict[str, dict[str, bool]] = {}
        self._litter: list[str] = []
        self._notes: list[str] = []
        self._spelled: dict[str, dict[str, list[str]]] = {}  # folder -> name in lower case -> names

    def error(self, what: str) -> DatasetError:
        """Return the error to raise: `what` is wrong, what was expected, what is there, and what to do."""
        there = first((name + "/" * is_folder for name, is_folder in self.entries().items()), limit=12)
        return DatasetError(
            f"{self.name} at {self.uri}: {what}.\n"
            f"Expected\n{self.layout}\n"
            f"Found in {self.uri}: {there or 'nothing'}\n"
            f"Put the missing part there, or correct the line `{self.name} = ...` in datasets.toml."
        )

    def note(self, text: str) -> None:
        """Keep a line on what was left out, or chosen, and is no error; of equal lines one."""
        if text not in self._notes:
            self._notes.append(text)

    def notes(self) -> list[str]:
        """Return what was noted so far."""
        litter = [f"left out {first(self._litter)}, which macOS adds to archives"] if self._litter else []
        return [*self._notes, *litter]

    def entries(self, folder: str = "") -> dict[str, bool]:
        """Return {name: whether it is a folder}, sorted by name, without `LITTER`, which is noted.

        Raise DatasetError when it cannot be listed.
        """
        if folder not in self._listed:
            entries = self._list_local(folder) if self._local is not None else self._list_remote(folder)
            if entries.pop(LITTER, False):
                self._litter.append(join(folder, LITTER))
            self._listed[folder] = dict(sorted(entries.items()))
        return self._listed[folder]

    def find(self, *parts: str, base: str = "") -> str | None:
        """Return the path of the entry `parts` below `base`, in any case; None when there is none.

        Raise DatasetError when two entries differ only in case: taking one would lose the other.
        """
        path = base
        for part in "/".join(parts).split("/"):
            if not self.is_folder(path):
                return None
            hits = [join(path, name) for name in self._spellings(path).get(part.lower(), [])]
            if len(hits) > 1:
                raise self.error(f"{first(hits)} differ only in upper and lower case")
            if not hits:
                return None
            path = hits[0]
        return path

    def folder(self, *parts: str, base: str = "") -> str | None:
        """Return what `find` returns. Raise DatasetError when that is a file."""
        path = self.find(*parts, base=base)
        if path is not None and not self.is_folder(path):
            raise self.error(f"{path} is a file where a folder should be")
        return path

    def folders(self, base: str = "") -> list[str]:
        """Return the paths of the folders in a folder; hidden ones are left out."""
        return [join(base, name) for name, is_dir in self.entries(base).items() if is_dir and not name.startswith(".")]

    def is_folder(self, path: str) -> bool:
        """Say whether there is a folder at exactly this path."""
        parent, _, name = path.rpartition("/")
        return not path or self.entries(parent).get(name, False)

    def file(self, *places: str) -> str:
        """Return the path of the first of `places` that exists. Raise DatasetError when none does or it is a folder."""
        path = next(filter(None, (self.find(place) for place in places)), None)
        if path is None:
            raise self.error(f"{' or '.join(places)} is missing")
        if self.is_folder(path):
            raise self.error(f"{path} is a folder where a file should be")
        return path

    def text(self, *places: str) -> str:
        """Return the text of the first of `places` that exists. Raise DatasetError for none, or if it is not UTF-8."""
        path = self.file(*places)
        with self.open(path) as file:
            data = self.ask(path, file.read)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error

    def open(self, path: str) -> IO[bytes]:
        """Open the file at exactly this path for reading; the caller closes it. Raise DatasetError."""
        if self._local is not None:
            return self.ask(path, lambda: open(self._place(path), "rb"))
        return self.ask(path, lambda: self._system[0].open(self._place(path), "rb"))

    def state(self, path: str) -> str:
        """Return a text that changes when the file does: its size, and the time or tag of its last change."""
        return told_state(self._info(path))

    def videos(self, *parts: str, base: str = "") -> dict[str, str]:
        """Return {stem: path} of the video files in a folder, or in its `videos/`; empty when there is no such folder.

        Raise DatasetError when two files have one stem, or a folder is named like a video.
        """
        folder = self.folder(*parts, base=base) if parts else base
        if folder is None:
            return {}
        folder = self.folder("videos", base=folder) or folder
        videos: dict[str, str] = {}
        for name, is_folder in self.entries(folder).items():
            if not is_video(name):
                continue
            path, stem = join(folder, name), name.rpartition(".")[0]
            if is_folder:
                raise self.error(f"{path} is a folder where a video file should be")
            if stem in videos:
                raise self.error(f"{path} and {PurePosixPath(videos[stem]).name} are two files for one video")
            videos[stem] = path
        return videos

    def footage(self, *parts: str, base: str = "") -> dict[str, str]:
        """Return {stem: path} of the videos of a folder: files, and folders of pictures where there is no file.

        A mixture is noted. Raise DatasetError as `videos` and `frames` do.
        """
        videos, frames = self.videos(*parts, base=base), self.frames(*parts, base=base)
        pictures = frames.keys() - videos.keys()
        if videos and pictures:
            place = self.folder(*parts, base=base) if parts else base
            total = len(videos) + len(pictures)
            self.note(f"{place}: {len(pictures)} of {total} videos are there as pictures only, and read from these")
        return frames | videos

    def frames(self, *parts: str, base: str = "") -> dict[str, str]:
        """Return {name: path} of the videos that lie as folders of pictures in a folder's `images/` or `frames/`.

        Raise DatasetError when both hold the same video.
        """
        folder = self.folder(*parts, base=base) if parts else base
        places = [self.folder(name, base=folder) for name in FRAME_FOLDERS] if folder is not None else []
        paths = [path for place in places if place for path in self.folders(place)]
        videos = {PurePosixPath(path).name: path for path in paths}
        if len(videos) < len(paths):
            raise self.error(f"{folder} has the same frames in {' and in '.join(FRAME_FOLDERS)}; keep one")
        return videos

    # ------------------------------------------------------------------------------------ storage
    def _spellings(self, folder: str) -> Mapping[str, list[str]]:
        """Return {name in lower case: names as they are} of a folder's entries."""
        if folder not in self._spelled:
            spelled = defaultdict(list)
            for name in self.entries(folder):
                spelled[name.lower()].append(name)
            self._spelled[folder] = spelled
        return self._spelled[folder]

    def _list_local(self, folder: str) -> dict[str, bool]:
        def scan() -> dict[str, bool]:
            with os.scandir(self._place(folder)) as there:
                return {escaped(entry.name): entry.is_dir() for entry in there}

        return self.ask(folder, scan)

    def _list_remote(self, folder: str) -> dict[str, bool]:
        system, place = self._system[0], self._place(folder)
        web = self._scheme in ("http", "https")
        listed = self.ask(folder, lambda: system.ls(f"{place}/" if web else place, detail=True))
        itself = [(_name(place, web), "file")]
        if [(_name(entry["name"], web), entry["type"]) for entry in listed] == itself and not web:
            raise self._refusal(folder, NotADirectoryError(errno.ENOTDIR, "is a file"))
        entries = {}
        for entry in listed:
            # Web pages have links to sort their columns; a bucket may hold an empty object in place of the folder.
            path = re.split("[?#]", entry["name"])[0] if web else entry["name"]
            if path.rstrip("/") != place.rstrip("/"):
                entries[_name(path, web)] = entry["type"] == "directory"
        return {name: is_folder for name, is_folder in entries.items() if name not in ("", ".", "..")}

    def _info(self, path: str) -> Mapping[str, Any]:
        """Return what the storage tells of a file. Raise DatasetError."""
        if self._local is not None:
            state = self.ask(path, lambda: os.stat(self._place(path)))
            return {"size": state.st_size, "mtime": state.st_mtime_ns}
        return self.ask(path, lambda: self._system[0].info(self._place(path)))

    def _place(self, path: str) -> str:
        """Return a path below the root in the storage's own form."""
        if self._local is not None:
            return on_disk(str(self._local / path))
        base = self._system[1].rstrip("/")
        return join(base, quote(path) if self._scheme in ("http", "https") else path).rstrip("/")

    @cached_property
    def _system(self) -> tuple[Any, str]:
        """The fsspec file system of the root, and the root's path in it."""
        system, path = self.ask("", lambda: fsspec.url_to_fs(self.uri))
        system.invalidate_cache()  # fsspec shares listings between all users of a server, for as long as we run
        return system, path

    @property
    def _scheme(self) -> str:
        return self.uri.partition("://")[0].lower()

    def ask(self, path: str, question: Callable[[], T]) -> T:
        """Ask the storage something about the file or folder `path`. Raise DatasetError for whatever it raises."""
        try:
            return question()
        except DatasetError:
            raise
        except Exception as error:  # each backend has exceptions of its own, with no common base
            raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: Exception) -> DatasetError:
        """Return the error that says why the storage does not give `path`, and what to do."""
        where = f"root of {self.name}: {self.uri}" if not path else f"{self.name}: {join(self.uri.rstrip('/'), path)}"
        if isinstance(error, ImportError):
            extra = _EXTRAS.get(self._scheme)
            text = f"needs a package that is not installed: {one_line(error)}"
            return DatasetError(f"{where} {text}{f' (here: `{extra}`)' if extra else ''}")
        if isinstance(error, FileNotFoundError):
            text = "does not exist"
        elif isinstance(error, NotADirectoryError):
            text = "is a file"
        elif isinstance(error, PermissionError):
            text = f"may not be read: {one_line(error)}"
        else:
            text = f"cannot be read: {one_line(error)}"
        access = f"; {_ACCESS[self._scheme]}" if self._local is None and self._scheme in _ACCESS else ""
        todo = "" if path else f"; datasets.toml must name a folder with\n{self.layout}"
        return DatasetError(f"{where} {text}{access}{todo}")


def told_state(info: Mapping[str, Any]) -> str:
    """Return a text that changes when a file does, from what fsspec tells of it."""
    told = ("ETag", "etag", "mtime", "LastModified", "updated", "Last-Modified", "created")
    return f"{info.get('size')} {next(filter(None, (info.get(key) for key in told)), '')}"


def is_remote(uri: str) -> bool:
    """Say whether fsspec is needed to read this root; a file:// URI is local."""
    return "://" in uri and not uri.startswith("file://")


def is_video(path: str) -> bool:
    """Say whether a file of this name is a video. Hidden files are not: macOS leaves files such as `._x.mp4`."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def parent(path: str) -> str:
    """Return the folder or URI that a file lies in."""
    return path.rpartition("/")[0] if "://" in path else str(Path(path).parent)


def join(folder: str, name: str) -> str:
    """Return the path of an entry of a folder; either may be ""."""
    return "/".join(filter(None, (folder, name)))


def row(dataset: str, video_id: str, uri: str, *, label: int, split: str, source_ids: list[str], **rest: Any) -> dict:
    """Return a row of VIDEOS; columns that are not given get the values that most datasets have there."""
    usual = {"method": "real", "codec": "unknown", "root": dataset, "mask_uri": None, "real_id": None, "real_uri": None}
    usual |= {"face_rule": "largest"}
    given = {"dataset": dataset, "video_id": video_id, "uri": uri, "label": label, "split": split}
    return usual | given | {"source_ids": source_ids} | rest


def by_id(rows: Iterable[dict]) -> list[dict]:
    """Return the rows sorted by `video_id`, as adapters must."""
    return sorted(rows, key=lambda row: row["video_id"])


def _name(place: str, web: bool) -> str:
    """Return the last part of a path; on the web, %-escapes are decoded."""
    name = place.rstrip("/").rpartition("/")[2]
    return unquote(name) if web else name
