"""Scores of real faces by networks with random weights: what is scored, how often, and from what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import models
from pipelines.common import storage, tables
from pipelines.faces import perturb, store
from pipelines.scoring import score as score_module
from pipelines.scoring.predictions import predictions_path, read_predictions
from pipelines.scoring.score import (
    _NO_MASK,
    VIDEOS_PER_TASK,
    FinishedStage,
    ScoreVideos,
    derive,
    score_parts,
)
from pipelines.training import stages
from pipelines.training.samples import Derived, Samples, face_arrays
from pipelines.training.views import Video
from pipelines.trials import planner
from pipelines.trials.trial import Trial

pytestmark = pytest.mark.ray

CLIP_FRAMES = 3  # of four: frames 1 and 2 lie in both clips of a video, frames 0 and 3 in one
KEY = ["video_id", "frame_index", "face_index"]


@pytest.fixture(scope="module")
def trial(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    experiment = tiny.experiment.override({"model.clip.tubelet_frames": 1, "model.clip.num_frames": CLIP_FRAMES})
    return planner.plan(experiment, tiny.videos, tiny.ledgers, tiny.faces, tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def finished(trial: Trial) -> Mapping[str, FinishedStage]:
    """Stages that look trained. Weights are drawn wide, so that scores and masks fall on both sides of a half."""
    return {stage.name: untrained(stage, trial.experiment.config()) for stage in trial.planned}


def untrained(planned: stages.PlannedStage, config: Any) -> FinishedStage:
    torch.manual_seed(7)
    module = models.stage(planned.paper, planned.name)(config)
    for name, value in module.named_parameters():
        if name.startswith("head") or name.endswith("bias"):
            torch.nn.init.normal_(value)
    planned.folder.mkdir(parents=True)
    safetensors.torch.save_file(module.state_dict(), planned.folder / "weights.safetensors")
    storage.write_json(planned.folder / "_done.json", {"seconds": 0})
    return FinishedStage(planned=planned, config=config)


@pytest.fixture(scope="module")
def parts(trial: Trial) -> dict[str, tuple[Video, ...]]:
    return {part.digest: part.videos for part in trial.test}


@pytest.fixture(scope="module")
def predictions(trial: Trial, finished: Mapping[str, FinishedStage], parts: Any) -> dict[str, list[pa.Table]]:
    """Of each stage the tables of the two test parts."""
    calls: list[tuple[int, int]] = []
    scoring = [finished["finetune"], finished["localize"]]
    score_parts(scoring, parts, trial.faces, num_actors=1, on_video=lambda done, total: calls.append((done, total)))
    num_videos = sum(map(len, parts.values()))
    assert calls[-1] == (num_videos, num_videos)
    return {
        stage.planned.name: [pq.read_table(predictions_path(stage.planned, part)) for part in parts]
        for stage in scoring
    }


def faces_of(trial: Trial, video: Video) -> list[dict[str, Any]]:
    rows = store.Faces(trial.faces[video.video_id.split("/", 1)[0]]).video(video.video_id).to_pylist()
    return [row for row in rows if row["status"] == "ok"]


@pytest.mark.parametrize("stage", ["finetune", "localize"])
def test_every_face_of_every_usable_video_is_scored_once(
    stage: str, trial: Trial, parts: Any, predictions: Any
) -> None:
    for videos, table in zip(parts.values(), predictions[stage], strict=True):
        keys_in = [tuple(row[name] for name in KEY) for video in videos for row in faces_of(trial, video)]
        keys_out = list(zip(*(table[name].to_pylist() for name in KEY), strict=True))
        assert len(keys_in) == len(set(keys_in)) > 0
        assert sorted(keys_out) == sorted(keys_in)
        assert table.schema.equals(tables.PREDICTIONS)


def test_labels_and_methods_are_those_of_the_videos(parts: Any, predictions: Any) -> None:
    for videos, table in zip(parts.values(), predictions["localize"], strict=True):
        of = {video.video_id: (video.label, video.method) for video in videos}
        for row in table.to_pylist():
            assert (row["label"], row["method"]) == of[row["video_id"]]
            assert row["dataset"] == row["video_id"].split("/")[0]
            assert row["stage"] == "localize"


def test_a_face_in_two_clips_has_the_mean_of_both(
    trial: Trial, finished: Mapping[str, FinishedStage], parts: Any, predictions: Any
) -> None:
    module = finished["finetune"].load(torch.device("cpu"))
    video = next(iter(parts.values()))[0]
    images = np.stack([face_arrays(row, 64)["image"] for row in faces_of(trial, video)])
    assert len(images) == CLIP_FRAMES + 1
    clips = torch.from_numpy(np.stack([images[:CLIP_FRAMES], images[1:]]))
    with torch.no_grad():
        first, last = module.score({"image": clips})["logit"].sigmoid().tolist()
    assert abs(first - last) > 1e-4
    table = predictions["finetune"][0].filter(pc.equal(predictions["finetune"][0]["video_id"], video.video_id))
    both = (first + last) / 2
    np.testing.assert_allclose(table.sort_by("frame_index")["score"], [first, both, both, last], atol=1e-6)


def test_the_pixels_of_a_mask_are_counted_once_and_on_the_right_side(
    trial: Trial, parts: Any, predictions: Any
) -> None:
    sides = set()
    for videos, table in zip(parts.values(), predictions["localize"], strict=True):
        faces = {tuple(row[name] for name in KEY): row for video in videos for row in faces_of(trial, video)}
        for row in table.to_pylist():
            png = cv2.imdecode(np.frombuffer(row["mask_png"], np.uint8), cv2.IMREAD_UNCHANGED)
            face = face_arrays(faces[tuple(row[name] for name in KEY)], 64)
            assert png.shape == face["mask"].shape == (64, 64)
            tp, fp, fn, tn = (row[f"mask_{name}"] for name in ("tp", "fp", "fn", "tn"))
            if not face["mask_valid"]:
                assert (tp, fp, fn, tn) == (None,) * 4
                continue
            assert tp + fp + fn + tn == 64 * 64
            assert tp + fn == int(face["mask"].sum())
            # 127.5 is the threshold: a pixel stored as 127 or 128 may have been on either side of it.
            assert (png > 128).sum() <= tp + fp <= (png > 126).sum()
            assert ((png > 128) & (face["mask"] > 0)).sum() <= tp <= ((png > 126) & (face["mask"] > 0)).sum()
            sides |= {name for name, count in (("tp", tp), ("fp", fp), ("fn", fn), ("tn", tn)) if count}
    assert sides == {"tp", "fp", "fn", "tn"}


def test_a_stage_without_masks_leaves_them_null(predictions: Any) -> None:
    for table in predictions["finetune"]:
        assert all(table[name].null_count == table.num_rows for name in ("mask_png", "mask_tp", "mask_tn"))


@pytest.mark.nightly
def test_a_scored_part_is_not_scored_again(
    trial: Trial, finished: Mapping[str, FinishedStage], parts: Any, predictions: Any
) -> None:
    """Faces that can't be read prove that nothing is read; a third part of known videos is scored by itself."""
    scoring = [finished["finetune"], finished["localize"]]
    paths = [predictions_path(stage.planned, part) for stage in scoring for part in parts]
    before = [path.stat().st_mtime_ns for path in paths]
    score_parts(scoring, parts, {name: Path("/nowhere") for name in trial.faces}, num_actors=1)
    more = parts | {"0" * 16: next(iter(parts.values()))[:1]}
    score_parts(scoring[:1], more, trial.faces, num_actors=1)
    assert [path.stat().st_mtime_ns for path in paths] == before
    third = pq.read_table(predictions_path(scoring[0].planned, "0" * 16))
    old = predictions["finetune"][0]
    old = old.filter(pc.equal(old["video_id"], more["0" * 16][0].video_id))
    assert third.drop(["logit", "score"]).equals(old.drop(["logit", "score"]))
    np.testing.assert_allclose(third["score"], old["score"], atol=1e-6)


