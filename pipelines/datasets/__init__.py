"""Dataset adapters: one file per dataset, found by its file name.

An adapter is a module with
    LAYOUT   the folder tree that it expects, shown in errors
    NEEDS    names of other datasets whose roots it needs as well
    videos(roots) -> rows of `schemas.VIDEOS`, sorted by `video_id`: every video of the dataset, in every
             split, codec and manipulation; who uses which is decided elsewhere

Two rules hold for all of them. The split is the dataset's own and is read from the dataset's own list; a
file that no list explains is an error, never left out. And a video that such a list promises but the disk
lacks keeps its row, so that extraction counts it as unreadable; the exception, FaceForensics++, is
downloaded in parts of one's choice and says so.
"""

import importlib
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from pipelines import schemas
from pipelines.datasets._root import DatasetError, Root, shorten

__all__ = ["DatasetError", "load", "names", "read_config"]


def names() -> tuple[str, ...]:
    """The datasets there is an adapter for, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str, roots: Mapping[str, str]) -> pa.Table:
    """All videos of dataset `name` as a `schemas.VIDEOS` table, sorted by `video_id`.

    `roots` maps dataset names to local folders. Raises DatasetError when the name is unknown, a root that
    the adapter needs is not in `roots` or is no folder, or the folder does not hold what the adapter expects.
    """
    adapter = _adapter(name)
    wanted = (name, *adapter.NEEDS)
    for other in wanted:
        _check_root(other, roots, needed_by=name)
    rows = adapter.videos({other: Path(roots[other]) for other in wanted})
    if not rows:
        raise Root(name, Path(roots[name]), adapter.LAYOUT).error("no videos found")
    twice = [video_id for video_id, count in Counter(row["video_id"] for row in rows).items() if count > 1]
    if twice:
        raise Root(name, Path(roots[name]), adapter.LAYOUT).error(
            f"found more than once: {shorten(twice)}; keep one copy of each"
        )
    return schemas.to_table(rows, schemas.VIDEOS)


def read_config(path: str | Path) -> dict[str, str]:
    """`datasets.toml` as {dataset name: root}.

    The file holds lines `name = "root"`. `~` is the home folder, and a relative root starts at the file's own
    folder; a URI is kept as it is. Raises DatasetError when the file is missing, is not TOML, names a dataset
    that has no adapter, or gives a root that is not a string. Whether a root exists is checked by `load`.
    """
    path = Path(path)
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # tomllib.TOMLDecodeError, which names line and column, or UnicodeDecodeError
        raise DatasetError(f"{path} is not valid TOML: {error}") from error
    for name, root in entries.items():
        if name not in names():
            raise DatasetError(f"{path} names an unknown dataset {name!r}; known: {', '.join(names())}")
        if not isinstance(root, str) or not root:
            raise DatasetError(f'{path}: {name} must be a folder, as in {name} = "/data/{name}", got {root!r}')
    return {
        name: root if _is_uri(root) else str(path.absolute().parent / Path(root).expanduser())
        for name, root in entries.items()
    }


def _adapter(name: str) -> ModuleType:
    if name not in names():
        raise DatasetError(f"unknown dataset {name!r}; known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def _is_uri(root: str) -> bool:
    return "://" in root


def _check_root(name: str, roots: Mapping[str, str], needed_by: str) -> None:
    layout = _adapter(name).LAYOUT
    if name not in roots:
        why = "" if name == needed_by else f", which {needed_by} needs as well"
        raise DatasetError(
            f"no root for {name}{why}; add a line to datasets.toml:\n"
            f'    {name} = "/path/to/{name}"\n'
            f"The folder must hold\n{layout}\nKnown roots: {', '.join(sorted(roots)) or 'none'}"
        )
    if _is_uri(roots[name]):
        raise DatasetError(f"root of {name}: {roots[name]} is not supported yet; mount it or copy it to a local folder")
    if not Path(roots[name]).is_dir():
        found = "is a file" if Path(roots[name]).exists() else "does not exist"
        raise DatasetError(f"root of {name}: {roots[name]} {found}; datasets.toml must name a folder with\n{layout}")
