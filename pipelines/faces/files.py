"""Where the files of a video are, and whether they are still those that its faces were cut from.

A file's state is its size and the time of its last change in seconds, of remote storage its etag where it has one: what
can be had without opening it. Of a file in an archive it is that of the archive, of a local folder of pictures the
folder's own. Web servers, and remote storage of folders of pictures, tell none: then nothing is known to have changed.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any
from urllib.parse import quote

import fsspec

from pipelines.common.filenames import on_disk
from pipelines.datasets import folder_of, is_remote, told_state
from pipelines.media import stills

GONE = ""  # the state of a file that is not there; None: not known
FILES = {"uri": "state", "mask_uri": "mask_state", "real_uri": "real_state"}  # column of VIDEOS -> of LEDGER.source
TOLD = ("label", "method", "codec", "split", "face_rule")  # what else of VIDEOS decides the rows of FACES
NEEDED = ("video_id", "root", *TOLD, *FILES)  # columns of VIDEOS

_THREADS = 32  # a network file system answers each question in a millisecond, but many at once
_BATCH = 256

Row = Mapping[str, Any]
Place = tuple[str, str]  # root, uri
Source = dict[str, Any]  # LEDGER.source


def locate(roots: Mapping[str, str], root: str, uri: str) -> str:
    """Return the path or URI of the file `uri` below the root of this name.

    VIDEOS holds names as they are. Some of their characters mean something else in the URL of a web server, and are
    %-escaped there. Raises ValueError for a root that is not among `roots`.
    """
    if root not in roots:
        raise ValueError(f"root {root!r} is not known; roots are {', '.join(sorted(roots)) or 'none'}")
    folder, uri = folder_of(roots[root]).rstrip("/"), uri.lstrip("/")
    if folder.lower().startswith(("http://", "https://")):
        archive, inside = stills.split(uri) or (uri, "")  # the server knows nothing of what lies inside
        uri = "/".join(filter(None, (quote(archive), inside)))
    return f"{folder}/{uri}"


def sources(videos: Iterable[Row], roots: Mapping[str, str]) -> dict[str, Source]:
    """Return video_id -> LEDGER.source, as things are now; videos: rows of VIDEOS with the columns `NEEDED`.

    Raises ValueError for a root that is not among `roots`.
    """
    videos = list(videos)
    known = _states(
        {(row["root"], row[column]) for row in videos for column in FILES if row[column] is not None}, roots
    )
    return {
        row["video_id"]: {name: row[name] for name in (*TOLD, *FILES)}
        | {state: known.get((row["root"], row[column])) for column, state in FILES.items()}
        for row in videos
    }


def differs(now: Source, before: Row) -> bool:
    """Say whether a video must be read again: VIDEOS describes it otherwise, or one of its files is another.

    before: what was recorded; what it lacks is not known. A file that is gone changes nothing: what was read from it is
    still right.
    """
    if now == before:  # as a rule, and ten times faster
        return False
    if any(now[name] != before.get(name, now[name]) for name in TOLD):
        return True
    return now["state"] != GONE and any(_is_other(now, before, *columns) for columns in FILES.items())


def _is_other(now: Source, before: Row, column: str, state: str) -> bool:
    if column not in before or now[column] is None or now[state] == GONE:
        return False
    if now[column] != before[column]:
        return True
    return None not in (now[state], before[state]) and now[state] != before[state]


def _states(places: set[Place], roots: Mapping[str, str]) -> dict[Place, str | None]:
    """Return the states of files."""
    paths = {place: locate(roots, *place) for place in places}
    paths = {place: (stills.split(path) or (path, ""))[0] for place, path in paths.items()}  # of archives themselves
    local = sorted({path for path in paths.values() if not is_remote(path)})
    remote: dict[str, set[str]] = {}  # folder -> paths
    for path in set(paths.values()).difference(local):
        if not path.lower().startswith(("http://", "https://")):
            remote.setdefault(path.rpartition("/")[0], set()).add(path)
    batches = [local[start : start + _BATCH] for start in range(0, len(local), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as pool:
        of_local = pool.map(lambda batch: [(path, _local_state(path)) for path in batch], batches)
        of_remote = pool.map(lambda folder: _remote_states(folder, remote[folder]), remote)
        states = dict(chain.from_iterable(chain(of_local, of_remote)))
    return {place: states.get(path) for place, path in paths.items()}


def _local_state(path: str) -> str | None:
    try:
        state = os.stat(on_disk(path.removeprefix("file://")))
    except (FileNotFoundError, NotADirectoryError):
        return GONE
    except OSError:
        return None  # reading it will say why
    size = "" if stat.S_ISDIR(state.st_mode) else f"{state.st_size} "
    return f"{size}{int(state.st_mtime)}"


def _remote_states(folder: str, paths: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the states of files in one folder, from its listing."""
    try:
        system, place = fsspec.url_to_fs(folder)
        listed = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in system.ls(place, detail=True)}
    except Exception:  # noqa: BLE001  # whatever a storage raises: reading the videos will say why
        return []
    states: list[tuple[str, str | None]] = []
    for path in paths:
        entry = listed.get(path.rpartition("/")[2])
        is_file = entry is not None and entry["type"] != "directory"
        states.append((path, GONE if entry is None else told_state(entry) if is_file else None))
    return states
