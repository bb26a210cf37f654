"""Calls of MLflow by run id, repeated until they work or patience ends; no call touches MLflow's global state.

Experiment = sweep; parent run = one launch (the same rows on the same data: the same run, continued); child run = one
trial. Every run has a tag `run_key`, by which a repeated or resumed command finds it again. Only the driver of a sweep
calls MLflow.

A run's times are those of what it is about, where the caller knows them, not those of the logging.

Every call may be repeated: what is there is not logged twice. So a call that fails because the database is busy or
the server is away is tried again, for as long as the tracker's patience lasts.
"""

import itertools
import json
import logging
import math
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from pipelines.common.bucket import BucketPath
from pipelines.common.storage import DEFAULT_STORAGE, locked, named_copy
from pipelines.tracking import view

MAX_PARAM_CHARS = 500
MAX_TAG_CHARS = 7500  # MLflow's limit is 8000
PER_BATCH, METRICS_PER_BATCH = 100, 1000  # most params or tags, and most metrics, that MLflow takes in one call
PATIENCE_S = 120.0  # with a server that does not answer, or a database that others write to
LEAST_WAIT_S = 10.0  # for the answer to one request
MODEL_PATIENCE_S = 3600.0  # with another launch that uploads a model
SAMPLING_S, SAMPLES = 10.0, 3  # seconds between two looks at the machine; looks whose mean is logged
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between tries; the last one from there on
_PASSING = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
_QUIET = (
    "mlflow.store.db.utils",
    "mlflow.store.model_registry.abstract_store",
    "mlflow.system_metrics",
    "mlflow.pyfunc",
    "mlflow.utils.environment",
    "alembic",
    "urllib3.connectionpool",
)

Result = TypeVar("Result")


class TrackingError(OSError):
    """MLflow can't be reached, or it refuses; the text says which server or database, and why."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data that a run read, as MLflow shows it."""

    name: str
    digest: str  # of the contents
    context: str  # training, validation or testing
    source: Mapping[str, Any]  # JSON values; no path of a machine
    schema: Sequence[Mapping[str, Any]] = ()  # columns: name, type, required
    profile: Mapping[str, int] = field(default_factory=dict)  # counts


def home(storage: Path) -> Path:
    """Return where a SQLite database and its artifacts lie: in the storage folder; where the storage is in a bucket, in
    the folder that is the default storage.
    """
    return Path(DEFAULT_STORAGE).absolute() if isinstance(storage, BucketPath) else storage


def default_uri(storage: Path) -> str:
    """Return where runs are logged: `$MLFLOW_TRACKING_URI`, or else a SQLite file; see `home`."""
    path = str(home(storage) / "mlflow.db").replace("%", "%25").replace("?", "%3F")  # SQLAlchemy decodes them
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path}"


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite database; None for any other place of runs."""
    from sqlalchemy.engine import make_url

    file = make_url(uri).database if uri.startswith("sqlite") else None
    return Path(file) if file and file != ":memory:" else None


def registry_uri(uri: str) -> str:
    """Return where models are registered: `$MLFLOW_REGISTRY_URI`, or else where the runs are."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or uri


def shown(uri: str) -> str:
    """Return a URI as it may be printed: without its user and password."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return uri if host == parts.netloc else urlunsplit(parts._replace(netloc=f"***@{host}"))


def ui_command(uri: str) -> str:
    """Return the command that shows the runs; for a server, its address."""
    if uri.startswith("http"):
        return shown(uri)
    return f"uv run mlflow ui --backend-store-uri {shlex.quote(shown(uri))} --host 127.0.0.1 --workers 1"


def shown_by(uri: str, address: str) -> str:
    """Return the lines that say how to look at a page of MLflow: its address, and before it how to start a server."""
    if uri.startswith("http"):
        return f"MLflow: {address}"
    return f"MLflow: {ui_command(uri)}\n        then open {address}"


def patiently(function: Callable[[], Result], uri: str, patience_s: float) -> Result:
    """Return the result of `function`, which is called again while MLflow does not answer, for `patience_s` seconds.

    Raise TrackingError if MLflow refuses, or patience ends.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    _be_quiet()
    until = time.monotonic() + patience_s
    for attempt in itertools.count():
        try:
            with environment(patience_s):
                return function()
        except (MlflowException, RequestException, SQLAlchemyError) as error:
            pause = _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]
            if not _passes(error) or time.monotonic() + pause > until:
                raise TrackingError(f"MLflow at {shown(uri)}: {_reason(error)}") from error
            time.sleep(pause)
    raise AssertionError("patience has an end")


