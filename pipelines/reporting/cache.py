"""A report that is there already: what it was made of, kept beside it, so that nothing is made twice.

<report folder>/made.json    `of`: digest of all that went in; `files`: SHA-256 of all that came out; `cells` and
                             `lines`: what the terminal shows

It is written last. A report counts only if what would go in now is what went in, and every file is still as it was
written: of one whose making was stopped in between, some are not.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.common import cluster, storage
from pipelines.common.storage import digest
from pipelines.metrics.significance import Comparison
from pipelines.reporting.table import Cell

MADE = "made.json"
DRAWING = ("matplotlib", "numpy", "opencv-python-headless", "scikit-learn", "scipy")  # beside `cluster.versions`


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a launch tells of its report."""

    cells: Sequence[Cell]
    lines: Sequence[str]
    paths: Sequence[Path]  # Markdown first


def inputs(told: Mapping[str, Any], read: Iterable[Path], tables: Iterable[pa.Table]) -> str:
    """Digest of all that goes into a report: what is told of it, files and tables that are read, and the code.

    A file counts by its size and time, not its content: PREDICTIONS may be GBs, and is only ever replaced whole. A
    copy of a storage is another one, whose reports are made again.
    """
    files = [(f"{path.parent.name}/{path.name}", (at := path.stat()).st_size, at.st_mtime_ns) for path in read]
    versions = cluster.versions() | {name: metadata.version(name) for name in DRAWING}
    return digest([json.dumps(told, sort_keys=True), files, [_of_table(table) for table in tables], versions])


def _of_table(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def read(folder: Path, of: str) -> Shown | None:
    """None where the report is to be made: of other things, not whole, or by another version."""
    try:
        told = json.loads((folder / MADE).read_text())
        if told["of"] != of or any(_sha256(folder / name) != known for name, known in told["files"].items()):
            return None
        cells = tuple(_cell(one) for one in told["cells"])
        return Shown(cells=cells, lines=told["lines"], paths=[folder / name for name in told["files"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # it is only a shortcut: what is wrong with it is mended by making the report again


def write(folder: Path, of: str, shown: Shown) -> None:
    told = {
        "of": of,
        "files": {str(path.relative_to(folder)): _sha256(path) for path in shown.paths},
        "cells": [_plain(asdict(cell)) for cell in shown.cells],
        "lines": list(shown.lines),
    }
    storage.write_bytes(folder / MADE, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """As strict JSON: NaN as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(told: Mapping[str, Any]) -> Cell:
    against = told["against"]
    found = Comparison(**_numbers(against) | {"by_seed": _by_seed(against)}) if against else None
    return Cell(**_numbers(told) | {"seeds": tuple(told["seeds"]), "against": found})


def _numbers(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in told.items()}


def _by_seed(told: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): math.nan if value is None else value for seed, value in told["by_seed"].items()}
