"""Training of one stage: it learns, a resumed one ends with the same weights, bad numbers stop it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import models
from pipelines.common.lease import NOT_LEASED, Claim, LeaseLost
from pipelines.common.numerics import Numerics
from pipelines.common.storage import folders, write_bytes
from pipelines.experiments.experiment import Experiment
from pipelines.training import learner, loop, stages, views
from pipelines.training import samples as samples_module
from pipelines.training.job import Job
from pipelines.training.train import train_stage
from pipelines.training.views import Video
from pipelines.training.workers import Alone

PX = 32
EXPERIMENT = Experiment(model="delocate", train_on="ffpp", test_on=(), preset="small").override(
    {
        "model.clip.input_px": PX,
        "model.clip.num_frames": 4,
        "model.vit.width": 32,
        "model.vit.depth": 1,
        "model.vit.num_heads": 2,
        "model.recover.num_epochs": 4,
        "model.recover.batch_size": 2,  # two steps in an epoch
        "model.recover.warmup_epochs": 1,
        "model.finetune.num_epochs": 6,
        "model.finetune.warmup_epochs": 1,
        "model.finetune.base_lr": 0.1,
        "model.localize.num_epochs": 1,
        "model.localize.steps_per_epoch": 2,
    }
)
METHODS = ("Deepfakes", "FaceSwap")


def videos(part: str, num_ids: int) -> tuple[Video, ...]:
    rows = [Video(f"ffpp/real/c23/{part}{i}", 0, "real", f"ffpp/{part}{i}") for i in range(num_ids)]
    rows += [Video(f"ffpp/{m}/c23/{part}{i}", 1, m, f"ffpp/{part}{i}") for m in METHODS for i in range(num_ids)]
    return tuple(rows)


TRAIN, SELECT = videos("t", 4), videos("v", 2)


class Store:
    """FACES of made-up videos: noise around a grey that is brighter in fakes, so that a small net can tell them."""

    def __init__(self, folder: Path) -> None:
        self.by_id = {video.video_id: video for video in (*TRAIN, *SELECT)}

    def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> "Store.Rows":
        import cv2

        video = self.by_id[video_id]
        rng = np.random.default_rng(len(video_id) + sum(map(ord, video_id)))
        angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        landmarks = np.stack([PX / 2 + 10 * np.cos(angle), PX / 2 + 10 * np.sin(angle)], 1).astype(np.float32)
        found = []
        for frame in range(6):
            image = np.clip(rng.normal(90 + 60 * video.label, 20, (PX, PX, 3)), 0, 255).astype(np.uint8)
            mask = np.full((PX, PX), 255, np.uint8)
            found.append(
                {
                    "status": "ok",
                    "label": video.label,
                    "frame_index": 2 * frame,
                    "face_index": 0,
                    "image_png": cv2.imencode(".png", image)[1].tobytes(),
                    "mask_png": cv2.imencode(".png", mask)[1].tobytes() if video.label else None,
                    "landmarks_px": landmarks.ravel().tolist(),
                    "video_id": video_id,
                    "box_px": {"x0": 4.0, "y0": 4.0, "x1": 28.0, "y1": 28.0},
                    "crop_px": {"x0": 0.0, "y0": 0.0, "x1": 32.0, "y1": 32.0},
                }
            )
        return Store.Rows(found if rows is None else found[rows.start : rows.stop])

    class Rows(list[dict[str, Any]]):
        def to_pylist(self) -> list[dict[str, Any]]:
            return list(self)

        def __getitem__(self, name: Any) -> Any:
            return Store.Rows([row[name] for row in self])


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(samples_module, "Faces", Store)
    yield
    torch.set_num_threads(before)


def jobs(storage: Path, experiment: Experiment = EXPERIMENT, **options: Any) -> dict[str, Job]:
    planned = stages.plan(experiment, dict.fromkeys(views.VIEWS, "rows"), storage)
    return {
        one.name: Job(
            planned=one,
            config=experiment.config(),
            train=TRAIN,
            select=SELECT,
            faces={"ffpp": storage},
            earlier={other.name: other for other in planned},
            **options,
        )
        for one in planned
    }


def weights(job: Job) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(job.planned.folder / "weights.safetensors")


class Interrupted(Exception):
    pass


class Killed(Alone):
    """Stops like a killed process before step `at`: nothing is cleaned up."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batches(self, job: Any, samples: Any, view: Any, steps: range) -> Iterator[Any]:
        for step, batch in zip(steps, super().batches(job, samples, view, steps), strict=True):
            if step == self.at:
                raise Interrupted
            yield batch


