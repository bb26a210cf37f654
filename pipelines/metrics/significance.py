"""Is a row of a table better than its baseline row, or could other test videos have turned it round?

Paired bootstrap: both rows are scored on the same resamples of the test videos (those that both scored; real and
fake drawn apart), and the difference of their numbers is averaged over the seeds that both have, the same resamples
for all seeds. Interval: 95 % percentiles. p, two-sided: twice the smaller share of resamples on one side of zero.
Whether other *training* seeds would change the answer is another question: the differences by seed stand beside it.
p is adjusted by Holm's method for the number of rows that a column compares with its baseline.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.metrics import detection
from pipelines.metrics.detection import Floats, Resampled
from pipelines.metrics.names import LOCALIZING

NUM_RESAMPLES = 2000  # the smallest p is 2 in 2001: enough for a few dozen rows to be told apart after Holm
LEVEL = 0.05


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
    adjusted_p: float = math.nan  # Holm's, over the rows of the column

    @property
    def significant(self) -> bool:
        """Whether the adjusted p lies below `LEVEL`."""
        return self.adjusted_p < LEVEL


# What a row's number is the mean of. For each test part (counted from 0) and each perturbation of it: the rows
# `video_id`, `label`, `logit`, or for iou and pbca the rows that `detection.masked` takes.
Terms = Sequence[tuple[int, pa.Table]]
Pair = tuple[Terms, Terms]  # of a row and of its baseline, in the same order
ResampledCache = dict[tuple[int, str, frozenset[str]], Resampled]  # id of a table, metric, video_ids


def compare(
    baseline: str, metric: str, pairs: Mapping[int, Pair], cache: ResampledCache | None = None
) -> Comparison | None:
    """Compare a row with its baseline; return None where no seed has both classes in the videos that both scored.

    pairs: seed -> what the two numbers are made of. cache: filled, so that comparisons of one column resample the
    baseline's tables once; these must stay alive as long as it does.
    """
    cache = {} if cache is None else cache
    by_seed: dict[int, float] = {}
    resampled, num_videos = [], []
    for seed, (own_terms, base_terms) in sorted(pairs.items()):
        values, turned, shared = [], [], []
        for (i, own), (_, base) in zip(own_terms, base_terms, strict=True):
            if (video_ids := _comparable(own, base, metric)) is None:
                break
            (a, many_a), (b, many_b) = (_resampled(metric, table, video_ids, cache) for table in (own, base))
            values.append(a - b)
            # Datasets with as many videos have the same draws: turned, else chance would move them together.
            turned.append(np.roll(many_a - many_b, i))
            shared.append(len(video_ids))
        if values and len(values) == len(own_terms):
            by_seed[seed] = float(np.mean(values))
            resampled.append(np.mean(turned, axis=0))
            num_videos.append(min(shared))
    if not by_seed:
        return None
    mean = np.mean(resampled, axis=0)
    low, high = np.quantile(mean, (0.025, 0.975))
    return Comparison(
        baseline=baseline,
        difference=float(np.mean(list(by_seed.values()))),
        low=float(low),
        high=float(high),
        p=p_value(mean),
        by_seed=by_seed,
        num_videos=min(num_videos),
    )


def _comparable(own: pa.Table, base: pa.Table, metric: str) -> frozenset[str] | None:
    """Return the video_ids that both tables have; None where the metric is not defined on them."""
    shared = frozenset(own["video_id"].unique().to_pylist()) & frozenset(base["video_id"].unique().to_pylist())
    both_classes = len(_only(own, shared)["label"].unique()) == 2
    return shared if shared and (both_classes or metric in LOCALIZING) else None


def _resampled(metric: str, table: pa.Table, video_ids: frozenset[str], cache: ResampledCache) -> Resampled:
    key = (id(table), metric, video_ids)
    if key not in cache:
        rows = _only(table, video_ids)
        drawn = detection.draws_of(rows, NUM_RESAMPLES)  # the same for the same videos, whichever row scored them
        numbers = detection.masked(rows, drawn) if metric in LOCALIZING else detection.ranked(rows, drawn, (metric,))
        cache[key] = numbers[metric]
    return cache[key]


def _only(table: pa.Table, video_ids: Collection[str]) -> pa.Table:
    return table.filter(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))


def p_value(differences: Floats) -> float:
    """Return the two-sided p of resampled differences (R,); 1 where they are all zero, never 0."""
    tiny = 1e-12  # what is equal but for rounding
    sides = ((differences <= tiny).sum(), (differences >= -tiny).sum())
    return min(1.0, 2 * (int(min(sides)) + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the values adjusted for their number by Holm's method, in the given order; at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
