"""Which code made a number."""

import os
import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str:
    """Commit of the running code, with `-dirty` where files differ from it; `unknown` outside a git checkout.

    On a cluster's nodes the code is a copy; its commit is told by `$CROSSFORGE_COMMIT`.
    """
    if told := os.environ.get("CROSSFORGE_COMMIT"):
        return told
    root = Path(__file__).resolve().parents[2]
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return f"{name}-dirty" if _git(root, "status", "--porcelain") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.strip()
