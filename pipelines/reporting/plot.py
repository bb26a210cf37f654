"""The table as a picture: published beside ours, with intervals, a panel for each column."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common.storage import writing
from pipelines.common.text import printable
from pipelines.reporting.table import Cell

PANELS = 4  # side by side
CHARACTERS = 36  # of a title that fit over one panel
NAME_CHARACTERS = 26  # of a row's name that fit into a line below a panel


def plot(path: Path, title: str, row_name: str, value_name: str, cells: Sequence[Cell], footer: str) -> None:
    """Write a PNG with a panel for each column of the table.

    It shows published (a line) and ours (points with intervals) over the rows. value_name: of the axis; footer: a text
    below the panels.
    """
    from matplotlib import rc_context  # here: a second of import that a dry run does not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(cell.column for cell in cells))
    wide = min(PANELS, len(columns))
    high = -(-len(columns) // wide)
    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        names = _row_names(cells)
        turned = 0.0 if _fit(names) else 0.07 * max(len(line) for name in names for line in name.splitlines())
        figure = Figure(figsize=(3.6 * wide + 0.6, (3.9 + turned) * high + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(high, wide, sharey=True, squeeze=False)
        for axis, column in zip(grid.flat, columns, strict=False):
            _panel(axis, printable(row_name), [cell for cell in cells if cell.column == column])
            axis.set_title(printable(column))
        for axis in grid.flat[len(columns) :]:
            axis.set_axis_off()
        for axis in grid[:, 0]:
            axis.set_ylabel(f"{value_name} (%)")
        figure.suptitle(textwrap.fill(printable(title), CHARACTERS * wide))
        _legend(figure, grid.flat, wide, footer)
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def _panel(axis: Any, row_name: str, cells: Sequence[Cell]) -> None:
    x = range(len(cells))
    several = any(len(cell.seeds) > 1 for cell in cells)
    axis.plot(x, [100 * cell.published for cell in cells], "o--", color="0.45", label="published")
    known = [(i, cell) for i, cell in zip(x, cells, strict=True) if math.isfinite(cell.ours)]
    if known:
        ours = np.array([100 * cell.ours for _, cell in known])
        bars = 100 * np.array([[cell.ours - cell.low, cell.high - cell.ours] for _, cell in known]).T
        axis.errorbar(
            [i for i, _ in known],
            ours,
            np.maximum(bars, 0),
            fmt="s-",
            color="C0",
            capsize=4,
            label=f"ours{', mean over seeds' if several else ''}: 95 % interval over videos",
        )
    names = _row_names(cells)
    if _fit(names):
        axis.set_xticks(list(x), names)
    else:
        axis.set_xticks(list(x), names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_xlabel(row_name)
    axis.grid(axis="y", alpha=0.3)


def _legend(figure: Any, axes: Iterable[Any], wide: int, footer: str) -> None:
    """Add a legend below the panels, with the footer as its title; within a panel it would hide numbers."""
    shown = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=min(2, wide),
        fontsize="small",
        frameon=False,
        title=textwrap.fill(printable(footer), 2 * CHARACTERS * wide),
        title_fontsize="x-small",
    )
    legend.get_title().set_color("0.35")


def _row_names(cells: Sequence[Cell]) -> list[str]:
    """Return the rows' names, wrapped so that they leave room for the panel above them."""
    rows = dict.fromkeys(cell.row for cell in cells)
    return ["\n".join(textwrap.wrap(printable(row), NAME_CHARACTERS)) for row in rows]


def _fit(names: Sequence[str]) -> bool:
    """Return whether the names can stand side by side below one panel."""
    return sum(len(name) for name in names) < 30
