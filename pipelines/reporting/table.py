"""RESULTS to the cells of the paper's table: published, ours, the difference, the test against the baseline row.

The texts of a cell are made here, for the terminal, Markdown, CSV and the HTML page alike.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.common.text import latex, markdown_cell, printable
from pipelines.experiments.sweep import NO_VALUE, Column, percent
from pipelines.metrics import significance
from pipelines.metrics.names import FINAL, FITTED, LOCALIZING
from pipelines.metrics.resampling import FEW_CLUSTERS, Population
from pipelines.metrics.significance import Comparison
from pipelines.reporting.saved import COUNTS, Line, Material, Saved, population, where

ONE_SEED = "*"
PUBLISHED_ONLY = "°"  # behind the label of a row that nothing runs for
LATEX_COLUMNS = 3  # of the paper's, side by side on a page
HIGHER, LOWER = "↑", "↓"  # than the baseline, by more than other test videos explain


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the paper's table in one column. All values in [0, 1]; NaN where there is none."""

    row: str
    column: str
    published: float
    decimals: int = 1  # of the published value in percent, as printed
    runs: bool = True  # False: a row of the paper's that is published only
    test: str = ""  # the part that was scored
    perturbation: str = ""  # of its faces
    level: str = ""
    metric: str = ""
    ours: float = math.nan  # mean over seeds
    spread: float = math.nan  # standard deviation over seeds; NaN for one seed
    low: float = math.nan  # 95 % interval over videos, and over seeds where there are several
    high: float = math.nan
    seeds: tuple[int, ...] = ()
    n_real: int = 0
    n_fake: int = 0
    n_clusters: int = 0
    n_padded: int = 0
    n_missing: int = 0
    n_excluded: int = 0
    failure: str = ""  # why there is no value of ours
    note: str = ""  # what to know of our value or its interval
    against: Comparison | None = None  # the baseline row; None: this is it, or they share no test videos

    @property
    def difference(self) -> float:
        """Ours minus published, in [-1, 1]."""
        return self.ours - self.published

    @property
    def label(self) -> str:
        """The row's label, marked where the row is published only."""
        return self.row if self.runs else f"{self.row} {PUBLISHED_ONLY}"

    @classmethod
    def printed(cls, row: str, column: Column, word: str) -> "Cell":
        """Return the cell of a row that is published only. word: the value in percent, as printed, or `-`."""
        return cls(
            row=row,
            column=column.name,
            published=percent(word) / 100,
            decimals=0 if word == NO_VALUE else len(word.partition(".")[2]),
            runs=False,
            level=column.level,
            metric=column.metric,
            perturbation=column.perturbation,
            test=column.test,
        )

    @classmethod
    def of(cls, row: str, column: Column, published: str, results: Sequence[pa.Table], failure: str = "") -> "Cell":
        """Return the cell of a row that runs, without a comparison.

        published: as `printed` takes it. results: RESULTS of the row's finished trials, one table for each seed.
        failure: why another is not finished.
        """
        wanted = {"stage": FINAL, "level": column.level, "metric": column.metric, "perturbation": column.perturbation}
        if column.test:
            wanted["test_dataset"] = column.test
        # The first is that of the part, where others are of single manipulations in it.
        numbers = [number for table in results for number in where(table, wanted).to_pylist()[:1]]
        cell = replace(cls.printed(row, column, published), runs=True)
        if not numbers:
            no_number = f"no {column.level} {column.metric}"
            if column.metric in LOCALIZING:
                no_number = f"no {column.metric}: of no forged face there are a true and a predicted mask"
            return replace(cell, failure=failure or no_number)
        ours = [number["value"] for number in numbers]
        counts = {name: max(number[name] for number in numbers) for name in COUNTS}
        if undefined := [number["reason"] for number in numbers if math.isnan(number["value"])]:
            failure = f"not defined: {undefined[0]}"
        by_note: dict[str, list[str]] = {}
        for number in numbers:
            by_note.setdefault(number.get("note") or "", []).append(str(number["seed"]))
        said = [
            note if len(seeds) == len(numbers) else f"{note} (seed {', '.join(seeds)})"
            for note, seeds in by_note.items()
            if note
        ]
        return replace(
            cell,
            test=numbers[0]["test_dataset"],
            ours=float(np.mean(ours)),
            spread=float(np.std(ours, ddof=1)) if len(ours) > 1 else math.nan,
            low=float(np.mean([number["low"] for number in numbers])),
            high=float(np.mean([number["high"] for number in numbers])),
            seeds=tuple(number["seed"] for number in numbers),
            failure=failure,
            note="; ".join(said),
            **counts,
        )


