"""Rows of a sweep's table whose scores were made elsewhere: registered once, then in each report of the sweep.

<storage>/foreign/<sweep>/<digest of the label>.json   one row; who deletes the file takes the row out
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.common import storage
from pipelines.common.storage import digest
from pipelines.experiments.sweep import NO_VALUE
from pipelines.metrics import results
from pipelines.reporting.saved import Line, Planned, Saved

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
    parts: Sequence[str]  # that are scored: see `protocol.Part.citation`
    # What rows do not tell that were registered before these were compared.
    failed_rule: str = ""
    version: int = 0  # of the rules that made its RESULTS: `results.VERSION`


def register(row: Registered, sweep: str, storage_folder: Path) -> Path:
    """Write a row down for a sweep, in place of one of the same label; return the file."""
    path = storage_folder / "foreign" / sweep / f"{digest(row.label)}.json"
    storage.write_json(path, asdict(row))
    return path


def with_registered(saved: Saved, storage_folder: Path) -> Saved:
    """Return a table with the rows that are registered for its sweep now, and no other from elsewhere.

    A row is left out, and the facts say why, if its numbers are of other parts than those of every run of the table, of
    another rule for videos without a score, or of another version.
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
    folders = (storage_folder / "runs" / trial.run for trial in table.trials if not trial.failure)
    there = [storage.read_json(folder / "trial.json") for folder in folders]
    left_out: dict[str, list[str]] = {}
    for row in (Registered(**storage.read_json(path)) for path in files):
        if why := _differs(row, saved.is_sample, there):
            left_out.setdefault(why, []).append(row.label)
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
        told = "; ".join(f"{', '.join(labels)}: scores from elsewhere {why}" for why, labels in left_out.items())
        table = replace(table, facts={**table.facts, LEFT_OUT: told})
    return table


def _differs(row: Registered, is_sample: bool, there: Sequence[Mapping[str, Any]]) -> str:
    """Return why a row can't stand beside runs, of which trial.json tells; empty if it can beside one of them."""
    of_its_parts = [told for told in there if {*row.parts} <= {*told.get("parts", ())}]
    if row.is_sample != is_sample or not of_its_parts:
        return "of other videos than those of this table"
    if row.version != results.VERSION:
        return "whose numbers another version made: give the command that scored them again"
    if row.failed_rule not in (rules := {told["origin"]["failed_rule"] for told in of_its_parts}):
        wanted = " or ".join(sorted(rules))
        return f"with another rule for videos without a score ({row.failed_rule}, here {wanted}): score them again"
    return ""
