"""MLflow as a person finds it afterwards: in a real SQLite database, read back with MLflow's own client."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient

from pipelines import outcome, run, schemas, tracking
from pipelines.tracking import Tracker


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
    first = tracker.run("same", "name", params={"lr": 0.1})
    again = Tracker(uri, "sweep", storage).run("same", "name", params={"lr": 0.1, "depth": 3})
    assert first == again
    assert len(client.search_runs([tracker.experiment_id], "tags.run_key = 'same'")) == 1
    assert client.get_run(first).data.params == {"lr": "0.1", "depth": "3"}
    assert tracker.run("other", "name") != first


def test_a_second_experiment_of_the_same_name_is_the_first(tracker: Tracker, uri: str, storage: Path) -> None:
    assert Tracker(uri, "sweep", storage).experiment_id == tracker.experiment_id


def test_the_same_trial_under_two_launches_is_two_children(tracker: Tracker, client: MlflowClient) -> None:
    parents = [tracker.run(f"launch-{number}", "launch") for number in (1, 2)]
    children = [tracker.run("trial", "trial", parent=parent) for parent in parents]
    assert len(set(children)) == 2
    for parent, child in zip(parents, children, strict=True):
        assert tracker.run("trial", "trial", parent=parent) == child
        query = f"tags.`mlflow.parentRunId` = '{parent}'"
        assert [found.info.run_id for found in client.search_runs([tracker.experiment_id], query)] == [child]


def test_a_curve_is_logged_once_however_often_it_is_seen(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.run("curve", "curve")
    lines = [
        {"epoch": n, "step": 4 * n, "seconds": 1.5, "lr": 0.1 / n, "train/loss": 1 / n, "val/auc": 0.5}
        for n in (1, 2, 3)
    ]
    tracker.curve(run_id, "recover", lines[:1])
    tracker.curve(run_id, "recover", lines[:2])
    tracker.curve(run_id, "recover", lines)
    tracker.curve(run_id, "recover", lines)
    history = client.get_metric_history(run_id, "recover/train/loss")
    assert [(point.step, point.value) for point in history] == [(4, 1.0), (8, 0.5), (12, 1 / 3)]
    assert client.get_run(run_id).data.metrics.keys() == {"recover/lr", "recover/train/loss", "recover/val/auc"}


def test_curves_of_another_process_are_not_logged_again(
    tracker: Tracker, uri: str, storage: Path, client: MlflowClient
) -> None:
    run_id = tracker.run("two drivers", "two drivers")
    lines = [{"epoch": n, "step": n, "loss": 1.0} for n in (1, 2)]
    tracker.curve(run_id, "finetune", lines[:1])
    Tracker(uri, "sweep", storage).curve(run_id, "finetune", lines)
    assert [point.step for point in client.get_metric_history(run_id, "finetune/loss")] == [1, 2]


def test_a_long_curve_is_logged_whole(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow takes 1000 metrics in one call."""
    run_id = tracker.run("long", "long")
    tracker.curve(run_id, "recover", [{"epoch": n, "step": n, "loss": 1.0, "lr": 0.1} for n in range(1, 602)])
    assert len(client.get_metric_history(run_id, "recover/loss")) == 601
    assert len(client.get_metric_history(run_id, "recover/lr")) == 601


def test_finished_stays_finished_and_failed_runs_again(tracker: Tracker, client: MlflowClient) -> None:
    finished, failed = tracker.run("good", "good"), tracker.run("bad", "bad")
    assert client.get_run(finished).info.status == "RUNNING"
    assert not tracker.finished(finished)
    tracker.end(finished)
    tracker.end(failed, "FAILED")
    assert tracker.finished(finished)
    assert not tracker.finished(failed)
    tracker.run("good", "good")
    tracker.run("bad", "bad")
    assert client.get_run(finished).info.status == "FINISHED"
    assert client.get_run(failed).info.status == "RUNNING"


