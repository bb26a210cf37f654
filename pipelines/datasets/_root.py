"""A dataset's folder, read as the adapters need it: names match in any case, errors show what is there."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")


class DatasetError(ValueError):
    """A dataset is not where, or not what, it is said to be."""


class Root:
    """The folder `path` of dataset `name`, which should look like `layout`."""

    def __init__(self, name: str, path: Path, layout: str) -> None:
        self.name, self.path, self.layout = name, path, layout

    def error(self, what: str) -> DatasetError:
        """The error to raise: `what` is wrong, what was expected, what is there, what to do."""
        found = shorten(sorted(entry.name + "/" * entry.is_dir() for entry in self.path.iterdir()), limit=12)
        return DatasetError(
            f"{self.name} at {self.path}: {what}.\n"
            f"Expected\n{self.layout}\n"
            f"Found in {self.path}: {found or 'nothing'}\n"
            f"Put the missing part there, or correct the line `{self.name} = ...` in datasets.toml."
        )

    def find(self, *parts: str, base: Path | None = None) -> Path | None:
        """The entry `parts` below `base` (default: the root); None when there is none.

        Raises DatasetError when two entries differ in nothing but case: taking one would lose the other.
        """
        path = base or self.path
        for part in parts:
            if not path.is_dir():
                return None
            hits = [entry for entry in path.iterdir() if entry.name.lower() == part.lower()]
            if len(hits) > 1:
                raise self.error(f"{shorten(self.uri(hit) for hit in hits)} differ only in upper and lower case")
            if not hits:
                return None
            path = hits[0]
        return path

    def folder(self, *parts: str, base: Path | None = None) -> Path | None:
        """As `find`, but what is found must be a folder."""
        path = self.find(*parts, base=base)
        if path is not None and not path.is_dir():
            raise self.error(f"{self.uri(path)} is a file where a folder should be")
        return path

    def file(self, *places: str) -> Path:
        """The first of `places` (paths below the root, with `/`) that exists. Raises DatasetError when none does."""
        path = next(filter(None, (self.find(*place.split("/")) for place in places)), None)
        if path is None:
            raise self.error(f"{' or '.join(places)} is missing")
        if not path.is_file():
            raise self.error(f"{self.uri(path)} is a folder where a file should be")
        return path

    def text(self, *places: str) -> str:
        """The text of that file. Raises DatasetError when it is missing or is not UTF-8."""
        path = self.file(*places)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"{self.uri(path)} is not UTF-8 text ({error.reason} at byte {error.start})") from error

    def videos(self, *parts: str, base: Path | None = None) -> dict[str, Path]:
        """{stem: path} of the video files in a folder, or in its `videos/`; empty when there is no such folder."""
        folder = self.folder(*parts, base=base)
        if folder is None:
            return {}
        folder = self.folder("videos", base=folder) or folder
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in VIDEO_SUFFIXES or path.name.startswith("."):  # "._x.mp4": left by macOS
                continue
            if path.is_dir():
                raise self.error(f"{self.uri(path)} is a folder where a video file should be")
            if path.stem in found:
                raise self.error(f"{self.uri(path)} and {found[path.stem].name} are two files for one video")
            found[path.stem] = path
        return found

    def uri(self, path: Path) -> str:
        """`path` relative to the root, with `/`."""
        return path.relative_to(self.path).as_posix()


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