def cells(saved: Saved, materials: Sequence[Material]) -> list[Cell]:
    """Return the cells of a table, row by row; materials: of the trials that are done."""
    made_of = {column.name: terms(materials, column) for column in saved.columns}
    caches: dict[str, significance.NumberCache] = {column.name: {} for column in saved.columns}
    people = population(materials)
    against = {
        column.name: comparisons(saved, made_of[column.name], column, people, caches[column.name])
        for column in saved.columns
    }
    table = []
    for line in saved.rows:
        results = [material.results for material in materials if material.row == line.label]
        failure = next((trial.failure for trial in saved.trials if trial.row == line.label and trial.failure), "")
        for column, word in zip(saved.columns, line.published, strict=True):
            if line.runs:
                cell = Cell.of(line.label, column, word, results, failure)
                by_seed = made_of[column.name].get(line.label, {}).values()
                if len(cell.seeds) > 1 and len(by_seed) == len(cell.seeds):
                    metric = FITTED.get(column.metric, column.metric)
                    if estimate := significance.over_seeds(metric, by_seed, people, caches[column.name]):
                        low, high = estimate.interval()
                        cell = replace(cell, low=low, high=high)
                table.append(replace(cell, against=against[column.name].get(line.label)))
            else:
                table.append(Cell.printed(line.label, column, word))
    return table


def terms(materials: Sequence[Material], column: Column) -> dict[str, dict[int, significance.Terms]]:
    """Return row -> seed -> what its number in a column is the mean of; empty where it has none."""
    made_of: dict[str, dict[int, significance.Terms]] = {}
    for material in materials:
        made_of.setdefault(material.row, {})[material.seed] = material.terms(column)
    return made_of


def comparisons(
    saved: Saved,
    made_of: Mapping[str, Mapping[int, significance.Terms]],
    column: Column,
    people: Population,
    cache: significance.NumberCache,
) -> dict[str, Comparison]:
    """Return row -> its comparison with its baseline row in one column, corrected by Holm's method for the rows.

    made_of: as `terms` returns it. Seeds that both have are compared, scores from elsewhere with each seed of the
    baseline. Rows that share no test videos with their baseline row are left out. people, cache: as population and
    cache of `significance.compare`.
    """
    foreign = {trial.row for trial in saved.trials if trial.foreign}
    metric = FITTED.get(column.metric, column.metric)
    uncorrected = {}
    for line in saved.rows:
        own = made_of.get(line.label, {}) if line.baseline != line.label else {}
        base = made_of.get(line.baseline, {})
        if line.label in foreign and own:  # without a seed: against each of the baseline's
            own = dict.fromkeys(base, *own.values())
        pairs = {seed: (own[seed], base[seed]) for seed in own.keys() & base.keys()}
        if comparison := significance.compare(line.baseline, metric, pairs, people, cache):
            uncorrected[line.label] = comparison
    adjusted = significance.holm([comparison.p for comparison in uncorrected.values()])
    return {
        row: replace(comparison, adjusted_p=p)
        for (row, comparison), p in zip(uncorrected.items(), adjusted, strict=True)
    }


