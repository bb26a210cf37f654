"""Training waits for nothing that can be had earlier, later or elsewhere: validation, checkpoints, losses."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR
from torch.utils._python_dispatch import TorchDispatchMode

from models._sam import SAM
from pipelines.common import storage
from pipelines.common.numerics import Numerics
from pipelines.training import learner as learner_module
from pipelines.training import loop
from pipelines.training.job import CHECKPOINT_SECONDS
from pipelines.training.kept import Kept
from pipelines.training.learner import CHECKPOINT_TIMES, Learner, Losses, Saver, TrainState, fuse
from pipelines.training.transfer import to_device
from pipelines.training.views import Video
from pipelines.training.workers import Alone

VIDEOS = [Video(f"ffpp/real/c23/{i}", 0, "real", f"ffpp/{i}") for i in range(3)]


class Drawn:
    """In place of `Samples`: two samples of a video, and how often they were made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def scoring_samples(self, video: Video, **options: Any) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        self.made.append(video.video_id)
        rng = np.random.default_rng([options["seed"], *video.video_id.encode()])
        for frame in range(2):
            yield (
                [{"frame_index": frame}],
                {
                    "image": rng.integers(0, 255, (5, 4, 3)).astype(np.uint8)[:, ::-1],
                    "mask": rng.random((2, 2)) > 0.5,
                    "label": video.label,
                    "native_px": np.float32(rng.random()),
                    "nothing": np.zeros((0, 3), np.float32),
                },
            )


def all_of(samples: Any, seed: int = 0) -> list[Any]:
    return [each for video in VIDEOS for each in samples.scoring_samples(video, seed=seed, mode="select")]


@pytest.mark.parametrize(("most_bytes", "made"), [(2**20, 3), (0, 9), (170, 7)])
def test_validation_samples_are_made_once_and_come_back_as_they_were(most_bytes: int, made: int) -> None:
    """A video's are 2 (60 + 4 + 8 + 4) = 152 bytes: in 170 there is room for one."""
    drawn = Drawn()
    kept = Kept(drawn, most_bytes)  # type: ignore[arg-type]
    expected = all_of(Drawn())
    for _ in range(3):
        found = all_of(kept)
        assert [rows for rows, _ in found] == [rows for rows, _ in expected]
        for (_, one), (_, other) in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                assert np.asarray(value).dtype == np.asarray(other[name]).dtype
                np.testing.assert_array_equal(value, other[name])
    assert len(drawn.made) == made


def test_other_options_are_other_samples() -> None:
    kept = Kept(Drawn())  # type: ignore[arg-type]
    assert not np.array_equal(all_of(kept)[0][1]["image"], all_of(kept, seed=1)[0][1]["image"])


def test_what_is_kept_has_no_name_and_a_full_disk_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    drawn = Drawn()
    kept = Kept(drawn)  # type: ignore[arg-type]
    all_of(kept)
    assert kept._end
    assert not list(tmp_path.iterdir())  # a killed process leaves nothing

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    drawn = Drawn()
    kept = Kept(drawn)  # type: ignore[arg-type]
    assert len(all_of(kept)) == len(all_of(kept)) == 6
    assert len(drawn.made) == 6


