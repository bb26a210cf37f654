"""MLflow, by explicit run ids. The only file that imports mlflow, and only the driver of a sweep calls it.

Experiment = sweep; parent run = one launch (the same rows on the same data: the same run, continued);
child run = one trial. Every run has a `run_key`, so that a repeated or resumed command finds it again.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_PARAM_CHARS = 500


def default_uri(storage: Path) -> str:
    """`$MLFLOW_TRACKING_URI`, or a SQLite file in the storage folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """What a person types to see the runs."""
    if uri.startswith("http"):
        return uri
    return f"uv run mlflow ui --backend-store-uri {uri} --host 127.0.0.1 --workers 1"


class Tracker:
    """One MLflow experiment. Creates the database before any other process could."""

    def __init__(self, uri: str, experiment: str, storage: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Here, because importing mlflow takes seconds and a dry run has no use for it.
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            # Without a location, artifacts of a SQLite store would go below the current folder.
            location = None if uri.startswith("http") else (storage / "mlartifacts" / experiment).as_uri()
            try:
                self.client.create_experiment(experiment, artifact_location=location)
            except MlflowException:
                if self.client.get_experiment_by_name(experiment) is None:  # else another launch was faster
                    raise
            found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        self.experiment_id = found.experiment_id
        # The UI then opens the experiment as model training, not as a language model's traces.
        self.client.set_experiment_tag(self.experiment_id, "mlflow.experimentKind", "custom_model_development")

    def run(
        self,
        key: str,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Id of the run with this key, made if there is none. One that has ended well stays as it is."""
        query = f"tags.run_key = '{key}'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        if found:
            run_id = found[0].info.run_id
            if found[0].info.status == "FINISHED":
                return run_id  # with the tags, the commit among them, of the code that made its numbers
            self.client.update_run(run_id, status="RUNNING")
        else:
            own = {"run_key": key} | ({"mlflow.parentRunId": parent} if parent else {})
            run_id = self.client.create_run(self.experiment_id, run_name=name, tags=own).info.run_id
        old = self.client.get_run(run_id).data.params
        new = {k: str(v)[:MAX_PARAM_CHARS] for k, v in (params or {}).items() if k not in old}
        self.client.log_batch(
            run_id,
            params=[self._param(k, v) for k, v in new.items()],
            tags=[self._tag(k, v) for k, v in (tags or {}).items()],
        )
        return run_id

    def describe(self, run_id: str, markdown: str) -> None:
        """The text that the UI shows at the top of the run's page."""
        self.client.set_tag(run_id, "mlflow.note.content", markdown)

    def finished(self, run_id: str) -> bool:
        return self.client.get_run(run_id).info.status == "FINISHED"

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def curve(self, run_id: str, prefix: str, lines: Sequence[Mapping[str, float]]) -> None:
        """One metric `<prefix>/<name>` per entry of the lines, by step; steps that are there are not logged twice."""
        known: dict[str, int] = {}
        batch, now = [], _milliseconds()
        for line in lines:
            for name, value in line.items():
                key = f"{prefix}/{name}"
                if name in ("step", "epoch", "seconds"):
                    continue
                if key not in known:
                    known[key] = max((m.step for m in self.client.get_metric_history(run_id, key)), default=-1)
                if line["step"] > known[key]:
                    batch.append(self._metric(key, float(value), now, int(line["step"])))
        for first in range(0, len(batch), 1000):  # MLflow's limit for one call
            self.client.log_batch(run_id, metrics=batch[first : first + 1000])

    def values(self, run_id: str, values: Mapping[str, float]) -> None:
        """Metrics without a step; the names are MLflow's: letters, digits, `_ - . : /` and space."""
        now = _milliseconds()
        batch = [self._metric(name, float(value), now, 0) for name, value in values.items()]
        for first in range(0, len(batch), 1000):
            self.client.log_batch(run_id, metrics=batch[first : first + 1000])

    def files(self, run_id: str, paths: Sequence[Path], folder: str | None = None) -> None:
        for path in paths:
            self.client.log_artifact(run_id, str(path), artifact_path=folder)


def _milliseconds() -> int:
    return int(time.time() * 1000)