# ------------------------------------------------------------------------------------------------------ texts of a cell
def numbers(columns: Sequence[Column]) -> str:
    """Return in words what the columns hold: `video-level auc and eer, frame-level iou`."""
    by_level: dict[str, list[str]] = {}
    for column in columns:
        if column.metric not in by_level.setdefault(column.level, []):
            by_level[column.level].append(column.metric)
    return ", ".join(f"{level}-level {' and '.join(metrics)}" for level, metrics in by_level.items())


def in_percent(value: float) -> str:
    """Return a value in [0, 1] in percent with one decimal; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def published_text(cell: Cell) -> str:
    """Return the published value in percent, with the decimals that the paper prints; a dash for NaN."""
    return "–" if math.isnan(cell.published) else f"{100 * cell.published:.{cell.decimals}f}"


def ours_text(cell: Cell) -> str:
    """Return our value: `91.2 ± 0.4 [89.9, 92.5] ↑`; nothing in a row that is published only.

    With one seed it is `91.2* [89.9, 92.5]`. An arrow behind it says that it is significantly above or below the
    baseline row.
    """
    if not cell.runs:
        return ""
    if math.isnan(cell.ours):
        return "failed" if cell.failure else "–"
    spread = ONE_SEED if math.isnan(cell.spread) else f" ± {in_percent(cell.spread)}"
    arrow = ""
    if cell.against and cell.against.significant:
        arrow = f" {HIGHER if cell.against.difference > 0 else LOWER}"
    return f"{in_percent(cell.ours)}{spread} [{in_percent(cell.low)}, {in_percent(cell.high)}]{arrow}"


def difference_text(cell: Cell) -> str:
    """Return ours minus published in percentage points, signed; a dash where one of them is missing.

    Nothing in a row that is published only.
    """
    if not cell.runs:
        return ""
    return "–" if math.isnan(cell.difference) else f"{100 * cell.difference:+.1f}"


def cell_texts(cell: Cell) -> tuple[str, str, str]:
    """Return published, ours and the difference."""
    return published_text(cell), ours_text(cell), difference_text(cell)


# ------------------------------------------------------------------------------------------------------- for a terminal
def two_lines(cell: Cell, ours_width: int = 6) -> str:
    """Return a cell for a terminal: three numbers, and the interval on a second line. All lines are equally wide."""
    published, ours, difference = cell_texts(cell)
    value, *interval = ours.split(" [")
    line = f"{published:>5} {value:>{ours_width}} {difference:>6}"
    return "\n".join([line, *(f"[{text}".rjust(len(line)) for text in interval)])


def heading(column: str, ours_width: int = 6) -> str:
    """Return the heading of a column whose cells are written by `two_lines`."""
    return f"{printable(column)}\npubl. {'ours':>{ours_width}}  diff."


def ours_width(cells: Sequence[Cell]) -> int:
    """Return how many characters our values need, without their intervals; with a spread over seeds they are longer."""
    return max(6, *(len(ours_text(cell).split(" [")[0]) for cell in cells))


def side_by_side(row_name: str, cells: Sequence[Cell], width: int) -> list[list[str]]:
    """Return the columns in groups that fit into `width` characters beside the rows' names; one column always does."""
    own_width = ours_width(cells)
    texts = {cell.column: [heading(cell.column, own_width)] for cell in cells}
    for cell in cells:
        texts[cell.column].append(two_lines(cell, own_width))
    frame = 3  # what a terminal's table adds to a column
    first = max(len(printable(name)) for name in (row_name, *(cell.label for cell in cells))) + frame + 1
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


