"""Progress of long work: a live view with bars, or plain lines without a terminal; notes from other processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipelines.common import storage

FILE = "progress.json"


def note(folder: Path, phase: str, done: int, total: int) -> None:
    """Write into a folder how far a process is: `done` of `total` steps of a phase. Another process reads it."""
    storage.write_json(folder / FILE, {"phase": phase, "done": done, "total": total})


def noted(folder: Path) -> Mapping[str, Any] | None:
    """Return what `note` wrote last in this folder: `phase`, `done` and `total`; None if it wrote nothing."""
    path = folder / FILE
    return storage.read_json(path) if path.exists() else None


class View:
    """A bar for each item; without a terminal, a line whenever an item enters another phase."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self.console, self.bars = console, bars
        self.tasks: dict[str, TaskID] = {}
        self.milestones: dict[str, str] = {}

    def update(self, item: str, phase: str, done: float, total: float) -> None:
        """Show that an item is in this phase, with `done` of `total` behind it; a new item gets a bar of its own."""
        if item not in self.tasks:
            self.tasks[item] = self.bars.add_task(item, total=total, phase="")
        self.bars.update(self.tasks[item], completed=done, total=total, phase=phase)
        milestone = "end" if done >= total else phase.split(" ", 1)[0].rstrip("0123456789") or "begin"
        if self.milestones.get(item) != milestone:
            self.milestones[item] = milestone
            if not self.console.is_terminal:
                self.console.print(f"  {item}: {phase}", highlight=False)


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
