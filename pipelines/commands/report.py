"""Make stored reports again from the PREDICTIONS of their runs."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from pipelines.common.storage import DEFAULT_STORAGE, check_storage, path_of
from pipelines.common.text import meant
from pipelines.reporting.foreign import with_registered
from pipelines.reporting.report import Report, gather
from pipelines.reporting.saved import TABLE, Saved, differing

MOST_LINES = 20  # that are printed of what differs


# ---------------------------------------------------------------------------------------- command
def folders(names: Sequence[str], storage: Path) -> Iterator[Path]:
    """Yield report folders: those given as such, and all of the named sweeps. Raises ValueError where there is none."""
    known = {path.parent: Saved.read(path.parent).name for path in sorted(storage.glob(f"reports/*/{TABLE}"))}
    if not names and not known:
        raise ValueError(f"{storage / 'reports'} holds no report with a {TABLE}; run a sweep, or name its --storage")
    yield from known if not names else ()
    for name in names:
        own = [folder for folder, sweep in known.items() if sweep == name]
        if not own and not path_of(name).is_dir():
            there = sorted(set(known.values()))
            guess = meant(name, there, f"there are {', '.join(there) or 'none'}")
            raise ValueError(f"{name} is neither a report's folder nor a sweep of which {storage} has one; {guess}")
        yield from own or [path_of(name).resolve()]


def make_again(folder: Path, storage: Path, console: Console, *, html: bool) -> bool:
    """Make a report again and return whether all RESULTS are the same as the stored ones."""
    saved = with_registered(Saved.read(folder), storage)
    materials = gather(saved, storage, again=True)
    lines = list(dict.fromkeys(line for each in materials for line in differing(each.run.results, each.results)))
    number = sum(each.results.num_rows for each in materials)
    state = f"{len(lines)} differ from the stored ones" if lines else "as stored"
    say(console, f"{folder.name}: {number} numbers of {len(materials)} runs made again, {state}")
    for line in lines[:MOST_LINES]:
        say(console, f"  {line}")
    if lines[MOST_LINES:]:
        say(console, f"  and {len(lines) - MOST_LINES} more; the report has the new numbers, results.parquet the old")
    for path in Report.of(saved, materials).write(folder, html=html):
        say(console, f"  {path}")
    return not lines


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def make_all_again(arguments: argparse.Namespace, console: Console) -> int:
    """Return the exit code: 0, or 1 where a number differs. Raises ValueError or OSError for wrong input."""
    storage = check_storage(arguments.storage or DEFAULT_STORAGE, write=False)
    same = True
    for folder in list(folders(arguments.report, storage)):  # all are looked for before one is made
        runs = storage if arguments.storage else folder.parents[1]
        same &= make_again(folder, runs, console, html=not arguments.no_html)
    return 0 if same else 1
