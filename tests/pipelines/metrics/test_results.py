"""RESULTS of perturbed faces: means over levels and datasets, worked out by hand."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy.special import expit

from models import Pooling
from pipelines.common import tables
from pipelines.metrics import detection, results
from pipelines.metrics.names import DETECTING, FITTED
from pipelines.metrics.resampling import NUM_RESAMPLES, Estimate, Population, Resampled
from pipelines.metrics.results import Measurement, Number, Origin, ScoredPart

AUC = ("video", "auc")
FIVE = [f"blur-{level}" for level in range(1, 6)]
ORIGIN = Origin(
    run_id="run", model="plain", train_on="ffpp", seed=0, failed_rule="exclude", pooling=Pooling(), parts=()
)


def measured(
    dataset: str, perturbation: str, value: float, resampled: Any = None, stage: str = "final", part: str = ""
) -> Measurement:
    counted = {
        "test_dataset": part or dataset,
        "part": "test",
        "part_version": 2,
        "part_ids": dataset,
        "codec": "c23" if dataset == "ffpp" else "unknown",
    }
    of_part = {"n_real": 3, "n_fake": 4, "n_padded": 0, "n_missing": 1, "n_excluded": 0}
    # Real videos are the same in all parts of a dataset.
    videos = {
        name: frozenset(f"{dataset if name == 'n_real' else part or dataset} {name} {i}" for i in range(n))
        for name, n in of_part.items()
    }
    floats = np.full(NUM_RESAMPLES, value) if resampled is None else resampled
    numbers = {AUC: Number(resampled=Resampled(value, floats), n_clusters=3)}
    return Measurement(
        stage=stage, perturbation=perturbation, dataset=dataset, counted=counted, videos=videos, numbers=numbers
    )


def value_of(mean: Measurement) -> float:
    return mean.numbers[AUC].resampled.value


def test_a_family_is_the_mean_over_its_levels_on_the_same_resamples() -> None:
    """One level rises with the resample, another falls: their mean does not move."""
    up = np.linspace(0, 1, NUM_RESAMPLES)
    levels = [measured("dfdc", name, 0.1 * i, up if i % 2 else 1 - up) for i, name in enumerate(FIVE[:4])]
    levels.append(measured("dfdc", FIVE[4], 0.9, np.full(NUM_RESAMPLES, 0.5)))
    (mean,) = results.means(ORIGIN, [measured("dfdc", "", 0.8), *levels])
    assert (mean.part, mean.perturbation, mean.stage) == ("dfdc", "blur", "final")
    value, resampled = mean.numbers[AUC].resampled
    assert value == pytest.approx((0 + 0.1 + 0.2 + 0.3 + 0.9) / 5)
    np.testing.assert_allclose(resampled, 0.5)
    (row,) = results.to_rows(ORIGIN, mean, "commit")
    exceptions = 1 - 0.025 ** (1 / 3)  # that three clusters allow, of which none is one
    assert (row["low"], row["high"]) == pytest.approx((0.3 * (1 - exceptions), 0.3 * (1 - exceptions) + exceptions))
    assert row["note"].startswith("the same in all resamples: the interval is what 3 groups")
    assert (row["n_real"], row["n_fake"], row["perturbation"]) == (3, 4, "blur")
    tables.to_table([row], tables.RESULTS)


def test_without_all_levels_and_of_one_dataset_there_is_no_mean() -> None:
    assert results.means(ORIGIN, [measured("dfdc", name, 0.5) for name in FIVE[:4]]) == []
    assert results.means(ORIGIN, [measured("ffpp", "", 0.9), measured("dfdc", "", 0.5)]) == []


def test_clean_faces_alone_have_a_mean_over_unseen_datasets() -> None:
    (mean,) = results.means(ORIGIN, [measured(name, "", v) for name, v in (("ffpp", 1), ("dfdc", 0.5), ("ffiw", 0.6))])
    assert (mean.part, mean.perturbation, value_of(mean)) == ("unseen", "", pytest.approx(0.55))


def test_unseen_is_the_mean_over_the_datasets_not_trained_on() -> None:
    values = {"ffpp": 1.0, "dfdc": 0.6, "celeb_df": 0.7, "ffiw": 0.8}
    found = [measured(name, p, v - 0.1 * bool(p)) for name, v in values.items() for p in ("", "jpeg-50")]
    means = {mean.perturbation: mean for mean in results.means(ORIGIN, found)}
    assert {name: value_of(mean) for name, mean in means.items()} == pytest.approx({"": 0.7, "jpeg-50": 0.6})
    assert {mean.part for mean in means.values()} == {"unseen"}
    (row,) = results.to_rows(ORIGIN, means[""], "commit")
    assert (row["n_real"], row["n_fake"], row["n_missing"], row["codec"]) == (9, 12, 3, "unknown")


def test_the_mean_over_levels_is_averaged_over_datasets_too() -> None:
    found = [measured(name, p, 0.1 * i) for i, p in enumerate(FIVE) for name in ("dfdc", "ffiw")]
    means = {(mean.part, mean.perturbation): value_of(mean) for mean in results.means(ORIGIN, found)}
    assert means["unseen", "blur"] == pytest.approx(0.2)
    assert means["unseen", "blur-4"] == pytest.approx(0.3)


def test_a_dataset_of_which_several_parts_are_scored_counts_once_in_unseen() -> None:
    """Manipulations at 0.5 and 0.7, of another dataset all at 0.9: (0.6 + 0.9) / 2; they share three real videos."""
    parts = [measured("dfdc", "", value, part=f"dfdc/{value}") for value in (0.5, 0.7)]
    assert results.means(ORIGIN, parts) == []
    (mean,) = results.means(ORIGIN, [*parts, measured("ffiw", "", 0.9), measured("ffpp", "", 1)])
    assert value_of(mean) == pytest.approx(0.75)
    (row,) = results.to_rows(ORIGIN, mean, "commit")
    assert (row["n_real"], row["n_fake"]) == (3 + 3, 2 * 4 + 4)


def test_parts_that_share_videos_are_resampled_together() -> None:
    """Two datasets of the very same videos say no more than one; apart, their mean would be narrower by a third."""
    parts = tuple(ScoredPart(name=n, dataset=n, split="test", codec="unknown") for n in ("dfdc", "ffiw"))
    scores = np.random.default_rng(0).normal(0.5, 0.1, 60)
    table = block("", *scores)[1].to_pylist()
    table = tables.to_table([row | {"label": int(i > 29)} for i, row in enumerate(table)], tables.PREDICTIONS)
    blocks = [({"part": part.name, "stage": "final"}, table) for part in parts]
    rows = results.every_row(replace(ORIGIN, parts=parts), blocks, "commit")
    width = {row["test_dataset"]: row["high"] - row["low"] for row in rows if (row["level"], row["metric"]) == AUC}
    assert width["unseen"] == pytest.approx(width["dfdc"])


def test_a_temperature_at_an_end_of_its_search_is_noted_beside_what_it_scales() -> None:
    part = ScoredPart(name="ffpp", dataset="ffpp", split="val", codec="c23")
    val = two_methods()[1].slice(0, 4)
    val = val.set_column(val.schema.get_field_index("logit"), "logit", pa.array([-1.0, -2.0, 4.0, 6.0]))
    rows = results.every_row(
        replace(FFPP, validation=part),
        [two_methods()],
        "commit",
        validation=[({"part": "ffpp", "stage": "final"}, val)],
    )
    noted = {row["metric"] for row in rows if "the lowest that is tried" in row["note"]}
    assert noted == {"ece_scaled", "brier_scaled"}


def test_datasets_of_one_size_are_resampled_apart() -> None:
    """The same chance in all would make the mean's interval as wide as theirs; apart, it is half as wide."""
    parts = tuple(ScoredPart(name=n, dataset=n, split="test", codec="unknown") for n in ("dfdc", "ffiw", "dfd", "x"))
    scores = np.random.default_rng(0).normal(0.5, 0.1, 60)
    blocks = []
    for part in parts:
        table = block("", *scores)[1].to_pylist()
        table = [row | {"video_id": f"{part.name}/{i}", "label": int(i > 29)} for i, row in enumerate(table)]
        blocks.append(({"part": part.name, "stage": "final"}, tables.to_table(table, tables.PREDICTIONS)))
    rows = results.every_row(replace(ORIGIN, parts=parts), blocks, "commit")
    width = {row["test_dataset"]: row["high"] - row["low"] for row in rows if (row["level"], row["metric"]) == AUC}
    assert width["dfd"] == pytest.approx(width["dfdc"], rel=0.02)
    assert width["unseen"] == pytest.approx(width["dfdc"] / 2, rel=0.1)


