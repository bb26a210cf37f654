"""Training while workers come and go: started again as long as it goes forward, on as many as there are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import device, stages, train


# ---------------------------------------------------------------------------------------- restarts
def attempts(
    monkeypatch: pytest.MonkeyPatch, folder: Path, ends: Sequence[Callable[[], None]]
) -> tuple[Any, list[int]]:
    """A job whose workers end one time after the other as `ends` says, and the number of times they were started."""
    job: Any = SimpleNamespace(planned=SimpleNamespace(folder=folder))
    started: list[int] = []

    def attempt(_: Any) -> None:
        started.append(len(started))
        ends[started[-1]]()

    monkeypatch.setattr(train, "_attempt", attempt)
    return job, started


def lost(folder: Path, step: int | None = None, cause: Exception | None = None) -> Callable[[], None]:
    """A worker is lost after the checkpoint of `step`, if there was one since the last time."""
    from ray.train import TrainingFailedError, WorkerGroupError

    def end() -> None:
        if step is not None:
            stages.put_folder(folder, "checkpoint", step, {"state.json": b"{}"})
        raise WorkerGroupError("a node is gone", {1: cause}) if cause else TrainingFailedError("a node is gone")

    return end


def finished() -> None:
    pass


@pytest.mark.ray
def test_as_long_as_there_is_progress_no_number_of_lost_nodes_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = [lost(tmp_path, step) for step in range(5 * train.MAX_FAILURES)]
    job, started = attempts(monkeypatch, tmp_path, [*ends, finished])
    train._fit(job)
    assert len(started) == len(ends) + 1


@pytest.mark.ray
def test_without_progress_it_ends_with_the_last_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.train import TrainingFailedError

    # Twice stuck at the start, a checkpoint, then stuck for good: the count begins anew after the checkpoint.
    stuck = [lost(tmp_path)] * (train.MAX_FAILURES - 1)
    job, started = attempts(
        monkeypatch, tmp_path, [*stuck, lost(tmp_path, 7), *[lost(tmp_path)] * train.MAX_FAILURES, finished]
    )
    with pytest.raises(TrainingFailedError, match="a node is gone"):
        train._fit(job)
    assert len(started) == len(stuck) + 1 + train.MAX_FAILURES


@pytest.mark.ray
def test_a_gpu_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job, started = attempts(
        monkeypatch, tmp_path, [lost(tmp_path, 1, device.MissingGPU("no CUDA on node 7")), finished]
    )
    with pytest.raises(device.MissingGPU, match="node 7"):
        train._fit(job)
    assert len(started) == 1
