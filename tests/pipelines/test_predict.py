"""One's own videos: the scores are those that the pipeline gives the same files, and what fails says why."""

import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from mlflow.exceptions import MlflowException
from rich.console import Console

import models
from pipelines.commands.predict import write_pictures
from pipelines.common import provenance, tables
from pipelines.common.storage import read_json, write_json
from pipelines.experiments.experiment import Experiment
from pipelines.faces import plan
from pipelines.metrics import detection
from pipelines.metrics.names import FINAL
from pipelines.predict import main
from pipelines.reporting import evidence
from pipelines.scoring import explain, predict
from pipelines.scoring import trained as trained_module
from pipelines.scoring.trained import best
from pipelines.tracking import lookup, registry
from pipelines.training.job import Compute
from pipelines.trials import planner, run
from pipelines.trials.trial import Trial

pytestmark = pytest.mark.ray  # the trial's faces are extracted by Ray

DATASET = "celeb_df"  # that the videos are taken from


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def trial(tiny: Any, storage: Path) -> Trial:
    """Done, with weights drawn so wide that no two faces have the same score."""
    trial = planner.plan(tiny.experiment, tiny.videos, tiny.ledgers, tiny.faces, storage)
    torch.manual_seed(7)
    for planned in trial.planned:
        module = models.stage(planned.paper, planned.name)(trial.experiment.config())
        for name, value in module.named_parameters():
            if name.startswith("head") or name.endswith("bias"):
                torch.nn.init.normal_(value)
        planned.folder.mkdir(parents=True)
        safetensors.torch.save_file(module.state_dict(), planned.folder / "weights.safetensors")
        write_json(planned.folder / "spec.json", dict(planned.spec))
        write_json(planned.folder / "_done.json", {"seconds": 0, "made_with": {}})
    run.run_trial(trial, Compute(), lambda phase, done, total: None)
    return trial


@pytest.fixture(scope="module")
def files(tiny: Any, trial: Trial) -> dict[str, Path]:
    """video_id -> file, of a real and a fake test video."""
    part = next(part for part in trial.test if part.name == DATASET)
    rows = {row["video_id"]: row for row in part.part.rows}
    chosen = [next(v.video_id for v in part.videos if v.label == label) for label in (tables.REAL, tables.FAKE)]
    return {name: Path(tiny.roots[rows[name]["root"]]) / rows[name]["uri"] for name in chosen}


