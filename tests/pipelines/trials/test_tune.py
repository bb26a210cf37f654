"""When the pictures of trials are made that run side by side, and by which process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.common import progress
from pipelines.training.job import Compute
from pipelines.trials import tune
from pipelines.trials.trial import Trial


@dataclass
class Fake:
    """A trial as far as its folder says how it stands."""

    folder: Path
    done: bool = False
    complete: bool = False


def trials(tmp_path: Path, number: int) -> list[Fake]:
    made = [Fake(tmp_path / str(i)) for i in range(number)]
    for each in made:
        each.folder.mkdir()
    return made


def begin(*those: Fake) -> None:
    for each in those:
        progress.note(each.folder, "recover", 0, 1)


def shown(trial: Fake, of: Sequence[Fake], concurrent: int, compute: Compute | None = None) -> list[str]:
    """Make the pictures as a process does; return the names of the trials that got theirs."""
    names = []
    of_process: Any = tune._to_show(
        cast(Trial, trial), cast(Sequence[Trial], of), compute or Compute(num_workers=0), concurrent
    )
    for each in of_process:
        each.complete = True
        names.append(each.folder.name)
    return names


def test_pictures_wait_until_no_trial_waits(tmp_path: Path) -> None:
    five = trials(tmp_path, 5)
    begin(five[0], five[1])
    five[1].done = True
    assert shown(five[1], five, 2) == []  # 2 takes its place
    begin(five[2])
    five[0].done = True
    assert shown(five[0], five, 2) == []
    begin(five[3])
    five[2].done = True
    assert shown(five[2], five, 2) == []
    five[3].done = True  # 4 is started in place of 2, and may not have said so yet
    assert shown(five[3], five, 2) == ["3", "0", "1", "2"]
    begin(five[4])
    five[4].done = True
    assert shown(five[4], five, 2) == ["4"]


def test_pictures_are_not_made_twice_at_once(tmp_path: Path) -> None:
    two = trials(tmp_path, 2)
    two[0].done = two[1].done = True
    progress.note(two[0].folder, tune.PICTURES, 0, 1)  # its own process is at it
    assert shown(two[1], two, 2) == ["1"]


def test_pictures_do_not_wait_for_a_trial_that_has_died(tmp_path: Path) -> None:
    two = trials(tmp_path, 2)
    begin(*two)  # the first ended without a word
    two[1].done = True
    assert shown(two[1], two, 1) == ["1"]


def test_a_trial_that_has_failed_waits_for_nothing_and_gets_none(tmp_path: Path) -> None:
    two = trials(tmp_path, 2)
    (two[0].folder / tune.FAILURE).touch()
    two[1].done = True
    assert shown(two[1], two, 1) == ["1"]


def test_where_workers_train_each_trial_gets_its_own_at_once(tmp_path: Path) -> None:
    two = trials(tmp_path, 2)
    two[0].done = True
    assert shown(two[0], two, 1, Compute(num_workers=1)) == ["0"]
