"""The table as a picture: published beside ours, with intervals, a panel for each column."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common.storage import writing
from pipelines.common.text import printable
from pipelines.reporting.figures import FAKE_COLOUR, REAL_COLOUR
from pipelines.reporting.table import Cell, evenly

PANELS = 4  # side by side
CHARACTERS = 30  # of a title that fit over one panel
NAME_CHARACTERS = 32  # of a row's name that fit into a line beside the panels
LINE = 0.24  # inches that a line of text takes
DODGE = 0.13  # of a row's height: ours below its place, published above
CONTEXT, PUBLISHED, OURS = "0.6", FAKE_COLOUR, REAL_COLOUR


def plot(path: Path, title: str, row_name: str, cells: Sequence[Cell], footer: str) -> None:
    """Write a PNG with a panel for each column of the table, and its rows below each other.

    It shows published values (circles; gray ones where nothing was run) and ours (squares with intervals, a little
    lower, so that none hides another). footer: a text below the panels.
    """
    from matplotlib import rc_context  # here: a second of import that a dry run does not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(cell.column for cell in cells))
    wide = evenly(len(columns), PANELS)
    high = -(-len(columns) // wide)
    names = {cell.row: "\n".join(textwrap.wrap(printable(cell.row), NAME_CHARACTERS)) or " " for cell in cells}
    lines = sum(name.count("\n") + 1 for name in names.values())
    beside = 0.09 * max(len(line) for name in (row_name, *names.values()) for line in name.splitlines())
    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        size = (2.7 * wide + beside, (LINE * lines + 1.1) * high + 1)
        figure = Figure(figsize=(max(size[0], 5), max(size[1], 4)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(high, wide, sharey=True, squeeze=False)
        for axis, column in zip(grid.flat, columns, strict=False):
            own = [cell for cell in cells if cell.column == column]
            _panel(axis, own)
            axis.set_title(printable(column), fontsize="medium")
            axis.set_xlabel(f"{own[0].level} {own[0].metric.upper()} (%)".lstrip(), fontsize="small")
            axis.tick_params(axis="x", labelsize="small")
        for axis in grid.flat[len(columns) :]:
            axis.set_axis_off()
        runs = {cell.row: cell.runs for cell in cells}
        for axis in grid[:, 0]:
            axis.set_yticks(range(len(names)), names.values(), fontsize="small")
            axis.set_ylabel(printable(row_name))
            for text, is_run in zip(axis.get_yticklabels(), runs.values(), strict=True):
                text.set_color("black" if is_run else "0.45")
        figure.suptitle(textwrap.fill(printable(title), max(CHARACTERS * wide, 40)))
        _legend(figure, grid.flat, wide, footer)
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def _panel(axis: Any, cells: Sequence[Cell]) -> None:
    """Draw one column, the first row on top."""
    places = list(enumerate(cells))
    several = any(len(cell.seeds) > 1 for cell in cells)
    for label, colour, runs in (("published", PUBLISHED, True), ("published only: nothing was run", CONTEXT, False)):
        shown = [(y, cell) for y, cell in places if cell.runs is runs and math.isfinite(cell.published)]
        x = [100 * cell.published for _, cell in shown]
        if shown:
            y = [place - DODGE * runs for place, _ in shown]
            axis.plot(x, y, "o", color=colour, markerfacecolor="white", label=label)
    known = [(y, cell) for y, cell in places if math.isfinite(cell.ours)]
    if known:
        bars = 100 * np.array([[cell.ours - cell.low, cell.high - cell.ours] for _, cell in known]).T
        axis.errorbar(
            [100 * cell.ours for _, cell in known],
            [y + DODGE for y, _ in known],
            xerr=np.maximum(bars, 0),
            fmt="s",
            color=OURS,
            capsize=3,
            markersize=5,
            label=f"ours{', mean over seeds' if several else ''}: 95 % interval",
        )
    axis.set_ylim(len(cells) - 0.5, -0.5)
    axis.grid(alpha=0.3)


def _legend(figure: Any, axes: Iterable[Any], wide: int, footer: str) -> None:
    """Add a legend below the panels, with the footer as its title; within a panel it would hide numbers."""
    shown = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=min(3, wide),
        fontsize="small",
        frameon=False,
        title=textwrap.fill(printable(footer), max(2 * CHARACTERS * wide, 60)),
        title_fontsize="x-small",
    )
    legend.get_title().set_color("0.35")
