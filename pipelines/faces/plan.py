"""What is still to be extracted: for each dataset and recipe its folder, its videos, and how many are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from pipelines.common import progress, tables
from pipelines.common.storage import digest
from pipelines.faces import store
from pipelines.faces.recipe import FACES_VERSION, Recipe


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The faces of one dataset as one recipe cuts them, and for which of its videos they are needed."""

    dataset: str
    recipe: Recipe
    folder: Path
    videos: pa.Table  # VIDEOS rows
    methods: tuple[str, ...] = ()  # whose crop it is

    @property
    def wanted(self) -> frozenset[str]:
        """video_ids"""
        return frozenset(self.videos["video_id"].to_pylist())

    @property
    def missing(self) -> int:
        """How many videos are still to be extracted."""
        return len(self.wanted - store.ledger(self.folder).keys())

    @property
    def ledger(self) -> dict[str, dict[str, Any]]:
        """LEDGER rows of the wanted videos, by video_id."""
        wanted = self.wanted
        return {name: row for name, row in store.ledger(self.folder).items() if name in wanted}

    @property
    def failed(self) -> int:
        """How many could not be read."""
        return sum(entry["status"] in store.FAILED for entry in self.ledger.values())

    def ledger_table(self) -> pa.Table:
        return tables.to_table(self.ledger.values(), tables.LEDGER)

    @property
    def bytes_needed(self) -> int:
        """An estimate of what the missing videos will take on disk."""
        faces = self.missing * self.recipe.num_frames * self.recipe.max_faces
        return round(faces * tables.FACE_BYTES * (self.recipe.size_px / tables.FACE_PX) ** 2)


def faces_folder(storage: Path, dataset: str, recipe: Recipe, sample_root: str | None) -> Path:
    """Where a dataset's faces lie; `sample_root`: its root, if it is of the sample corpus.

    The made-up videos are named like the real ones: faces of one must not pass for faces of the other.
    """
    source = Path(sample_root).parent.name if sample_root else "own"  # names the corpus, its version and seed
    return storage / "faces" / dataset / digest([tables.VERSION, FACES_VERSION, recipe, source])


def extract_missing(
    extractions: Sequence[Extraction],
    roots: Mapping[str, str],
    console: Console,
    predictor: Path | None = None,
    retry_failed: bool = False,
) -> None:
    """Extract what is missing, dataset by dataset, and print what failed. Ray must be initialised."""
    todo = [one for one in extractions if one.missing or (retry_failed and one.failed)]
    from pipelines.faces.extract import (
        Target,
        extract_all,  # here: Ray, which a dry run has no use for
    )

    for name in dict.fromkeys(one.dataset for one in todo):
        own = [one for one in todo if one.dataset == name]
        failed = 0
        crops = f" ({len(own)} crops)" if len(own) > 1 else ""
        with progress.view(console, f"Extracting faces: {name}{crops}") as view:

            def on_video(row: Mapping[str, Any], view: progress.View = view) -> None:
                nonlocal failed
                failed += row["status"] != "ok"
                done, total = row["num_done"], row["num_videos"]
                text = f"{done} of {total}" + (f", {failed} without a usable face" if failed else "")
                view.update("videos", text, done, total)

            targets = [Target(folder=one.folder, recipe=one.recipe, videos=one.videos) for one in own]
            extract_all(targets, roots, on_video=on_video, predictor=predictor, retry_failed=retry_failed)
    _print_failures(extractions, console)


def _print_failures(extractions: Sequence[Extraction], console: Console) -> None:
    """The videos that gave no face, each once, and where failing depends on the label."""
    shown: set[tuple[str, str]] = set()
    for one in extractions:
        bad = [entry for entry in one.ledger.values() if entry["status"] != "ok"]
        bad = [entry for entry in bad if (entry["video_id"], entry["reason"]) not in shown]
        shown |= {(entry["video_id"], entry["reason"]) for entry in bad}
        for entry in bad[:10]:
            text = f"  {entry['status']}: {entry['video_id']}: {entry['reason']}"
            console.print(text, style="yellow", highlight=False, markup=False)
        if len(bad) > 10:
            console.print(f"  and {len(bad) - 10} more; all are in {one.folder / 'ledger.parquet'}")
