"""Scores of faces to numbers: how well they rank, decide and are calibrated, by frame and by video; how good masks are.

Every value lies in [0, 1]. A video's score is the mean over its faces, or what its method's `Pooling` says: `by_video`.
In videos in which every face counts (`face_rule` "all"), the score of a frame is the highest of its faces.

Scores are P(fake), and are kept as their log odds, `logit`: P itself is 1, and ranks nothing any more, from a logit of
17 on in 32 bits and of 37 on in 64. Means of P are therefore computed as log odds too.

A number comes with its values in the resamples of `resampling`, in which a video counts with all its frames. In each of
them reals and fakes are as many to one another as in the part itself, so that nothing varies by that.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit

from models import Pooling
from pipelines.common.tables import FAKE, REAL
from pipelines.metrics.names import AT_HALF, CALIBRATION, DETECTING, FINAL, TPR_AT
from pipelines.metrics.ranking import Floats, Ranking, Resamples
from pipelines.metrics.resampling import Clusters, Counts, Population, Resampled

MEAN = Pooling()
SCORES = ("video_id", "frame_index", "label", "logit", "face_area_px")  # columns of PREDICTIONS that make a score
ROUNDING = 1e-12  # log odds of a mean as near to 0 are 0: sums of logarithms are not exact
NUM_BINS = 15  # of the expected calibration error, as wide as one another (Guo et al., ICML 2017)
CHUNK_VALUES = 2**20  # scores x resamples held at once: some 30 MB, of which a processor's cache takes a part
_FACE = ("video_id", "frame_index", "face_index")
_BY_RANK: dict[str, Callable[[Resamples], Floats]] = {
    "auc": Resamples.auc,
    "ap": Resamples.ap,
    "eer": Resamples.eer,
    **{name: partial(Resamples.tpr_at, fpr=fpr) for name, fpr in TPR_AT.items()},
}


# ---------------------------------------------------------------------------------------------------- without intervals
def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve; a tie between a real and a fake counts as half.

    Raises ValueError unless both classes are there, and for labels other than 0 and 1 or scores that are NaN.
    """
    return float(Ranking(*_checked(labels, scores)).once().auc()[0])


