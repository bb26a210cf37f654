"""The questions: one file each, `uv run python sweeps/<question>.py`. `uv run crossforge sweeps` lists them.

Files that begin with `_` hold what several questions of a paper share.
"""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of all questions: of their files, in alphabetical order."""
    return tuple(sorted(path.stem for path in HERE.glob("[!_]*.py")))
