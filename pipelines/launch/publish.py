"""The end of a launch: its report is written, its table printed, its runs are logged to MLflow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.common import provenance, tables
from pipelines.common.text import printable
from pipelines.datasets.sample import corpus
from pipelines.faces.plan import Extraction
from pipelines.reporting import cache, coverage, report
from pipelines.reporting.saved import Planned, Saved
from pipelines.reporting.table import Cell, heading, numbers, ours_width, side_by_side, two_lines
from pipelines.tracking import registry
from pipelines.tracking.client import TrackingError, ui_command
from pipelines.tracking.runs import log, metric_values
from pipelines.trials import tune
from pipelines.trials.outcome import Outcome
from pipelines.trials.trial import Trial, pooling_text


def publish(outcome: Outcome, console: Console) -> int:
    """Writes, prints and logs everything. The exit code: 0, or 1 if a row failed or MLflow could not be reached."""
    trials = outcome.trials
    done = [trial for trial in trials.values() if trial.done]
    facts = {
        "data": f"own datasets, {outcome.config_file.name}" if outcome.config_file else corpus.NOTE,
        "preset": outcome.preset,
        "numbers": f"{numbers(outcome.sweep.columns)} in %, {_seeds(len({seed for _, seed in trials}))}; "
        f"score of a video = {pooling_text(trials.values())}",
        "trained on": ", ".join(sorted({f"{t.experiment.train_on} ({t.experiment.codec})" for t in trials.values()})),
        "checkpoint": "chosen on the val part of the training dataset; test parts are scored once",
        "videos without a face": next(iter(trials.values())).experiment.failed_videos,
        "commit": ", ".join(sorted({c for t in done for c in t.results()["commit"].to_pylist()}))
        or provenance.commit(),
    }
    folder = outcome.storage / "reports" / f"{outcome.sweep.name}-{outcome.key}"
    shown = _report(outcome, folder, _saved(outcome, facts))
    _print_table(outcome, shown.cells, shown.lines, console)
    console.print(f"Report: {folder}", highlight=False, soft_wrap=True)
    logged = _log(outcome, shown.paths, console)
    return 0 if logged and len(done) == len(trials) else 1


def _report(outcome: Outcome, folder: Path, saved: Saved) -> cache.Shown:
    """Made, unless it is there already and nothing that goes into it has changed."""
    runs = [file for trial in outcome.trials.values() if trial.done for file in sorted(trial.folder.glob("[!.]*"))]
    ledgers = [one.folder / "ledger.parquet" for one in outcome.extractions]
    of = cache.inputs(asdict(saved), [*runs, *ledgers], [one.videos for one in outcome.extractions])
    if found := cache.read(folder, of):
        return found
    # Looked for in the videos' ledgers only now: statistics take a second to import.
    leaks, counted = tuple(coverage.leaks_of(outcome.extractions)), tuple(_counted(outcome.extractions))
    saved = replace(saved, leaks=leaks, coverage=counted)
    made = report.Report.of(saved, report.gather(saved, outcome.storage, again=False))
    covered = coverage.write_coverage(outcome.extractions, folder)  # first: the page shows its pictures
    shown = cache.Shown(cells=made.cells, lines=made.lines, paths=made.write(folder) + covered)
    cache.write(folder, of, shown)
    return shown


def _published(outcome: Outcome, row: str, trial: Trial) -> dict[str, float]:
    """As MLflow metrics, named like ours."""
    values = {}
    for column in outcome.sweep.columns:
        value = outcome.sweep.published[row][column.name]
        if math.isfinite(value):
            part = "/".join(filter(None, (column.test or trial.test[0].part.name, column.perturbation)))
            values[f"{part}/{column.level}/{column.metric}/published"] = value
    return values


def _saved(outcome: Outcome, facts: Mapping[str, str]) -> Saved:
    """All that a report needs besides the runs' folders, and what became of the videos."""
    s = outcome.sweep
    trials = tuple(
        Planned(
            row=row,
            seed=seed,
            run=trial.digest,
            failure="" if trial.done else tune.failure_of(trial) or "not finished",
        )
        for (row, seed), trial in outcome.trials.items()
    )
    return Saved(
        name=s.name,
        title=s.title,
        row_name=s.row_name,
        baseline=s.baseline or next(iter(s.rows)),
        is_sample=outcome.is_sample,
        columns=s.columns,
        published=s.published,
        trials=trials,
        facts=facts,
    )


def _print_table(outcome: Outcome, cells: Sequence[Cell], lines: Sequence[str], console: Console) -> None:
    """As many columns side by side as the terminal is wide, the others below; intervals on a line of their own."""
    console.print(Text(f"{printable(outcome.sweep.title)}: published against ours", style="bold"))
    width = ours_width(cells)
    for shown in side_by_side(outcome.sweep.row_name, cells, console.width):
        table = Table(show_lines=True)
        table.add_column(Text(printable(outcome.sweep.row_name)))
        for column in shown:
            table.add_column(Text(heading(column, width)), justify="right")
        for row in dict.fromkeys(cell.row for cell in cells):
            own = {cell.column: cell for cell in cells if cell.row == row}
            values = [Text(two_lines(own[column], width)) for column in shown]
            table.add_row(Text(printable(row)), *values)  # as text: a name may hold what is a style to rich
        console.print(table)
    for line in lines:
        console.print(f"  {printable(line)}", highlight=False, markup=False)


def _log(outcome: Outcome, paths: Sequence[Path], console: Console) -> bool:
    """Prints where to look. Whether all is logged."""
    done = {key: trial for key, trial in outcome.trials.items() if trial.done}
    values = {key: metric_values(trial.results()) | _published(outcome, key[0], trial) for key, trial in done.items()}
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    try:
        runs = log(outcome, values, paths)
        model = registry.register(outcome, runs)
    except TrackingError as error:
        say(f"NOT LOGGED  {error}", style="red")
        say("The results are kept in the storage; the same command logs them as soon as MLflow can be reached.")
        return False
    say(f"MLflow: {ui_command(runs.tracker.uri)}")
    say(f"Model: {model}")
    return True


def _seeds(number: int) -> str:
    return "of one seed" if number == 1 else f"mean over {number} seeds"


def _counted(extractions: Sequence[Extraction]) -> list[dict[str, Any]]:
    """What became of the videos: rows of `coverage.table`, those of several recipes below each other."""
    names = [*coverage.KEY, "given", *tables.STATUSES]
    return [
        row for one in extractions for row in coverage.table(one.videos, one.ledger_table()).select(names).to_pylist()
    ]
