"""Threshold and temperature, worked out by hand or against scikit-learn."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from pipelines.metrics.calibration import Fitted


def test_the_threshold_lies_halfway_between_the_scores_that_it_parts() -> None:
    assert Fitted.of([0, 0, 1, 1], [-1.0, 0.0, 3.0, 4.0]).threshold == 1.5
    # of cuts below 4, 3, 1, 0: balanced accuracy 3/4, 1/2, 3/4, 1/2; the highest cut of the best
    assert Fitted.of([1, 0, 1, 0], [4.0, 3.0, 1.0, 0.0]).threshold == 3.5


def test_the_threshold_does_not_follow_the_larger_class() -> None:
    """Nine fakes for each real: taking all for fakes would be right nine times in ten."""
    labels, logits = np.repeat([0, 1, 1], [2, 9, 9]), np.repeat([0.0, -1.0, 1.0], [2, 9, 9])
    assert Fitted.of(labels, logits).threshold == 0.5


def test_where_every_cut_is_worse_than_none_all_are_called_real() -> None:
    """Cuts below 2, 1, 0 find 0, 1, 1 of the fake for 1, 1, 2 of the reals: -1/2, 1/2, 0. Turned round: -1, -1/2, 0,
    where taking none for fake is 0 too, and higher."""
    assert Fitted.of([0, 1, 0], [2.0, 1.0, 0.0]).threshold == 0.5
    turned = Fitted.of([0, 0, 1], [3.0, 2.0, 1.0])
    assert turned.threshold == 3.5
    table = pa.table({"video_id": ["a", "b"], "label": [0, 1], "logit": [3.0, 1.0]})
    assert max(turned.applied("acc_at_val", table)["logit"].to_pylist()) < 0


def test_a_threshold_above_sure_scores_calls_them_real() -> None:
    """Log odds without an end count as those of 700, as where the threshold was fitted."""
    fitted = Fitted.of([0, 1], [math.inf, -math.inf])
    table = pa.table({"video_id": ["a"], "label": [0], "logit": [math.inf]})
    assert fitted.threshold == 700.5
    assert fitted.applied("acc_at_val", table)["logit"].to_pylist() == [-0.5]


@pytest.mark.parametrize("logits", [[0.0, 0.0], [5.0, -5.0], [math.inf, -math.inf], [-math.inf, math.inf]])
def test_scores_that_rank_nothing_or_are_sure_have_a_finite_threshold(logits: list[float]) -> None:
    fitted = Fitted.of([0, 1], logits)
    assert math.isfinite(fitted.threshold)
    assert fitted.temperature > 0


def test_the_temperature_undoes_what_logits_were_multiplied_by() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < expit(true)
    assert Fitted.of(labels.astype(int), true * 3).temperature == pytest.approx(3, rel=0.05)
    assert Fitted.of(labels.astype(int), true).temperature == pytest.approx(1, rel=0.05)


def test_one_temperature_has_the_lowest_cross_entropy() -> None:
    """Three of four sure scores of log odds 4 are right: they should say 3/4, whose log odds are ln 3."""
    fitted = Fitted.of([1, 1, 1, 0], [4.0] * 4)
    assert 4 / fitted.temperature == pytest.approx(math.log(3), rel=1e-3)


@pytest.mark.parametrize(
    ("labels", "log_temperature", "end"),
    [([0, 0, 1, 1], -5, "lowest"), ([1, 1, 0, 0], 5, "highest"), ([0, 1, 0, 1], None, "")],
    ids=["without error", "without a right one", "half right"],
)
def test_a_temperature_at_an_end_of_its_search_is_told(
    labels: list[int], log_temperature: float | None, end: str
) -> None:
    """Sure scores that are right are best divided by little, wrong ones by much; half of them right is in between."""
    fitted = Fitted.of(labels, [-9.0, -1.0, 8.0, 10.0] if log_temperature else [-9.0, -4.0, -1.0, 10.0])
    if log_temperature:
        assert fitted.temperature == pytest.approx(math.exp(log_temperature))
    for metric in ("ece_scaled", "brier_scaled"):
        assert (f"the {end} that is tried" in fitted.note_of(metric)) == bool(end)
    assert fitted.note_of("acc_at_val") == ""


def test_it_is_applied_to_other_scores() -> None:
    table = pa.table({"video_id": ["a", "b"], "label": [0, 1], "logit": [1.0, 4.0], "method": ["real", "x"]})
    fitted = Fitted(threshold=3.0, temperature=2.0)
    assert fitted.applied("acc_at_val", table)["logit"].to_pylist() == [-2, 1]
    assert fitted.applied("ece_scaled", table)["logit"].to_pylist() == [0.5, 2]
    assert fitted.applied("brier_scaled", table).column_names == table.column_names
