"""Robustness as a picture: a number against the level of each perturbation, one line for each row of a sweep."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.common.storage import writing
from pipelines.common.text import printable
from pipelines.faces import perturb
from pipelines.metrics.names import FINAL
from pipelines.reporting.saved import Material, Saved

CHARACTERS = 36  # of a title that fit over one panel
Point = tuple[
    int, float, float, float
]  # level, 0 for clean faces; value, low, high: means over seeds, NaN: not defined


def points(results: Sequence[pa.Table], test: str, family: str, level: str, metric: str) -> list[Point]:
    """The curve of a row from the RESULTS of its trials, in the order of levels; empty where they have none of it."""
    levels = {"": 0} | {p.name: p.level for p in perturb.PERTURBATIONS.values() if p.family == family}
    found: dict[int, list[tuple[float, float, float]]] = {}
    for table in results:
        for row in table.filter(_wanted(table, test, level, metric)).to_pylist():
            if row["perturbation"] in levels:
                place = levels[row["perturbation"]]
                found.setdefault(place, []).append((row["value"], row["low"], row["high"]))
    if not any(found):
        return []
    means = {place: np.mean(values, axis=0).tolist() for place, values in found.items()}
    return [(place, value, low, high) for place, (value, low, high) in sorted(means.items())]


def _wanted(table: pa.Table, test: str, level: str, metric: str) -> Any:
    equal = {"stage": FINAL, "test_dataset": test, "level": level, "metric": metric}
    mask = pc.equal(table["stage"], FINAL)
    for name, value in equal.items():
        mask = pc.and_(mask, pc.equal(table[name], value))
    return mask


def scored(results: Mapping[str, Sequence[pa.Table]]) -> tuple[list[str], list[str]]:
    """Test parts, and families of perturbations, that some trial has numbers of; both may be empty."""
    tables = [table for several in results.values() for table in several]
    tests, names = [], set()
    for table in tables:
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
    """Writes a PNG: panels of perturbations side by side, of test parts below each other.

    results: row of the sweep -> RESULTS of its finished trials, one for each seed. False, and no file, where no trial
    was scored under perturbations.
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
        many = len(families)
        legend(figure, shown, loc="outside lower center", ncols=min(4, many, len(shown)), title=printable(row_name))
        told = [textwrap.fill(printable(text), CHARACTERS * many) for text in (title, footer) if text]
        figure.suptitle("\n".join(told), fontsize="medium")
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
    return True


def legend(of: Any, lines: Mapping[str, Any], **placed: Any) -> Any:
    """A legend of a figure or panel, whose names may be anything: one that begins with `_` would be left out of it."""
    made = of.legend(lines.values(), ["."] * len(lines), **placed)
    for text, name in zip(made.get_texts(), lines, strict=True):
        text.set_text(printable(name))
    return made


def write(path: Path, saved: Saved, materials: Sequence[Material], footer: str) -> list[Path]:
    """The curves of a report: at the level and in the metric of its first perturbed column. What was written."""
    perturbed = next((column for column in saved.columns if column.perturbation), None)
    level, metric = (perturbed.level, perturbed.metric) if perturbed else ("video", "auc")
    results = {row: [one.results for one in materials if one.row == row] for row in saved.published}
    title = f"{saved.title}, by level"
    return [path] if plot(path, title, saved.row_name, results, level=level, metric=metric, footer=footer) else []


def _panel(axis: Any, family: str, curves: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """Lines with their intervals, by row; a row keeps its colour where others have no curve."""
    lines = {}
    for number, (row, curve) in enumerate(curves.items()):
        if curve:
            place, value, low, high = (np.array(column) for column in zip(*curve, strict=True))
            (lines[row],) = axis.plot(place, 100 * value, "o-", color=f"C{number % 10}", markersize=4)
            axis.fill_between(place, 100 * low, 100 * high, color=f"C{number % 10}", alpha=0.15, linewidth=0)
    known = {p.level: p.parameter for p in perturb.PERTURBATIONS.values() if p.family == family}
    shown = sorted({place for curve in curves.values() for place, *_ in curve})
    axis.set_xticks(shown, [known.get(place, "clean") for place in shown], fontsize="small")
    axis.grid(axis="y", alpha=0.3)
    return lines
