"""A whole trial on real faces, in this process: what it writes, what it does not do twice, how it counts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import logit
from sklearn.metrics import average_precision_score

from pipelines import datasets
from pipelines.common import device, provenance, tables
from pipelines.common.storage import read_json
from pipelines.datasets.sample import corpus
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import store
from pipelines.faces.extract import extract
from pipelines.faces.recipe import Recipe
from pipelines.metrics import detection
from pipelines.metrics.calibration import Fitted
from pipelines.metrics.names import DETECTING, FINAL, FITTED, UNSEEN
from pipelines.reporting.saved import Run
from pipelines.training.job import Compute
from pipelines.trials import planner, run
from pipelines.trials.trial import Trial, pooling_text

pytestmark = pytest.mark.ray

HERE = Compute()
KEY = ["video_id", "frame_index", "face_index"]


def planned(tiny: Any, storage: Path, ledgers: Any = None, **changes: Any) -> Trial:
    experiment: Experiment = tiny.experiment.override(changes)
    return planner.plan(experiment, tiny.videos, ledgers or tiny.ledgers, tiny.faces, storage)


def ran(trial: Trial) -> Trial:
    planner.check(trial, HERE)
    run.run_trial(trial, HERE, lambda phase, done, total: None)
    return trial


def failing(tiny: Any, dataset: str, video_id: str, status: str = "no_face") -> Mapping[str, Any]:
    """The ledgers, had extraction found nothing in one video."""
    entry = dict(tiny.ledgers[dataset][video_id]) | {"status": status, "reason": "no face in 4 frames", "num_faces": 0}
    return dict(tiny.ledgers) | {dataset: dict(tiny.ledgers[dataset]) | {video_id: entry}}


def videos_of(tiny: Any, dataset: str, split: str, label: int) -> list[str]:
    rows = tiny.videos[dataset].to_pylist()
    codecs = ("c23", "unknown")
    return [r["video_id"] for r in rows if r["split"] == split and r["label"] == label and r["codec"] in codecs]


def rows_of(trial: Trial, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in comparable(trial.results()) if all(row[name] == value for name, value in wanted.items())]


def comparable(results: pa.Table) -> list[dict[str, Any]]:
    """Rows of RESULTS in which what is not defined is None: NaN equals nothing."""
    return [{name: None if v != v else v for name, v in row.items()} for row in results.to_pylist()]


def mtimes(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def phases() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def trial(tiny: Any, storage: Path, phases: list[tuple[str, int, int]]) -> Trial:
    trial = planned(tiny, storage)
    assert not trial.done
    planner.check(trial, HERE)
    run.run_trial(trial, HERE, lambda *word: phases.append(word))
    return trial


def test_a_run_says_on_what_its_stages_were_trained_and_scored(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    here = device.made_with(trial.experiment.numerics, torch.device("cpu")) | {"pretrained": "none"}
    assert read_json(trial.folder / "_done.json")["made_with"] == {"finetune": here, "localize": here}
    assert trial.made_with == here
    for stage in trial.planned:
        assert stage.summary()["made_with"] == here
    # Validation was scored too, perhaps on another machine: thresholds and temperatures are fitted to its scores.
    monkeypatch.setattr(run, "scored_with", lambda _, part, perturbation: {"torch": f"{part}{perturbation}"})
    found = [record["torch"] for record in run._made_with(trial, trial.scoring_stages[0])]
    assert found[-3:] == [*(part.digest for part in trial.test), trial.select.digest]


# ---------------------------------------------------------------------------------------- results
def test_every_stage_dataset_level_and_metric_has_a_row(trial: Trial) -> None:
    keys = [(r["stage"], r["test_dataset"], r["level"], r["metric"]) for r in trial.results().to_pylist()]
    scores = [(level, metric) for level in ("frame", "video") for metric in (*DETECTING, *FITTED)]
    wanted = [
        (stage, name, *what)
        for stage in ("finetune", "localize", FINAL)
        for name in ("celeb_df", "dfdc", "unseen")
        for what in scores
    ]
    # True masks of fakes are not known in DFDC; of the stages, `localize` predicts masks.
    localizing = ("localize", FINAL)
    wanted += [(s, "celeb_df", "frame", metric) for s in localizing for metric in ("iou", "iou_all_fakes", "pbca")]
    everywhere = product(localizing, ("celeb_df", "dfdc", "unseen"), ("missing_masks", "false_mask_area"))
    wanted += [(stage, name, "frame", metric) for stage, name, metric in everywhere]
    assert sorted(keys) == sorted(wanted)
    assert trial.results().schema.equals(tables.RESULTS)


def test_every_row_says_what_it_counts(trial: Trial, tiny: Any) -> None:
    for row in trial.results().to_pylist():
        parts = [part for part in trial.test if row["test_dataset"] in (part.name, UNSEEN)]
        assert (row["part"], row["train_on"], row["model"]) == ("test", "ffpp", "delocate")
        assert row["codec"] == "c23"
        excluded = {video_id for part in parts for video_id in part.excluded}
        ids = [[set(videos_of(tiny, part.name, "test", label)) - excluded for label in (0, 1)] for part in parts]
        assert (row["n_real"], row["n_fake"]) == tuple(sum(map(len, of_label)) for of_label in zip(*ids, strict=True))
        assert (row["n_missing"], row["n_excluded"], row["failed_rule"]) == (0, len(excluded), "exclude")
        assert (row["run_id"], row["seed"], row["commit"]) == (trial.digest, 0, provenance.commit())
        digests = [ids_digest([video_id for of_label in own for video_id in of_label]) for own in ids]
        assert (row["part_version"], row["part_ids"]) == (protocol.VERSION, ", ".join(digests))
        # In the tiny corpus there are few real videos; each is of a person of its own, and so is each fake.
        assert (row["n_clusters"] == 0) == bool(row["reason"])
        if row["reason"]:
            assert "a false positive rate of" in row["reason"]
            assert np.isnan([row["value"], row["low"], row["high"]]).all()
        else:
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def ids_digest(video_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(video_ids)).encode()).hexdigest()[:16]


def test_a_run_says_which_parts_it_was_trained_selected_and_scored_on(trial: Trial, tiny: Any) -> None:
    told = read_json(trial.folder / "trial.json")["parts"]
    by_split = {
        split: [i for label in (0, 1) for i in videos_of(tiny, "ffpp", split, label)] for split in ("train", "val")
    }
    wanted = [f"ffpp {split} c23 v{protocol.VERSION} {ids_digest(ids)}" for split, ids in by_split.items()]
    assert told[:2] == wanted
    assert [text.split()[:3] for text in told[2:]] == [[name, "test", "c23"] for name in ("celeb_df", "dfdc")]


def test_validation_is_scored_and_chooses_a_threshold_but_is_no_test_part(trial: Trial) -> None:
    validation = pq.read_table(trial.folder / "validation.parquet")
    assert set(validation["video_id"].to_pylist()) == {video.video_id for video in trial.select.videos}
    assert set(validation["stage"].to_pylist()) == {"finetune", "localize", FINAL}
    assert {row["part"] for row in trial.results().to_pylist()} == {"test"}
    final = detection.by_video(validation.filter(pc.equal(validation["stage"], FINAL)))
    fitted = Fitted.of(final["label"], final["logit"])
    scores = video_scores(trial, "celeb_df").values()
    right = [(logit(score) > fitted.threshold) == (label == tables.FAKE) for label, score in scores]
    (row,) = rows_of(trial, stage=FINAL, test_dataset="celeb_df", level="video", metric="acc_at_val")
    assert row["value"] == pytest.approx(np.mean(right))


def test_a_run_knows_who_is_in_its_videos(trial: Trial, tiny: Any) -> None:
    known = pq.read_table(trial.folder / "sources.parquet")
    assert known.schema.equals(tables.SOURCES)
    listed = {row["video_id"]: row["source_ids"] for table in tiny.videos.values() for row in table.to_pylist()}
    found = dict(zip(known["video_id"].to_pylist(), known["source_ids"].to_pylist(), strict=True))
    assert found.keys() == {i for part in (*trial.test, trial.select) for i in part.video_ids}
    assert all(listed[video_id] == people for video_id, people in found.items())


def test_final_is_the_mean_of_the_stages_face_by_face(trial: Trial) -> None:
    predictions = pq.read_table(trial.folder / "predictions.parquet")
    by_stage = {
        stage: predictions.filter(pc.equal(predictions["stage"], stage)).sort_by([(name, "ascending") for name in KEY])
        for stage in ("finetune", "localize", FINAL)
    }
    scores = {stage: table["score"].to_numpy() for stage, table in by_stage.items()}
    assert len({table.num_rows for table in by_stage.values()}) == 1
    np.testing.assert_allclose(scores[FINAL], (scores["finetune"] + scores["localize"]) / 2, atol=1e-6)
    assert np.abs(scores["finetune"] - scores["localize"]).max() > 0.001
    assert by_stage[FINAL]["mask_tp"].equals(by_stage["localize"]["mask_tp"])


def test_the_published_number_follows_from_the_scores(trial: Trial) -> None:
    """Video AUC of the final score, counted pair by pair; a tie is half."""
    for name in ("celeb_df", "dfdc"):
        means = video_scores(trial, name)
        real, fake = ([score for label, score in means.values() if label == wanted] for wanted in (0, 1))
        wins = sum((f > r) + 0.5 * (f == r) for f in fake for r in real)
        (row,) = rows_of(trial, stage=FINAL, test_dataset=name, level="video", metric="auc")
        assert row["value"] == pytest.approx(wins / (len(real) * len(fake)))


def video_scores(trial: Trial, dataset: str) -> dict[str, tuple[int, float]]:
    """video_id -> label, mean of its final scores."""
    scores: dict[str, tuple[int, list[float]]] = {}
    for row in pq.read_table(trial.folder / "predictions.parquet").to_pylist():
        if (row["stage"], row["dataset"]) == (FINAL, dataset):
            scores.setdefault(row["video_id"], (row["label"], []))[1].append(row["score"])
    return {video_id: (label, float(np.mean(values))) for video_id, (label, values) in scores.items()}


def test_the_phases_come_in_order(trial: Trial, phases: list[tuple[str, int, int]]) -> None:
    assert list(dict.fromkeys(phase for phase, _, _ in phases)) == [
        "recover",
        "derive from recover",
        "finetune",
        "localize",
        "score",
    ]
    assert phases[-1][1] == phases[-1][2] == sum(len(part.videos) for part in (*trial.test, trial.select))


# ----------------------------------------------------------------------------------------- again
def test_a_second_run_does_nothing(trial: Trial, storage: Path, tiny: Any) -> None:
    before = mtimes(storage)
    again = planned(tiny, storage)
    assert (again.digest, again.done) == (trial.digest, True)
    run.run_trial(replace(again, faces={}), HERE, lambda *word: pytest.fail(f"worked on {word}"))
    assert mtimes(storage) == before


def test_a_trial_that_lost_its_marker_is_finished_from_its_stages(trial: Trial, storage: Path) -> None:
    before, values = mtimes(storage / "stages"), trial.results()
    (trial.folder / "_done.json").unlink()
    (trial.folder / "results.parquet").unlink()
    ran(replace(trial, faces={name: Path("/nowhere") for name in trial.faces}))
    assert trial.done
    assert comparable(trial.results()) == comparable(values)
    assert {path: at for path, at in mtimes(storage / "stages").items() if path.name != ".lock"} == {
        path: at for path, at in before.items() if path.name != ".lock"
    }


def test_its_results_follow_from_its_folder_alone(trial: Trial) -> None:
    saved = Run.read(trial.folder)
    assert comparable(saved.made_again(saved.tables())) == comparable(saved.results)


@pytest.mark.nightly
def test_a_shared_stage_derives_for_the_videos_of_each_trial(trial: Trial, storage: Path, tiny: Any) -> None:
    """`recover` sees real videos only, so trials on other fakes share it; `localize` reads what it made of each."""
    two = {"manipulations": ("Deepfakes", "FaceSwap"), "test_on": ("celeb_df",)}
    other = planned(tiny, storage, **two, **{"model.stages": ("recover", "localize")})
    both = {stage.name: stage for stage in trial.planned}, {stage.name: stage for stage in other.planned}
    assert both[0]["recover"].folder == both[1]["recover"].folder
    assert both[0]["localize"].folder != both[1]["localize"].folder
    weights = both[0]["recover"].folder / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    ran(other)
    assert weights.stat().st_mtime_ns == before
    covered = [
        set(pq.read_table(path, columns=["video_id"])["video_id"].to_pylist())
        for path in (weights.parent / "derived").iterdir()
    ]
    wanted = [
        {video.video_id for part in (each.train, each.select) for video in part.videos} for each in (trial, other)
    ]
    assert sorted(covered, key=len) == sorted(wanted, key=len)
    assert wanted[1] < wanted[0]


# --------------------------------------------------------------------------------- failed videos
def test_a_failed_video_is_counted_and_left_out(trial: Trial, storage: Path, tiny: Any) -> None:
    failed = videos_of(tiny, "celeb_df", "test", tables.FAKE)[0]
    less = ran(planned(tiny, storage, failing(tiny, "celeb_df", failed)))
    assert less.digest != trial.digest
    assert [stage.digest for stage in less.planned] == [stage.digest for stage in trial.planned]
    for row in rows_of(less, test_dataset="celeb_df"):
        assert (row["n_real"], row["n_fake"], row["n_missing"]) == (3, 1, 1)
    for row in rows_of(less, test_dataset="dfdc"):
        assert row["n_missing"] == 0
    assert failed not in video_scores(less, "celeb_df")
    assert video_scores(less, "celeb_df").keys() | {failed} == video_scores(trial, "celeb_df").keys()


def test_a_failed_video_can_count_as_a_half(storage: Path, tiny: Any, trial: Trial) -> None:
    failed = videos_of(tiny, "celeb_df", "test", tables.FAKE)[0]
    ledgers = failing(tiny, "celeb_df", failed, "unreadable")
    left_out, half = (ran(planned(tiny, storage, ledgers, failed_videos=rule)) for rule in ("exclude", "half"))
    assert left_out.digest != half.digest
    scores = video_scores(half, "celeb_df")
    assert failed not in scores  # no prediction is made up; only the number counts it
    labels, values = zip(*scores.values(), (tables.FAKE, 0.5), strict=True)
    for metric, expected in (("auc", detection.auc(labels, values)), ("ap", average_precision_score(labels, values))):
        (row,) = rows_of(half, stage=FINAL, test_dataset="celeb_df", level="video", metric=metric)
        assert row["value"] == pytest.approx(expected)
        assert (row["n_missing"], row["failed_rule"]) == (1, "half")
    by_frame = [rows_of(each, stage=FINAL, level="frame") for each in (left_out, half)]
    assert [row["value"] for row in by_frame[0]] == [row["value"] for row in by_frame[1]]


@pytest.mark.nightly
def test_a_test_part_with_one_class_left_is_not_a_number(storage: Path, tiny: Any, trial: Trial) -> None:
    ledgers = tiny.ledgers
    for video_id in videos_of(tiny, "dfdc", "test", tables.REAL):
        ledgers = dict(ledgers) | failing(replace(tiny, ledgers=ledgers), "dfdc", video_id)
    one_class = ran(planned(tiny, storage, ledgers))
    (row,) = rows_of(one_class, stage=FINAL, test_dataset="dfdc", level="video", metric="auc")
    assert row["value"] is None
    assert (row["n_real"], row["n_fake"], row["n_missing"]) == (0, 2, 2)
    (row,) = rows_of(one_class, stage=FINAL, test_dataset="celeb_df", level="video", metric="auc")
    assert np.isfinite(row["value"])


def test_a_failed_training_video_makes_another_stage(tiny: Any, storage: Path) -> None:
    fake = videos_of(tiny, "ffpp", "train", tables.FAKE)[0]
    whole, less = planned(tiny, storage), planned(tiny, storage, failing(tiny, "ffpp", fake))
    assert fake in less.train.failed
    assert fake not in {video.video_id for video in less.train.videos}
    same = [a.digest == b.digest for a, b in zip(whole.planned, less.planned, strict=True)]
    assert [stage.name for stage in whole.planned] == ["recover", "finetune", "localize"]
    assert same == [True, False, False]  # recover sees real videos only


# -------------------------------------------------------------------------------- other protocols
@pytest.mark.nightly
def test_in_dataset_scores_the_test_part_of_the_training_dataset(storage: Path, tiny: Any, trial: Trial) -> None:
    same = ran(planned(tiny, storage, protocol="in_dataset"))
    assert [stage.digest for stage in same.planned] == [stage.digest for stage in trial.planned]
    row, *by_manipulation = rows_of(same, stage=FINAL, level="video", metric="auc")
    assert row["test_dataset"] == "ffpp"
    assert (row["n_real"], row["n_fake"]) == (2, 8)
    names = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
    assert [of["test_dataset"] for of in by_manipulation] == [f"ffpp/{name}" for name in names]
    assert {(of["n_real"], of["n_fake"]) for of in by_manipulation} == {(2, 2)}
    (macro,) = rows_of(same, stage=FINAL, level="video", metric="macro_auc")
    assert macro["value"] == pytest.approx(np.mean([of["value"] for of in by_manipulation]))
    assert macro["value"] == pytest.approx(row["value"])  # as many fakes of each


# ----------------------------------------------------------------------------------- perturbations
@pytest.fixture(scope="module")
def perturbed(tiny: Any, storage: Path, trial: Trial) -> Trial:
    before = mtimes(storage / "stages")
    done = ran(planned(tiny, storage, perturbations=("blur", "jpeg-50")))
    assert {path: at for path, at in mtimes(storage / "stages").items() if path in before} | {
        path: at for path, at in before.items() if path.name == ".lock"
    } == before, "a stage or a score was made again"
    return done


SIX = ("blur-1", "blur-2", "blur-3", "blur-4", "blur-5", "jpeg-50")


@pytest.mark.nightly
def test_perturbations_make_another_trial_of_the_same_stages(perturbed: Trial, trial: Trial, tiny: Any) -> None:
    assert perturbed.digest != trial.digest
    assert [stage.digest for stage in perturbed.planned] == [stage.digest for stage in trial.planned]
    storage = trial.folder.parents[1]
    assert planned(tiny, storage, perturbations=()).digest == trial.digest
    assert planned(tiny, storage, perturbations=("jpeg-50", *SIX)).digest == perturbed.digest
    assert planned(tiny, storage, perturbations=("jpeg-50",)).digest != perturbed.digest


def test_clean_numbers_are_those_of_the_trial_without(perturbed: Trial, trial: Trial) -> None:
    skip = ("run_id", "commit")
    clean, alone = (
        [{name: value for name, value in row.items() if name not in skip} for row in rows_of(each, perturbation="")]
        for each in (perturbed, trial)
    )
    assert clean == alone


def test_every_face_has_a_score_for_every_perturbation(perturbed: Trial, trial: Trial) -> None:
    table = pq.read_table(perturbed.folder / "predictions.parquet")
    assert table.schema.equals(tables.PREDICTIONS)
    clean = pq.read_table(trial.folder / "predictions.parquet")
    assert table.filter(pc.equal(table["perturbation"], "")).equals(clean)
    for name in SIX:
        own = table.filter(pc.equal(table["perturbation"], name))
        assert own.select(["stage", *KEY]).equals(clean.select(["stage", *KEY]))
        assert not np.allclose(own["score"], clean["score"], atol=1e-5)


def test_the_rows_of_a_block_are_those_it_names(perturbed: Trial) -> None:
    table = pq.read_table(perturbed.folder / "predictions.parquet")
    blocks, first = read_json(perturbed.folder / "_done.json")["predictions"], 0
    for block in blocks:
        own = table.slice(first, block["rows"])
        for name, value in (("stage", block["stage"]), ("perturbation", block["perturbation"])):
            assert own[name].unique().to_pylist() == [value]
        assert own["dataset"].unique().to_pylist() == [block["part"]]
        first += block["rows"]
    assert first == table.num_rows
    assert len(blocks) == 2 * 7 * 3  # parts, perturbations and clean, stages and final


def test_levels_and_datasets_have_their_means(perturbed: Trial) -> None:
    common = {"stage": FINAL, "level": "video", "metric": "auc"}

    def value(dataset: str, perturbation: str) -> float:
        (row,) = rows_of(perturbed, test_dataset=dataset, perturbation=perturbation, **common)
        assert row["low"] <= row["value"] <= row["high"]
        return row["value"]

    for name in ("celeb_df", "dfdc"):
        assert value(name, "blur") == pytest.approx(np.mean([value(name, level) for level in SIX[:5]]))
    for perturbation in ("", "blur", "jpeg-50"):
        both = [value(name, perturbation) for name in ("celeb_df", "dfdc")]
        assert value("unseen", perturbation) == pytest.approx(np.mean(both))
    assert not rows_of(perturbed, perturbation="jpeg")
    assert perturbed.results().schema.equals(tables.RESULTS)


# ------------------------------------------------------------------- datasets that are only tested on
@pytest.fixture(scope="module")
def others(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tiny`, with the test parts of FFIW-10K (several faces in a frame) and DFD in place of its test datasets."""
    names = ("ffiw", "dfd")
    folder = tmp_path_factory.mktemp("others")
    roots = corpus.make(folder, size="tiny", names=names)
    videos, faces = {"ffpp": tiny.videos["ffpp"]}, {"ffpp": tiny.faces["ffpp"]}
    for name in names:
        videos[name] = datasets.load(name, roots)
        faces[name] = folder / "faces" / name
        part = videos[name].filter(pc.equal(videos[name]["split"], "test"))
        extract(part, roots, faces[name], Recipe(num_frames=4, size_px=64), actors=2)
    ledgers = {"ffpp": tiny.ledgers["ffpp"]} | {name: store.ledger(faces[name]) for name in names}
    experiment = tiny.experiment.override({"test_on": names})
    return replace(tiny, experiment=experiment, roots=roots, videos=videos, faces=faces, ledgers=ledgers)


