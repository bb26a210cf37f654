"""MLflow as a person finds it afterwards: in a real SQLite database, read back with MLflow's own client."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from pipelines.common import tables
from pipelines.metrics.names import FINAL
from pipelines.tracking import client as client_module
from pipelines.tracking import runs, view
from pipelines.tracking.client import (
    MAX_PARAM_CHARS,
    Dataset,
    Tracker,
    TrackingError,
    database_file,
    default_uri,
    patiently,
    ui_command,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def uri(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


@pytest.fixture(scope="module")
def tracker(uri: str, storage: Path) -> Tracker:
    return Tracker(uri, "sweep", storage)


@pytest.fixture(scope="module")
def client(uri: str, tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def no_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return monkeypatch


def test_the_same_key_is_the_same_run(tracker: Tracker, uri: str, storage: Path, client: MlflowClient) -> None:
    first = tracker.open_run("same", "name", params={"lr": 0.1})
    again = Tracker(uri, "sweep", storage).open_run("same", "name", params={"lr": 0.1, "depth": 3})
    assert first == again
    assert len(client.search_runs([tracker.experiment_id], "tags.run_key = 'same'")) == 1
    assert client.get_run(first).data.params == {"lr": "0.1", "depth": "3"}
    assert tracker.open_run("other", "name") != first


def test_a_second_experiment_of_the_same_name_is_the_first(tracker: Tracker, uri: str, storage: Path) -> None:
    assert Tracker(uri, "sweep", storage).experiment_id == tracker.experiment_id


def test_the_same_trial_under_two_launches_is_two_children(tracker: Tracker, client: MlflowClient) -> None:
    parents = [tracker.open_run(f"launch-{number}", "launch") for number in (1, 2)]
    children = [tracker.open_run("trial", "trial", parent=parent) for parent in parents]
    assert len(set(children)) == 2
    for parent, child in zip(parents, children, strict=True):
        assert tracker.open_run("trial", "trial", parent=parent) == child
        query = f"tags.`mlflow.parentRunId` = '{parent}'"
        assert [run.info.run_id for run in client.search_runs([tracker.experiment_id], query)] == [child]


def test_a_curve_is_logged_once_however_often_it_is_seen(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.open_run("curve", "curve")
    lines = [
        {"epoch": n, "step": 4 * n, "seconds": 1.5, "lr": 0.1 / n, "train/loss": 1 / n, "val/auc": 0.5}
        for n in (1, 2, 3)
    ]
    tracker.log_curve(run_id, "recover", lines[:1])
    tracker.log_curve(run_id, "recover", lines[:2])
    tracker.log_curve(run_id, "recover", lines)
    tracker.log_curve(run_id, "recover", lines)
    history = client.get_metric_history(run_id, "recover/train/loss")
    assert [(point.step, point.value) for point in history] == [(4, 1.0), (8, 0.5), (12, 1 / 3)]
    assert client.get_run(run_id).data.metrics.keys() == {"recover/lr", "recover/train/loss", "recover/val/auc"}


def test_curves_of_another_process_are_not_logged_again(
    tracker: Tracker, uri: str, storage: Path, client: MlflowClient
) -> None:
    run_id = tracker.open_run("two drivers", "two drivers")
    lines = [{"epoch": n, "step": n, "train/loss": 1.0} for n in (1, 2)]
    tracker.log_curve(run_id, "finetune", lines[:1])
    Tracker(uri, "sweep", storage).log_curve(run_id, "finetune", lines)
    assert [point.step for point in client.get_metric_history(run_id, "finetune/train/loss")] == [1, 2]


def test_what_stays_the_same_is_no_curve(tracker: Tracker, client: MlflowClient) -> None:
    """Save the loss and validation: that they stand still is worth seeing. A rate that falls later is logged whole."""
    run_id = tracker.open_run("constants", "constants")
    still = {"train/loss": 0.7, "train/mask": 0.0, "val/auc": 0.5}
    lines = [{"epoch": n, "step": n, "lr": 0.1 if n < 3 else 0.01, **still} for n in (1, 2, 3)]
    tracker.log_curve(run_id, "finetune", lines[:2])
    assert client.get_run(run_id).data.metrics.keys() == {"finetune/train/loss", "finetune/val/auc"}
    tracker.log_curve(run_id, "finetune", lines)
    assert [point.value for point in client.get_metric_history(run_id, "finetune/lr")] == [0.1, 0.1, 0.01]
    assert "finetune/train/mask" not in client.get_run(run_id).data.metrics


def test_a_run_lasts_as_long_as_what_it_is_about(tracker: Tracker, client: MlflowClient) -> None:
    began, ended = (datetime(2026, 1, 2, hour, tzinfo=UTC) for hour in (3, 5))
    run_id = tracker.open_run("timed", "timed", began=began)
    tracker.log_curve(run_id, "second", [{"epoch": 1, "step": 1, "seconds": 5, "train/loss": 1.0}], after_s=60)
    tracker.end(run_id, at=ended)
    info = client.get_run(run_id).info
    assert (info.start_time, info.end_time) == tuple(1000 * at.timestamp() for at in (began, ended))
    (point,) = client.get_metric_history(run_id, "second/train/loss")
    assert point.timestamp - info.start_time == 65_000


def test_a_long_curve_is_logged_whole(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow takes 1000 metrics in one call."""
    run_id = tracker.open_run("long", "long")
    tracker.log_curve(run_id, "recover", [{"epoch": n, "step": n, "loss": n, "lr": 1 / n} for n in range(1, 602)])
    assert len(client.get_metric_history(run_id, "recover/loss")) == 601
    assert len(client.get_metric_history(run_id, "recover/lr")) == 601


