"""The pictures of a whole trial: written once, after its results, and never at their cost."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import models
from pipelines.common import progress, storage
from pipelines.common.tables import EVIDENCE, FEATURES
from pipelines.reporting.evidence import examples, tsne
from pipelines.scoring import explain
from pipelines.training.job import Compute
from pipelines.trials import pictures, planner, run, tune
from pipelines.trials.trial import Trial

pytestmark = pytest.mark.ray  # the trial's faces are extracted by Ray

HERE = Compute()


def no_report(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def trial(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Done, with weights drawn so wide that no two faces have the same score."""
    trial = planner.plan(tiny.experiment, tiny.videos, tiny.ledgers, tiny.faces, tmp_path_factory.mktemp("storage"))
    torch.manual_seed(7)
    for planned in trial.planned:
        module = models.stage(planned.paper, planned.name)(trial.experiment.config())
        for name, value in module.named_parameters():
            if name.startswith("head") or name.endswith("bias"):
                torch.nn.init.normal_(value)
        planned.folder.mkdir(parents=True)
        safetensors.torch.save_file(module.state_dict(), planned.folder / "weights.safetensors")
        storage.write_json(planned.folder / "spec.json", dict(planned.spec))
        storage.write_json(planned.folder / "_done.json", {"seconds": 0, "made_with": {}})
    run.run_trial(trial, HERE, no_report)
    return trial


def tables(trial: Trial) -> tuple[pa.Table, pa.Table]:
    return tuple(pq.read_table(trial.folder / name) for name in (explain.EVIDENCE, explain.FEATURES))  # type: ignore[return-value]


def copied(trial: Trial, folder: Path) -> Trial:
    """Done, but without its pictures."""
    shutil.copytree(trial.folder, folder / trial.digest)
    for name in (explain.EVIDENCE, explain.FEATURES):
        (folder / trial.digest / name).unlink()
    return replace(trial, folder=folder / trial.digest)


def pixels(row: Mapping[str, Any]) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(row["png"], np.uint8), cv2.IMREAD_UNCHANGED)


# --------------------------------------------------------------------------------------- contents
@pytest.mark.nightly
def test_each_example_has_the_pictures_of_every_stage(trial: Trial) -> None:
    evidence, _ = tables(trial)
    assert evidence.schema.equals(EVIDENCE)
    examples: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in evidence.to_pylist():
        examples.setdefault((row["dataset"], row["video_id"]), []).append(row)
    assert {dataset for dataset, _ in examples} == {"celeb_df", "dfdc"}
    for rows in examples.values():
        assert [(row["stage"], row["picture"]) for row in rows] == [
            ("recover", "face"),  # all three stages see the same picture: it is kept once
            ("recover", "recovered"),
            ("finetune", "Grad-CAM"),
            ("localize", "Grad-CAM"),
            ("localize", "mask"),
            ("localize", "mapped"),
        ]
        assert [row["problem"] for row in rows] == [""] * 6
        shapes = [pixels(row).shape for row in rows]
        assert shapes == [(64, 64, 3), (64, 64, 3), (64, 64), (64, 64), (64, 64), (16, 16, 3)]
        assert rows[0]["score"] is None
        assert (rows[0]["verdict"] == "right") == ((rows[0]["video_score"] > 0.5) == rows[0]["label"])


