"""Charts of a report: trainings over their epochs, scores of real and fake, and what all charts have in common.

Colours are those of Okabe and Ito, which colour-blind readers tell apart too; where they are used up, lines differ in
their strokes.
"""

import io
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.common.tables import FAKE, REAL
from pipelines.common.text import printable
from pipelines.reporting.saved import Trained
from pipelines.reporting.table import evenly

REAL_COLOUR, FAKE_COLOUR = "#0072B2", "#D55E00"
COLOURS = (REAL_COLOUR, FAKE_COLOUR, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # without yellow, faint on white
STROKES = ("-", "--", "-.", ":")
BINS = 25  # of P(fake)
PANELS = 3  # side by side
LINE = 0.26  # inches that a row takes
NAME_CHARACTERS = 28  # of a row's name that fit into a line beside the panels
CURVES = {"train/loss": "training loss", "val/loss": "validation loss", "val/auc": "validation AUC (%)"}


def style(number: int, *, baseline: bool = False) -> dict[str, Any]:
    """Return how matplotlib draws the line of a row, by its number in the table; that of a baseline row is black."""
    colour = "black" if baseline else COLOURS[number % len(COLOURS)]
    return {"color": colour, "linestyle": STROKES[number // len(COLOURS) % len(STROKES)]}


def legend(parent: Any, lines: Mapping[str, Any], **placed: Any) -> Any:
    """Add a legend to a figure or panel; lines: name -> what is drawn; placed: as matplotlib takes it.

    A name may be anything: given as a label, one that begins with `_` would be left out.
    """
    added = parent.legend(lines.values(), ["."] * len(lines), **placed)
    for text, name in zip(added.get_texts(), lines, strict=True):
        text.set_text(printable(name))
    return added


def svg(width: float, height: float, draw: Callable[[Any], None]) -> bytes:
    """Return what `draw` draws on a figure of this size in inches as SVG: the same bytes for the same drawing."""
    from matplotlib import rc_context  # here: a second of import that a page without charts does not need
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A $ in a name is a $.
    with rc_context({"svg.hashsalt": "report", "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


# ---------------------------------------------------------------------------------------------------------- trainings
def trainings(by_row: Mapping[str, Sequence[Trained]], baselines: Collection[str]) -> bytes:
    """Return the curves of one stage as SVG: losses and validation AUC by epoch, a line for each row.

    by_row: row -> the trainings of its seeds; at least one has a curve. baselines: rows that others are tested against.
    """
    known = {name for own in by_row.values() for training in own for line in training.curve for name in line}
    names = [name for name in CURVES if name in known]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(CURVES), squeeze=False)[0]
        lines = {}
        for axis, name in zip(axes, names, strict=False):
            for number, (row, own) in enumerate(by_row.items()):
                if line := _training(axis, name, own, style(number, baseline={row} == set(baselines))):
                    lines[row] = line
            axis.set(xlabel="epoch", title=CURVES[name])
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        legend(figure, lines, loc="outside lower left", ncols=_legend_columns(lines), fontsize="small", frameon=False)

    return svg(9.6, 2.6 + 0.17 * -(-len(by_row) // _legend_columns(by_row)), draw)


def _legend_columns(names: Iterable[str]) -> int:
    """Return how many names fit side by side below a figure."""
    return max(1, min(5, 120 // (8 + max((len(printable(name)) for name in names), default=1))))


def _training(axis: Any, name: str, own: Sequence[Trained], look: Mapping[str, Any]) -> Any:
    """Draw one curve of a row: its mean over seeds, each seed thin, a dot at the epochs that were kept.

    Return the line that stands for the row; None where it has no such curve.
    """
    scale = 100 if name == "val/auc" else 1
    curves = [[(line["epoch"], scale * line[name]) for line in one.curve if name in line] for one in own]
    kept = [point for one, curve in zip(own, curves, strict=True) for point in curve if point[0] == one.best_epoch]
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    same = len({tuple(epoch for epoch, _ in curve) for curve in curves}) == 1
    drawn = None
    for curve in curves:
        alone = len(curves) == 1 or not same
        (drawn,) = axis.plot(
            *zip(*curve, strict=True), **look, linewidth=1.3 if alone else 0.6, alpha=1 if alone else 0.5
        )
    if same and len(curves) > 1:
        (drawn,) = axis.plot([epoch for epoch, _ in curves[0]], np.mean(curves, axis=0)[:, 1], **look, linewidth=1.5)
    if kept:
        axis.plot(*zip(*kept, strict=True), "o", color=look["color"], markersize=3.5)
    return drawn


# ------------------------------------------------------------------------------------------------------------- scores
def scores(by_part: Mapping[str, Mapping[str, Sequence[pa.Table]]]) -> bytes:
    """Return histograms of the scores of videos as SVG: a panel for each test part, in it a line for each row.

    by_part: part -> row -> its scores, seed by seed, with the columns `label` and `score`; real and fake stand upon the
    row's line, each scaled to its highest bar.
    """
    rows = list(dict.fromkeys(row for by_row in by_part.values() for row in by_row))
    wide = evenly(len(by_part), PANELS)
    high = -(-len(by_part) // wide)
    names = ["\n".join(textwrap.wrap(printable(row), NAME_CHARACTERS)) or " " for row in rows]

    def draw(figure: Any) -> None:
        grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
        for axis, (part, by_row) in zip(grid.flat, by_part.items(), strict=False):
            for place, row in enumerate(rows):
                for label, colour in ((REAL, REAL_COLOUR), (FAKE, FAKE_COLOUR)):
                    own = [np.asarray(t["score"])[np.asarray(t["label"]) == label] for t in by_row.get(row, ())]
                    _histogram(axis, place, np.concatenate([*own, []]), colour)
            axis.set(title=printable(part), xlim=(0, 1), ylim=(len(rows) - 0.9, -1.0))
            axis.set_yticks(range(len(rows)), names)
            axis.grid(axis="x", alpha=0.3)
        for axis in grid[-1]:
            axis.set_xlabel("P(fake) of a video")
        for axis in grid.flat[len(by_part) :]:
            axis.set_axis_off()
        handles = [_patch(REAL_COLOUR), _patch(FAKE_COLOUR)]
        legend(
            figure, dict(zip(("real", "fake"), handles, strict=True)), loc="outside lower left", ncols=2, frameon=False
        )

    lines = sum(name.count("\n") + 1 for name in names)
    beside = 0.07 * max(len(line) for name in names for line in name.splitlines())
    return svg(beside + 2.7 * wide, high * (0.8 + max(LINE * lines, 0.42 * len(rows))) + 0.4, draw)


def _histogram(axis: Any, place: int, values: NDArray[np.float64], colour: str) -> None:
    if not len(values):
        return
    counts, edges = np.histogram(values, BINS, (0, 1))
    axis.stairs(place - 0.85 * counts / counts.max(), edges, baseline=place, fill=True, color=colour, alpha=0.35)
    axis.stairs(place - 0.85 * counts / counts.max(), edges, baseline=None, color=colour, linewidth=0.9)


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor=colour, alpha=0.5)
