"""Where a dataset's videos are: a datasets.toml of one's own, or the made-up sample corpus."""

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from pipelines import datasets
from pipelines.common import progress, rates
from pipelines.common.storage import path_of
from pipelines.datasets.sample import corpus


def datasets_file(switch: str | None) -> Path | None:
    """Return the datasets.toml to use: that of the switch `--datasets`, of $CROSSFORGE_DATASETS, or ./datasets.toml.

    The first that is named counts, whether or not the file exists; None: none is named and ./datasets.toml is missing.
    """
    named = switch or os.environ.get("CROSSFORGE_DATASETS")
    if named:
        return path_of(named)
    default = Path("datasets.toml")
    return default if default.exists() else None


def corpus_size(preset: str | None) -> str:
    """Return how large the sample corpus is for a preset; None: the default one."""
    return "tiny" if preset == "tiny" else "full"


def clip(size: str) -> str:
    """Return what the seconds that a clip of the sample corpus takes are kept under, see `common.rates`."""
    return f"clip of the sample corpus, {size}"


def roots_of(
    config_file: Path | None,
    storage: Path,
    names: Iterable[str],
    console: Console,
    dry_run: bool,
    *,
    size: str = "full",
) -> dict[str, str] | None:
    """Return dataset name -> root: all that the file names, or without a file, `names` of the sample corpus.

    The corpus is made below `storage` if it is missing; a dry run makes nothing and returns None instead. size: see
    `corpus_size`.
    """
    if config_file:
        return datasets.read_config(config_file)
    names = tuple(names)
    roots = corpus.made(storage, size=size, names=names)
    if roots is not None or dry_run:
        return roots
    with progress.view(console, "Making the sample corpus (once)") as view:
        first_at = math.inf  # what comes before is done once: waiting for another process that makes it, and people
        # A clip of one dataset takes ten times as long as one of another: so many are of several. And of fewer than are
        # filmed at once, the first would hardly be over before the last.
        enough = max(len(corpus.planned(corpus.size_of(size), seed=0).shots) / 3, corpus.AT_ONCE + 1)

        def on_clip(done: int, total: int) -> None:
            nonlocal first_at
            view.update("clips", f"{done} of {total}", done, total)
            first_at = min(first_at, time.monotonic())
            if done == total >= enough:
                rates.keep({clip(size): (time.monotonic() - first_at) / (total - 1)})

        return corpus.make(storage, size=size, names=names, progress=on_clip)
