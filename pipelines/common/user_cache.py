"""What a command keeps for the next call of the same user, whatever --storage it is given."""

import os
from pathlib import Path


def folder() -> Path:
    """Return the folder: `crossforge` in $XDG_CACHE_HOME or ~/.cache, whether or not it exists."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~/.cache"))) / "crossforge"