def test_scores_and_masks_are_those_of_the_predictions(trial: Trial) -> None:
    predictions = {
        (row["stage"], row["video_id"], row["face_index"], row["frame_index"]): row
        for row in pq.read_table(trial.folder / "predictions.parquet").to_pylist()
    }
    for row in [row for table in tables(trial) for row in table.to_pylist() if row["stage"] != "recover"]:
        known = predictions[row["stage"], row["video_id"], row["face_index"], row["frame_index"]]
        assert (row["score"], row["label"], row["method"]) == (known["score"], known["label"], known["method"])
        if row.get("picture") == "mask":
            expected = cv2.imdecode(np.frombuffer(known["mask_png"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert np.abs(pixels(row).astype(int) - expected).max() <= 1  # another number of faces in a batch


def test_features_are_of_every_dataset_and_class(trial: Trial) -> None:
    _, features = tables(trial)
    assert features.schema.equals(FEATURES)
    rows = features.to_pylist()
    keys = [(row["stage"], row["video_id"], row["face_index"], row["frame_index"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["stage"] for row in rows} == {"finetune", "localize"}
    assert {(row["dataset"], row["label"]) for row in rows} == {(d, c) for d in ("celeb_df", "dfdc") for c in (0, 1)}
    assert {(row["stage"], len(row["features"])) for row in rows} == {("finetune", 32), ("localize", 3 * 256 + 96)}


def test_reports_draw_them(trial: Trial) -> None:
    evidence, features = tables(trial)
    for data in (*examples(evidence), tsne(features, "t")):
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert min(shown.shape[:2]) > 200
        assert shown.std() > 10


# ------------------------------------------------------------------------------------------- once
def test_they_are_made_once_and_made_up_for(trial: Trial, tmp_path: Path) -> None:
    """A trial that was stopped between its results and its pictures gets them; the same ones."""
    late = copied(trial, tmp_path)
    results = (late.folder / "results.parquet").stat().st_mtime_ns
    run.run_trial(late, HERE, lambda *word: pytest.fail(f"worked on {word}"))
    for early, made_up in zip(tables(trial), tables(late), strict=True):
        assert early.equals(made_up)
    before = {path: path.stat().st_mtime_ns for path in late.folder.iterdir()}
    assert before[late.folder / "results.parquet"] == results
    run.run_trial(replace(late, faces={}), HERE, no_report)
    assert {path: path.stat().st_mtime_ns for path in late.folder.iterdir()} == before


@pytest.mark.nightly
def test_a_worker_makes_the_same(trial: Trial, tmp_path: Path) -> None:
    late = copied(trial, tmp_path)
    pictures.write_missing(late, Compute(num_workers=1))
    early, made_up = (table.drop(["png"]) for table in (tables(trial)[0], tables(late)[0]))
    assert early.equals(made_up)


# --------------------------------------------------------------------------------- what goes wrong
def test_a_broken_picture_costs_itself(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    localize = models.stage("delocate", "localize")
    whole = localize.pictures

    def broken(self: Any, batch: Any) -> dict[str, torch.Tensor]:
        drawn = whole(self, batch)
        return drawn | {"mask": drawn["mask"] + 2, "odd": drawn["mapped"][:, :2]}

    def no_logit(self: Any, batch: Any) -> None:
        raise RuntimeError("no logit today")

    monkeypatch.setattr(localize, "pictures", broken)
    monkeypatch.setattr(models.stage("delocate", "finetune"), "logit", no_logit)
    late = copied(trial, tmp_path)
    pictures.write_missing(late, HERE)
    problems: dict[tuple[str, str], set[str]] = {}
    for row in tables(late)[0].to_pylist():
        problems.setdefault((row["stage"], row["picture"]), set()).add(row["problem"])
        assert (row["png"] is None) == bool(row["problem"])
    assert {key for key, texts in problems.items() if texts == {""}} == {
        ("recover", "face"),
        ("recover", "recovered"),
        ("localize", "Grad-CAM"),
        ("localize", "mapped"),
    }
    assert all("must lie in [0, 1]" in text for text in problems["localize", "mask"])
    assert all("must be (h, w) or (3, h, w)" in text for text in problems["localize", "odd"])
    assert problems["finetune", "Grad-CAM"] == {"RuntimeError: no logit today"}


def test_a_stage_without_weights_costs_its_pictures(trial: Trial, tmp_path: Path) -> None:
    late = copied(trial, tmp_path)
    gone = [
        replace(planned, folder=tmp_path / "gone") if planned.name == "finetune" else planned
        for planned in trial.planned
    ]
    pictures.write_missing(replace(late, planned=tuple(gone)), HERE)
    evidence, features = tables(late)
    rows = [row for row in evidence.to_pylist() if row["stage"] == "finetune"]
    assert {(row["picture"], row["png"]) for row in rows} == {("", None)}
    assert all("is not finished" in row["problem"] for row in rows)
    assert features["stage"].unique().to_pylist() == ["localize"]
    assert len(examples(evidence)) == len({row["video_id"] for row in evidence.to_pylist()})


def test_what_a_process_that_died_has_left_is_made_up_for(trial: Trial, tmp_path: Path, ray_local: None) -> None:
    late = copied(trial, tmp_path)
    progress.note(late.folder, tune.PICTURES, 0, 1)
    tune._show_rest([trial, late, replace(late, folder=tmp_path / "not done")], HERE)
    for made, first in zip(tables(late), tables(trial), strict=True):
        assert made.equals(first)


def test_nothing_of_it_costs_the_result(trial: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = copied(trial, tmp_path)
    (late.folder / "predictions.parquet").write_bytes(b"not a table")
    before = late.results()
    run.run_trial(late, HERE, no_report)
    assert late.done
    assert str(late.results().to_pylist()) == str(before.to_pylist())  # NaN equals nothing
    assert not late.complete
    assert "no pictures of what its stages look at" in caplog.text


def test_time_is_bounded(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "MOST_SECONDS", -1.0)
    late = copied(trial, tmp_path)
    pictures.write_missing(late, HERE)
    evidence, features = tables(late)
    assert evidence.num_rows
    assert all(text.startswith("left out") for text in evidence["problem"].to_pylist())
    assert not features.num_rows
