"""Rows of a sweep's table whose scores were made elsewhere: registered once, then in each report of the sweep.

<storage>/foreign/<sweep>/<digest of the label>.json   one row; who deletes the file takes the row out
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.common import storage
from pipelines.common.storage import digest
from pipelines.experiments.sweep import NO_VALUE
from pipelines.reporting.saved import Line, Planned, Run, Saved

MARK = "†"  # behind the label of such a row
LEFT_OUT = "left out"  # name of the fact that says so


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A row of a sweep's table whose scores were made elsewhere."""

    label: str
    run: str  # digest
    baseline: str  # label of the row that it is tested against
    note: str  # where the scores come from
    is_sample: bool
    videos: Mapping[str, str]  # part -> digest of its video_ids, as `digest_of` makes it


def digest_of(video_ids: Iterable[str]) -> str:
    """Return the digest of a part's videos, whether or not they have a score."""
    return digest(sorted(video_ids))


def register(row: Registered, sweep: str, storage_folder: Path) -> Path:
    """Write a row down for a sweep, in place of one of the same label; return the file."""
    path = storage_folder / "foreign" / sweep / f"{digest(row.label)}.json"
    storage.write_json(path, asdict(row))
    return path


def with_registered(saved: Saved, storage_folder: Path) -> Saved:
    """Return a table with the rows that are registered for its sweep now, and no other from elsewhere.

    A row that was scored on other videos than every run of the table is left out, and the facts say so. Raises
    ValueError where a registered run is missing.
    """
    known = {trial.row for trial in saved.trials if trial.foreign}
    table = replace(
        saved,
        rows=tuple(line for line in saved.rows if line.label not in known),
        trials=tuple(trial for trial in saved.trials if not trial.foreign),
        facts={name: fact for name, fact in saved.facts.items() if name != LEFT_OUT},
    )
    files = sorted(storage_folder.glob(f"foreign/{saved.name}/*.json"))
    if not files:
        return table
    there = [_videos(Run.read(storage_folder / "runs" / t.run)) for t in table.trials if not t.failure]
    left_out = []
    for row in (Registered(**storage.read_json(path)) for path in files):
        same_videos = any(row.videos.items() <= videos.items() for videos in there)
        if row.is_sample != saved.is_sample or not same_videos:
            left_out.append(row.label)
            continue
        label = f"{row.label} {MARK}"
        line = Line(
            label=label,
            published=(NO_VALUE,) * len(saved.columns),
            baseline=row.baseline if row.baseline in {line.label for line in table.rows} else "",
            note=f"scores from elsewhere: {row.note}",
        )
        trial = Planned(row=label, seed=0, run=row.run, foreign=True)
        table = replace(table, rows=(*table.rows, line), trials=(*table.trials, trial))
    if left_out:
        why = "scores from elsewhere of other videos than those of this table"
        table = replace(table, facts={**table.facts, LEFT_OUT: f"{', '.join(left_out)}: {why}"})
    return table


def _videos(run: Run) -> dict[str, str]:
    """Return the digest of the videos of each part of a run."""
    names = pq.read_table(run.folder / "predictions.parquet", columns=["video_id"])["video_id"]
    scored: dict[str, set[str]] = {part.name: {video.video_id for video in part.failed} for part in run.origin.parts}
    first = 0
    for block in run.blocks:
        scored[block["part"]].update(names.slice(first, block["rows"]).unique().to_pylist())
        first += block["rows"]
    return {part: digest_of(video_ids) for part, video_ids in scored.items()}
