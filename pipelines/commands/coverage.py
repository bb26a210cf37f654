"""Print, and maybe write, what extractions made of their videos."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.common.storage import check_storage
from pipelines.common.text import printable
from pipelines.faces.store import finished
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


def show(arguments: argparse.Namespace, console: Console) -> int:
    """Print the tables, and write them to `out` if it is given; return the exit code. Raises ValueError or OSError."""
    storage, out = check_storage(arguments.storage, write=False), arguments.out
    names = arguments.extractions or sorted({path.parents[1].name for path in storage.glob("faces/*/*/_done.json")})
    if not names:
        raise ValueError(f"{storage} has no faces; run `uv run crossforge preprocess`, or name its --storage")
    for folder in [folder for name in names for folder in finished(name, storage)]:
        videos, ledger = read_extraction(folder)
        title = f"{', '.join(sorted(set(videos['dataset'].to_pylist()))) or 'nothing'}, {folder.name}"
        _print(console, title, table(videos, ledger), reasons(videos, ledger), find_leaks(videos, ledger))
        if out is not None:
            name = title.replace(", ", "-")
            write(out, name, title, videos, ledger)
            console.print(f"Written: {out / name}.md, .csv, -reasons.csv, .png", highlight=False, soft_wrap=True)
    return 0
