"""A sweep's trials as MLflow runs: their names, tags, params, metrics, curves, datasets and files.

`log` logs all at the end of a launch; `live` shows curves while trials run. A fact stands in one place: what a person
filters by is a tag, every other setting of the experiment a param, with the counts of videos. Metrics are numbers that
one compares, and curves.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
from rich.console import Console

from pipelines.common import provenance, tables
from pipelines.common.storage import digest
from pipelines.experiments.experiment import IN_RECIPE
from pipelines.experiments.sweep import NO_VALUE, Column, percent
from pipelines.metrics.names import FINAL
from pipelines.tracking import view
from pipelines.tracking.client import PATIENCE_S, Dataset, Tracker, TrackingError, default_uri, shown_by
from pipelines.trials.outcome import Outcome, RowSeed
from pipelines.trials.trial import Trial, UsablePart, kept

START_PATIENCE_S, LIVE_PATIENCE_S = 20.0, 0.0  # nothing that trains waits for MLflow
PAUSE_S = 60.0  # after a failure while trials run
UNDEFINED = "not_defined"  # tag: which metrics there are no values of, and why
SHOWN_CURVES = ("val/auc", "train/loss")  # of each stage, before all other charts
DECIMALS = 6  # of a metric, as in a report's CSV: MLflow shows all there are
IN_TAGS = ("model", "seed", "preset", "codec", "train_on", "test_on")  # settings that are tags, not params
# Settings of a paper that are the default of one of the extraction, and are logged there.
IN_FACES = {f"model_config.{own}": f"faces.{there}" for own, there in IN_RECIPE.items()}

StageCurve = tuple[str, Sequence[Mapping[str, float]], float]  # stage, lines, seconds of training before it


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The MLflow runs of one launch, by their ids."""

    tracker: Tracker
    parent: str  # the launch
    address: str  # of the page that shows its table
    children: dict[RowSeed, str] = field(default_factory=dict)  # its trials, as far as they are opened

    def open_trial(self, outcome: Outcome, key: RowSeed) -> str:
        """Return the run of a trial, made or found again; it began when the trial did. Raise TrackingError."""
        if key not in self.children:
            trial, place = outcome.trials[key], 1 + list(outcome.trials).index(key)
            self.children[key] = self.tracker.open_run(
                trial.digest,
                trial_name(key, trial),
                parent=self.parent,
                params=params(trial),
                tags=common_tags(outcome) | trial_tags(trial) | {"row": key[0], view.PLACE: f"{place:03}"},
                datasets=inputs(trial),
                began=trial.times.get("began"),
            )
        return self.children[key]


def open_launch(outcome: Outcome, patience_s: float) -> Runs:
    """Return the run of a launch, made or found again, and the view of its table; none of its trials is opened.

    Raise TrackingError.
    """
    tracker = Tracker(default_uri(outcome.storage), outcome.sweep.name, outcome.storage, patience_s)
    trials = list(outcome.trials.values())
    over_all = common_tags(outcome) | provenance.joined([trial_tags(trial) for trial in trials])
    datasets = {(dataset.name, dataset.digest): dataset for trial in trials for dataset in inputs(trial)}
    began = min((trial.times["began"] for trial in trials if "began" in trial.times), default=None)
    parent = tracker.open_run(
        outcome.key, launch_name(outcome), tags=over_all, datasets=list(datasets.values()), began=began
    )
    names = [trial_name(key, trial) for key, trial in outcome.trials.items()]
    tracker.describe_experiment(
        f"{outcome.sweep.title}. See Model training, Runs; each launch's table is a saved view."
    )
    stages = dict.fromkeys(stage.name for trial in trials for stage in trial.planned)
    curves_first = [f"{stage}/{name}" for name in SHOWN_CURVES for stage in stages]
    state = view.state(parent, names, table_metrics(outcome), curves=curves_first)
    address = tracker.keep_view(outcome.key, launch_name(outcome), state)
    return Runs(tracker=tracker, parent=parent, address=address)


def open_runs(outcome: Outcome, patience_s: float) -> Runs:
    """Return the runs of a launch and of all its trials, made or found again. Raise TrackingError."""
    runs = open_launch(outcome, patience_s)
    for key in outcome.trials:
        runs.open_trial(outcome, key)
    return runs


