"""Training by Ray Train against training in this process: same batches, same weights, also after a kill.

Any number of workers gives the same training, up to rounding (`tests/models/test_two_workers.py` shows it for one
step of every stage of every paper). Here whole trainings are compared, with Ray's workers and data.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

from pipelines.common.storage import folders
from pipelines.training import batches, loop
from pipelines.training.job import Compute, Job
from pipelines.training.samples import Arrays
from pipelines.training.train import train_stage
from pipelines.training.views import Pick
from pipelines.trials import planner, run

pytestmark = pytest.mark.ray

SLACK = 1e-4  # of a weight or a loss; rounding differs because sums are taken in another order


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As Ray's workers have it: sums then come in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Lab:
    """Trainings of one stage of one experiment, each in a storage of its own."""

    def __init__(self, tiny: Any, folder: Path, changes: Mapping[str, Any]) -> None:
        self.tiny, self.folder = tiny, folder
        self.experiment = tiny.experiment.override(changes)

    def job(self, storage: str, stage: str, num_workers: int = 0, **options: Any) -> Job:
        """`recover`, which the others start from, is trained here and shared."""
        trial = planner.plan(
            self.experiment, self.tiny.videos, self.tiny.ledgers, self.tiny.faces, self.folder / "shared"
        )
        planned = {one.name: one for one in trial.planned}
        derived = None
        if stage != "recover":
            train_stage(run.job_of(trial, planned["recover"], Compute()))
        if stage == "localize":
            from pipelines.scoring import score

            derived = self.folder / "derived.parquet"
            finished = score.FinishedStage(planned=planned["recover"], config=self.experiment.config())
            videos = (*trial.train.videos, *trial.select.videos)
            score.derive(finished, videos, trial.faces, derived, num_actors=0)
        own = replace(planned[stage], folder=self.folder / storage / stage / planned[stage].digest)
        job = run.job_of(trial, own, Compute(num_workers=num_workers))
        return replace(job, derived=derived, **options)


@pytest.fixture
def lab(tiny: Any, tmp_path: Path) -> Any:
    return lambda **changes: Lab(tiny, tmp_path, {f"model.{name}": value for name, value in changes.items()})


def trained(job: Job) -> Job:
    train_stage(job)
    assert job.planned.done
    return job


def weights(job: Job) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(job.planned.folder / "weights.safetensors")


def distance(one: Job, other: Job) -> float:
    """Largest difference of any weight."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def travelled(job: Job) -> float:
    """Largest way of any weight from where a seeded start puts it."""
    torch.manual_seed(int(job.planned.spec["seed"]))
    module = job.stage(job.config)
    if source := job.stage.starts_from:
        module.load_start(safetensors.torch.load_file(job.earlier[source].folder / "weights.safetensors"))
    start = module.state_dict()
    return max(float((value - start[name]).abs().max()) for name, value in weights(job).items())


def curve(job: Job, *names: str) -> np.ndarray:
    return np.array([[line[name] for name in names] for line in job.planned.curve()])


# ---------------------------------------------------------------------------------------- batches
@pytest.mark.nightly
def test_batches_made_by_ray_are_the_batches_made_here(lab: Any) -> None:
    """Clips for both of two workers, faces for one; from a step in the middle, as after a resume."""
    for stage, ranks in (("recover", (0, 1)), ("localize", (1,))):
        job = lab(**{"localize.use_map_loss": False}).job("any", stage)
        steps = range(3, 7)
        for rank in ranks:
            here = list(batches.local_batches(job.samples(), job.view(), steps, rank, 2))
            made = batches.ray_batches(job.samples, job.view(), steps, rank, 2, num_loaders=2, here=bool(rank))
            by_ray = list(made)
            assert len(here) == len(by_ray) == len(steps)
            for mine, theirs in zip(here, by_ray, strict=True):
                assert_same(mine, theirs)