def test_finetune_learns_and_its_rate_moves(tmp_path: Path) -> None:
    job = jobs(tmp_path)
    train_stage(job["recover"])
    train_stage(job["finetune"])
    curve = job["finetune"].planned.curve()
    assert [line["epoch"] for line in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1]["train/loss"] < 0.5 < curve[0]["train/loss"]  # ln 2 = 0.69 is a coin
    assert max(line["val/auc"] for line in curve) == 1.0
    assert len({line["lr"] for line in curve}) == 6


def test_finetune_starts_from_the_recovery_encoder(tmp_path: Path) -> None:
    job = jobs(tmp_path, EXPERIMENT.override({"model.finetune.base_lr": 1e-12, "model.finetune.weight_decay": 0.0}))
    train_stage(job["recover"])
    train_stage(job["finetune"])
    start, end = weights(job["recover"]), weights(job["finetune"])
    same = [name for name in end if name in start]
    assert same
    for name in same:
        torch.testing.assert_close(end[name], start[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path, at: int) -> None:
    whole, broken = jobs(tmp_path / "whole")["recover"], jobs(tmp_path / "broken", checkpoint_steps=2)["recover"]
    train_stage(whole)
    with pytest.raises(Interrupted):
        loop.loop(broken, Killed(at))
    assert not broken.planned.done
    train_stage(broken)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(broken)[name]), name
    without_time = [[line | {"seconds": 0} for line in job.planned.curve()] for job in (whole, broken)]
    assert without_time[0] == without_time[1]


def test_a_resumed_training_does_not_start_over(tmp_path: Path) -> None:
    job = jobs(tmp_path, checkpoint_steps=1)["recover"]
    with pytest.raises(Interrupted):
        loop.loop(job, Killed(3))
    seen: list[range] = []

    class Watching(Alone):
        def batches(self, job: Any, samples: Any, view: Any, steps: range) -> Iterator[Any]:
            seen.append(steps)
            return super().batches(job, samples, view, steps)

    loop.loop(job, Watching())
    assert seen == [range(3, 8)]


@pytest.mark.parametrize(("seconds", "asked_at"), [(0.0, [1, 2, 3, 4, 5, 6, 7]), (1e9, [1, 2, 4, 6])])
def test_slow_steps_are_asked_one_by_one_whether_a_checkpoint_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, asked_at: list[int]
) -> None:
    """Of 8 steps in four epochs the first tells how long one takes; minutes of work must not wait for the twentieth."""
    asked: list[int] = []
    job = jobs(tmp_path)["recover"]
    monkeypatch.setattr(loop, "CHECK_SECONDS", seconds)
    of_step = loop.Watch.begin

    def began(self: Any, step: int, picks: Any) -> None:
        asked.append(step + 1)
        of_step(self, step, picks)

    monkeypatch.setattr(loop.Watch, "begin", began)
    monkeypatch.setattr(learner.Saver, "due", lambda self, epoch_ends: due.append(asked[-1]) or False)
    due: list[int] = []
    loop.loop(job, Alone())
    assert due == asked_at


