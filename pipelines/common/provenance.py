"""Which version of the code, and of what it runs on, made a number."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pipelines.common.text import first

MadeWith = dict[str, str]  # versions, device, precision: `device.made_with`
_MOST_ROWS = 5  # named for one value


@cache
def commit() -> str:
    """Return the commit of the running code: 12 hex digits, then `-dirty` where files differ from it.

    On a cluster's nodes the code is a copy, and `$CROSSFORGE_COMMIT` holds its commit. Return `unknown` where neither
    that nor a git checkout tells.
    """
    if given := os.environ.get("CROSSFORGE_COMMIT"):
        return given
    root = Path(__file__).resolve().parents[2]
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return f"{name}-dirty" if _git(root, "status", "--porcelain") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.strip()


def joined(records: Sequence[MadeWith]) -> MadeWith:
    """Return the values of all records by name, different ones with commas between."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.items():
            values.setdefault(name, {}).update(dict.fromkeys(value.split(", ")))
    return {name: ", ".join(own) for name, own in values.items()}


def told(records: Mapping[str, MadeWith]) -> str:
    """Return in a line what the rows of a table were made with, by row; and in what they differ, with the rows."""
    rows: dict[str, dict[str, list[str]]] = {}  # name -> value -> rows
    for row, record in records.items():
        for name, value in record.items():
            rows.setdefault(name, {}).setdefault(value, []).append(row)
    same = [f"{name} {value}" for name, values in rows.items() for value in values if len(values) == 1]
    differing = [
        f"{name} ({'; '.join(f'{value}: {first(names, _MOST_ROWS)}' for value, names in values.items())})"
        for name, values in rows.items()
        if len(values) > 1
    ]
    differ = [f"ROWS DIFFER in {', '.join(differing)}"] if differing else []
    return "; ".join(([", ".join(same)] if same else []) + differ)
