"""That all of a launch is logged, remembered beside its report: the same command again then asks MLflow nothing.

<report folder>/logged.json  `of`: digest of the report and of where its runs were logged; `database`: size and time of
                             that database's file right afterwards; `artifacts`: folders of its runs' files; `lines`:
                             what the terminal shows

It counts only for databases that are files, and only until somebody else writes to them or removes such a folder. A
server is always asked.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.common.storage import digest, read_json, write_json
from pipelines.reporting.cache import MADE
from pipelines.tracking.client import database_file, registry_uri

LOGGED = "logged.json"


def read(folder: Path, uri: str) -> list[str]:
    """Return what the terminal shows of a launch that is logged at this URI; nothing where MLflow must be asked."""
    try:
        kept = read_json(folder / LOGGED)
        known = kept["of"] == _of(folder, uri) and kept["database"] == _state(uri)
        return list(kept["lines"]) if known and all(Path(each).is_dir() for each in kept["artifacts"]) else []
    except (OSError, ValueError, TypeError, KeyError):
        return []  # it is only a shortcut


def write(folder: Path, uri: str, lines: Sequence[str], artifacts: Iterable[Path]) -> None:
    """Remember that all is logged, if `read` can tell later whether that still holds.

    artifacts: the folders of the runs' files, as far as they are in the storage.
    """
    if (folder / MADE).exists() and (state := _state(uri)):
        kept = {"artifacts": list(map(str, artifacts)), "lines": list(lines)}
        write_json(folder / LOGGED, {"of": _of(folder, uri), "database": state, **kept})


def _of(folder: Path, uri: str) -> str:
    return digest([(folder / MADE).read_text(), uri, registry_uri(uri)])


def _state(uri: str) -> list[list[int]] | None:
    """Return size and time of the files that hold the runs and the registered models; None where a server has them."""
    states = []
    for each in dict.fromkeys((uri, registry_uri(uri))):
        file = database_file(each)
        if file is None or not file.exists():
            return None
        states.append([file.stat().st_size, file.stat().st_mtime_ns])
    return states