def test_manipulations_of_the_training_dataset_are_not_unseen() -> None:
    several = [measured("ffpp", "jpeg-50", 0.7), measured("ffpp", "jpeg-50", 0.8)]
    assert results.means(ORIGIN, several) == []


def test_every_stage_has_means_of_its_own() -> None:
    found = [measured("dfdc", p, v, stage=s) for p in FIVE for s, v in (("detect", 0.5), ("final", 0.7))]
    assert {mean.stage: value_of(mean) for mean in results.means(ORIGIN, found)} == pytest.approx(
        {"detect": 0.5, "final": 0.7}
    )


def block(perturbation: str, *scores: float) -> tuple[dict[str, str], pa.Table]:
    """One real video, then fake ones, a frame each."""
    rows = [
        dict.fromkeys(tables.PREDICTIONS.names)
        | {"stage": "final", "perturbation": perturbation, "dataset": "dfdc", "video_id": f"dfdc/{i}", "method": "x"}
        | {
            "frame_index": 0,
            "face_index": 0,
            "label": int(i > 0),
            "logit": score - 0.5,
            "score": float(expit(score - 0.5)),
            "num_repeated": 0,
            "face_area_px": 1.0,
        }
        for i, score in enumerate(scores)
    ]
    return {"part": "dfdc", "stage": "final"}, tables.to_table(rows, tables.PREDICTIONS)


