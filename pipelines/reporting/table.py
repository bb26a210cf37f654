"""RESULTS -> the cells of the paper's table: published, ours, the difference, the test against the baseline row.

What a cell says is said here once, for the terminal, Markdown, CSV and the page.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.common.text import markdown_cell, printable
from pipelines.experiments.sweep import Column
from pipelines.metrics import significance
from pipelines.metrics.names import FINAL, LOCALIZING
from pipelines.metrics.significance import Comparison
from pipelines.reporting.saved import Material, Saved

ONE_SEED = "*"
HIGHER, LOWER = "↑", "↓"  # than the baseline, by more than other test videos explain


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the paper's table in one column. All values in [0, 1]; NaN where there is none."""

    row: str
    column: str
    published: float
    test: str = ""  # the part that was scored
    perturbation: str = ""  # of its faces
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
    against: Comparison | None = None  # the baseline row; None: this is it, or they share no test videos

    @property
    def difference(self) -> float:
        return self.ours - self.published


def one_cell(row: str, column: Column, published: float, results: Sequence[pa.Table], failure: str = "") -> Cell:
    """results: RESULTS of the row's finished trials, one per seed."""
    found = [entry for table in results for entry in _pick(table, column)]
    empty = Cell(
        row=row,
        column=column.name,
        published=published,
        test=column.test,
        perturbation=column.perturbation,
        level=column.level,
        metric=column.metric,
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


def cells(saved: Saved, materials: Sequence[Material]) -> list[Cell]:
    """Row by row; materials: of the trials that are done."""
    found = []
    for row, published in saved.published.items():
        results = [material.results for material in materials if material.row == row]
        failure = next((planned.failure for planned in saved.trials if planned.row == row and planned.failure), "")
        found += [one_cell(row, column, published[column.name], results, failure) for column in saved.columns]
    against: dict[tuple[str, str], Comparison] = {}
    for column in saved.columns:
        against |= {(row, column.name): one for row, one in compared(saved, materials, column).items()}
    return [replace(one, against=against.get((one.row, one.column))) for one in found]


def compared(saved: Saved, materials: Sequence[Material], column: Column) -> dict[str, Comparison]:
    """Row -> its comparison with the baseline row in one column, seed by seed, with Holm's correction over the rows."""
    made_of: dict[str, dict[int, significance.Terms]] = {}
    for material in materials:
        if tables := material.of_column(column):
            made_of.setdefault(material.row, {})[material.seed] = tables
    base = made_of.get(saved.baseline, {})
    known: significance.ResampledCache = {}
    found = {}
    for row in saved.published:
        own = made_of.get(row, {}) if row != saved.baseline else {}
        pairs = {
            seed: (own[seed], base[seed]) for seed in own.keys() & base.keys() if len(own[seed]) == len(base[seed])
        }
        if one := significance.compare(saved.baseline, column.metric, pairs, known):
            found[row] = one
    adjusted = significance.holm([one.p for one in found.values()])
    return {row: replace(one, adjusted_p=p) for (row, one), p in zip(found.items(), adjusted, strict=True)}


def _pick(table: pa.Table, column: Column) -> list[dict[str, Any]]:
    wanted = {
        "level": column.level,
        "metric": column.metric,
        "stage": FINAL,
        "perturbation": column.perturbation,
    }
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


def as_percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def ours_text(cell: Cell) -> str:
    """e.g. `91.2 ± 0.4 [89.9, 92.5]`; with one seed `91.2* [89.9, 92.5]`; `↑` behind it: above the baseline."""
    if math.isnan(cell.ours):
        return "failed" if cell.failure else "–"
    spread = ONE_SEED if math.isnan(cell.spread) else f" ± {as_percent(cell.spread)}"
    return f"{as_percent(cell.ours)}{spread} [{as_percent(cell.low)}, {as_percent(cell.high)}]{_sign(cell)}"


def _sign(cell: Cell) -> str:
    if cell.against is None or not cell.against.significant:
        return ""
    return f" {HIGHER if cell.against.difference > 0 else LOWER}"


def difference_text(cell: Cell) -> str:
    return "–" if math.isnan(cell.difference) else f"{100 * cell.difference:+.1f}"


def two_lines(cell: Cell, ours_width: int = 6) -> str:
    """The cell for a terminal: three numbers, and the interval below them."""
    ours, *interval = ours_text(cell).split(" [")
    head = f"{as_percent(cell.published)} {ours:>{ours_width}} {difference_text(cell):>6}"
    return "\n".join([head, *(f"[{text}" for text in interval)])


def heading(column: str, ours_width: int = 6) -> str:
    return f"{printable(column)}\npubl. {'ours':>{ours_width}}  diff."


def ours_width(cells: Sequence[Cell]) -> int:
    """So that headings stand above their numbers: with a spread over seeds these are longer."""
    return max(6, *(len(ours_text(cell).split(" [")[0]) for cell in cells))


def side_by_side(row_name: str, cells: Sequence[Cell], width: int) -> list[list[str]]:
    """The columns in groups that fit beside the rows' names into `width` characters; one column always does."""
    own_width = ours_width(cells)
    texts = {cell.column: [heading(cell.column, own_width)] for cell in cells}
    for cell in cells:
        texts[cell.column].append(two_lines(cell, own_width))
    frame = 3  # what a terminal's table adds to a column
    first = max(len(printable(name)) for name in (row_name, *(cell.row for cell in cells))) + frame + 1
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
    lines += test_notes(cells)
    failures: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.failure:
            failures.setdefault((cell.row, cell.failure), []).append(cell.column)
    lines += [f"FAILED {row} on {', '.join(columns)}: {why}" for (row, why), columns in failures.items()]
    return lines


def test_notes(cells: Sequence[Cell]) -> list[str]:
    """How rows were tested against the baseline, where they were."""
    found = [cell.against for cell in cells if cell.against]
    if not found:
        return []
    several = any(len(one.by_seed) > 1 for one in found)
    lines = [
        f"{HIGHER} {LOWER}: higher, lower than the row {found[0].baseline} on the same test videos (p < "
        f"{significance.LEVEL:g}; paired bootstrap over the videos that both scored, {significance.NUM_RESAMPLES} "
        f"resamples{', mean over seeds' if several else ''}, Holm's correction for the rows of a column)"
    ]
    if any(len(one.by_seed) == 1 for one in found):
        lines.append("the test knows the chance in test videos, not that in training: one seed says nothing of it")
    return lines


def markdown(title: str, row_name: str, cells: Sequence[Cell], lines: Sequence[str]) -> str:
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    at = {(cell.row, cell.column): cell for cell in cells}
    kinds = ("published", "ours", "difference")
    head = [markdown_cell(row_name)] + [f"{markdown_cell(column)} {kind}" for column in columns for kind in kinds]
    body = [
        [markdown_cell(row)] + [text for column in columns for text in series_texts(at[row, column])] for row in rows
    ]
    table = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]
    return "\n".join([f"# {markdown_cell(title)}", "", *table, "", *(f"- {markdown_cell(t)}" for t in lines), ""])


def series_texts(cell: Cell) -> tuple[str, str, str]:
    return as_percent(cell.published), ours_text(cell), difference_text(cell)


def to_csv(row_name: str, cells: Sequence[Cell]) -> str:
    buffer = io.StringIO()
    names = ["perturbation", "level", "metric", "published", "ours", "difference", "spread", "low", "high", "seeds"]
    names += ["n_real", "n_fake", "n_missing", "n_excluded", "failure"]
    tested = ["baseline", "difference", "low", "high", "p", "adjusted_p", "by_seed", "num_videos"]
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [name if name == "baseline" else f"baseline_{name}" for name in tested]
    writer.writerow([row_name, "test_dataset", *names, *heads])
    for cell in cells:
        values = [getattr(cell, name) for name in names]
        values += [getattr(cell.against, name, "") for name in tested]
        writer.writerow([cell.row, cell.test or cell.column, *(_plain(value) for value in values)])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    if isinstance(value, Mapping):
        return " ".join(f"{seed}:{difference:.6f}" for seed, difference in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
