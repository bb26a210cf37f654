"""PREDICTIONS -> RESULTS: AUC, AP, EER, accuracy by frame and by video, IoU and PBCA of masks.

Every value lies in [0, 1]. A video's score is the mean over its faces, or what its method's `Pooling` says. Of videos
in which every face counts (`face_rule` "all"), `highest_faces` makes one score of each frame first.
Intervals are 95 % percentile intervals over resampled videos: frames of one video are not independent, so a
video is drawn whole; real and fake videos are drawn apart, so that every resample has both.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from models import Pooling
from pipelines.metrics.names import DETECTING, FINAL, LEVELS
from pipelines.metrics.ranking import Floats, Ranking, Resamples

MEAN = Pooling()
SCORES = ("video_id", "frame_index", "label", "score", "face_area_px")  # columns of PREDICTIONS that make a score
_NEARLY_SURE = (1e-7, 1 - 1e-7)  # scores are 32 bit: further out their log odds are noise
NUM_RESAMPLES = 1000
CHUNK_VALUES = 2**20  # scores x resamples held at once: some 30 MB, of which a processor's cache takes a part


@dataclass(frozen=True, slots=True)
class Value:
    """A metric with its 95 % interval; all NaN where it is not defined."""

    value: float
    low: float
    high: float


# -------------------------------------------------------------------------------- single numbers
def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve; a tie between a real and a fake counts as half.

    Raises ValueError unless both classes are there, and for labels other than 0 and 1 or scores that are NaN.
    """
    return _single(Resamples.auc, labels, scores)


