"""The report of a sweep as one HTML page: it loads nothing, runs nothing, and can be printed or sent by mail.

Sections fold; printed, all are open. It follows the reader's choice of a light or a dark screen, and fits a phone.

All text is untrusted (it came from declarations, file names, exceptions) and is escaped; of an absolute path only
the last part is shown.
"""

import base64
import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
from pipelines.reporting.figures import legend, scores, style, svg, trainings
from pipelines.reporting.saved import Material, Saved, Trained
from pipelines.reporting.table import ONE_SEED, Cell, cell_texts, evenly, in_percent

MOST_WEBP_PX = 16383  # the format's limit
MANY_ROWS = 4  # from here on, single seeds are not drawn
SHORT_NAME = 26  # letters of a row of which two fit side by side below a panel
GRID = np.linspace(0, 1, 401)  # false positive rates at which curves are averaged
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()]+/)+")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1a1a1a; --faint: #666; --paper: #fff; --head: #f2f2f2; --base: #faf7e6; --line: #ccc; --bad: #a4243b;
  --link: #0645ad; --note: #9a6700; --note-paper: #fff8e1; color-scheme: light }
body { font: 15px/1.45 system-ui, 'DejaVu Sans', Arial, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1180px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 8px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 0; display: inline } h3 { font-size: 15px; margin: 16px 0 4px }
a { color: var(--link) } nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 12px 0 }
section { margin: 24px 0 } section > details > summary { border-bottom: 1px solid var(--line); padding: 2px 0 4px }
section > details > div { padding-top: 8px; scroll-margin-top: 48px } summary { cursor: pointer; font-weight: bold }
details details { margin: 10px 0 }
.told { color: var(--faint); margin: 4px 0 } .told code { color: var(--ink); overflow-wrap: anywhere }
.wide { overflow-x: auto; margin: 8px 0 16px } table { border-collapse: collapse; font-size: 13px }
th, td { border: 1px solid var(--line); padding: 3px 8px; text-align: right; vertical-align: top; white-space: nowrap }
th { background: var(--head) } th.group { text-align: center; white-space: normal }
th.name, td.name { text-align: left; white-space: normal; min-width: 6em; max-width: 26em; overflow-wrap: break-word }
th.name:first-child, td.name:first-child { position: sticky; left: 0 } td.name { background: var(--paper) }
th.name { background: var(--head) } tr.base td { background: var(--base) } tr.printed td { color: var(--faint) }
td small { color: var(--faint); white-space: nowrap }
.warning { border: 2px solid var(--note); background: var(--note-paper); padding: 8px 12px; font-weight: bold }
.bad { color: var(--bad) } img { max-width: 100%; height: auto; display: block }
figure { display: inline-block; margin: 8px 12px 8px 0; vertical-align: top; max-width: 100% }
figure.panel { width: 500px } figcaption { font-size: 13px } ul { padding-left: 22px } li { overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0 } dt { font-weight: bold }
dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 640px) { body { margin: 12px auto; padding: 0 10px; font-size: 14px } h1 { font-size: 20px }
  table { font-size: 12px } th, td { padding: 3px 5px } td.name, th.name { max-width: 9em } dl { display: block }
  dd { margin-bottom: 6px } figure { margin-right: 0 } }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #999; --paper: #161616; --head: #262626;
  --base: #2b2919; --line: #444; --bad: #ff8a9a; --link: #8ab4f8; --note: #b98900; --note-paper: #2a2410;
  color-scheme: dark } img.chart { filter: invert(0.91) hue-rotate(180deg) } }
@page { size: A4; margin: 12mm }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 11px } table { font-size: 9.5px }
  th, td { padding: 2px 5px } .wide { overflow: visible } nav { display: none } summary { list-style: none }
  details::details-content { content-visibility: visible; display: block; height: auto }
  figure, tr, li { break-inside: avoid } h2, h3, p, summary { break-after: avoid } thead { display: table-header-group }
  img { max-height: 240mm; width: auto } figure.panel { width: 48%; margin: 4px 1% 4px 0 } }