# ------------------------------------------------------------------------------------------------------ below the table
def notes(cells: Sequence[Cell], facts: Mapping[str, str], rows: Sequence[Line] = ()) -> list[str]:
    """Return what a reader must know to read the numbers, a line each; facts: what is known of the whole table.

    rows: those of the table, for what each has to say.
    """
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += _counts(cells)
    if any(not cell.runs for cell in cells):
        lines.append(f"{PUBLISHED_ONLY} published only: the number that the paper prints; nothing was run here")
    if any(len(cell.seeds) == 1 for cell in cells):
        lines.append(f"{ONE_SEED} one seed only: the spread between seeds is not known")
    lines += _interval_notes(cells)
    lines += _test_notes(cells)
    said: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            said.setdefault(row.note, []).append(row.label)
    lines += [f"{'; '.join(labels)}: {note}" for note, labels in said.items()]
    failures: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.failure:
            failures.setdefault((cell.row, cell.failure), []).append(cell.column)
    lines += [f"FAILED {row} on {', '.join(columns)}: {why}" for (row, why), columns in failures.items()]
    return lines


def _counts(cells: Sequence[Cell]) -> list[str]:
    """Return how many videos of each part were scored: in most rows, and where there are others, in which rows."""
    scored: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if cell.seeds:
            rows = scored.setdefault(cell.test or cell.column, {})
            other = rows.get(cell.row)
            if other is None or other.n_clusters < cell.n_clusters:  # of a TPR there may be fewer than of its part
                rows[cell.row] = cell
    lines = []
    for part, rows in scored.items():
        said: dict[str, list[str]] = {}
        for row, cell in rows.items():
            excluded = f", {cell.n_excluded} excluded (share a source with training)" if cell.n_excluded else ""
            padded = f", {cell.n_padded} of them in clips filled up with a frame repeated" if cell.n_padded else ""
            clusters = f" ({cell.n_clusters} groups of one source)" if cell.n_clusters else ""
            counts = f"{cell.n_real} real and {cell.n_fake} fake videos scored{clusters}{padded}"
            said.setdefault(f"{counts}, {cell.n_missing} failed{excluded}", []).append(row)
        usual = max(said, key=lambda text: len(said[text]))
        lines.append(f"{part}: {usual}")
        lines += [f"{part}, {'; '.join(others)}: {text}" for text, others in said.items() if text != usual]
    return lines


def _interval_notes(cells: Sequence[Cell]) -> list[str]:
    """Return what the intervals of the cells are over, and where they say less than they seem to."""
    lines = ["[low, high]: 95 % interval over the people in the test videos"]
    if any(len(cell.seeds) > 1 for cell in cells):
        lines[0] += ", with several seeds over trainings too; ±: standard deviation over seeds"
    few = sorted({cell.n_clusters for cell in cells if cell.seeds and 0 < cell.n_clusters < FEW_CLUSTERS})
    if few:
        lines.append(f"of fewer than {FEW_CLUSTERS} groups (here {few[0]}) intervals can be too narrow")
    said: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.note:
            said.setdefault(cell.note, {}).setdefault(cell.row, []).append(cell.column)
    for note, rows in said.items():
        where_said = (f"{row} on {', '.join(columns)}" for row, columns in rows.items())
        lines.append(f"{note}: {'; '.join(where_said)}")
    return lines


def _test_notes(cells: Sequence[Cell]) -> list[str]:
    """Return how rows were tested against the baseline; nothing where none was."""
    tested = [cell.against for cell in cells if cell.against]
    if not tested:
        return []
    several = any(len(comparison.by_seed) > 1 for comparison in tested)
    baselines = dict.fromkeys(comparison.baseline for comparison in tested)
    row = f"the row {next(iter(baselines))}" if len(baselines) == 1 else f"their own of the rows {'; '.join(baselines)}"
    lines = [
        f"{HIGHER} {LOWER}: higher, lower than {row} on the same test videos (p < "
        f"{significance.LEVEL:g}; paired test over the people in the videos that both scored"
        f"{', mean over seeds' if several else ''}, Holm's correction for the rows of a column)"
    ]
    if any(len(comparison.by_seed) == 1 for comparison in tested):
        lines.append("p-values cover the sampling of test videos, not the randomness of training")
    if any(comparison.is_alike for comparison in tested):
        lines.append(
            "of a difference that is the same in all resamples, interval and p are what groups without exception allow"
        )
    return lines


