"""The report of a sweep as one HTML page: it loads nothing, runs nothing, and can be printed or sent by mail.

All text is untrusted (it came from declarations, file names, exceptions) and is escaped; of an absolute path only
the last part is shown.
"""

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common.tables import FAKE, REAL, STATUSES
from pipelines.common.text import printable
from pipelines.metrics import detection
from pipelines.reporting import evidence
from pipelines.reporting.coverage import normalised
from pipelines.reporting.robustness import legend
from pipelines.reporting.saved import Material, Saved
from pipelines.reporting.table import ONE_SEED, Cell, cell_texts, in_percent

MOST_WEBP_PX = 16383  # the format's limit
MANY_ROWS = 4  # from here on, single seeds are not drawn
GRID = np.linspace(0, 1, 401)  # false positive rates at which curves are averaged
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()]+/)+")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 'DejaVu Sans', Arial, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px;
  margin: 24px auto; padding: 0 16px }
h1 { font-size: 24px; margin: 0 0 8px } h2 { font-size: 18px; margin: 32px 0 8px; border-bottom: 1px solid #bbb }
h3 { font-size: 15px; margin: 16px 0 4px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; margin: 8px 0 }
th, td { border: 1px solid #ccc; padding: 3px 8px; text-align: right; vertical-align: top }
th { background: #f2f2f2 } th.name, td.name { text-align: left; overflow-wrap: anywhere }
tr.base td { background: #fafaf0 } tr.printed td { color: #666 }
td small { color: #555; white-space: nowrap }
.warning { border: 2px solid #9a6700; background: #fff8e1; padding: 8px 12px; font-weight: bold }
.bad { color: #a4243b } nav a { margin-right: 14px } img { max-width: 100%; height: auto; display: block }
figure { display: inline-block; margin: 8px 12px 8px 0; vertical-align: top; max-width: 100% }
dt { font-weight: bold; float: left; clear: left; margin-right: 8px } dd { margin: 0 0 2px 0; overflow-wrap: anywhere }
li { overflow-wrap: anywhere } summary { cursor: pointer; font-weight: bold; margin: 8px 0 }
@media print { body { margin: 0; max-width: none; font-size: 11px } figure, tr { break-inside: avoid }
  nav { display: none } }
"""


def render(
    folder: Path, saved: Saved, materials: Sequence[Material], cells: Sequence[Cell], lines: Sequence[str]
) -> str:
    """Return the page as HTML.

    folder: holds the pictures of the report and of its coverage; materials: of the trials that are done; lines: stand
    below the table.
    """
    sections = {
        "table": ("Published and ours", _table(saved, cells) + _items(lines)),
        "baseline": ("Against the baseline row", _baseline(saved, cells)),
        "plot": ("Plot", _pictures([folder / f"{saved.name}.png"])),
        "roc": ("ROC curves", _rocs(saved, materials)),
        "manipulations": ("By manipulation", _manipulations(saved, materials)),
        "robustness": ("Robustness", _pictures([folder / f"{saved.name}-robustness.png"])),
        "videos": ("What became of the videos", _videos(folder, saved, materials)),
        "examples": ("Example faces", _examples(materials)),
    }
    shown = {name: section for name, section in sections.items() if section[1]}
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(saved.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(saved.title)}</h1>",
        f'<p class="warning">{_text(saved.facts["data"])}</p>' if saved.is_sample else "",
        "<nav>" + "".join(f'<a href="#{name}">{_text(title)}</a>' for name, (title, _) in shown.items()) + "</nav>",
        *(f'<section id="{name}"><h2>{_text(title)}</h2>\n{body}</section>' for name, (title, body) in shown.items()),
        "</body></html>",
    ]
    return "\n".join([*(part for part in parts if part), ""])


# ------------------------------------------------------------------------------------------- text
def _text(value: Any) -> str:
    """Return a value as HTML: escaped, and of an absolute path only the last part."""
    return html.escape(_ABSOLUTE.sub("…/", printable(str(value))), quote=True)


def _items(lines: Iterable[str]) -> str:
    items = [(' class="bad"' if line.startswith(("FAILED", "LEAK")) else "", line) for line in lines]
    return "<ul>" + "\n".join(f"<li{kind}>{_text(line)}</li>" for kind, line in items) + "</ul>\n"


def _grid(
    head: Sequence[str], body: Iterable[Sequence[str]], classes: Mapping[str, str] | None = None, names: int = 1
) -> str:
    """Return a table whose texts are HTML already.

    classes: first text of a row -> CSS class of it; names: how many columns hold text, not numbers.
    """

    def line(tag: str, texts: Sequence[str]) -> str:
        named = "".join(f'<{tag} class="name">{text}</{tag}>' for text in texts[:names])
        return named + "".join(f"<{tag}>{text}</{tag}>" for text in texts[names:])

    rows = [f"<tr>{line('th', head)}</tr>"]
    for texts in body:
        kind = f' class="{name}"' if (name := (classes or {}).get(texts[0])) else ""
        rows.append(f"<tr{kind}>{line('td', texts)}</tr>")
    return '<div class="wide"><table>' + "\n".join(rows) + "</table></div>\n"


def _image(kind: str, data: bytes, alt: str) -> str:
    return f'<img alt="{_text(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _figure(kind: str, data: bytes, alt: str) -> str:
    return f"<figure>{_image(kind, data, alt)}</figure>\n"


def _pictures(paths: Sequence[Path]) -> str:
    """Return those PNG that are there."""
    return "".join(_figure("png", path.read_bytes(), path.stem) for path in paths if path.is_file())


# ----------------------------------------------------------------------------------------- numbers
def _table(saved: Saved, cells: Sequence[Cell]) -> str:
    at = {(cell.row, cell.column): cell for cell in cells}
    names = [column.name for column in saved.columns]
    head = [_text(saved.row_name)]
    for name in names:
        head += [f"{_text(name)}<br>published", f"{_text(name)}<br>ours", "diff."]
    body = []
    classes = _classes(saved)
    for row in saved.rows:
        line = [_text(row.label) + ("" if row.runs else " <small>published only</small>")]
        if not row.runs:
            classes[line[0]] = "printed"
        for name in names:
            published, ours, difference = cell_texts(at[row.label, name])
            value, *interval = _text(ours).split(" [")
            line += [_text(published), value + "".join(f"<br><small>[{rest}</small>" for rest in interval), difference]
        body.append(line)
    return _grid(head, body, classes)


def _classes(saved: Saved) -> dict[str, str]:
    """Return the CSS classes of the rows that others are tested against."""
    return {_text(label): "base" for label in saved.baselines}


def _baseline(saved: Saved, cells: Sequence[Cell]) -> str:
    tested = [(cell, cell.against) for cell in cells if cell.against]
    body = [
        [
            _text(cell.row),
            _text(cell.column),
            _text(against.baseline),
            f"{100 * against.difference:+.1f}",
            f"[{100 * against.low:+.1f}, {100 * against.high:+.1f}]",
            f"{against.p:.3g}",
            f"{against.adjusted_p:.3g}",
            " ".join(f"{100 * value:+.1f}" for value in against.by_seed.values())
            + (ONE_SEED if len(against.by_seed) == 1 else ""),
            str(against.num_videos),
        ]
        for cell, against in tested
    ]
    head = [
        _text(saved.row_name),
        "column",
        "against",
        "difference, points",
        "95 % interval",
        "p",
        "p (Holm)",
        "by seed",
        "videos",
    ]
    return _grid(head, body, names=3) if body else ""  # how it was tested stands below the first table


def _by_row(materials: Sequence[Material], part: str, level: str) -> dict[str, list[pa.Table]]:
    """Return row -> its scores of a part at a level, seed by seed; tables without both classes are left out."""
    tables: dict[str, list[pa.Table]] = {}
    for material in materials:
        table = material.scores.get((part, level, ""))
        if table is not None and len(table["label"].unique()) == 2:
            tables.setdefault(material.row, []).append(table)
    return tables


def _parts(materials: Sequence[Material]) -> list[tuple[str, str]]:
    """Return the test parts with their levels, in the order of the first run that has them."""
    keys = [key for material in materials for key in sorted(material.scores)]
    return list(dict.fromkeys((part, level) for part, level, perturbation in keys if not perturbation))


def _manipulations(saved: Saved, materials: Sequence[Material]) -> str:
    """Return a table for each part with several manipulations: the AUC of each one's fakes against all real videos."""
    text = ""
    for part in dict.fromkeys(part for part, _ in _parts(materials)):
        by_row = _by_row(materials, part, "video")
        columns = [table["method"].to_pylist() for tables in by_row.values() for table in tables]
        manipulations = sorted({method for column in columns for method in column} - {"real"})
        if len(manipulations) < 2:  # the first table says it all
            continue
        num_fake = {name: max(column.count(name) for column in columns) for name in manipulations}
        counts = [f"{_text(name)}<br><small>{num_fake[name]} fake</small>" for name in manipulations]
        body = [[_text(row), *(_auc_text(tables, name) for name in manipulations)] for row, tables in by_row.items()]
        text += f"<h3>{_text(part)}: video-level AUC in % against the same real videos</h3>\n"
        text += _grid([_text(saved.row_name), *counts], body, _classes(saved))
    return text


def _auc_text(tables: Sequence[pa.Table], manipulation: str) -> str:
    """Return the mean and spread over seeds of one manipulation's AUC."""
    scores = [detection.of_method(table, manipulation) for table in tables]
    values = [detection.auc(table["label"], table["logit"]) for table in scores if len(table["label"].unique()) == 2]
    if not values:
        return "–"
    spread = f" ± {in_percent(float(np.std(values, ddof=1)))}" if len(values) > 1 else ONE_SEED
    return f"{in_percent(float(np.mean(values)))}{spread}"


# ------------------------------------------------------------------------------------------ curves
def _rocs(saved: Saved, materials: Sequence[Material]) -> str:
    """Return the ROC curves of all parts at level `video`, and at level `frame` of those that the table has there."""
    wanted = {(column.test, column.level) for column in saved.columns}
    text = ""
    for part, level in _parts(materials):
        by_row = _by_row(materials, part, level)
        if by_row and (level == "video" or {(part, level), ("", level)} & wanted):
            labels = next(iter(by_row.values()))[0]["label"].to_pylist()
            counted = "videos" if level == "video" else "faces"
            caption = f"{_text(part)}, {level} level: {labels.count(REAL)} real and {labels.count(FAKE)} fake {counted}"
            if max(map(len, by_row.values())) > 1:
                caption += "<br>mean over seeds" + ("; thin: each of them" if len(by_row) <= MANY_ROWS else "")
            picture = _image("svg+xml", _roc(saved, by_row), f"ROC curves, {part}")
            text += f"<figure><figcaption>{caption}</figcaption>{picture}</figure>\n"
    return text


def _roc(saved: Saved, by_row: Mapping[str, Sequence[pa.Table]]) -> bytes:
    """Return one panel as SVG; by_row: row -> its scores, seed by seed."""
    from matplotlib import rc_context  # here: a second of import that a page without curves does not need
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "report", "text.parse_math": False}):
        figure = Figure(figsize=(5.2, 5), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], ":", color="0.7", linewidth=1)
        lines: dict[str, Any] = {}
        for number, (row, tables) in enumerate(by_row.items()):
            colour = "black" if {row} == saved.baselines else f"C{number % 10}"
            style = "-" if number < 10 else "--"
            line, area = _curve(axis, tables, colour, style, seeds=len(by_row) <= MANY_ROWS)
            lines[f"{row} ({in_percent(area)})"] = line
        axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.set_aspect("equal")
        title = f"{printable(saved.row_name)} (AUC %)"
        legend(axis, lines, loc="lower right", fontsize="x-small", title_fontsize="x-small", title=title)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def _curve(axis: Any, tables: Sequence[pa.Table], colour: str, style: str, *, seeds: bool) -> tuple[Any, float]:
    """Draw the mean over seeds at equal false positive rates; seeds: each one too, thin.

    Return the line of the mean, and the mean of the areas.
    """
    curves = [detection.roc(table["label"], table["logit"]) for table in tables]
    area = float(np.mean([np.trapezoid(tpr, fpr) for fpr, tpr in curves]))
    x, y = np.append(0, GRID), np.append(0, np.mean([np.interp(GRID, fpr, tpr) for fpr, tpr in curves], axis=0))
    if len(curves) == 1 and len(curves[0][0]) < len(GRID):
        x, y = curves[0]
    elif seeds and len(curves) > 1:
        for fpr, tpr in curves:
            axis.plot(x, np.append(0, np.interp(GRID, fpr, tpr)), "-", color=colour, linewidth=0.6, alpha=0.4)
    (line,) = axis.plot(x, y, style, color=colour, linewidth=1.5)
    return line, area


# ------------------------------------------------------------------------------------------ videos
def _videos(folder: Path, saved: Saved, materials: Sequence[Material]) -> str:
    text = _pictures(sorted(folder.glob("coverage-*.png")))
    if saved.coverage:
        statuses = [status.replace("_", " ") for status in STATUSES]
        head = ["dataset", "part", "class", "manipulation", "given", *statuses]
        body = [
            [
                *(_text(row[name]) for name in ("dataset", "split")),
                _class(row["label"]),
                *(_text(row[name]) for name in ("method", "given", *STATUSES)),
            ]
            for row in saved.coverage
        ]
        text += "<h3>Extraction</h3>\n" + _grid(head, body, names=4)
    text += "<h3>Test videos without a usable face</h3>\n" + (_failures(materials) or "<p>None.</p>\n")
    leaks = [f"LEAK {leak}" for leak in saved.leaks] or ["No leak found: real and fake fail alike."]
    return text + "<h3>Leaks</h3>\n" + _items(leaks)


def _class(label: int) -> str:
    return "fake" if label == FAKE else "real"


def _failures(materials: Sequence[Material]) -> str:
    """Return how often each reason was given, by test part and class; a video that several rows share counts once."""
    reasons = {
        (part.name, video.video_id): (part.name, _class(video.label), video.method, normalised(video.reason))
        for material in materials
        for part in material.run.origin.parts
        for video in part.failed
    }
    head = ["part", "class", "manipulation", "reason", "videos"]
    body = [[*map(_text, key), str(number)] for key, number in sorted(Counter(reasons.values()).items())]
    return _grid(head, body, names=4) if body else ""


# ---------------------------------------------------------------------------------------- evidence
def _examples(materials: Sequence[Material]) -> str:
    """Return what each row's model looks at, and where its features lie, from the first seed that has pictures."""
    by_row: dict[str, str] = {}
    for material in materials:
        if material.row in by_row:
            continue
        label = f"{material.row} (seed {material.seed})"
        pictures = ""
        for name, draw in (("evidence", evidence.examples_sheet), ("features", partial(evidence.tsne, title=label))):
            path = material.run.folder / f"{name}.parquet"
            if path.is_file() and (table := pq.read_table(path)).num_rows:
                pictures += _figure(*_smaller(draw(table)), f"{name} of {label}")
        if pictures:
            opened = "" if by_row else " open"
            summary = f"<summary>{_text(label)}</summary>"
            by_row[material.row] = f"<details{opened}>{summary}\n{pictures}</details>\n"
    return "".join(by_row.values())


def _smaller(png: bytes) -> tuple[str, bytes]:
    """Return a picture's format and bytes, as WebP where that can hold it.

    Photographs of a dozen rows as PNG would make the page too large to send; as WebP they are a tenth of it.
    """
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or max(picture.shape) > MOST_WEBP_PX:
        return "png", png
    _, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 85])
    return "webp", data.tobytes()