def ap(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of the fakes: sum of precision times the step in recall."""
    return _single(Resamples.ap, labels, scores)


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate: where FPR = 1 - TPR on the interpolated ROC; 0.5 for constant scores."""
    return _single(Resamples.eer, labels, scores)


def accuracy(labels: ArrayLike, scores: ArrayLike) -> float:
    """Share of scores on the right side of 0.5; a score of exactly 0.5 counts as real."""
    y, s = _checked(labels, scores)
    return float(np.mean((s > 0.5) == (y == 1)))


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rate from (0, 0) to (1, 1), a point for each distinct score from high to low."""
    y, s = _checked(labels, scores)
    fpr, tpr = Ranking(y, s).once().roc()
    return fpr[0], tpr[0]


def _single(metric: Callable[[Resamples], Floats], labels: ArrayLike, scores: ArrayLike) -> float:
    y, s = _checked(labels, scores)
    return float(metric(Ranking(y, s).once())[0])


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels and scores must be two lists of equal length, got {y.shape} and {s.shape}")
    num_real, num_fake = int((y == 0).sum()), int((y == 1).sum())
    if num_real + num_fake != len(y):
        raise ValueError("labels must be 0 (real) or 1 (fake)")
    if not num_real or not num_fake:
        raise ValueError(f"both classes are needed, got {num_real} real and {num_fake} fake")
    if np.isnan(s).any():
        raise ValueError(f"{int(np.isnan(s).sum())} of {len(s)} scores are NaN")
    return y, s


# ---------------------------------------------------------------------------------------- tables
def highest_faces(predictions: pa.Table, video_ids: Collection[str]) -> pa.Table:
    """The `SCORES` of PREDICTIONS, of the named videos one row for each frame: the highest score of its faces.

    A frame shows a forgery if one of its faces does. Applied first, so that each frame counts once at level frame
    too, and a method's own rule about faces finds one in each frame and changes nothing.
    """
    table = predictions.select(SCORES)
    named = pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string()))
    frames = table.filter(named).group_by(["video_id", "frame_index"])
    highest = frames.aggregate([(name, "max") for name in SCORES[2:]]).rename_columns(list(SCORES))
    return pa.concat_tables([table.filter(pc.invert(named)), highest.cast(table.schema)])


def by_video(predictions: pa.Table, pooling: Pooling = MEAN) -> pa.Table:
    """One row per video: `video_id`, `label`, and `score` pooled from its faces."""
    table = predictions
    if pooling.min_area:
        table = _large_faces(table, pooling.min_area)
    if pooling.faces == "max":
        table = _grouped(table, ["video_id", "frame_index"], "max")
    if pooling.frames == "mean_logit":
        p = np.clip(table["score"].to_numpy().astype(np.float64), *_NEARLY_SURE)
        table = table.select(["video_id", "label"]).append_column("score", pa.array(np.log(p / (1 - p))))
    videos = _grouped(table, ["video_id"], "mean")
    if pooling.frames == "mean_logit":
        score = 1 / (1 + np.exp(-videos["score"].to_numpy()))
        videos = videos.set_column(videos.schema.get_field_index("score"), "score", pa.array(score))
    return videos.select(["video_id", "label", "score"])


def _large_faces(table: pa.Table, min_area: float) -> pa.Table:
    """Without the faces that are smaller than this share of the largest one in their frame."""
    key = ["video_id", "frame_index"]
    largest = table.group_by(key).aggregate([("face_area_px", "max")])
    joined = table.select([*key, "label", "score", "face_area_px"]).join(largest, key)
    return joined.filter(pc.greater_equal(joined["face_area_px"], pc.multiply(joined["face_area_px_max"], min_area)))


def _grouped(table: pa.Table, key: list[str], how: str) -> pa.Table:
    found = table.group_by(key).aggregate([("label", "min"), ("score", how)])
    return found.rename_columns({"label_min": "label", f"score_{how}": "score"}).sort_by(
        [(k, "ascending") for k in key]
    )


def mean_of_stages(stages: Sequence[pa.Table]) -> pa.Table:
    """PREDICTIONS of the paper's final score: the arithmetic mean of its stages' scores, face by face.

    Masks come from the stage that localizes; of perturbed faces only their counts of pixels are kept. Raises ValueError
    if the stages scored different faces.
    """
    key = ["video_id", "frame_index", "face_index"]
    ordered = [table.sort_by([(name, "ascending") for name in key]) for table in stages]
    for table in ordered[1:]:
        if not all(table[name].equals(ordered[0][name]) for name in key):
            raise ValueError(f"stages scored different faces: {ordered[0].num_rows} and {table.num_rows} rows")
    score = np.mean([table["score"].to_numpy() for table in ordered], axis=0).astype(np.float32)
    with_mask = [
        table for table in ordered if min(table[name].null_count for name in ("mask_png", "mask_tp")) < table.num_rows
    ]
    base = with_mask[0] if with_mask else ordered[0]
    for name, values in (("stage", pa.array([FINAL] * len(score))), ("score", pa.array(score))):
        base = base.set_column(base.schema.get_field_index(name), base.schema.field(name), values)
    return base


def detection(predictions: pa.Table, level: str, pooling: Pooling = MEAN, seed: int = 0) -> dict[str, Value]:
    """`auc`, `ap`, `eer`, `acc_at_0_5` at level `frame` or `video`, with intervals over resampled videos."""
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}; got {level!r}")
    table = predictions if level == "frame" else by_video(predictions, pooling)
    found = ranked(table, draws(label_of_videos(table), np.random.default_rng(seed)))
    return {name: _with_interval(*values) for name, values in found.items()}


def ranked(
    table: pa.Table, drawn: NDArray[np.float32], names: Collection[str] = DETECTING
) -> dict[str, tuple[float, Floats]]:
    """Metric -> its value over the rows `video_id`, `label`, `score`, and in each resample of the videos (R,).

    drawn (V, R): see `draws`; the videos in alphabetical order.
    """
    y, s = _checked(table["label"].to_numpy(), table["score"].to_numpy())
    video = _videos(table)[0]
    found: dict[str, tuple[float, Floats]] = {}
    if wanted := {name: _RANKED[name] for name in _RANKED if name in names}:
        ranking = Ranking(y, s, video)
        once = ranking.once()
        found = {name: (float(metric(once)[0]), np.empty(drawn.shape[1])) for name, metric in wanted.items()}
        chunk = max(1, CHUNK_VALUES // len(s))
        for first in range(0, drawn.shape[1], chunk):
            some = slice(first, first + chunk)
            resamples = ranking.resamples(drawn[:, some].T.astype(np.int32, order="C"))
            for name, metric in wanted.items():
                found[name][1][some] = metric(resamples)
    if "acc_at_0_5" in names:
        right = ((s > 0.5) == (y == 1)).astype(float)
        found["acc_at_0_5"] = _share(video, right, np.ones(len(s)), drawn)
    return found


_RANKED: dict[str, Callable[[Resamples], Floats]] = {"auc": Resamples.auc, "ap": Resamples.ap, "eer": Resamples.eer}


def _videos(table: pa.Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of each row its video's place in alphabetical order (N,), and of each video its first row (V,)."""
    names = pc.dictionary_encode(table["video_id"].combine_chunks())  # sorting 200,000 strings takes a second
    rank = pc.rank(names.dictionary, tiebreaker="first").to_numpy().astype(np.intp) - 1
    video = rank[names.indices.to_numpy()]
    first = np.empty(len(rank), np.intp)
    first[video[::-1]] = np.arange(len(video))[::-1]
    return video, first


def _share(video: NDArray[np.intp], part: Floats, whole: Floats, drawn: NDArray[np.float32]) -> tuple[float, Floats]:
    """Sum of `part` over sum of `whole`, of all rows and in each resample; `video` says whose each row is."""
    of_video = np.stack([np.bincount(video, part), np.bincount(video, whole)])
    above, below = of_video @ drawn
    return float(part.sum() / whole.sum()), above / below


def localization(predictions: pa.Table, seed: int = 0) -> dict[str, Value]:
    """`iou` and `pbca` at threshold 0.5 over the faces of fake videos whose true mask is known.

    IoU: mean over faces of intersection / union, 1 where both are empty. PBCA: share of all pixels that
    are right, pooled. Real faces, whose true mask is empty, are left out. Empty dict where no face has a known
    mask or no stage localizes.
    """
    known = with_masks(predictions)
    if not known.num_rows:
        return {}
    found = masked(known, draws(label_of_videos(known), np.random.default_rng(seed)))
    return {name: _with_interval(*values) for name, values in found.items()}


def with_masks(predictions: pa.Table) -> pa.Table:
    """The fake faces that have a true and a predicted mask."""
    known = predictions.filter(pc.is_valid(predictions["mask_tp"]))
    return known.filter(pc.equal(known["label"], 1))


def masked(known: pa.Table, drawn: NDArray[np.float32]) -> dict[str, tuple[float, Floats]]:
    """`iou` and `pbca` of rows that `with_masks` left; as `ranked`."""
    tp, fp, fn, tn = (known[f"mask_{name}"].to_numpy().astype(float) for name in ("tp", "fp", "fn", "tn"))
    union = tp + fp + fn
    iou = np.where(union > 0, tp / np.maximum(union, 1), 1.0)
    video = _videos(known)[0]
    return {
        "iou": _share(video, iou, np.ones(len(iou)), drawn),
        "pbca": _share(video, tp + tn, union + tn, drawn),
    }


def label_of_videos(table: pa.Table) -> NDArray[np.int64]:
    """(V,), the videos in alphabetical order."""
    return table["label"].to_numpy()[_videos(table)[1]].astype(np.int64)


def draws(label_of_video: NDArray[np.int64], rng: np.random.Generator, num: int = NUM_RESAMPLES) -> NDArray[np.float32]:
    """(V, num): how often each video is drawn; the size of each class is kept."""
    counts = np.zeros((len(label_of_video), num), np.float32)
    for label in np.unique(label_of_video):
        members = np.flatnonzero(label_of_video == label)
        chunk = max(1, CHUNK_VALUES // len(members))
        for first in range(0, num, chunk):
            size = min(chunk, num - first)
            drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size)
            counts[members, first : first + size] = drawn.T
    return counts


def draws_of(table: pa.Table, num: int = NUM_RESAMPLES) -> NDArray[np.float32]:
    """`draws` for the videos of a table: always the same for videos of the same classes. Read-only."""
    return _known_draws(label_of_videos(table).astype(np.int8).tobytes(), num)


@lru_cache(maxsize=2)  # rows, seeds and perturbations of one part share them, at a level and of its masks
def _known_draws(labels: bytes, num: int) -> NDArray[np.float32]:
    drawn = draws(np.frombuffer(labels, np.int8).astype(np.int64), np.random.default_rng(0), num)
    drawn.flags.writeable = False
    return drawn


def _with_interval(value: float, resampled: Floats) -> Value:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Value(value, float(low), float(high))