class Tracker:
    """The runs of one MLflow experiment, which is made if there is none, and its database with it.

    Every method raises TrackingError when MLflow refuses, or does not answer for `patience_s` seconds.
    """

    def __init__(self, uri: str, experiment: str, storage: Path, patience_s: float = PATIENCE_S) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Here, because importing mlflow takes seconds and a dry run has no use for it.
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.uri, self.storage, self.patience_s = uri, storage, patience_s
        # Two processes that make the same database, run or model at once would make it twice, or break it.
        self._lock = _lock_path(uri, storage)
        self._last_step: dict[tuple[str, str], int] = {}  # run, metric -> of what is logged
        with self.locked():
            self.client: MlflowClient = self.call(lambda: MlflowClient(uri, registry_uri(uri)))
            self.experiment_id = self.call(lambda: self._experiment(experiment))

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            # Without a location, artifacts of a SQLite store would go below the current folder.
            location = None if self.uri.startswith("http") else (home(self.storage) / "mlartifacts" / name).as_uri()
            try:
                self.client.create_experiment(name, artifact_location=location)
            except MlflowException:
                if self.client.get_experiment_by_name(name) is None:  # else another launch was faster
                    raise
            experiment = self.client.get_experiment_by_name(name)
        assert experiment is not None
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(f"MLflow experiment {name!r} in {shown(self.uri)} is deleted; restore it in the UI")
        # The UI then opens the experiment as model training, not as a language model's traces.
        experiment_id, kind = str(experiment.experiment_id), "custom_model_development"
        if experiment.tags.get("mlflow.experimentKind") != kind:
            self.client.set_experiment_tag(experiment_id, "mlflow.experimentKind", kind)
        return experiment_id

    @contextmanager
    def locked(self, *, models: bool = False) -> Iterator[None]:
        """Hold the lock for making runs, or for models, against other launches on the same storage or SQLite file."""
        path = self._lock.with_name(f"{self._lock.name}.models") if models else self._lock
        patience_s = MODEL_PATIENCE_S if models else PATIENCE_S
        with ExitStack() as held:
            try:
                held.enter_context(locked(path, patience_s))
            except TimeoutError as error:
                raise TrackingError(f"another process holds {path} for {patience_s:.0f} s") from error
            yield

    def call(self, function: Callable[[], Result]) -> Result:
        """Return the result of `function`, which is called until it works, for as long as patience lasts."""
        return patiently(function, self.uri, self.patience_s)

    # ------------------------------------------------------------------------------------------ runs
    def open_run(
        self,
        key: str,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        datasets: Sequence[Dataset] = (),
        began: datetime | None = None,
    ) -> str:
        """Return the id of the run with this key, made if there is none. One that has ended well stays as it is.

        began: when what it is about has begun; None: now.
        """
        with self.locked():  # two launches that log the same params at once would make the database refuse one
            run = self.call(lambda: self._find_or_create(key, name, parent, began))
            run_id = str(run.info.run_id)
            if run.info.status == "FINISHED":
                return run_id  # with the tags, the commit among them, of the code that made its numbers
            self.call(lambda: self._complete(run_id, params or {}, tags or {}))
            if datasets:
                self._log_inputs(run_id, datasets)
        return run_id

    def _complete(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Log the params and tags that are missing.

        What is there is asked for at each try, since a launch on another machine may be at the same run.
        """
        known = self.client.get_run(run_id).data
        new_params = {k: str(v)[:MAX_PARAM_CHARS] for k, v in params.items() if k not in known.params}
        new_tags = {k: v[:MAX_TAG_CHARS] for k, v in tags.items() if known.tags.get(k) != v}
        for batch in _batches([self._param(k, v) for k, v in new_params.items()], PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        for batch in _batches([self._tag(k, v) for k, v in new_tags.items()], PER_BATCH):
            self.client.log_batch(run_id, tags=batch)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log those params that the run lacks."""
        self.call(lambda: self._complete(run_id, params, {}))

    def _find_or_create(self, key: str, name: str, parent: str | None, began: datetime | None) -> Any:
        query = f"tags.run_key = '{key}'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        known = self.client.search_runs([self.experiment_id], query, max_results=1, order_by=order)
        if known:
            if known[0].info.status not in ("FINISHED", "RUNNING"):
                self.client.update_run(known[0].info.run_id, status="RUNNING")
            return known[0]
        tags = {"run_key": key} | ({"mlflow.parentRunId": parent} if parent else {})
        made = self.client.create_run(self.experiment_id, start_time=_milliseconds(began), run_name=name, tags=tags)
        # A launch on another machine may have made it in the same moment: both then keep the older one.
        first = self.client.search_runs([self.experiment_id], query, max_results=1, order_by=order)[0]
        if first.info.run_id != made.info.run_id:
            self.client.delete_run(made.info.run_id)
        return first

    def describe(self, run_id: str, markdown: str) -> None:
        """Set the text that the UI shows at the top of the run's page; of a long one, the lines that MLflow takes."""
        if len(markdown) > MAX_TAG_CHARS:
            markdown = markdown[:MAX_TAG_CHARS].rsplit("\n", 1)[0] + "\n\nCut here; the whole is among the artifacts.\n"
        self.call(lambda: self.client.set_tag(run_id, "mlflow.note.content", markdown))

    def describe_experiment(self, text: str) -> None:
        """Set the text that the UI shows beside the name of the experiment."""
        self.call(lambda: self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", text))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; a text that is too long is cut."""
        for name, value in tags.items():
            self.call(partial(self.client.set_tag, run_id, name, value[:MAX_TAG_CHARS]))

    def is_finished(self, run_id: str) -> bool:
        """Return whether a run has ended well."""
        return self.call(lambda: self.client.get_run(run_id).info.status == "FINISHED")

    def end(self, run_id: str, status: str = "FINISHED", at: datetime | None = None) -> None:
        """End a run: FINISHED, FAILED or KILLED. at: when what it is about has ended; None: now."""
        self.call(lambda: self.client.set_terminated(run_id, status, _milliseconds(at)))

    def keep_view(self, key: str, name: str, state: Mapping[str, Any]) -> str:
        """Keep a view of the experiment's runs (`view.state`) in MLflow's menu of them; return its address."""

        def keep() -> None:
            tags = self.client.get_experiment(self.experiment_id).tags
            if not view.holds(tags.get(view.TAG + key), state):
                self.client.set_experiment_tag(self.experiment_id, view.TAG + key, view.tag(name, state))

        self.call(keep)
        return view.address(shown(self.uri), self.experiment_id, key)

    # ------------------------------------------------------------------------------- what is logged
    def _log_inputs(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        """Log what the run read; to MLflow, a dataset of the same name and digest is the same."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        given = [
            DatasetInput(
                dataset=Entity(
                    name=dataset.name,
                    digest=dataset.digest,
                    source_type="crossforge",
                    source=json.dumps(dataset.source),
                    schema=json.dumps({"mlflow_colspec": list(dataset.schema)}),
                    profile=json.dumps(dataset.profile),
                ),
                tags=[InputTag("mlflow.data.context", dataset.context)],
            )
            for dataset in datasets
        ]
        self.call(lambda: self.client.log_inputs(run_id, datasets=given))

    def log_curve(
        self, run_id: str, prefix: str, lines: Sequence[Mapping[str, float]], *, after_s: float = 0.0
    ) -> None:
        """Log the lines of a curve: a metric `<prefix>/<name>` by `step`, for each entry that is a curve (`_curves`).

        Steps that are there are not logged twice. Times are those of the training (`seconds` of the lines), which began
        `after_s` seconds after the run: two launches that watch the same training log the same points, and MLflow
        keeps one of each.
        """
        names = _curves(lines)
        known = {name: self._logged_to(run_id, f"{prefix}/{name}") for name in names}
        now = self.call(lambda: self.client.get_run(run_id).info.start_time) if lines else 0
        now += round(1000 * after_s)
        batch = []
        for line in lines:
            now += round(1000 * float(line.get("seconds", 0)))
            for name in names & line.keys():
                key, value = f"{prefix}/{name}", line[name]
                if line["step"] > known[name]:
                    batch.append(self._metric(key, float(value), now, int(line["step"])))
        self._log_metrics(run_id, batch)
        for metric in batch:
            self._last_step[run_id, metric.key] = metric.step

    def _logged_to(self, run_id: str, key: str) -> int:
        """Return the last step of a metric that is logged; -1: none."""
        if (run_id, key) not in self._last_step:
            history = self.call(lambda: self.client.get_metric_history(run_id, key))
            self._last_step[run_id, key] = max((metric.step for metric in history), default=-1)
        return self._last_step[run_id, key]

    def log_values(self, run_id: str, values: Mapping[str, float]) -> None:
        """Log metrics without a step. MLflow's names have letters, digits, `_ - . : /` and space."""
        with self.locked():
            logged = self.call(lambda: self.client.get_run(run_id).data.metrics)
            now = int(time.time() * 1000)
            new = {name: float(value) for name, value in values.items() if not _equal(logged.get(name), float(value))}
            self._log_metrics(run_id, [self._metric(name, value, now, 0) for name, value in new.items()])

    def _log_metrics(self, run_id: str, metrics: Sequence[Any]) -> None:
        for batch in _batches(metrics, METRICS_PER_BATCH):
            self.call(partial(self.client.log_batch, run_id, metrics=batch))

    def log_files(self, run_id: str, paths: Sequence[Path]) -> None:
        """Log files as artifacts of a run."""
        for path in paths:
            with named_copy(path) as file:
                self.call(partial(self.client.log_artifact, run_id, str(file)))

    def log_missing_files(self, run_id: str, paths: Sequence[Path]) -> None:
        """Log those files that were removed from a run since, as far as this can be told here."""
        if folder := self.files_folder(run_id):
            self.log_files(run_id, [path for path in paths if not (folder / path.name).exists()])

    def files_folder(self, run_id: str) -> Path | None:
        """Return the folder in which the artifacts of a run lie; None if it is not in the storage."""
        return self.in_storage(self.call(lambda: str(self.client.get_run(run_id).info.artifact_uri)))

    def in_storage(self, location: str) -> Path | None:
        """Return the folder that a location of artifacts is; None if it is not in the storage, or left it."""
        uri = urlsplit(location)
        folder = Path(unquote(uri.path))
        return folder if uri.scheme == "file" and folder.is_relative_to(self.storage) else None

    # --------------------------------------------------------------------------------------- machine
    @contextmanager
    def monitored(self, run_id: str) -> Iterator[None]:
        """Log the load of this machine (CPU, memory, disk, network, GPUs) as metrics `system/...` of a run meanwhile.

        MLflow's own monitor does it, and goes on from what an earlier launch has logged. If it fails, it falls silent.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLING_S, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            # It may be waiting for a server that is away; its thread ends with the process.
            ending = threading.Thread(target=monitor.finish, daemon=True)
            ending.start()
            ending.join(5)


def _be_quiet() -> None:
    """Silence the loggers whose warnings repeat what the raised error says."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def environment(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Set the environment variables that MLflow reads at each request; afterwards they are as they were.

    By itself MLflow tries a request 7 times, for minutes in which nothing else happens: `patiently` does better. A
    server that takes a request and never answers is waited for as long as patience lasts, at least 10 s.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")
        or str(round(min(max(patience_s, LEAST_WAIT_S), PATIENCE_S))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # at the end of each run, with the password that is in it
        "MLFLOW_UV_AUTO_DETECT": "false",  # a lock file names the package index that this machine uses
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _passes(error: Exception) -> bool:
    """Return whether the same call may work in a while."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        twice = "IntegrityError" in str(error)  # another launch wrote the same in the same moment
        return twice or error.error_code in _PASSING
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code in (429, 500, 502, 503, 504)
    return isinstance(error, OperationalError)


def _reason(error: Exception) -> str:
    """Return an error as one line without passwords. Of a long one both ends: first stands what failed, last why."""
    text = re.sub(r"://[^/@\s]*@", "://***@", " ".join(str(error).split()))
    cut = text if len(text) <= 300 else f"{text[:200]} … {text[-100:]}"
    if "/mlflow-artifacts/" in text:  # what its storage said, a server tells its log only
        return f"{cut}; a server that logs all but files can't reach where it keeps them: see its log"
    return cut


def _lock_path(uri: str, storage: Path) -> Path:
    """Return the lock file: beside a SQLite file, else in the storage."""
    if file := database_file(uri):
        path = file.absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.lock")
    storage.mkdir(parents=True, exist_ok=True)
    return storage / ".mlflow.lock"


def _curves(lines: Sequence[Mapping[str, float]]) -> set[str]:
    """Return which entries of lines are curves: the loss, all of validation, and what changes from line to line.

    A learning rate or a part of the loss that stays the same is none.
    """
    values: dict[str, set[float]] = {}
    for line in lines:
        for name, value in line.items():
            values.setdefault(name, set()).add(value)
    changing = {name for name, own in values.items() if len(own) > 1 or name == "train/loss" or name.startswith("val/")}
    return changing - {"step", "epoch", "seconds"}


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else round(1000 * at.timestamp())


def _equal(logged: float | None, new: float) -> bool:
    return logged == new or (logged is not None and math.isnan(logged) and math.isnan(new))


def _batches(entries: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(entries), size):
        yield list(entries[first : first + size])
