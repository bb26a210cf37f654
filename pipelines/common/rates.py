"""What pieces of work took on this machine, in seconds each: for plans of the same user, with whatever storage.

A rate stands under the name of its work, in the user's cache folder.
"""

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pipelines.common import user_cache
from pipelines.common.storage import locked, write_json

MOST = 1000  # rates that are kept, the newest
WAIT_S = 5.0  # for another launch that keeps its rates; after that, these are not kept


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
        # A lock that is not to be had is an OSError too, or where a file system has none NotImplementedError.
        with suppress(OSError, NotImplementedError), locked(_file().with_suffix(".lock"), WAIT_S):
            older = [(name, value) for name, value in kept().items() if name not in seconds]
            write_json(_file(), [*older, *seconds.items()][-MOST:])