def assert_same(one: tuple[list[Pick], Arrays], other: tuple[list[Pick], Arrays]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert (value.dtype, value.shape) == (other[1][name].dtype, other[1][name].shape), name
        np.testing.assert_array_equal(value, other[1][name])


def test_no_steps_are_no_batches(lab: Any) -> None:
    job = lab().job("any", "recover")
    assert list(batches.ray_batches(job.samples, job.view(), range(5, 5), 0, 2, num_loaders=1)) == []


# ---------------------------------------------------------------------------------------- workers
@pytest.mark.nightly
def test_one_worker_ends_where_this_process_ends(lab: Any) -> None:
    recover = lab(**{"recover.num_epochs": 3})
    here = trained(recover.job("here", "recover"))
    worker = trained(recover.job("worker", "recover", num_workers=1))
    assert distance(here, worker) < 1e-6
    names = ("epoch", "step", "lr", "train/loss", "val/loss")
    np.testing.assert_allclose(curve(here, *names), curve(worker, *names), rtol=1e-6)
    assert worker.planned.summary()["best_epoch"] == here.planned.summary()["best_epoch"]
    assert not folders(worker.planned.folder, "checkpoint")


@pytest.mark.nightly
@pytest.mark.slow
def test_two_workers_finetune_as_one(lab: Any) -> None:
    finetune = lab(**{"finetune.num_epochs": 4, "finetune.base_lr": 0.3})
    one = trained(finetune.job("one", "finetune"))
    two = trained(finetune.job("two", "finetune", num_workers=2))
    names = ("epoch", "step", "lr", "train/loss", "val/loss", "val/auc")
    np.testing.assert_allclose(curve(one, *names), curve(two, *names), atol=SLACK)
    assert distance(one, two) < SLACK
    assert travelled(one) > 100 * SLACK  # else equal weights would say nothing


LONG = {"recover.num_epochs": 15}


@pytest.mark.nightly
@pytest.mark.slow
def test_two_workers_recover_as_one_and_a_killed_one_goes_on(lab: Any) -> None:
    recover = lab(**LONG)
    one = trained(recover.job("one", "recover"))
    two = trained(recover.job("two", "recover", num_workers=2))
    names = ("epoch", "step", "lr", "train/loss", "val/loss")
    np.testing.assert_allclose(curve(one, *names), curve(two, *names), atol=SLACK)
    assert distance(one, two) < SLACK
    assert travelled(one) > 100 * SLACK

    broken = recover.job("broken", "recover", num_workers=2, checkpoint_steps=1)
    killer = Killer(broken)
    trained(broken)
    at = killer.result()
    num_steps = int(curve(one, "step")[-1, 0])
    assert 1 <= at < num_steps, f"killed at step {at} of {num_steps}: not in the middle"
    assert distance(two, broken) < 1e-6
    np.testing.assert_allclose(curve(broken, *names), curve(two, *names), rtol=1e-5)


class Killer:
    """Sends SIGKILL to one training worker as soon as the job has its first checkpoint."""

    def __init__(self, job: Job) -> None:
        self.folder, self.at = job.planned.folder, 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if checkpoints := folders(self.folder, "checkpoint"):
                os.kill(self._workers()[-1].pid, signal.SIGKILL)
                self.at = int(checkpoints[-1].name.rsplit("-", 1)[1])
                return
            time.sleep(0.005)

    @staticmethod
    def _workers() -> list[psutil.Process]:
        """Of this test's own Ray: descendants of this process."""
        children = psutil.Process().children(recursive=True)
        return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]

    def result(self) -> int:
        self.thread.join()
        assert self.at, "no worker was killed"
        return self.at


@pytest.mark.nightly
@pytest.mark.slow
def test_two_workers_localize(lab: Any) -> None:
    """Meta-learning with its second derivatives, and batch norm, over all workers."""
    localize = lab(**{"localize.num_epochs": 2})
    one = trained(localize.job("one", "localize"))
    two = trained(localize.job("two", "localize", num_workers=2))
    a, b = (curve(job, "train/loss", "val/loss") for job in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-3)
    assert distance(one, two) < 0.01 * travelled(one)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_workers_and_names_the_samples(lab: Any) -> None:
    """Not one of them is left waiting for another, and Ray Train does not start them again."""
    job = lab(**{"recover.lr": 1e30}).job("wild", "recover", num_workers=2)
    with pytest.raises(loop.NonFiniteLoss, match=r"not finite at step \d+; the samples were .*ffpp/real"):
        train_stage(job)
    assert not job.planned.done
    (started,) = (job.planned.folder / "ray").iterdir()  # one run of Ray Train
    assert "Error" not in " ".join(path.name for path in started.rglob("*"))