def log(outcome: Outcome, values: Mapping[RowSeed, Mapping[str, float]], report: Sequence[Path]) -> Runs:
    """Log all that is known of a launch's trials, and its report; end its runs. What is logged already stays.

    values: metrics of the done trials. report: files, the first in Markdown. Raise TrackingError; the same call again
    then logs what is missing.
    """
    runs = open_runs(outcome, PATIENCE_S)
    tracker = runs.tracker
    for key, trial in outcome.trials.items():
        run_id = runs.children[key]
        if not trial.done:
            tracker.end(run_id, "FAILED", trial.times.get("ended"))
        elif not tracker.is_finished(run_id):
            for stage, curve, after_s in curves(trial):
                tracker.log_curve(run_id, stage, curve, after_s=after_s)
            tracker.log_values(run_id, values[key])
            tracker.log_params(run_id, counts(trial.results()))
            tracker.set_tags(run_id, undefined(trial.results()))
            tracker.log_files(run_id, kept(trial.folder))
            tracker.end(run_id, at=trial.times.get("ended"))
        else:
            tracker.log_missing_files(run_id, kept(trial.folder))
    if tracker.is_finished(runs.parent):
        tracker.log_missing_files(runs.parent, report)
    else:
        tracker.log_files(runs.parent, report)
        tracker.describe(runs.parent, report[0].read_text())
        tracker.end(runs.parent, "FINISHED" if all(trial.done for trial in outcome.trials.values()) else "FAILED")
    return runs


# ------------------------------------------------------------------------------------------- names
def launch_name(outcome: Outcome) -> str:
    """Return the name of a launch's run. It is short: the UI shows some twenty letters; the sweep is the experiment."""
    return f"{outcome.preset}, {_data(outcome)} [{outcome.key[:6]}]"


def trial_name(key: RowSeed, trial: Trial) -> str:
    """Return the name of a trial's run. It ends with the start of the digest, which `pipelines.predict --run` takes."""
    row, seed = key
    return f"{row}, seed {seed} [{trial.digest[:6]}]"


def _data(outcome: Outcome) -> str:
    return "sample" if outcome.is_sample else "real"


def common_tags(outcome: Outcome) -> dict[str, str]:
    """Return the tags of every run of a launch."""
    paper, table, question = parts_of(outcome.sweep.title)
    return warned(outcome.warning) | {
        "mlflow.source.name": f"sweeps/{outcome.sweep.name}.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": provenance.commit(),
        "commit": provenance.commit(),
        "data": _data(outcome),
        "preset": outcome.preset,
        "paper": paper,
        "table": table,
        "question": question,
    }


def warned(text: str) -> dict[str, str]:
    """Return the tag that says why no number means anything; none where the text is empty."""
    return {"warning": text} if text else {}


def parts_of(title: str) -> tuple[str, str, str]:
    """Return paper, table or section, and question of a title such as `LRE, Table V: against its backbone`.

    A title of another form is all question.
    """
    if match := re.fullmatch(r"(?:(.*), )?((?:Tables?|Sec\.|Fig\.) [^:]+): (.*)", title):
        return match[1] or "", match[2], match[3]
    return "", "", title


def trial_tags(trial: Trial) -> dict[str, str]:
    """Return the tags that tell one trial of a sweep from the others."""
    experiment = trial.experiment
    return {
        "method": experiment.model,
        "trained_on": experiment.train_on,
        "tested_on": ", ".join(part.name for part in trial.test),
        "part": ", ".join(dict.fromkeys(part.split for part in trial.test)),
        "parts": ", ".join(trial.citations),
        "compression": experiment.codec,
        "seed": str(experiment.seed),
        "stages": ", ".join(f"{stage.name}/{stage.digest}" for stage in trial.planned),
        **trial.made_with,
    }


def params(trial: Trial) -> dict[str, Any]:
    """Return every setting of the experiment that is not a tag."""
    flat = trial.experiment.flat()
    kept = {name: value for name, value in flat.items() if name not in IN_TAGS}
    for name, elsewhere in IN_FACES.items():
        if flat.get(name) == flat[elsewhere]:
            kept.pop(name, None)
    kept["manipulations"] = ", ".join(
        sorted({video.method for video in trial.train.videos if video.label == tables.FAKE})
    )
    return {name: "none" if value == "" else value for name, value in kept.items()}  # a blank tells nothing


