"""The end of a launch: its report is written, its table printed, its runs are logged to MLflow."""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.common import command, provenance, tables
from pipelines.common.text import printable
from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import Experiment
from pipelines.reporting import cache, coverage, foreign, report
from pipelines.reporting.leaks import leak_texts
from pipelines.reporting.saved import WARNING, Line, Planned, Saved
from pipelines.reporting.table import Cell, heading, numbers, ours_width, side_by_side, two_lines
from pipelines.tracking import logged, registry
from pipelines.tracking.client import TrackingError, default_uri, shown_by
from pipelines.tracking.runs import log, metric_values, published, table_metrics
from pipelines.trials import tune
from pipelines.trials.outcome import Outcome
from pipelines.trials.trial import Trial, pooling_text


def publish(outcome: Outcome, console: Console) -> int:
    """Write the report, print its table and log the runs; return the exit code.

    0, or 1 if a row failed or MLflow could not be reached.
    """
    folder = outcome.storage / "reports" / f"{outcome.sweep.name}-{outcome.key}"
    shown = _write_report(outcome, folder)
    title = f"{outcome.sweep.title}: published against ours"
    print_table(title, outcome.sweep.row_name, shown.cells, shown.lines, console)
    console.print(f"Report: {folder}", highlight=False, soft_wrap=True)
    uri = default_uri(outcome.storage)
    lines = logged.read(folder, uri)
    if not lines:
        lines, artifacts = _log(outcome, shown.paths, console)
        if lines:
            logged.write(folder, uri, lines, artifacts)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0 if lines and all(trial.done for trial in outcome.trials.values()) else 1


# ------------------------------------------------------------------------------------- the report
def _write_report(outcome: Outcome, folder: Path) -> cache.Shown:
    """Write the report, unless it is there already and nothing that goes into it has changed; return what it shows."""
    saved = foreign.with_registered(_saved(outcome), outcome.storage)
    of_runs = [file for trial in outcome.trials.values() if trial.done for file in sorted(trial.folder.glob("[!.]*"))]
    ledgers = [extraction.folder / "ledger.parquet" for extraction in outcome.extractions]
    videos = [extraction.videos for extraction in outcome.extractions]
    made_of = cache.inputs_digest(asdict(saved), [*of_runs, *ledgers], videos)
    if shown := cache.read(folder, made_of):
        return shown
    # Only now are the ledgers looked through: statistics take a second to import.
    names = [*coverage.KEY, "given", *tables.STATUSES]
    counts = [
        row
        for extraction in outcome.extractions  # those of several recipes below each other
        for row in coverage.table(extraction.videos, extraction.ledger_table()).select(names).to_pylist()
    ]
    saved = replace(saved, leaks=tuple(leak_texts(outcome.extractions)), coverage=tuple(counts))
    made = report.Report.of(saved, report.gather(saved, outcome.storage, again=False))
    pictures = coverage.write_by_recipe(folder, outcome.extractions)  # first: the page shows them
    shown = cache.Shown(cells=made.cells, lines=made.lines, paths=made.write(folder) + pictures)
    cache.write(folder, made_of, shown)
    return shown


def _trained_on(experiment: Experiment) -> str:
    """Name the training dataset with its compression, and its manipulations where an experiment names them."""
    return f"{experiment.train_on} ({', '.join((experiment.codec, *experiment.manipulations))})"


