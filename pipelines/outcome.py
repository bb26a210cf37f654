"""What came out of a sweep: its trials as a table for the terminal, files, and MLflow runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipelines import preprocess, report, run, sample_corpus, stages, tuning
from pipelines.experiment import digest
from pipelines.preprocess import Extraction

if TYPE_CHECKING:
    from pipelines.sweep import Sweep
    from pipelines.tracking import Tracker

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

    def track(self) -> tuple["Tracker", str, dict[Key, str]]:
        from pipelines.tracking import Tracker, default_uri  # here: importing mlflow takes seconds

        tracker = Tracker(default_uri(self.storage), self.sweep.name, self.storage)
        common = {
            "mlflow.source.name": f"sweeps/{self.sweep.name}.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": run.commit(),
            "data": "sample" if self.is_sample else "real",
            "preset": self.preset,
            "commit": run.commit(),
            "paper_table": self.sweep.title,
        }
        parent = tracker.run(self.key, f"{self.sweep.name} ({self.preset}, {common['data']})", tags=common)
        children = {}
        for key, trial in self.trials.items():
            row, seed = key
            tags = common | {
                "row": row,
                "seed": str(seed),
                "method": trial.experiment.model,
                "stages": ", ".join(f"{stage.name}/{stage.digest}" for stage in trial.planned),
            }
            params = {self.sweep.row_name: row} | trial.experiment.flat()
            children[key] = tracker.run(trial.digest, name_of(key), parent=parent, params=params, tags=tags)
        return tracker, parent, children

    def publish(self, console: Console) -> int:
        """Writes, prints and logs everything. The exit code: 0, or 1 if a row failed."""
        trials = self.trials
        cells = self.cells()
        done = [trial for trial in trials.values() if trial.done]
        facts = {
            "data": sample_corpus.NOTE if self.is_sample else f"own datasets, {self.config_file}",
            "preset": self.preset,
            "numbers": f"{report.numbers(self.sweep.columns)} in %, mean over "
            f"{len({seed for _, seed in trials})} seed(s); score of a video = {run.pooling_text(trials.values())}",
            "trained on": ", ".join(
                sorted({f"{t.experiment.train_on} ({t.experiment.codec})" for t in trials.values()})
            ),
            "checkpoint": "chosen on the val part of the training dataset; test parts are scored once",
            "videos without a face": next(iter(trials.values())).experiment.failed_videos,
            "commit": ", ".join(sorted({c for t in done for c in t.results()["commit"].to_pylist()})) or run.commit(),
        }
        lines = [*report.notes(cells, facts), *(f"LEAK {leak}" for leak in preprocess.leaks(self.extractions))]
        folder = self.storage / "reports" / f"{self.sweep.name}-{self.key}"
        paths = self._write_report(folder, cells, lines) + preprocess.write_coverage(self.extractions, folder)
        self._print_table(cells, lines, console)
        ui = self._log(paths)
        console.print(f"Report: {folder}", highlight=False, soft_wrap=True)
        console.print(f"MLflow: {ui}", highlight=False, soft_wrap=True)
        return 0 if len(done) == len(trials) else 1

    def _published(self, row: str, trial: run.Trial) -> dict[str, float]:
        """As MLflow metrics, named like ours."""
        values = {}
        for column in self.sweep.columns:
            value = self.sweep.published[row][column.name]
            if math.isfinite(value):
                part = column.test or trial.test[0].part.name
                values[f"{part}/{column.level}/{column.metric}/published"] = value
        return values

    def cells(self) -> list[report.Cell]:
        cells = []
        for row, published in self.sweep.published.items():
            own = [trial for (name, _), trial in self.trials.items() if name == row]
            results = [trial.results() for trial in own if trial.done]
            failure = next((tuning.failure_of(trial) for trial in own if not trial.done), "")
            for column in self.sweep.columns:
                cells.append(report.cell(row, column, published[column.name], results, failure))
        return cells

    def _write_report(self, folder: Path, cells: Sequence[report.Cell], lines: Sequence[str]) -> list[Path]:
        s = self.sweep
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{s.name}.{ending}" for ending in ("md", "csv", "png")]
        stages.write_atomic(paths[0], report.markdown(s.title, s.row_name, cells, lines).encode())
        stages.write_atomic(paths[1], report.to_csv(s.row_name, cells).encode())
        kinds = {f"{column.level} {column.metric.upper()}" for column in s.columns}
        metric = kinds.pop() if len(kinds) == 1 else "value"
        report.plot(paths[2], s.title, s.row_name, metric, cells, sample_corpus.NOTE if self.is_sample else "")
        return paths

    def _print_table(self, cells: Sequence[report.Cell], lines: Sequence[str], console: Console) -> None:
        """As many columns side by side as the terminal is wide, the others below; intervals on a line of their own."""
        console.print(f"[bold]{self.sweep.title}: published against ours[/bold]", highlight=False)
        for shown in report.side_by_side(self.sweep.row_name, cells, console.width):
            table = Table(show_lines=True)
            table.add_column(self.sweep.row_name)
            for column in shown:
                table.add_column(report.heading(column), justify="right")
            for row in dict.fromkeys(cell.row for cell in cells):
                own = {cell.column: cell for cell in cells if cell.row == row}
                table.add_row(row, *(report.two_lines(own[column]) for column in shown))
            console.print(table)
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False)

    def _log(self, paths: Sequence[Path]) -> str:
        from pipelines.tracking import ui_command

        tracker, parent, children = self.track()
        for key, trial in self.trials.items():
            run_id = children[key]
            if not trial.done:
                tracker.end(run_id, "FAILED")
            elif not tracker.finished(run_id):
                for stage in trial.planned:
                    tracker.curve(run_id, stage.name, stage.curve())
                tracker.values(run_id, metric_values(trial.results()) | self._published(key[0], trial))
                tracker.files(run_id, [trial.folder / "results.parquet", trial.folder / "predictions.parquet"])
                tracker.end(run_id)
        if not tracker.finished(parent):
            tracker.files(parent, paths)
            tracker.describe(parent, paths[0].read_text())
            tracker.end(parent, "FINISHED" if all(trial.done for trial in self.trials.values()) else "FAILED")
        return ui_command(tracker.uri)


def metric_values(results: pa.Table) -> dict[str, float]:
    """RESULTS as MLflow metrics: `<dataset>/<level>/<metric>` with `/low` and `/high`, and the counts of videos.

    Of single stages only the video-level AUC, as `<stage>/<dataset>/video/auc`: the rest is in results.parquet.
    """
    values: dict[str, float] = {}
    for row in results.to_pylist():
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
