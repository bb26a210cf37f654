"""The winner as MLflow keeps it: which row it is, once, without a path of this machine, and back again as a trial."""

import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mlflow.pyfunc import PythonModel
from mlflow.tracking import MlflowClient

from pipelines.common.storage import write_bytes, write_json
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.protocol import Part
from pipelines.experiments.sweep import Row, Sweep
from pipelines.scoring.trained import TRIAL
from pipelines.tracking import client, lookup, registry, runs
from pipelines.tracking.registry import Winner
from pipelines.training import stages
from pipelines.training.views import VIEWS
from pipelines.trials.outcome import Outcome
from pipelines.trials.trial import Trial, UsablePart

BASE = Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df",), preset="small")
ROWS = {"0.5": {"model.recover.mask_ratio": 0.5}, "0.9": {"model.recover.mask_ratio": 0.9}}
SWEEP = Sweep(
    name="ratio",
    title="Delocate, Table 5: mask ratio",
    base=BASE,
    row_name="mask ratio",
    headings=("celeb_df",),
    rows=tuple(Row(label, settings, "50.0") for label, settings in ROWS.items()),
)


def usable(name: str, split: str, *video_ids: str) -> UsablePart:
    rows = tuple({"video_id": video_id, "face_rule": "largest", "label": 0, "method": "real"} for video_id in video_ids)
    part = Part(name=name, dataset=name, split=split, codec="c23", rows=rows)
    return UsablePart(part=part, videos=(), failed={}, contents=())