def _saved(outcome: Outcome) -> Saved:
    """Return all that a report needs besides the runs' folders and what became of the videos."""
    sweep, trials = outcome.sweep, outcome.trials
    num_seeds = len({seed for _, seed in trials})
    seeds = "of one seed" if num_seeds == 1 else f"mean over {num_seeds} seeds"
    commits = {commit for trial in trials.values() if trial.done for commit in trial.results()["commit"].to_pylist()}
    made_with: dict[str, list[provenance.MadeWith]] = {}
    for (row, _), trial in trials.items():
        if trial.done:
            made_with.setdefault(row, []).append(trial.made_with)
    facts = {
        "run": _when(trials.values()),
        "command": command.typed(sys.argv),
        "data": f"own datasets, {outcome.config_file.name}" if outcome.config_file else corpus.NOTE,
        "preset": outcome.preset,
        WARNING: outcome.warning,
        "numbers": f"{numbers(sweep.columns)} in %, {seeds}; score of a video = {pooling_text(trials.values())}",
        "trained on": "; ".join(sorted({_trained_on(trial.experiment) for trial in trials.values()})),
        "checkpoint": "chosen on the val part of the training dataset; test parts are scored once",
        "parts": "; ".join(dict.fromkeys(part for trial in trials.values() for part in trial.citations)),
        "videos without a face": next(iter(trials.values())).experiment.failed_videos,
        "made with": provenance.told({row: provenance.joined(own) for row, own in made_with.items()}) or "nothing yet",
        "commit": ", ".join(sorted(commits)) or provenance.commit(),
    }
    return Saved(
        name=sweep.name,
        title=sweep.title,
        row_name=sweep.row_name,
        is_sample=outcome.is_sample,
        columns=sweep.columns,
        rows=tuple(
            Line(
                label=row.label,
                published=sweep.published(row),
                runs=row.runs,
                baseline=sweep.baseline_of(row) if row.runs else "",
                note=row.note,
            )
            for row in sweep.rows
        ),
        trials=tuple(
            Planned(
                row=row,
                seed=seed,
                run=trial.digest,
                failure="" if trial.done else tune.failure_of(trial) or "not finished",
            )
            for (row, seed), trial in trials.items()
        ),
        facts={name: text for name, text in facts.items() if text},
    )


def _when(trials: Iterable[Trial]) -> str:
    """Return from when to when trials ran, as far as it is known: `2026-11-29 17:24 to 18:03 UTC`."""
    times = [trial.times for trial in trials if {"began", "ended"} <= trial.times.keys()]
    if not times:
        return ""
    began, ended = min(own["began"] for own in times), max(own["ended"] for own in times)
    return f"{began:%Y-%m-%d %H:%M} to {ended:{'%H:%M' if began.date() == ended.date() else '%Y-%m-%d %H:%M'}} UTC"


# ----------------------------------------------------------------------------- terminal and MLflow
def print_table(title: str, row_name: str, cells: Sequence[Cell], lines: Sequence[str], console: Console) -> None:
    """Print as many columns side by side as fit, the others below; intervals on a line of their own."""
    console.print(Text(printable(title), style="bold"))
    width = ours_width(cells)
    for columns in side_by_side(row_name, cells, console.width):
        table = Table()
        table.add_column(Text(printable(row_name)))
        for column in columns:
            table.add_column(Text(heading(column, width)))
        rows: dict[str, dict[str, Cell]] = {}
        for cell in cells:
            rows.setdefault(cell.label, {})[cell.column] = cell
        runs = [next(iter(own.values())).runs for own in rows.values()]
        for (label, own), here, below in zip(rows.items(), runs, [*runs[1:], False], strict=True):
            values = [Text(two_lines(own[column], width)) for column in columns]
            # Text: a name may hold what is a style to rich. No lines between rows of the paper alone: they may be many.
            table.add_row(Text(printable(label)), *values, style="" if here else "dim", end_section=here or below)
        console.print(table)
    for line in lines:
        text = textwrap.fill(
            printable(line),
            max(40, console.width),
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _log(outcome: Outcome, paths: Sequence[Path], console: Console) -> tuple[list[str], list[Path]]:
    """Log the runs, the report and the best model; return lines that say where they are, and their folders.

    Where MLflow can't be reached, print why and return none.
    """
    shown = table_metrics(outcome)
    values = {
        key: metric_values(trial.results(), shown) | published(outcome, key)
        for key, trial in outcome.trials.items()
        if trial.done
    }
    try:
        runs = log(outcome, values, paths)
        model = registry.register(outcome, runs)
        # That of a trial that is not done has no files, and no folder.
        ended = [runs.parent, *(run for key, run in runs.children.items() if outcome.trials[key].done)]
        artifacts = [folder for run in ended if (folder := runs.tracker.files_folder(run))]
    except TrackingError as error:
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        say(f"NOT LOGGED  {error}", style="red")
        say("The results are kept in the storage; the same command logs them as soon as MLflow can be reached.")
        return [], []
    return [shown_by(runs.tracker.uri, runs.address), f"Model: {model}"], artifacts