def accuracy(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of scores on the right side of 0.5; a score of exactly 0.5 counts as real. Raises as `auc`."""
    y, s = _checked(labels, scores)
    return float(np.mean((s > 0.5) == (y == 1)))


def roc(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return false and true positive rates from (0, 0) to (1, 1), a point for each distinct score. Raises as `auc`."""
    fpr, tpr = Ranking(*_checked(labels, scores)).once().roc()
    return fpr[0], tpr[0]


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


# -------------------------------------------------------------------------------------- scores of faces, frames, videos
def mean_score(logits: ArrayLike) -> Floats:
    """Return the log odds (...) of the mean of the scores whose log odds (K, ...) are given; of one, itself.

    P(real) is averaged beside P(fake), both as logarithms: so a mean of scores that are nearly 1 keeps its digits.
    """
    z = np.asarray(logits, np.float64)
    if len(z) == 1:
        return z[0]
    return _log_odds(np.logaddexp.reduce(log_expit(z), axis=0), np.logaddexp.reduce(log_expit(-z), axis=0))


def _log_odds(fake: Floats, real: Floats) -> Floats:
    """Return the difference of two sums' logarithms, 0 where it is no more than their rounding: such a mean is 0.5."""
    difference = fake - real
    return np.where(np.abs(difference) < ROUNDING, 0.0, difference)


def with_score(table: pa.Table) -> pa.Table:
    """Return the table with a column `score`, P(fake) in [0, 1], made from its `logit`."""
    return table.append_column("score", pa.array(expit(table["logit"].to_numpy())))


def highest_faces(predictions: pa.Table, video_ids: Collection[str]) -> pa.Table:
    """Return the `SCORES` of PREDICTIONS; a frame of the named videos has one row, with the highest score of its faces.

    A frame shows a forgery if one of its faces does. To be applied first: each frame then counts once at level `frame`
    too, and a method's own rule about faces finds one in each frame and changes nothing.
    """
    table = predictions.select(SCORES)
    named = pc.is_in(table["video_id"], pa.array(sorted(video_ids), pa.string()))
    frames = table.filter(named).group_by(["video_id", "frame_index"])
    highest = frames.aggregate([(name, "max") for name in SCORES[2:]]).rename_columns(list(SCORES))
    return pa.concat_tables([table.filter(pc.invert(named)), highest.cast(table.schema)])


def by_video(predictions: pa.Table, pooling: Pooling = MEAN, every_face: Collection[str] = ()) -> pa.Table:
    """Return a row for each video, in alphabetical order: `video_id`, `label`, and `logit` and `score` of the video.

    Here alone scores of faces become that of a video, on validation as in tests and for videos of one's own.
    predictions: at least the columns `SCORES`. every_face: ids of videos in which every face counts.
    """
    table, frame = highest_faces(predictions, every_face), ["video_id", "frame_index"]
    if pooling.min_area:  # without the faces that are smaller than this share of the largest one in their frame
        largest = table.group_by(frame).aggregate([("face_area_px", "max")])
        table = table.join(largest, frame)
        smallest = pc.multiply(table["face_area_px_max"], pooling.min_area)
        table = table.filter(pc.greater_equal(table["face_area_px"], smallest))
    if pooling.faces == "max":
        table = table.group_by(frame).aggregate([("label", "min"), ("logit", "max")])
        table = table.rename_columns({"label_min": "label", "logit_max": "logit"})
    table = table.sort_by([(name, "ascending") for name in frame])
    first = np.flatnonzero(np.diff(_videos(table)[0], prepend=-1))  # where the rows of each video begin
    logit = table["logit"].to_numpy()
    if pooling.frames == "mean_logit":
        pooled = np.add.reduceat(logit, first) / np.diff(first, append=len(logit))
    else:  # as in `mean_score`
        fake, real = (np.logaddexp.reduceat(log_expit(z), first) for z in (logit, -logit))
        pooled = np.where(np.diff(first, append=len(logit)) == 1, logit[first], _log_odds(fake, real))
    videos = table.select(["video_id", "label"]).take(first)
    return with_score(videos.append_column("logit", pa.array(pooled)))


def of_method(table: pa.Table, method: str) -> pa.Table:
    """Return the rows of all real videos, and of one manipulation's fakes."""
    return table.filter(pc.or_(pc.equal(table["label"], REAL), pc.equal(table["method"], method)))


def mean_of_stages(stages: Sequence[pa.Table]) -> pa.Table:
    """Return PREDICTIONS of the paper's final score: the arithmetic mean of its stages' scores, face by face.

    Masks come from the stage that localizes; of perturbed faces only their counts of pixels are kept. Raises ValueError
    if the stages scored different faces.
    """
    ordered = [table.sort_by([(name, "ascending") for name in _FACE]) for table in stages]
    for table in ordered[1:]:
        if not all(table[name].equals(ordered[0][name]) for name in _FACE):
            raise ValueError(f"stages scored different faces: {ordered[0].num_rows} and {table.num_rows} rows")
    logit = mean_score([table["logit"].to_numpy() for table in ordered])
    with_mask = [
        table for table in ordered if min(table[name].null_count for name in ("mask_png", "mask_tp")) < table.num_rows
    ]
    final = with_mask[0] if with_mask else ordered[0]
    changed = {
        "stage": pa.array([FINAL] * len(logit)),
        "logit": pa.array(logit),
        "score": pa.array(expit(logit)),
        "num_repeated": pa.array(np.max([table["num_repeated"].to_numpy() for table in ordered], axis=0)),
    }
    for name, values in changed.items():
        final = final.set_column(final.schema.get_field_index(name), final.schema.field(name), values)
    return final


# ------------------------------------------------------------------------------------------------------- with resamples
def undefined(metric: str, labels: ArrayLike, counted: str = "videos") -> str:
    """Return why a metric of `DETECTING` is not defined for scores of these labels (N,); empty where it is.

    counted: what the scores are of.
    """
    y = np.asarray(labels)
    num_real, num_fake = int((y == REAL).sum()), int((y == FAKE).sum())
    if not num_real or not num_fake:
        return f"{num_real} real and {num_fake} fake {counted}"
    needed = round(1 / TPR_AT.get(metric, 1))
    if num_real < needed:
        return f"{num_real} real {counted}: a false positive rate of {TPR_AT[metric]:.0%} takes {needed}"
    return ""


def ranked(table: pa.Table, drawn: Counts, metrics: Collection[str] = DETECTING) -> dict[str, Resampled]:
    """Return those of `DETECTING` that `metrics` names, of the rows `video_id`, `label`, `logit`.

    drawn (V, R): what each video counts in each resample, in alphabetical order. Raises ValueError unless both classes
    are there, and for labels other than 0 and 1 or logits that are NaN.
    """
    y, z = _checked(table["label"].to_numpy(), table["logit"].to_numpy())
    video = _videos(table)[0]
    numbers: dict[str, Resampled] = {}
    if wanted := {name: metric for name, metric in _BY_RANK.items() if name in metrics}:
        ranking = Ranking(y, z, video)
        once = ranking.once()
        numbers = {name: Resampled(float(metric(once)[0]), np.empty(drawn.shape[1])) for name, metric in wanted.items()}
        chunk = max(1, CHUNK_VALUES // len(z))
        for first in range(0, drawn.shape[1], chunk):
            some = slice(first, first + chunk)
            resamples = ranking.resamples(drawn[:, some].T.astype(np.int32, order="C"))
            for name, metric in wanted.items():
                numbers[name].resampled[some] = metric(resamples)
    p = expit(z)
    right = ((z > 0) == (y == FAKE)).astype(float)
    values = {"acc_at_0_5": [right], "balanced_acc_at_0_5": [right], "brier": [(p - y) ** 2]}
    if "ece" in metrics:  # the gap between P(fake) and the share of fakes, by bin
        bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
        values["ece"] = [np.where(bins == i, p - y, 0) for i in range(NUM_BINS)]
    if wanted_means := [name for name in (*AT_HALF, *CALIBRATION) if name in metrics]:
        real, fake = _means_by_class(y, [row for name in wanted_means for row in values[name]], video, drawn)
        first = 0
        for name in wanted_means:
            share = 0.5 if name == "balanced_acc_at_0_5" else float(np.mean(y == FAKE))
            own = slice(first, first := first + len(values[name]))
            means = np.abs((1 - share) * real[own] + share * fake[own]).sum(axis=0)
            numbers[name] = Resampled(float(means[0]), means[1:])
    return {name: numbers[name] for name in metrics if name in numbers}


def _means_by_class(
    y: NDArray[np.int64], values: Sequence[Floats], video: NDArray[np.intp], drawn: Counts
) -> tuple[Floats, Floats]:
    """Return means of K values (N,) over the reals and over the fakes, (K, 1 + R) each: of all, then of resamples."""
    once = np.concatenate([np.ones((len(drawn), 1), np.float32), drawn], axis=1)
    means = []
    for of in (y == REAL, y == FAKE):
        rows = [np.bincount(video[of], row[of], len(once)) for row in (*values, np.ones(len(y)))]
        sums = np.stack(rows) @ once
        means.append(sums[:-1] / sums[-1])
    return means[0], means[1]


def with_masks(predictions: pa.Table) -> pa.Table:
    """Return the faces of a stage that predicts masks, none of another."""
    return predictions if predictions["mask_tp"].null_count < len(predictions) else predictions.slice(0, 0)


def counting(metric: str, faces: pa.Table) -> pa.Table:
    """Return those of the faces that count for a metric of `LOCALIZING`; faces: as `with_masks` returns them.

    A fake face has no true mask where it is not known, or where the change is too slight to leave one; that of a real
    face is empty.
    """
    fake, known = pc.equal(faces["label"], FAKE), pc.is_valid(faces["mask_tp"])
    if metric == "false_mask_area":
        return faces.filter(pc.and_(pc.invert(fake), known))
    if metric == "missing_masks":
        return faces.filter(fake)
    if metric == "iou_all_fakes" and pc.any(pc.and_(fake, known)).as_py():
        return faces.filter(fake)
    return faces.filter(pc.and_(fake, known))


def masked(metric: str, faces: pa.Table, drawn: Counts) -> Resampled:
    """Return a metric of `LOCALIZING`, at threshold 0.5; faces: at least one, as `counting` returns them.

    `iou`: mean over faces of intersection / union, 1 where both are empty; `iou_all_fakes`: the same, where a fake face
    without a true mask counts 0. `pbca`: share of all pixels that are right, pooled. `missing_masks`: share of fake
    faces without a true mask. `false_mask_area`: share of the pixels of real faces that are taken for manipulated,
    pooled. drawn (V, R): as in `ranked`.
    """
    tp, fp, fn, tn = (faces[f"mask_{name}"].to_numpy().astype(float) for name in ("tp", "fp", "fn", "tn"))
    union, one = tp + fp + fn, np.ones(len(tp))
    iou = np.nan_to_num(np.where(union == 0, 1.0, tp / np.maximum(union, 1)))  # NaN: no true mask
    part, whole = {
        "iou": (iou, one),
        "iou_all_fakes": (iou, one),
        "pbca": (tp + tn, union + tn),
        "missing_masks": (np.isnan(tp).astype(float), one),
        "false_mask_area": (fp, union + tn),
    }[metric]
    return _share(_videos(faces)[0], part, whole, drawn)


def _share(video: NDArray[np.intp], part: Floats, whole: Floats, drawn: Counts) -> Resampled:
    """Return the sum of `part` over the sum of `whole` (N,) each; video (N,): whose each row is."""
    of_video = np.stack([np.bincount(video, weights, len(drawn)) for weights in (part, whole)])
    above, below = of_video @ drawn
    return Resampled(float(part.sum() / whole.sum()), above / below)


# --------------------------------------------------------------------------------------------------------------- videos
def clusters(table: pa.Table, population: Population) -> tuple[Clusters, NDArray[np.int64]]:
    """Return who is in a table's videos, in alphabetical order, and their labels (V,).

    population: holds at least these videos.
    """
    first = _videos(table)[1]
    video_ids = table["video_id"].combine_chunks().take(pa.array(first))
    return population.clusters(video_ids), table["label"].to_numpy()[first].astype(np.int64)


def _videos(table: pa.Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each row its video's place in alphabetical order (N,), and for each video its first row (V,)."""
    names = pc.dictionary_encode(table["video_id"].combine_chunks())  # sorting 200,000 strings takes a second
    rank = pc.rank(names.dictionary, tiebreaker="first").to_numpy().astype(np.intp) - 1
    video = rank[names.indices.to_numpy()]
    first = np.empty(len(rank), np.intp)
    first[video[::-1]] = np.arange(len(video))[::-1]
    return video, first
