"""How far a number may lie off by the chance of who is in the test videos: resamples, variance, intervals, p.

Videos of one person are not independent, and a fake shows two: the target, and the source of its face. In Celeb-DF-v2
fakes tie every person to every other, so that groups of connected people can't be resampled: there is one. Instead,
resamples weigh people, and two videos move together if they share one (dyadic clusters: Fafchamps and Gubert 2007;
Aronow, Samii and Assenova 2015). A video of nobody known is a person of its own.

In a resample, a video counts

    w = 1 + sum over its people of e / 3,    e = +1 or -1 for each person

so never 0: every metric is defined in every resample. The signs are rows of a Hadamard matrix (balanced repeated
replication with Fay's factor: Judkins 1990): of up to 511 people the variance is exact. A fake is moved by two people,
so its own chance counts twice; resamples with a sign for each pair of people say how much that is. Signs are given to
the people of all parts at once (`Population`), so that numbers of parts that share people or videos move together, and
means and differences of them vary as they do. With n the fewest of the people in real videos, of the targets and of the
sources,

    variance = 9 n / (n - 1) max(variance over people - variance over pairs, variance over videos)

Intervals are normal on the logit scale, by quantiles of Student's t for n - 1, so that they stay within [0, 1].

A number that is the same in all resamples has no variance to make an interval of: of scores that are all equal, or that
separate the classes. That none of n clusters was an exception leaves room for a share of them

    q = 1 - 0.025 ** (1 / n)

that would be (Clopper and Pearson 1934), and with these the number v may be anything: [(1 - q) v, (1 - q) v + q].
Where one class fixes a threshold, as for the TPR at an FPR of 1 %, n is at most the number of real videos that may lie
above it (`results.num_clusters`): with the n of all people intervals of 140 real videos cover 86 %, not 95 %.

`benchmarks/calibration.py` measures how often they cover, and how often rows that are equally good are told apart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.special import expit, logit, stdtr, stdtrit  # not scipy.stats: it takes most of a second to import

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Counts = NDArray[np.float32]

PEOPLE, PAIRS, VIDEOS = slice(0, 512), slice(512, 768), slice(768, 1024)  # what has a sign in which resamples
NUM_RESAMPLES = 1024
STRETCH = 3  # so much smaller than in a bootstrap are the deviations of resamples
LEVEL = 0.05  # intervals hold 95 % of the chance, tests reject below it
FEW_CLUSTERS = 20  # with fewer, intervals are too narrow where people differ much
_TINY = 1e-12  # what is equal but for rounding


NO_SOURCES = pa.table({"video_id": pa.array([], pa.string()), "source_ids": pa.array([], pa.list_(pa.string()))})


class Resampled(NamedTuple):
    """A number: its value, and the value in each resample (NUM_RESAMPLES,)."""

    value: float
    resampled: Floats


# -------------------------------------------------------------------------------------------------- people and clusters
@dataclass(frozen=True)
class Population:
    """The videos of all parts whose numbers are compared or averaged, each once, and who is in each of these V videos.

    Equal for the same videos of the same people.
    """

    video_ids: pa.Array = field(compare=False)  # in alphabetical order
    first: Places = field(compare=False)  # (V,): the person in a real video, the target of a fake; counted from 0
    second: Places = field(compare=False)  # (V,): the source of a fake's face; `first` again where there is none
    digest: str

    @classmethod
    def of(cls, tables: Iterable[pa.Table], sources: pa.Table | None) -> "Population":
        """Return the videos of tables with a column `video_id`; sources: rows `video_id`, `source_ids`.

        The first two source ids count. A video that is not in `sources`, or has none there, is of a person of its own.
        """
        named = [table["video_id"].unique() for table in tables]
        video_ids = pa.chunked_array(named, pa.string()).unique()
        video_ids = video_ids.take(pc.array_sort_indices(video_ids))
        own = pc.binary_join_element_wise("", video_ids, "\0")  # as no source id is called
        sources = NO_SOURCES if sources is None else sources
        at = pc.index_in(video_ids, sources["video_id"].combine_chunks())
        lists: Any = sources["source_ids"].combine_chunks().take(at)
        count = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        ids = lists.flatten()

        def nth(n: int, otherwise: pa.Array) -> pa.Array:
            place = pa.array(np.where(count > n, np.cumsum(count) - count + n, 0), mask=count <= n)
            return pc.coalesce(ids.take(place), otherwise)

        first = nth(0, own)
        names = pa.concat_arrays([first, nth(1, first)])
        names = names.take(pa.array(np.arange(len(names)).reshape(2, -1).T.ravel()))  # video by video
        people = pc.dictionary_encode(names).indices.to_numpy().astype(np.intp).reshape(-1, 2)
        told = "\n".join([*video_ids.to_pylist(), *names.to_pylist()])
        return cls(video_ids, people[:, 0], people[:, 1], sha256(told.encode()).hexdigest())

    def clusters(self, video_ids: pa.Array) -> "Clusters":
        """Return the clusters of some of the videos. Raises ValueError for one that is not among them."""
        places = pc.index_in(video_ids, self.video_ids)
        if places.null_count:
            raise ValueError(f"{places.null_count} of {len(video_ids)} videos are not of the population")
        return Clusters(self, places.to_numpy().astype(np.intp))


@dataclass(frozen=True)
class Clusters:
    """Who is in each of v videos of a population."""

    population: Population
    places: Places  # (v,): which of its videos these are

    def only(self, kept: NDArray[np.bool_]) -> "Clusters":
        """Return those of some of the videos, kept (v,)."""
        return Clusters(self.population, self.places[kept])

    def number(self, labels: NDArray[np.int64]) -> int:
        """Return how many clusters an interval can rely on: the fewest of people, targets and sources.

        labels (v,): 0 real, 1 fake; what has only one class has only its clusters.
        """
        people = [who[self.places] for who in (self.population.first, self.population.second)]
        return min(len(np.unique(who[labels == y])) for y in np.unique(labels) for who in people)

    def weights(self) -> Counts:
        """Return what each video counts in each resample (v, NUM_RESAMPLES): see `weights`."""
        return weights(self.population)[self.places]


# ------------------------------------------------------------------------------------------------------------ resamples
@lru_cache(maxsize=2)  # parts, levels, rows, seeds and perturbations share them
def weights(population: Population) -> Counts:
    """Return what each video counts in each resample (V, NUM_RESAMPLES): whole numbers from 1 to 5, 3 on average.

    The same for equal populations, and read-only.
    """
    rng = np.random.default_rng(int(population.digest[:16], 16))
    first, second = population.first, population.second
    counts = np.full((len(first), NUM_RESAMPLES), STRETCH, np.float32)
    two = first != second
    people = _signs(int(max(first.max(), second.max())) + 1, PEOPLE, rng)
    counts[:, PEOPLE] += people[first]
    counts[two, PEOPLE] += people[second[two]]
    if two.any():
        pairs = np.sort(np.stack([first[two], second[two]]), axis=0)
        names, pair = np.unique(pairs, axis=1, return_inverse=True)
        counts[two, PAIRS] += _signs(names.shape[1], PAIRS, rng)[pair.ravel()]
    counts[:, VIDEOS] += _signs(len(first), VIDEOS, rng)
    counts.flags.writeable = False
    return counts


def _signs(num: int, where: slice, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return 1 or -1 of each of `num` in each of the resamples (num, R): neighbours, fewer than R, are orthogonal.

    So are then the people of each part of its own dataset, however many the population has.
    """
    rows = rng.permutation(hadamard(where.stop - where.start, np.int8)[1:])  # without the first, which is constant
    return rows[np.arange(num) % len(rows)] * rng.choice(np.array([-1, 1], np.int8), (num, 1))


