"""Where the files of a video are, and whether they are still those that its faces were cut from.

A file's state is its size and the time of its last change in seconds, of remote storage its etag where it has one: what
can be had without opening it. Of a file in an archive it is that of the archive, of a local folder of pictures the
folder's own. Web servers, and remote storage of folders of pictures, tell none: then nothing is known to have changed.

A copy without its times looks like another file. Whoever has made one can say so: `accept` writes down what the files
are now, beside what the faces were cut from, in `accepted.parquet` of the extraction's folder.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.common import tables
from pipelines.common.filenames import on_disk
from pipelines.common.storage import write_parquet
from pipelines.datasets import folder_of, is_list, is_remote, told_state
from pipelines.media import stills

GONE = ""  # the state of a file that is not there; None: not known
FILES = {"uri": "state", "mask_uri": "mask_state", "real_uri": "real_state"}  # column of VIDEOS -> of LEDGER.source
TOLD = ("label", "method", "codec", "split", "face_rule")  # what else of VIDEOS decides the rows of FACES
NEEDED = ("video_id", "root", *TOLD, *FILES)  # columns of VIDEOS

ACCEPTED = pa.schema([tables.LEDGER.field("video_id"), tables.LEDGER.field("source")])

_THREADS = 32  # a network file system answers each question in a millisecond, but many at once
_BATCH = 256

Row = Mapping[str, Any]
Source = dict[str, Any]  # LEDGER.source


def locate(roots: Mapping[str, str], root: str, uri: str) -> str:
    """Return the path or URI of the file `uri` below the root of this name.

    VIDEOS holds names as they are. Some of their characters mean something else in the URL of a web server, and are
    %-escaped there. A list of the user's own on this machine may name whole paths. Raises ValueError for a root that is
    not among `roots`.
    """
    if root not in roots:
        raise ValueError(f"root {root!r} is not known; roots are {', '.join(sorted(roots)) or 'none'}")
    if uri.startswith("/") and is_list(roots[root]) and not is_remote(roots[root]):
        return uri
    folder, uri = folder_of(roots[root]).rstrip("/"), uri.lstrip("/")
    if folder.lower().startswith(("http://", "https://")):
        archive, inside = stills.split(uri) or (uri, "")  # the server knows nothing of what lies inside
        uri = "/".join(filter(None, (quote(archive), inside)))
    return f"{folder}/{uri}"


def sources(videos: pa.Table, roots: Mapping[str, str]) -> pa.StructArray:
    """Return LEDGER.source of each video, as things are now; videos: VIDEOS with the columns `NEEDED`.

    Raises ValueError for a root that is not among `roots`.
    """
    columns = {name: videos[name].combine_chunks() for name in (*TOLD, *FILES)}
    columns |= {state: _states(videos["root"], videos[uri], roots) for uri, state in FILES.items()}
    kind = tables.LEDGER.field("source").type
    return pa.StructArray.from_arrays([columns[field.name] for field in kind], fields=list(kind))


def changed(
    video_ids: pa.ChunkedArray,
    now: pa.StructArray,
    before: pa.ChunkedArray,
    known: pa.Table | None,
    copied: pa.Table | None = None,
) -> NDArray[np.bool_]:
    """Say for each video whether it must be read again: as `differing`, save what was accepted since then.

    known: of `accepted`.
    """
    result = differing(now, before, copied)
    if known is not None and result.any():
        at = pc.index_in(video_ids, known["video_id"]).combine_chunks()
        result &= differing(now, known["source"].take(at)) | np.asarray(at.is_null())
    return result


def accepted(folder: Path) -> pa.Table:
    """Return video_id and source of the videos whose files were said to be those of before."""
    path = folder / "accepted.parquet"
    return pq.read_table(path, schema=ACCEPTED) if path.is_file() else ACCEPTED.empty_table()


def accept(folder: Path, video_ids: pa.ChunkedArray, now: pa.StructArray) -> None:
    """Write down that the faces of these videos are those of the files as they are now. Hold the folder meanwhile."""
    reject(folder, video_ids)
    new = pa.table({"video_id": video_ids, "source": now}).cast(ACCEPTED)
    write_parquet(folder / "accepted.parquet", pa.concat_tables([accepted(folder), new]))


def reject(folder: Path, video_ids: pa.ChunkedArray) -> None:
    """Forget that files of these videos were accepted, as their faces are to be cut anew."""
    known = accepted(folder)
    rest = known.filter(pc.invert(pc.is_in(known["video_id"], video_ids)))
    if rest.num_rows < known.num_rows:
        write_parquet(folder / "accepted.parquet", rest)


def differing(
    now: pa.StructArray, before: pa.ChunkedArray, copied: pa.Table | None = None, *, times: bool = True
) -> NDArray[np.bool_]:
    """Say for each video whether it must be read again: see `differs`.

    before: what was recorded of it; where it is null, a row of `copied` was, or without it nothing. times: False: a
    file of the same size is the same.
    """
    before = before.combine_chunks()
    valid = np.asarray(before.is_valid())
    same = valid.copy()
    for field in now.type:  # most are the same in all, and to compare those one by one would take minutes
        old, new = before.field(field.name), now.field(field.name)
        equal = pc.fill_null(pc.equal(old, new), False)
        same &= np.asarray(pc.or_(equal, pc.and_(old.is_null(), new.is_null())))
    result = np.zeros(len(now), bool)
    for place in np.flatnonzero(~same & (valid | (copied is not None))).tolist():
        recorded = before[place].as_py()
        if recorded is None and copied is not None:
            recorded = copied.slice(place, 1).to_pylist()[0]
        result[place] = recorded is not None and differs(now[place].as_py(), recorded, times=times)
    return result


def differs(now: Source, before: Row, *, times: bool = True) -> bool:
    """Say whether a video must be read again: VIDEOS describes it otherwise, or one of its files is another.

    before: what was recorded; what it lacks is not known. A file that is gone changes nothing: what was read from it is
    still right. times: False: a file of the same size is the same; of a folder, which has none, nothing is known.
    """
    if any(now[name] != before.get(name, now[name]) for name in TOLD):
        return True
    return now["state"] != GONE and any(_is_other(now, before, *columns, times) for columns in FILES.items())


def _is_other(now: Source, before: Row, column: str, state: str, times: bool) -> bool:
    if column not in before or now[column] is None or now[state] == GONE:
        return False
    if now[column] != before[column]:
        return True
    if None in (now[state], before[state]):
        return False
    if now[state] == before[state]:
        return False
    (size, _, _), (old_size, _, _) = now[state].partition(" "), before[state].partition(" ")
    return times or " " not in now[state] or size != old_size


def _states(root: pa.ChunkedArray, uri: pa.ChunkedArray, roots: Mapping[str, str]) -> pa.Array:
    """Return the state of each file, given by its root's name and its URI; null: not known, or no file is named."""
    places = pa.table({"root": root, "uri": uri})
    distinct = places.filter(pc.is_valid(uri)).group_by(["root", "uri"], use_threads=False).aggregate([])
    paths = [
        locate(roots, *place) for place in zip(*(distinct[name].to_pylist() for name in ("root", "uri")), strict=True)
    ]
    paths = [(stills.split(path) or (path, ""))[0] for path in paths]  # of archives themselves
    known = _states_of(set(paths))
    distinct = distinct.append_column("state", pa.array([known.get(path) for path in paths], pa.string()))
    places = places.append_column("number", pa.array(np.arange(places.num_rows)))
    joined = places.join(distinct, ["root", "uri"]).sort_by("number")
    return joined["state"].combine_chunks()


def _states_of(paths: set[str]) -> dict[str, str | None]:
    local = sorted({path for path in paths if not is_remote(path)})
    remote: dict[str, set[str]] = {}  # folder -> paths
    for path in paths.difference(local):
        if not path.lower().startswith(("http://", "https://")):
            remote.setdefault(path.rpartition("/")[0], set()).add(path)
    batches = [local[start : start + _BATCH] for start in range(0, len(local), _BATCH)]
    with ThreadPoolExecutor(_THREADS) as pool:
        of_local = pool.map(lambda batch: [(path, _local_state(path)) for path in batch], batches)
        of_remote = pool.map(lambda folder: _remote_states(folder, remote[folder]), remote)
        return dict(chain.from_iterable(chain(of_local, of_remote)))


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
