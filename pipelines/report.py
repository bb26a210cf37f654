"""RESULTS of a sweep's trials -> the table beside the paper's: rows for the terminal, Markdown, CSV, PNG.

Everything here is computed from `results.parquet` of the trials; no model is needed.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run import FINAL
from pipelines.sweep import LOCALIZING, Column

ONE_SEED = "*"
PANELS = 4  # of a plot, side by side


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the paper's table in one column. All values in [0, 1]; NaN where there is none."""

    row: str
    column: str
    published: float
    test: str = ""  # the part that was scored
    level: str = ""
    metric: str = ""
    ours: float = math.nan  # mean over seeds
    spread: float = math.nan  # standard deviation over seeds; NaN for one seed
    low: float = math.nan  # 95 % interval over videos, mean over seeds
    high: float = math.nan
    seeds: tuple[int, ...] = ()
    n_real: int = 0
    n_fake: int = 0
    n_missing: int = 0
    n_excluded: int = 0
    failure: str = ""  # why there is no value of ours

    @property
    def difference(self) -> float:
        return self.ours - self.published


def cell(row: str, column: Column, published: float, results: Sequence[pa.Table], failure: str = "") -> Cell:
    """results: RESULTS of the row's finished trials, one per seed."""
    found = [entry for table in results for entry in _pick(table, column)]
    empty = Cell(
        row=row, column=column.name, published=published, test=column.test, level=column.level, metric=column.metric
    )
    if not found:
        return replace(empty, failure=failure or _why_none(column))
    ours = [entry["value"] for entry in found]
    counts = {name: max(entry[name] for entry in found) for name in ("n_real", "n_fake", "n_missing", "n_excluded")}
    if not np.isfinite(ours).all():
        failure = f"{counts['n_real']} real and {counts['n_fake']} fake videos with a face: not defined"
    return replace(
        empty,
        test=found[0]["test_dataset"],
        ours=float(np.mean(ours)),
        spread=float(np.std(ours, ddof=1)) if len(ours) > 1 else math.nan,
        low=float(np.mean([entry["low"] for entry in found])),
        high=float(np.mean([entry["high"] for entry in found])),
        seeds=tuple(entry["seed"] for entry in found),
        failure=failure,
        **counts,
    )


def _pick(table: pa.Table, column: Column) -> list[dict[str, Any]]:
    wanted = {"level": column.level, "metric": column.metric, "stage": FINAL}
    if column.test:
        wanted["test_dataset"] = column.test
    for name, value in wanted.items():
        table = table.filter(pc.equal(table[name], value))
    return table.to_pylist()


def _why_none(column: Column) -> str:
    if column.metric in LOCALIZING:
        return f"no {column.metric}: of no forged face there are a true and a predicted mask"
    return f"no {column.level} {column.metric}"


def numbers(columns: Sequence[Column]) -> str:
    """What the columns hold, in words: `video-level auc and eer, frame-level iou`."""
    by_level: dict[str, list[str]] = {}
    for column in columns:
        if column.metric not in by_level.setdefault(column.level, []):
            by_level[column.level].append(column.metric)
    return ", ".join(f"{level}-level {' and '.join(metrics)}" for level, metrics in by_level.items())


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def ours_text(cell: Cell) -> str:
    """e.g. `91.2 ± 0.4 [89.9, 92.5]`; with one seed `91.2* [89.9, 92.5]`."""
    if math.isnan(cell.ours):
        return "failed" if cell.failure else "–"
    spread = ONE_SEED if math.isnan(cell.spread) else f" ± {percent(cell.spread)}"
    return f"{percent(cell.ours)}{spread} [{percent(cell.low)}, {percent(cell.high)}]"


def difference_text(cell: Cell) -> str:
    return "–" if math.isnan(cell.difference) else f"{100 * cell.difference:+.1f}"


def two_lines(cell: Cell) -> str:
    """The cell for a terminal: three numbers, and the interval below them."""
    ours, *interval = ours_text(cell).split(" [")
    head = f"{percent(cell.published)} {ours:>6} {difference_text(cell):>6}"
    return "\n".join([head, *(f"[{text}" for text in interval)])


def heading(column: str) -> str:
    return f"{column}\npubl.   ours  diff."