# ---------------------------------------------------------------------------------------------------------------- files
def markdown(title: str, row_name: str, cells: Sequence[Cell], lines: Sequence[str]) -> str:
    """Return the table as Markdown, with `lines` as a list below it. No text is taken for markup."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(cell.label for cell in cells))
    at = {(cell.label, cell.column): cell for cell in cells}
    kinds = ("published", "ours", "difference")
    head = [markdown_cell(row_name)] + [f"{markdown_cell(column)} {kind}" for column in columns for kind in kinds]
    body = [[markdown_cell(row)] + [text for column in columns for text in cell_texts(at[row, column])] for row in rows]
    table = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]
    return "\n".join([f"# {markdown_cell(title)}", "", *table, "", *(f"- {markdown_cell(t)}" for t in lines), ""])


def to_latex(title: str, row_name: str, cells: Sequence[Cell], lines: Sequence[str]) -> str:
    """Return the table as a LaTeX `table` with booktabs, with `lines` below it.

    It shows published and ours: the difference follows. One that is too large for the page is made smaller; one with
    more than three columns becomes several tables, of which the last has the lines.
    """
    columns = list(dict.fromkeys(cell.column for cell in cells))
    wide = evenly(len(columns), LATEX_COLUMNS)
    groups = [columns[first : first + wide] for first in range(0, len(columns), wide)]
    text = [r"% needs \usepackage{booktabs,adjustbox}"]
    for number, group in enumerate(groups, 1):
        part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
        text += _latex_table(title + part, row_name, [c for c in cells if c.column in group])
        if number == len(groups):
            text += [r"\par\smallskip\scriptsize\raggedright", *(rf"{latex(line)}\par" for line in lines)]
        text.append(r"\end{table}")
    return "\n".join([*text, ""])


def _latex_table(title: str, row_name: str, cells: Sequence[Cell]) -> list[str]:
    """Return the lines of a LaTeX `table`, without its end."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    at = {(cell.label, cell.column): cell for cell in cells}
    heads = [rf"\multicolumn{{2}}{{c}}{{{latex(column)}}}" for column in columns]
    rules = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(columns))]
    body = [
        [latex(label)] + [latex(text) for column in columns for text in cell_texts(at[label, column])[:2]]
        for label in dict.fromkeys(cell.label for cell in cells)
    ]
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(title)}}}",
        r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.7\textheight}",
        rf"\begin{{tabular}}{{@{{}}l{'rl' * len(columns)}@{{}}}}",
        r"\toprule",
        rf"& {' & '.join(heads)} \\",
        " ".join(rules),
        rf"{latex(row_name)} & {' & '.join(['publ. & ours'] * len(columns))} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
    ]


def evenly(number: int, most: int) -> int:
    """Return how many stand side by side where `number` are laid out in rows of at most `most`, as even as can be."""
    return -(-number // -(-number // most)) if number else 1


def to_csv(row_name: str, cells: Sequence[Cell]) -> str:
    """Return a line for each cell, with its values in [0, 1] and its comparison with the baseline row."""
    buffer = io.StringIO()
    names = ["perturbation", "level", "metric", "published", "ours", "difference", "spread", "low", "high", "seeds"]
    names += [*COUNTS, "failure", "note"]
    tested = ["baseline", "difference", "low", "high", "p", "adjusted_p", "by_seed", "num_videos", "num_clusters"]
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [name if name == "baseline" else f"baseline_{name}" for name in tested]
    writer.writerow([row_name, "test_dataset", *names, *heads, "published_only"])
    for cell in cells:
        values = [getattr(cell, name) for name in names]
        values += [getattr(cell.against, name, "") for name in tested]
        texts = (_csv_value(value) for value in values)
        writer.writerow([cell.row, cell.test or cell.column, *texts, "" if cell.runs else "yes"])
    return buffer.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    if isinstance(value, Mapping):
        return " ".join(f"{seed}:{difference:.6f}" for seed, difference in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
