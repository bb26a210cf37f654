"""Where a dataset's videos are: a datasets.toml of one's own, or the made-up sample corpus."""

import os
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from pipelines import datasets
from pipelines.common import progress
from pipelines.datasets.sample import corpus


def datasets_file(switch: str | None) -> Path | None:
    """`--datasets`, else $CROSSFORGE_DATASETS, else ./datasets.toml if there is one, else None."""
    named = switch or os.environ.get("CROSSFORGE_DATASETS")
    if named:
        return Path(named)
    here = Path("datasets.toml")
    return here if here.exists() else None


def roots_of(
    config_file: Path | None, storage: Path, names: Iterable[str], console: Console, dry_run: bool
) -> dict[str, str] | None:
    """Dataset name -> root, for all that the file has, else for `names` of the sample corpus.

    None: a dry run that would have to make the sample corpus first.
    """
    if config_file:
        return datasets.read_config(config_file)
    names = tuple(names)
    there = corpus.made(storage, names=names)
    if there is not None or dry_run:
        return there
    with progress.view(console, "Making the sample corpus (once)") as view:
        return corpus.make(
            storage, names=names, progress=lambda done, total: view.update("takes", f"{done} of {total}", done, total)
        )
