"""Paired differences of two rows: by hand, by DeLong's formula, and under a null that is true."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipelines.metrics import detection, names, significance
from pipelines.metrics.resampling import Population
from pipelines.metrics.significance import compare, holm, over_seeds


def scores(real: list[float], fake: list[float], first: int = 0) -> pa.Table:
    labels, scores = [0] * len(real) + [1] * len(fake), np.array([*real, *fake])
    return pa.table(
        {"video_id": [f"v{first + i:03}" for i in range(len(labels))], "label": labels, "logit": scores - 0.5}
    )


def pair(own: pa.Table, other: pa.Table) -> significance.Pair:
    return [[own]], [[other]]


def of(own: pa.Table, other: pa.Table, metric: str = "auc") -> significance.Comparison:
    found = compare("base", metric, {0: pair(own, other)})
    assert found
    return found


SURE = scores([0.1] * 20, [0.9] * 20)
GUESS = scores([0.5] * 20, [0.5] * 20)


def test_equal_rows_do_not_differ():
    mixed = scores([0.1, 0.6, 0.3], [0.2, 0.7, 0.9])
    found = of(mixed, mixed)
    most = 1 - 0.025 ** (1 / 3)  # the share of people for whom they may differ, of whom three show none
    assert (found.difference, found.p, found.is_alike) == (0, 1, True)
    assert (found.low, found.high) == pytest.approx((-most, most))


def test_rows_that_are_both_always_right_are_not_certainly_equal():
    found = of(SURE, SURE)
    assert (found.difference, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-(1 - 0.025 ** (1 / 20)), 1 - 0.025 ** (1 / 20)))


def test_a_row_that_is_always_right_beats_one_that_guesses_in_every_resample():
    found = of(SURE, GUESS)
    assert found.difference == 0.5
    assert found.p == pytest.approx(2 / 1.5**20)  # no cluster of twenty is against it
    assert 0 < found.low < 0.5 < found.high
    assert of(GUESS, SURE).difference == -0.5


def test_only_videos_that_both_scored_count():
    """The row lost v000 (real) and has one of its own; of what is left it orders 3 of 4 pairs, the baseline 2."""
    own = scores([0.2, 0.6], [0.5, 0.9], first=1)
    other = scores([0.0, 0.3, 0.7], [0.5, 0.5])
    found = of(own, other)
    # shared are v001 to v004: for the baseline .3 .7 | .5 .5
    assert found.num_videos == 4
    assert found.difference == 3 / 4 - 2 / 4


def test_seeds_are_paired_and_their_differences_averaged():
    worse = scores([0.1] * 10 + [0.95] * 10, [0.9] * 20)  # half of all pairs are won
    found = compare("base", "auc", {0: pair(SURE, GUESS), 2: pair(worse, GUESS)})
    assert found
    assert found.by_seed == {0: 0.5, 2: 0.0}
    assert found.difference == 0.25


@pytest.mark.parametrize("metric", names.DETECTING)
def test_a_difference_is_that_of_the_values(metric):
    rng = np.random.default_rng(0)
    own, other = (scores(rng.random(100).tolist(), (rng.random(20) + shift).tolist()) for shift in (0.5, 0.2))
    once = np.ones((120, 1), np.float32)
    a, b = (detection.ranked(table, once)[metric][0] for table in (own, other))
    expected = a - b
    found = of(own, other, metric)
    assert found.difference == pytest.approx(expected)
    assert found.low < expected < found.high


def test_a_mean_over_test_parts_is_the_mean_of_their_differences():
    """0.5 better in one dataset, equal in another; two datasets do not move together, though they are as large."""
    rng = np.random.default_rng(1)
    noisy = scores(rng.random(20).tolist(), (rng.random(20) + 0.3).tolist())
    other = noisy.set_column(0, "video_id", scores([0.5] * 20, [0.5] * 20, first=100)["video_id"])
    found = compare("base", "auc", {0: ([[SURE], [noisy]], [[GUESS], [noisy]])})
    assert found
    assert found.difference == 0.25
    guesses = GUESS, scores([0.5] * 20, [0.5] * 20, first=100)
    one, two = (
        compare("base", "auc", {0: ([[table] for table in tables], [[guess] for guess in guesses[: len(tables)]])})
        for tables in ([noisy], [noisy, other])
    )
    assert one
    assert two
    assert (two.high - two.low) / (one.high - one.low) == pytest.approx(math.sqrt(0.5), abs=0.08)


def test_a_part_that_is_asked_twice_says_no_more_than_once():
    """Also as parts that differ by one fake only: what they share is resampled together."""
    rng = np.random.default_rng(1)
    own, base = (scores(rng.random(30).tolist(), (rng.random(30) + shift).tolist()) for shift in (0.5, 0.3))
    once = of(own, base)
    fewer = [table.slice(0, 59) for table in (own, base)]
    for more in ((own, base), fewer):
        for twice in ([[own, more[0]]], [[base, more[1]]]), ([[own], [more[0]]], [[base], [more[1]]]):
            found = compare("base", "auc", {0: twice})
            assert found
            assert found.high - found.low == pytest.approx(once.high - once.low, rel=0.05)
            assert found.p == pytest.approx(once.p, rel=0.25)


def test_seeds_that_scored_a_video_less_are_resampled_together():
    """Three seeds that score the same are no more than one, also where one of them lacks a video."""
    rng = np.random.default_rng(2)
    own, base = (scores(rng.random(30).tolist(), (rng.random(30) + shift).tolist()) for shift in (0.5, 0.3))
    seeds = {seed: pair(own.slice(0, 60 - seed), base) for seed in range(3)}
    one, three = of(own, base), compare("base", "auc", seeds)
    assert three
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_each_dataset_counts_once_however_many_parts_it_has():
    """Better by a half in the two parts of one dataset, equal in the other."""
    far = [scores([0.5] * 20, [0.5] * 20, first=first)["video_id"] for first in (100, 200)]
    other = [table.set_column(0, "video_id", far[0]) for table in (SURE, GUESS)]
    third = GUESS.set_column(0, "video_id", far[1])
    found = compare("base", "auc", {0: ([[SURE, other[0]], [third]], [[GUESS, other[1]], [third]])})
    assert found
    assert found.difference == 0.25


def test_where_a_seed_has_no_number_there_is_none_over_seeds():
    """In comparisons as in a row's own number, which then has no value either."""
    only_fakes = scores([], [0.9] * 20)
    for none in ([[only_fakes]], []):
        assert over_seeds("auc", [[[SURE]], none]) is None
        assert compare("base", "auc", {0: pair(SURE, GUESS), 1: (none, [[GUESS]])}) is None
        assert compare("base", "auc", {0: pair(SURE, GUESS), 1: (none, none)}) is None