# ----------------------------------------------------------------------------------------- metrics
def published(outcome: Outcome, key: RowSeed) -> dict[str, float]:
    """Return the paper's values of a row as MLflow metrics, named like ours: `<dataset>/<level>/<metric>/published`."""
    sweep, (row, _) = outcome.sweep, key
    (own,) = (each for each in sweep.running if each.label == row)
    words = zip(sweep.columns, sweep.published(own), strict=True)
    trial = outcome.trials[key]
    return {
        f"{_of_column(column, trial)}/published": round(percent(word) / 100, DECIMALS)
        for column, word in words
        if word != NO_VALUE
    }


def table_metrics(outcome: Outcome) -> list[str]:
    """Return the metrics that the sweep's table shows, column by column: ours, and the paper's where it has any."""
    names: dict[str, None] = {}
    for column in outcome.sweep.columns:
        for key, trial in outcome.trials.items():
            ours = _of_column(column, trial)
            theirs = f"{ours}/published"
            names[ours] = None
            if theirs in published(outcome, key):
                names[theirs] = None
    return list(names)


def _of_column(column: Column, trial: Trial) -> str:
    """Return the name of the metric that stands in a column of the table."""
    part = column.test or trial.test[0].name
    return "/".join(filter(None, (part, column.perturbation, column.level, column.metric)))


def curves(trial: Trial) -> Iterator[StageCurve]:
    """Yield each stage with its curve as far as it is known, and how many seconds of training came before it."""
    before_s = 0.0
    for stage in trial.planned:
        curve = stage.curve()
        yield stage.name, curve, before_s
        before_s += sum(float(line.get("seconds", 0)) for line in curve)


def counts(results: pa.Table) -> dict[str, str]:
    """Return the counts of videos in RESULTS as params: `videos.<dataset>` -> `24 real, 24 fake, 1 failed, ...`."""
    told = {
        row["test_dataset"]: f"{row['n_real']} real, {row['n_fake']} fake, {row['n_missing']} failed, "
        f"{row['n_excluded']} excluded, {row['n_padded']} padded"
        for row in results.to_pylist()
        if row["stage"] == FINAL and not row["perturbation"]
    }
    return {f"videos.{name}": text for name, text in told.items()}


def metric_values(results: pa.Table, shown: Collection[str] = ()) -> dict[str, float]:
    """Return RESULTS as MLflow metrics: `<dataset>/<level>/<metric>`; with `/low` and `/high` of AUC and those `shown`.

    Of single stages only the video-level AUC, as `<stage>/<dataset>/video/auc`, of perturbed faces only the AUC, as
    `<dataset>/<perturbation>/<level>/auc`: the rest, all intervals too, is in results.parquet, an artifact. What is not
    defined is no metric: see `undefined`.
    """
    values: dict[str, float] = {}
    for row in results.to_pylist():
        name = _metric_name(row)
        if name and not math.isnan(row["value"]):
            numbers = {name: row["value"]}
            if row["stage"] == FINAL and (row["metric"] == "auc" or name in shown):
                numbers |= {f"{name}/low": row["low"], f"{name}/high": row["high"]}
            values |= {name: round(value, DECIMALS) for name, value in numbers.items()}
    return values


def undefined(results: pa.Table) -> dict[str, str]:
    """Return a tag that names the metrics that are not defined, with the reason of each; nothing where all are."""
    reasons: dict[str, list[str]] = {}
    for row in results.to_pylist():
        if (name := _metric_name(row)) and math.isnan(row["value"]):
            reasons.setdefault(row["reason"], []).append(name)
    told = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return {UNDEFINED: "\n".join(told)} if told else {}


def _metric_name(row: Mapping[str, Any]) -> str:
    """Return what a row of RESULTS is called as an MLflow metric; empty where it is none."""
    of_stage = "" if row["stage"] == FINAL else row["stage"]
    if row["perturbation"] and (of_stage or row["metric"] != "auc"):
        return ""
    if of_stage and (row["level"], row["metric"]) != ("video", "auc"):
        return ""
    words = (of_stage, row["test_dataset"], row["perturbation"], row["level"], row["metric"])
    return "/".join(word for word in words if word)


# -------------------------------------------------------------------------------------------- data
def inputs(trial: Trial) -> list[Dataset]:
    """Return what a trial reads: the parts for training, validation and testing."""
    return [
        as_dataset(trial.train, "training"),
        as_dataset(trial.select, "validation"),
        *(as_dataset(part, "testing") for part in trial.test),
    ]