# ----------------------------------------------------------------------------------- perturbations
class Brightness(models.Stage):
    """A stage whose score is a face's mean brightness, and whose mask is where it is bright."""

    name, view = "finetune", "frames"

    @classmethod
    def feed(cls, cfg: Any) -> models.Feed:
        return models.Feed(input_px=64)

    @classmethod
    def prepare(cls, cfg: Any, sample: models.Sample, rng: np.random.Generator, mode: Any) -> dict[str, np.ndarray]:
        return {"image": sample["image"]}

    def score(self, batch: Any) -> dict[str, torch.Tensor]:
        gray_BHW = batch["image"].float().mean(-1) / 255
        return {"logit": gray_BHW.mean((1, 2)).logit(), "mask": gray_BHW}


class Bright(FinishedStage):
    @property
    def stage_class(self) -> type[models.Stage]:
        return Brightness

    def load(self, on: torch.device) -> models.Stage:
        return Brightness()


@pytest.fixture
def bright(finished: Mapping[str, FinishedStage], tmp_path: Path) -> FinishedStage:
    planned = stages.PlannedStage(paper="delocate", name="finetune", folder=tmp_path / "stage", spec={})
    return Bright(planned=planned, config=finished["finetune"].config)


def test_a_clip_that_is_longer_than_its_video_is_said_to_be_padded(
    bright: FinishedStage, trial: Trial, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos of four frames, clips of six: the last frame comes three times. Of whole clips none repeats any."""
    first = next(iter(parts.values()))
    for frames, num_repeated in ((6, 2), (3, 0)):

        class Clips(Brightness):
            view = "clips"

            @classmethod
            def feed(cls, cfg: Any, frames: int = frames) -> models.Feed:
                return models.Feed(input_px=64, clip_frames=frames)

            def score(self, batch: Any) -> dict[str, torch.Tensor]:
                return {"logit": batch["image"].float().mean((1, 2, 3, 4))}

        monkeypatch.setattr(Bright, "stage_class", property(lambda self, clips=Clips: clips))
        monkeypatch.setattr(Bright, "load", lambda self, on, clips=Clips: clips())
        table = ScoreVideos([bright], trial.faces)(score_module.as_table(first))
        assert table.num_rows == (CLIP_FRAMES + 1) * len(first)
        assert set(table["num_repeated"].to_pylist()) == {num_repeated}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], list[str]]]:
    """Perturbations and videos of every pass that is made."""
    made: list[tuple[tuple[str, ...], list[str]]] = []

    class Spy(ScoreVideos):
        def __init__(self, finished: Any, faces: Any, perturbations: Any = ("",)) -> None:
            super().__init__(finished, faces, perturbations)
            made.append((tuple(perturbations), []))

        def __call__(self, batch: pa.Table) -> pa.Table:
            made[-1][1].extend(batch["video_id"].to_pylist())
            return super().__call__(batch)

    monkeypatch.setattr(score_module, "ScoreVideos", Spy)
    return made


def test_a_perturbation_reaches_the_model_and_is_named(bright: FinishedStage, trial: Trial, parts: Any) -> None:
    score_parts([bright], parts, trial.faces, num_actors=0, perturbations=("contrast-5", "noise-1"))
    for part, videos in parts.items():
        clean, dark, noisy = (read_predictions(bright.planned, part, name) for name in ("", "contrast-5", "noise-1"))
        assert {name: set(t["perturbation"].to_pylist()) for name, t in (("", clean), ("contrast-5", dark))} == {
            "": {""},
            "contrast-5": {"contrast-5"},
        }
        keys = [tuple(row[name] for name in KEY) for row in clean.to_pylist()]
        assert sorted(keys) == sorted(
            tuple(row[name] for name in KEY) for video in videos for row in faces_of(trial, video)
        )
        unchanged = [name for name in clean.column_names if name not in ("perturbation", "logit", "score", *_NO_MASK)]
        assert dark.select(unchanged).equals(clean.select(unchanged))
        # 0.35 of each value, rounded down: half a level less on average
        np.testing.assert_allclose(dark["score"], 0.35 * clean["score"].to_numpy() - 0.5 / 255, atol=1e-3)
        assert not np.allclose(noisy["score"], clean["score"], atol=1e-4)


def test_of_perturbed_faces_masks_are_counted_but_not_kept(bright: FinishedStage, trial: Trial, parts: Any) -> None:
    score_parts([bright], parts, trial.faces, num_actors=0, perturbations=("contrast-5",))
    for part in parts:
        clean, dark = (read_predictions(bright.planned, part, name) for name in ("", "contrast-5"))
        assert clean["mask_png"].null_count == 0
        assert dark["mask_png"].null_count == dark.num_rows
        assert dark["mask_tp"].null_count == clean["mask_tp"].null_count < clean.num_rows
        both = [(pa.compute.sum(t["mask_tp"]).as_py(), pa.compute.sum(t["mask_fp"]).as_py()) for t in (clean, dark)]
        assert sum(both[0]) > 0 == sum(both[1])  # of what is at most 255 * 0.35, nothing is above a half


def test_what_is_scored_is_not_scored_again(bright: FinishedStage, trial: Trial, parts: Any, passes: Any) -> None:
    first, second = parts
    ids = {part: sorted(video.video_id for video in videos) for part, videos in parts.items()}

    def score(*perturbations: str, of: tuple[str, ...] = (first, second)) -> list[Any]:
        passes.clear()
        chosen = {part: parts[part] for part in of}
        score_parts([bright], chosen, trial.faces, num_actors=0, perturbations=perturbations)
        return [(names, sorted(videos)) for names, videos in passes]

    assert score(of=(first,)) == [(("",), ids[first])]
    assert score("blur-1", of=(first,)) == [(("blur-1",), ids[first])]
    assert score("blur-1", of=(first,)) == []
    # Of the first part blur-2 is missing, of the second everything.
    both = sorted(ids[first] + ids[second])
    assert score("blur-1", "blur-2") == [(("", "blur-1"), ids[second]), (("blur-2",), both)]
    assert score("blur-2", "blur-1") == []


def test_many_perturbations_are_kept_pass_by_pass(
    bright: FinishedStage, trial: Trial, parts: Any, passes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stops a later pass costs no earlier one; progress counts the videos of each."""
    monkeypatch.setattr(score_module, "MOST_PERTURBATIONS", 2)
    names = ("contrast-1", "contrast-2", "contrast-3", "contrast-4")
    few = {part: videos[:1] for part, videos in parts.items()}
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_parts([bright], few, trial.faces, num_actors=0, perturbations=names, on_video=stop)
    assert calls == [(1, 6), (2, 6), (3, 6)]
    passes.clear()
    score_parts([bright], few, trial.faces, num_actors=0, perturbations=names)
    assert [done for done, _ in passes] == [names[1:3], names[3:]]


def test_a_new_version_of_perturbations_is_scored_anew(
    bright: FinishedStage, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(iter(parts))
    clean, blurred = (predictions_path(bright.planned, part, name) for name in ("", "blur-1"))
    monkeypatch.setattr(perturb, "VERSION", perturb.VERSION + 1)
    assert predictions_path(bright.planned, part) == clean
    assert predictions_path(bright.planned, part, "blur-1") != blurred


# ------------------------------------------------------------------------------------- what is wrong
def test_weights_that_cannot_be_read_are_named(trial: Trial, tmp_path: Path) -> None:
    planned = stages.PlannedStage(paper="delocate", name="finetune", folder=tmp_path / "stage", spec={})
    broken = untrained(planned, trial.experiment.config())
    path = planned.folder / "weights.safetensors"
    path.write_bytes(b"this is no safetensors file")
    with pytest.raises(storage.StorageError, match=f"{path} can't be loaded.*delete {planned.folder}"):
        broken.load(torch.device("cpu"))


def test_weights_that_an_actor_cannot_read_are_named(trial: Trial, parts: Any, tmp_path: Path) -> None:
    planned = stages.PlannedStage(paper="delocate", name="finetune", folder=tmp_path / "stage", spec={})
    broken = untrained(planned, trial.experiment.config())
    (planned.folder / "weights.safetensors").write_bytes(b"this is no safetensors file")
    with pytest.raises(storage.StorageError, match=r"weights.safetensors can't be loaded"):
        score_parts([broken], parts, trial.faces, num_actors=1)


def test_an_unfinished_stage_is_not_loaded(trial: Trial, tmp_path: Path) -> None:
    planned = stages.PlannedStage(paper="delocate", name="finetune", folder=tmp_path / "stage", spec={})
    unfinished = untrained(planned, trial.experiment.config())
    (planned.folder / "_done.json").unlink()
    with pytest.raises(storage.StorageError, match="is not finished"):
        unfinished.load(torch.device("cpu"))


# ----------------------------------------------------------------------------------------- derive
def test_every_frame_is_derived_once_and_a_video_is_a_row_group(
    trial: Trial, finished: Mapping[str, FinishedStage], tmp_path: Path
) -> None:
    videos = (*trial.train.videos, *trial.select.videos)
    path = tmp_path / "new" / "derived.parquet"
    derive(finished["recover"], videos, trial.faces, path, num_actors=0)
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(g) for g in range(file.num_row_groups)]
    assert [set(group["video_id"].to_pylist()) for group in groups] == [
        {video_id} for video_id in sorted(video.video_id for video in videos)
    ]
    derived = Derived(path)
    for video in videos:
        indices = [row["frame_index"] for row in faces_of(trial, video)]
        recovered = derived.frames(video.video_id, indices, 0)["recovered"]
        assert (recovered.shape, recovered.dtype) == ((len(indices), 16, 16, 3), np.uint8)  # 64 / MAP_STRIDE
        assert derived.video(video.video_id).keys() == {(index, 0) for index in indices}
    assert sorted(path.parent.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    derive(finished["recover"], videos, trial.faces, path, num_actors=0)
    assert path.stat().st_mtime_ns == before


@pytest.mark.nightly
def test_actors_derive_what_one_process_derives(
    trial: Trial, finished: Mapping[str, FinishedStage], tmp_path: Path
) -> None:
    """Nine videos make two tasks."""
    videos = trial.train.videos[: VIDEOS_PER_TASK + 1]
    assert len(videos) == VIDEOS_PER_TASK + 1
    for name, num_actors in (("alone", 0), ("actors", 2)):
        derive(finished["recover"], videos, trial.faces, tmp_path / name, num_actors=num_actors)
    alone, actors = (pq.read_table(tmp_path / name) for name in ("alone", "actors"))
    assert alone.drop(["data"]).equals(actors.drop(["data"]))
    a, b = (np.frombuffer(b"".join(table["data"].to_pylist()), np.uint8).astype(int) for table in (alone, actors))
    assert np.abs(a - b).max() <= 1  # another number of videos in a batch rounds differently


def test_derived_frames_follow_the_face(trial: Trial, finished: Mapping[str, FinishedStage], tmp_path: Path) -> None:
    """What is not hidden comes back as it was: outside the masked parts `recovered` is the face, made smaller."""
    video = trial.train.videos[0]
    derive(finished["recover"], [video], trial.faces, tmp_path / "derived", num_actors=0)
    samples = Samples(models.stage("delocate", "recover"), trial.experiment.config(), trial.faces)
    rows, arrays = next(iter(samples.scoring_samples(video, seed=0)))
    hidden = arrays["part_masks"].any(0).reshape(CLIP_FRAMES, 8, 8)  # patches of 8 pixels
    recovered = Derived(tmp_path / "derived").frames(video.video_id, [row["frame_index"] for row in rows], 0)
    small = arrays["image"].reshape(CLIP_FRAMES, 16, 4, 16, 4, 3).mean((2, 4))
    seen = ~np.repeat(np.repeat(hidden, 2, 1), 2, 2)
    assert 0.5 < seen.mean() < 1
    assert np.abs(recovered["recovered"][seen] - small[seen]).max() <= 0.51
    assert np.abs(recovered["recovered"][~seen] - small[~seen]).max() > 10