def test_what_a_training_left_before_its_first_checkpoint_is_not_taken_for_this_ones_best(tmp_path: Path) -> None:
    job = jobs(tmp_path, checkpoint_steps=5)["recover"]
    write_bytes(job.planned.folder / "best-00000001" / "weights.safetensors", b"of another attempt")
    with pytest.raises(Interrupted):
        loop.loop(job, Killed(6))
    train_stage(job)
    assert weights(job)


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    job = jobs(tmp_path)["recover"]
    train_stage(job)
    before = (job.planned.folder / "weights.safetensors").stat().st_mtime_ns
    train_stage(job)
    assert (job.planned.folder / "weights.safetensors").stat().st_mtime_ns == before
    assert not folders(job.planned.folder, "checkpoint")


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one = jobs(tmp_path)["recover"]
    other = jobs(tmp_path, EXPERIMENT.override({"seed": 1}))["recover"]
    train_stage(one)
    train_stage(other)
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs(tmp_path)["recover"]
    stage = models.stage("delocate", "recover")

    def broken(self: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": sum(p.sum() for p in self.parameters()) * float("nan")}

    monkeypatch.setattr(stage, "forward", broken)
    with pytest.raises(loop.NonFiniteLoss, match=r"not finite at step 0.*ffpp/real/c23/t"):
        train_stage(job)
    assert not job.planned.done


class OneOfTwo(Alone):
    """The first of two workers, of which the other does the same."""

    size = 2

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("ill", "text"),
    [
        ("loss", r"not finite at step 0; the samples were .*ffpp/real/c23/t"),
        ("weights", r"the weights are not finite any more at step 1$"),
        ("nothing", "no sample"),
    ],
)
def test_an_error_that_follows_a_loss_that_is_not_finite_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ill: str, text: str, size: int
) -> None:
    """Without a word to the other workers, which may wait for this one."""
    job = jobs(tmp_path)["recover"]
    steps = iter(range(2))

    def broken(self: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        step = next(steps)
        if step == 1:
            monkeypatch.setattr(OneOfTwo, "gather", None)
            raise ValueError("no sample")
        if ill == "weights":  # as a step with another worker's gradients leaves them
            next(self.parameters()).data[0] = float("nan")
        factor = float("nan") if ill == "loss" else 1.0
        return {"loss": sum(p.nan_to_num().sum() for p in self.parameters()) * factor}

    monkeypatch.setattr(models.stage("delocate", "recover"), "forward", broken)
    with pytest.raises(ValueError, match=text) as raised:
        loop.loop(job, Alone() if size == 1 else OneOfTwo())
    assert (type(raised.value) is loop.NonFiniteLoss) == (ill != "nothing")


def test_the_epoch_with_the_lowest_validation_loss_is_kept(tmp_path: Path) -> None:
    job = jobs(tmp_path)["recover"]
    train_stage(job)
    losses = [line["val/loss"] for line in job.planned.curve()]
    assert job.planned.summary()["best_epoch"] == 1 + int(np.argmin(losses))


class Told(Exception):
    """What a worker told the others."""


class Part(Alone):
    """A worker among several, who all told this; while that is not known, what it tells itself is raised."""

    def __init__(self, rank: int, size: int, told: list[Any] | None = None) -> None:
        super().__init__()
        self.rank, self.size, self.told = rank, size, told

    def gather(self, value: Any) -> list[Any]:
        if self.told is None:
            raise Told(value)
        return self.told


def validated(job: Job, module: models.Stage, samples: Any, num_workers: int = 1) -> dict[str, float]:
    """What validation gives on so many workers."""
    told = []
    for rank in range(num_workers):
        with pytest.raises(Told) as caught:
            loop.validate(job, module, samples, Part(rank, num_workers))
        told.append(caught.value.args[0])
    return loop.validate(job, module, samples, Part(0, num_workers, told))


@pytest.mark.parametrize("stage", ["recover", "finetune"])
def test_validation_is_the_same_on_any_number_of_workers_and_in_any_batches(stage: str, tmp_path: Path) -> None:
    """Two real videos, for `finetune` four fakes too, of six frames: two clips of four each. `recover` hides 6, 6, 6
    and 4 patches in them, so that a mean of the means of batches would depend on these."""
    job = jobs(tmp_path, EXPERIMENT.override({"model.clip.patch_px": 4}))[stage]
    torch.manual_seed(0)
    module, samples = job.stage(job.config), job.samples()
    alone = validated(job, module, samples)
    for num_workers, batch_size in ((1, 1), (1, 3), (2, 2), (3, 1), (3, 4)):
        cut = replace(job, config=models.override(job.config, {f"{stage}.batch_size": batch_size}))
        assert validated(cut, module, samples, num_workers) == pytest.approx(alone, rel=1e-6)


# --------------------------------------------------------------------------------- validation by hand
Made = dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]  # video_id -> a face of each sample, and its arrays


def face(frame_index: int, face_index: int = 0, side_px: float = 10.0) -> dict[str, Any]:
    """What validation looks at in a row of FACES."""
    box = {"x0": 0.0, "y0": 0.0, "x1": side_px, "y1": side_px}
    return {"frame_index": frame_index, "face_index": face_index, "box_px": box}


