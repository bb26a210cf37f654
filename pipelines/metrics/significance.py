"""Is a row of a table better than its baseline row, or were other test videos all it took?

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
from numpy.typing import NDArray

from pipelines.metrics import detection
from pipelines.metrics.names import LOCALIZING

NUM_RESAMPLES = 2000  # the smallest p is 2 in 2001: enough for a few dozen rows to be told apart after Holm
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A row minus its baseline, in one column. Values in [-1, 1]."""

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
        return self.adjusted_p < LEVEL


Resampled = tuple[float, NDArray[np.float64]]  # a value, and what it is in each resample
Known = dict[tuple[int, str, frozenset[str]], Resampled]
# What the number of a row is the mean of: for each test part (counted from 0) or perturbation of it, the rows
# `video_id`, `label`, `score`, or for iou and pbca PREDICTIONS with masks.
MadeOf = Sequence[tuple[int, pa.Table]]
Pair = tuple[MadeOf, MadeOf]  # of a row and of its baseline, in the same order


def compare(baseline: str, metric: str, pairs: Mapping[int, Pair], known: Known | None = None) -> Comparison | None:
    """None where not both classes are left, or nothing.

    known: what was worked out for these very tables before, such as the baseline's for another row.
    """
    known = {} if known is None else known
    differences: dict[int, float] = {}
    resampled, num_videos = [], []
    for seed, pair in sorted(pairs.items()):
        found = [_difference(metric, own, other, known) for (_, own), (_, other) in zip(*pair, strict=True)]
        several = [one for one in found if one is not None]
        if not several or len(several) < len(found):
            continue
        differences[seed] = float(np.mean([one[0] for one in several]))
        # Datasets with as many videos have the same draws: turned, else chance would move them together.
        turned = [np.roll(one[1], i) for (i, _), one in zip(pair[0], several, strict=True)]
        resampled.append(np.mean(turned, axis=0))
        num_videos.append(min(one[2] for one in several))
    if not differences:
        return None
    mean = np.mean(resampled, axis=0)
    low, high = np.quantile(mean, (0.025, 0.975))
    return Comparison(
        baseline=baseline,
        difference=float(np.mean(list(differences.values()))),
        low=float(low),
        high=float(high),
        p=p_value(mean),
        by_seed=differences,
        num_videos=min(num_videos),
    )


def _difference(
    metric: str, own: pa.Table, other: pa.Table, known: Known
) -> tuple[float, NDArray[np.float64], int] | None:
    """Of two tables: over all shared videos, in each resample of them, and how many they are."""
    shared = frozenset(own["video_id"].unique().to_pylist()) & frozenset(other["video_id"].unique().to_pylist())
    both_classes = len(_only(own, shared)["label"].unique()) == 2
    if not shared or not (both_classes or metric in LOCALIZING):
        return None
    (a, many_a), (b, many_b) = (_resampled(metric, table, shared, known) for table in (own, other))
    return a - b, many_a - many_b, len(shared)


def _resampled(metric: str, table: pa.Table, shared: frozenset[str], known: Known) -> Resampled:
    key = (id(table), metric, shared)
    if key not in known:
        own = _only(table, shared)
        # always the same generator: whoever scored the same videos sees the same resamples
        drawn = detection.draws_of(own, NUM_RESAMPLES)
        found = detection.masked(own, drawn) if metric in LOCALIZING else detection.ranked(own, drawn, (metric,))
        known[key] = found[metric]
    return known[key]


def _only(table: pa.Table, video_ids: Collection[str]) -> pa.Table:
    return table.filter(pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string())))


def p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided, of resampled differences (R,); 1 where they are all zero, never 0."""
    tiny = 1e-12  # what is equal but for rounding
    sides = ((differences <= tiny).sum(), (differences >= -tiny).sum())
    return min(1.0, 2 * (int(min(sides)) + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number, in the given order; at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