@pytest.fixture(scope="module")
def inputs(files: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos under other names, beside two that have no score."""
    folder = tmp_path_factory.mktemp("mine")
    for number, path in enumerate(files.values()):
        shutil.copy(path, folder / f"my $x^{number}$ clip{path.suffix}")
    (folder / os.fsdecode(b"zz broken \xe9.mp4")).write_bytes(next(iter(files.values())).read_bytes()[:300])
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def report(trial: Trial, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any, Path]:
    """Exit code, JSON and pictures of one run of the command."""
    out = tmp_path_factory.mktemp("out")
    arguments = [str(inputs), "--run", str(trial.folder), "--json", str(out / "s.json"), "--picture", str(out / "p")]
    code = main(arguments)
    return code, json.loads((out / "s.json").read_text()), out / "p"


def of_pipeline(trial: Trial, video_id: str, stage: str) -> list[float]:
    table = pq.read_table(trial.folder / "predictions.parquet")
    own = table.filter(pc.and_(pc.equal(table["video_id"], video_id), pc.equal(table["stage"], stage)))
    return own.sort_by([("face_index", "ascending"), ("frame_index", "ascending")])["score"].to_pylist()


# ---------------------------------------------------------------------------------------- scores
def test_scores_are_those_of_the_pipeline(trial: Trial, files: Any, report: Any) -> None:
    predictions = pq.read_table(trial.folder / "predictions.parquet")
    predictions = predictions.filter(pc.equal(predictions["stage"], FINAL))
    by_video = {row["video_id"]: row["score"] for row in detection.by_video(predictions).to_pylist()}
    videos = report[1]["videos"]
    for name, video in zip(files, videos, strict=False):
        assert video["status"] == "ok"
        assert video["score"] == pytest.approx(by_video[name], abs=1e-5)
        own = [face["score"] for face in video["faces"]]
        np.testing.assert_allclose(own, of_pipeline(trial, name, FINAL), atol=1e-5)
        for stage in ("finetune", "localize"):
            own = [face["stages"][stage] for face in video["faces"]]
            np.testing.assert_allclose(own, of_pipeline(trial, name, stage), atol=1e-5)
            assert video["stages"][stage] == pytest.approx(np.mean(own), abs=1e-5)
    for stage in ("finetune", "localize"):  # else a mix-up would not be seen
        assert abs(videos[0]["stages"][stage] - videos[1]["stages"][stage]) > 1e-4


def test_a_broken_file_costs_itself(report: Any) -> None:
    code, scored, _ = report
    assert code == 1
    assert [video["status"] for video in scored["videos"]] == ["ok", "ok", "unreadable"]
    broken = scored["videos"][2]
    assert broken["path"].endswith("zz broken \\xe9.mp4")
    assert broken["reason"].startswith("not a video file")
    assert (broken["score"], broken["faces"], broken["stages"]) == (None, [], {})
    assert [(each["path"].rpartition("/")[2], each["reason"]) for each in scored["left_out"]] == [
        ("notes.txt", "neither a video nor a picture")
    ]


def test_the_json_says_what_scored(trial: Trial, report: Any) -> None:
    scored = report[1]
    assert scored["run"] == trial.digest
    assert scored["stages"] == {s.name: s.digest for s in trial.planned if s.name != "recover"}
    assert scored["commit"] == provenance.commit()
    labels = [video.label for video in trial.train.videos]
    assert scored["trained_on"] == {
        "dataset": "ffpp",
        "codec": "c23",
        "manipulations": [],
        "protocol": "cross_dataset",
        "num_real": labels.count(0),
        "num_fake": labels.count(1),
        "sample_corpus": True,
    }
    assert any("sample corpus" in warning for warning in scored["warnings"])
    face = scored["videos"][0]["faces"][1]
    assert set(face) == {"frame_index", "face_index", "time_s", "box_px", "face_score", "score", "stages"}
    assert set(face["box_px"]) == {"x0", "y0", "x1", "y1"}
    assert face["time_s"] > 0
    assert (len(scored["videos"][0]["faces"]), scored["videos"][0]["num_frames"]) == (4, 4)


def test_a_picture_of_each_scored_video(report: Any) -> None:
    pictures = sorted(report[2].iterdir())
    assert len(pictures) == 2
    for path in pictures:
        pixels = cv2.imread(str(path))
        assert pixels is not None
        assert pixels.shape[0] > 400
        assert pixels.std() > 10


@pytest.mark.nightly
def test_a_method_without_masks_shows_grad_cam(trial: Trial, storage: Path, files: Any, tmp_path: Path) -> None:
    """Of the faces that the picture has, and of no other; the scores are the same with and without."""
    paths = list(files.values())[:1]
    faces = {}
    for stage in ("finetune", "localize"):
        folder = next(planned.folder for planned in trial.planned if planned.name == stage)
        trained = lookup.by_name(str(folder), storage)
        plain, shown = (predict.predict(trained, paths, Console(quiet=True), pictures=p)[0] for p in (False, True))
        assert [row["score"] for row in shown.faces] == [row["score"] for row in plain.faces]
        assert not any("cam_png" in row for row in plain.faces)
        assert predict.as_json(trained, [shown])["videos"][0]["faces"] == [
            {name: value for name, value in row.items() if not name.endswith("_png")} for row in plain.faces
        ]
        (path,) = write_pictures(trained, [shown], tmp_path / stage)
        assert cv2.imread(str(path)).std() > 10
        faces[stage] = shown.faces
    assert not any("cam_png" in row for row in faces["localize"])  # it draws masks
    heats = [cv2.imdecode(np.frombuffer(row["cam_png"], np.uint8), cv2.IMREAD_UNCHANGED) for row in faces["finetune"]]
    assert {heat.shape for heat in heats} == {(64, 64)}
    assert max(heat.max() for heat in heats) > 200


def test_grad_cam_that_fails_costs_no_score(
    trial: Trial, storage: Path, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(stage: Any, batch: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(explain, "grad_cam", broken)
    folder = next(planned.folder for planned in trial.planned if planned.name == "finetune")
    trained = lookup.by_name(str(folder), storage)
    (video,) = predict.predict(trained, list(files.values())[:1], Console(quiet=True), pictures=True)
    assert video.status == "ok"
    assert video.score is not None
    assert not any("cam_png" in row for row in video.faces)


@pytest.mark.nightly
def test_many_videos_go_through_ray_and_score_alike(
    trial: Trial, inputs: Path, report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "MOST_HERE", 1)
    monkeypatch.setattr(predict.cluster, "connect", lambda address: nullcontext())  # the tests' own Ray
    code = main([str(inputs), "--run", str(trial.folder), "--json", str(tmp_path / "s.json")])
    videos = json.loads((tmp_path / "s.json").read_text())["videos"]
    assert code == 1
    assert [v["status"] for v in videos] == ["ok", "ok", "unreadable"]
    assert [v["score"] for v in videos] == pytest.approx([v["score"] for v in report[1]["videos"]], abs=1e-6)


def test_no_face_is_said(trial: Trial, write_video: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "gray.mp4", [np.full((96, 96, 3), 90 + i, np.uint8) for i in range(6)])
    assert main([str(tmp_path / "gray.mp4"), "--run", str(trial.folder)]) == 1
    assert "no_face" in capsys.readouterr().out


def test_a_face_that_a_stage_refuses_costs_its_video(
    trial: Trial, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = map(str, files.values())
    whole = predict._scores

    def scores(trained: Any, scorer: Any, faces: Any, name: str) -> Any:
        if name == predict.video_id(Path(real)):
            raise models.BadSample("no eyes")
        return whole(trained, scorer, faces, name)

    monkeypatch.setattr(predict, "_scores", scores)
    assert main([real, fake, "--run", str(trial.folder), "--json", str(tmp_path / "s.json")]) == 1
    first, second = json.loads((tmp_path / "s.json").read_text())["videos"]
    assert (first["status"], first["reason"], first["score"]) == ("not_scored", "no eyes", None)
    assert second["status"] == "ok"


def test_one_file_twice_is_scored_once_and_told_twice(trial: Trial, files: Any, tmp_path: Path) -> None:
    path = next(iter(files.values()))
    shutil.copy(path, tmp_path / "copy.mp4")
    out = tmp_path / "s.json"
    assert main([str(path), str(tmp_path / "copy.mp4"), "--run", str(trial.folder), "--json", str(out)]) == 0
    first, second = json.loads(out.read_text())["videos"]
    assert (first["path"], second["path"]) == (str(path), str(tmp_path / "copy.mp4"))
    assert first | {"path": ""} == second | {"path": ""}


# ------------------------------------------------------------------------------------------ trial
def test_the_settings_come_back_from_the_folder(trial: Trial, storage: Path) -> None:
    trained = lookup.by_name(str(trial.folder), storage)
    assert trained.experiment.config() == trial.experiment.config()
    assert replace(trained.experiment, model_args={}) == replace(trial.experiment, model_args={})
    assert [planned.folder for planned in trained.planned] == [s.folder for s in trial.planned if s.name != "recover"]
    assert trained.pooling == trial.pooling


@pytest.mark.parametrize("model", models.names())
def test_settings_of_every_paper_survive_json(model: str, tmp_path: Path) -> None:
    before = Experiment(model=model, train_on="ffpp", test_on=("celeb_df",), manipulations=("Deepfakes",), seed=3)
    write_json(tmp_path / "trial.json", asdict(before))
    values = read_json(tmp_path / "trial.json")
    assert Experiment(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}) == before


def test_a_trial_is_found_by_digest_and_by_method(trial: Trial, storage: Path) -> None:
    assert lookup.by_name(trial.digest[:5], storage).folder == trial.folder
    found, why = best("delocate", storage)
    assert found.folder == trial.folder
    assert why == "the last that was done"  # untrained weights have no validation AUC
    with pytest.raises(ValueError, match=f"no done trial of lre.*{trial.digest} .delocate on ffpp"):
        best("lre", storage)
    with pytest.raises(ValueError, match=f"begins no trial's digest.*{trial.digest}"):
        lookup.by_name("nothing", storage)


def test_what_scores_must_be_named_and_what_could_is_said(
    trial: Trial, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.mp4").touch()
    assert main([str(tmp_path / "x.mp4"), "--storage", str(storage)]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "say what scores, --method METHOD or --run TRIAL; done trials: " in told
    assert trial.digest in told


def test_the_best_of_a_method_is_among_those_of_the_same_validation_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = {"a": ("here", 0.7), "b": ("here", 0.9), "c": ("there", 0.99), "d": ("here", math.nan), "e": ("here", 0.9)}
    trials["tiny"] = ("here", 1.0)
    for number, (name, (videos, _)) in enumerate(trials.items()):
        preset = "tiny" if name == "tiny" else "small"
        record = {"experiment": {"model": "plain", "preset": preset}, "stages": {}, "faces": {}, "commit": ""}
        write_json(tmp_path / "runs" / name / "trial.json", record | {"origin": {"validation": {"name": videos}}})
        write_json(done := tmp_path / "runs" / name / "_done.json", {})
        os.utime(done, (number, number))

    def read(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(folder=folder, validation_auc=trials[folder.name][1], planned=())

    monkeypatch.setattr(trained_module, "read", read)
    found, why = best("plain", tmp_path)
    assert (found.folder.name, why) == ("e", "validation AUC 90.0 %, the best of 4 trials")  # of equals the last
    for name in "abe":
        shutil.rmtree(tmp_path / "runs" / name)
    found, why = best("plain", tmp_path)
    assert (found.folder.name, why) == ("d", "the last that was done")
    for name in "cd":
        shutil.rmtree(tmp_path / "runs" / name)
    assert best("plain", tmp_path)[0].folder.name == "tiny"


def test_a_model_of_mlflow_scores_as_the_trial_does(trial: Trial, files: Any, report: Any, tmp_path: Path) -> None:
    """As a registered model holds it, by MLflow's own loader, in the process of whoever has this package."""
    registry.save(trial, tmp_path)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    videos = [str(path) for path in files.values()]
    scored = model.predict(pd.DataFrame({"video": [*videos, str(tmp_path / "none.mp4")]}, index=[7, 8, 9]))
    assert list(scored.columns) == ["score", "status", "reason", "num_frames", "num_faces"]
    assert list(scored.index) == [7, 8, 9]
    expected = [video["score"] for video in report[1]["videos"][:2]]
    np.testing.assert_allclose(scored["score"], [*expected, np.nan], atol=1e-5)
    assert list(scored["status"]) == ["ok", "ok", "unreadable"]
    assert list(scored["num_frames"]) == [4, 4, 0]
    with pytest.raises(MlflowException, match="video"):
        model.predict(pd.DataFrame({"file": videos}))


def test_a_stage_scores_alone(trial: Trial, storage: Path) -> None:
    folders = {planned.name: planned.folder for planned in trial.planned}
    trained = lookup.by_name(str(folders["localize"]), storage)
    assert [planned.folder for planned in trained.planned] == [folders["localize"]]
    with pytest.raises(ValueError, match="recover of delocate gives no score"):
        lookup.by_name(str(folders["recover"]), storage)


def copied(trial: Trial, folder: Path) -> Path:
    """The trial's folder in a storage of its own."""
    shutil.copytree(trial.folder.parents[1], folder)
    return folder / "runs" / trial.digest


def test_an_unfinished_or_outdated_trial_is_refused(trial: Trial, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    own = copied(trial, storage)
    (own / "_done.json").rename(own / "kept.json")
    with pytest.raises(ValueError, match="is not done"):
        lookup.by_name(str(own), storage)
    (own / "kept.json").rename(own / "_done.json")
    record = read_json(own / "trial.json")
    write_json(own / "trial.json", record | {"experiment": record["experiment"] | {"colour": "red"}})
    with pytest.raises(ValueError, match=r"settings that this version does not know.*colour"):
        lookup.by_name(str(own), storage)
    (own / "trial.json").unlink()
    for name in (str(own), trial.digest[:6]):
        with pytest.raises(ValueError, match=r"is neither a trial's folder \(no trial\.json\)"):
            lookup.by_name(name, storage)


def test_a_stage_of_another_version_is_refused(trial: Trial, tmp_path: Path) -> None:
    own = copied(trial, tmp_path / "storage")
    spec = tmp_path / "storage" / "stages" / "delocate" / "finetune" / trial.planned[1].digest / "spec.json"
    told = read_json(spec)
    for part, file in (("delocate", "models/delocate.py"), ("samples", "pipelines/training/samples.py")):
        write_json(spec, told | {"versions": told["versions"] | {part: 999}})
        with pytest.raises(ValueError, match=f"was trained by version 999 of {file}"):
            lookup.by_name(str(own), tmp_path)
    write_json(spec, {name: value for name, value in told.items() if name != "versions"})  # from before there were any
    with pytest.raises(ValueError, match="was trained by version none"):
        lookup.by_name(str(own), tmp_path)
    write_json(spec, told | {"versions": told["versions"] | {"loop": 999}})  # scores do not depend on it
    lookup.by_name(str(own), tmp_path)


def test_faces_of_own_datasets_are_no_sample(trial: Trial, tmp_path: Path) -> None:
    """The folder that `preprocess` gives faces of own videos, with the recipe that extraction leaves in it."""
    own = copied(trial, tmp_path / "storage")
    record = read_json(own / "trial.json")
    recipe = trial.experiment.recipe()
    for root, sample in ((None, False), ("/x/sample-1/ffpp", True)):
        folder = plan.faces_folder(tmp_path, "ffpp", recipe, root)
        write_json(own / "trial.json", record | {"faces": record["faces"] | {"folder": folder.name}})
        assert lookup.by_name(str(own), tmp_path).on_sample is sample


# ------------------------------------------------------------------------------------- wrong input
def test_wrong_input_is_one_error(trial: Trial, files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(next(iter(files.values())))
    for arguments, text in (
        ([str(tmp_path / "none.mp4"), "--run", str(trial.folder)], "there is no file or folder"),
        ([str(tmp_path), "--run", str(trial.folder)], "holds no videos"),
        ([video, "--run", "ffff", "--storage", str(tmp_path / "empty")], "begins no trial's digest"),
        ([video, "--run", str(tmp_path)], "is neither a trial's folder"),
    ):
        assert main(arguments) == 2
        out = capsys.readouterr().out
        assert out.count("error:") == 1
        assert text in out


# ---------------------------------------------------------------------------------------- overlay
def test_a_mask_is_laid_over_in_red() -> None:
    gray = np.full((8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    png = [cv2.imencode(".png", picture)[1].tobytes() for picture in (gray, mask)]
    shown = evidence.overlay(*png)
    assert shown[0, 0].tolist() == [100, 100, 100]
    assert shown[0, -1].tolist() == [193, 40, 40]  # 0.4 * 100 + 0.6 * 255, 0.4 * 100
    assert evidence.overlay(png[0], None)[0, -1].tolist() == [100, 100, 100]


def test_the_legend_says_which_it_is() -> None:
    row: dict[str, Any] = {"mask_png": None}
    black, white = (cv2.imencode(".png", np.full((4, 4), value, np.uint8))[1].tobytes() for value in (9, 200))
    assert evidence._legend([row]) == ""
    assert evidence._legend([row | {"mask_png": black}, row | {"mask_png": white}]).startswith("; red: ")
    assert evidence._legend([row, row | {"cam_png": white}]).startswith("; colours, up to red: ")
    for dark in ("mask_png", "cam_png"):  # a promise of red would be wrong
        assert evidence._legend([row | {dark: black}]).startswith("; nothing is marked: ")


def test_any_name_can_be_drawn_and_names_a_picture(tmp_path: Path) -> None:
    """Without a warning on glyphs that the font lacks; a file's name has no line break and at most 255 bytes."""
    assert evidence.drawable("\u00e9 \u8996\n\u00df") == "\u00e9 \\u8996\n\u00df"
    png = cv2.imencode(".png", np.full((8, 8, 3), 100, np.uint8))[1].tobytes()
    face = {"frame_index": 0, "face_index": 0, "time_s": 0.0, "score": 0.5, "image_png": png, "mask_png": None}
    names = ("\u8996\u983b.mp4", "a\nb.mp4", "\U0001f600" * 60 + ".mp4", os.fsdecode(b"caf\xe9.mp4"))
    common: Any = {"status": "ok", "reason": "", "num_frames": 1, "num_faces": 1, "seconds": 0.0, "score": 0.5}
    scored = [predict.Scored(path=Path("/x") / name, faces=(face,), **common) for name in names]
    trained: Any = SimpleNamespace(
        experiment=SimpleNamespace(model="lre", train_on="ffpp"), folder=Path("run"), warnings=["\u8996"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_pictures(trained, scored, tmp_path)
    assert [path.name[:-13] for path in written] == ["\u8996\u983b", "a_b", "\U0001f600" * 20, "caf_"]
    assert all(path.is_file() for path in written)
