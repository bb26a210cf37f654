"""Is a row of a table better than its baseline row, or could other test videos have turned it round?

Paired test: both rows are scored on the same resamples of the test videos that both scored (see `resampling`), and the
difference of their numbers is averaged over the seeds that both have. Interval and two-sided p are by Student's t, with
one degree of freedom less than there are clusters of videos. Whether other *training* seeds would change the answer is
another question: the differences by seed stand beside it. p is adjusted by Holm's method for the number of rows that a
column compares with its baseline.

A row's own number, the mean over its seeds, has an interval over test videos and seeds together: `over_seeds`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.metrics import results
from pipelines.metrics.resampling import LEVEL, Estimate, Resampled


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
    adjusted_p: float = math.nan  # Holm's, over the rows of the column

    @property
    def significant(self) -> bool:
        """Whether the adjusted p lies below `LEVEL`."""
        return self.adjusted_p < LEVEL


# What a row's number is the mean of. For each test part and each perturbation of it: the rows that `results.number`
# takes for the metric.
Terms = Sequence[pa.Table]
Pair = tuple[Terms, Terms]  # of a row and of its baseline, in the same order
NumberCache = dict[tuple[int, str, frozenset[str]], results.Number]  # id of a table, metric, video_ids


def compare(
    baseline: str,
    metric: str,
    pairs: Mapping[int, Pair],
    sources: pa.Table | None = None,
    cache: NumberCache | None = None,
) -> Comparison | None:
    """Compare a row with its baseline; return None where the metric is not defined on the videos that both scored.

    pairs: seed -> what the two numbers are made of. sources: rows `video_id`, `source_ids`; a video that they lack is a
    cluster of its own. cache: filled, so that comparisons of one column resample the baseline's tables once; these must
    stay alive as long as it does.
    """
    cache = {} if cache is None else cache
    by_seed: dict[int, results.Number] = {}
    num_videos: list[int] = []
    for seed, (own_terms, base_terms) in sorted(pairs.items()):
        differences = []
        for own, base in zip(own_terms, base_terms, strict=True):
            shared = _video_ids(own) & _video_ids(base)
            num_videos.append(len(shared))
            differences.append(_difference(*(_number(metric, table, shared, sources, cache) for table in (own, base))))
        if differences and not (mean := results.mean(differences)).reason:
            by_seed[seed] = mean
    if not by_seed:
        return None
    mean = results.mean(list(by_seed.values()))
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
    )


def _difference(own: results.Number, base: results.Number) -> results.Number:
    if reason := own.reason or base.reason:
        return results.Number(reason=reason)
    (a, many_a), (b, many_b) = own.resampled, base.resampled
    return results.Number(resampled=Resampled(a - b, many_a - many_b), n_clusters=min(own.n_clusters, base.n_clusters))


def over_seeds(
    metric: str, by_seed: Collection[Terms], sources: pa.Table | None = None, cache: NumberCache | None = None
) -> Estimate | None:
    """Return a row's number, the mean over its seeds, as an estimate over test videos and seeds; None: not defined.

    by_seed: for each seed what its number is the mean of. sources, cache: as in `compare`.
    """
    cache = {} if cache is None else cache
    means = [
        results.mean([_number(metric, table, _video_ids(table), sources, cache) for table in terms])
        for terms in by_seed
        if terms
    ]
    if not means or any(mean.reason for mean in means):
        return None
    return Estimate.over_seeds([mean.resampled for mean in means], min(mean.n_clusters for mean in means))


def _video_ids(table: pa.Table) -> frozenset[str]:
    return frozenset(table["video_id"].unique().to_pylist())


def _number(
    metric: str, table: pa.Table, video_ids: frozenset[str], sources: pa.Table | None, cache: NumberCache
) -> results.Number:
    key = (id(table), metric, video_ids)
    if key not in cache:
        only = table.filter(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))
        cache[key] = results.number(metric, only, sources)
    return cache[key]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the values adjusted for their number by Holm's method, in the given order; at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
