"""What an extraction made of its videos, by class and manipulation: tables, reasons, and a plot.

Flags are those of `reporting.leaks`.
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

from pipelines.common import storage, tables
from pipelines.common.storage import digest, writing
from pipelines.common.text import markdown_cell, printable
from pipelines.faces import store
from pipelines.faces.plan import Extraction
from pipelines.reporting.leaks import KEY, MAX_P, MIN_FACES, MIN_SHARE, PENDING, Leak, Row, joined, leaks, order

__all__ = ["Leak", "leaks", "lines", "markdown", "of_folder", "plot", "reasons", "table", "to_csv", "verdict"]

OUTCOMES = (*tables.STATUSES, PENDING)

_COLOURS = {"ok": "#009E73", "no_face": "#E69F00", "unreadable": "#0072B2", "crashed": "#CC3311", PENDING: "0.85"}
_COLUMNS = 3  # panels side by side
MOST_REASONS = 10  # that are printed
_COUNTED = ("given", *OUTCOMES, "frames", "faces")
WIDE = 130  # characters that the whole table needs
LEFT_OUT = ("dataset", "read", "frames", "faces", "s / video")  # of a narrower one
_REASON = ("dataset", "split", "method", "status", "videos", "reason", "example")
_SCHEMA = pa.schema(
    [(name, pa.int8() if name == "label" else pa.string()) for name in KEY]
    + [(name, pa.int64()) for name in ("given", "read", *OUTCOMES, "frames", "faces")]
    + [("faces_per_frame", pa.float64()), ("seconds", pa.float64())]
)


# ------------------------------------------------------------------------------------------ tables
def table(videos: pa.Table, ledger: pa.Table) -> pa.Table:
    """One row per dataset, split, label and method: how many videos were given and what became of them.

    `videos` needs the columns that FACES copies, `ledger` is of schemas.LEDGER; rows of other videos are left out.
    `faces_per_frame` is null where no frame was sampled.
    """
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for row in joined(videos, ledger):
        count = found.setdefault(tuple(row[name] for name in KEY), Counter())
        count.update({"given": 1, row["status"]: 1, "frames": row["num_frames"], "faces": row["num_faces"]})
        count["seconds"] += row["seconds"]
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for key in sorted(found, key=order):
        count = found[key]
        own = dict(zip(KEY, key, strict=True)) | {name: count[name] for name in _COUNTED}
        own["read"] = count["ok"] + count["no_face"]
        own["faces_per_frame"] = count["faces"] / count["frames"] if count["frames"] else None
        own["seconds"] = float(count["seconds"])
        for name, values in columns.items():
            values.append(own[name])
    return pa.table(columns, schema=_SCHEMA)


def reasons(videos: pa.Table, ledger: pa.Table) -> list[dict[str, Any]]:
    """How often each reason was given, by dataset, split, label, method and status, with a video as an example.

    File names and numbers are taken out of the reasons, so that what is alike counts together. A video that is
    `ok` has a reason if it is damaged or its mask is not known.
    """
    found: Counter[tuple[Any, ...]] = Counter()
    example: dict[tuple[Any, ...], str] = {}
    for row in joined(videos, ledger):
        if row["reason"]:
            key = (*(row[name] for name in KEY), row["status"], normalised(row["reason"]))
            found[key] += 1
            example.setdefault(key, row["video_id"])
    names = (*KEY, "status", "reason")
    ordered = sorted(found, key=lambda key: (order(key), -found[key]))
    return [dict(zip(names, key, strict=True)) | {"videos": found[key], "example": example[key]} for key in ordered]


def normalised(reason: str) -> str:
    """The reason without what differs from video to video."""
    text = re.sub(r"(?:\w+:/)?/[^:;]*(?=: )", "FILE", reason)  # a whole path, up to the colon that ends it
    text = re.sub(r"\S*/\S+", "FILE", text)
    return re.sub(r"\d+(?:\.\d+)?", "N", text)


# ------------------------------------------------------------------------------------------ output
def lines(coverage: pa.Table) -> list[list[str]]:
    """The table as text, its heading first."""
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


def verdict(found: Sequence[Leak]) -> list[str]:
    """What is flagged, or that nothing is, with the rule."""
    rule = (
        f"rule: within a split, p < {MAX_P:g} and a difference of at least {100 * MIN_SHARE:g} percentage points of "
        f"failed videos (Fisher's exact test) or {MIN_FACES:g} faces per frame (Mann-Whitney U test)"
    )
    if not found:
        return [f"Nothing about extraction tells real from fake ({rule})"]
    return [*(f"LEAK {leak}" for leak in found), f"The label can be guessed from extraction ({rule})"]


def markdown(
    coverage: pa.Table, why: Sequence[Mapping[str, Any]], found: Sequence[Leak], title: str = "Coverage"
) -> str:
    """`table`, `reasons` and `leaks` as a page."""
    body = [[str(row[name]) for name in _REASON] for row in why]
    parts = [f"# {markdown_cell(title)}", "", *_grid(lines(coverage)), ""]
    parts += [f"- {markdown_cell(line)}" for line in verdict(found)]
    if body:
        parts += ["", "Reasons", "", *_grid([_REASON, *body])]
    return "\n".join([*parts, ""])


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [[markdown_cell(text) for text in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def to_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def plot(path: Path, coverage: pa.Table, title: str = "") -> None:
    """A panel for each split of a dataset, a bar for each manipulation: shares of what became of the videos."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import
    from matplotlib.figure import Figure

    rows = coverage.to_pylist()
    pairs = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows)) or [("", "")]
    of = {pair: [row for row in rows if (row["dataset"], row["split"]) == pair] for pair in pairs}
    columns = min(_COLUMNS, len(pairs))
    bands = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    most = [max(1, *(len(of[pair]) for pair in band)) for band in bands]
    figure = Figure(
        figsize=(1.5 + 4 * columns, 1.5 + sum(0.75 + 0.3 * number for number in most)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": [number + 2 for number in most]}
    panels = figure.subplots(len(bands), columns, sharex=True, squeeze=False, gridspec_kw=ratios)
    for axis, pair in zip_longest(panels.flat, pairs, fillvalue=None):
        _panel(axis, of[pair] if pair else [])
    handles, labels = next((h for h in (axis.get_legend_handles_labels() for axis in panels.flat) if h[0]), ([], []))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(OUTCOMES), fontsize="small", frameon=False)
    figure.suptitle(title)
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _panel(axis: Any, rows: Sequence[Row]) -> None:
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


# ----------------------------------------------------------------------------------------- command
def of_folder(folder: Path) -> tuple[pa.Table, pa.Table]:
    """VIDEOS, as far as FACES copies it, and LEDGER of an extraction. Raises ValueError if it is not finished."""
    ledger = store.Faces(folder).ledger
    copied = [at.copied for at in store.compacted(folder).values()]
    schema = pa.schema([tables.VIDEOS.field(name) for name in tables.COPIED])
    return pa.Table.from_pylist(copied, schema=schema), ledger


def write(out: Path, name: str, title: str, videos: pa.Table, ledger: pa.Table) -> list[Path]:
    """The files `name`.md, .csv, -reasons.csv and .png in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    coverage, why = table(videos, ledger), reasons(videos, ledger)
    texts = {
        f"{name}.md": markdown(coverage, why, leaks(videos, ledger), title),
        f"{name}.csv": to_csv(coverage.to_pylist(), coverage.column_names),
        f"{name}-reasons.csv": to_csv(why, _REASON),
    }
    for file, text in texts.items():
        storage.write_bytes(out / file, text.encode())
    plot(out / f"{name}.png", coverage, title)
    return [*(out / file for file in texts), out / f"{name}.png"]


def leaks_of(extractions: Sequence[Extraction]) -> list[str]:
    """From what about extraction the label can be guessed, each once."""
    found = (str(leak) for one in extractions for leak in leaks(one.videos, one.ledger_table()))
    return list(dict.fromkeys(found))


def write_coverage(extractions: Sequence[Extraction], folder: Path) -> list[Path]:
    """What became of every video, per recipe, as Markdown, CSV and a plot."""
    paths = []
    for recipe in dict.fromkeys(one.recipe for one in extractions):
        own = [one for one in extractions if one.recipe == recipe]
        videos = pa.concat_tables([one.videos for one in own])
        ledger = pa.concat_tables([one.ledger_table() for one in own])
        title = f"Coverage: {recipe.num_frames} frames, {recipe.margin:g} boxes at {recipe.size_px} px"
        name = f"coverage-{recipe.num_frames}-frames-{recipe.size_px}-px-{digest(recipe)[:6]}"
        paths += write(folder, name, title, videos, ledger)
    return paths
