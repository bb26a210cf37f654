"""What pieces of work took on this machine, in seconds each: for plans of the same user, with whatever storage.

A rate stands under the name of its work, in the user's cache folder.
"""

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipelines.common import user_cache
from pipelines.common.storage import write_json

MOST = 1000  # rates that are kept, the newest


def _file() -> Path:
    return user_cache.folder() / f"rates-{platform.node()}.json"  # machines may share a home folder


def kept() -> dict[str, float]:
    """Return all rates that are kept."""
    with suppress(OSError, ValueError, TypeError):  # there is none yet, or the file is spoiled
        return {str(name): float(seconds) for name, seconds in json.loads(_file().read_text(encoding="utf-8"))}
    return {}


def keep(seconds: Mapping[str, float]) -> None:
    """Keep these rates, in place of older ones of the same work; nothing where the folder can't be written."""
    if seconds:
        older = [(name, value) for name, value in kept().items() if name not in seconds]
        with suppress(OSError):
            write_json(_file(), [*older, *seconds.items()][-MOST:])
