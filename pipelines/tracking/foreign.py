"""Scores from elsewhere as an MLflow run, with tags that say so."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.common import provenance
from pipelines.tracking import view
from pipelines.tracking.client import Tracker, default_uri, shown, shown_by
from pipelines.tracking.runs import as_dataset, counts, metric_values, undefined
from pipelines.trials.foreign import ForeignTrial
from pipelines.trials.trial import kept

EXPERIMENT = "scores_from_elsewhere"  # of runs that are in no sweep's table


def log(trial: ForeignTrial, sweep: str, report: Sequence[Path]) -> str:
    """Log a run whose folder is written, and its report, the first file of which is Markdown; return where to see it.

    sweep: name of the sweep in whose table it stands, or empty. What is logged already stays. Raises TrackingError.
    """
    tracker = Tracker(default_uri(trial.storage), sweep or EXPERIMENT, trial.storage)
    source = {f"source.{name}": str(value) for name, value in trial.source.items() if value not in (None, "")}
    tags = {
        "foreign": "true",
        "method": trial.name,
        "row": trial.name,
        "data": "sample" if trial.is_sample else "real",
        "trained_on": trial.train_on or "not known",
        "tested_on": ", ".join(part.name for part in trial.parts),
        "parts": ", ".join(trial.citations),
        "part": ", ".join(dict.fromkeys(part.split for part in trial.parts)),
        "compression": ", ".join(dict.fromkeys(part.codec for part in trial.parts)),
        "commit": provenance.commit(),
        **source,
    }
    params = {
        "failed_videos": trial.failed_rule,
        "levels": ", ".join(trial.levels),
        "pooling": f"{trial.pooling.faces} of faces, {trial.pooling.frames} of frames",
    }
    datasets = [as_dataset(part, "testing") for part in trial.parts]
    name = f"{trial.name}, from elsewhere [{trial.digest[:6]}]"
    run_id = tracker.open_run(trial.digest, name, params=params, tags=tags, datasets=datasets)
    if not tracker.is_finished(run_id):
        tracker.log_values(run_id, metric_values(trial.results()))
        tracker.log_params(run_id, counts(trial.results()))
        tracker.set_tags(run_id, undefined(trial.results()))
        tracker.log_files(run_id, [*kept(trial.folder), *report])
        tracker.describe(run_id, report[0].read_text())
        tracker.end(run_id)
    address = view.run_address(shown(tracker.uri), tracker.experiment_id, run_id)
    return shown_by(tracker.uri, address)
