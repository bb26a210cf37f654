"""ROC, AUC, AP, EER and TPR at a given FPR of ranked scores, for many resamples at once.

A resample is a row of running counts, of fakes and of reals, from the highest score down. The scores are sorted once,
and each class is counted apart: a resample of 200,000 faces is a few passes over what fits into a processor's cache.
All counts are whole numbers and all sums of 64 bits, so resamples are as exact as the value itself.

In shapes, N is the number of scores, V of videos, R of resamples, K of distinct scores, M of scores of one class, and S
of distinct scores of one class.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]  # running sums are eight times faster than those of floats
Places = NDArray[np.intp]


class RankedClass:
    """The fakes among ranked scores, or the reals.

    rows (M,): which rows these are, from high to low; video (N,): which video each row is of; to (K + 1,): 0, then how
    many of this class score no less than each of the distinct scores of both classes, from high to low.
    """

    def __init__(self, rows: Places, video: Places, to: Places) -> None:
        self.rows, self.video, self.to = rows, video[rows], to
        self.steps = np.flatnonzero(np.diff(to)) + 1  # (S,): which distinct scores, counted from 1, the class has
        self.tied = len(self.steps) < len(rows)  # within the class

    def counted(self, drawn: Counts) -> "CountedClass":
        """Return the class in resamples; drawn (R, V): how often each video is drawn."""
        times = np.take(drawn, self.video, axis=1)
        sums = np.zeros((len(times), len(self.rows) + 1), np.int32)
        np.cumsum(times, axis=1, out=sums[:, 1:])
        if self.tied:
            reached = np.take(sums, np.append(0, self.to[self.steps]), axis=1)
            times = reached[:, 1:] - reached[:, :-1]
        return CountedClass(sums, times)


@dataclass(frozen=True, slots=True)
class CountedClass:
    """The fakes in R resamples, or the reals."""

    sums: Counts  # (R, M + 1): running from 0
    times: Counts  # (R, S): how many at each distinct score of the class

    @property
    def total(self) -> Floats:
        """How many there are in each resample (R,)."""
        return self.sums[:, -1].astype(np.float64)


class Ranking:
    """Scores from high to low; equal ones, a tie, count at once.

    y (N,): 0 real, 1 fake; s (N,): scores, which may be infinite; video (N,): which video each is of, counted from 0;
    None: each is of its own.
    """

    def __init__(self, y: NDArray[np.int64], s: Floats, video: Places | None = None) -> None:
        order = np.argsort(-s, kind="stable")
        is_real = y[order] == 0
        high_to_low = s[order]
        last = np.append(np.flatnonzero(high_to_low[:-1] != high_to_low[1:]), len(s) - 1)  # infinite ones tie too
        reals_to = np.cumsum(is_real)[last]
        whose = np.arange(len(s)) if video is None else video
        self.num_videos = int(whose.max()) + 1
        self.fake = RankedClass(order[~is_real], whose, np.append(0, last + 1 - reals_to))
        self.real = RankedClass(order[is_real], whose, np.append(0, reals_to))
        # The number of reals down to each fake, of fakes down to each real, and of fakes with higher scores than it.
        self.reals_at_fakes = self.real.to[self.fake.steps]
        self.fakes_at_reals = self.fake.to[self.real.steps]
        self.fakes_above_reals = self.fake.to[self.real.steps - 1]
        self.tied = np.flatnonzero(self.fakes_above_reals < self.fakes_at_reals)

    def once(self) -> "Resamples":
        """Return the ranking itself as one resample, in which each video counts once."""
        return self.resamples(np.ones((1, self.num_videos), np.int32))

    def resamples(self, drawn: Counts) -> "Resamples":
        """Return resamples; drawn (R, V): how often each video is drawn. In each both classes are drawn."""
        return Resamples(self, self.fake.counted(drawn), self.real.counted(drawn))


@dataclass(frozen=True, slots=True)
class Resamples:
    """A ranking resampled R times."""

    ranking: Ranking
    fake: CountedClass
    real: CountedClass

    def roc(self) -> tuple[Floats, Floats]:
        """Return false and true positive rates (R, K + 1) each, from (0, 0) to (1, 1)."""
        r = self.ranking
        fpr = self.real.sums[:, r.real.to] / self.real.total[:, None]
        return fpr, self.fake.sums[:, r.fake.to] / self.fake.total[:, None]

    def auc(self) -> Floats:
        """Return the area under the ROC curve (R,), in trapezoids between distinct scores: a tie counts as half."""
        r = self.ranking
        height = np.take(self.fake.sums, r.fakes_at_reals, axis=1).astype(np.float64)
        if len(r.tied):
            above = np.take(self.fake.sums, r.fakes_above_reals[r.tied], axis=1)
            height[:, r.tied] = (height[:, r.tied] + above) / 2
        height *= self.real.times
        return np.asarray(height.sum(axis=1) / (self.fake.total * self.real.total))

    def ap(self) -> Floats:
        """Return the average precision of the fakes (R,): the sum of precision times the step in recall.

        Precision depends on how many reals there are to a fake: in a resample as many as in the ranking.
        """
        r, sums = self.ranking, self.fake.sums
        tp = np.take(sums, r.fake.to[r.fake.steps], axis=1) if r.fake.tied else sums[:, 1:]
        reals_to_fake = len(r.real.rows) / len(r.fake.rows) * self.fake.total / self.real.total
        positives = np.take(self.real.sums, r.reals_at_fakes, axis=1) * reals_to_fake[:, None]
        positives += tp
        precision = tp / np.maximum(positives, 1e-300, out=positives)  # 0 while nothing is counted
        precision *= self.fake.times
        return np.asarray(precision.sum(axis=1) / self.fake.total)

    def tpr_at(self, fpr: float) -> Floats:
        """Return the true positive rate (R,) at the lowest threshold that keeps the false positive rate at `fpr`."""
        r, row = self.ranking, np.arange(len(self.fake.sums))
        most = (fpr + 1e-12) * self.real.total
        within, beyond = np.zeros(len(row), np.intp), np.full(len(row), len(r.fake.to))
        while (beyond - within > 1).any():
            middle = (within + beyond) // 2
            kept = self.real.sums[row, r.real.to[middle]] <= most
            within, beyond = np.where(kept, middle, within), np.where(kept, beyond, middle)
        return np.asarray(self.fake.sums[row, r.fake.to[within]] / self.fake.total)

    def eer(self) -> Floats:
        """Return the equal error rate (R,): where FPR = 1 - TPR on the interpolated ROC; 0.5 for constant scores."""
        r, row = self.ranking, np.arange(len(self.fake.sums))
        num_fake, num_real = self.fake.total, self.real.total

        def at(k: Places) -> tuple[Floats, Floats]:
            """Return FPR, and FPR - FNR, at the k-th point of the ROC of each resample."""
            fpr = self.real.sums[row, r.real.to[k]] / num_real
            return fpr, fpr + self.fake.sums[row, r.fake.to[k]] / num_fake - 1

        # FPR - FNR rises from -1 to 1; bisection finds the neighbours between which it passes zero.
        before, after = np.zeros(len(row), np.intp), np.full(len(row), len(r.fake.to) - 1)
        while (after - before > 1).any():
            middle = (before + after) // 2
            below = at(middle)[1] < 0
            before, after = np.where(below, middle, before), np.where(below, after, middle)
        (fpr0, gap0), (fpr1, gap1) = at(before), at(after)
        return np.asarray(fpr0 - gap0 / (gap1 - gap0) * (fpr1 - fpr0))
