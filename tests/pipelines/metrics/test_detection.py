"""Expected values are worked out by hand, or come from scikit-learn, or from a property that must hold."""

import math
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit, logit
from sklearn import metrics as sk

from models import Pooling
from pipelines.common import tables
from pipelines.metrics import detection, resampling, results
from pipelines.metrics.names import AT_HALF, CALIBRATION, DETECTING, RANKING, TPR_AT
from pipelines.metrics.ranking import Ranking
from pipelines.metrics.results import Origin, ScoredPart

MASK_COLUMNS = ("mask_tp", "mask_fp", "mask_fn", "mask_tn")


def face(video_id: str, label: int, score: float, frame_index: int = 0, **changes) -> dict:
    row = dict.fromkeys(tables.PREDICTIONS.names) | {
        "face_area_px": 1.0,
        "stage": "detect",
        "perturbation": "",
        "dataset": "made_up",
        "method": "any",
    }
    return row | {
        "video_id": video_id,
        "frame_index": frame_index,
        "face_index": 0,
        "label": label,
        "logit": float(logit(score)),
        "score": float(expit(logit(score))),
        "num_repeated": 0,
        **changes,
    }


def table(rows: list[dict]) -> pa.Table:
    return tables.to_table(rows, tables.PREDICTIONS)