def side_by_side(row_name: str, cells: Sequence[Cell], width: int) -> list[list[str]]:
    """The columns in groups that fit beside the rows' names into `width` characters; one column always does."""
    texts = {cell.column: [heading(cell.column)] for cell in cells}
    for cell in cells:
        texts[cell.column].append(two_lines(cell))
    frame = 3  # what a terminal's table adds to a column
    first = max(len(name) for name in (row_name, *(cell.row for cell in cells))) + frame + 1
    groups: list[list[str]] = []
    left = 0
    for column, own in texts.items():
        needs = max(len(line) for text in own for line in text.splitlines()) + frame
        if needs > left:
            groups.append([])
            left = width - first
        groups[-1].append(column)
        left -= needs
    return groups


def notes(cells: Sequence[Cell], facts: Mapping[str, str]) -> list[str]:
    """What a reader must know to read the numbers."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    scored: dict[str, Cell] = {}
    for cell in cells:
        if cell.seeds:
            scored.setdefault(cell.test or cell.column, cell)
    for part, c in scored.items():
        excluded = f", {c.n_excluded} excluded (share a source with training)" if c.n_excluded else ""
        lines.append(f"{part}: {c.n_real} real and {c.n_fake} fake videos scored, {c.n_missing} failed{excluded}")
    if any(len(cell.seeds) == 1 for cell in cells):
        lines.append(f"{ONE_SEED} one seed only: the spread between seeds is not known")
    lines.append("[low, high]: 95 % interval, bootstrap over test videos; ±: standard deviation over seeds")
    failures: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.failure:
            failures.setdefault((cell.row, cell.failure), []).append(cell.column)
    lines += [f"FAILED {row} on {', '.join(columns)}: {why}" for (row, why), columns in failures.items()]
    return lines


def markdown(title: str, row_name: str, cells: Sequence[Cell], lines: Sequence[str]) -> str:
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    at = {(cell.row, cell.column): cell for cell in cells}
    head = [row_name] + [f"{column} {kind}" for column in columns for kind in ("published", "ours", "difference")]
    body = [[row] + [text for column in columns for text in texts(at[row, column])] for row in rows]
    table = [head, ["---"] * len(head), *body]
    return "\n".join(
        [f"# {title}", "", *(f"| {' | '.join(line)} |" for line in table), "", *(f"- {t}" for t in lines), ""]
    )


def texts(cell: Cell) -> tuple[str, str, str]:
    return percent(cell.published), ours_text(cell), difference_text(cell)


def to_csv(row_name: str, cells: Sequence[Cell]) -> str:
    buffer = io.StringIO()
    names = ["level", "metric", "published", "ours", "difference", "spread", "low", "high", "seeds"]
    names += ["n_real", "n_fake", "n_missing", "n_excluded", "failure"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([row_name, "test_dataset", *names])
    for cell in cells:
        values = [getattr(cell, name) for name in names]
        writer.writerow([cell.row, cell.test or cell.column, *(_plain(value) for value in values)])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def plot(path: Path, title: str, row_name: str, metric_name: str, cells: Sequence[Cell], footer: str) -> None:
    """One panel per column of the table: published (line) and ours (points with intervals) over the rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import that a dry run does not need
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(cell.column for cell in cells))
    wide = min(PANELS, len(columns))
    high = -(-len(columns) // wide)
    figure = Figure(figsize=(3.6 * wide + 0.6, 3.9 * high + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(high, wide, sharey=True, squeeze=False)
    for axis, column in zip(grid.flat, columns, strict=False):
        _panel(axis, row_name, [cell for cell in cells if cell.column == column])
        axis.set_title(column)
    for axis in grid.flat[len(columns) :]:
        axis.remove()
    for axis in grid[:, 0]:
        axis.set_ylabel(f"{metric_name} (%)")
    grid.flat[len(columns) - 1].legend(loc="best", fontsize="small")
    figure.suptitle(title)
    figure.supxlabel(footer, fontsize="x-small", color="0.35")
    figure.savefig(path, dpi=130)


def _panel(axis: Any, row_name: str, cells: Sequence[Cell]) -> None:
    x = range(len(cells))
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
            label="ours, 95 % interval",
        )
    fits = sum(len(cell.row) for cell in cells) < 30
    axis.set_xticks(list(x), [cell.row for cell in cells], rotation=0 if fits else 60, ha="center" if fits else "right")
    axis.set_xlabel(row_name)
    axis.grid(axis="y", alpha=0.3)
