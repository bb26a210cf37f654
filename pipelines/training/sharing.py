"""How many workers share a step, and in how many parts each of them takes its share.

A step's samples are the same whatever the number of workers, so batch size, learning rate and schedule keep their
meaning. Only numbers that cut the step equally can train it; if Ray gives another one, the last workers idle.
"""

from dataclasses import dataclass

import models
from pipelines.training.views import REAL_VIEWS, View


def check_accumulates(stage: type[models.Stage]) -> None:
    """Raise ValueError for a stage whose steps cannot be cut."""
    if stage.accumulates == "no":
        raise ValueError(
            f"a step of {_name(stage)} can't be cut: its method looks at all samples of a step at once; leave it out "
            "of --accumulate and use more --workers, which give the same numbers, or a smaller batch size"
        )


def check_cuts(stage: type[models.Stage], view: View, num_workers: int, cuts: int) -> None:
    """Raise ValueError if a worker's share of a step can't be cut into so many equal parts."""
    if cuts == 1:
        return
    check_accumulates(stage)
    share, unit = view.step_size // num_workers, _unit(view)
    if share % (unit * cuts):
        fitting = [number for number in range(2, share + 1) if share % (unit * number) == 0]
        raise ValueError(
            f"{_name(stage)}: the {share} samples that each of {num_workers} workers has of a step can't be cut into "
            f"{cuts} equal parts; allowed: {', '.join(map(str, fitting)) or 'none'}"
        )


def _unit(view: View) -> int:
    return 1 if view.name in REAL_VIEWS else 2  # a real and a fake sample: every cut holds as many of both


def _name(stage: type[models.Stage]) -> str:
    return f"{stage.__module__.rpartition('.')[2]}.{stage.name}"


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a stage's workers do with its steps, if there are `least` to `most` of them."""

    stage: type[models.Stage]
    view: View
    least: int
    most: int
    accumulate: int = 1  # cuts of a worker's share with `most` workers

    def check(self) -> None:
        """Raise ValueError if no number of workers in the range can share a step whose shares are then cut."""
        refused = [error for number in range(self.most, self.least - 1, -1) if (error := self._refusal(number))]
        if len(refused) > self.most - self.least:
            if self.least == self.most:
                raise refused[0]
            raise ValueError(
                f"--workers {self.least}-{self.most}: none of these numbers of workers will do for "
                f"{_name(self.stage)}: {refused[0]}"
            )

    def workers(self, available: int) -> int:
        """Return how many of the available workers train; the rest idle. May be less than `least`, if nothing fits.

        Fewer than the largest number that fits can train whenever they share the step equally: see `cuts`.
        """
        if self.least == self.most:
            return available
        top, free = self._top(), self.stage.accumulates == "exactly"
        numbers = range(min(available, top), 0, -1)
        return next(n for n in numbers if not (self._unshared(n) if free and n < top else self._refusal(n)))

    def cuts(self, workers: int) -> int:
        """Return into how many parts a worker cuts its share. Raises ValueError if it can't be cut so.

        Where the weights don't depend on the cuts, as many as it takes for no worker to hold more samples at once than
        with `most` workers. Elsewhere a share grows as workers go, and takes more memory.
        """
        if self.least == self.most or self.stage.accumulates != "exactly":
            check_cuts(self.stage, self.view, workers, self.accumulate)
            return self.accumulate
        held = self.view.step_size // self._top() // self.accumulate
        share, unit = self.view.step_size // workers, _unit(self.view)
        return next(n for n in range(-(-share // held), share + 1) if share % (unit * n) == 0)

    def _top(self) -> int:
        return next(n for n in range(self.most, 0, -1) if not self._refusal(n))

    def _refusal(self, workers: int) -> ValueError | None:
        try:
            check_cuts(self.stage, self.view, workers, self.accumulate)
        except ValueError as error:
            return self._unshared(workers) or error
        return self._unshared(workers)

    def _unshared(self, workers: int) -> ValueError | None:
        try:
            self.view.share(0, 0, workers)
        except ValueError as error:
            return error
        return None
