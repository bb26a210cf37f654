"""RESULTS of perturbed faces: means over levels and datasets, worked out by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from models import Pooling
from pipelines.common import tables
from pipelines.metrics import detection, results
from pipelines.metrics.results import Measurement, Origin, ScoredPart

AUC = ("video", "auc")
FIVE = [f"blur-{level}" for level in range(1, 6)]
ORIGIN = Origin(
    run_id="run", model="plain", train_on="ffpp", seed=0, failed_rule="exclude", pooling=Pooling(), parts=()
)


def measured(dataset: str, perturbation: str, value: float, resampled: Any = None, stage: str = "final") -> Measurement:
    counted = {
        "test_dataset": dataset,
        "part": "test",
        "part_version": 2,
        "part_ids": dataset,
        "codec": "c23" if dataset == "ffpp" else "unknown",
    }
    counted |= {"n_real": 3, "n_fake": 4, "n_padded": 0, "n_missing": 1, "n_excluded": 0}
    floats = np.full(detection.NUM_RESAMPLES, value) if resampled is None else resampled
    return Measurement(
        stage=stage, perturbation=perturbation, dataset=dataset, counted=counted, numbers={AUC: (value, floats)}
    )


def test_a_family_is_the_mean_over_its_levels_on_the_same_resamples() -> None:
    """One level rises with the resample, another falls: their mean does not move."""
    up = np.linspace(0, 1, detection.NUM_RESAMPLES)
    levels = [measured("dfdc", name, 0.1 * i, up if i % 2 else 1 - up) for i, name in enumerate(FIVE[:4])]
    levels.append(measured("dfdc", FIVE[4], 0.9, np.full(detection.NUM_RESAMPLES, 0.5)))
    (mean,) = results.means(ORIGIN, [measured("dfdc", "", 0.8), *levels])
    assert (mean.part, mean.perturbation, mean.stage) == ("dfdc", "blur", "final")
    value, resampled = mean.numbers[AUC]
    assert value == pytest.approx((0 + 0.1 + 0.2 + 0.3 + 0.9) / 5)
    np.testing.assert_allclose(resampled, 0.5)
    (row,) = results.to_rows(ORIGIN, mean, "commit")
    assert (row["low"], row["high"]) == pytest.approx((0.5, 0.5))
    assert (row["n_real"], row["n_fake"], row["perturbation"]) == (3, 4, "blur")
    tables.to_table([row], tables.RESULTS)


def test_without_all_levels_and_of_one_dataset_there_is_no_mean() -> None:
    assert results.means(ORIGIN, [measured("dfdc", name, 0.5) for name in FIVE[:4]]) == []
    assert results.means(ORIGIN, [measured("ffpp", "", 0.9), measured("dfdc", "", 0.5)]) == []


def test_clean_faces_alone_have_a_mean_over_unseen_datasets() -> None:
    (mean,) = results.means(ORIGIN, [measured(name, "", v) for name, v in (("ffpp", 1), ("dfdc", 0.5), ("ffiw", 0.6))])
    assert (mean.part, mean.perturbation, mean.numbers[AUC][0]) == ("unseen", "", pytest.approx(0.55))


def test_unseen_is_the_mean_over_the_datasets_not_trained_on() -> None:
    values = {"ffpp": 1.0, "dfdc": 0.6, "celeb_df": 0.7, "ffiw": 0.8}
    found = [measured(name, p, v - 0.1 * bool(p)) for name, v in values.items() for p in ("", "jpeg-50")]
    means = {mean.perturbation: mean for mean in results.means(ORIGIN, found)}
    assert {name: mean.numbers[AUC][0] for name, mean in means.items()} == pytest.approx({"": 0.7, "jpeg-50": 0.6})
    assert {mean.part for mean in means.values()} == {"unseen"}
    (row,) = results.to_rows(ORIGIN, means[""], "commit")
    assert (row["n_real"], row["n_fake"], row["n_missing"], row["codec"]) == (9, 12, 3, "unknown")


def test_the_mean_over_levels_is_averaged_over_datasets_too() -> None:
    found = [measured(name, p, 0.1 * i) for i, p in enumerate(FIVE) for name in ("dfdc", "ffiw")]
    means = {(mean.part, mean.perturbation): mean.numbers[AUC][0] for mean in results.means(ORIGIN, found)}
    assert means["unseen", "blur"] == pytest.approx(0.2)
    assert means["unseen", "blur-4"] == pytest.approx(0.3)


def test_datasets_of_one_size_are_resampled_apart() -> None:
    """The same chance in both would make the mean's interval as wide as theirs; apart, it is narrower."""
    chance = np.random.default_rng(0).normal(0.7, 0.1, detection.NUM_RESAMPLES)
    found = [measured(name, "jpeg-50", 0.7, chance) for name in ("dfdc", "ffiw", "celeb_df", "dfd")]
    (mean,) = results.means(ORIGIN, found)
    assert mean.numbers[AUC][1].std() == pytest.approx(0.1 / 2, rel=0.1)


def test_manipulations_of_the_training_dataset_are_not_unseen() -> None:
    several = [measured("ffpp", "jpeg-50", 0.7), measured("ffpp", "jpeg-50", 0.8)]
    assert results.means(ORIGIN, several) == []


def test_every_stage_has_means_of_its_own() -> None:
    found = [measured("dfdc", p, v, stage=s) for p in FIVE for s, v in (("detect", 0.5), ("final", 0.7))]
    assert {mean.stage: mean.numbers[AUC][0] for mean in results.means(ORIGIN, found)} == pytest.approx(
        {"detect": 0.5, "final": 0.7}
    )


def block(perturbation: str, *scores: float) -> tuple[dict[str, str], pa.Table]:
    """One real video, then fake ones, a frame each."""
    rows = [
        dict.fromkeys(tables.PREDICTIONS.names)
        | {"stage": "final", "perturbation": perturbation, "dataset": "dfdc", "video_id": f"dfdc/{i}", "method": "x"}
        | {"frame_index": 0, "face_index": 0, "label": int(i > 0), "num_repeated": 0, "face_area_px": 1.0}
        | {"logit": score - 0.5, "score": float(expit(score - 0.5))}
        for i, score in enumerate(scores)
    ]
    return {"part": "dfdc", "stage": "final"}, tables.to_table(rows, tables.PREDICTIONS)


def test_predictions_become_rows_and_means() -> None:
    part = ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown")
    origin = Origin(**{name: getattr(ORIGIN, name) for name in ORIGIN.__slots__} | {"parts": (part,)})
    # AUC by hand: the share of fakes above the real one's 0.5
    blocks = [block("", 0.5, 0.6, 0.7), *(block(name, 0.5, 0.6, 0.4) for name in FIVE[:4]), block(FIVE[4], 0.5, 0.1, 0)]
    rows = results.every_row(origin, blocks, "commit")
    found = {row["perturbation"]: row["value"] for row in rows if (row["level"], row["metric"]) == AUC}
    assert found == pytest.approx({"": 1.0, **dict.fromkeys(FIVE[:4], 0.5), FIVE[4]: 0.0, "blur": 0.4})
    assert tables.to_table(rows, tables.RESULTS).num_rows == len(rows) == 7 * 8