def test_finished_stays_finished_and_failed_runs_again(tracker: Tracker, client: MlflowClient) -> None:
    finished, failed = tracker.open_run("good", "good"), tracker.open_run("bad", "bad")
    assert client.get_run(finished).info.status == "RUNNING"
    assert not tracker.is_finished(finished)
    tracker.end(finished)
    tracker.end(failed, "FAILED")
    assert tracker.is_finished(finished)
    assert not tracker.is_finished(failed)
    tracker.open_run("good", "good")
    tracker.open_run("bad", "bad")
    assert client.get_run(finished).info.status == "FINISHED"
    assert client.get_run(failed).info.status == "RUNNING"


def test_a_param_keeps_its_first_value(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow refuses to change one; what may change is a tag."""
    run_id = tracker.open_run("params", "params", params={"preset": "small"}, tags={"commit": "1"})
    tracker.open_run("params", "params", params={"preset": "paper"}, tags={"commit": "2"})
    assert client.get_run(run_id).data.params == {"preset": "small"}


def test_the_commit_of_a_finished_run_stays(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.open_run("commit", "commit", tags={"commit": "made the numbers"})
    tracker.end(run_id)
    tracker.open_run("commit", "commit", tags={"commit": "only prints them"})
    assert client.get_run(run_id).data.tags["commit"] == "made the numbers"


def test_more_settings_than_one_call_takes_are_all_logged(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow takes 100 params, or tags, at once."""
    many = {f"name.{number}": str(number) for number in range(230)}
    data = client.get_run(tracker.open_run("many", "many", params=many, tags=many)).data
    assert data.params == many
    assert many.items() <= data.tags.items()


def test_a_param_that_is_too_long_is_cut(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.open_run("long param", "long param", params={"stages": "x" * 9000})
    assert client.get_run(run_id).data.params["stages"] == "x" * MAX_PARAM_CHARS


def test_artifacts_and_the_description_are_kept_below_the_storage(
    tracker: Tracker, storage: Path, tmp_path: Path, client: MlflowClient
) -> None:
    table = tmp_path / "table.md"
    table.write_text("| row |\n")
    run_id = tracker.open_run("files", "files")
    tracker.log_files(run_id, [table])
    tracker.describe(run_id, table.read_text())
    kept = sorted(path.relative_to(storage / "mlartifacts/sweep" / run_id) for path in storage.rglob("table.md"))
    assert kept == [Path("artifacts/table.md")]
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["table.md"]
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "| row |\n"


def test_files_that_were_removed_from_a_run_that_has_ended_are_logged_again(
    tracker: Tracker, tmp_path: Path, client: MlflowClient
) -> None:
    paths = [tmp_path / "a.md", tmp_path / "b.md"]
    for path in paths:
        path.write_text("as it was")
    run_id = tracker.open_run("removed", "removed")
    tracker.log_files(run_id, paths)
    tracker.end(run_id)
    folder = tracker.files_folder(run_id)
    assert folder is not None
    for removed in (["a.md"], ["a.md", "b.md"], []):
        for name in removed:
            (folder / name).unlink()
        for path in paths:
            path.write_text("new")
        tracker.log_missing_files(run_id, paths)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.md": "new", "b.md": "as it was"} | (
            {"b.md": "new"} if removed != ["a.md"] else {}
        )
    shutil.rmtree(folder)
    tracker.log_missing_files(run_id, paths)
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["a.md", "b.md"]


def test_a_description_longer_than_mlflow_takes_is_cut_at_a_line(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.open_run("long report", "long report")
    tracker.describe(run_id, "".join(f"| row {number:05d} |\n" for number in range(2000)))
    *rows, gap, end = client.get_run(run_id).data.tags["mlflow.note.content"].splitlines()
    assert rows == [f"| row {number:05d} |" for number in range(len(rows))]
    assert len(rows) > 400
    assert (gap, end) == ("", "Cut here; the whole is among the artifacts.")


def test_data_are_inputs_of_a_run_once(tracker: Tracker, client: MlflowClient) -> None:
    data = [
        Dataset(
            name=f"ffpp {part}",
            digest=part,
            context=context,
            source={"dataset": "ffpp"},
            schema=[{"name": "label", "type": "integer", "required": True}],
            profile={"num_rows": 3, "num_failed": 1},
        )
        for part, context in (("train", "training"), ("val", "validation"))
    ]
    for _ in range(2):
        run_id = tracker.open_run("inputs", "inputs", datasets=data)
    inputs = client.get_run(run_id).inputs.dataset_inputs
    logged = {
        entry.dataset.name: (entry.dataset.digest, {tag.key: tag.value for tag in entry.tags}) for entry in inputs
    }
    context = "mlflow.data.context"
    assert logged == {"ffpp train": ("train", {context: "training"}), "ffpp val": ("val", {context: "validation"})}
    assert len(inputs) == 2
    assert json.loads(inputs[0].dataset.profile) == {"num_rows": 3, "num_failed": 1}


def test_a_view_is_kept_with_the_experiment(tracker: Tracker, client: MlflowClient) -> None:
    def kept() -> str:
        return str(client.get_experiment(tracker.experiment_id).tags[view.TAG + "abc"])

    states = [view.state(parent, ["row"], ["dfdc/video/auc"]) for parent in ("1", "2")]
    addresses = [tracker.keep_view("abc", "small", states[0])]
    first = kept()
    addresses.append(tracker.keep_view("abc", "small", states[0]))
    assert kept() == first  # what is there is not written again
    assert view.read(first) == states[0]
    tracker.keep_view("abc", "small", states[1])
    assert view.read(kept()) == states[1]
    assert set(addresses) == {view.address(tracker.uri, tracker.experiment_id, "abc")}


def test_values_are_logged_once(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.open_run("once", "once")
    for _ in range(2):
        tracker.log_values(run_id, {"auc": 0.5, "nan": float("nan")})
    assert [len(client.get_metric_history(run_id, name)) for name in ("auc", "nan")] == [1, 1]


def test_two_launches_that_watch_one_training_log_its_points_once(
    tracker: Tracker, uri: str, storage: Path, client: MlflowClient
) -> None:
    """Both look before either logs."""
    run_id = tracker.open_run("watched", "watched")
    lines = [{"epoch": n, "step": n, "seconds": 2.5, "loss": 1 / n} for n in (1, 2)]
    both = [Tracker(uri, "sweep", storage) for _ in range(2)]
    for launch in both:
        launch._logged_to(run_id, "finetune/loss")
    for launch in both:
        launch.log_curve(run_id, "finetune", lines)
    points = client.get_metric_history(run_id, "finetune/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]
    assert points[1].timestamp - points[0].timestamp == 2500


def test_every_name_that_a_trial_logs_is_legal(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow allows letters, digits, `_ - . : /` and space."""
    common = {field.name: 0 if pa.types.is_integer(field.type) else "x" for field in tables.RESULTS}
    common |= {"value": 0.8, "low": 0.7, "high": 0.9, "n_real": 3, "n_missing": 1}
    common["perturbation"] = ""
    rows = [
        common | {"stage": stage, "test_dataset": dataset, "level": level, "metric": metric}
        for stage in ("finetune", FINAL)
        for dataset in ("celeb_df", "ffpp/NeuralTextures")
        for level, metric in (("video", "auc"), ("frame", "acc_at_0_5"), ("frame", "pbca"))
    ]
    blurred = {
        "stage": FINAL,
        "test_dataset": "unseen",
        "perturbation": "blur-3",
        "level": "video",
        "metric": "auc",
    }
    rows += [common | blurred, common | blurred | {"metric": "ap"}, common | blurred | {"stage": "finetune"}]
    values = runs.metric_values(tables.to_table(rows, tables.RESULTS))
    assert {name for name in values if "blur" in name} == {
        f"unseen/blur-3/video/auc{end}" for end in ("", "/low", "/high")
    }
    assert "celeb_df/frame/pbca/low" not in values
    table = tables.to_table(rows, tables.RESULTS)
    assert "celeb_df/frame/pbca/low" in runs.metric_values(table, shown=["celeb_df/frame/pbca"])
    run_id = tracker.open_run("values", "values")
    tracker.log_values(run_id, values)
    logged = client.get_run(run_id).data.metrics
    assert logged.keys() == values.keys()
    assert {"celeb_df/video/auc", "celeb_df/video/auc/low", "celeb_df/video/auc/high"} <= logged.keys()
    assert "finetune/ffpp/NeuralTextures/video/auc" in logged
    told = runs.counts(tables.to_table(rows, tables.RESULTS))
    assert told["videos.celeb_df"] == "3 real, 0 fake, 1 failed, 0 excluded, 0 padded"
    tracker.log_params(run_id, told)
    assert client.get_run(run_id).data.params == told


def test_what_is_not_defined_is_no_metric_but_a_tag_with_the_reason(tracker: Tracker, client: MlflowClient) -> None:
    common = {field.name: 0 if pa.types.is_integer(field.type) else "" for field in tables.RESULTS}
    common |= {"stage": FINAL, "test_dataset": "dfdc", "level": "video"}
    common |= {"metric": "auc", "value": 0.8, "low": 0.7, "high": 0.9}
    no_value = dict.fromkeys(("value", "low", "high"), float("nan"))
    few = no_value | {"reason": "3 real videos: a false positive rate of 5% takes 20"}
    rows = [
        common,
        *(common | few | {"metric": "tpr_at_fpr_0_05", "level": level} for level in ("frame", "video")),
        common | no_value | {"metric": "acc_at_val", "reason": "no scores of a validation part"},
        common | no_value | {"perturbation": "blur-1", "reason": "0 real and 3 fake videos"},
        common | no_value | {"stage": "detect", "reason": "0 real and 3 fake videos"},
        common | no_value | {"stage": "detect", "metric": "ap", "reason": "of what is not logged anyway"},
    ]
    table = tables.to_table(rows, tables.RESULTS)
    run_id = tracker.open_run("undefined", "undefined")
    tracker.log_values(run_id, runs.metric_values(table))
    tracker.set_tags(run_id, runs.undefined(table))
    logged = client.get_run(run_id).data
    assert {name for name in logged.metrics if "/n_" not in name} == {
        f"dfdc/video/auc{end}" for end in ("", "/low", "/high")
    }
    assert logged.tags[runs.UNDEFINED].splitlines() == [
        "dfdc/frame/tpr_at_fpr_0_05, dfdc/video/tpr_at_fpr_0_05: 3 real videos: a false positive rate of 5% takes 20",
        "dfdc/video/acc_at_val: no scores of a validation part",
        "dfdc/blur-1/video/auc, detect/dfdc/video/auc: 0 real and 3 fake videos",
    ]
    assert runs.undefined(table.slice(0, 1)) == {}


@pytest.mark.parametrize("name", ["a b", "50%", "x%20y", "who?=me", "c#d", "it's"])
def test_a_storage_of_any_name_holds_its_own_database(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / name / "mlflow.db"
    uri = default_uri(file.parent)
    assert database_file(uri) == file
    assert make_url(uri).query == {}
    assert shlex.split(ui_command(uri))[5] == uri


def test_the_uri_of_the_environment_wins(no_uri: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    no_uri.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    assert default_uri(tmp_path) == "http://head:5000"


def test_the_ui_command_opens_what_was_written(uri: str) -> None:
    assert f"--backend-store-uri {uri}" in ui_command(uri)
    assert ui_command("http://head:5000") == "http://head:5000"


def test_a_tracker_leaves_the_environment_alone(tmp_path: Path, no_uri: pytest.MonkeyPatch) -> None:
    """MLflow's own `set_tracking_uri` would hand its choice to every process that is started later."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "another", tmp_path).open_run("key", "name")
    after = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    assert after.keys() - before.keys() <= {"MLFLOW_DISABLE_TELEMETRY"}


# -------------------------------------------------------------------------------------------- trouble
def test_a_call_that_fails_for_a_while_is_made_again(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSES_S", (0.0,))
    answers = iter(
        [
            MlflowException("database is locked", error_code=TEMPORARILY_UNAVAILABLE),
            MlflowException("API request failed with exception: refused"),
            requests.ConnectionError("refused"),
            OperationalError("select", {}, Exception("database is locked")),
        ]
    )

    def call() -> str:
        if error := next(answers, None):
            raise error
        return "done"

    assert tracker.call(call) == "done"


def test_patience_has_an_end_and_a_refusal_is_not_repeated(
    uri: str, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_PAUSES_S", (0.0,))
    calls = []

    def call(error: Exception) -> None:
        calls.append(1)
        raise error

    with pytest.raises(TrackingError, match=r"MLflow at sqlite:///.*: no such run"):
        patiently(lambda: call(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST)), uri, patience_s=60)
    assert len(calls) == 1
    with pytest.raises(TrackingError, match="locked"):
        patiently(lambda: call(MlflowException("locked")), uri, patience_s=0.2)
    assert len(calls) > 2


def test_errors_and_the_printed_address_tell_no_password() -> None:
    uri = "https://me:secret@mlflow.example.org/base"
    assert ui_command(uri) == "https://***@mlflow.example.org/base"
    with pytest.raises(TrackingError) as error:
        patiently(partial(_refuse, f"GET {uri}/runs"), uri, patience_s=0)
    assert "secret" not in str(error.value)
    assert "***@mlflow.example.org/base/runs" in str(error.value)


def _refuse(text: str) -> None:
    raise MlflowException(text)


def test_mlflow_finds_its_environment_as_it_was(no_uri: pytest.MonkeyPatch) -> None:
    no_uri.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    no_uri.delenv("MLFLOW_UV_AUTO_DETECT", raising=False)
    seen = []
    patiently(lambda: seen.append(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]), "sqlite://", 0)
    assert seen == ["1"]
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert "MLFLOW_UV_AUTO_DETECT" not in os.environ


def test_the_load_of_the_machine_is_logged_and_ends_with_an_error(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SAMPLING_S", 0.2)
    monkeypatch.setattr(client_module, "SAMPLES", 1)
    run_id = tracker.open_run("load", "load")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tracker, run_id)
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    logged = client.get_run(run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= logged.keys()
    assert any(name.startswith("system/disk_") for name in logged)
    assert mlflow.active_run() is None
    last = max(point.step for point in client.get_metric_history(run_id, "system/cpu_utilization_percentage"))
    with tracker.monitored(run_id):
        time.sleep(1)
    steps = [point.step for point in client.get_metric_history(run_id, "system/cpu_utilization_percentage")]
    assert len(steps) == len(set(steps))
    assert max(steps) > last


def _interrupted(tracker: Tracker, run_id: str) -> None:
    with tracker.monitored(run_id):
        time.sleep(1.5)
        raise KeyboardInterrupt


LAUNCH = """
import sys
from pathlib import Path
from pipelines.tracking.client import Tracker

uri, storage, sweep = sys.argv[1:]
tracker = Tracker(uri, sweep, Path(storage))
parent = tracker.open_run("launch", "launch", params={"a": 1})
for number in range(5):
    child = tracker.open_run(f"trial {number}", f"trial {number}", parent=parent, params={"number": number})
    tracker.log_curve(child, "stage", [{"epoch": n, "step": n, "seconds": 1, "loss": 1 / n} for n in range(1, 6)])
    tracker.log_values(child, {"auc": number / 10})
    tracker.end(child)
tracker.end(parent)
"""


def launches(uri: str, storages: Sequence[Path], sweeps: Sequence[str]) -> list[tuple[int, str]]:
    """Exit code and complaints of that many processes at once."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCH, uri, str(storage), sweep], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        for storage, sweep in zip(storages, sweeps, strict=True)
    ]
    complaints = [process.communicate(timeout=120)[1] for process in running]
    return [(process.returncode, said) for process, said in zip(running, complaints, strict=True)]


def check_launches(uri: str, sweeps: Sequence[str]) -> None:
    """Each sweep once, whole, with no run twice."""
    client = MlflowClient(tracking_uri=uri)
    for sweep in set(sweeps):
        experiment = client.get_experiment_by_name(sweep)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert sorted(run.data.tags["run_key"] for run in runs) == ["launch", *(f"trial {n}" for n in range(5))]
        assert {run.info.status for run in runs} == {"FINISHED"}
        for run in runs:
            if run.data.tags["run_key"] != "launch":
                history = client.get_metric_history(run.info.run_id, "stage/loss")
                assert [point.step for point in history] == [1, 2, 3, 4, 5]
                assert len(client.get_metric_history(run.info.run_id, "auc")) == 1
                assert run.data.metrics["auc"] == int(run.data.params["number"]) / 10


@pytest.mark.slow
def test_launches_at_once_make_one_database_and_no_run_twice(tmp_path: Path) -> None:
    uri, sweeps = f"sqlite:///{tmp_path / 'mlflow.db'}", ["same", "same", "other"]
    assert launches(uri, [tmp_path] * 3, sweeps) == [(0, "")] * 3
    check_launches(uri, sweeps)


# --------------------------------------------------------------------------------------- a real server
@pytest.mark.nightly
@pytest.mark.slow
def test_launches_at_once_on_a_server_make_no_run_twice(mlflow_server: Any, tmp_path: Path) -> None:
    """Two of one storage, and one of another machine, as far as a server can tell."""
    sweeps = ["shared", "shared", "alone"]
    storages = [tmp_path / "one", tmp_path / "one", tmp_path / "two"]
    assert launches(mlflow_server.uri, storages, sweeps) == [(0, "")] * 3
    check_launches(mlflow_server.uri, sweeps)


@pytest.mark.nightly
@pytest.mark.slow
def test_what_is_logged_while_the_server_is_away_is_there_in_the_end(mlflow_server: Any, tmp_path: Path) -> None:
    tracker = Tracker(mlflow_server.uri, "away", tmp_path)
    parent = tracker.open_run("launch", "launch")
    mlflow_server.kill()
    tracker.patience_s = 0
    with pytest.raises(TrackingError, match=f"MLflow at {mlflow_server.uri}: "):
        tracker.log_values(parent, {"auc": 0.25})
    tracker.patience_s = 300
    back = threading.Timer(2, mlflow_server.start)
    back.start()
    child = tracker.open_run("trial", "trial", parent=parent, params={"lr": 0.1})
    tracker.log_values(child, {"auc": 0.75})
    tracker.log_files(child, [Path(__file__)])
    tracker.end(child)
    back.join()
    client = MlflowClient(tracking_uri=mlflow_server.uri)
    runs = client.search_runs([tracker.experiment_id])
    assert {run.info.run_id for run in runs} == {parent, child}
    run = client.get_run(child)
    assert (run.info.status, run.data.params, run.data.metrics) == ("FINISHED", {"lr": "0.1"}, {"auc": 0.75})
    assert [entry.path for entry in client.list_artifacts(child)] == [Path(__file__).name]