def test_a_param_keeps_its_first_value(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow refuses to change one; what may change is a tag."""
    run_id = tracker.run("params", "params", params={"preset": "small"}, tags={"commit": "1"})
    tracker.run("params", "params", params={"preset": "paper"}, tags={"commit": "2"})
    assert client.get_run(run_id).data.params == {"preset": "small"}


def test_the_commit_of_a_finished_run_stays(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.run("commit", "commit", tags={"commit": "made the numbers"})
    tracker.end(run_id)
    tracker.run("commit", "commit", tags={"commit": "only prints them"})
    assert client.get_run(run_id).data.tags["commit"] == "made the numbers"


def test_a_param_that_is_too_long_is_cut(tracker: Tracker, client: MlflowClient) -> None:
    run_id = tracker.run("long param", "long param", params={"stages": "x" * 9000})
    assert client.get_run(run_id).data.params["stages"] == "x" * tracking.MAX_PARAM_CHARS


def test_artifacts_and_the_description_are_kept_below_the_storage(
    tracker: Tracker, storage: Path, tmp_path: Path, client: MlflowClient
) -> None:
    table = tmp_path / "table.md"
    table.write_text("| row |\n")
    run_id = tracker.run("files", "files")
    tracker.files(run_id, [table])
    tracker.files(run_id, [table], "report")
    tracker.describe(run_id, table.read_text())
    kept = sorted(path.relative_to(storage / "mlartifacts/sweep" / run_id) for path in storage.rglob("table.md"))
    assert kept == [Path("artifacts/report/table.md"), Path("artifacts/table.md")]
    assert [entry.path for entry in client.list_artifacts(run_id)] == ["report", "table.md"]
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "| row |\n"


def test_every_name_that_a_trial_logs_is_legal(tracker: Tracker, client: MlflowClient) -> None:
    """MLflow allows letters, digits, `_ - . : /` and space. NaN is what a test part with one class gets."""
    common = {field.name: 0 if pa.types.is_integer(field.type) else "x" for field in schemas.RESULTS}
    common |= {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n_real": 3, "n_missing": 1}
    common["perturbation"] = ""
    rows = [
        common | {"stage": stage, "test_dataset": dataset, "level": level, "metric": metric}
        for stage in ("finetune", run.FINAL)
        for dataset in ("celeb_df", "ffpp/NeuralTextures")
        for level, metric in (("video", "auc"), ("frame", "acc_at_0_5"), ("frame", "pbca"))
    ]
    blurred = {
        "stage": run.FINAL,
        "test_dataset": "unseen",
        "perturbation": "blur-3",
        "level": "video",
        "metric": "auc",
    }
    rows += [common | blurred, common | blurred | {"metric": "ap"}, common | blurred | {"stage": "finetune"}]
    values = outcome.metric_values(schemas.to_table(rows, schemas.RESULTS))
    assert {name for name in values if "blur" in name} == {
        f"unseen/blur-3/video/auc{end}" for end in ("", "/low", "/high")
    }
    run_id = tracker.run("values", "values")
    tracker.values(run_id, values)
    logged = client.get_run(run_id).data.metrics
    assert logged.keys() == values.keys()
    assert {"celeb_df/video/auc", "celeb_df/video/auc/low", "celeb_df/video/auc/high"} <= logged.keys()
    assert "finetune/ffpp/NeuralTextures/video/auc" in logged
    assert (logged["celeb_df/n_real"], logged["celeb_df/n_missing"]) == (3, 1)


def test_the_uri_of_the_environment_wins(no_uri: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tracking.default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    no_uri.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    assert tracking.default_uri(tmp_path) == "http://head:5000"


def test_the_ui_command_opens_what_was_written(uri: str) -> None:
    assert f"--backend-store-uri {uri}" in tracking.ui_command(uri)
    assert tracking.ui_command("http://head:5000") == "http://head:5000"


def test_a_tracker_leaves_the_environment_alone(tmp_path: Path, no_uri: pytest.MonkeyPatch) -> None:
    """MLflow's own `set_tracking_uri` would hand its choice to every process that is started later."""
    import os

    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "another", tmp_path).run("key", "name")
    after = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    assert after.keys() - before.keys() <= {"MLFLOW_DISABLE_TELEMETRY"}
