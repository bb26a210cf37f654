"""Do intervals cover, and does the paired test keep to its level? Simulates test sets, and measures them as a run does.

    uv run python benchmarks/calibration.py [--tries 400] [--seed 0]

A test set has real videos of one person each and fakes of two. A method's score of a video is the class, plus the
effects of its people, plus chance; people make up a given share of the variance within a class. Two methods that are
equally good share half of their scores. So the true AUC is known, and that the two don't differ:

    pairs     as FaceForensics++: 140 people, each swapped with one partner only, by four manipulations in both ways
    exchange  as Celeb-DF-v2: 340 fakes among 52 people at random, 108 videos of these and 70 of nobody known
    actors    as DeeperForensics-1.0: the faces of 20 actors on 140 targets, one fake each

The first two also among fewer people. Printed for each share: how often the 95 % interval of the AUC holds the true
one, and how often the test says p < 0.05; beside them, in brackets, both by resampling videos as if they were
independent. Then how often intervals over three seeds hold the true mean where trainings differ too; in brackets the
mean of the seeds' own intervals. Last, of the mean of the four manipulations of `pairs` as parts of their own, which
share all real videos and people, the same as of one part; in brackets by resampling each part apart. Before it the true
positive rate at a false positive rate of 1 % and 5 %, of real videos of one person each and as many fakes; in brackets
with the clusters of all people, not with the real videos above the threshold (`results.num_clusters`).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from pipelines.metrics import detection, results, significance
from pipelines.metrics.names import TPR_AT
from pipelines.metrics.resampling import STRETCH, VIDEOS, Estimate, Population, Resampled, variance

SHARES = (0.0, 0.2, 0.4, 0.6)
GAP = 2.0  # between the classes, in standard deviations within one
Z = 1.96
TRUTH = float(stats.norm.cdf(GAP / np.sqrt(2)))
Floats = NDArray[np.float64]
People = NDArray[np.intp]


@dataclass(frozen=True)
class Videos:
    """Who is in each video: real ones (R,), then fakes (F,)."""

    real: People
    target: People
    source: People

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.repeat([0, 1], [len(self.real), len(self.target)])

    def population(self) -> Population:
        """Return the videos with who is in each."""
        people = [[str(a)] for a in self.real]
        people += [[str(a), str(b)] for a, b in zip(self.target, self.source, strict=True)]
        table = pa.table({"video_id": self.video_ids, "source_ids": people})
        return Population.of([table], table)

    def manipulation(self, i: int, num: int) -> NDArray[np.intp]:
        """Return the rows of a part: all real videos, and of every `num` fakes the i-th."""
        fakes = len(self.real) + np.arange(i, len(self.target), num)
        return np.append(np.arange(len(self.real)), fakes)

    @property
    def video_ids(self) -> list[str]:
        return [f"{i:05}" for i in range(len(self.labels))]

    def effects(self, share: float, rng: np.random.Generator) -> Floats:
        """Return what a method makes of each video within its class: variance 1, of which people are this share."""
        num = int(max(self.real.max(), self.target.max(), self.source.max())) + 1
        of_real, of_target, of_source = rng.normal(size=(3, num))
        people = np.append(of_real[self.real], (of_target[self.target] + of_source[self.source]) / np.sqrt(2))
        return np.sqrt(share) * people + np.sqrt(1 - share) * rng.normal(size=len(people))

    def scored(self, effects: Floats) -> pa.Table:
        """Return the scores of a method, a row for each video."""
        return pa.table({"video_id": self.video_ids, "label": self.labels, "logit": GAP * self.labels + effects})


def pairs(num: int, rng: np.random.Generator) -> Videos:
    target = np.repeat(np.arange(num), 4)
    return Videos(np.arange(num), target, target ^ 1)


def exchange(num: int, rng: np.random.Generator) -> Videos:
    target = rng.integers(0, num, 340)
    source = (target + rng.integers(1, num, 340)) % num
    return Videos(np.append(rng.integers(0, num, 108), num + np.arange(70)), target, source)


def actors(num: int, rng: np.random.Generator) -> Videos:
    targets = np.arange(140)
    return Videos(targets, targets, 140 + rng.integers(0, num, 140))


SETS: dict[str, Callable[[np.random.Generator], Videos]] = {
    "pairs, 140 people": partial(pairs, 140),
    "exchange, 52 people": partial(exchange, 52),
    "actors, 20": partial(actors, 20),
    "pairs, 50 people": partial(pairs, 50),
    "pairs, 20 people": partial(pairs, 20),
    "pairs, 10 people": partial(pairs, 10),
    "exchange, 20 people": partial(exchange, 20),
    "exchange, 10 people": partial(exchange, 10),
}
SETS_OVER_SEEDS = ("pairs, 140 people", "exchange, 52 people")
NUM_REALS = (140, 300, 1000)  # real videos of which the TPR at a FPR is measured
NUM_PARTS = 4  # manipulations of `pairs`
SPREADS = (0.0, 0.1, 0.3)  # standard deviation of the gap between the classes over trainings
TRIES_OF_A_SET = 10  # as many share who is in which video


def independent(number: Resampled) -> float:
    """Return the standard error as if videos were independent: from the resamples of videos alone."""
    return STRETCH * float(np.std(number.resampled[VIDEOS]))


def one_seed(make: Callable[[np.random.Generator], Videos], share: float, tries: int, rng: np.random.Generator) -> str:
    """Return in percent how often intervals cover and equal methods are told apart; in brackets: videos alone."""
    covers, told_apart = np.zeros(2), np.zeros(2)
    for i in range(tries):
        if i % TRIES_OF_A_SET == 0:
            videos = make(rng)
            population = videos.population()
        common = videos.effects(share, rng)
        own, base = (videos.scored(np.sqrt(0.5) * (common + videos.effects(share, rng))) for _ in range(2))
        numbers: significance.NumberCache = {}
        comparison = significance.compare("base", "auc", {0: ([[own]], [[base]])}, population, numbers)
        assert comparison
        a, b = numbers.values()
        low, high = Estimate.of(a.resampled, a.n_clusters).interval()
        covers += low <= TRUTH <= high, abs(a.resampled.value - TRUTH) <= Z * independent(a.resampled)
        difference = Resampled(a.resampled.value - b.resampled.value, a.resampled.resampled - b.resampled.resampled)
        told_apart += comparison.p < 0.05, abs(difference.value) > Z * independent(difference)
    percent = [f"{100 * ours:.1f} ({100 * naive:.1f})" for ours, naive in (covers / tries, told_apart / tries)]
    return " | ".join(percent)


def three_seeds(
    make: Callable[[np.random.Generator], Videos], share: float, spread: float, tries: int, rng: np.random.Generator
) -> str:
    """Return in percent how often the interval over seeds and videos covers; in brackets: the mean of the seeds' own.

    Half of what a method makes of a video is the same after every training.
    """
    truth = float(stats.norm.cdf(GAP / np.sqrt(2 + spread**2)))
    covers = np.zeros(2)
    for i in range(tries):
        if i % TRIES_OF_A_SET == 0:
            videos = make(rng)
            population = videos.population()
        common = videos.effects(share, rng)
        tables = [
            videos.scored(np.sqrt(0.5) * (common + videos.effects(share, rng)) + spread * rng.normal() * videos.labels)
            for _ in range(3)
        ]
        numbers: significance.NumberCache = {}
        estimate = significance.over_seeds("auc", [[[table]] for table in tables], population, numbers)
        assert estimate
        low, high = estimate.interval()
        own = [Estimate.of(number.resampled, number.n_clusters).interval() for number in numbers.values()]
        mean_low, mean_high = np.mean(own, axis=0)
        covers += low <= truth <= high, mean_low <= truth <= mean_high
    return f"{100 * covers[0] / tries:.1f} ({100 * covers[1] / tries:.1f})"


def at_a_rate(num: int, share: float, tries: int, rng: np.random.Generator) -> list[str]:
    """Return in percent what `one_seed` does, of the metrics of `TPR_AT`; in brackets: n of all people."""
    covers, told_apart = np.zeros((len(TPR_AT), 2)), np.zeros((len(TPR_AT), 2))
    truth = [float(stats.norm.cdf(GAP - stats.norm.ppf(1 - fpr))) for fpr in TPR_AT.values()]
    for i in range(tries):
        if i % TRIES_OF_A_SET == 0:
            videos = Videos(np.arange(num), *rng.integers(0, num, (2, num)))
            population = videos.population()
        common = videos.effects(share, rng)
        tables = [videos.scored(np.sqrt(0.5) * (common + videos.effects(share, rng))) for _ in range(2)]
        clusters, labels = detection.clusters(tables[0], population)
        a, b = (detection.ranked(table, clusters.weights(), list(TPR_AT)) for table in tables)
        for row, metric in enumerate(TPR_AT):
            apart = Resampled(a[metric].value - b[metric].value, a[metric].resampled - b[metric].resampled)
            for column, n in enumerate((results.num_clusters(metric, clusters, labels), clusters.number(labels))):
                low, high = Estimate.of(a[metric], n).interval()
                covers[row, column] += low <= truth[row] <= high
                told_apart[row, column] += Estimate.of(apart, n).p_value() < 0.05
    rates = zip(100 * covers / tries, 100 * told_apart / tries, strict=True)
    return [f"{c:.1f} ({c0:.1f}) | {p:.1f} ({p0:.1f})" for (c, c0), (p, p0) in rates]


def four_parts(num: int, share: float, tries: int, rng: np.random.Generator) -> str:
    """Return in percent what `one_seed` does, of the mean over four parts; in brackets: each resampled apart."""
    videos = pairs(num, rng)
    together, rows = videos.population(), [videos.manipulation(i, NUM_PARTS) for i in range(NUM_PARTS)]
    covers, told_apart = np.zeros(2), np.zeros(2)
    for _ in range(tries):
        common = videos.effects(share, rng)
        methods = [videos.scored(np.sqrt(0.5) * (common + videos.effects(share, rng))) for _ in range(2)]
        own, base = ([method.take(part) for part in rows] for method in methods)
        numbers: significance.NumberCache = {}
        comparison = significance.compare("base", "auc", {0: ([own], [base])}, together, numbers)
        estimate = significance.over_seeds("auc", [[own]], together, numbers)
        assert comparison
        assert estimate
        low, high = estimate.interval()
        of_part = [
            [numbers[id(table), "auc", frozenset(table["video_id"].to_pylist())] for table in o] for o in (own, base)
        ]
        n = min(number.n_clusters for number in of_part[0])
        pairs_of_parts = [(a.resampled, b.resampled) for a, b in zip(*of_part, strict=True)]
        apart = sum(variance(a.resampled, n) for a, _ in pairs_of_parts) / NUM_PARTS**2
        apart_difference = sum(variance(a.resampled - b.resampled, n) for a, b in pairs_of_parts) / NUM_PARTS**2
        t = float(stats.t.ppf(0.975, n - 1))
        covers += low <= TRUTH <= high, abs(estimate.value - TRUTH) <= t * np.sqrt(apart)
        told_apart += comparison.p < 0.05, abs(comparison.difference) > t * np.sqrt(apart_difference)
    percent = [f"{100 * ours:.1f} ({100 * naive:.1f})" for ours, naive in (covers / tries, told_apart / tries)]
    return " | ".join(percent)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tries", type=int, default=400, help="test sets for each number (default: 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    console = Console(width=120)
    error = 100 * np.sqrt(0.05 * 0.95 / args.tries)
    console.print(f"{args.tries} tries: a rate of 5 % or 95 % is known to {error:.1f} points (one standard error)")
    table = Table("test set", "clusters", *(f"{share:.0%}\ncovers | p < 0.05" for share in SHARES))
    for name in args.sets:
        videos = SETS[name](rng)
        clusters, labels = detection.clusters(videos.scored(np.zeros(len(videos.labels))), videos.population())
        cells = [one_seed(SETS[name], share, args.tries, rng) for share in SHARES]
        table.add_row(name, str(clusters.number(labels)), *cells)
    console.print(table)
    table = Table("test set, 20 % by people", *(f"trainings differ by {spread:g}" for spread in SPREADS))
    for name in SETS_OVER_SEEDS:
        table.add_row(name, *(three_seeds(SETS[name], 0.2, spread, args.tries, rng) for spread in SPREADS))
    console.print(table)
    table = Table("real videos", "people", *(f"{metric}\ncovers | p < 0.05" for metric in TPR_AT))
    for num in NUM_REALS:
        for share in SHARES[::2]:
            table.add_row(str(num), f"{share:.0%}", *at_a_rate(num, share, args.tries, rng))
    console.print(table)
    table = Table("mean of four parts", *(f"{share:.0%}\ncovers | p < 0.05" for share in SHARES))
    table.add_row("pairs, 140 people", *(four_parts(140, share, args.tries, rng) for share in SHARES))
    console.print(table)


if __name__ == "__main__":
    main()
