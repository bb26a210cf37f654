"""What a log without a terminal says of long work."""

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pipelines.common import progress


class Log:
    def __init__(self) -> None:
        self.now, self.out = 1000.0, io.StringIO()
        console = Console(file=self.out, force_terminal=False, width=60)
        self.view = progress.View(console, Progress(console=console, disable=True), clock=lambda: self.now)

    def lines(self) -> list[str]:
        """The lines so far, without the time of day that each begins with."""
        lines = self.out.getvalue().splitlines()
        assert all(re.match(r"  \d\d:\d\d:\d\d ", line) for line in lines)
        return [line[11:] for line in lines]


def test_a_log_has_a_line_for_each_tenth_with_rate_and_estimate() -> None:
    log = Log()
    for done in range(1, 1001):  # ten in a second
        log.now += 0.1
        log.view.update("videos", f"{done} of 1000", done, 1000)
    lines = log.lines()
    assert lines[0] == "videos: 1 of 1000 (0 %)"
    assert lines[1] == "videos: 101 of 1000 (10 %, 10 a second, about 90 s left)"
    assert lines[-1] == "videos: 1000 of 1000 (100 %, 10 a second)"
    assert len(lines) == 11


def test_slow_work_is_heard_of_every_half_minute_and_only_while_it_goes_on() -> None:
    log = Log()
    for second in range(600):
        log.now += 1
        log.view.update("videos", "…", min(second // 10, 30), 1000)  # three thousandths in half a minute, then it hangs
    lines = log.lines()
    assert 8 <= len(lines) <= 12
    assert "about 2 h" in lines[2]


def test_work_of_an_earlier_run_tells_nothing_of_the_speed() -> None:
    log = Log()
    log.view.update("videos", "900 of 1000", 900, 1000)
    log.now += 60
    log.view.update("videos", "910 of 1000", 910, 1000)
    assert log.lines()[1] == "videos: 910 of 1000 (91 %, 0.17 a second, about 9 min left)"


def test_each_phase_of_a_trial_is_said_once_and_its_end() -> None:
    log = Log()
    for phase, done in (
        ("recover", 0.0),
        ("recover epoch 1: train/loss 0.3", 0.5),
        ("derive from recover", 1.0),
        ("score", 1.0),
        ("score", 2.0),
        ("done", 2.0),
        ("done", 2.0),
    ):
        log.now += 0.1
        log.view.update("0.55 seed 0", phase, done, 2.0)
    assert [line.rsplit(" (")[0].removeprefix("0.55 seed 0: ") for line in log.lines()] == [
        "recover",
        "derive from recover",
        "score",
        "score",
        "done",
    ]
    assert log.lines()[-2].startswith("0.55 seed 0: score (100 %")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (90, "90 s"), (100, "2 min"), (5000, "83 min"), (12_000, "3 h 20 min")]
)
def test_a_time_span_as_people_say_it(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_what_was_noted_is_forgotten_with_what_a_killed_process_left(tmp_path: Path) -> None:
    progress.note(tmp_path, "score", 1, 2)
    left, living, other = (tmp_path / f".{name}.tmp" for name in ("progress.json.1", "progress.json.2", "times.json.3"))
    for path in (left, living, other):
        path.write_text("{")
    for path in (left, other):
        os.utime(path, (0, 0))
    progress.forget(tmp_path)
    assert set(tmp_path.iterdir()) == {living, other}
    progress.forget(tmp_path / "not there")