"""
TABLE_COLUMNS = 3  # of the paper's, side by side in one table: as many as a printed page holds
LONG = 16  # rows of a table, or of a chart: what is longer is folded until it is asked for


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, with HTML as its body; it is left out where that is empty."""

    title: str
    body: str
    opened: bool = True


def render(
    folder: Path, saved: Saved, materials: Sequence[Material], cells: Sequence[Cell], lines: Sequence[str]
) -> str:
    """Return the page as HTML.

    folder: holds the pictures of the report and of its coverage; materials: of the trials that are done; lines: stand
    below the table.
    """
    facts = {f"{name}: {value}" for name, value in saved.facts.items()}
    few = sum(line.runs for line in saved.rows) <= LONG
    sections = {
        "table": Section(
            title="Published and ours",
            body=_table(saved, cells) + _items(line for line in lines if line not in facts),
        ),
        "plot": Section(title="Plot", body=_pictures([folder / f"{saved.name}.png"])),
        "baseline": _baseline(saved, cells),
        "training": Section(title="Training", body=_trainings(saved, materials), opened=few),
        "scores": Section(title="Scores of real and fake", body=_scores(materials), opened=few),
        "roc": Section(title="ROC curves", body=_rocs(saved, materials), opened=few),
        "manipulations": Section(title="By manipulation", body=_manipulations(saved, materials)),
        "robustness": Section(title="Robustness", body=_pictures([folder / f"{saved.name}-robustness.png"])),
        "videos": Section(
            title="What became of the videos",
            body=_videos(folder, saved, materials),
            opened=len(saved.coverage) <= LONG,
        ),
        "examples": Section(title="Example faces", body=_examples(materials)),
        "made": Section(title="How it was made", body=_facts(saved.facts)),
    }
    shown = {name: section for name, section in sections.items() if section.body}
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(saved.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(saved.title)}</h1>",
        _told(saved.facts),
        f'<p class="warning">{_text(saved.warning)}</p>' if saved.warning else "",
        "<nav>" + "".join(f'<a href="#{name}">{_text(s.title)}</a>' for name, s in shown.items()) + "</nav>",
        *(_section(name, section) for name, section in shown.items()),
        "</body></html>",
    ]
    return "\n".join([*(part for part in parts if part), ""])


def _section(name: str, section: Section) -> str:
    """Return a section that folds; its name is on what it holds, so that a link to it opens it."""
    opened = " open" if section.opened else ""
    title = f"<summary><h2>{_text(section.title)}</h2></summary>"
    return f'<section><details{opened}>{title}\n<div id="{name}">{section.body}</div></details></section>'


def _told(facts: Mapping[str, str]) -> str:
    """Return the lines below the title: when it was run, by which command, of which commit."""
    first = ", ".join(f"{name} {_text(facts[name])}" for name in ("run", "commit", "preset") if facts.get(name))
    command = f'<p class="told"><code>{_text(facts["command"])}</code></p>' if facts.get("command") else ""
    return (f'<p class="told">{first}</p>' if first else "") + command


def _facts(facts: Mapping[str, str]) -> str:
    return (
        "<dl>" + "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts.items()) + "</dl>\n"
    )


# ------------------------------------------------------------------------------------------- text
def _text(value: Any) -> str:
    """Return a value as HTML: escaped, and of an absolute path only the last part."""
    return html.escape(_ABSOLUTE.sub("…/", printable(str(value))), quote=True)


def _items(lines: Iterable[str]) -> str:
    items = [(' class="bad"' if line.startswith(("FAILED", "LEAK")) else "", line) for line in lines]
    return "<ul>" + "\n".join(f"<li{kind}>{_text(line)}</li>" for kind, line in items) + "</ul>\n"