def test_predictions_become_rows_and_means() -> None:
    part = ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown")
    origin = replace(ORIGIN, parts=(part,))
    # AUC by hand: the share of fakes above the real one's 0.5
    blocks = [block("", 0.5, 0.6, 0.7), *(block(name, 0.5, 0.6, 0.4) for name in FIVE[:4]), block(FIVE[4], 0.5, 0.1, 0)]
    rows = results.every_row(origin, blocks, "commit")
    found = {row["perturbation"]: row["value"] for row in rows if (row["level"], row["metric"]) == AUC}
    assert found == pytest.approx({"": 1.0, **dict.fromkeys(FIVE[:4], 0.5), FIVE[4]: 0.0, "blur": 0.4})
    scored = {*DETECTING, *FITTED}
    assert tables.to_table(rows, tables.RESULTS).num_rows == len(rows) == 7 * 2 * len(scored)
    assert {row["metric"] for row in rows} == scored


def test_videos_in_clips_that_repeat_a_frame_are_counted_once() -> None:
    """One stage scores one of the two faces of a fake in a clip that repeats 3 frames; their mean says so too."""
    measured_on, table = block("", 0.5, 0.6, 0.7)
    first = [row | {"frame_index": frame} for row in table.to_pylist() for frame in range(2)]
    clips = [row | {"stage": "clips", "num_repeated": 3 * (i == 2)} for i, row in enumerate(first)]
    final = detection.mean_of_stages([tables.to_table(rows, tables.PREDICTIONS) for rows in (first, clips)])
    part = ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown")
    for scored, num_padded in ((final, 1), (table, 0)):
        rows = results.every_row(replace(ORIGIN, parts=(part,)), [(measured_on, scored)], "commit")
        assert {row["n_padded"] for row in rows} == {num_padded}


def test_what_is_not_defined_has_a_reason() -> None:
    part = ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown")
    (measured_on, table) = block("", 0.5, 0.6, 0.7)
    rows = results.every_row(replace(ORIGIN, parts=(part,)), [(measured_on, table)], "commit")
    reasons = {row["metric"]: row["reason"] for row in rows if row["level"] == "video" and np.isnan(row["value"])}
    assert reasons == {
        "tpr_at_fpr_0_01": "1 real videos: a false positive rate of 1% takes 100",
        "tpr_at_fpr_0_05": "1 real videos: a false positive rate of 5% takes 20",
        **dict.fromkeys(FITTED, "no scores of a validation part"),
    }
    only_fakes = table.filter(pc.equal(table["label"], 1))
    rows = results.every_row(replace(ORIGIN, parts=(part,)), [(measured_on, only_fakes)], "commit")
    assert {row["reason"] for row in rows if row["level"] == "video"} == {"0 real and 2 fake videos"}
    assert all(np.isnan(row["value"]) for row in rows)


def two_methods() -> tuple[dict[str, str], pa.Table]:
    """Two real videos with log odds 0 and 1; fakes of `a`: 2 and 0.5; of `b`: -1."""
    videos = [("r0", 0, "real", 0.0), ("r1", 0, "real", 1.0), ("f0", 1, "a", 2.0), ("f1", 1, "a", 0.5)]
    rows = [
        block("", 0.5)[1].to_pylist()[0] | {"video_id": name, "label": label, "method": method, "logit": z}
        for name, label, method, z in (*videos, ("f2", 1, "b", -1.0))
    ]
    return {"part": "ffpp", "stage": "final"}, tables.to_table(rows, tables.PREDICTIONS)


