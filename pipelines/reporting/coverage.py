"""What became of the videos of an extraction, by class and manipulation: a table, reasons, flags and a plot.

The flags are those of `reporting.leaks`.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.common import tables
from pipelines.common.storage import digest, write_text, writing
from pipelines.common.text import markdown_cell, printable
from pipelines.faces import store
from pipelines.faces.plan import Extraction
from pipelines.reporting.leaks import KEY, MAX_P, MIN_FACES, MIN_SHARE, PENDING, Leak, Row, find_leaks, joined, order

OUTCOMES = (*tables.STATUSES, PENDING)

_COLOURS = {"ok": "#009E73", "no_face": "#E69F00", "unreadable": "#0072B2", "crashed": "#CC3311", PENDING: "0.85"}
_PANELS = 3  # side by side
_COUNTED = ("given", *OUTCOMES, "frames", "faces")
_REASON_COLUMNS = ("dataset", "split", "method", "status", "videos", "reason", "example")
_SCHEMA = pa.schema(
    [(name, pa.int8() if name == "label" else pa.string()) for name in KEY]
    + [(name, pa.int64()) for name in ("given", "read", *OUTCOMES, "frames", "faces")]
    + [("faces_per_frame", pa.float64()), ("seconds", pa.float64())]
)


# ------------------------------------------------------------------------------------------ tables
def table(videos: pa.Table, ledger: pa.Table) -> pa.Table:
    """Return a row for each dataset, split, label and method: how many videos were given and what became of them.

    videos: at least the columns of VIDEOS that FACES copies; ledger: LEDGER, of which rows of other videos are left
    out. `faces_per_frame` is null where no frame was sampled.
    """
    counts: dict[tuple[Any, ...], Counter[str]] = {}
    for row in joined(videos, ledger):
        count = counts.setdefault(tuple(row[name] for name in KEY), Counter())
        count.update({"given": 1, row["status"]: 1, "frames": row["num_frames"], "faces": row["num_faces"]})
        count["seconds"] += row["seconds"]
    rows = []
    for key in sorted(counts, key=order):
        count = counts[key]
        row = dict(zip(KEY, key, strict=True)) | {name: count[name] for name in _COUNTED}
        row["read"] = count["ok"] + count["no_face"]
        row["faces_per_frame"] = count["faces"] / count["frames"] if count["frames"] else None
        row["seconds"] = float(count["seconds"])
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def reasons(videos: pa.Table, ledger: pa.Table) -> list[dict[str, Any]]:
    """Return how often each reason was given, by dataset, split, label, method and status, with a video as an example.

    Reasons that differ in file names and numbers only count as one. A video that is `ok` has a reason if it is damaged
    or its mask is not known. videos and ledger: as for `table`.
    """
    videos_of: Counter[tuple[Any, ...]] = Counter()
    example: dict[tuple[Any, ...], str] = {}
    for row in joined(videos, ledger):
        if row["reason"]:
            key = (*(row[name] for name in KEY), row["status"], normalised(row["reason"]))
            videos_of[key] += 1
            example.setdefault(key, row["video_id"])
    names = (*KEY, "status", "reason")
    keys = sorted(videos_of, key=lambda key: (order(key), -videos_of[key]))
    return [dict(zip(names, key, strict=True)) | {"videos": videos_of[key], "example": example[key]} for key in keys]


def normalised(reason: str) -> str:
    """Return a reason without what differs from video to video: `FILE` for file names, `N` for numbers."""
    text = re.sub(r"(?:\w+:/)?/[^:;]*(?=: )", "FILE", reason)  # a whole path, up to the colon that ends it
    text = re.sub(r"\S*/\S+", "FILE", text)
    return re.sub(r"\d+(?:\.\d+)?", "N", text)


# ------------------------------------------------------------------------------------------ output
def lines(coverage: pa.Table) -> list[list[str]]:
    """Return what `table` returned as text, its heading first; without `pending` where nothing is."""
    rows = coverage.to_pylist()
    counted = ["given", "read", *OUTCOMES, "frames", "faces"]
    if not any(row[PENDING] for row in rows):
        counted.remove(PENDING)
    head = ["dataset", "split", "videos", *(name.replace("_", " ") for name in counted), "faces / frame", "s / video"]
    body = []
    for row in rows:
        counts = [str(row[name]) for name in counted]
        per_frame = "–" if row["faces_per_frame"] is None else f"{row['faces_per_frame']:.2f}"
        done = row["given"] - row[PENDING]
        seconds = f"{row['seconds'] / done:.1f}" if done else "–"
        body.append([row["dataset"], row["split"], row["method"], *counts, per_frame, seconds])
    return [head, *body]


def verdict(leaks: Sequence[Leak]) -> list[str]:
    """Return what is flagged, or that nothing is, with the rule."""
    rule = (
        f"rule: within a split, p < {MAX_P:g} and a difference of at least {100 * MIN_SHARE:g} percentage points of "
        f"failed videos (Fisher's exact test) or {MIN_FACES:g} faces per frame (Mann-Whitney U test)"
    )
    if not leaks:
        return [f"No leak found: real and fake fail alike ({rule})"]
    return [*(f"LEAK {leak}" for leak in leaks), f"The label can be guessed from extraction ({rule})"]


def markdown(coverage: pa.Table, why: Sequence[Mapping[str, Any]], leaks: Sequence[Leak], title: str) -> str:
    """Return as one page what `table`, `reasons` and `find_leaks` returned."""
    body = [[str(row[name]) for name in _REASON_COLUMNS] for row in why]
    parts = [f"# {markdown_cell(title)}", "", *_grid(lines(coverage)), ""]
    parts += [f"- {markdown_cell(line)}" for line in verdict(leaks)]
    if body:
        parts += ["", "Reasons", "", *_grid([_REASON_COLUMNS, *body])]
    return "\n".join([*parts, ""])


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [[markdown_cell(text) for text in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def _to_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def plot(path: Path, coverage: pa.Table, title: str = "") -> None:
    """Write a PNG of what `table` returned: shares of what became of the videos.

    It has a panel for each split of a dataset, and in it a bar for each manipulation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import
    from matplotlib.figure import Figure

    rows = coverage.to_pylist()
    pairs = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows)) or [("", "")]
    of = {pair: [row for row in rows if (row["dataset"], row["split"]) == pair] for pair in pairs}
    columns = min(_PANELS, len(pairs))
    bands = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    most = [max(1, *(len(of[pair]) for pair in band)) for band in bands]
    figure = Figure(
        figsize=(1.5 + 4 * columns, 1.5 + sum(0.75 + 0.3 * number for number in most)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": [number + 2 for number in most]}
    panels = figure.subplots(len(bands), columns, sharex=True, squeeze=False, gridspec_kw=ratios)
    for axis, pair in zip_longest(panels.flat, pairs):
        _panel(axis, of[pair] if pair else [])
    handles, labels = next((h for h in (axis.get_legend_handles_labels() for axis in panels.flat) if h[0]), ([], []))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(OUTCOMES), fontsize="small", frameon=False)
    figure.suptitle(title)
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _panel(axis: Any, rows: Sequence[Row]) -> None:
    """Draw the bars of one split; without rows, leave the place empty."""
    if not rows:
        axis.set_axis_off()
        return
    y = range(len(rows))
    left = [0.0] * len(rows)
    for outcome in OUTCOMES:
        share = [100 * row[outcome] / row["given"] for row in rows]
        axis.barh(y, share, left=left, height=0.7, color=_COLOURS[outcome], label=outcome.replace("_", " "))
        left = [a + b for a, b in zip(left, share, strict=True)]
    for place, row in zip(y, rows, strict=True):
        axis.text(101.5, place, f"{row['ok']} of {row['given']}", va="center", fontsize="small")
    axis.set_yticks(y, [printable(row["method"]) for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_title(f"{printable(rows[0]['dataset'])}, {rows[0]['split']}", fontsize="medium")
    axis.set_xlabel("% of videos; right: ok of given")
    axis.spines[["top", "right"]].set_visible(False)


# ----------------------------------------------------------------------------------- extractions
def read_extraction(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Return the videos of an extraction, with the columns that FACES copies, and its LEDGER.

    Raises ValueError if it is not finished.
    """
    ledger = store.Faces(folder).ledger
    return store.compacted(folder).select(tables.COPIED), ledger


def write(folder: Path, name: str, title: str, videos: pa.Table, ledger: pa.Table) -> list[Path]:
    """Write the files `name`.md, .csv, -reasons.csv and .png; return their paths. videos and ledger: as for `table`."""
    coverage, why = table(videos, ledger), reasons(videos, ledger)
    texts = {
        folder / f"{name}.md": markdown(coverage, why, find_leaks(videos, ledger), title),
        folder / f"{name}.csv": _to_csv(coverage.to_pylist(), coverage.column_names),
        folder / f"{name}-reasons.csv": _to_csv(why, _REASON_COLUMNS),
    }
    for path, text in texts.items():
        write_text(path, text)
    picture = folder / f"{name}.png"
    plot(picture, coverage, title)
    return [*texts, picture]


def write_by_recipe(folder: Path, extractions: Sequence[Extraction]) -> list[Path]:
    """Write the coverage of all extractions of each recipe together, as `coverage-<recipe>...`; return the paths."""
    paths = []
    for recipe in dict.fromkeys(extraction.recipe for extraction in extractions):
        together = [extraction for extraction in extractions if extraction.recipe == recipe]
        videos = pa.concat_tables([extraction.videos for extraction in together])
        ledger = pa.concat_tables([extraction.ledger_table() for extraction in together])
        title = f"Coverage: {recipe.num_frames} frames, {recipe.margin:g} boxes at {recipe.size_px} px"
        name = f"coverage-{recipe.num_frames}-frames-{recipe.size_px}-px-{digest(recipe)[:6]}"
        paths += write(folder, name, title, videos, ledger)
    return paths
