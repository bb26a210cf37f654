"""A video's score as a picture: its course over time, and the faces that speak most for a fake."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_FACES = 6
_TILE_PX = 224
_RED = np.array([255, 0, 0], np.float32)
_STRENGTH = 0.6  # of the red where the mask says 1


def picture(title: str, by: str, score: float, faces: Sequence[Mapping[str, Any]], note: str) -> bytes:
    """A PNG. Each of `faces` has `frame_index`, `face_index`, `time_s`, `score`, `image_png`, `mask_png` or null."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    curve, tiles = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    _course(curve.subplots(), score, faces)
    chosen = sorted(faces, key=lambda row: row["score"], reverse=True)[:MOST_FACES]
    for axis, row in zip(tiles.subplots(1, MOST_FACES, squeeze=False).flat, chosen, strict=False):
        axis.imshow(overlay(row["image_png"], row["mask_png"]))
        axis.set_title(f"{row['score']:.3f} at {row['time_s']:.2f} s", fontsize="small")
    for axis in tiles.axes:
        axis.set_axis_off()
    masked = any(row["mask_png"] is not None for row in chosen)
    legend = "highest-scored faces" + ("; red: what the model takes for manipulated" if masked else "")
    tiles.suptitle(legend, fontsize="small")
    figure.suptitle(f"{title}\n{by}", fontsize="medium", parse_math=False)
    if note:
        figure.supxlabel(note, fontsize="small", color="C3", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    return data.getvalue()


def _course(axis: Any, score: float, faces: Sequence[Mapping[str, Any]]) -> None:
    for index in sorted({row["face_index"] for row in faces}):
        own = sorted((row["time_s"], row["score"]) for row in faces if row["face_index"] == index)
        axis.plot(*zip(*own, strict=True), "o-", markersize=3, label=f"face {index}")
    axis.axhline(score, color="0.3", linestyle="--", linewidth=1, label="video")
    axis.axhline(0.5, color="0.8", linewidth=1)
    axis.set(ylim=(-0.02, 1.02), xlabel="time (s)", ylabel="P(fake)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def overlay(image_png: bytes, mask_png: bytes | None) -> NDArray[np.uint8]:
    """The face, RGB, with the predicted mask laid over it in red: the surer, the stronger."""
    image = cv2.cvtColor(_decoded(image_png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    shown = cv2.resize(image, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_CUBIC)
    if mask_png is None:
        return np.asarray(shown, np.uint8)
    mask = cv2.resize(_decoded(mask_png, cv2.IMREAD_GRAYSCALE), (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_LINEAR)
    share = mask[..., None].astype(np.float32) / 255 * _STRENGTH
    return np.asarray(np.round(shown * (1 - share) + _RED * share), np.uint8)


def _decoded(png: bytes, flags: int) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), flags)
    assert pixels is not None, "a PNG that this program made can't be decoded"
    return np.asarray(pixels, np.uint8)