def _grid(
    head: Sequence[str],
    body: Iterable[Sequence[str]],
    classes: Mapping[str, str] | None = None,
    names: int = 1,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Return a table whose texts are HTML already.

    classes: first text of a row -> CSS class of it; names: how many columns hold text, not numbers; groups: headings
    over several of the others, each with how many.
    """

    def line(tag: str, texts: Sequence[str]) -> str:
        named = "".join(f'<{tag} class="name">{text}</{tag}>' for text in texts[:names])
        return named + "".join(f"<{tag}>{text}</{tag}>" for text in texts[names:])

    over = "".join(f'<th class="group" colspan="{width}">{text}</th>' for text, width in groups)
    rows = [
        "<thead>" + (f"<tr>{names * '<th></th>'}{over}</tr>" if over else "") + f"<tr>{line('th', head)}</tr></thead>"
    ]
    for texts in body:
        kind = f' class="{name}"' if (name := (classes or {}).get(texts[0])) else ""
        rows.append(f"<tr{kind}>{line('td', texts)}</tr>")
    return '<div class="wide"><table>' + "\n".join(rows) + "</table></div>\n"


def _image(kind: str, data: bytes, alt: str, *, chart: bool = True) -> str:
    """Return a picture; a chart's colours are turned round on a dark screen, a photograph's are not."""
    of_chart = ' class="chart"' if chart else ""
    return f'<img{of_chart} alt="{_text(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _figure(kind: str, data: bytes, alt: str, *, chart: bool = True) -> str:
    return f"<figure>{_image(kind, data, alt, chart=chart)}</figure>\n"


def _pictures(paths: Sequence[Path]) -> str:
    """Return those PNG that are there."""
    return "".join(_figure("png", path.read_bytes(), path.stem) for path in paths if path.is_file())


# ----------------------------------------------------------------------------------------- numbers
def _table(saved: Saved, cells: Sequence[Cell]) -> str:
    at = {(cell.row, cell.column): cell for cell in cells}
    names = [column.name for column in saved.columns]
    wide = evenly(len(names), TABLE_COLUMNS)
    return "".join(_group(saved, at, names[first : first + wide]) for first in range(0, len(names), wide))


def _group(saved: Saved, at: Mapping[tuple[str, str], Cell], names: Sequence[str]) -> str:
    """Return the table for some of its columns."""
    head = [_text(saved.row_name), *("published", "ours", "diff.") * len(names)]
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
    return _grid(head, body, classes, groups=[(_text(name), 3) for name in names])


def _classes(saved: Saved) -> dict[str, str]:
    """Return the CSS classes of the rows that others are tested against."""
    return {_text(label): "base" for label in saved.baselines}


def _baseline(saved: Saved, cells: Sequence[Cell]) -> Section:
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
    return Section(  # how it was tested stands below the first table
        title="Against the baseline row", body=_grid(head, body, names=3) if body else "", opened=len(body) <= LONG
    )


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
def _trainings(saved: Saved, materials: Sequence[Material]) -> str:
    """Return losses and validation AUC by epoch, stage by stage; a stage that all rows share is one line."""
    by_stage: dict[str, dict[str, list[Trained]]] = {}
    for material in materials:
        for training in material.run.trainings:
            by_stage.setdefault(training.stage, {}).setdefault(material.row, []).append(training)
    text = ""
    for stage, by_row in by_stage.items():
        if not any(training.curve for own in by_row.values() for training in own):
            continue
        shared = len({tuple(training.digest for training in own) for own in by_row.values()}) == 1 < len(by_row)
        drawn = {"all rows": next(iter(by_row.values()))} if shared else by_row
        text += f"<h3>{_text(stage)}</h3>\n" + _figure(
            "svg+xml", trainings(drawn, saved.baselines), f"training of {stage}"
        )
    note = "Dots: the epochs whose weights were kept. Of several seeds each is thin, their mean is thick."
    return f"<p>{note}</p>\n{text}" if text else ""


def _scores(materials: Sequence[Material]) -> str:
    """Return how the scores of real and of fake videos are distributed, by test part and row."""
    by_part = {part: _by_row(materials, part, "video") for part, level in _parts(materials) if level == "video"}
    by_part = {part: by_row for part, by_row in by_part.items() if by_row}
    return _figure("svg+xml", scores(by_part), "scores of real and fake videos") if by_part else ""


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
            text += f'<figure class="panel"><figcaption>{caption}</figcaption>{picture}</figure>\n'
    return text


def _roc(saved: Saved, by_row: Mapping[str, Sequence[pa.Table]]) -> bytes:
    """Return one panel as SVG; by_row: row -> its scores, seed by seed."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], ":", color="0.7", linewidth=1)
        lines: dict[str, Any] = {}
        for number, (row, tables) in enumerate(by_row.items()):
            look = style(number, baseline={row} == saved.baselines)
            line, area = _curve(axis, tables, look, seeds=len(by_row) <= MANY_ROWS)
            lines[f"{row} ({in_percent(area)})"] = line
        axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.set_aspect("equal")
        title = f"{printable(saved.row_name)} (AUC %)"
        columns = 2 if len(by_row) > MANY_ROWS and max(map(len, by_row)) < SHORT_NAME else 1
        legend(figure, lines, loc="outside lower center", title=title, ncols=columns, fontsize="small", frameon=False)

    return svg(5.2, 5 + 0.17 * len(by_row), draw)


def _curve(axis: Any, tables: Sequence[pa.Table], look: Mapping[str, Any], *, seeds: bool) -> tuple[Any, float]:
    """Draw the mean over seeds at equal false positive rates; look: of its line; seeds: each one too, thin.

    Return the line of the mean, and the mean of the areas.
    """
    curves = [detection.roc(table["label"], table["logit"]) for table in tables]
    area = float(np.mean([np.trapezoid(tpr, fpr) for fpr, tpr in curves]))
    x, y = np.append(0, GRID), np.append(0, np.mean([np.interp(GRID, fpr, tpr) for fpr, tpr in curves], axis=0))
    if len(curves) == 1 and len(curves[0][0]) < len(GRID):
        x, y = curves[0]
    elif seeds and len(curves) > 1:
        for fpr, tpr in curves:
            axis.plot(x, np.append(0, np.interp(GRID, fpr, tpr)), **look, linewidth=0.6, alpha=0.4)
    (line,) = axis.plot(x, y, **look, linewidth=1.5)
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
        row, seed = material.row, material.seed
        if row not in by_row and (pictures := example_pictures(material.run.folder, row, seed)):
            opened = "" if by_row else " open"
            summary = f"<summary>{_text(_trial_name(row, seed))}</summary>"
            by_row[row] = f"<details{opened}>{summary}\n{pictures}</details>\n"
    return "".join(by_row.values())


def example_pictures(folder: Path, row: str, seed: int) -> str:
    """Return the example faces and the features of a trial as HTML; empty where its folder has none.

    What was drawn before in this process is not drawn again.
    """
    paths = [folder / f"{kind}.parquet" for kind in ("evidence", "features")]
    return "".join(_drawn(path, path.stat().st_mtime_ns, _trial_name(row, seed)) for path in paths if path.is_file())


def _trial_name(row: str, seed: int) -> str:
    return f"{row} (seed {seed})"


@cache
def _drawn(path: Path, mtime_ns: int, name: str) -> str:
    """Draw EVIDENCE or FEATURES of a trial. mtime_ns: of the file, which is drawn anew when this has changed."""
    table = pq.read_table(path)
    if not table.num_rows:
        return ""
    if path.stem == "evidence":
        # Apart, not as one sheet: on paper that would have the height of a page, and letters too small to read.
        strips = [_figure(*_smaller(png), f"evidence of {name}", chart=False) for png in evidence.examples(table)]
        return f"<p>{evidence.GRAD_CAM}</p>\n" + "".join(strips)
    return _figure(*_smaller(evidence.tsne(table, title=name)), f"features of {name}")


def _smaller(png: bytes) -> tuple[str, bytes]:
    """Return a picture's format and bytes, as WebP where that can hold it.

    Photographs of a dozen rows as PNG would make the page too large to send; as WebP they are a tenth of it.
    """
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or max(picture.shape) > MOST_WEBP_PX:
        return "png", png
    _, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 85])
    return "webp", data.tobytes()