def done(experiment: Experiment, storage: Path, aucs: Mapping[str, float]) -> Trial:
    """A trial whose stages have this validation AUC; in a worse epoch that is not kept, 1."""
    planned = stages.plan(experiment, dict.fromkeys(VIEWS, "rows"), storage)
    name = stages.digest([experiment, sorted(aucs.items())])
    for stage in planned:
        value = aucs.get(stage.name)
        lines = [{"epoch": epoch, "step": epoch, "seconds": 1.0, "val/loss": 0.5} for epoch in (1, 2)]
        if value is not None:
            lines = [line | {"val/auc": auc} for line, auc in zip(lines, (value, 1.0), strict=True)]
        write_bytes(stage.folder / "curves.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        write_json(stage.folder / "spec.json", dict(stage.spec))
        safetensors.torch.save_file({"w": torch.ones(3)}, stage.folder / "weights.safetensors")
        write_json(stage.folder / "_done.json", {"best_epoch": 1, "seconds": 1})
    trial = Trial(
        experiment=experiment,
        planned=planned,
        train=usable("ffpp", "train", "a"),
        select=usable("ffpp", "val", "b"),
        test=(usable("celeb_df", "test", "c"),),
        faces={"ffpp": storage / "faces" / "x"},
        folder=storage / "runs" / name,
    )
    write_json(trial.folder / TRIAL, trial.record() | {"commit": "abc"})
    write_json(trial.folder / "_done.json", {"made_with": {}})
    return trial


def launched(storage: Path, aucs: Mapping[str, Mapping[str, float]], config_file: Path | None = None) -> Outcome:
    experiments = SWEEP.experiments("small", 1, {})
    trials = {key: done(experiment, storage, aucs[key[0]]) for key, experiment in experiments.items()}
    return Outcome(sweep=SWEEP, preset="small", config_file=config_file, storage=storage, extractions=(), trials=trials)


def both(value: float) -> dict[str, float]:
    """Of the stages that score."""
    return {"finetune": value, "localize": value}


# ------------------------------------------------------------------------------------------ who wins
def test_the_best_validation_auc_wins(tmp_path: Path) -> None:
    best = registry.winner(launched(tmp_path, {"0.5": both(0.6), "0.9": both(0.7)}))
    assert isinstance(best, Winner)
    assert (best.key, best.auc) == (("0.9", 0), pytest.approx(0.7))


def test_of_equals_the_first_in_the_table_wins(tmp_path: Path) -> None:
    best = registry.winner(launched(tmp_path, {"0.5": both(0.7), "0.9": both(0.7)}))
    assert isinstance(best, Winner)
    assert best.key == ("0.5", 0)


def test_a_trial_without_a_validation_auc_can_not_win(tmp_path: Path) -> None:
    nan = {"finetune": 0.9, "localize": float("nan")}
    best = registry.winner(launched(tmp_path, {"0.5": nan, "0.9": both(0.4)}))
    assert isinstance(best, Winner)
    assert best.key == ("0.9", 0)
    none = registry.winner(launched(tmp_path / "none", {"0.5": {}, "0.9": nan}))
    assert none == "no done trial has a validation AUC"


def test_a_trial_that_is_not_done_can_not_win(tmp_path: Path) -> None:
    outcome = launched(tmp_path, {"0.5": both(0.6), "0.9": both(0.7)})
    (outcome.trials["0.9", 0].folder / "_done.json").unlink()
    best = registry.winner(outcome)
    assert isinstance(best, Winner)
    assert best.key == ("0.5", 0)


def test_rows_validated_on_different_videos_have_no_winner(tmp_path: Path) -> None:
    outcome = launched(tmp_path, {"0.5": both(0.6), "0.9": both(0.7)})
    other = replace(outcome.trials["0.9", 0], select=usable("ffpp", "val", "another"))
    text = registry.winner(replace(outcome, trials={**outcome.trials, ("0.9", 0): other}))
    assert isinstance(text, str)
    assert "different videos" in text


def test_a_name_that_no_uri_can_hold_is_refused() -> None:
    assert registry.model_name("mask_ratio") == "crossforge-mask_ratio"
    with pytest.raises(ValueError, match=r"'a/b' can't name a registered model; letters, digits"):
        registry.model_name("a/b")


# -------------------------------------------------------------------------------------------- MLflow
class Registered:
    """What two launches leave: the same rows twice, then a better one."""

    def __init__(self, storage: Path, uri: str) -> None:
        self.storage, self.uri = storage, uri
        first = launched(storage, {"0.5": both(0.6), "0.9": both(0.7)})
        self.lines = [self.register(first), self.register(first)]
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.alias_before = self.client.get_model_version_by_alias("crossforge-ratio", "sample-champion").version
        self.better = launched(storage, {"0.5": both(0.8), "0.9": both(0.7)})
        self.lines.append(self.register(self.better))
        self.first = first
        # As by an earlier release, whose loader had another name.
        version = self.client.get_model_version("crossforge-ratio", "2")
        self.client.set_model_version_tag("crossforge-ratio", "2", "loader", "pipelines.pyfunc.VideoScores")
        self.client.set_logged_model_tags(version.source.split("/")[-2], {"loader": "pipelines.pyfunc.VideoScores"})
        self.lines.append(self.register(self.better))

    def register(self, outcome: Outcome) -> str:
        return registry.register(outcome, runs.open_runs(outcome, client.PATIENCE_S))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    storage = tmp_path_factory.mktemp("storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Registered(storage, f"sqlite:///{storage / 'mlflow.db'}")


def test_an_unchanged_winner_is_not_registered_twice(registered: Registered) -> None:
    assert registered.lines[0] == registered.lines[1]
    best = "0.9, seed 0: the best validation AUC, 70.0 %, mean of finetune 70.0 and localize 70.0"
    assert registered.lines[0] == f"models:/crossforge-ratio/1 ({best})"
    assert registered.lines[2].startswith("models:/crossforge-ratio/2 (0.5, seed 0")
    versions = registered.client.search_model_versions("name = 'crossforge-ratio'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3]


def test_a_winner_that_mlflow_can_no_longer_load_is_registered_anew(registered: Registered) -> None:
    old, new = (registered.client.get_model_version("crossforge-ratio", number) for number in ("2", "3"))
    assert registered.lines[3].startswith("models:/crossforge-ratio/3 (0.5, seed 0")
    assert old.tags["trial"] == new.tags["trial"]
    assert old.source != new.source
    module, _, name = new.tags["loader"].rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), PythonModel)


def test_a_winner_whose_files_were_removed_is_registered_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outcome = launched(tmp_path, {"0.5": both(0.6), "0.9": both(0.7)})
    opened = runs.open_runs(outcome, client.PATIENCE_S)
    assert registry.register(outcome, opened).startswith("models:/crossforge-ratio/1 ")
    source = opened.tracker.in_storage(opened.tracker.client.get_model_version("crossforge-ratio", "1").source)
    assert source is not None
    shutil.rmtree(source)
    for _ in range(2):
        assert registry.register(outcome, opened).startswith("models:/crossforge-ratio/2 ")
    source = opened.tracker.in_storage(opened.tracker.client.get_model_version("crossforge-ratio", "2").source)
    assert source is not None
    assert source.is_dir()


def test_the_alias_is_the_newest_winner(registered: Registered) -> None:
    assert int(registered.alias_before) == 1
    model = registered.client.get_registered_model("crossforge-ratio")
    assert {name: int(number) for name, number in model.aliases.items()} == {"sample-champion": 3}


def test_made_up_data_never_take_the_alias_of_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    aucs = {"0.5": both(0.6), "0.9": both(0.7)}
    outcome = launched(tmp_path, aucs, config_file=tmp_path / "datasets.toml")
    registry.register(outcome, runs.open_runs(outcome, 60))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    model = MlflowClient(tracking_uri=uri, registry_uri=uri).get_registered_model("crossforge-ratio")
    assert list(model.aliases) == ["champion"]


def test_a_version_says_what_it_is(registered: Registered) -> None:
    version = registered.client.get_model_version("crossforge-ratio", "1")
    trial = registered.first.trials["0.9", 0]
    tags = {"trial": trial.digest, "val_auc": "0.700000", "data": "sample", "commit": "abc", "method": "delocate"}
    assert tags.items() <= version.tags.items()
    assert "scores mean nothing" in version.description
    assert registered.client.get_run(version.run_id).data.tags["run_key"] == trial.digest
    outputs = registered.client.get_run(version.run_id).outputs.model_outputs
    assert [version.source.split("/")[-2] for output in outputs] == [output.model_id for output in outputs]
    assert len(outputs) == 1


def test_a_model_holds_no_pickle_no_path_and_no_lock_file(registered: Registered, tmp_path: Path) -> None:
    folder = Path(registered.client.get_model_version_download_uri("crossforge-ratio", "1").removeprefix("file://"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {"", ".json", ".py", ".safetensors", ".txt", ".yaml"}
    for path in files:
        if path.suffix != ".safetensors":
            assert str(registered.storage.parent) not in path.read_text(), path
    required = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "/" not in line and "+" not in line for line in required)
    assert any(line.startswith("torch==") for line in required)
    assert not any(line.startswith("crossforge") for line in required)  # whoever holds that name on an index


@pytest.mark.parametrize("uri", ["models:/crossforge-ratio/2", "models:/crossforge-ratio@sample-champion"])
def test_a_model_is_the_trial_again(uri: str, registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trained = lookup.by_name(uri, registered.storage)
    trial = registered.better.trials["0.5", 0]
    assert trained.experiment == trial.experiment
    assert [stage.digest for stage in trained.planned] == [stage.digest for stage in trial.scoring_stages]
    copied = trained.planned[0].folder / "weights.safetensors"
    assert copied.read_bytes() == (trial.scoring_stages[0].folder / "weights.safetensors").read_bytes()
    folder = trained.folder
    assert registered.storage not in folder.parents
    del trained
    assert not folder.exists()


def test_a_model_of_another_version_of_the_paper_is_refused(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("models.version", lambda paper: 99)
    with pytest.raises(ValueError, match=r"was trained by version \d+ of models/delocate.py, this is version 99"):
        lookup.by_name("models:/crossforge-ratio/1", registered.storage)


def test_a_run_id_is_the_trial_in_the_storage(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = registered.client.get_model_version("crossforge-ratio", "1")
    trial = registered.first.trials["0.9", 0]
    assert lookup.by_name(version.run_id, registered.storage).folder == trial.folder
    parent = registered.client.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    with pytest.raises(ValueError, match="is no trial; name one of the runs below a launch"):
        lookup.by_name(parent, registered.storage)


def test_what_mlflow_does_not_have_is_an_error(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(OSError, match=r"MLflow at sqlite:.*nothing.*not found"):
        lookup.by_name("models:/nothing/1", registered.storage)
    with pytest.raises(ValueError, match=r"models:/<name>/<version>"):
        lookup.by_name("models:/crossforge-ratio", registered.storage)
    with pytest.raises(OSError, match="there is no MLflow database"):
        lookup.by_name("0" * 32, tmp_path)
    assert list(tmp_path.iterdir()) == []  # asking made none


def test_nothing_global_is_left(registered: Registered) -> None:
    import mlflow

    assert mlflow.active_run() is None
    assert registered.uri not in (mlflow.get_tracking_uri(), mlflow.get_registry_uri())


@pytest.mark.nightly
@pytest.mark.slow
def test_over_a_server_that_keeps_the_artifacts(
    mlflow_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    registered = Registered(tmp_path / "trained", mlflow_server.uri)
    assert registered.lines[0] == registered.lines[1]
    # Elsewhere: what is fetched does not come from the storage that trained it.
    trained = lookup.by_name("models:/crossforge-ratio/1", tmp_path / "another")
    assert trained.folder.name == registered.first.trials["0.9", 0].digest