@pytest.mark.nightly
def test_a_frame_of_several_people_scores_as_its_highest_face(others: Any, storage: Path, trial: Trial) -> None:
    """End to end on parts without training videos: the published numbers, counted from PREDICTIONS pair by pair."""
    scored = ran(planned(others, storage))
    assert [stage.digest for stage in scored.planned] == [stage.digest for stage in trial.planned]
    predictions = pq.read_table(scored.folder / "predictions.parquet").to_pylist()
    faces = [row for row in predictions if (row["stage"], row["dataset"]) == (FINAL, "ffiw")]
    frames: dict[tuple[str, int], list[float]] = {}
    for row in faces:
        frames.setdefault((row["video_id"], row["frame_index"]), []).append(row["score"])
    assert max(map(len, frames.values())) > 1
    label = {row["video_id"]: row["label"] for row in faces}
    highest = [(video_id, max(scores)) for (video_id, _), scores in frames.items()]
    means = {name: np.mean([score for other, score in highest if other == name]) for name in label}
    (by_video, by_frame) = (
        next(iter(rows_of(scored, stage=FINAL, test_dataset="ffiw", level=level, metric="auc")))
        for level in ("video", "frame")
    )
    assert by_video["value"] == pytest.approx(detection.auc([label[name] for name in means], list(means.values())))
    assert by_frame["value"] == pytest.approx(
        detection.auc([label[name] for name, _ in highest], [score for _, score in highest])
    )
    assert (by_video["n_real"], by_video["n_fake"]) == (2, 2)
    (dfd,) = rows_of(scored, stage=FINAL, test_dataset="dfd", level="video", metric="auc")
    assert (dfd["n_real"], dfd["n_fake"], dfd["n_missing"], dfd["n_excluded"]) == (4, 4, 0, 0)


