"""From the folders and lists of a dataset to VIDEOS. Each dataset has one file here, and is found by its name.

In: a root, which is a local folder or any URI that fsspec reads: s3://, gs://, http(s):// of a server that lists
folders. Out: rows of VIDEOS, one for each video.

    celeb_df, celeb_df_v1, deeper_forensics, df40, dfd, dfdc, dfdcp    one dataset each
    fakeavceleb, ffiw, ffpp, kodf, uadfv, wild_deepfake    one dataset each
    _manifest  your own videos, listed in a .csv or .parquet file; they need no code
    _root      a dataset's folder, local or remote, as the adapters see it
    _archives  which folders of pictures a tar archive holds
    _lists     which videos a published list promises
    _checks    what the rows say about a dataset before anything is decoded (for the doctor)
    sample     the sample corpus: made-up videos

A dataset's file, its adapter, has
    LAYOUT     the folder tree that it expects, shown in errors
    NEEDS      names of other datasets whose roots it needs as well
    PUBLISHED  (method, split) -> number of videos in one compression, as its owners publish it; split "" where
               only the sum over the splits is known
    MANIPULATIONS  if it has it: those that papers mean by the dataset's name, where a copy may hold others as well
    OPTIONS    if it has it: option -> the words that it may be, or () for the path of a file of one's own
    videos(roots, **options) -> rows of `tables.VIDEOS`, sorted by `video_id`: every video of the dataset, in every
               split, codec and manipulation; who uses which is decided elsewhere. Options are given as text
    lists(roots, **options)  if it has it: the owners' lists, as `_lists.PublishedList`s

Two rules hold for all adapters. The split is the dataset's own, read from the dataset's own list; a file that no list
explains is an error and is never left out. A video that such a list promises but the disk lacks keeps its row, so that
extraction counts it as unreadable. The exceptions are FaceForensics++, DF40 and KoDF, of which people download parts of
their choice. What an adapter leaves out or chooses without an error it says by `Root.note`.
"""

import importlib
import logging
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipelines.common import tables
from pipelines.common.storage import StorageError, expanded, path_of
from pipelines.common.text import first, meant, printable
from pipelines.datasets import _manifest
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import DatasetError, Root, is_remote, parent, told_state

__all__ = [
    "Config",
    "DatasetError",
    "Root",
    "folder_of",
    "is_remote",
    "lists",
    "load",
    "manipulations",
    "names",
    "read_config",
    "told_state",
]

_OWN_NAME = re.compile(r"[a-z][a-z0-9_]*")
_log = logging.getLogger(__name__)


