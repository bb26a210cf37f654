"""People in videos, resamples of them, and what follows: by hand, and by the variances that must come out."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipelines.metrics.resampling import (
    NUM_RESAMPLES,
    PAIRS,
    PEOPLE,
    STRETCH,
    VIDEOS,
    Clusters,
    Estimate,
    Population,
    Resampled,
    variance,
    weights,
)

IDS = pa.array(["a", "b", "c", "d", "e", "f"])
SOURCES = pa.table(
    {
        "video_id": ["f", "b", "a", "c", "d"],
        "source_ids": [["q", "p", "r"], ["p"], ["p"], ["p", "q"], []],
    },
    pa.schema([("video_id", pa.string()), ("source_ids", pa.list_(pa.string()))]),
)


def everyone(ids: pa.Array, sources: pa.Table | None) -> Population:
    return Population.of([pa.table({"video_id": ids})], sources)


def clusters_of(ids: pa.Array, sources: pa.Table | None) -> Clusters:
    return everyone(ids, sources).clusters(ids)


def people_in(people: np.ndarray, name: str = "") -> Population:
    """A population of videos, from the two people that each shows (V, 2)."""
    ids = pa.array([f"{i:05}{name}" for i in range(len(people))])
    return everyone(ids, pa.table({"video_id": ids, "source_ids": [[f"{a}", f"{b}"] for a, b in people]}))


def test_who_is_in_which_video() -> None:
    """a and b show p; c is p with the face of q, f the other way round; d and e, of nobody known, stand alone."""
    known = everyone(IDS, SOURCES)
    p, q = known.first[0], known.first[5]
    assert known.first[:3].tolist() == [p, p, p]
    assert known.second.tolist() == [p, p, q, *known.first[3:5], p]
    assert len({p, q, *known.first[3:5]}) == 4
    labels, clusters = np.array([0, 0, 1, 0, 0, 1]), known.clusters(IDS)
    assert clusters.number(labels) == 2  # p, d and e in real videos; targets p, q; sources q, p
    assert clusters.only(labels == 0).number(labels[labels == 0]) == 3


def test_without_sources_every_video_is_a_cluster() -> None:
    alone = everyone(IDS, None)
    assert alone.first.tolist() == alone.second.tolist()
    assert len(set(alone.first.tolist())) == alone.clusters(IDS).number(np.zeros(6, int)) == 6


def test_a_face_of_few_actors_on_many_targets_is_as_many_clusters_as_actors() -> None:
    ids = [f"{i}" for i in range(9)]
    sources = pa.table({"video_id": ids, "source_ids": [[f"target {i}", f"actor {i % 3}"] for i in range(9)]})
    assert clusters_of(pa.array(ids), sources).number(np.ones(9, int)) == 3


def test_a_person_or_video_of_several_parts_moves_alike_in_all_of_them() -> None:
    """One table has a to d, another c to f: each takes from the same resamples the videos that it has."""
    parts = [pa.table({"video_id": IDS[:4]}), pa.table({"video_id": IDS[2:]})]
    together = Population.of(parts, SOURCES)
    assert together == Population.of(parts[::-1], SOURCES)
    one, other = (together.clusters(part["video_id"].combine_chunks()).weights() for part in parts)
    np.testing.assert_array_equal(one[2:], other[:2])
    assert (one[0, PEOPLE] == one[1, PEOPLE]).all()  # of p both
    with pytest.raises(ValueError, match="1 of 2 videos are not of the population"):
        together.clusters(pa.array(["a", "z"]))


def linear(population: Population, influence: np.ndarray) -> np.ndarray:
    """A number that each video moves by its influence, in the resamples."""
    return influence @ (weights.__wrapped__(population) / STRETCH - 1)


def test_the_variance_of_a_part_is_exact_whoever_is_in_the_other_parts() -> None:
    """A thousand people have no sign each that is orthogonal to all others; sixty of one part, side by side, do."""
    influence = np.zeros(1000)
    influence[400:460] = np.random.default_rng(0).normal(size=60)
    people = np.repeat(np.arange(1000)[:, None], 2, axis=1)
    found = linear(people_in(people), influence)
    assert STRETCH**2 * found[PEOPLE].var() == pytest.approx((influence**2).sum(), rel=1e-3)


def test_the_variance_is_that_of_dyadic_clusters() -> None:
    """The sum over pairs of videos that share a person, each pair once, of the products of what they do to a number."""
    rng = np.random.default_rng(0)
    people = rng.integers(0, 12, (80, 2))
    people[:30, 1] = people[:30, 0]  # real
    influence = rng.normal(size=80) + rng.normal(size=12)[people].sum(axis=1)
    together = (people[:, None, :, None] == people[None, :, None, :]).any(axis=(2, 3))
    expected = influence @ together @ influence
    assert expected > (influence**2).sum()
    assert variance(linear(people_in(people), influence), 12) == pytest.approx(expected * 12 / 11, rel=1e-3)


def test_it_is_never_less_than_that_of_videos_alone() -> None:
    people = np.repeat(np.arange(20), 2)[:, None].repeat(2, axis=1)
    influence = np.tile([1.0, -1.0], 20)  # the two videos of a person make up for one another
    resampled = linear(people_in(people), influence)
    assert resampled[PEOPLE].var() == pytest.approx(0, abs=1e-12)
    assert variance(resampled, 20) == pytest.approx((influence**2).sum() * 20 / 19, rel=1e-3)


def test_of_a_thousand_people_the_variance_is_right_on_average() -> None:
    influence = np.random.default_rng(0).normal(size=1500)
    people = np.arange(1500)[:, None].repeat(2, axis=1)
    of_names = [linear(people_in(people, f"{i}"), influence)[PEOPLE].var() for i in range(40)]
    assert STRETCH**2 * np.mean(of_names) == pytest.approx((influence**2).sum(), rel=0.05)
    assert np.std(of_names) / np.mean(of_names) < 0.1


def test_weights_are_whole_never_zero_and_the_same_again() -> None:
    counts = weights(everyone(IDS, SOURCES))
    assert counts.shape == (6, NUM_RESAMPLES)
    assert set(np.unique(counts).tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    np.testing.assert_array_equal(counts, weights.__wrapped__(everyone(IDS, SOURCES)))
    assert (counts != weights(everyone(pa.array(["A", "b", "c", "d", "e", "f"]), SOURCES))).any()
    assert (counts[:2, PAIRS] == STRETCH).all()  # one person is no pair
    assert (counts[2, PAIRS] == counts[5, PAIRS]).all()  # p with q, q with p
    assert (counts[0, PEOPLE] == counts[1, PEOPLE]).all()
    assert (counts[0, VIDEOS] != counts[1, VIDEOS]).any()
    assert not counts.flags.writeable


def number(value: float, deviation: float) -> Resampled:
    """A number whose variance over people is (3 * deviation)^2."""
    resampled = np.full(NUM_RESAMPLES, value)
    resampled[PEOPLE] += np.tile([deviation, -deviation], 256)
    return Resampled(value, resampled)


def test_an_interval_by_hand() -> None:
    """Standard error 0.03 * sqrt(10 / 9); on the logit scale of 0.8 / 0.16; t of 9 degrees of freedom is 2.262."""
    low, high = Estimate.of(number(0.8, 0.01), 10).interval()
    half = 2.262 * 0.03 * math.sqrt(10 / 9) / 0.16
    assert math.log(low / (1 - low)) == pytest.approx(math.log(4) - half, abs=1e-3)
    assert math.log(high / (1 - high)) == pytest.approx(math.log(4) + half, abs=1e-3)


@pytest.mark.parametrize("clusters", [2, 10, 50])
def test_no_error_is_what_as_many_tries_allow(clusters: int) -> None:
    low, high = Estimate.of(number(1.0, 0), clusters).interval()
    assert (low**clusters, high) == (pytest.approx(0.025), 1)
    assert Estimate.of(number(0.0, 0), clusters).interval() == (0, pytest.approx(1 - low))


Q = 1 - 0.025 ** (1 / 10)  # as many of a hundred people may be exceptions, of which ten show none: 31


def test_a_number_that_no_resample_moves_is_not_certain() -> None:
    """Ten people of whom all are alike; for the share of exceptions the number may be anything from 0 to 1."""
    assert pytest.approx(0.31, abs=0.005) == Q
    alike = Estimate.of(number(0.5, 0), 10)
    assert alike.interval() == pytest.approx((0.5 * (1 - Q), 0.5 * (1 - Q) + Q))
    assert "10 groups without exception" in alike.note
    for at_an_end in (0.0, 1.0):  # whatever the metric means by it: of a TPR, 0 is that every fake was missed
        assert Estimate.of(number(at_an_end, 0), 10).note == alike.note
        assert Estimate.of(number(at_an_end, 0.01), 10).note.startswith("at an end of its range: ")
    assert Estimate.of(number(0.5, 0.01), 10).note == ""


@pytest.mark.parametrize("difference", [-0.8, 0.0, 0.5, 1.0])
def test_a_difference_that_no_resample_moves_is_not_certain(difference: float) -> None:
    """For the share of exceptions it may be anything from -1 to 1; p is the level at which the interval ends at 0."""
    alike = Estimate.of(number(difference, 0), 10)
    low, high = alike.interval_of_difference()
    assert (low, high) == pytest.approx((difference * (1 - Q) - Q, difference * (1 - Q) + Q))
    exceptions = 1 - (alike.p_value() / 2) ** (1 / 10)
    assert abs(difference) * (1 - exceptions) == pytest.approx(exceptions if difference else 0)
    assert (low > 0 or high < 0) == (alike.p_value() < 0.05)


def test_seeds_that_differ_do_not_make_up_for_videos_that_tell_nothing() -> None:
    """Of seeds that are a thousandth apart the interval is narrow; it is no narrower than if they agreed."""
    apart = Estimate.over_seeds([number(value, 0) for value in (0.5, 0.501)], 10)
    assert apart.of_seeds > 0
    low, high = Estimate.over_seeds([number(0.5005, 0)] * 2, 10).interval()
    assert apart.interval()[0] <= low < high <= apart.interval()[1]


def test_one_cluster_says_nothing() -> None:
    alone = Estimate.of(number(0.7, 0.01), 1)
    assert (alone.interval(), alone.interval_of_difference(), alone.p_value()) == ((0, 1), (-1, 1), 1)
    assert "one group" in alone.note


def test_a_number_that_is_not_defined_has_no_interval() -> None:
    low, high = Estimate.of(Resampled(math.nan, np.full(NUM_RESAMPLES, math.nan)), 0).interval()
    assert math.isnan(low)
    assert math.isnan(high)


def test_p_by_hand() -> None:
    """A difference of 2.262 standard errors, ten clusters: 5 %."""
    error = 0.03 * math.sqrt(10 / 9)
    assert Estimate.of(number(2.262 * error, 0.01), 10).p_value() == pytest.approx(0.05, abs=1e-4)
    assert Estimate.of(number(-2.262 * error, 0.01), 10).p_value() == pytest.approx(0.05, abs=1e-4)
    assert Estimate.of(number(0.0, 0.01), 10).p_value() == 1
    assert Estimate.of(number(1, 0), 10).p_value() == 2 / 1024  # a sign test: all ten are for it
    assert Estimate.of(number(-0.5, 0), 10).p_value() == pytest.approx(2 / 1.5**10)


def test_the_variances_of_videos_and_seeds_add() -> None:
    """Seeds at 0.6, 0.7, 0.8, all moved alike by the videos: 0.01 / 3 between them, and (0.03)^2 * 10 / 9."""
    estimate = Estimate.over_seeds([number(value, 0.01) for value in (0.6, 0.7, 0.8)], 10)
    assert estimate.value == pytest.approx(0.7)
    assert estimate.of_seeds == pytest.approx(0.01 / 3)
    assert estimate.of_videos == pytest.approx(0.0009 * 10 / 9)
    half = math.sqrt(4.303**2 * 0.01 / 3 + 2.262**2 * 0.001) / 0.21
    low, _ = estimate.interval()
    assert math.log(low / (1 - low)) == pytest.approx(math.log(7 / 3) - half, abs=1e-3)


def test_what_videos_do_to_the_differences_of_seeds_counts_once() -> None:
    """Seeds that differ by less than the videos move them apart: no chance of training is seen."""
    apart = [number(value, deviation) for value, deviation in ((0.69, -0.02), (0.7, 0.0), (0.71, 0.02))]
    assert Estimate.over_seeds(apart, 10).of_seeds == 0
