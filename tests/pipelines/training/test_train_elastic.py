"""Training while workers come and go: started again as long as it goes forward, on as many as there are."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from pipelines.common import cluster, device
from pipelines.common.storage import put_folder
from pipelines.training import train as train_module
from pipelines.training.job import Compute, Job
from pipelines.training.learner import TrainState
from pipelines.training.loop import NonFiniteLoss
from pipelines.training.train import MAX_FAILURES, _fit, train_stage
from pipelines.trials import planner, run

SLACK = 1e-4  # of a weight; rounding differs because sums are taken in another order


# ---------------------------------------------------------------------------------------- restarts
def attempts(
    monkeypatch: pytest.MonkeyPatch, folder: Path, ends: Sequence[Callable[[], None]]
) -> tuple[Any, list[int]]:
    """A job whose workers end one time after the other as `ends` says, and the number of times they were started."""
    sharing = SimpleNamespace(check=lambda: None)
    job: Any = SimpleNamespace(planned=SimpleNamespace(folder=folder), view=lambda: None, sharing=lambda _: sharing)
    started: list[int] = []

    def attempt(_: Any) -> None:
        started.append(len(started))
        ends[started[-1]]()

    monkeypatch.setattr(train_module, "_attempt", attempt)
    return job, started


def lost(folder: Path, step: int | None = None, cause: Exception | None = None) -> Callable[[], None]:
    """A worker is lost after the checkpoint of `step`, if there was one since the last time."""
    from ray.train import TrainingFailedError, WorkerGroupError

    def end() -> None:
        if step is not None:
            put_folder(folder, "checkpoint", step, {"state.json": b"{}"})
        raise WorkerGroupError("a node is gone", {1: cause}) if cause else TrainingFailedError("a node is gone")

    return end


def finished() -> None:
    pass


@pytest.mark.nightly
@pytest.mark.ray
def test_as_long_as_there_is_progress_no_number_of_lost_nodes_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = [lost(tmp_path, step) for step in range(5 * MAX_FAILURES)]
    job, started = attempts(monkeypatch, tmp_path, [*ends, finished])
    _fit(job)
    assert len(started) == len(ends) + 1


@pytest.mark.nightly
@pytest.mark.ray
def test_without_progress_it_ends_with_the_last_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.train import TrainingFailedError

    # Twice stuck at the start, a checkpoint, then stuck for good: the count begins anew after the checkpoint.
    stuck = [lost(tmp_path)] * (MAX_FAILURES - 1)
    job, started = attempts(
        monkeypatch, tmp_path, [*stuck, lost(tmp_path, 7), *[lost(tmp_path)] * MAX_FAILURES, finished]
    )
    with pytest.raises(TrainingFailedError, match="a node is gone"):
        _fit(job)
    assert len(started) == len(stuck) + 1 + MAX_FAILURES


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.parametrize("cause", [device.MissingGPU("no CUDA on node 7"), NonFiniteLoss("not finite at step 7")])
def test_what_would_only_come_again_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cause: Exception
) -> None:
    job, started = attempts(monkeypatch, tmp_path, [lost(tmp_path, 1, cause), finished])
    with pytest.raises(type(cause), match="7"):
        _fit(job)
    assert len(started) == 1


@pytest.mark.nightly
@pytest.mark.ray
def test_the_log_says_why_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, _ = attempts(monkeypatch, tmp_path, [lost(tmp_path, 1, OSError("no route\nto node 7")), finished])
    _fit(job)
    assert caplog.messages == [f"{tmp_path}: started again: OSError: no route"]


# ---------------------------------------------------------------------------------------- numbers of workers
@pytest.mark.parametrize(
    ("noted", "found"),
    [
        ([], [[7, 2]]),
        ([[0, 2]], [[0, 2]]),  # restarted, as many as before
        ([[0, 1]], [[0, 1], [7, 2]]),
        ([[0, 2], [7, 1]], [[0, 2]]),  # one was there, but left no checkpoint before it was two again
    ],
)
def test_the_summary_knows_who_trained_what(noted: list[list[int]], found: list[list[int]]) -> None:
    state = TrainState(step=7, workers=noted, cuts=[[0, 1]])
    state.note_workers(2, 4)
    assert state.workers == found
    assert state.cuts == [[0, 1], [7, 4]]  # as it was, not as it was asked for


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As Ray's workers have it: sums then come in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recover(tiny: Any, storage: Path, compute: Compute | None = None, **options: Any) -> Job:
    """Real clips, four in a step: any of 1, 2, 4 workers can share it."""
    changes = {"model.recover.batch_size": 4, "model.recover.num_epochs": 15}
    experiment = tiny.experiment.override(changes)
    trial = planner.plan(experiment, tiny.videos, tiny.ledgers, tiny.faces, storage)
    job = run.job_of(trial, trial.planned[0], compute or Compute())
    return replace(job, **options)


def weights(job: Job) -> dict[str, torch.Tensor]:
    assert job.planned.done
    return safetensors.torch.load_file(job.planned.folder / "weights.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def undisturbed(tiny: Any, storage: Path) -> dict[str, torch.Tensor]:
    job = recover(tiny, storage)
    train_stage(job)
    torch.manual_seed(int(job.planned.spec["seed"]))
    start = job.stage(job.config).state_dict()
    found = weights(job)
    assert distance(found, {name: start[name] for name in found}) > 100 * SLACK  # else equality would say nothing
    return found


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_a_worker_too_many_idles(tiny: Any, tmp_path: Path) -> None:
    """Ray starts three, and two of them share the step."""
    job = recover(tiny, tmp_path / "three", Compute(num_workers=3, min_workers=1, cpus_per_worker=0.5))
    train_stage(job)
    assert job.planned.summary()["workers"] == [[0, 2]]
    assert distance(weights(job), undisturbed(tiny, tmp_path / "here")) < SLACK


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_a_lost_node_makes_it_smaller_and_a_new_one_larger(tiny: Any, tmp_path: Path) -> None:
    compute = Compute(num_workers=2, min_workers=1, gpus_per_worker=1)
    job = recover(tiny, tmp_path / "cluster", compute, checkpoint_steps=1, resize_seconds=5)
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    script = Path(__file__).with_name("gated.py")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(cluster.ROOT), str(script.parent))),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # of a group that was planned on what is gone meanwhile
        device.FAKE_GPUS: "1",
    }
    command = [sys.executable, str(script), str(tmp_path / "job")]
    done = subprocess.run(command, env=environment, timeout=500, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SEEN [3, 6]" in done.stdout  # steps done when the node went, and when another came
    assert job.planned.summary()["workers"] == [[0, 2], [3, 1], [6, 2]]
    assert job.planned.summary()["accumulate"] == [[0, 1], [3, 2], [6, 1]]  # none held more samples than at first
    assert distance(weights(job), undisturbed(tiny, tmp_path / "here")) < SLACK