class Given(models.Stage):
    """A stage whose losses and logits are given in its samples. Videos with an `f` are fake."""

    name, view, batch_size = "given", "frames", 4

    @classmethod
    def feed(cls, cfg: Any) -> models.Feed:
        return models.Feed(input_px=1, batch_size=cls.batch_size)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": batch["loss"], "logit": batch["logit"]}


def validated_by_hand(
    stage: type[Given], made: Made, num_workers: int = 1, every_face: frozenset[str] = frozenset()
) -> dict[str, float]:
    def scoring_samples(video: Video, **options: Any) -> Iterator[tuple[list[Any], dict[str, np.ndarray]]]:
        for row, arrays in made[video.video_id]:
            yield [row], {name: np.float32(value) for name, value in ({"loss": 0, "logit": 0} | arrays).items()}

    select = tuple(Video(name, int("f" in name), "swap" if "f" in name else "real", "0") for name in made)
    planned = SimpleNamespace(numerics=Numerics())
    job: Any = SimpleNamespace(select=select, every_face=every_face, stage=stage, config=None, planned=planned)
    return validated(job, stage(), SimpleNamespace(scoring_samples=scoring_samples), num_workers)


@pytest.mark.parametrize(("balances", "expected"), [(False, (0.1 + 0.3 + 4 * 1.0) / 6), (True, (0.2 + 1.0) / 2)])
def test_the_loss_on_val_may_be_balanced_over_the_classes(balances: bool, expected: float) -> None:
    """A real video of two frames, losses 0.1 and 0.3; two fakes of two frames, all 1.0; batches of both."""
    made = {name: [(face(i), {"loss": loss}) for i, loss in enumerate(losses)] for name, losses in LOSSES.items()}

    class Stage(Given):
        balances_val_loss = balances

    assert validated_by_hand(Stage, made)["loss"] == pytest.approx(expected)


LOSSES = {"r": [0.1, 0.3], "f": [1.0, 1.0], "f2": [1.0, 1.0]}


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_on_val_is_a_mean_over_what_samples_hold_unequal_numbers_of(seed: int) -> None:
    """Like hidden patches: 3 of error 0.2, 1 of 0.6, 4 of 0.5 and so on, however they are cut."""
    rng = np.random.default_rng(seed)
    held = [(int(rng.integers(1, 9)), float(rng.random())) for _ in range(9)]
    names = ("r", "f", "r2", "f2")
    made: Made = {name: [] for name in names}
    for i, (count, error) in enumerate(held):
        made[names[i % 4]].append((face(i), {"count": count, "error": error}))

    class Stage(Given):
        batch_size = int(rng.integers(1, 6))

        def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            loss = (batch["error"] * batch["count"]).sum() / batch["count"].sum()
            return {"loss": loss, "logit": batch["logit"]}

        def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
            return float(batch["count"].sum())

    expected = sum(count * error for count, error in held) / sum(count for count, _ in held)
    found = validated_by_hand(Stage, made, num_workers=int(rng.integers(1, 5)))
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("pooling", "real", "fake", "auc"),
    [
        # P(fake) of the fake: the mean of 1 and 0.02 is 0.51, the log odds' mean 2 is 0.88; of the real one 0.73
        ({}, [(0, 0, 10, 1)], [(0, 0, 10, 8), (1, 0, 10, -4)], 0),
        ({"frames": "mean_logit"}, [(0, 0, 10, 1)], [(0, 0, 10, 8), (1, 0, 10, -4)], 1),
        # in the real one's only frame a small face of 9 beside a large one of 2
        ({}, [(0, 0, 10, 2), (0, 1, 5, 9)], [(0, 0, 10, -1), (0, 1, 9, 3)], 0),
        ({"faces": "max"}, [(0, 0, 10, 2), (0, 1, 5, 9)], [(0, 0, 10, -1), (0, 1, 9, 3)], 0),
        ({"faces": "max", "min_area": 0.5}, [(0, 0, 10, 2), (0, 1, 5, 9)], [(0, 0, 10, -1), (0, 1, 9, 3)], 1),
        # nearly sure: in 32 bits both are 1
        ({}, [(0, 0, 10, 20)], [(0, 0, 10, 25)], 1),
    ],
)
def test_validation_pools_faces_as_the_paper_does(pooling: Any, real: list[Any], fake: list[Any], auc: float) -> None:
    class Stage(Given):
        @staticmethod
        def pooling(cfg: Any) -> models.Pooling:
            return models.Pooling(**pooling)

    made = {
        name: [(face(frame, index, side), {"logit": z}) for frame, index, side, z in faces]
        for name, faces in (("r", real), ("f", fake))
    }
    assert validated_by_hand(Stage, made)["auc"] == auc


