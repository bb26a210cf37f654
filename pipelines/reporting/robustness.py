"""Robustness as a picture: a number against the level of each perturbation, a line for each row of a sweep."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.common.storage import writing
from pipelines.common.text import printable
from pipelines.faces import perturb
from pipelines.metrics.names import FINAL
from pipelines.reporting.figures import legend, style
from pipelines.reporting.saved import Material, Saved, where

CHARACTERS = 36  # of a title that fit over one panel
# Level, 0 for clean faces; value, low and high in [0, 1]: means over seeds, NaN where not defined.
Point = tuple[int, float, float, float]


def points(results: Sequence[pa.Table], test: str, family: str, level: str, metric: str) -> list[Point]:
    """Return the curve of a row in the order of levels; empty where it was not perturbed by this family.

    results: RESULTS of the row's trials; test: the part; level and metric: of the numbers.
    """
    levels = {"": 0} | {p.name: p.level for p in perturb.PERTURBATIONS.values() if p.family == family}
    wanted = {"stage": FINAL, "test_dataset": test, "level": level, "metric": metric}
    by_level: dict[int, list[tuple[float, float, float]]] = {}
    for table in results:
        for row in where(table, wanted).to_pylist():
            if row["perturbation"] in levels:
                number = (row["value"], row["low"], row["high"])
                by_level.setdefault(levels[row["perturbation"]], []).append(number)
    if not any(by_level):
        return []
    means = {place: np.mean(numbers, axis=0).tolist() for place, numbers in by_level.items()}
    return [(place, value, low, high) for place, (value, low, high) in sorted(means.items())]


def scored(results: Mapping[str, Sequence[pa.Table]]) -> tuple[list[str], list[str]]:
    """Return the test parts and the families of perturbations of which some trial has numbers; both may be empty.

    results: as `plot` takes them.
    """
    tests, names = [], set()
    for table in chain.from_iterable(results.values()):
        perturbed = table.filter(pc.not_equal(table["perturbation"], ""))
        tests += perturbed["test_dataset"].unique().to_pylist()
        names |= set(perturbed["perturbation"].unique().to_pylist())
    families = [p.family for p in perturb.PERTURBATIONS.values() if p.name in names]
    return list(dict.fromkeys(tests)), list(dict.fromkeys(families))


def plot(
    path: Path,
    title: str,
    row_name: str,
    results: Mapping[str, Sequence[pa.Table]],
    *,
    level: str = "video",
    metric: str = "auc",
    footer: str = "",
) -> bool:
    """Write a PNG: panels of perturbations side by side, of test parts below each other; return True.

    results: row of the sweep -> RESULTS of its finished trials, one for each seed. Where no trial was scored under
    perturbations, nothing is written, and the answer is False.
    """
    tests, families = scored(results)
    if not families:
        return False
    from matplotlib import rc_context  # here: a second of import that a dry run does not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        figure = Figure(figsize=(2.9 * len(families) + 0.6, 2.8 * len(tests) + 1.3), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(tests), len(families), sharey="row", squeeze=False)
        lines: dict[str, Any] = {}
        for axes, test in zip(grid, tests, strict=True):
            for axis, family in zip(axes, families, strict=True):
                curves = {row: points(tables, test, family, level, metric) for row, tables in results.items()}
                lines |= _panel(axis, family, curves)
            axes[0].set_ylabel(f"{printable(test)}\n{level} {metric.upper()} (%)")
        for axis, family in zip(grid[0], families, strict=True):
            axis.set_title(family)
        for axis, family in zip(grid[-1], families, strict=True):
            axis.set_xlabel(perturb.PARAMETERS[family])
        shown = {row: lines[row] for row in results if row in lines}
        ncols = min(4, len(families), len(shown))
        legend(figure, shown, loc="outside lower center", ncols=ncols, title=printable(row_name))
        wrapped = [textwrap.fill(printable(text), CHARACTERS * len(families)) for text in (title, footer) if text]
        figure.suptitle("\n".join(wrapped), fontsize="medium")
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
    return True


def write(path: Path, saved: Saved, materials: Sequence[Material], footer: str) -> list[Path]:
    """Write the curves of a report, at the level and in the metric of its first perturbed column.

    Return the path, or nothing where nothing was perturbed.
    """
    perturbed = next((column for column in saved.columns if column.perturbation), None)
    level, metric = (perturbed.level, perturbed.metric) if perturbed else ("video", "auc")
    running = [line.label for line in saved.rows if line.runs]
    results = {row: [material.results for material in materials if material.row == row] for row in running}
    title = f"{saved.title}, by level"
    return [path] if plot(path, title, saved.row_name, results, level=level, metric=metric, footer=footer) else []


def _panel(axis: Any, family: str, curves: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """Draw a family's curves, row by row; return row -> line. A row keeps its colour where others have no curve."""
    lines = {}
    for number, (row, curve) in enumerate(curves.items()):
        if curve:
            place, value, low, high = (np.array(column) for column in zip(*curve, strict=True))
            look = style(number)
            (lines[row],) = axis.plot(place, 100 * value, **look, marker="o", markersize=4)
            axis.fill_between(place, 100 * low, 100 * high, color=look["color"], alpha=0.15, linewidth=0)
    known = {p.level: p.parameter for p in perturb.PERTURBATIONS.values() if p.family == family}
    shown = sorted({place for curve in curves.values() for place, *_ in curve})
    axis.set_xticks(shown, [known.get(place, "clean") for place in shown], fontsize="small")
    axis.grid(axis="y", alpha=0.3)
    return lines
