"""What each trial gets of a cluster: workers, loaders, actors and trials at once, worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.common.cluster import Resources
from pipelines.launch import plan, resources
from pipelines.launch.options import Options
from pipelines.training.job import Compute


def divide(cpus: int, gpus: int, num_trials: int, preset: str = "paper", **switches: Any) -> tuple[Compute, int]:
    there = Resources(cpus=cpus, gpus=gpus, memory_bytes=2**50)
    return resources.divide(Options(**switches), preset, there, num_trials)


@pytest.mark.parametrize(
    ("preset", "gpus", "workers", "gpus_each"), [("small", 1, 0, 0), ("paper", 1, 1, 1), ("paper", 0, 1, 0)]
)
def test_left_to_itself_a_trial_takes_one_worker_and_one_gpu_if_there_is_one(preset, gpus, workers, gpus_each) -> None:
    compute, concurrent = divide(cpus=8, gpus=gpus, num_trials=1, preset=preset)
    assert (compute.num_workers, compute.min_workers, compute.gpus_per_worker) == (workers, None, gpus_each)
    assert concurrent == 1


def test_no_more_trials_at_once_than_there_are_and_than_fit_into_memory() -> None:
    assert divide(cpus=64, gpus=0, num_trials=3, preset="small")[1] == 3
    there = Resources(cpus=64, gpus=0, memory_bytes=5 * 2**30)  # a trial takes 2 GiB
    assert resources.divide(Options(), "small", there, 10)[1] == 2


@pytest.mark.parametrize(
    ("cpus", "workers"),
    [
        (2, 1),
        (4, 1),
        (4, 2),
        (1, 1),
        (3, 2),
        (4, 3),
        (6, 2),
        (8, 3),
    ],
)
def test_every_worker_has_a_cpu_for_its_loader_or_is_refused(cpus: int, workers: int) -> None:
    """Training is in lockstep: one worker whose loader, an actor of one CPU, can't start stops all of its trial."""
    asked = {"cpus": cpus, "gpus": 0, "num_trials": 2, "preset": "small", "workers": (workers, workers)}
    if 2 * workers > cpus:
        with pytest.raises(ValueError, match="--workers"):
            divide(**asked)
    else:
        compute, concurrent = divide(**asked)
        assert compute.num_workers == workers
        assert concurrent * 2 * workers <= cpus


# CPUs, GPUs, workers, and by hand: trials at once, loaders of each worker
LOADERS = {
    "one GPU": (16, 1, 1, 1, 8),  # 15 are left for them
    "a small machine": (6, 1, 1, 1, 5),
    "no CPU to spare": (2, 1, 1, 1, 1),
    "two trials": (16, 2, 1, 2, 7),  # 8 CPUs each, one of them trains
    "two workers": (16, 2, 2, 1, 7),
    "no GPU": (16, 0, 2, 2, 1),
    "in this process": (16, 0, 0, 2, 1),
}


@pytest.mark.parametrize("case", LOADERS.values(), ids=LOADERS)
def test_a_gpu_gets_the_loaders_that_there_are_cpus_for(case: tuple[int, ...]) -> None:
    cpus, gpus, workers, wanted_trials, wanted_loaders = case
    compute, concurrent = divide(cpus, gpus, num_trials=2, preset="small", workers=(workers, workers))
    assert (concurrent, compute.num_loaders) == (wanted_trials, wanted_loaders)
    assert not workers or concurrent * workers * (1 + compute.num_loaders) <= cpus
    if gpus:  # scoring takes no more of them than training, however many share one
        assert compute.scoring_actors == workers * min(4, wanted_loaders)
        assert compute.scoring_actors * compute.gpus_per_actor == pytest.approx(workers)


def with_nodes(cpus: int, per_gpu: float, memory: int = 2**50) -> Resources:
    """Eight GPUs on nodes with so many CPUs for each; nodes for video with `cpus`."""
    return Resources(cpus=cpus, gpus=8, memory_bytes=memory, cpus_per_gpu=per_gpu)


# CPUs for video, CPUs beside each GPU, and by hand: loaders of each of 8 workers, whether on their own nodes
NODES = {
    "what stands beside the GPU": (256, 16, 8, True),  # 15 there, 31 elsewhere, of which 8 are enough
    "the larger": (256, 4, 8, False),  # 3 there
    "as many here as there": (32, 4, 3, True),
    "no CPU but the worker's own": (24, 1, 2, False),
    "none for video but one": (1, 16, 8, True),
}