def test_where_every_face_counts_a_frame_of_val_scores_as_its_highest_face() -> None:
    """A fake of one frame, with a real person of -9 beside a forged one of 3; a real one of 1: 1/2 is below 0.73."""
    made = {
        "r": [(face(0), {"logit": 1.0})],
        "f": [(face(0), {"logit": -9.0}), (face(0, face_index=1), {"logit": 3.0})],
    }
    found, crowd = (validated_by_hand(Given, made, every_face=frozenset(some)) for some in ((), ("f",)))
    assert (found["auc"], found["accuracy"]) == (0, 1 / 3)
    assert (crowd["auc"], crowd["accuracy"]) == (1, 1 / 2)


def test_validation_counts_a_face_in_two_clips_once() -> None:
    """Frames 0, 1 and 2 in clips of 0, 1 and of 1, 2. P(fake) 1 and 0 make 1, 1/2 and 0, of which 2 are not above 1/2;
    the real video's face is just above 1/2, so the frames' accuracy is 1 of 4."""

    def clips(video: Video, **options: Any) -> Iterator[tuple[list[Any], dict[str, np.ndarray]]]:
        if video.label == 0:
            yield [face(0)], {"loss": np.float32(0), "logit": np.float32(0.1)}
            return
        for first, logit in ((0, 30.0), (1, -30.0)):
            yield [face(first), face(first + 1)], {"loss": np.float32(0), "logit": np.float32(logit)}

    planned = SimpleNamespace(numerics=Numerics())
    select = (Video("r", 0, "real", "0"), Video("f", 1, "swap", "0"))
    job: Any = SimpleNamespace(select=select, every_face=frozenset(), stage=Given, config=None, planned=planned)
    found = validated(job, Given(), SimpleNamespace(scoring_samples=clips))
    assert (found["auc"], found["accuracy"]) == (0, 1 / 4)


def test_what_killed_writers_left_is_gone_when_a_stage_is_finished(tmp_path: Path) -> None:
    job = jobs(tmp_path)["recover"]
    folder = job.planned.folder
    write_bytes(folder / "best-00000001" / "weights.safetensors", b"weights")
    for name in (".weights.safetensors.0123.tmp", ".curves.jsonl.4567.tmp"):
        write_bytes(folder / name, b"half")
    write_bytes(folder / ".best-89ab.new" / "weights.safetensors", b"half")
    job.planned.finish(1, {})
    assert sorted(path.name for path in folder.iterdir()) == ["_done.json", "weights.safetensors"]


def test_checkpoints_hold_no_pickled_code(tmp_path: Path) -> None:
    job = jobs(tmp_path, checkpoint_steps=1)["recover"]
    with pytest.raises(Interrupted):
        loop.loop(job, Killed(2))
    newest = folders(job.planned.folder, "checkpoint")[-1]
    assert sorted(path.name for path in newest.iterdir()) == ["optimizer.pt", "state.json", "weights.safetensors"]
    torch.load(newest / "optimizer.pt", weights_only=True)  # refuses anything but tensors and plain values
    assert json.loads((newest / "state.json").read_text())["step"] == 2


def test_who_was_taken_over_publishes_nothing_and_takes_what_the_other_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Claim):
        def check(self) -> None:
            raise LeaseLost("taken over")

    short = EXPERIMENT.override({"model.recover.num_epochs": 1, "model.recover.warmup_epochs": 0})
    job, there, locks = jobs(tmp_path, short)["recover"], [], iter([Lost(), NOT_LEASED])

    @contextmanager
    def lock(planned: stages.PlannedStage) -> Iterator[Claim]:
        claim = next(locks)
        if claim is NOT_LEASED:  # the other is done
            there.extend(path.name for path in planned.folder.iterdir())
            planned.finish(1, {}, b"theirs")
        yield claim

    monkeypatch.setattr(stages.PlannedStage, "lock", lock)
    job.planned.folder.mkdir(parents=True)
    train_stage(job)
    assert set(there) <= {"spec.json", "curves.jsonl", "progress.json"}
    assert (job.planned.folder / "weights.safetensors").read_bytes() == b"theirs"