def test_the_rule_about_faces_is_part_of_a_trial_and_of_its_report(others: Any, storage: Path, tiny: Any) -> None:
    rules = others.videos["ffiw"].to_pylist()
    largest = pa.Table.from_pylist([row | {"face_rule": "largest"} for row in rules], others.videos["ffiw"].schema)
    every, largest_only = (
        planned(replace(others, videos=dict(others.videos) | {"ffiw": table}), storage)
        for table in (others.videos["ffiw"], largest)
    )
    assert every.digest != largest_only.digest
    assert pooling_text([every]) == "mean over its faces; in ffiw, of each frame only its highest face"
    assert pooling_text([largest_only]) == pooling_text([planned(tiny, storage)]) == "mean over its faces"


# ------------------------------------------------------------------------------------------ check
def test_more_workers_than_a_step_has_samples_for_are_refused(tiny: Any, storage: Path) -> None:
    trial = planned(tiny, storage)
    planner.check(trial, Compute(num_workers=2))
    with pytest.raises(ValueError, match=r"step of 2 samples \(view real_clips.*by 3 workers.*multiple of 3"):
        planner.check(trial, Compute(num_workers=3))


@pytest.mark.parametrize(("label", "left"), [(tables.REAL, "0 real and 8 fake"), (tables.FAKE, "2 real and 0 fake")])
def test_training_without_a_class_is_refused(tiny: Any, storage: Path, label: int, left: str) -> None:
    ledgers = tiny.ledgers
    for video_id in videos_of(tiny, "ffpp", "val", label):
        ledgers = dict(ledgers) | failing(replace(tiny, ledgers=ledgers), "ffpp", video_id)
    with pytest.raises(ValueError, match=f"ffpp/val: extraction left {left} videos with a face"):
        planner.check(planned(tiny, storage, ledgers), HERE)


def test_a_test_part_without_any_face_is_refused(tiny: Any, storage: Path) -> None:
    ledgers = tiny.ledgers
    for label in (tables.REAL, tables.FAKE):
        for video_id in videos_of(tiny, "dfdc", "test", label):
            ledgers = dict(ledgers) | failing(replace(tiny, ledgers=ledgers), "dfdc", video_id)
    with pytest.raises(ValueError, match="dfdc"):
        planner.check(planned(tiny, storage, ledgers), HERE)
