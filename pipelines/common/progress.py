"""Progress of long work: a live view with bars, or plain lines without a terminal; notes from other processes."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipelines.common import storage
from pipelines.common.bucket import BucketPath

FILE = "progress.json"
WRITTEN_SECONDS = 60  # within these a note that is being written has been written
LOOK_SECONDS, BUCKET_SECONDS = 1.0, 10.0  # between two looks at notes; in a bucket, where each costs requests
_noted: dict[Path, tuple[str, float]] = {}  # folder in a bucket -> phase and time of the last note
LOG_SECONDS = (2, 30)  # between two lines of a log: at least, and at most while there is progress


def note(folder: Path, phase: str, done: int, total: int) -> None:
    """Write into a folder how far a process is: `done` of `total` steps of a phase. Another process reads it.

    In a bucket, where each costs a request, no sooner than `BUCKET_SECONDS` after the last one of the same phase.
    """
    if isinstance(folder, BucketPath) and done < total:
        last_phase, at_s = _noted.get(folder, ("", -math.inf))
        if phase == last_phase and time.monotonic() - at_s < BUCKET_SECONDS:
            return
        _noted[folder] = phase, time.monotonic()
    storage.make_folder(folder)
    storage.write_note(folder / FILE, {"phase": phase, "done": done, "total": total})


def forget(folder: Path) -> None:
    """Remove what was noted in a folder, and the notes that killed processes left half-written."""
    (folder / FILE).unlink(missing_ok=True)
    for half_written in folder.glob(f".{FILE}.*.tmp"):
        with suppress(OSError):  # of a process that lives, and has just written it
            if time.time() - half_written.stat().st_mtime > WRITTEN_SECONDS:
                half_written.unlink()


def noted(folder: Path) -> Mapping[str, Any] | None:
    """Return what `note` wrote last in this folder: `phase`, `done` and `total`; None if it wrote nothing."""
    try:
        return storage.read_json(folder / FILE)
    except (FileNotFoundError, storage.StorageError):  # a note is not made safe from power cuts
        return None


def look_seconds(folder: Path) -> float:
    """Return how many seconds to wait between two looks at what is noted below a folder."""
    return BUCKET_SECONDS if isinstance(folder, BucketPath) else LOOK_SECONDS


@dataclass(slots=True)
class _Told:
    """What the log said last of an item."""

    began_s: float
    first: float  # how much was done when the item was first seen: work of an earlier run tells nothing of the speed
    word: str = ""  # the phase, without counts
    at_s: float = -math.inf
    done: float = 0.0
    ended: bool = False


class View:
    """A bar for each item. Without a terminal, lines with the time of day, and how long the rest will take.

    Such a line comes when an item enters another phase or ends, and meanwhile at each tenth of it, or after half a
    minute.
    """

    def __init__(self, console: Console, bars: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.bars, self.clock = console, bars, clock
        self.tasks: dict[str, TaskID] = {}
        self.told: dict[str, _Told] = {}

    def update(self, item: str, phase: str, done: float, total: float) -> None:
        """Show that an item is in this phase, with `done` of `total` behind it; a new item gets a bar of its own."""
        if item not in self.tasks:
            self.tasks[item] = self.bars.add_task(item, total=total, phase="")
        self.bars.update(self.tasks[item], completed=done, total=total, phase=phase)
        if not self.console.is_terminal:
            self._log(item, phase, done, total)

    def _log(self, item: str, phase: str, done: float, total: float) -> None:
        now = self.clock()
        told = self.told.setdefault(item, _Told(began_s=now, first=done))
        word, ends = phase.split(" ", 1)[0].rstrip("0123456789"), done >= total
        quiet_s = now - told.at_s
        a_tenth = done - told.done >= total / 10 and quiet_s >= LOG_SECONDS[0]
        goes_on = a_tenth or (quiet_s >= LOG_SECONDS[1] and done > told.done)
        if word == told.word and not goes_on and ends == told.ended:
            return
        told.word, told.at_s, told.done, told.ended = word, now, done, ends
        share = [f"{100 * done / total:.0f} %"] if total else []
        passed_s, gone = now - told.began_s, done - told.first
        if gone > 0 and passed_s >= 1:
            if isinstance(total, int):  # of equal things; the parts of a trial are not
                share.append(f"{gone / passed_s:.2g} a second")
            if not ends:
                share.append(f"about {duration((total - done) * passed_s / gone)} left")
        line = f"  {datetime.now():%H:%M:%S} {item}: {phase} ({', '.join(share)})"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a time span as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 91:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def view(console: Console, title: str) -> Iterator[View]:
    """Print the title and show the bars of a view for as long as the block runs."""
    console.print(f"[bold]{title}[/bold]", highlight=False)
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[phase]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        yield View(console, bars)
