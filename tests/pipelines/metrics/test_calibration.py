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


def test_it_is_applied_to_other_scores() -> None:
    table = pa.table({"video_id": ["a", "b"], "label": [0, 1], "logit": [1.0, 4.0], "method": ["real", "x"]})
    fitted = Fitted(threshold=3.0, temperature=2.0)
    assert fitted.applied("acc_at_val", table)["logit"].to_pylist() == [-2, 1]
    assert fitted.applied("ece_scaled", table)["logit"].to_pylist() == [0.5, 2]
    assert fitted.applied("brier_scaled", table).column_names == table.column_names
