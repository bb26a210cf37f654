"""Pictures beside a score: a video's course over time, a trial's example faces, its features in a plane.

They are drawn from tables, without a model.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.common import tables
from pipelines.common.pictures import decode_png
from pipelines.reporting import contact_sheet
from pipelines.reporting.contact_sheet import Strip, Tile

MOST_FACES = 6
_TILE_PX = 224
_RED = np.array([255, 0, 0], np.float32)
_STRENGTH = 0.6  # of the red where the mask says 1
_SEEN = 26  # of 255, from which a mask or Grad-CAM can be seen over a face
_SHEET_PX = 160  # side of a picture on a sheet
# Of Okabe and Ito, which colour-blind readers tell apart too: of real faces, and of each manipulation in turn.
_OF_REAL, _OF_FAKES = "#009E73", ("#D55E00", "#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "0.4", "0")
_MOST_PANELS = 3  # side by side


def picture(title: str, by: str, score: float, faces: Sequence[Mapping[str, Any]], note: str) -> bytes:
    """Return a PNG of one video: the scores of its faces over time, and the faces with the highest scores.

    by: the second line of the title; score: of the video; note: stands below, in red. Each of `faces` has
    `frame_index`, `face_index`, `time_s` in seconds, `score`, `image_png`, and `mask_png` or None. Without a mask, some
    may have `cam_png`, a Grad-CAM of the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    curve, tiles = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    _course(curve.subplots(), score, faces)
    chosen = sorted(faces, key=lambda row: row["score"], reverse=True)[:MOST_FACES]
    for axis, row in zip(tiles.subplots(1, MOST_FACES, squeeze=False).flat, chosen, strict=False):
        axis.imshow(_shown(row))
        axis.set_title(f"{row['score']:.3f} at {row['time_s']:.2f} s", fontsize="small")
    for axis in tiles.axes:
        axis.set_axis_off()
    tiles.suptitle(f"highest-scored faces{_legend(chosen)}", fontsize="small")
    figure.suptitle(drawable(f"{title}\n{by}"), fontsize="medium", parse_math=False)
    if note:
        figure.supxlabel(drawable(note), fontsize="small", color="C3", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    return data.getvalue()


def drawable(text: str) -> str:
    """Return the text with each character that matplotlib's own font lacks written as an escape, such as `\\u8996`."""
    from matplotlib import font_manager, ft2font  # here: a second of import

    has = ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_char_index
    return "".join(c if c == "\n" or has(ord(c)) else ascii(c)[1:-1] for c in text)


def _legend(faces: Sequence[Mapping[str, Any]]) -> str:
    """Return what the colours over the faces mean, or that there are none to be seen."""
    drawn = [row["mask_png"] for row in faces if row["mask_png"] is not None]
    heats = [row["cam_png"] for row in faces if "cam_png" in row]
    if not drawn and not heats:
        return ""
    if max(int(decode_png(png).max()) for png in drawn or heats) < _SEEN:
        return "; nothing is marked: " + (
            "the model takes no part of them for manipulated" if drawn else "nothing speaks for a fake (Grad-CAM)"
        )
    if drawn:
        return "; red: what the model takes for manipulated"
    return "; colours, up to red: what speaks for a fake, in each face by itself (Grad-CAM)"


def _shown(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return a face with its mask or Grad-CAM over it."""
    if row["mask_png"] is None and "cam_png" in row:
        image = decode_png(row["image_png"])
        return heated(np.asarray(image, np.uint8), decode_png(row["cam_png"]), _TILE_PX)
    return overlay(row["image_png"], row["mask_png"])


def _course(axis: Any, score: float, faces: Sequence[Mapping[str, Any]]) -> None:
    for index in sorted({row["face_index"] for row in faces}):
        own = sorted((row["time_s"], row["score"]) for row in faces if row["face_index"] == index)
        axis.plot(*zip(*own, strict=True), "o-", markersize=3, label=f"face {index}")
    axis.axhline(score, color="0.3", linestyle="--", linewidth=1, label="video")
    axis.axhline(0.5, color="0.8", linewidth=1)
    axis.set(ylim=(-0.02, 1.02), xlabel="time (s)", ylabel="P(fake)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def overlay(image_png: bytes, mask_png: bytes | None) -> NDArray[np.uint8]:
    """Return a face, RGB, with the predicted mask laid over it in red: the surer, the stronger."""
    image = decode_png(image_png)
    shown = cv2.resize(image, (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_CUBIC)
    if mask_png is None:
        return np.asarray(shown, np.uint8)
    mask = cv2.resize(decode_png(mask_png), (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_LINEAR)
    share = mask[..., None].astype(np.float32) / 255 * _STRENGTH
    return np.asarray(np.round(shown * (1 - share) + _RED * share), np.uint8)


def heated(image: NDArray[np.uint8], heat: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Return an RGB image (H, W, 3) as a square of `size_px` with a Grad-CAM (h, w), 0 to 255, laid over it.

    The stronger the heat, the less of the face shows through; where it is 0, nothing is laid over it.
    """
    shown = _resized(image, size_px).astype(np.float32)
    value = _resized(heat, size_px)
    colours = cv2.cvtColor(cv2.applyColorMap(value, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB).astype(np.float32)
    share = value[..., None].astype(np.float32) / 255 * _STRENGTH
    return np.asarray(np.round(shown * (1 - share) + colours * share), np.uint8)


def _resized(picture: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    kind = cv2.INTER_AREA if max(picture.shape[:2]) > size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size_px, size_px), interpolation=kind), np.uint8)


# ----------------------------------------------------------------------------------- a trial's examples
GRAD_CAM = "Grad-CAM: red speaks most for a fake"


def examples(evidence: pa.Table) -> list[bytes]:
    """Return a PNG of each example of EVIDENCE: its face, its Grad-CAM and the method's own pictures.

    Grad-CAM shows what speaks for a fake, in each face by itself; maps are black at 0 and bright at 1.
    """
    rows_of: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in evidence.to_pylist():
        key = tuple(row[name] for name in ("dataset", "video_id", "face_index", "frame_index"))
        rows_of.setdefault(key, []).append(row)
    return [contact_sheet.to_png("", [_strip(rows)]) for rows in rows_of.values()]


def _strip(rows: Sequence[Mapping[str, Any]]) -> Strip:
    """Return the strip of one example: its rows of EVIDENCE, of all stages."""
    example = rows[0]
    fake = example["label"] == tables.FAKE
    called = "a fake" if (example["verdict"] == "right") == fake else "real"
    scores = {row["stage"]: row["score"] for row in rows if row["score"] is not None}
    lines = [f"{example['verdict']}: P(fake) = {example['video_score']:.3f}, taken for {called}"]
    lines.append("this face: " + ", ".join(f"{stage} {score:.3f}" for stage, score in scores.items()))
    faces = {row["stage"]: row["png"] for row in rows if row["picture"] == "face" and row["png"] is not None}
    tiles = []
    for row in rows:
        if row["png"] is not None:
            under = faces.get(row["stage"], next(iter(faces.values()), None))
            tiles.append(Tile(_tile(row, under), (row["picture"], row["stage"])))
    problems = [f"{row['stage']} {row['picture'] or 'pictures'}: {row['problem']}" for row in rows if row["problem"]]
    return Strip(
        title=f"{'fake' if fake else 'real'}: {example['video_id']}, frame {example['frame_index']}",
        kind="fake" if fake else "real",
        lines=(*lines, *dict.fromkeys(problems)),
        failed=example["verdict"] == "wrong",
        tiles=tuple(tiles),
    )


def _tile(row: Mapping[str, Any], face_png: bytes | None) -> NDArray[np.uint8]:
    """Return a picture as it is shown: a Grad-CAM over its face, a map in colours, any other as it is."""
    picture = decode_png(row["png"])
    if picture.ndim == 3:
        return _resized(picture, _SHEET_PX)
    if row["picture"] == "Grad-CAM" and face_png is not None:
        image = decode_png(face_png)
        return heated(np.asarray(image, np.uint8), picture, _SHEET_PX)
    coloured = cv2.applyColorMap(_resized(picture, _SHEET_PX), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


# ------------------------------------------------------------------------------------------ features
def tsne(features: pa.Table, title: str) -> bytes:
    """Return a PNG of FEATURES: a panel for each stage.

    Real faces are green, each manipulation has a colour, each dataset a marker. The same table gives the same picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a second of import
    from matplotlib.figure import Figure

    stages = features["stage"].unique().to_pylist()
    wide = max(1, min(_MOST_PANELS, len(stages)))
    high = max(1, -(-len(stages) // wide))
    figure: Any = Figure(figsize=(4.6 * wide + 2.2, 4.4 * high + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    styles = _styles(features)
    for axis, stage in zip(axes.flat, stages, strict=False):
        _plane(axis, stage, features.filter(pc.equal(features["stage"], stage)), styles)
    marks = {name: line for axis in axes.flat for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if marks:
        figure.legend(marks.values(), marks, loc="outside right upper", fontsize="small", frameon=False)
    figure.suptitle(title if stages else f"{title}: no features", fontsize="medium", parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    return data.getvalue()


def _styles(features: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (dataset, method) -> how its points look, as matplotlib's `scatter` takes it."""
    pairs = sorted(set(zip(features["dataset"].to_pylist(), features["method"].to_pylist(), strict=True)))
    datasets = sorted({dataset for dataset, _ in pairs})
    methods = sorted({method for _, method in pairs if method != "real"})
    return {
        (dataset, method): {
            "color": _OF_REAL if method == "real" else _OF_FAKES[methods.index(method) % len(_OF_FAKES)],
            "marker": "o^sDvPX*"[datasets.index(dataset) % 8],
            "label": f"{dataset}: {method}",
        }
        for dataset, method in pairs
    }


def _plane(axis: Any, stage: str, features: pa.Table, styles: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    places = plane(np.array(features["features"].to_pylist(), np.float64))
    groups = list(zip(features["dataset"].to_pylist(), features["method"].to_pylist(), strict=True))
    for key, style in styles.items():
        own = places[[group == key for group in groups]]
        if len(own):
            axis.scatter(own[:, 0], own[:, 1], s=18, alpha=0.75, linewidths=0, **style)
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[], title=f"{stage}: {len(places)} faces")


def plane(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the t-SNE of vectors (N, D) by scikit-learn: (N, 2), the same for the same vectors.

    N and D may be small. Fewer than 4 points, of which t-SNE can say nothing, keep their principal axes. Points that
    all lie in one place are put at 0.
    """
    from sklearn.decomposition import PCA  # here: seconds of import
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    number = len(vectors)
    wide = np.pad(vectors, ((0, 0), (0, max(0, 2 - vectors.shape[1]))))
    if number < 2 or not np.ptp(wide, axis=0).any():
        return np.zeros((number, 2))
    axes = PCA(min(50, *wide.shape), random_state=0).fit_transform(wide)
    if number < 4:
        return np.asarray(axes[:, :2], np.float64)
    perplexity = min(30.0, (number - 1) / 3)
    # One thread: on a machine with other work, threads of so few points wait for each other, for minutes.
    with threadpool_limits(1):
        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(axes), np.float64)