FFPP = replace(ORIGIN, parts=(ScoredPart(name="ffpp", dataset="ffpp", split="test", codec="c23"),))


def test_each_manipulation_has_an_auc_against_all_real_videos_and_they_have_a_mean() -> None:
    rows = results.every_row(FFPP, [two_methods()], "commit")
    aucs = {row["test_dataset"]: row for row in rows if (row["level"], row["metric"]) == AUC}
    # of pairs with r0, r1: f0 wins 2, f1 wins 1, f2 none
    assert {name: row["value"] for name, row in aucs.items()} == {"ffpp": 3 / 6, "ffpp/a": 3 / 4, "ffpp/b": 0.0}
    assert [(row["n_real"], row["n_fake"]) for row in aucs.values()] == [(2, 3), (2, 2), (2, 1)]
    (macro,) = (row for row in rows if row["metric"] == "macro_auc")
    assert (macro["test_dataset"], macro["value"]) == ("ffpp", (3 / 4 + 0) / 2)
    by_name = {row["metric"] for row in rows if row["test_dataset"] == "ffpp/a"}
    assert by_name == {"auc"}


def test_threshold_and_temperature_come_from_validation_alone() -> None:
    """On validation, reals have log odds 1 and 2, fakes 4 and 6: the threshold is 3, so all test videos are real."""
    part = ScoredPart(name="ffpp", dataset="ffpp", split="val", codec="c23")
    val = two_methods()[1].slice(0, 4)
    val = val.set_column(val.schema.get_field_index("logit"), "logit", pa.array([1.0, 2.0, 4.0, 6.0]))
    origin = replace(FFPP, validation=part)
    validation = [({"part": "ffpp", "stage": "final"}, val)]
    rows = results.every_row(origin, [two_methods()], "commit", validation=validation)
    found = {row["metric"]: row["value"] for row in rows if row["level"] == "video" and row["test_dataset"] == "ffpp"}
    assert found["acc_at_val"] == 2 / 5
    assert found["acc_at_0_5"] == 3 / 5  # r0 at exactly one half counts as real; f0 and f1 are found
    assert results.validated(origin, validation)["final", "video"].threshold == 3
    assert Origin.of_json(json.loads(json.dumps(origin.to_json()))) == origin


@pytest.mark.parametrize(("num_real", "at_1", "at_5"), [(140, 1, 7), (1000, 10, 50)])
def test_a_rate_at_a_false_positive_rate_rests_on_the_reals_above_its_threshold(
    num_real: int, at_1: int, at_5: int
) -> None:
    """One of 140 real videos decides where 1 % is: that says nothing of others."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [num_real, 200])
    logits = rng.normal(size=len(labels)) + 2 * labels
    table = pa.table({"video_id": [f"{i:05}" for i in range(len(labels))], "label": labels, "logit": logits})
    population = Population.of([table], None)
    wanted = {"tpr_at_fpr_0_01": at_1, "tpr_at_fpr_0_05": at_5, "auc": min(200, num_real)}
    detected = results.detected("video", table, "none", population)
    for metric, n in wanted.items():
        assert results.number(metric, table, population).n_clusters == detected[metric].n_clusters == n
        low, high = Estimate.of(detected[metric].resampled, n).interval()
        assert ((low, high) == (0, 1)) == (n == 1)


def test_videos_of_one_person_make_intervals_wider() -> None:
    """Sixty videos of six people, who decide the score: what holds for people is not known from sixty of them."""
    rng = np.random.default_rng(1)
    person, effects = np.repeat(np.arange(6), 10), rng.normal(size=(2, 6))
    rows = [
        block("", 0.5)[1].to_pylist()[0]
        | {"video_id": f"{label}/{i:02}", "label": label, "logit": label + effects[label][person[i]] + rng.normal() / 5}
        for label in (0, 1)
        for i in range(60)
    ]
    part = ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown")
    table = tables.to_table(rows, tables.PREDICTIONS)
    people = [[f"{row['label']} {person[int(row['video_id'][2:])]}"] for row in rows]
    sources = pa.table({"video_id": [row["video_id"] for row in rows], "source_ids": people}, tables.SOURCES)
    width, number = {}, {}
    for name, known in (("people", sources), ("videos", None)):
        of_run = results.every_row(
            replace(ORIGIN, parts=(part,)), [({"part": "dfdc", "stage": "final"}, table)], "c", known
        )
        (row,) = (row for row in of_run if (row["level"], row["metric"]) == AUC)
        width[name], number[name] = row["high"] - row["low"], row["n_clusters"]
    assert number == {"people": 6, "videos": 60}
    assert width["people"] > 2 * width["videos"]
