"""The table of a sweep beside the paper's, as Markdown, CSV, PNG and HTML: python -m pipelines.report [SWEEP ...]

    python -m pipelines.report                              every report of the storage
    python -m pipelines.report mask_ratio                   those of one sweep
    python -m pipelines.report /data/crossforge/reports/X   one folder, beside its runs

A sweep writes its report when it ends. This command makes it again from the PREDICTIONS of the runs: their RESULTS
by the code of now (and says where the stored ones differ), then everything that follows. It needs no model, no GPU,
no Ray and no dataset. Exit code: 0, or 1 where a number differs, or 2 for wrong input.
"""

import argparse
import csv
import io
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipelines.common.storage import DEFAULT_STORAGE, write_atomic
from pipelines.common.tables import RESULTS, clean
from pipelines.common.text import markdown_cell, printable
from pipelines.experiments.sweep import LOCALIZING, Column
from pipelines.metrics import significance
from pipelines.metrics.detection.detection import FINAL
from pipelines.metrics.significance import Comparison
from pipelines.reporting import robustness
from pipelines.reporting.saved import TABLE, Material, Run, Saved, differing

ONE_SEED = "*"
HIGHER, LOWER = "↑", "↓"  # than the baseline, by more than other test videos explain
PANELS = 4  # of a plot, side by side
CHARACTERS = 36  # of a title that fit over one
NAME_CHARACTERS = 26  # of a row's name in a line below a panel
MOST_LINES = 20  # that are printed of what differs


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


def cell(row: str, column: Column, published: float, results: Sequence[pa.Table], failure: str = "") -> Cell:
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
        found += [cell(row, column, published[column.name], results, failure) for column in saved.columns]
    against: dict[tuple[str, str], Comparison] = {}
    for column in saved.columns:
        against |= {(row, column.name): one for row, one in compared(saved, materials, column).items()}
    return [replace(one, against=against.get((one.row, one.column))) for one in found]


def compared(saved: Saved, materials: Sequence[Material], column: Column) -> dict[str, Comparison]:
    """Row -> its comparison with the baseline row in one column, seed by seed, with Holm's correction over the rows."""
    made_of: dict[str, dict[int, significance.MadeOf]] = {}
    for material in materials:
        if tables := material.of_column(column):
            made_of.setdefault(material.row, {})[material.seed] = tables
    base = made_of.get(saved.baseline, {})
    known: significance.Known = {}
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
    table = clean(table, RESULTS)
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


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def ours_text(cell: Cell) -> str:
    """e.g. `91.2 ± 0.4 [89.9, 92.5]`; with one seed `91.2* [89.9, 92.5]`; `↑` behind it: above the baseline."""
    if math.isnan(cell.ours):
        return "failed" if cell.failure else "–"
    spread = ONE_SEED if math.isnan(cell.spread) else f" ± {percent(cell.spread)}"
    return f"{percent(cell.ours)}{spread} [{percent(cell.low)}, {percent(cell.high)}]{_sign(cell)}"


def _sign(cell: Cell) -> str:
    if cell.against is None or not cell.against.significant:
        return ""
    return f" {HIGHER if cell.against.difference > 0 else LOWER}"


def difference_text(cell: Cell) -> str:
    return "–" if math.isnan(cell.difference) else f"{100 * cell.difference:+.1f}"


def two_lines(cell: Cell, ours_width: int = 6) -> str:
    """The cell for a terminal: three numbers, and the interval below them."""
    ours, *interval = ours_text(cell).split(" [")
    head = f"{percent(cell.published)} {ours:>{ours_width}} {difference_text(cell):>6}"
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
    body = [[markdown_cell(row)] + [text for column in columns for text in texts(at[row, column])] for row in rows]
    table = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]
    return "\n".join([f"# {markdown_cell(title)}", "", *table, "", *(f"- {markdown_cell(t)}" for t in lines), ""])


def texts(cell: Cell) -> tuple[str, str, str]:
    return percent(cell.published), ours_text(cell), difference_text(cell)


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


