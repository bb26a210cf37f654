"""What came out of a sweep: its trials as a table for the terminal, files, and MLflow runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import _runs, preprocess, registry, run, tuning
from pipelines.common import provenance, tables
from pipelines.common.storage import digest
from pipelines.common.text import printable
from pipelines.datasets.sample import corpus
from pipelines.faces.plan import Extraction
from pipelines.reporting import cache, coverage
from pipelines.reporting.report import Report, gather
from pipelines.reporting.saved import Planned, Saved
from pipelines.reporting.table import Cell, heading, numbers, ours_width, side_by_side, two_lines
from pipelines.tracking import TrackingError, ui_command

if TYPE_CHECKING:
    from pipelines.experiments.sweep import Sweep

Key = tuple[str, int]  # row of the table, seed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    sweep: "Sweep"
    preset: str
    config_file: Path | None  # datasets.toml; None: the sample corpus
    storage: Path
    extractions: tuple[Extraction, ...]
    trials: Mapping[Key, run.Trial]

    @property
    def is_sample(self) -> bool:
        return self.config_file is None

    @property
    def key(self) -> str:
        """The same for the same rows on the same data."""
        return digest([self.sweep.name, sorted(trial.digest for trial in self.trials.values())])

    def publish(self, console: Console) -> int:
        """Writes, prints and logs everything. The exit code: 0, or 1 if a row failed or MLflow could not be reached."""
        trials = self.trials
        done = [trial for trial in trials.values() if trial.done]
        facts = {
            "data": f"own datasets, {self.config_file.name}" if self.config_file else corpus.NOTE,
            "preset": self.preset,
            "numbers": f"{numbers(self.sweep.columns)} in %, {_seeds(len({seed for _, seed in trials}))}; "
            f"score of a video = {run.pooling_text(trials.values())}",
            "trained on": ", ".join(
                sorted({f"{t.experiment.train_on} ({t.experiment.codec})" for t in trials.values()})
            ),
            "checkpoint": "chosen on the val part of the training dataset; test parts are scored once",
            "videos without a face": next(iter(trials.values())).experiment.failed_videos,
            "commit": ", ".join(sorted({c for t in done for c in t.results()["commit"].to_pylist()}))
            or provenance.commit(),
        }
        folder = self.storage / "reports" / f"{self.sweep.name}-{self.key}"
        for trial in done:
            run.complete(trial)
        shown = self._report(folder, self._saved(facts))
        self._print_table(shown.cells, shown.lines, console)
        console.print(f"Report: {folder}", highlight=False, soft_wrap=True)
        logged = self._log(shown.paths, console)
        return 0 if logged and len(done) == len(trials) else 1

    def _report(self, folder: Path, saved: Saved) -> cache.Shown:
        """Made, unless it is there already and nothing that goes into it has changed."""
        runs = [file for trial in self.trials.values() if trial.done for file in sorted(trial.folder.glob("[!.]*"))]
        ledgers = [one.folder / "ledger.parquet" for one in self.extractions]
        of = cache.inputs(asdict(saved), [*runs, *ledgers], [one.videos for one in self.extractions])
        if found := cache.read(folder, of):
            return found
        # Looked for in the videos' ledgers only now: statistics take a second to import.
        leaks, counted = tuple(preprocess.leaks(self.extractions)), tuple(_counted(self.extractions))
        saved = replace(saved, leaks=leaks, coverage=counted)
        made = Report.of(saved, gather(saved, self.storage, again=False))
        covered = preprocess.write_coverage(self.extractions, folder)  # first: the page shows its pictures
        shown = cache.Shown(cells=made.cells, lines=made.lines, paths=made.write(folder) + covered)
        cache.write(folder, of, shown)
        return shown

    def _published(self, row: str, trial: run.Trial) -> dict[str, float]:
        """As MLflow metrics, named like ours."""
        values = {}
        for column in self.sweep.columns:
            value = self.sweep.published[row][column.name]
            if math.isfinite(value):
                part = "/".join(filter(None, (column.test or trial.test[0].part.name, column.perturbation)))
                values[f"{part}/{column.level}/{column.metric}/published"] = value
        return values

    def _saved(self, facts: Mapping[str, str]) -> Saved:
        """All that a report needs besides the runs' folders, and what became of the videos."""
        s = self.sweep
        trials = tuple(
            Planned(
                row=row,
                seed=seed,
                run=trial.digest,
                failure="" if trial.done else tuning.failure_of(trial) or "not finished",
            )
            for (row, seed), trial in self.trials.items()
        )
        return Saved(
            name=s.name,
            title=s.title,
            row_name=s.row_name,
            baseline=s.baseline or next(iter(s.rows)),
            is_sample=self.is_sample,
            columns=s.columns,
            published=s.published,
            trials=trials,
            facts=facts,
        )

    def _print_table(self, cells: Sequence[Cell], lines: Sequence[str], console: Console) -> None:
        """As many columns side by side as the terminal is wide, the others below; intervals on a line of their own."""
        console.print(Text(f"{printable(self.sweep.title)}: published against ours", style="bold"))
        width = ours_width(cells)
        for shown in side_by_side(self.sweep.row_name, cells, console.width):
            table = Table(show_lines=True)
            table.add_column(Text(printable(self.sweep.row_name)))
            for column in shown:
                table.add_column(Text(heading(column, width)), justify="right")
            for row in dict.fromkeys(cell.row for cell in cells):
                own = {cell.column: cell for cell in cells if cell.row == row}
                values = [Text(two_lines(own[column], width)) for column in shown]
                table.add_row(Text(printable(row)), *values)  # as text: a name may hold what is a style to rich
            console.print(table)
        for line in lines:
            console.print(f"  {printable(line)}", highlight=False, markup=False)

    def _log(self, paths: Sequence[Path], console: Console) -> bool:
        """Prints where to look. Whether all is logged."""
        done = {key: trial for key, trial in self.trials.items() if trial.done}
        values = {key: metric_values(trial.results()) | self._published(key[0], trial) for key, trial in done.items()}
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        try:
            runs = _runs.log(self, values, paths)
            model = registry.register(self, runs)
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


def metric_values(results: pa.Table) -> dict[str, float]:
    """RESULTS as MLflow metrics: `<dataset>/<level>/<metric>` with `/low` and `/high`, and the counts of videos.

    Of single stages only the video-level AUC, as `<stage>/<dataset>/video/auc`, of perturbed faces only the AUC, as
    `<dataset>/<perturbation>/<level>/auc`: the rest is in results.parquet.
    """
    values: dict[str, float] = {}
    for row in results.to_pylist():
        if row["perturbation"]:
            if (row["stage"], row["metric"]) == (run.FINAL, "auc"):
                name = f"{row['test_dataset']}/{row['perturbation']}/{row['level']}/auc"
                values |= {name: row["value"], f"{name}/low": row["low"], f"{name}/high": row["high"]}
            continue
        name = f"{row['test_dataset']}/{row['level']}/{row['metric']}"
        if row["stage"] == run.FINAL:
            values |= {name: row["value"], f"{name}/low": row["low"], f"{name}/high": row["high"]}
            for count in ("n_real", "n_fake", "n_missing", "n_excluded"):
                values[f"{row['test_dataset']}/{count}"] = row[count]
        elif (row["level"], row["metric"]) == ("video", "auc"):
            values[f"{row['stage']}/{name}"] = row["value"]
    return values


def name_of(key: Key) -> str:
    row, seed = key
    return f"{row} seed {seed}"