def as_dataset(part: UsablePart, context: str) -> Dataset:
    """Return a part as MLflow shows data. context: training, validation or testing."""
    labels = [video.label for video in part.videos]
    fields = [{"name": f.name, "type": _type(f.type), "required": not f.nullable} for f in tables.FACES]
    return Dataset(
        name=f"{part.name} {part.split} {part.codec}",
        digest=digest([part.digest, sorted(part.failed), sorted(part.excluded)]),
        context=context,
        source={"dataset": part.name, "part": part.split, "compression": part.codec},
        schema=fields,
        profile={
            "num_rows": len(labels),
            "num_real": labels.count(tables.REAL),
            "num_fake": labels.count(tables.FAKE),
            "num_failed": len(part.failed),
            "num_excluded": len(part.excluded),
        },
    )


def _type(kind: pa.DataType) -> str:
    """Return MLflow's name for the type of a column."""
    names = {pa.float32(): "float", pa.float64(): "double", pa.binary(): "binary", pa.bool_(): "boolean"}
    if pa.types.is_integer(kind):
        return "integer"
    return names.get(kind, "string" if pa.types.is_string(kind) else str(kind))


# ------------------------------------------------------------------------------------------- live
class Live:
    """What MLflow sees while trials run: curves as they grow, and the load of the machine. `live` makes one.

    No trial waits for it, and its failures are not the launch's: `log` logs at the end what is missing.
    """

    def __init__(self, outcome: Outcome, console: Console) -> None:
        self.outcome, self.console = outcome, console
        self.runs: Runs | None = None
        self._monitor = ExitStack()
        self._logged: dict[tuple[RowSeed, str], int] = {}  # trial and stage -> lines of its curve
        self._not_before = 0.0
        self._warned = False
        self._open(START_PATIENCE_S)

    def look(self, key: RowSeed) -> None:
        """Log what is new of a trial that has begun: its run, and the curves of its stages as far as they are known."""
        known = curves(self.outcome.trials[key])
        grown = [each for each in known if len(each[1]) > self._logged.get((key, each[0]), 0)]
        if self.runs is None:
            self._open(LIVE_PATIENCE_S)
        if self.runs and (grown or key not in self.runs.children):
            self._try(partial(self._log, self.runs, key, grown))

    def _log(self, runs: Runs, key: RowSeed, grown: Sequence[StageCurve]) -> None:
        run_id = runs.open_trial(self.outcome, key)
        for stage, curve, after_s in grown:
            runs.tracker.log_curve(run_id, stage, curve, after_s=after_s)
            self._logged[key, stage] = len(curve)

    def end(self, status: str) -> None:
        """End the launch's run and those of the trials that are not done: FAILED or KILLED."""
        self._monitor.close()
        self._not_before = 0.0
        if runs := self.runs:
            undone = [run_id for key, run_id in runs.children.items() if not self.outcome.trials[key].done]
            for run_id in (runs.parent, *undone):
                self._try(partial(runs.tracker.end, run_id, status))

    def close(self) -> None:
        """Stop watching the machine."""
        self._monitor.close()

    def _open(self, patience_s: float) -> None:
        def start() -> None:
            self.runs = open_launch(self.outcome, patience_s)
            self.runs.tracker.patience_s = LIVE_PATIENCE_S
            self._monitor.enter_context(self.runs.tracker.monitored(self.runs.parent))
            lines = shown_by(self.runs.tracker.uri, self.runs.address)
            self.console.print(lines, highlight=False, markup=False, soft_wrap=True)

        self._try(start)

    def _try(self, action: Callable[[], None]) -> None:
        """Call MLflow, unless it failed within the last minute. The first failure is printed."""
        if monotonic() < self._not_before:
            return
        try:
            action()
        except TrackingError as error:
            self._not_before = monotonic() + PAUSE_S
            if not self._warned:
                self._warned = True
                text = f"{error}; the launch goes on without it, and logs all at its end"
                self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def live(outcome: Outcome, console: Console) -> Iterator[Live]:
    """Open the runs of a launch for as long as its trials run.

    What an error ends is marked in MLflow: KILLED by Ctrl-C, else FAILED. Other runs stay open, for `log` to end.
    """
    opened = Live(outcome, console)
    try:
        yield opened
    except BaseException as error:
        opened.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        opened.close()
