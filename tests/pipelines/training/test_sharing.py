"""How many of the workers that are there train, and what each of them holds at once; all numbers by hand."""

import pytest

import models
from models import Feed
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
