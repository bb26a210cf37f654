"""A dataset's folder, local or remote, as the adapters need it: names match in any case, errors show what is there.

Paths below a root are plain `str` with `/`; "" is the root itself.
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

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FRAME_FOLDERS = ("images", "frames")  # of videos that were unpacked into pictures

# What to do when a server refuses, by the scheme of the URI.
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
    """A dataset is not where, or not what, it is said to be."""


class Root:
    """The folder or URI `uri` of dataset `name`, which should look like `layout`. Each folder is listed once."""

    def __init__(self, name: str, uri: str, layout: str) -> None:
        self.name, self.uri, self.layout = name, uri, layout
        self._local = None if is_remote(uri) else Path(uri.removeprefix("file://"))
        self._listed: dict[str, dict[str, bool]] = {}
        self._spelled: dict[str, dict[str, list[str]]] = {}  # folder -> name in lower case -> names

    def error(self, what: str) -> DatasetError:
        """The error to raise: `what` is wrong, what was expected, what is there, what to do."""
        there = self.entries()
        found = shorten([name + "/" * is_folder for name, is_folder in there.items()], limit=12)
        return DatasetError(
            f"{self.name} at {self.uri}: {what}.\n"
            f"Expected\n{self.layout}\n"
            f"Found in {self.uri}: {found or 'nothing'}\n"
            f"Put the missing part there, or correct the line `{self.name} = ...` in datasets.toml."
        )

    def entries(self, folder: str = "") -> dict[str, bool]:
        """{name: is it a folder}, by name. Raises DatasetError when the folder cannot be listed."""
        if folder not in self._listed:
            found = self._list_local(folder) if self._local is not None else self._list_remote(folder)
            self._listed[folder] = dict(sorted(found.items()))
        return self._listed[folder]

    def find(self, *parts: str, base: str = "") -> str | None:
        """The path of the entry `parts` below `base`; None when there is none.

        Raises DatasetError when two entries differ in nothing but case: taking one would lose the other.
        """
        path = base
        for part in "/".join(parts).split("/"):
            if not self.is_folder(path):
                return None
            hits = [join(path, name) for name in self._spellings(path).get(part.lower(), [])]
            if len(hits) > 1:
                raise self.error(f"{shorten(hits)} differ only in upper and lower case")
            if not hits:
                return None
            path = hits[0]
        return path

    def folder(self, *parts: str, base: str = "") -> str | None:
        """As `find`, but what is found must be a folder."""
        path = self.find(*parts, base=base)
        if path is not None and not self.is_folder(path):
            raise self.error(f"{path} is a file where a folder should be")
        return path

    def folders(self, base: str = "") -> list[str]:
        """The paths of the folders in a folder, hidden ones left out."""
        return [join(base, name) for name, is_dir in self.entries(base).items() if is_dir and not name.startswith(".")]

    def is_folder(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        return not path or self.entries(parent).get(name, False)

    def file(self, *places: str) -> str:
        """The first of `places` that exists. Raises DatasetError when none does."""
        path = next(filter(None, (self.find(place) for place in places)), None)
        if path is None:
            raise self.error(f"{' or '.join(places)} is missing")
        if self.is_folder(path):
            raise self.error(f"{path} is a folder where a file should be")
        return path

    def text(self, *places: str) -> str:
        """The text of that file. Raises DatasetError when it is missing or is not UTF-8."""
        path = self.file(*places)
        with self.open(path) as file:
            data = self._ask(path, file.read)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error

    def open(self, path: str) -> IO[bytes]:
        """The file at exactly this path, to be read; the caller closes it. Raises DatasetError."""
        if self._local is not None:
            return self._ask(path, lambda: open(self._place(path), "rb"))
        return self._ask(path, lambda: self._system[0].open(self._place(path), "rb"))

    def size(self, path: str) -> int:
        """In bytes. Raises DatasetError when there is no such file, or its server does not say."""
        size = self._info(path).get("size")
        if size is None:
            raise self.error(f"the server does not say how large {path} is")
        return int(size)

    def state(self, path: str) -> str:
        """A text that changes when the file does: its size, and the time or tag of its last change."""
        info = self._info(path)
        changed = (info.get(key) for key in ("mtime", "LastModified", "updated", "Last-Modified", "created", "ETag"))
        return f"{info.get('size')} {next(filter(None, changed), '')}"

    def videos(self, *parts: str, base: str = "") -> dict[str, str]:
        """{stem: path} of the video files in a folder, or in its `videos/`; empty when there is no such folder."""
        folder = self.folder(*parts, base=base) if parts else base
        if folder is None:
            return {}
        folder = self.folder("videos", base=folder) or folder
        found: dict[str, str] = {}
        for name, is_folder in self.entries(folder).items():
            if not is_video(name):
                continue
            path, stem = join(folder, name), name.rpartition(".")[0]
            if is_folder:
                raise self.error(f"{path} is a folder where a video file should be")
            if stem in found:
                raise self.error(f"{path} and {PurePosixPath(found[stem]).name} are two files for one video")
            found[stem] = path
        return found

    def frames(self, *parts: str) -> dict[str, str]:
        """{name: path} of the videos that are given as folders of pictures in a folder's `images/` or `frames/`."""
        folder = self.folder(*parts)
        places = [self.folder(name, base=folder) for name in FRAME_FOLDERS] if folder else []
        found = [path for place in places if place for path in self.folders(place)]
        names = {PurePosixPath(path).name: path for path in found}
        if len(names) < len(found):
            raise self.error(f"{folder} has the same frames in {' and in '.join(FRAME_FOLDERS)}; keep one")
        return names

    # ------------------------------------------------------------------------------------ storage
    def _spellings(self, folder: str) -> Mapping[str, list[str]]:
        if folder not in self._spelled:
            spelled = defaultdict(list)
            for name in self.entries(folder):
                spelled[name.lower()].append(name)
            self._spelled[folder] = spelled
        return self._spelled[folder]

    def _list_local(self, folder: str) -> dict[str, bool]:
        def scan() -> dict[str, bool]:
            with os.scandir(self._place(folder)) as there:
                return {entry.name: entry.is_dir() for entry in there}

        return self._ask(folder, scan)

    def _list_remote(self, folder: str) -> dict[str, bool]:
        system, place = self._system[0], self._place(folder)
        web = self._scheme in ("http", "https")
        listed = self._ask(folder, lambda: system.ls(f"{place}/" if web else place, detail=True))
        own = _name(place, web)
        if [(_name(one["name"], web), one["type"]) for one in listed] == [(own, "file")] and not web:
            raise self._refusal(folder, NotADirectoryError(errno.ENOTDIR, "is a file"))
        found = {}
        for one in listed:
            path = re.split("[?#]", one["name"])[0] if web else one["name"]  # pages have links to sort their columns
            if path.rstrip("/") != place.rstrip("/"):  # a bucket may hold an empty object in place of the folder
                found[_name(path, web)] = one["type"] == "directory"
        return {name: is_folder for name, is_folder in found.items() if name not in ("", ".", "..")}

    def _info(self, path: str) -> Mapping[str, Any]:
        if self._local is not None:
            state = self._ask(path, lambda: os.stat(self._place(path)))
            return {"size": state.st_size, "mtime": state.st_mtime_ns}
        return self._ask(path, lambda: self._system[0].info(self._place(path)))

    def _place(self, path: str) -> str:
        """`path` as the storage wants it."""
        if self._local is not None:
            return str(self._local / path)
        base = self._system[1].rstrip("/")
        return join(base, quote(path) if self._scheme in ("http", "https") else path).rstrip("/")

    @cached_property
    def _system(self) -> tuple[Any, str]:
        """The fsspec file system, and the path of the root in it."""
        system, path = self._ask("", lambda: fsspec.url_to_fs(self.uri))
        system.invalidate_cache()  # fsspec shares listings between all users of a server, for as long as we run
        return system, path

    @property
    def _scheme(self) -> str:
        return self.uri.partition("://")[0].lower()

    def _ask(self, path: str, question: Callable[[], T]) -> T:
        """Raises DatasetError for whatever the storage raises."""
        try:
            return question()
        except DatasetError:
            raise
        except Exception as error:  # each backend has exceptions of its own, with no common base
            raise self._refusal(path, error) from error

    def _refusal(self, path: str, error: Exception) -> DatasetError:
        where = f"root of {self.name}: {self.uri}" if not path else f"{self.name}: {join(self.uri.rstrip('/'), path)}"
        if isinstance(error, ImportError):
            extra = _EXTRAS.get(self._scheme)
            text = f"needs a package that is not installed: {_brief(error)}"
            return DatasetError(f"{where} {text}{f' (here: `{extra}`)' if extra else ''}")
        if isinstance(error, FileNotFoundError):
            text = "does not exist"
        elif isinstance(error, NotADirectoryError):
            text = "is a file"
        elif isinstance(error, PermissionError):
            text = f"may not be read: {_brief(error)}"
        else:
            text = f"cannot be read: {_brief(error)}"
        access = f"; {_ACCESS[self._scheme]}" if self._local is None and self._scheme in _ACCESS else ""
        todo = "" if path else f"; datasets.toml must name a folder with\n{self.layout}"
        return DatasetError(f"{where} {text}{access}{todo}")


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def is_video(path: str) -> bool:
    """By its name; hidden files are none ("._x.mp4" is left by macOS)."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def is_picture(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def join(folder: str, name: str) -> str:
    """The path of an entry of a folder; either may be ""."""
    return "/".join(filter(None, (folder, name)))


def row(dataset: str, video_id: str, uri: str, *, label: int, split: str, source_ids: list[str], **rest: Any) -> dict:
    """One row of VIDEOS with the usual values where the adapter gives none."""
    usual = {"method": "real", "codec": "unknown", "root": dataset, "mask_uri": None, "real_id": None, "real_uri": None}
    usual |= {"face_rule": "largest"}
    given = {"dataset": dataset, "video_id": video_id, "uri": uri, "label": label, "split": split}
    return usual | given | {"source_ids": source_ids} | rest


def by_id(rows: Iterable[dict]) -> list[dict]:
    """Rows in the order in which adapters return them."""
    return sorted(rows, key=lambda row: row["video_id"])


def shorten(names: Iterable[str], limit: int = 5) -> str:
    """The first `limit` names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _name(place: str, web: bool) -> str:
    name = place.rstrip("/").rpartition("/")[2]
    return unquote(name) if web else name


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