@pytest.mark.parametrize("case", NODES.values(), ids=NODES)
def test_loaders_run_beside_their_gpu_if_there_are_cpus(case: tuple[int, float, int, bool]) -> None:
    cpus, per_gpu, wanted, on_node = case
    compute, concurrent = resources.divide(Options(), "paper", with_nodes(cpus, per_gpu), 8)
    assert (concurrent, compute.num_loaders, compute.loaders_on_node) == (8, wanted, on_node)
    if on_node:  # all workers of a node have room for theirs, and for themselves
        assert 1 + wanted <= per_gpu


def test_trials_that_share_a_gpu_share_the_cpus_beside_it() -> None:
    compute, concurrent = resources.divide(Options(gpus_per_worker=0.5), "paper", with_nodes(1, 16), 16)
    assert (concurrent, compute.num_loaders, compute.loaders_on_node) == (16, 7, True)


def test_no_more_loaders_than_fit_into_memory() -> None:
    """8 GiB for each of eight trials, of which the trial takes 2."""
    compute, _ = resources.divide(Options(), "paper", with_nodes(1, 64, memory=8 * 8 * 2**30), 8)
    assert compute.num_loaders == 6


# ------------------------------------------------------------------------------ a range of workers
def of_range(least: int, most: int, *, gpus: int, cpus: int = 64, each: float = 1) -> tuple[Compute, int]:
    return divide(cpus, gpus, num_trials=10, workers=(least, most), gpus_per_worker=each)


def scoring_gpus(compute: Compute) -> float:
    return compute.scoring_actors * compute.gpus_per_actor


def test_as_many_trials_at_once_as_have_room_with_all_their_workers() -> None:
    compute, concurrent = of_range(1, 4, gpus=9)
    assert (compute.min_workers, compute.num_workers, scoring_gpus(compute), concurrent) == (1, 4, 4, 2)
    fixed, _ = of_range(4, 4, gpus=9)
    assert (fixed.min_workers, fixed.num_workers) == (None, 4)
    assert of_range(1, 4, gpus=9, cpus=9)[1] == 1  # two would need 16 CPUs


def test_on_a_cluster_that_is_too_small_for_all_it_starts_with_what_there_is() -> None:
    compute, concurrent = of_range(2, 4, gpus=3)
    assert (compute.min_workers, compute.num_workers, scoring_gpus(compute), concurrent) == (2, 4, 3, 1)
    assert scoring_gpus(of_range(1, 4, gpus=1)[0]) == 1
    with pytest.raises(ValueError, match="wants 2 workers with 1 GPUs each, Ray has 1 GPUs"):
        of_range(2, 4, gpus=1)
    with pytest.raises(ValueError, match="wants 4 workers"):
        of_range(4, 4, gpus=3)
    with pytest.raises(ValueError, match="3 workers and their loaders need 6 CPUs, Ray has 5"):
        of_range(2, 4, gpus=3, cpus=5)


@pytest.mark.parametrize("least", [1, 2])
def test_workers_of_one_trial_share_no_gpu(least: int) -> None:
    with pytest.raises(ValueError, match=r"--workers (1-)?2 --gpus-per-worker 0.5: .*choose --workers 1"):
        of_range(least, 2, gpus=4, each=0.5)
    assert of_range(1, 1, gpus=4, each=0.5)[1] > 1  # trials may


def test_no_more_drivers_than_the_head_has_room_for() -> None:
    """64 GPUs elsewhere, and a head of 3 GiB: a driver takes 1. One that trains by itself runs where the others do."""
    there = Resources(cpus=640, gpus=64, memory_bytes=2**50, head_bytes=3 * 2**30)
    assert resources.divide(Options(), "paper", there, 10)[1] == 3
    assert resources.divide(Options(), "small", there, 10)[1] == 10
    assert resources.divide(Options(), "paper", replace(there, head_bytes=None), 10)[1] == 10


def test_a_range_is_for_gpus() -> None:
    with pytest.raises(ValueError, match=r"--workers 1-4: a range is for workers with GPUs.*choose one number"):
        of_range(1, 4, gpus=0, each=0)


def test_the_plan_names_the_stages_that_need_more_memory() -> None:
    planned: Any = [
        SimpleNamespace(paper="delocate", name=name) for name in ("recover", "finetune", "localize", "localize")
    ]
    assert plan.growing(planned, (1, 4)) == ["delocate.localize"]
    assert plan.growing(planned, (4, 4)) == []
    assert plan.growing(planned, None) == []
