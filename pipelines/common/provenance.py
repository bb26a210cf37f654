"""Which version of the code made a number."""

import os
import subprocess
from functools import cache
from pathlib import Path


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