def plot(path: Path, title: str, row_name: str, metric_name: str, cells: Sequence[Cell], footer: str) -> None:
    """One panel per column of the table: published (line) and ours (points with intervals) over the rows."""
    from matplotlib import rc_context  # here: a second of import that a dry run does not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(cell.column for cell in cells))
    wide = min(PANELS, len(columns))
    high = -(-len(columns) // wide)
    with rc_context({"text.parse_math": False}):  # a $ in a name is a $
        names = _names(cells)
        deep = 0.0 if _fits(names) else 0.07 * max(len(line) for name in names for line in name.splitlines())
        figure = Figure(figsize=(3.6 * wide + 0.6, (3.9 + deep) * high + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(high, wide, sharey=True, squeeze=False)
        for axis, column in zip(grid.flat, columns, strict=False):
            _panel(axis, printable(row_name), [cell for cell in cells if cell.column == column])
            axis.set_title(printable(column))
        for axis in grid.flat[len(columns) :]:
            axis.set_axis_off()
        for axis in grid[:, 0]:
            axis.set_ylabel(f"{metric_name} (%)")
        figure.suptitle(textwrap.fill(printable(title), CHARACTERS * wide))
        _legend(figure, grid.flat, wide, footer)
        figure.savefig(path, dpi=130)


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
    names = _names(cells)
    axis.set_xticks(list(x), names)
    if not _fits(names):
        axis.set_xticks(list(x), names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_xlabel(row_name)
    axis.grid(axis="y", alpha=0.3)


def _legend(figure: Any, axes: Iterable[Any], wide: int, footer: str) -> None:
    """Below the panels: within one it would lie upon somebody's number. The footer is its title, as both are there."""
    named = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    shown = {label: handle for handle, label in named}
    made = figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=min(2, wide),
        fontsize="small",
        frameon=False,
        title=textwrap.fill(printable(footer), 2 * CHARACTERS * wide),
        title_fontsize="x-small",
    )
    made.get_title().set_color("0.35")


def _names(cells: Sequence[Cell]) -> list[str]:
    """Of the rows, in lines that leave room for the panel above them."""
    rows = dict.fromkeys(cell.row for cell in cells)
    return ["\n".join(textwrap.wrap(printable(row), NAME_CHARACTERS)) for row in rows]


def _fits(names: Sequence[str]) -> bool:
    """Whether they can stand side by side below one panel."""
    return sum(len(name) for name in names) < 30


# ------------------------------------------------------------------------------------------ files
@dataclass(frozen=True, kw_only=True)
class Report:
    """A table with what a reader must know beside it."""

    saved: Saved
    materials: Sequence[Material]
    cells: Sequence[Cell]
    lines: Sequence[str]

    @classmethod
    def of(cls, saved: Saved, materials: Sequence[Material]) -> "Report":
        found = cells(saved, materials)
        lines = [*notes(found, saved.facts), *(f"LEAK {leak}" for leak in saved.leaks)]
        return cls(saved=saved, materials=materials, cells=found, lines=lines)

    def write(self, folder: Path, *, html: bool = True) -> list[Path]:
        """All but the coverage, Markdown first. Files that are there are replaced."""
        from pipelines.reporting import page  # here: it needs this module

        s = self.saved
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{s.name}.{ending}" for ending in ("md", "csv", "png")]
        write_atomic(paths[0], markdown(s.title, s.row_name, self.cells, self.lines).encode())
        write_atomic(paths[1], to_csv(s.row_name, self.cells).encode())
        kinds = {f"{column.level} {column.metric.upper()}" for column in s.columns}
        metric = kinds.pop() if len(kinds) == 1 else "value"
        footer = s.facts["data"] if s.is_sample else ""
        plot(paths[2], s.title, s.row_name, metric, self.cells, footer)
        paths += robustness.write(folder / f"{s.name}-robustness.png", s, self.materials, footer)
        if html:
            paths.append(folder / f"{s.name}.html")
            write_atomic(paths[-1], page.render(folder, self).encode())
        return [*paths, s.write(folder)]


def gather(saved: Saved, storage: Path, *, again: bool) -> list[Material]:
    """Of all trials that have numbers. again: these are made from PREDICTIONS. Raises ValueError; see `Run.read`."""
    return [
        Material.of(planned, Run.read(storage / "runs" / planned.run), saved.columns, again=again)
        for planned in saved.trials
        if not planned.failure
    ]


# ---------------------------------------------------------------------------------------- command
def folders(names: Sequence[str], storage: Path) -> Iterator[Path]:
    """Report folders: given as such, or all below the storage of the named sweeps. Raises ValueError for none."""
    known = {path.parent: Saved.read(path.parent).name for path in sorted(storage.glob(f"reports/*/{TABLE}"))}
    if not names and not known:
        raise ValueError(f"{storage / 'reports'} holds no report with a {TABLE}; run a sweep, or name its --storage")
    yield from known if not names else ()
    for name in names:
        own = [folder for folder, sweep in known.items() if sweep == name]
        if not own and not Path(name).is_dir():
            there = ", ".join(sorted(set(known.values()))) or "none"
            raise ValueError(f"{name} is neither a report's folder nor a sweep of which {storage} has one: {there}")
        yield from own or [Path(name).resolve()]


def make_again(folder: Path, storage: Path, console: Console, *, html: bool) -> bool:
    """Whether all RESULTS are the same as the stored ones."""
    saved = Saved.read(folder)
    found = gather(saved, storage, again=True)
    lines = list(dict.fromkeys(line for one in found for line in differing(one.run.results, one.results)))
    number = sum(one.results.num_rows for one in found)
    state = f"{len(lines)} differ from the stored ones" if lines else "as stored"
    say(console, f"{folder.name}: {number} numbers of {len(found)} runs made again, {state}")
    for line in lines[:MOST_LINES]:
        say(console, f"  {line}")
    if lines[MOST_LINES:]:
        say(console, f"  and {len(lines) - MOST_LINES} more; the report has the new numbers, results.parquet the old")
    for path in Report.of(saved, found).write(folder, html=html):
        say(console, f"  {path}")
    return not lines


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipelines.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("report", nargs="*", metavar="SWEEP|FOLDER", help="default: every report of the storage")
    p.add_argument(
        "--storage",
        metavar="DIR",
        help=f"where the runs are (default: that of the FOLDER, or ./{DEFAULT_STORAGE})",
    )
    p.add_argument("--no-html", action="store_true", help="Markdown, CSV and plot only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; see the text of the module."""
    arguments = parser().parse_args(argv)
    console = Console()
    storage = Path(arguments.storage or DEFAULT_STORAGE).expanduser().resolve()
    try:
        found = list(folders(arguments.report, storage))
        own = {folder: storage if arguments.storage else folder.parents[1] for folder in found}
        same = [make_again(folder, own[folder], console, html=not arguments.no_html) for folder in found]
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    return 0 if all(same) else 1


if __name__ == "__main__":
    from pipelines.report import main as command  # as a module of its name: what it calls imports it by that

    sys.exit(command())
