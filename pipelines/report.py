"""The table of a sweep beside the paper's, as Markdown, CSV, PNG and HTML: python -m pipelines.report [SWEEP ...]

    python -m pipelines.report                              every report of the storage
    python -m pipelines.report mask_ratio                   those of one sweep
    python -m pipelines.report /data/crossforge/reports/X   one folder, beside its runs

A sweep writes its report when it ends. This command makes it again from the PREDICTIONS of the runs: their RESULTS
by the code of now (and says where the stored ones differ), then everything that follows. It needs no model, no GPU,
no Ray and no dataset. Exit code: 0, or 1 where a number differs, or 2 for wrong input.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import DEFAULT_STORAGE
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
        if not own and not Path(name).is_dir():
            there = ", ".join(sorted(set(known.values()))) or "none"
            raise ValueError(f"{name} is neither a report's folder nor a sweep of which {storage} has one: {there}")
        yield from own or [Path(name).resolve()]


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


def parser() -> argparse.ArgumentParser:
    p = command.parser("python -m pipelines.report", __doc__)
    p.add_argument("report", nargs="*", metavar="SWEEP|FOLDER", help="default: every report of the storage")
    p.add_argument(
        "--storage",
        metavar="DIR",
        help=f"where the runs are (default: that of the FOLDER, or ./{DEFAULT_STORAGE})",
    )
    p.add_argument("--no-html", action="store_true", help="Markdown, CSV and plot only")
    return p


def make_all_again(arguments: argparse.Namespace, console: Console) -> int:
    """Return the exit code: 0, or 1 where a number differs. Raises ValueError or OSError for wrong input."""
    storage = Path(arguments.storage or DEFAULT_STORAGE).expanduser().resolve()
    same = True
    for folder in list(folders(arguments.report, storage)):  # all are looked for before one is made
        runs = storage if arguments.storage else folder.parents[1]
        same &= make_again(folder, runs, console, html=not arguments.no_html)
    return 0 if same else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser().parse_args(argv)
    return command.main(partial(make_all_again, arguments))


if __name__ == "__main__":
    sys.exit(main())