class Config(dict[str, str]):
    """What `datasets.toml` says: dataset name -> root, and in `options` dataset name -> option -> value."""

    def __init__(self, roots: Mapping[str, str], options: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(roots)
        self.options = options


def names() -> tuple[str, ...]:
    """Return the names of the datasets that have an adapter, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str, roots: Mapping[str, str], say: Callable[[str], None] = _log.warning) -> pa.Table:
    """Return all videos of dataset `name` as a `tables.VIDEOS` table, sorted by `video_id`.

    `roots` maps dataset names to folders or URIs, or to a manifest (.csv, .parquet) of your own videos; options are
    those of a `Config`. `say` gets a line for what was left out of a copy or chosen in it without being wrong. Raise
    DatasetError when the name is unknown, when a root that the adapter needs is not in `roots` or cannot be read, or
    when the folder does not hold what the adapter expects.
    """
    if _manifest.is_manifest(root := roots.get(name, "")):
        if name in names():
            raise DatasetError(f"{name} is a known dataset, in a folder; {root} is a list: give it another name")
        return _manifest.videos(name, root)
    opened, options = _opened(name, roots)
    rows = _adapter(name).videos(opened, **options)
    if not rows:
        raise opened[name].error("no videos found")
    twice = [video_id for video_id, count in Counter(row["video_id"] for row in rows).items() if count > 1]
    if twice:
        raise opened[name].error(f"found more than once: {first(twice)}; keep one copy of each")
    for own in opened.values():
        for note in own.notes():
            say(f"{own.name} at {own.uri}: {note}")
    return tables.to_table(rows, tables.VIDEOS)


def lists(name: str, roots: Mapping[str, str]) -> list[PublishedList]:
    """Return the published lists of a dataset, as its copy holds them. Raise DatasetError as `load` does."""
    if name not in names() or not hasattr(_adapter(name), "lists"):
        return []
    opened, options = _opened(name, roots)
    return _adapter(name).lists(opened, **options)


def manipulations(name: str) -> tuple[str, ...]:
    """Return the manipulations that papers mean by a dataset's name; empty where that is all that it has."""
    return getattr(_adapter(name), "MANIPULATIONS", ()) if name in names() else ()


def is_list(root: str) -> bool:
    """Say whether a root is a list of the user's own videos, by its name."""
    return _manifest.is_manifest(root)


def folder_of(root: str) -> str:
    """Return the folder or URI that a root's uris start from: the root itself, or the folder that holds a manifest."""
    return parent(root) if _manifest.is_manifest(root) else root


def read_config(path: str | Path) -> Config:
    """Read `datasets.toml`: {dataset name: root}, and the options of datasets.

    The file holds lines `name = "root"`, or where a dataset has options (see `OPTIONS` of its adapter) a table:
    `[name]`, `root = "..."`, `option = "..."`. `~` is the home folder, and a relative path starts at the file's own
    folder; a URI is kept as it is. Any other name may stand for a manifest of videos, a .csv or .parquet file. Raise
    DatasetError when the file is missing or is not TOML. Raise it too, with all that is wrong, when the file names a
    dataset that has no adapter and is no manifest, or gives a root that is not a string, or an option that the dataset
    does not have. Whether a root exists is checked by `load`, not here.
    """
    path = path_of(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = tomllib.loads(text)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{path} is not valid TOML: {error}{_shown(text, str(error))}") from error
    except ValueError as error:  # UnicodeDecodeError
        raise DatasetError(f"{path} is not valid TOML: {error}; save it as UTF-8") from error
    tables_of = {name: entry if isinstance(entry, dict) else {"root": entry} for name, entry in entries.items()}
    problems: list[str] = []
    roots: dict[str, str] = {}
    options: dict[str, dict[str, str]] = {}
    for name, table in tables_of.items():
        root = table.get("root", entries[name])
        table.pop("root", None)
        if wrong_root := what_is_wrong(name, root):
            problems.append(wrong_root)
        else:
            try:
                roots[name] = _absolute(path, root)
            except StorageError as error:
                problems.append(f"{name}: {error}")
        if name in names() or _is_manifest(root):
            wrong = [*_wrong_options(name, table)]
            problems += wrong
            try:
                options |= {name: _options(path, name, table)} if table and not wrong else {}
            except StorageError as error:
                problems.append(f"{name}: {error}")
    if problems:
        separator = "\n    " if len(problems) > 1 else " "
        raise DatasetError(separator.join([f"{path}:", *problems]))
    return Config(roots, options)


def what_is_wrong(name: str, root: Any) -> str:
    """Return why a dataset can't have this name, or this root; empty where it can."""
    if name not in names() and not _is_manifest(root):
        other = "any other name must stand for a manifest of videos, a .csv or .parquet file"
        return f"unknown dataset {name!r}; {_meant(name)}; {other}"
    if not _OWN_NAME.fullmatch(name):
        return f"{name!r} cannot be a name; use small letters, digits and _, a letter first"
    if not isinstance(root, str) or not root:
        return f'{name} must be a folder, as in {name} = "/data/{name}", got {root!r}'
    return ""


def _is_manifest(root: Any) -> bool:
    return isinstance(root, str) and _manifest.is_manifest(root)


def _shown(text: str, message: str) -> str:
    """Return the line of a TOML text that an error names, and how it is quoted rightly if that is what is wrong."""
    lines = text.split("\n")
    at = re.search(r"\(at line (\d+), column \d+\)$", message)
    line = lines[int(at[1]) - 1] if at else next((each for each in reversed(lines) if each.strip()), "")
    told = f"\n    {printable(line.strip())}"
    bare = re.fullmatch(r"\s*([\w-]+)\s*=\s*([^\s\"'\[{#][^#]*)(#.*)?", line)
    if bare and message.startswith("Invalid value"):
        return f"{told}\na path stands in quotes: {bare[1]} = {_quoted(bare[2].strip().strip('“”„‘’'))}"
    if escaped := re.search(r"=\s*\"([^\"]*\\[^\"]*)\"", line):
        return f"{told}\na path with \\ stands in single quotes: {_quoted(escaped[1])}"
    return f"{told}\na quote is missing" if line.count('"') % 2 else told


def _quoted(path: str) -> str:
    """Return a path as a string of TOML: in single quotes where double ones would read it otherwise."""
    quote = "'" if re.search(r"[\"\\]", path) else '"'
    return f"{quote}{printable(path)}{quote}"


def _known_options(name: str) -> Mapping[str, Sequence[str]]:
    return getattr(_adapter(name), "OPTIONS", {}) if name in names() else {}


def _wrong_options(name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each option of a dataset."""
    known = _known_options(name)
    for option, value in given.items():
        if option not in known:
            has = meant(option, known, f"its options are {', '.join(known)}") if known else "it has none"
            yield f"{name} has no option {option!r}; {has}"
        elif not isinstance(value, str) or not value or (known[option] and value not in known[option]):
            wanted = " or ".join(f'"{word}"' for word in known[option]) or "the path of a file"
            yield f"{option} of {name} must be {wanted}, got {value!r}"


def _options(config: Path, name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a dataset, files with their whole path."""
    known = _known_options(name)
    return {option: value if known[option] else _absolute(config, value) for option, value in given.items()}


def _absolute(config: Path, place: str) -> str:
    return place if "://" in place else str(config.absolute().parent / expanded(place))


def _adapter(name: str) -> ModuleType:
    if name not in names():
        raise DatasetError(f"unknown dataset {name!r}; {_meant(name)}")
    return importlib.import_module(f"{__name__}.{name}")


def _meant(name: str) -> str:
    return meant(name, names(), f"known: {', '.join(names())}")


def _opened(name: str, roots: Mapping[str, str]) -> tuple[dict[str, Root], Mapping[str, str]]:
    """Return the roots that an adapter needs, and the dataset's options. Raise DatasetError as `load` does."""
    opened = {other: _root(other, roots, needed_by=name) for other in (name, *_adapter(name).NEEDS)}
    return opened, roots.options.get(name, {}) if isinstance(roots, Config) else {}


def _root(name: str, roots: Mapping[str, str], needed_by: str) -> Root:
    """Return a dataset's root, which can be listed. Raise DatasetError when it is not given or cannot be listed."""
    layout = _adapter(name).LAYOUT
    if name not in roots:
        why = "" if name == needed_by else f", which {needed_by} needs as well"
        raise DatasetError(
            f"no root for {name}{why}; add a line to datasets.toml:\n"
            f'    {name} = "/path/to/{name}"\n'
            f"The folder must hold\n{layout}\nKnown roots: {', '.join(sorted(roots)) or 'none'}"
        )
    root = Root(name, roots[name], layout)
    root.entries()  # raises when it cannot be listed
    return root
