"""Is a row of a table better than its baseline row, or could other test videos have turned it round?

Paired test: both rows are scored on the same resamples of the test videos that both scored (see `resampling`), and the
difference of their numbers is averaged over the seeds that both have, each of which must have one. Interval and
two-sided p are by Student's t, with one degree of freedom less than there are clusters of videos. Whether other
*training* seeds would change the answer is another question: the differences by seed stand beside it. p is adjusted by
Holm's method for the number of rows that a column compares with its baseline.

A row's own number, the mean over its seeds, has an interval over test videos and seeds together: `over_seeds`.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.metrics import results
from pipelines.metrics.resampling import LEVEL, Estimate, Population, Resampled


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How a row differs from its baseline in one column: row minus baseline, values in [-1, 1]."""

    baseline: str  # the row's name
    difference: float  # mean over seeds
    low: float  # 95 % interval over videos
    high: float
    p: float
    by_seed: Mapping[int, float]
    num_videos: int  # that both rows scored, of the seed with the fewest
    num_clusters: int  # of these videos
    is_alike: bool = False  # whether the difference is the same in all resamples: see `Estimate.is_alike`
    adjusted_p: float = math.nan  # Holm's, over the rows of the column

    @property
    def significant(self) -> bool:
        """Whether the adjusted p lies below `LEVEL`."""
        return self.adjusted_p < LEVEL


# What a row's number is the mean of, in groups of a dataset each: it is the mean of their means. A group holds for each
# part of the dataset and each perturbation the rows that `results.number` takes for the metric.
Terms = Sequence[Sequence[pa.Table]]
Pair = tuple[Terms, Terms]  # of a row and of its baseline, in the same order
NumberCache = dict[tuple[int, str, frozenset[str]], results.Number]  # id of a table, metric, video_ids


def compare(
    baseline: str,
    metric: str,
    pairs: Mapping[int, Pair],
    population: Population | None = None,
    cache: NumberCache | None = None,
) -> Comparison | None:
    """Compare a row with its baseline; return None where the metric is not defined on the videos that both scored.

    So it is where it is not defined for one of the seeds, or one of them has no terms. pairs: seed -> what the two
    numbers are made of. population: holds all their videos; None: these, of nobody known. cache: filled, so that
    comparisons of one column resample the baseline's tables once; these must stay alive as long as it does, and the
    population be the same.
    """
    if not pairs or any(_shape(own) != _shape(base) for own, base in pairs.values()):
        return None
    population = population or _population(terms for pair in pairs.values() for terms in pair)
    cache = {} if cache is None else cache
    by_seed: dict[int, results.Number] = {}
    num_videos: list[int] = []

    def difference(own: pa.Table, base: pa.Table) -> results.Number:
        shared = _video_ids(own) & _video_ids(base)
        num_videos.append(len(shared))
        return _difference(*(_number(metric, table, shared, population, cache) for table in (own, base)))

    for seed, (own_terms, base_terms) in sorted(pairs.items()):
        by_seed[seed] = _mean_of_means(
            [
                [difference(own, base) for own, base in zip(*groups, strict=True)]
                for groups in zip(own_terms, base_terms, strict=True)
            ]
        )
    mean = results.mean(list(by_seed.values()))
    if mean.reason:
        return None
    estimate = Estimate.of(mean.resampled, mean.n_clusters)
    low, high = estimate.interval_of_difference()
    return Comparison(
        baseline=baseline,
        difference=estimate.value,
        low=low,
        high=high,
        p=estimate.p_value(),
        by_seed={seed: difference.resampled.value for seed, difference in by_seed.items()},
        num_videos=min(num_videos),
        num_clusters=estimate.n_clusters,
        is_alike=estimate.is_alike,
    )


def _difference(own: results.Number, base: results.Number) -> results.Number:
    if reason := own.reason or base.reason:
        return results.Number(reason=reason)
    (a, many_a), (b, many_b) = own.resampled, base.resampled
    return results.Number(resampled=Resampled(a - b, many_a - many_b), n_clusters=min(own.n_clusters, base.n_clusters))


def over_seeds(
    metric: str,
    by_seed: Collection[Terms],
    population: Population | None = None,
    cache: NumberCache | None = None,
) -> Estimate | None:
    """Return a row's number, the mean over its seeds, as an estimate over test videos and seeds; None: not defined.

    So it is where it is not defined for one of the seeds, or one of them has no terms. by_seed: for each seed what its
    number is the mean of. population, cache: as in `compare`.
    """
    population = population or _population(by_seed)
    cache = {} if cache is None else cache
    means = [
        _mean_of_means([[_number(metric, t, _video_ids(t), population, cache) for t in group] for group in terms])
        for terms in by_seed
    ]
    if not means or any(mean.reason for mean in means):
        return None
    return Estimate.over_seeds([mean.resampled for mean in means], min(mean.n_clusters for mean in means))


def _shape(terms: Terms) -> list[int]:
    return [len(group) for group in terms]


def _mean_of_means(groups: Sequence[Sequence[results.Number]]) -> results.Number:
    if not groups or not all(groups):
        return results.Number(reason="not scored")
    return results.mean([results.mean(group) for group in groups])


def _population(several: Iterable[Terms]) -> Population:
    """Return all videos of some terms, of nobody known."""
    return Population.of((table for terms in several for group in terms for table in group), None)


def _video_ids(table: pa.Table) -> frozenset[str]:
    return frozenset(table["video_id"].unique().to_pylist())


def _number(
    metric: str, table: pa.Table, video_ids: frozenset[str], population: Population, cache: NumberCache
) -> results.Number:
    key = (id(table), metric, video_ids)
    if key not in cache:
        only = table.filter(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))
        cache[key] = results.number(metric, only, population)
    return cache[key]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the values adjusted for their number by Holm's method, in the given order; at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
