"""What is still to be extracted: for each dataset and recipe its folder, its videos, and how many are missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console

from pipelines.common import progress, tables
from pipelines.common.storage import digest, locked, read_json
from pipelines.common.text import first
from pipelines.datasets import is_list
from pipelines.faces import files, store
from pipelines.faces.recipe import FACES_VERSION, Recipe
from pipelines.media import stills

_MOST_FAILURES = 10  # printed for a dataset and recipe
_FEW = 500  # videos of a dataset, of which several share a pass: starting one takes as long as tens of videos


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How many of the videos of an extraction are there, and how they got there."""

    absent: int  # never extracted
    changed: int  # ... since they were extracted: see `files.changed`
    touched: int  # of these, those whose files have the same size still
    unrecorded: int  # extracted by a version that did not record what of: whether they have changed can't be told

    @property
    def missing(self) -> int:
        """How many are to be extracted."""
        return self.absent + self.changed


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The faces of one dataset as one recipe cuts them, and for which of its videos they are needed.

    What is there already is read from `folder` at each look, so it is up to date after an extraction too. The videos'
    own files are looked at once.
    """

    dataset: str
    recipe: Recipe
    folder: Path
    videos: pa.Table  # VIDEOS rows
    roots: Mapping[str, str]  # of all that `videos` names
    methods: tuple[str, ...] = ()  # models whose crop it is

    @property
    def wanted(self) -> frozenset[str]:
        """The video_ids of `videos`."""
        return frozenset(self.videos["video_id"].to_pylist())

    @cached_property
    def sources(self) -> pa.StructArray:
        """What each of the videos is made from, in their order."""
        return files.sources(self.videos.select(files.NEEDED), self.roots)

    @property
    def standing(self) -> Standing:
        """How many of the videos are extracted, and how."""
        done, changed, touched, recorded = self._compared()
        return Standing(
            absent=int((~done).sum()),
            changed=int(changed.sum()),
            touched=int(touched.sum()),
            unrecorded=int((done & ~recorded).sum()),
        )

    def _compared(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Say for each video whether it is extracted, has changed since then, has kept its size then, has a source."""
        known = store.ledger_table(self.folder, ["video_id", "source"])
        at = store.found(self.videos["video_id"], known["video_id"])
        before = known["source"].take(pa.array(at, mask=at < 0))
        done, recorded = at >= 0, np.asarray(before.is_valid())
        if not recorded.any():  # the videos' files need not be looked at
            return done, recorded, recorded, recorded
        changed = files.changed(self.videos["video_id"], self.sources, before, files.accepted(self.folder))
        touched = changed & ~files.differing(self.sources, before, times=False) if changed.any() else changed
        return done, changed, touched, recorded

    def accept_touched(self) -> None:
        """Take files of the same size for those of before; see `files.accept`."""
        with locked(self.folder / ".lock"):
            _, _, touched, _ = self._compared()
            if touched.any():
                now = self.sources.filter(pa.array(touched))
                files.accept(self.folder, self.videos["video_id"].filter(pa.array(touched)), now)

    @property
    def interrupted(self) -> bool:
        """Whether an extraction into the folder has begun and not ended: it may have read some of what is missing."""
        if (self.folder / "_done.json").is_file():
            return any(self.folder.glob("parts/*.parquet"))
        return (self.folder / "recipe.json").is_file()

    @property
    def missing(self) -> pa.Table:
        """Those of the videos that are still to be extracted, or again, since they have changed."""
        done, changed, _, _ = self._compared()
        return self.videos.filter(pa.array(~done | changed))

    @property
    def num_missing(self) -> int:
        """How many of the videos are still to be extracted, or again, since they have changed."""
        return self.standing.missing

    @property
    def gone(self) -> list[str]:
        """The uris of those of the videos whose file is not there, of a list of the user's own; of datasets none.

        The owners' lists are compared with what is there as they are read.
        """
        if not is_list(self.roots.get(self.dataset, "")):
            return []
        states = self.sources.field("state").to_pylist()
        return [uri for uri, state in zip(self.videos["uri"].to_pylist(), states, strict=True) if state == files.GONE]

    def is_due(self, retry_failed: bool = False) -> bool:
        """Say whether `extract_missing` has something to do; if it is but the index, which old extractions lack."""
        return bool(self.num_missing or (retry_failed and self.num_failed) or store.lacks_index(self.folder))

    @property
    def ledger(self) -> dict[str, dict[str, Any]]:
        """The LEDGER rows of those of the videos that are extracted, by video_id."""
        wanted = self.wanted
        return {video_id: row for video_id, row in store.ledger(self.folder).items() if video_id in wanted}

    def ledger_table(self) -> pa.Table:
        """Return `ledger` as a LEDGER table."""
        table = store.ledger_table(self.folder)
        return table.filter(pc.is_in(table["video_id"], self.videos["video_id"].combine_chunks()))

    @property
    def num_failed(self) -> int:
        """How many of the videos could not be read."""
        return sum(row["status"] in store.FAILED for row in self.ledger.values())

    @property
    def bytes_needed(self) -> int:
        """An estimate of what the missing videos will take on disk. A picture is a video of one frame."""
        missing = self.missing["uri"].to_pylist()
        num_pictures = sum(map(stills.is_picture, missing))
        num_frames = num_pictures + (len(missing) - num_pictures) * self.recipe.num_frames
        num_bytes = num_frames * self.recipe.max_faces * tables.FACE_BYTES
        return round(num_bytes * (self.recipe.size_px / tables.FACE_PX) ** 2)


