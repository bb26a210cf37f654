"""Curves of robustness: their points by hand, and a picture where there is something to draw."""

from math import isnan, nan
from pathlib import Path
from typing import Any

import matplotlib.image
import pyarrow as pa
import pytest

from pipelines.common.tables import RESULTS, to_table
from pipelines.reporting import robustness

COMMON: dict[str, Any] = dict.fromkeys(RESULTS.names, "x")
COMMON |= dict.fromkeys(
    ("n_real", "n_fake", "n_clusters", "n_padded", "n_missing", "n_excluded", "seed", "part_version"), 0
)
COMMON |= {"stage": "final", "test_dataset": "ffpp", "perturbation": "", "level": "video", "metric": "auc"}


def results(*rows: dict[str, Any]) -> pa.Table:
    """Intervals reach 0.1 to both sides."""
    return to_table([COMMON | row | {"low": row["value"] - 0.1, "high": row["value"] + 0.1} for row in rows], RESULTS)


def seed(clean: float, *blurred: float, **changes: Any) -> pa.Table:
    levels = [{"perturbation": f"blur-{level}", "value": value} for level, value in enumerate(blurred, 1)]
    return results(*({**changes, **row} for row in ({"value": clean}, *levels)))


def test_a_point_is_the_mean_over_seeds_and_clean_is_level_zero() -> None:
    curve = robustness.points([seed(0.9, 0.8, 0.6), seed(0.7, 0.6, 0.5)], "ffpp", "blur", "video", "auc")
    assert [place for place, *_ in curve] == [0, 1, 2]
    assert [round(value, 6) for _, value, _, _ in curve] == [0.8, 0.7, 0.55]
    assert [(round(low, 6), round(high, 6)) for *_, low, high in curve] == [(0.7, 0.9), (0.6, 0.8), (0.45, 0.65)]


def test_what_else_stands_in_results_is_left_out() -> None:
    table = results(
        {"value": 0.9},
        {"value": 0.7, "perturbation": "blur-2"},
        {"value": 0.1, "perturbation": "blur"},
        {"value": 0.1, "perturbation": "noise-2"},
        {"value": 0.1, "perturbation": "blur-1", "stage": "detect"},
        {"value": 0.1, "perturbation": "blur-1", "level": "frame"},
        {"value": 0.1, "perturbation": "blur-1", "metric": "ap"},
        {"value": 0.1, "perturbation": "blur-1", "test_dataset": "dfdc"},
    )
    curve = robustness.points([table], "ffpp", "blur", "video", "auc")
    assert [(place, value) for place, value, *_ in curve] == [(0, 0.9), (2, 0.7)]


def test_a_row_without_perturbations_has_no_curve() -> None:
    assert robustness.points([seed(0.9)], "ffpp", "blur", "video", "auc") == []
    assert robustness.points([], "ffpp", "blur", "video", "auc") == []


def test_a_number_that_is_not_defined_makes_a_gap() -> None:
    curve = robustness.points([seed(nan, 0.8)], "ffpp", "blur", "video", "auc")
    assert isnan(curve[0][1])
    assert curve[1][1] == 0.8


def test_parts_and_families_are_those_that_were_perturbed() -> None:
    more = results(
        {"value": 0.5, "test_dataset": "dfdc"},
        {"value": 0.5, "test_dataset": "celeb_df", "perturbation": "jpeg-50"},
    )
    assert robustness.scored({"a": [seed(0.9, 0.8)], "b": [more], "c": []}) == (["ffpp", "celeb_df"], ["blur", "jpeg"])
    assert robustness.scored({"a": [seed(0.9)]}) == ([], [])


@pytest.mark.parametrize(("tests", "size"), [(1, (533, 832)), (2, (897, 832))])
def test_the_picture_has_a_panel_for_each_family_and_part(tests: int, size: tuple[int, int], tmp_path: Path) -> None:
    tables = [seed(0.9, 0.8, 0.7, test_dataset=f"part {i}") for i in range(tests)]
    jpeg = results({"value": 0.6, "perturbation": "jpeg-50", "test_dataset": "part 0"})
    path = tmp_path / "curves.png"
    assert robustness.plot(path, "title", "row", {"a": tables, "b": [jpeg], "failed": []}, footer="made up")
    picture = matplotlib.image.imread(path)
    height, width = picture.shape[:2]
    assert (height, width) == pytest.approx(size, rel=0.15)
    assert picture.std() > 0.05


def test_nothing_perturbed_is_no_picture(tmp_path: Path) -> None:
    assert not robustness.plot(tmp_path / "curves.png", "title", "row", {"a": [seed(0.9)], "b": []})
    assert list(tmp_path.iterdir()) == []