def masks(tp: list[int], fp: list[int]) -> pa.Table:
    rows = [
        {"video_id": f"v{i}", "label": 1, "mask_tp": t, "mask_fp": f, "mask_fn": 0, "mask_tn": 10}
        for i, (t, f) in enumerate(zip(tp, fp, strict=True))
    ]
    return pa.Table.from_pylist(rows)


def test_masks_are_compared_without_real_videos():
    found = of(masks([4, 4], [0, 4]), masks([4, 4], [4, 4]), "iou")
    assert found.difference == (1 + 0.5) / 2 - 0.5


def test_nothing_in_common_is_no_comparison():
    assert compare("base", "auc", {0: pair(SURE, scores([0.1], [0.9], first=100))}) is None
    assert compare("base", "auc", {}) is None
    # v020 is the only fake that both have, and no real one
    assert compare("base", "auc", {0: pair(SURE, scores([], [0.9], first=20))}) is None


def delong(own: pa.Table, other: pa.Table) -> float:
    """Standard error of the difference of two AUCs over the same videos, DeLong et al. 1988."""
    y = own["label"].to_numpy()
    won = []
    for table in (own, other):
        s = table["logit"].to_numpy()
        won.append((s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0]))
    variances = [
        np.cov([w.mean(axis) for w in won]) @ [1, -1] @ [1, -1] / w.shape[1 - axis]
        for axis, w in ((1, won[0]), (0, won[0]))
    ]
    return math.sqrt(sum(variances))


def test_the_interval_is_as_wide_as_delong_says():
    rng = np.random.default_rng(3)
    truth = np.append(np.zeros(150), np.ones(250))
    noise = rng.normal(size=(2, 400)) + rng.normal(size=400)  # two rows that agree in part
    own, other = (
        pa.table({"video_id": [f"v{i:03}" for i in range(400)], "label": truth.astype(int), "logit": truth * d + n})
        for d, n in zip((1.2, 0.8), noise, strict=True)
    )
    found = of(own, other)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(delong(own, other), rel=0.1)
    z = found.difference / delong(own, other)
    assert found.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.02)


def test_of_rows_that_are_equally_good_one_in_twenty_is_told_apart():
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(200):
        own, other = (scores(rng.normal(0, 1, 60).tolist(), rng.normal(1, 1, 60).tolist()) for _ in range(2))
        small += of(own, other).p < 0.05
    assert 0.01 <= small / 200 <= 0.1  # 200 tries at 5 %: three standard deviations are 4.6 points


def test_a_difference_that_hangs_on_a_few_people_is_no_proof():
    """Forty videos of each class, of four people: the row is better for two, worse for one, the same for another."""
    person = np.tile(np.repeat(np.arange(4), 10), 2)
    labels = np.repeat([0, 1], 40)
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, 80)
    own = base + labels * np.array([3.0, 1.5, -0.5, 0.0])[person]
    ids = [f"{i:02}" for i in range(80)]
    tables = [pa.table({"video_id": ids, "label": labels, "logit": z}) for z in (own, base)]
    sources = pa.table({"video_id": ids, "source_ids": [[str(p)] for p in person]})
    people = (Population.of(tables, s) for s in (None, sources))
    alone, clustered = (compare("base", "auc", {0: pair(*tables)}, each) for each in people)
    assert alone
    assert clustered
    assert alone.difference == clustered.difference
    assert (alone.num_clusters, clustered.num_clusters) == (40, 4)
    assert alone.p < 0.01 < 0.05 < clustered.p


def test_an_interval_over_seeds_knows_the_chance_of_training():
    """Three seeds, of which one is much better than two that agree: no more is known than three numbers tell."""
    rng = np.random.default_rng(0)
    labels, chance = np.repeat([0, 1], 200), rng.normal(0, 1, 400)
    ids = [f"{i:03}" for i in range(400)]
    seeds = [[[pa.table({"video_id": ids, "label": labels, "logit": chance + labels * gap})]] for gap in (1, 1, 2)]
    one, three, same = (over_seeds("auc", some) for some in (seeds[:1], seeds, seeds[:1] * 3))
    assert one
    assert three
    assert same
    values = [float(detection.auc(table["label"], table["logit"])) for ((table,),) in seeds]
    assert three.value == pytest.approx(np.mean(values))
    # The seeds' variance, without what the videos do to their differences, by the quantile of two degrees of freedom.
    assert three.of_seeds == pytest.approx(np.var(values, ddof=1) / 3, rel=0.05)
    low, high = three.interval()
    assert high - low > 2 * 4.30 * math.sqrt(np.var(values, ddof=1) / 3) * 0.9
    assert same.interval() == pytest.approx(one.interval())  # seeds that agree in all


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
