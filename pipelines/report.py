"""RESULTS of a sweep's trials -> the table beside the paper's: rows for the terminal, Markdown, CSV, PNG.

Everything here is computed from `results.parquet` of the trials; no model is needed.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run import FINAL

ONE_SEED = "*"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the paper's table on one test dataset. All values in [0, 1]; NaN where there is none."""

    row: str
    column: str
    published: float
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


def cell(
    row: str, column: str, published: float, results: Sequence[pa.Table], level: str, metric: str, failure: str = ""
) -> Cell:
    """results: RESULTS of the row's finished trials, one per seed."""
    found = [entry for table in results for entry in _pick(table, column, level, metric)]
    if not found:
        return Cell(row=row, column=column, published=published, failure=failure or f"no {level} {metric}")
    ours = [entry["value"] for entry in found]
    counts = {name: max(entry[name] for entry in found) for name in ("n_real", "n_fake", "n_missing", "n_excluded")}
    if not np.isfinite(ours).all():
        failure = f"{counts['n_real']} real and {counts['n_fake']} fake videos with a face: not defined"
    return Cell(
        row=row,
        column=column,
        published=published,
        ours=float(np.mean(ours)),
        spread=float(np.std(ours, ddof=1)) if len(ours) > 1 else math.nan,
        low=float(np.mean([entry["low"] for entry in found])),
        high=float(np.mean([entry["high"] for entry in found])),
        seeds=tuple(entry["seed"] for entry in found),
        failure=failure,
        **counts,
    )


def _pick(table: pa.Table, column: str, level: str, metric: str) -> list[dict[str, Any]]:
    wanted = {"test_dataset": column, "level": level, "metric": metric, "stage": FINAL}
    for name, value in wanted.items():
        table = table.filter(pc.equal(table[name], value))
    return table.to_pylist()


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


def notes(cells: Sequence[Cell], facts: Mapping[str, str]) -> list[str]:
    """What a reader must know to read the numbers."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    for column in dict.fromkeys(cell.column for cell in cells):
        scored = [cell for cell in cells if cell.column == column and cell.seeds]
        if scored:
            c = scored[0]
            excluded = f", {c.n_excluded} excluded (share a source with training)" if c.n_excluded else ""
            lines.append(f"{column}: {c.n_real} real and {c.n_fake} fake videos scored, {c.n_missing} failed{excluded}")
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
    names = ["published", "ours", "difference", "spread", "low", "high", "seeds"]
    names += ["n_real", "n_fake", "n_missing", "n_excluded", "failure"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([row_name, "test_dataset", *names])
    for cell in cells:
        values = [getattr(cell, name) for name in names]
        writer.writerow([cell.row, cell.column, *(_plain(value) for value in values)])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def plot(path: Path, title: str, row_name: str, metric_name: str, cells: Sequence[Cell], footer: str) -> None:
    """One panel per test dataset: published (line) and ours (points with intervals) over the rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import that a dry run does not need
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(cell.column for cell in cells))
    figure = Figure(figsize=(3.6 * len(columns) + 0.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        of_column = [cell for cell in cells if cell.column == column]
        x = range(len(of_column))
        axis.plot(x, [100 * cell.published for cell in of_column], "o--", color="0.45", label="published")
        known = [(i, cell) for i, cell in zip(x, of_column, strict=True) if math.isfinite(cell.ours)]
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
        axis.set_title(column)
        axis.set_xticks(list(x), [cell.row for cell in of_column], rotation=0 if len(of_column) < 7 else 60)
        axis.set_xlabel(row_name)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"{metric_name} (%)")
    axes[-1].legend(loc="best", fontsize="small")
    figure.suptitle(title)
    figure.supxlabel(footer, fontsize="x-small", color="0.35")
    figure.savefig(path, dpi=130)
