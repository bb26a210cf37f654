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
from pathlib import Path

from rich.console import Console

from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.reporting.report import Report, gather
from pipelines.reporting.saved import TABLE, Saved, differing

MOST_LINES = 20  # that are printed of what differs


# ---------------------------------------------------------------------------------------- command
def folders(names: Sequence[str], storage: Path) -> Iterator[Path]:
    """Report folders: given as such, or all below the storage of the named sweeps. Raises ValueError for none."""
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
    """Whether all RESULTS are the same as the stored ones."""
    saved = Saved.read(folder)
    found = gather(saved, storage, again=True)
    lines = list(dict.fromkeys(line for one in found for line in differing(one.run.results, one.results)))
    number = sum(one.results.num_rows for one in found)
    state = f"{len(lines)} differ from the stored ones" if lines else "as stored"
    say(console, f"{folder.name}: {number} numbers of {len(found)} runs made again, {state}")
    for line in lines[:MOST_LINES]:
        say(console, f"  {line}")
    if lines[MOST_LINES:]:
        say(console, f"  and {len(lines) - MOST_LINES} more; the report has the new numbers, results.parquet the old")
    for path in Report.of(saved, found).write(folder, html=html):
        say(console, f"  {path}")
    return not lines


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipelines.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("report", nargs="*", metavar="SWEEP|FOLDER", help="default: every report of the storage")
    p.add_argument(
        "--storage",
        metavar="DIR",
        help=f"where the runs are (default: that of the FOLDER, or ./{DEFAULT_STORAGE})",
    )
    p.add_argument("--no-html", action="store_true", help="Markdown, CSV and plot only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; see the text of the module."""
    arguments = parser().parse_args(argv)
    console = Console()
    storage = Path(arguments.storage or DEFAULT_STORAGE).expanduser().resolve()
    try:
        found = list(folders(arguments.report, storage))
        own = {folder: storage if arguments.storage else folder.parents[1] for folder in found}
        same = [make_again(folder, own[folder], console, html=not arguments.no_html) for folder in found]
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
