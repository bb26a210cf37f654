"""How many of the workers that are there train, and what each of them holds at once; all numbers by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

import models
from models import Feed
from pipelines.common.cluster import Resources
from pipelines.launch import launch
from pipelines.sweep import parser
from pipelines.training import job
from pipelines.training.sharing import Sharing
from pipelines.training.views import Video, View

FINETUNE, RECOVER = models.stage("delocate", "finetune"), models.stage("delocate", "recover")  # cut exactly
WHOLE, NORMED = models.stage("delocate", "localize"), models.stage("plain", "detect")  # never cut; but batch norm


def sharing(stage: type[models.Stage], batch_size: int, least: int, most: int, accumulate: int = 1) -> Sharing:
    videos = [
        Video(f"ffpp/{label}/{i}", label, "m" if label else "real", f"ffpp/{i}") for i in (0, 1) for label in (0, 1)
    ]
    view = View(stage.view, videos, Feed(input_px=8, batch_size=batch_size), seed=0)
    return Sharing(stage=stage, view=view, least=least, most=most, accumulate=accumulate)


@pytest.mark.parametrize(("there", "train"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_of_three_workers_only_two_can_share_eight_samples(there: int, train: int) -> None:
    assert sharing(FINETUNE, 8, 1, 4).workers(there) == train
    assert sharing(FINETUNE, 8, 2, 4).workers(there) == train  # a range says what Ray may start, not what trains


def test_a_sample_of_each_class_stays_together() -> None:
    assert sharing(RECOVER, 4, 1, 4).workers(4) == 4  # real clips only
    assert sharing(FINETUNE, 4, 1, 4).workers(4) == 2  # two pairs


@pytest.mark.parametrize(
    ("there", "cuts"),
    [
        (4, 2),  # 24 samples: each has 6, and holds 3 at once
        (3, 4),  # 8 each: 3 parts would hold 3, but are not equal; 4 hold 2
        (2, 4),  # 12 each: 4 parts of 3
        (1, 8),
    ],
)
def test_no_worker_holds_more_than_with_all_of_them(there: int, cuts: int) -> None:
    assert sharing(RECOVER, 24, 1, 4, accumulate=2).cuts(there) == cuts


def test_without_accumulation_the_shares_of_fewer_are_cut_all_the_same() -> None:
    # 24 samples of two classes: 4 workers have 6, whole. One has 24: 2 and 3 parts hold more, 4 hold 6.
    assert [sharing(FINETUNE, 24, 1, 4).cuts(workers) for workers in (4, 2, 1)] == [1, 2, 4]


@pytest.mark.parametrize(("stage", "accumulate"), [(WHOLE, 1), (NORMED, 2)])
def test_where_cuts_would_change_the_weights_they_stay_and_shares_grow(
    stage: type[models.Stage], accumulate: int
) -> None:
    shared = sharing(stage, 16, 1, 4, accumulate)
    assert [shared.cuts(workers) for workers in (1, 2, 4)] == [accumulate] * 3


def test_with_one_number_nothing_is_chosen() -> None:
    fixed = sharing(FINETUNE, 8, 2, 2, accumulate=2)
    fixed.check()
    assert (fixed.workers(2), fixed.cuts(2)) == (2, 2)
    with pytest.raises(ValueError, match=r"a step of 8 samples .* can't be shared equally by 3 workers"):
        sharing(FINETUNE, 8, 3, 3).check()
    with pytest.raises(ValueError, match="can't be cut into 3 equal parts"):
        sharing(FINETUNE, 8, 2, 2, accumulate=3).check()


def test_one_number_of_a_range_must_fit() -> None:
    sharing(FINETUNE, 8, 3, 4).check()
    with pytest.raises(ValueError, match=r"--workers 5-7: none .* delocate\.finetune: a step of 8 .* by 7 workers"):
        sharing(FINETUNE, 8, 5, 7).check()
    with pytest.raises(ValueError, match="can't be cut into 3 equal parts"):
        sharing(FINETUNE, 8, 1, 2, accumulate=3).check()


# ---------------------------------------------------------------------------------------- the switch
def asked(*arguments: str) -> Any:
    sweep = SimpleNamespace(name="any", seeds={"paper": 3, "small": 1})
    return parser(sweep, None).parse_args(arguments)  # type: ignore[arg-type]


def compute(workers: str, *, gpus: int, cpus: int = 64, per_worker: str = "1") -> tuple[job.Compute, int]:
    one = launch.Launch.__new__(launch.Launch)
    one.arguments, one.preset = asked("--workers", workers, "--gpus-per-worker", per_worker), "paper"
    one.experiments = {}
    return one.compute(Resources(cpus=cpus, gpus=gpus, memory_bytes=2**50), num_trials=10)


@pytest.mark.parametrize(("text", "found"), [("0", (0, 0)), ("4", (4, 4)), ("1-4", (1, 4)), ("2-2", (2, 2))])
def test_the_switch_takes_a_number_or_a_range(text: str, found: tuple[int, int]) -> None:
    assert asked("--workers", text).workers == found
    assert asked().workers is None


@pytest.mark.parametrize("text", ["-1", "0-2", "4-1", "1-", "1-2-3", "two", "1.5"])
def test_the_switch_refuses_what_it_does_not_understand(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked(f"--workers={text}")
    assert "--workers" in capsys.readouterr().err


def scoring_gpus(found: job.Compute) -> float:
    return found.scoring_actors * found.gpus_per_actor


def test_as_many_trials_at_once_as_have_room_with_all_their_workers() -> None:
    found, concurrent = compute("1-4", gpus=9)
    assert (found.min_workers, found.num_workers, scoring_gpus(found), concurrent) == (1, 4, 4, 2)
    fixed, _ = compute("4", gpus=9)
    assert (fixed.min_workers, fixed.num_workers) == (None, 4)
    assert compute("1-4", gpus=9, cpus=9)[1] == 1  # two would need 16 CPUs


def test_on_a_cluster_that_is_too_small_for_all_it_starts_with_what_there_is() -> None:
    found, concurrent = compute("2-4", gpus=3)
    assert (found.min_workers, found.num_workers, scoring_gpus(found), concurrent) == (2, 4, 3, 1)
    assert scoring_gpus(compute("1-4", gpus=1, per_worker="0.5")[0]) == 1
    with pytest.raises(ValueError, match="wants 2 workers with 1 GPUs each, Ray has 1 GPUs"):
        compute("2-4", gpus=1)
    with pytest.raises(ValueError, match="wants 4 workers"):
        compute("4", gpus=3)
    with pytest.raises(ValueError, match="3 workers and their loaders need 6 CPUs, Ray has 5"):
        compute("2-4", gpus=3, cpus=5)


def test_the_plan_names_the_stages_that_need_more_memory() -> None:
    planned = [SimpleNamespace(paper="delocate", name=name) for name in ("recover", "finetune", "localize", "localize")]
    one = launch.Launch.__new__(launch.Launch)
    one.arguments = asked("--workers", "1-4")
    assert one._grow(planned) == ["delocate.localize"]  # type: ignore[arg-type]
    one.arguments = asked("--workers", "4")
    assert one._grow(planned) == []  # type: ignore[arg-type]


def test_a_range_is_for_gpus() -> None:
    with pytest.raises(ValueError, match=r"--workers 1-4: a range is for workers with GPUs.*choose one number"):
        compute("1-4", gpus=0, per_worker="0")
