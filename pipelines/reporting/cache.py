"""A report that is there already is not made again: what it was made of is kept beside it.

<report folder>/made.json    `of`: digest of all that went in; `files`: SHA-256 of all that came out; `cells` and
                             `lines`: what the terminal shows

It is written last. A report counts only if what would go in now is what went in, and every file is still as it was
written: one that was stopped while it was made does not.
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
from pipelines.metrics.significance import Comparison
from pipelines.reporting.table import Cell

MADE = "made.json"
DRAWING = ("matplotlib", "numpy", "opencv-python-headless", "scikit-learn", "scipy")  # beside `cluster.versions`


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a launch shows of its report."""

    cells: Sequence[Cell]
    lines: Sequence[str]
    paths: Sequence[Path]  # Markdown first


def inputs_digest(told: Mapping[str, Any], files: Iterable[Path], tables: Iterable[pa.Table]) -> str:
    """Return a digest of all that goes into a report: what is told of it, files and tables, and the code.

    A file counts by its size and time, not its content: PREDICTIONS may be GBs, and are only ever replaced whole. So
    the reports of a storage that was copied are made again.
    """
    stats = [(f"{path.parent.name}/{path.name}", *storage.state(path)) for path in files]
    versions = cluster.versions() | {name: metadata.version(name) for name in DRAWING}
    contents = []
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        contents.append(hashlib.sha256(sink.getvalue()).hexdigest())
    return storage.digest([json.dumps(told, sort_keys=True), stats, contents, versions])


def read(folder: Path, inputs: str) -> Shown | None:
    """Return the report; None where it is to be made: of other inputs, not whole, or by another version."""
    try:
        told = json.loads((folder / MADE).read_text())
        if told["of"] != inputs or any(_sha256(folder / name) != known for name, known in told["files"].items()):
            return None
        cells = tuple(_cell(cell) for cell in told["cells"])
        return Shown(cells=cells, lines=told["lines"], paths=[folder / name for name in told["files"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # it is only a shortcut: what is wrong with it is mended by making the report again


def write(folder: Path, inputs: str, shown: Shown) -> None:
    """Keep what `read` returns as long as the inputs have this digest."""
    told = {
        "of": inputs,
        "files": {str(path.relative_to(folder)): _sha256(path) for path in shown.paths},
        "cells": [_strict(asdict(cell)) for cell in shown.cells],
        "lines": list(shown.lines),
    }
    storage.write_text(folder / MADE, json.dumps(told, indent=1, allow_nan=False) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _strict(value: Any) -> Any:
    """Return a value for strict JSON: NaN as null."""
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_strict(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(told: Mapping[str, Any]) -> Cell:
    """Return the cell that `_strict` was called on."""
    against = None
    if comparison := told["against"]:
        by_seed = {int(seed): value for seed, value in _with_nan(comparison["by_seed"]).items()}
        against = Comparison(**_with_nan(comparison) | {"by_seed": by_seed})
    return Cell(**_with_nan(told) | {"seeds": tuple(told["seeds"]), "against": against})


def _with_nan(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in told.items()}