def notes(extractions: Sequence[Extraction]) -> list[str]:
    """Return what a plan must say besides numbers of videos to extract, a line each."""
    lines = []
    for extraction in extractions:
        standing = extraction.standing
        if gone := extraction.gone:
            lines.append(
                f"{_videos(len(gone), extraction)} are not where its list says: {first(gone, 3)}; those not "
                "read before count as unreadable, and the report lists them"
            )
        if standing.changed:
            text = f"{_videos(standing.changed, extraction)} changed since they were extracted"
            if standing.touched:
                few = "" if standing.touched == standing.changed else f"{standing.touched} of them with "
                text += f", {few or 'with '}files of the same size: if these are copies, "
                text += f"`uv run crossforge preprocess {extraction.dataset} --same-files` keeps the faces"
            lines.append(text)
        if standing.unrecorded:
            lines.append(
                f"{_videos(standing.unrecorded, extraction)} were extracted before it was recorded what from: taken as "
                f"unchanged; remove {extraction.folder} to extract them again"
            )
    return list(dict.fromkeys(lines))  # several recipes say the same


def _videos(number: int, extraction: Extraction) -> str:
    return f"{number} of {extraction.videos.num_rows} videos of {extraction.dataset}"


def existing(
    storage: Path, dataset: str, videos: pa.Table, roots: Mapping[str, str], sample_root: str | None
) -> list[Extraction]:
    """Return the finished extractions of a dataset by whatever recipe, with all of its videos; see `faces_folder`."""
    found = []
    for done in sorted(storage.glob(f"faces/{dataset}/*/_done.json")):
        recipe = Recipe(**read_json(done)["recipe"])
        folder = faces_folder(storage, dataset, recipe, sample_root)
        if folder == done.parent:  # else of an older version, or of the sample corpus's dataset of this name
            found.append(Extraction(dataset=dataset, recipe=recipe, folder=folder, videos=videos, roots=roots))
    return found


def faces_folder(storage: Path, dataset: str, recipe: Recipe, sample_root: str | None) -> Path:
    """Return the folder of a dataset's faces; `sample_root` is the dataset's root if it is of the sample corpus.

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
    """Extract what is missing and print which videos gave no face. Ray must be initialised.

    Small datasets are read in one pass, any other in one of its own.

    With `retry_failed`, videos that could not be read before are read again. Raises what `extract.extract_all` does.
    """
    from pipelines.faces.extract import Target, extract_all  # here: a dry run has no use for Ray

    todo = [extraction for extraction in extractions if extraction.is_due(retry_failed)]
    for together in _passes(todo):
        targets = [Target(folder=each.folder, recipe=each.recipe, videos=each.videos) for each in together]
        num_without_face = 0
        with progress.view(console, f"Extracting faces: {_named(together)}") as view:

            def on_video(row: Mapping[str, Any], view: progress.View = view) -> None:
                nonlocal num_without_face
                num_without_face += row["status"] != "ok"
                done, total = row["num_done"], row["num_videos"]
                without = f", {num_without_face} without a usable face" if num_without_face else ""
                view.update("videos", f"{done} of {total}{without}", done, total)

            extract_all(targets, roots, on_video=on_video, predictor=predictor, retry_failed=retry_failed)
    _print_failures(extractions, console)


def _passes(todo: Sequence[Extraction]) -> list[list[Extraction]]:
    """Return what is read in one pass each: the datasets of few videos together, each of the others by itself."""
    by_dataset: dict[str, list[Extraction]] = {}
    for extraction in todo:
        by_dataset.setdefault(extraction.dataset, []).append(extraction)
    passes: dict[str, list[Extraction]] = {}
    for dataset, own in by_dataset.items():
        few = max(each.videos.num_rows for each in own) <= _FEW
        passes.setdefault("" if few else dataset, []).extend(own)
    return list(passes.values())


def _named(together: Sequence[Extraction]) -> str:
    """Return the datasets of a pass: `ffpp, dfdc (2 crops)`."""
    crops = Counter(extraction.dataset for extraction in together)
    return ", ".join(f"{dataset} ({number} crops)" if number > 1 else dataset for dataset, number in crops.items())


def _print_failures(extractions: Sequence[Extraction], console: Console) -> None:
    """Print the videos that gave no face, and why: each once, though several recipes may have failed alike."""
    shown: set[tuple[str, str]] = set()
    for extraction in extractions:
        failures = [row for row in extraction.ledger.values() if row["status"] != "ok"]
        failures = [row for row in failures if (row["video_id"], row["reason"]) not in shown]
        shown |= {(row["video_id"], row["reason"]) for row in failures}
        for row in failures[:_MOST_FAILURES]:
            text = f"  {row['status']}: {row['video_id']}: {row['reason']}"
            console.print(text, style="yellow", highlight=False, markup=False)
        if len(failures) > _MOST_FAILURES:
            more = len(failures) - _MOST_FAILURES
            console.print(f"  and {more} more; all are in {extraction.folder / 'ledger.parquet'}")
