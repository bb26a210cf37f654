"""A contact sheet: strips of pictures with their captions, as one PNG or one HTML page that needs no other file.

All text is untrusted: it came from file names. In HTML it is escaped, and the page may load and run nothing.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.common.pictures import encode_png
from pipelines.common.text import printable

Picture = NDArray[np.uint8]

LANDMARK = (0, 255, 255)
OUTLINE = (255, 0, 160)
COLOURS = {"real": "#0b6e4f", "fake": "#a4243b"}
FAILED = "#9a6700"
_INK = "#222222"
_GAP, _LINE = 8, 19  # pixels
_MIN_WIDTH = 640
_STYLE = (
    "body{font:14px/1.4 'DejaVu Sans',sans-serif;margin:16px;color:#222}section{border-top:1px solid #ccc;"
    "padding:8px 0}h1{font-size:18px}h2{font-size:15px;margin:0;overflow-wrap:anywhere}p{margin:0 0 4px}"
    "figure{display:inline-block;margin:4px 8px 4px 0}figcaption{font-size:11px;color:#555;white-space:pre-line}"
    "img{display:block}.failed{color:" + FAILED + "}"
    ".real{color:" + COLOURS["real"] + "}.fake{color:" + COLOURS["fake"] + "}"
    "@media screen and (prefers-color-scheme:dark){body{background:#161616;color:#ddd;color-scheme:dark}"
    "section{border-color:#444}figcaption{color:#999}.failed{color:#d9a521}.real{color:#4cc38a}.fake{color:#ff8a9a}}"
    "@media print{figure,h2{break-inside:avoid;break-after:avoid}section{break-inside:auto}}"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A face as it is shown, and the lines below it."""

    picture: Picture
    caption: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """A video: its name, its class, what is known of it, its faces."""

    title: str
    kind: str  # "real" or "fake"
    lines: tuple[str, ...]
    failed: bool  # the first line then says how
    tiles: tuple[Tile, ...] = ()


def face(image: Picture, landmarks: NDArray[np.float32] | None, mask: Picture | None, size_px: int) -> Picture:
    """Return a crop (H, H, 3) at `size_px` with a dot on each landmark and a line around the mask (H, H), 0 to 255.

    landmarks: (x, y) each, in pixels of the crop.
    """
    scale = size_px / image.shape[1]
    shown = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if mask is not None:
        large = cv2.resize(mask, (size_px, size_px), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours((large > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, OUTLINE, 1)
    if landmarks is not None:
        for x, y in landmarks:
            place = round((float(x) + 0.5) * scale - 0.5), round((float(y) + 0.5) * scale - 0.5)
            cv2.circle(shown, place, 1, LANDMARK, -1)
    return np.asarray(shown, np.uint8)


# -------------------------------------------------------------------------------------------- HTML
def to_html(title: str, strips: Sequence[Strip]) -> str:
    """Return the sheet as an HTML page with its pictures inside."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_escaped(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_escaped(title)}</h1>",
        *map(_section, strips),
        "</body></html>",
    ]
    return "\n".join([*parts, ""])


def _section(strip: Strip) -> str:
    assert strip.kind in COLOURS
    lines = [f"<p>{_escaped(line)}</p>" for line in strip.lines]
    if strip.failed and lines:
        lines[0] = f'<p class="failed">{_escaped(strip.lines[0])}</p>'
    figures = []
    for tile in strip.tiles:
        data = base64.b64encode(encode_png(tile.picture)).decode()
        caption = "\n".join(_escaped(line) for line in tile.caption)
        image = f'<img alt="" src="data:image/png;base64,{data}">'
        figures.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return "\n".join(
        [f'<section><h2 class="{strip.kind}">{_escaped(strip.title)}</h2>', *lines, *figures, "</section>"]
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)


# --------------------------------------------------------------------------------------------- PNG
def to_png(title: str, strips: Sequence[Strip]) -> bytes:
    """Return the sheet as one PNG, as wide as its widest strip. title: may be empty."""
    from matplotlib import get_data_path  # here: half a second of import that HTML does not need
    from PIL import Image, ImageDraw, ImageFont

    path = Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    large, small = ImageFont.truetype(str(path), 14), ImageFont.truetype(str(path), 11)
    widths = [sum(tile.picture.shape[1] + _GAP for tile in strip.tiles) for strip in strips]
    width = max([_MIN_WIDTH, *widths]) + _GAP
    # Characters per line by the widest ones that occur in names: a line is broken early rather than cut off.
    columns = int((width - 2 * _GAP) / large.getlength("m") * 1.3)
    texts = [[(line, colour) for text, colour in _lines(strip) for line in _wrapped(text, columns)] for strip in strips]
    title_lines = _wrapped(title, columns) if title else []
    heights = [_height(strip, len(lines)) for strip, lines in zip(strips, texts, strict=True)]
    sheet = Image.new("RGB", (width, _GAP + _LINE * len(title_lines) + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    y = _GAP
    for line in title_lines:
        draw.text((_GAP, y), line, "black", large)
        y += _LINE
    for strip, lines, height in zip(strips, texts, heights, strict=True):
        draw.line([(_GAP, y + 3), (width - _GAP, y + 3)], "#cccccc")
        for number, (line, colour) in enumerate(lines):
            draw.text((_GAP, y + _GAP + number * _LINE), line, colour, large)
        x, top = _GAP, y + _GAP + len(lines) * _LINE + 3
        for tile in strip.tiles:
            sheet.paste(Image.fromarray(tile.picture), (x, top))
            for number, line in enumerate(tile.caption):
                place = (x, top + tile.picture.shape[0] + 2 + 14 * number)
                draw.text(place, printable(line), "#555555", small)
            x += tile.picture.shape[1] + _GAP
        y += height
    return encode_png(np.asarray(sheet))


def _lines(strip: Strip) -> list[tuple[str, str]]:
    """Return the lines of text above a strip, each with its colour."""
    colours = [FAILED if strip.failed else _INK, *[_INK] * (len(strip.lines) - 1)]
    return [(strip.title, COLOURS[strip.kind]), *zip(strip.lines, colours, strict=False)]


def _wrapped(text: str, columns: int) -> list[str]:
    shown = printable(text)
    return [shown[start : start + columns] for start in range(0, len(shown), columns)] or [""]


def _height(strip: Strip, num_lines: int) -> int:
    tiles = [tile.picture.shape[0] + 2 + 14 * len(tile.caption) for tile in strip.tiles]
    return 2 * _GAP + num_lines * _LINE + max(tiles, default=0)