# --------------------------------------------------------------------------------------------------- the step
class Reads(TorchDispatchMode):
    """Counts how often Python asks for a tensor's value: on a GPU it waits for all work until then."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Line(nn.Module):
    """A loss with a part; at `ill` it is not finite."""

    def __init__(self, ill: int | None = None) -> None:
        super().__init__()
        self.w, self.ill, self.calls = nn.Parameter(torch.ones(3)), ill, 0

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = (self.w * batch["x"]).square().mean()
        loss = loss * float("nan") if self.calls == self.ill else loss
        self.calls += 1
        return {"loss": loss, "part": loss.detach() / 2}


@pytest.mark.parametrize("sam", [False, True])
def test_a_step_reads_no_value_back(sam: bool) -> None:
    module, world = Line(), Alone()
    base = SGD(module.parameters(), lr=0.1)
    watch, losses = loop.Watch(world), Losses({}, 0)
    cuts = [({"x": torch.full((3,), value)}, 0.5) for value in (1.0, 2.0)]
    with Reads() as reads:
        for step in range(3):
            watch.begin(step, [])
            losses.add(loop._step(module, SAM(base) if sam else base, cuts, step, watch, world, Numerics()))
    assert reads.number == 0
    sums, steps = losses.read()
    assert steps == 3
    assert sums["part"] == pytest.approx(sums["loss"] / 2)
    assert sums["loss"] > 2.5  # of the first step alone (1 + 4) / 2


def test_a_loss_that_is_not_finite_is_found_later_with_its_own_step() -> None:
    module, world = Line(ill=3), Alone()
    watch, optimizer = loop.Watch(world), SGD(module.parameters(), lr=0.1)
    for step in range(6):
        watch.begin(step, [SimpleNamespace(video=SimpleNamespace(video_id=f"video {step}"))])  # type: ignore[list-item]
        loop._step(module, optimizer, [({"x": torch.ones(3)}, 1.0)], step, watch, world, Numerics())
        if step == 2:
            watch.check()
    with pytest.raises(loop.NonFiniteLoss, match=r"not finite at step 3; the samples were video 3$"):
        watch.check()


def test_batches_on_a_cpu_are_the_arrays_and_those_of_ray_are_copied() -> None:
    own, foreign = np.arange(3.0), np.arange(3.0)
    foreign.flags.writeable = False
    ((told, batch),) = to_device(iter([("told", {"own": own, "foreign": foreign})]), torch.device("cpu"))
    batch["own"][0] = batch["foreign"][0] = 7
    assert (told, own[0], foreign[0]) == ("told", 7, 0)


# ------------------------------------------------------------------------------------------------- checkpoints
def learner_of(optimizer: type = Adam, on: str = "cpu") -> Learner:
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    made = optimizer(module.parameters(), lr=0.1)
    fuse(made, torch.device(on))
    return Learner(module=module, optimizer=made, scheduler=ConstantLR(made, 1.0), state=TrainState())  # type: ignore[arg-type]


def train(learner: Learner, steps: int) -> None:
    for step in range(steps):
        learner.optimizer.zero_grad()
        learner.module(torch.full((1, 4), 1.0 + step)).square().sum().backward()
        learner.optimizer.step()
        learner.state.step += 1


@pytest.mark.parametrize(
    ("rule", "kept"), [("auc", 4), ("loss", 3), ("accuracy_and_loss", 4), ("last", 5)], ids=lambda value: str(value)
)
def test_a_validation_loss_that_is_nan_is_worse_than_any_other(rule: str, kept: int) -> None:
    learner, job = learner_of(), SimpleNamespace(stage=SimpleNamespace(selects_by=rule))
    losses, aucs = (np.nan, np.nan, 0.2, 0.3, np.nan), (0.6, 0.6, 0.6, 0.7, 0.7)
    for epoch, (loss, auc) in enumerate(zip(losses, aucs, strict=True), 1):
        line = {"epoch": epoch, "val/loss": loss, "val/auc": auc, "val/accuracy": auc}
        learner.keep_best(job, line, rank=0)  # type: ignore[arg-type]
    assert learner.state.best_epoch == kept
    assert not np.isnan(learner.state.best_key or [np.nan]).any()


def test_a_checkpoint_is_of_its_moment_though_it_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, go_on, put = learner_of(), threading.Event(), storage.put_folder

    def late(*arguments: Any) -> None:
        assert go_on.wait(10)
        put(*arguments)

    monkeypatch.setattr(learner_module, "put_folder", late)
    train(learner, 1)
    learner.best, learner.state.best_epoch = learner.weights(), 1
    then = learner.weights()
    with Saver(tmp_path) as saver:
        saver.save(learner)  # comes back though nothing can be written
        train(learner, 3)
        assert not list(tmp_path.iterdir())
        go_on.set()
    (written,) = storage.folders(tmp_path, "checkpoint")
    assert written.name == "checkpoint-00000001"
    saved = safetensors.torch.load_file(written / "weights.safetensors")
    best = safetensors.torch.load_file(tmp_path / "best-00000001" / "weights.safetensors")
    for name, value in then.items():
        assert torch.equal(value, saved[name])
        assert torch.equal(value, best[name])
        assert not torch.equal(value, learner.weights()[name])
    moments = torch.load(written / "optimizer.pt", weights_only=True)["optimizer"]["state"]
    assert moments[0]["step"] == 1


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learner_module, "put_folder", full)
    with pytest.raises(OSError, match="No space"), Saver(tmp_path) as saver:
        saver.save(learner_of())


def test_checkpoints_are_due_after_minutes_and_at_epochs_where_they_cost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(learner_module.time, "monotonic", lambda: now[0])
    with Saver(tmp_path) as saver:
        now[0] += 1
        assert saver.due(epoch_ends=True)  # the first
        assert not saver.due(epoch_ends=False)
        saver._took_s = 2.0
        now[0] = 1000 + 2 * CHECKPOINT_TIMES
        assert not saver.due(epoch_ends=True)
        now[0] += 1
        assert saver.due(epoch_ends=True)
        assert not saver.due(epoch_ends=False)
        now[0] = 1001 + CHECKPOINT_SECONDS
        assert saver.due(epoch_ends=False)


@pytest.mark.parametrize("optimizer", [Adam, SGD])
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_optimizer_goes_on_on_another_device(optimizer: type, first: str, then: str, tmp_path: Path) -> None:
    """Fused there, and not here; torch has both for tensors on CPUs, too."""
    whole, one, other = learner_of(optimizer), learner_of(optimizer, first), learner_of(optimizer, then)
    train(whole, 4)
    train(one, 2)
    one.snapshot()(tmp_path)
    other._resume(storage.folders(tmp_path, "checkpoint")[0])
    assert bool(other.optimizer.param_groups[0]["fused"]) == (then == "cuda")
    for step in (2, 3):
        other.optimizer.zero_grad()
        other.module(torch.full((1, 4), 1.0 + step)).square().sum().backward()
        other.optimizer.step()
    for name, value in whole.weights().items():
        torch.testing.assert_close(other.weights()[name], value, rtol=1e-5, atol=1e-6)
