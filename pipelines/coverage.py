"""What an extraction made of its videos, by class and manipulation: python -m pipelines.coverage FACES_FOLDER ...

A video that gives no face is scored by a rule, not by a model. Where such videos are more often fake than real,
or the other way round, the rule tells the label, and a number that looks like detection is partly bookkeeping.

Rule, within each split of a dataset, all fakes and each manipulation against the real videos:
    failed           share of videos without a usable face; Fisher's exact test p < 0.01 and a difference of
                     2 percentage points or more
    faces per frame  mean over the videos that have faces; Mann-Whitney U test p < 0.01 and a difference of 0.05
                     or more
Flags are not corrected for the number of tests.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.common import command
from pipelines.common.text import printable
from pipelines.reporting.coverage import lines, read_extraction, reasons, table, verdict, write
from pipelines.reporting.leaks import Leak, find_leaks

WIDE = 130  # characters that the whole table needs
LEFT_OUT = ("dataset", "read", "frames", "faces", "s / video")  # of the table where there are fewer
MOST_REASONS = 10  # that are printed


def _print(
    console: Console, title: str, coverage: pa.Table, why: Sequence[Mapping[str, Any]], leaked: Sequence[Leak]
) -> None:
    columns = list(zip(*lines(coverage), strict=True))
    if console.width < WIDE:
        columns = [column for column in columns if column[0] not in LEFT_OUT]
    shown = Table(title=Text(printable(title)), title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column[0], justify="left" if number < 2 else "right", overflow="fold")
    for line in list(zip(*columns, strict=True))[1:]:
        shown.add_row(*(Text(printable(text)) for text in line))
    console.print(shown)
    for row in why[:MOST_REASONS]:
        text = f"  {row['videos']} {row['status']} of {row['method']} in {row['split']}: {row['reason']}"
        console.print(printable(f"{text}, e.g. {row['example']}"), highlight=False, markup=False)
    if len(why) > MOST_REASONS:
        console.print(f"  and {len(why) - MOST_REASONS} more reasons: --out writes all", highlight=False)
    for text in verdict(leaked):
        style = "bold red" if text.startswith("LEAK") else ""
        console.print(printable(text), style=style, highlight=False, markup=False)


def show(folders: Sequence[Path], out: Path | None, console: Console) -> int:
    """Print the tables, and write them to `out` if it is given; return the exit code. Raises ValueError or OSError."""
    for folder in folders:
        videos, ledger = read_extraction(folder)
        title = f"{', '.join(sorted(set(videos['dataset'].to_pylist()))) or 'nothing'}, {folder.name}"
        _print(console, title, table(videos, ledger), reasons(videos, ledger), find_leaks(videos, ledger))
        if out is not None:
            name = title.replace(", ", "-")
            write(out, name, title, videos, ledger)
            console.print(f"Written: {out / name}.md, .csv, -reasons.csv, .png", highlight=False, soft_wrap=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a folder that cannot be read, 130 when interrupted."""
    p = command.parser("python -m pipelines.coverage", __doc__)
    p.add_argument(
        "folders", metavar="FACES_FOLDER", nargs="+", type=Path, help="e.g. crossforge-storage/faces/ffpp/<digest>"
    )
    p.add_argument("--out", metavar="DIR", type=Path, help="write Markdown, CSV and a plot there")
    arguments = p.parse_args(argv)
    return command.main(partial(show, arguments.folders, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