# --------------------------------------------------------------------------------------------------- what follows of it
def variance(resampled: Floats, n_clusters: int) -> float:
    """Return the variance of a number over other test videos, from its resamples (NUM_RESAMPLES,); one cluster: NaN."""
    people, pairs, videos = (float(np.var(resampled[where])) for where in (PEOPLE, PAIRS, VIDEOS))
    if n_clusters < 2:
        return math.nan
    return STRETCH**2 * n_clusters / (n_clusters - 1) * max(people - pairs, videos)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its variances."""

    value: float
    of_videos: float  # variance over other test videos; NaN: not known, of one cluster
    n_clusters: int
    of_seeds: float = 0.0  # variance over other trainings, of the mean over `n_seeds`
    n_seeds: int = 1

    @classmethod
    def of(cls, number: Resampled, n_clusters: int) -> "Estimate":
        """Return the estimate of one number, over other test videos."""
        return cls(value=number.value, of_videos=variance(number.resampled, n_clusters), n_clusters=n_clusters)

    @classmethod
    def over_seeds(cls, numbers: Sequence[Resampled], n_clusters: int) -> "Estimate":
        """Return the mean over seeds, each trained apart, over other test videos and other seeds.

        numbers: at least one, all from the same resamples. By how much the seeds' numbers differ is also a matter of
        the test videos, in so far as their chance moves them apart: that much is taken off.
        """
        mean = Resampled(
            float(np.mean([number.value for number in numbers])),
            np.mean([number.resampled for number in numbers], axis=0),
        )
        if len(numbers) == 1:
            return cls.of(mean, n_clusters)
        apart = sum(variance(number.resampled - mean.resampled, n_clusters) for number in numbers) / (len(numbers) - 1)
        differ = float(np.var([number.value for number in numbers], ddof=1))
        return cls(
            value=mean.value,
            of_videos=variance(mean.resampled, n_clusters),
            n_clusters=n_clusters,
            of_seeds=max(0.0, differ - apart) / len(numbers),
            n_seeds=len(numbers),
        )

    @property
    def is_alike(self) -> bool:
        """Whether the number is the same in all resamples, so that no variance tells how far it may lie off."""
        return self.of_videos < _TINY**2

    @property
    def note(self) -> str:
        """What to know of the interval; empty: nothing."""
        if math.isnan(self.value):
            return ""
        if math.isnan(self.of_videos):
            return "it rests on one group: the interval excludes nothing"
        if self.is_alike or min(self.value, 1 - self.value) < _TINY:
            why = "the same in all resamples" if self.is_alike else "at an end of its range"
            return f"{why}: the interval is what {self.n_clusters} groups without exception allow"
        return ""

    @property
    def _exceptions(self) -> float:
        """The largest share of exceptions of which as many tries as clusters may show none, at half of `LEVEL`."""
        return float(1 - (LEVEL / 2) ** (1 / self.n_clusters))

    def _half(self) -> float:
        """Return half the width of the 95 % interval.

        Each variance has the quantile of its own degrees of freedom (Graybill and Wang 1980): of three seeds, 4.3.
        """
        half = _quantile(self.n_clusters - 1) ** 2 * self.of_videos
        if self.n_seeds > 1:
            half += _quantile(self.n_seeds - 1) ** 2 * self.of_seeds
        return math.sqrt(half)

    def interval(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval of a number in [0, 1]; NaN for NaN.

        Where the number is the same in all resamples, or 0 or 1, its other ends are those of as many tries as there are
        clusters, without an exception. Of one cluster nothing is known: [0, 1].
        """
        if math.isnan(self.value):
            return math.nan, math.nan
        if math.isnan(self.of_videos):
            return 0.0, 1.0
        low = high = self.value
        at_an_end = min(self.value, 1 - self.value) < _TINY
        if not at_an_end:
            half = self._half() / (self.value * (1 - self.value))
            low, high = float(expit(logit(self.value) - half)), float(expit(logit(self.value) + half))
        if at_an_end or self.is_alike:
            q = self._exceptions
            low, high = min(low, (1 - q) * self.value), max(high, (1 - q) * self.value + q)
        return low, high

    def interval_of_difference(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval of a difference in [-1, 1].

        Where it is the same in all resamples, exceptions may have any difference: [(1 - q) v - q, (1 - q) v + q].
        """
        if math.isnan(self.of_videos):
            return -1.0, 1.0
        low, high = self.value - self._half(), self.value + self._half()
        if self.is_alike:
            q = self._exceptions
            low, high = min(low, (1 - q) * self.value - q), max(high, (1 - q) * self.value + q)
        return max(-1.0, low), min(1.0, high)

    def p_value(self) -> float:
        """Return the two-sided p of a difference in [-1, 1], over other test videos, by Student's t.

        Where the difference v is the same in all resamples, it is 2 / (1 + |v|) ** n, the level at which the end of its
        interval is 0: for |v| = 1 that of a sign test with as many tries as clusters.
        """
        if math.isnan(self.of_videos) or abs(self.value) < _TINY:
            return 1.0
        if self.is_alike:
            return float(min(1.0, 2 * (1 + abs(self.value)) ** -self.n_clusters))
        return float(2 * stdtr(self.n_clusters - 1, -abs(self.value) / math.sqrt(self.of_videos)))


def _quantile(freedom: int) -> float:
    return float(stdtrit(freedom, 1 - LEVEL / 2))