def random_predictions(num_videos: int, frames: int = 1, seed: int = 0, copies: int = 1) -> pa.Table:
    """Overlapping classes; each frame `copies` times."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_videos):
        scores = np.clip(rng.normal(0.4 + 0.2 * (i % 2), 0.2, frames), 0, 1)
        rows += [face(f"v{i:03d}", i % 2, s, f) for f, s in enumerate(np.repeat(scores, copies))]
    return table(rows)


def with_ties(seed: int, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, size - 2))
    return labels, rng.integers(0, 8, size) / 8


def plain(metric: str) -> Callable[..., float]:
    """A function of labels and scores that returns a metric of them, each score of a video of its own."""

    def value(labels, scores) -> float:
        videos = pa.table(
            {"video_id": [f"{i:05}" for i in range(len(labels))], "label": labels, "logit": np.array(scores) - 0.5}
        )
        return detection.ranked(videos, np.ones((len(labels), 1), np.float32), (metric,))[metric][0]

    return value


class Number(NamedTuple):
    """A row of RESULTS."""

    value: float
    low: float
    high: float


def measured(predictions: pa.Table, level: str, every_face: tuple[str, ...] = ()) -> dict[str, Number]:
    """Metric -> its row of RESULTS at a level, where it is defined."""
    part = ScoredPart(name="made_up", dataset="made_up", split="test", codec="c23", every_face=every_face)
    origin = Origin(
        run_id="r", model="plain", train_on="ffpp", seed=0, failed_rule="exclude", pooling=Pooling(), parts=(part,)
    )
    rows = results.every_row(origin, [({"part": "made_up", "stage": "detect"}, predictions)], "commit")
    rows = [row for row in rows if row["level"] == level and not row["reason"]]
    return {row["metric"]: Number(row["value"], row["low"], row["high"]) for row in rows}


def weights_of(videos: pa.Table) -> np.ndarray:
    """What each video counts in each resample, where no source is known."""
    return detection.clusters(videos, resampling.Population.of([videos], None))[0].weights()


def localized(predictions: pa.Table) -> dict[str, Number]:
    """`iou` and `pbca` of PREDICTIONS, where they have any."""
    found = measured(predictions, "frame")
    return {name: found[name] for name in ("iou", "pbca") if name in found}


# -------------------------------------------------------------------------------- single numbers
def test_auc_counts_won_pairs_and_half_of_the_tied():
    # real .1 .4, fake .4 .8: pairs (.1, .4) (.1, .8) (.4, .8) won, (.4, .4) tied
    assert detection.auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 3.5 / 4


def test_ap_by_hand():
    # fakes at ranks 1 and 3: precision 1 and 2/3, a step of 1/2 in recall each
    assert plain("ap")([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx((1 + 2 / 3) / 2)


def test_eer_lies_between_two_points_of_the_roc():
    # ROC (FPR, TPR): (0, 0) (0, 1/2) (1/2, 1/2) (1/2, 1) (1, 1); FPR = 1 - TPR at (1/2, 1/2)
    assert plain("eer")([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx(0.5)
    # 1 of 3 fakes below the reals, reals tied: the segment (0, 2/3) -> (1, 1) meets FPR = 1 - TPR at 1/4
    assert plain("eer")([1, 1, 0, 0, 1], [0.9, 0.8, 0.5, 0.5, 0.5]) == pytest.approx(0.25)


def test_accuracy_takes_a_score_of_one_half_for_real():
    assert detection.accuracy([0, 1, 1, 0], [0.5, 0.5, 0.51, 0.7]) == 0.5


@pytest.mark.parametrize("seed", range(8))
def test_random_scores_with_ties_agree_with_scikit_learn(seed):
    labels, scores = with_ties(seed)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    share = np.linspace(0, 1, 2001)[:, None]  # along each segment of the ROC, vertical ones too
    x, y = (a[:-1] + share * (a[1:] - a[:-1]) for a in (fpr, tpr))
    crossing = x.ravel()[np.argmin(np.abs(x - (1 - y)).ravel())]
    assert detection.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
    assert plain("ap")(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores))
    assert detection.accuracy(labels, scores) == pytest.approx(sk.accuracy_score(labels, scores > 0.5))
    assert plain("eer")(labels, scores) == pytest.approx(crossing, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "auc", "eer"),
    [([0.5] * 4, 0.5, 0.5), ([0.1, 0.2, 0.7, 0.9], 1.0, 0.0), ([0.9, 0.8, 0.2, 0.1], 0.0, 1.0)],
    ids=["constant", "perfect", "perfectly wrong"],
)
def test_ends_of_the_scale(scores, auc, eer):
    assert detection.auc([0, 0, 1, 1], scores) == auc
    assert plain("eer")([0, 0, 1, 1], scores) == eer


def test_infinite_scores_are_tied():
    """Those of another detector that gives P(fake) = 0 and 1 have such log odds."""
    assert detection.auc([0, 0, 1, 1], [-math.inf, math.inf, math.inf, math.inf]) == 3 / 4


@pytest.mark.parametrize("metric", [detection.auc, detection.accuracy, detection.roc])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "0 real and 2 fake"),
        ([0, 0], [0.1, 0.2], "2 real and 0 fake"),
        ([], [], "0 real and 0 fake"),
        ([0, 1], [0.1, math.nan], "1 of 2 scores are NaN"),
        ([0, 1], [0.1], "equal length"),
        ([0, 2], [0.1, 0.2], r"0 \(real\) or 1 \(fake\)"),
    ],
)
def test_refuses_what_has_no_value(metric, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, scores)


def test_a_label_between_the_classes_is_refused():
    with pytest.raises(ValueError, match="labels must be 0"):
        detection.auc([0.0, 0.9, 1.0], [0.1, 0.2, 0.3])


def by_definition(labels: np.ndarray, z: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """Every metric of log odds z, of which each counts w times, from scikit-learn or in a loop.

    In ap, acc, ece and brier, which depend on it, reals and fakes are as many to one another as without weights.
    """
    p, share = (
        expit(z),
        np.where(labels == 1, np.mean(labels) / w[labels == 1].sum(), (1 - np.mean(labels)) / w[labels == 0].sum()),
    )
    mixed = w * share
    fpr, tpr, _ = sk.roc_curve(labels, z, sample_weight=w, drop_intermediate=False)
    edges = np.linspace(0, 1, 16)
    bins = [(low <= p) & ((p < high) | (high == 1)) for low, high in pairwise(edges)]
    return {
        "auc": sk.roc_auc_score(labels, z, sample_weight=w),
        "ap": sk.average_precision_score(labels, z, sample_weight=mixed),
        "eer": plain("eer")(np.repeat(labels, w), np.repeat(z, w)),
        **{name: tpr[fpr <= most + 1e-12].max() for name, most in TPR_AT.items()},
        "acc_at_0_5": sk.accuracy_score(labels, p > 0.5, sample_weight=mixed),
        "balanced_acc_at_0_5": sk.balanced_accuracy_score(labels, p > 0.5, sample_weight=w),
        "ece": sum(abs((mixed * (p - labels))[within].sum()) for within in bins),
        "brier": sk.brier_score_loss(labels, p, sample_weight=mixed),
    }


@pytest.mark.parametrize("steps", [3, 8, 10**6])  # of the scores: hardly one is alone, some are, all are
def test_in_a_resample_every_face_counts_as_often_as_its_video(steps):
    rng = np.random.default_rng(steps)
    labels = rng.permutation([0] * 5 + [1] * 9)
    drawn = rng.integers(0, 4, (14, 6))
    drawn[np.argmin(labels)] = drawn[np.argmax(labels)] = 1  # so that no resample lacks a class
    of_face = rng.permutation(np.repeat(np.arange(14), rng.integers(1, 5, 14)))
    z = rng.integers(0, steps, len(of_face)) / steps * 4 - 2
    videos = pa.table({"video_id": [f"v{i:02}" for i in of_face], "label": labels[of_face], "logit": z})
    found = detection.ranked(videos, drawn.astype(np.float32))
    assert found.keys() == {*DETECTING} == {*RANKING, *AT_HALF, *CALIBRATION}
    again = [by_definition(labels[of_face], z, times[of_face]) for times in (np.ones(14, int), *drawn.T)]
    for name, (value, resampled) in found.items():
        np.testing.assert_allclose([value, *resampled], [each[name] for each in again], rtol=0, atol=1e-6)


def test_a_large_part_is_resampled_in_little_memory_and_a_video_stays_whole():
    """20,000 faces x 1000 resamples would be 160 MB for each array of numbers. In every resample all faces of a video
    score the same, so the frames say what the videos do."""
    rng = np.random.default_rng(0)
    labels, scores = np.arange(400) % 2, rng.normal(np.arange(400) % 2, 1)
    ids = rng.permutation([f"v{i:03}" for i in range(400)])
    videos = pa.table({"video_id": ids, "label": labels, "logit": scores - 0.5})
    drawn = weights_of(videos)
    frames = pa.table({name: np.tile(videos[name].to_numpy(zero_copy_only=False), 50) for name in videos.column_names})
    tracemalloc.start()
    found = detection.ranked(frames, drawn)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6
    for name, (value, resampled) in detection.ranked(videos, drawn).items():
        assert found[name][0] == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(found[name][1], resampled, rtol=0, atol=1e-6)


def test_chunks_of_resamples_do_not_change_them(monkeypatch):
    labels, scores = with_ties(3, size=40)
    videos = pa.table({"video_id": [f"v{i // 2:02}" for i in range(40)], "label": np.sort(labels), "logit": scores})
    drawn = weights_of(videos)
    whole = detection.ranked(videos, drawn)
    monkeypatch.setattr(detection, "CHUNK_VALUES", 40 * 7)
    for name, (value, resampled) in detection.ranked(videos, drawn).items():
        assert value == whole[name][0]
        np.testing.assert_array_equal(resampled, whole[name][1])


def test_the_roc_goes_from_none_to_all_with_a_slope_where_real_and_fake_are_tied():
    fpr, tpr = detection.roc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])
    assert (fpr.tolist(), tpr.tolist()) == ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    assert np.trapezoid(tpr, fpr) == detection.auc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1]) == 7 / 8


# Ten faces; the bins of the calibration error are a fifteenth wide.
@pytest.mark.parametrize(
    ("metric", "labels", "scores", "expected"),
    [
        # one of two reals and two of three fakes are right
        ("balanced_acc_at_0_5", [0, 0, 1, 1, 1], [0.1, 0.9, 0.9, 0.8, 0.2], (1 / 2 + 2 / 3) / 2),
        ("acc_at_0_5", [0, 0, 1, 1, 1], [0.1, 0.9, 0.9, 0.8, 0.2], 3 / 5),
        ("brier", [0, 1], [0.25, 0.5], (0.25**2 + 0.5**2) / 2),
        # two scores of .9, one of them right: off by .4; two of .1, both right: off by .1
        ("ece", [1, 0, 0, 0], [0.9, 0.9, 0.1, 0.1], (0.4 + 0.1) / 2),
        ("ece", [1, 0], [1.0, 0.0], 0.0),
    ],
)
def test_decisions_and_calibration_by_hand(metric, labels, scores, expected):
    z = logit(np.array(scores))
    videos = pa.table({"video_id": [f"{i}" for i in range(len(z))], "label": labels, "logit": z})
    found = detection.ranked(videos, np.ones((len(z), 2), np.float32), (metric,))[metric]
    assert found.value == pytest.approx(expected)
    assert found.resampled.tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize(
    ("false", "expected"), [(0.0, 1 / 2), (0.25, 3 / 4), (0.3, 3 / 4), (0.74, 3 / 4), (0.75, 1.0), (1.0, 1.0)]
)
def test_true_positive_rate_at_a_false_positive_rate(false, expected):
    """From the highest score down: two fakes, a real, a fake, a real, one of each that are tied, a real."""
    z, y = np.array([8.0, 7, 6, 5, 4, 3, 3, 2]), np.array([1, 1, 0, 1, 0, 1, 0, 0])
    # FPR, TPR after these: (0, 1/2), (1/4, 1/2), (1/4, 3/4), (1/2, 3/4), the tie (3/4, 1), (1, 1)
    assert Ranking(y, z).once().tpr_at(false).tolist() == [expected]


def test_what_a_false_positive_rate_takes():
    assert detection.undefined("tpr_at_fpr_0_01", [0] * 99 + [1]).startswith("99 real videos: ")
    assert detection.undefined("tpr_at_fpr_0_01", [0] * 100 + [1]) == ""
    assert detection.undefined("tpr_at_fpr_0_05", [0] * 20 + [1]) == ""
    assert detection.undefined("auc", [0] * 20, "faces") == "20 real and 0 fake faces"


# ---------------------------------------------------------------------------------------- tables
def test_one_file_name_in_three_folders_is_three_videos_scored_by_their_mean():
    faces = [("real/000", 0, 0.25), ("real/000", 0, 0.75), ("Deepfakes/000", 1, 0.75), ("Face2Face/000", 1, 0.5)]
    videos = detection.by_video(table([face(*row, frame_index=i) for i, row in enumerate(faces)]))
    assert [list(row.values()) for row in videos.select(["video_id", "label", "score"]).to_pylist()] == [
        ["Deepfakes/000", 1, pytest.approx(0.75)],
        ["Face2Face/000", 1, 0.5],
        ["real/000", 0, 0.5],
    ]
    assert detection.auc(videos["label"], videos["score"]) == 0.75  # of two pairs one is won, one tied


# ---------------------------------------------------------------------------------------- pooling
def pooled(scored: list[tuple[int, float, float]], **rules) -> float:
    """Score of one video from (frame, score, area) of its faces; rules: of `Pooling`."""
    rows = [
        face("v", 1, score, frame, face_area_px=area, face_index=i) for i, (frame, score, area) in enumerate(scored)
    ]
    return detection.by_video(table(rows), Pooling(**rules))["score"][0].as_py()


FACES = [(0, 0.25, 100.0), (0, 0.75, 60.0), (1, 0.5, 100.0), (2, 0.0, 100.0)]


def test_a_face_counts_once_whatever_frame_it_is_in_unless_the_method_says_otherwise():
    assert pooled(FACES) == pytest.approx(1.5 / 4)
    assert pooled(FACES, faces="max") == pytest.approx((0.75 + 0.5 + 0.0) / 3)


def test_faces_far_smaller_than_the_largest_of_their_frame_do_not_count():
    """Of the notes on SBI: a face below half of the largest area is discarded."""
    with_small = [*FACES, (0, 1.0, 49.0)]
    assert pooled(with_small, faces="max", min_area=0.5) == pooled(FACES, faces="max", min_area=0.5)
    assert pooled(with_small, faces="max") == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert pooled([(0, 0.2, 100.0), (1, 0.8, 10.0)], min_area=0.5) == pytest.approx(0.5)  # alone in its frame


def test_mean_of_log_odds():
    # log odds of 0.5 and 0.9 are 0 and ln 9: the mean is ln 3, which is 3 : 1
    assert pooled([(0, 0.5, 1.0), (1, 0.9, 1.0)], frames="mean_logit") == pytest.approx(0.75)
    assert pooled([(0, 1 - 1e-9, 1.0), (1, 1e-9, 1.0)], frames="mean_logit") == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("rules", [{}, {"frames": "mean_logit"}, {"faces": "max", "min_area": 0.5}])
@pytest.mark.parametrize(("lower", "higher"), [(20.0, 25.0), (40.0, 45.0), (-45.0, -40.0)])
def test_scores_that_are_nearly_sure_still_rank_videos(rules, lower, higher):
    """P(fake) is 1 in 32 bits from a logit of 17 on, in 64 from 37 on: what is made of it would be tied."""
    rows = [face("real", 0, 0.5, f, logit=z) for f, z in enumerate((lower, lower + 1))]
    rows += [face("fake", 1, 0.5, f, logit=z) for f, z in enumerate((higher, higher + 1))]
    stages = [table(rows), table([row | {"stage": "other", "logit": row["logit"] + 0.5} for row in rows])]
    fake, real = detection.by_video(detection.mean_of_stages(stages), Pooling(**rules)).to_pylist()
    assert lower < real["logit"] < lower + 1.5 < higher < fake["logit"] < higher + 1.5
    videos = measured(detection.mean_of_stages(stages), "video")
    assert (videos["auc"].value, videos["ap"].value, videos["eer"].value) == (1, 1, 0)


def test_the_mean_score_of_logits_is_that_of_their_probabilities():
    z = np.random.default_rng(0).normal(0, 6, (3, 50))
    np.testing.assert_allclose(expit(detection.mean_score(z)), expit(z).mean(0), rtol=1e-12)
    # (1/4 + 3/4) / 2 is one half; of 1 - e^-40 and 1 - e^-41, what is missing to 1 is the mean of what is missing
    assert detection.mean_score([-math.log(3), math.log(3)]) == pytest.approx(0, abs=1e-15)
    assert detection.mean_score([40.0, 41.0]) == pytest.approx(40 - math.log((1 + math.exp(-1)) / 2), abs=1e-12)


# Of a crowd: frame 0 with scores .2 and .9, frame 1 with .4 and .6 (areas in brackets: the forged faces are small).
CROWD = [(0, 0.2, 100.0), (0, 0.9, 10.0), (1, 0.4, 100.0), (1, 0.6, 10.0)]


def crowd(video_id: str, label: int) -> list[dict]:
    return [
        face(video_id, label, score, frame, face_area_px=area, face_index=i % 2)
        for i, (frame, score, area) in enumerate(CROWD)
    ]


@pytest.mark.parametrize(
    ("rules", "score"),
    [
        ({}, (0.9 + 0.6) / 2),
        ({"faces": "max", "min_area": 0.5}, (0.9 + 0.6) / 2),  # a method's own rule would drop the small faces
        ({"frames": "mean_logit"}, 1 / (1 + (1 / 9 * 4 / 6) ** 0.5)),  # odds 9 and 6/4: their geometric mean
    ],
)
def test_where_every_face_counts_a_frame_scores_as_its_highest_face_whatever_the_method_says(rules, score):
    predictions = table([*crowd("all", 1), *crowd("other", 1)])
    videos = detection.by_video(predictions, Pooling(**rules), {"all"}).to_pylist()
    assert {v["video_id"]: v["score"] for v in videos}["all"] == pytest.approx(score)
    (alone,) = detection.by_video(table(crowd("other", 1)), Pooling(**rules)).to_pylist()
    assert alone in videos  # the others keep the method's rule


def test_where_every_face_counts_a_frame_counts_once_at_level_frame():
    # frames of the crowd, real: .9 and .6; fakes .7 and .95: of four pairs .7 loses one; of eight by face, too.
    fakes = [face("fake", 1, 0.7), face("fake", 1, 0.95, 1)]
    predictions = table([*crowd("real", 0), *fakes])
    assert measured(predictions, "frame", every_face=("real",))["auc"].value == 3 / 4
    assert measured(predictions, "frame")["auc"].value == 7 / 8


def test_the_highest_face_is_that_of_the_final_score_not_of_each_stage():
    """Stages that disagree about which face is forged: .9 and .1, .1 and .9; each face has a mean of .5."""
    scores = ((0.9, 0.1), (0.1, 0.9))
    stages = [table([face("x", 1, s, face_index=i) for i, s in enumerate(pair)]) for pair in scores]
    (frame,) = detection.highest_faces(detection.mean_of_stages(stages), {"x"}).to_pylist()
    assert frame["logit"] == pytest.approx(0)


def test_final_score_is_the_mean_of_stages_face_by_face():
    a = table([face("x", 0, 0.2, 0), face("x", 0, 0.4, 1), face("y", 1, 1.0, 0)])
    b = table([face("y", 1, 0.5, 0, stage="other"), face("x", 0, 0.0, 1), face("x", 0, 0.6, 0)])
    final = detection.mean_of_stages([a, b])
    scores = {(row["video_id"], row["frame_index"]): row["score"] for row in final.to_pylist()}
    assert scores == pytest.approx({("x", 0): 0.4, ("x", 1): 0.2, ("y", 0): 0.75})
    assert set(final["stage"].to_pylist()) == {"final"}
    assert final.schema.equals(tables.PREDICTIONS)


def test_final_score_of_one_stage_is_that_stage():
    a = random_predictions(6, frames=2)
    final = detection.mean_of_stages([a])
    assert final.drop_columns("stage").equals(a.drop_columns("stage"))


def test_masks_come_from_the_stage_that_localizes():
    mask = dict.fromkeys(MASK_COLUMNS, 3) | {"mask_png": b"png"}
    without, with_mask = table([face("x", 0, 0.2)]), table([face("x", 0, 0.4, **mask)])
    for order in ((without, with_mask), (with_mask, without)):
        (row,) = detection.mean_of_stages(order).to_pylist()
        assert (row["mask_png"], row["mask_tp"]) == (b"png", 3)


@pytest.mark.parametrize(
    "other",
    [[face("x", 0, 0.2, 1)], [face("y", 0, 0.2)], [face("x", 0, 0.2, face_index=1)], [face("x", 0, 0.2)] * 2],
    ids=["frame", "video", "face", "twice"],
)
def test_stages_that_scored_different_faces_have_no_mean(other):
    with pytest.raises(ValueError, match="different faces"):
        detection.mean_of_stages([table([face("x", 0, 0.2)]), table(other)])


# ------------------------------------------------------------------------------------- intervals
@pytest.mark.parametrize("level", ["frame", "video"])
def test_values_are_those_of_the_single_metrics_and_lie_in_their_interval(level):
    predictions = random_predictions(40, frames=3)
    rows = predictions if level == "frame" else detection.by_video(predictions)
    labels = rows["label"].to_numpy()
    expected = by_definition(labels, rows["logit"].to_numpy().clip(-99, 99), np.ones(len(labels), int))
    del expected["tpr_at_fpr_0_01"]  # of 20 real videos there is none; of 60 faces neither
    found = measured(predictions, level)
    assert found.keys() == expected.keys()
    for name, number in found.items():
        assert number.value == pytest.approx(expected[name])
        assert 0 <= number.low < number.value < number.high <= 1


def test_interval_agrees_with_resampling_whole_videos_one_by_one():
    """The published width, against a plain loop over its definition."""
    predictions = random_predictions(24, frames=4)
    videos = predictions["video_id"].to_numpy(zero_copy_only=False)
    labels, scores = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    by_class = [np.unique(videos[labels == label]) for label in (0, 1)]
    rng, values = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = np.concatenate([rng.choice(names, len(names)) for names in by_class])
        rows = np.concatenate([np.flatnonzero(videos == name) for name in drawn])
        values.append(detection.auc(labels[rows], scores[rows]))
    estimate = resampling.Estimate.of(
        detection.ranked(predictions, weights_of(predictions), ("auc",))["auc"], n_clusters=12
    )
    assert math.sqrt(estimate.of_videos) == pytest.approx(np.std(values), rel=0.1)


def test_interval_shrinks_with_the_root_of_the_number_of_videos():
    few = random_predictions(40).to_pylist()
    many = [row | {"video_id": f"{row['video_id']}/{copy}"} for row in few for copy in range(16)]
    width = {len(rows): (v := measured(table(rows), "video")["auc"]).high - v.low for rows in (few, many)}
    quantiles = 2.09 / 1.97  # of Student's t, for 19 and 319 degrees of freedom
    assert width[640] == pytest.approx(width[40] / 4 / quantiles, rel=0.15)


@pytest.mark.parametrize("level", ["frame", "video"])
def test_more_frames_of_the_same_videos_are_no_more_evidence(level):
    """Frames of one video are drawn together, so copies of each frame change no interval."""
    once = measured(random_predictions(30, frames=2), level)
    often = measured(random_predictions(30, frames=2, copies=5), level)
    for name in ("auc", "eer", "acc_at_0_5"):
        assert (often[name].low, often[name].high) == pytest.approx((once[name].low, once[name].high))


def test_every_resample_has_both_classes():
    """One fake among many: drawn from all videos alike, a third of the resamples would lack it."""
    predictions = table([face("fake", 1, 0.6)] + [face(f"real{i}", 0, i / 10) for i in range(10)])
    for value in measured(predictions, "video").values():
        assert 0 <= value.low <= value.value <= value.high <= 1


def test_perfect_separation_is_no_certainty():
    """No error in five reals and five fakes: the other end is what five tries without an error allow."""
    perfect = table([face(f"v{i}", i % 2, 0.9 if i % 2 else 0.1) for i in range(10)])
    found, end = measured(perfect, "video"), 0.025 ** (1 / 5)
    assert end == pytest.approx(0.478, abs=1e-3)
    for name in ("auc", "ap", "acc_at_0_5", "balanced_acc_at_0_5"):
        assert found[name] == (1, pytest.approx(end), 1)
    assert found["eer"] == (0, 0, pytest.approx(1 - end))


def test_many_scores_are_resampled_in_pieces_without_a_change(monkeypatch):
    predictions = random_predictions(20, frames=3)
    whole = measured(predictions, "frame")
    monkeypatch.setattr(detection, "CHUNK_VALUES", 60 * 7)  # 7 resamples at a time: 1000 is no multiple
    assert measured(predictions, "frame") == whole


def test_one_class_is_refused():
    videos = table([face(f"v{i}", 1, 0.5) for i in range(3)])
    with pytest.raises(ValueError, match="0 real and 3 fake"):
        detection.ranked(videos, weights_of(videos))


# ---------------------------------------------------------------------------------- localization
def masked(video_id: str, tp: int, fp: int, fn: int, tn: int, label: int = 1, frame_index: int = 0) -> dict:
    counts = dict(zip(MASK_COLUMNS, (tp, fp, fn, tn), strict=True))
    return face(video_id, label, 0.5, frame_index, mask_png=b"png", **counts)


def test_iou_is_a_mean_over_faces_and_pbca_is_pooled():
    # faces of 10 pixels: IoU 2/4 and 1/1; right pixels 8 and 10 of 10
    found = localized(table([masked("a", 2, 1, 1, 6), masked("b", 1, 0, 0, 9)]))
    assert found["iou"].value == pytest.approx(0.75)
    assert found["pbca"].value == pytest.approx(0.9)


def test_iou_never_exceeds_pbca():
    rng = np.random.default_rng(0)
    for _ in range(50):
        faces = [masked(f"v{i}", *rng.multinomial(64, rng.dirichlet([0.5] * 4))) for i in range(6)]
        found = localized(table(faces))
        assert found["iou"].value <= found["pbca"].value + 1e-12
        assert found["iou"].low <= found["iou"].value + 1e-12
        assert found["iou"].value <= found["iou"].high + 1e-12


def test_perfect_masks_have_iou_and_pbca_of_one():
    found = localized(table([masked("a", 5, 0, 0, 5), masked("b", 1, 0, 0, 9)]))
    assert found == dict.fromkeys(("iou", "pbca"), (1, pytest.approx(0.025 ** (1 / 2)), 1))


def test_nothing_to_find_and_nothing_found_is_right():
    assert localized(table([masked("a", 0, 0, 0, 10)]))["iou"].value == 1
    assert localized(table([masked("a", 0, 1, 0, 9)]))["iou"].value == 0


def test_real_faces_and_unknown_masks_do_not_count():
    fakes = [masked("a", 2, 1, 1, 6), masked("b", 1, 3, 0, 6)]
    real, unknown = masked("r", 0, 9, 0, 1, label=0), face("u", 1, 0.9, mask_png=b"png")
    assert localized(table([*fakes, real, unknown])) == localized(table(fakes))


def test_the_false_mask_area_is_the_share_of_pixels_of_real_faces():
    # of 10 and 10 pixels 3 and none are taken for manipulated; fakes and videos without a mask have no say
    faces = [masked("r", 0, 3, 0, 7, label=0), masked("s", 0, 0, 0, 10, label=0), masked("a", 2, 8, 0, 0)]
    assert measured(table([*faces, face("u", 0, 0.1)]), "frame")["false_mask_area"].value == 3 / 20


def test_fakes_without_a_true_mask_are_counted_and_can_count_as_not_found():
    faces = [masked("a", 1, 1, 0, 8), masked("b", 1, 0, 0, 9), face("c", 1, 0.9), face("d", 1, 0.9)]
    found = {name: number.value for name, number in measured(table(faces), "frame").items()}
    assert found["missing_masks"] == 2 / 4
    assert (found["iou"], found["iou_all_fakes"]) == ((1 / 2 + 1) / 2, (1 / 2 + 1) / 4)


def test_where_no_fake_has_a_true_mask_all_are_missing_and_none_is_measured():
    real = masked("r", 0, 0, 0, 10, label=0)  # so the stage predicts masks
    found = measured(table([real, face("a", 1, 0.9)]), "frame")
    assert {name for name in found if "mask" in name or "iou" in name} == {"missing_masks", "false_mask_area"}
    assert found["missing_masks"].value == 1


def test_without_a_known_mask_there_is_no_localization():
    assert localized(table([face("a", 1, 0.5), masked("r", 0, 0, 0, 10, label=0)])) == {}


def test_faces_of_one_video_are_resampled_together():
    faces = [masked(f"v{i}", i, 10 - i, 0, 10) for i in range(1, 9)]
    again = [masked(f"v{i}", i, 10 - i, 0, 10, frame_index=1) for i in range(1, 9)]
    once, twice = localized(table(faces)), localized(table(faces + again))
    for name in ("iou", "pbca"):
        assert (twice[name].low, twice[name].high) == pytest.approx((once[name].low, once[name].high))


def test_a_mean_of_exactly_one_half_is_not_fake_by_rounding() -> None:
    """P of 0.1 and 0.9, and a single frame that is hardly above one half."""
    table = pa.table(
        {
            "video_id": ["a", "a", "b"],
            "frame_index": pa.array([0, 1, 0], pa.int32()),
            "label": pa.array([0, 0, 1], pa.int8()),
            "logit": [np.log(0.1 / 0.9), np.log(0.9 / 0.1), 1e-13],
            "face_area_px": pa.array([1, 1, 1], pa.float32()),
        }
    )
    assert detection.by_video(table)["logit"].to_pylist() == [0.0, 1e-13]
    assert detection.mean_score([[float(np.log(0.1 / 0.9))], [float(np.log(0.9 / 0.1))]]) == [0.0]
