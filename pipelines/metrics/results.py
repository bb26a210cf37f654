"""PREDICTIONS of a trial's test parts, and what is known of these besides, to rows of RESULTS.

A trial writes down what is known (`Origin` in trial.json), so that its RESULTS can be made again from its PREDICTIONS
alone.

The mean over the levels of a perturbation, or over datasets, has the interval of the mean: all parts of a trial are
resampled together, so that numbers move together as far as they are of the same people.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models import Pooling
from pipelines.common import tables
from pipelines.faces import perturb
from pipelines.metrics import detection
from pipelines.metrics.calibration import Fitted
from pipelines.metrics.names import DETECTING, FITTED, LEVELS, LOCALIZING, MACRO, TPR_AT, UNSEEN
from pipelines.metrics.resampling import NUM_RESAMPLES, Clusters, Estimate, Population, Resampled

VERSION = 4  # raise it when other rows come of the same PREDICTIONS: those of done trials are then made again
LevelMetric = tuple[str, str]
NO_MASKS = "of no face there are a true and a predicted mask"
NOT_DEFINED = Resampled(math.nan, np.full(NUM_RESAMPLES, math.nan))


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A video of a part that gave no usable face."""

    video_id: str
    label: int
    method: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPart:
    """A test part, as far as PREDICTIONS do not say it: these hold the videos that were scored."""

    name: str  # dataset, or dataset/manipulation
    dataset: str
    split: str
    codec: str
    failed: tuple[Failed, ...] = ()
    excluded: tuple[str, ...] = ()  # video_ids that share a source with training
    every_face: tuple[str, ...] = ()  # video_ids of those in which every face counts
    version: int = 0  # of the rules that made it; 0: not known
    ids_digest: str = ""  # names its videos, those that failed included

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "ScoredPart":
        """Return the part of which `Origin.to_json` tells. Raises TypeError or KeyError for what that did not write."""
        lists = {name: tuple(told[name]) for name in ("excluded", "every_face")}
        return cls(**{**told, **lists, "failed": tuple(Failed(**failed) for failed in told["failed"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The trial that numbers come from, and the rules by which they are made."""

    run_id: str
    model: str
    train_on: str  # empty: not known, of scores from elsewhere
    seed: int
    failed_rule: str  # "half": failed videos count with score 0.5 at level `video`
    pooling: Pooling
    parts: tuple[ScoredPart, ...]
    validation: ScoredPart | None = None  # from which thresholds and temperatures are; None: there are none
    levels: tuple[str, ...] = LEVELS  # those of scores from elsewhere may lack `frame`

    def part(self, name: str) -> ScoredPart:
        """Return the part of this name."""
        return next(part for part in self.parts if part.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return a value for JSON that `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "Origin":
        """Return what `to_json` was called on. Raises TypeError or KeyError for what it did not write."""
        parts = tuple(map(ScoredPart.of_json, told["parts"]))
        validation = told["validation"] and ScoredPart.of_json(told["validation"])
        changed = {"pooling": Pooling(**told["pooling"]), "parts": parts, "validation": validation}
        return cls(**{**told, **changed, "levels": tuple(told["levels"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number with what its interval follows from, or the reason why it is not defined."""

    resampled: Resampled = NOT_DEFINED
    n_clusters: int = 0
    reason: str = ""
    note: str = ""  # what to know of it besides


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The numbers of one stage on one part or a mean of parts, clean or under one perturbation or a mean of levels."""

    stage: str
    perturbation: str
    dataset: str
    manipulation: str = ""  # of which alone the fakes are; empty: of all that the part has
    counted: Mapping[str, Any]  # columns of RESULTS that say what was scored
    videos: Mapping[str, frozenset[str]]  # columns of RESULTS that count videos -> the ids of these
    numbers: Mapping[LevelMetric, Number]

    @property
    def part(self) -> str:
        """The name of the part."""
        return str(self.counted["test_dataset"])


Predictions = tuple[Mapping[str, Any], pa.Table]  # `part` and `stage`, and the PREDICTIONS of the two
Validated = Mapping[LevelMetric, Fitted | str]  # stage and level -> what its scores on validation say, or why nothing


def every_row(
    origin: Origin,
    blocks: Iterable[Predictions],
    commit: str,
    sources: pa.Table | None = None,
    validation: Iterable[Predictions] = (),
) -> list[dict[str, Any]]:
    """Return the rows of RESULTS of a trial: numbers with the ends of their intervals, and their `means`.

    blocks: of test parts, each all clean or all under one perturbation. sources: rows `video_id`, `source_ids`; a video
    that they lack is a cluster of its own. validation: of the part from which thresholds and temperatures are.
    """
    fitted, blocks = validated(origin, validation), list(blocks)
    failed = [video.video_id for part in origin.parts for video in part.failed]
    scored = [table for _, table in blocks] + [pa.table({"video_id": pa.array(failed, pa.string())})]
    population = Population.of(scored, sources)
    measured = [
        measurement
        for block, table in blocks
        for measurement in _measure(origin, origin.part(block["part"]), block["stage"], table, fitted, population)
    ]
    whole = [m for m in measured if not m.manipulation]
    return [row for m in (*measured, *means(origin, whole)) for row in to_rows(origin, m, commit)]


def validated(origin: Origin, validation: Iterable[Predictions]) -> Validated:
    """Return for each stage and level what its scores on the validation part say."""
    fitted: dict[LevelMetric, Fitted | str] = {}
    for block, predictions in validation:
        assert origin.validation, "a trial that scored its validation part says which it is"
        for level in origin.levels:
            table = scores_at(level, origin, origin.validation, predictions)
            why = detection.undefined("auc", table["label"], "videos of validation")
            fitted[block["stage"], level] = why or Fitted.of(table["label"], table["logit"])
    return fitted


def _measure(
    origin: Origin,
    part: ScoredPart,
    stage: str,
    predictions: pa.Table,
    fitted: Validated,
    population: Population,
) -> list[Measurement]:
    """Return the numbers of a part, and where it has several manipulations the AUC of each against all real videos."""
    (perturbation,) = predictions["perturbation"].unique().to_pylist()

    def measurement(numbers: Mapping[LevelMetric, Number], manipulation: str = "") -> Measurement:
        return Measurement(
            stage=stage,
            perturbation=perturbation,
            dataset=part.dataset,
            manipulation=manipulation,
            counted={
                "test_dataset": f"{part.name}/{manipulation}" if manipulation else part.name,
                "part": part.split,
                "part_version": part.version,
                "part_ids": part.ids_digest,
                "codec": part.codec,
            },
            videos=_counted(part, predictions, manipulation),
            numbers=numbers,
        )

    numbers = {
        ("frame", metric): number for metric, number in localized(detection.with_masks(predictions), population).items()
    }
    by_manipulation: dict[str, Number] = {}
    for level in origin.levels:
        table = scores_at(level, origin, part, predictions)
        of_level = detected(level, table, fitted.get((stage, level), "no scores of a validation part"), population)
        if level == "video":
            by_manipulation = aucs_by_manipulation(table, population)
            of_level |= macro(by_manipulation)
        numbers |= {(level, metric): number for metric, number in of_level.items()}
    if perturbation:
        by_manipulation = {}
    return [
        measurement(numbers),
        *(measurement({("video", "auc"): auc}, name) for name, auc in by_manipulation.items()),
    ]


def _counted(part: ScoredPart, predictions: pa.Table, manipulation: str) -> dict[str, frozenset[str]]:
    """Return the columns of RESULTS that count videos, and the ids of these; manipulation: of its fakes only."""
    failed = part.failed
    if manipulation:
        predictions = detection.of_method(predictions, manipulation)
        failed = tuple(video for video in failed if video.label == tables.REAL or video.method == manipulation)

    def scored(which: pa.ChunkedArray) -> frozenset[str]:
        return frozenset(predictions.filter(which)["video_id"].unique().to_pylist())

    return {
        "n_real": scored(pc.equal(predictions["label"], tables.REAL)),
        "n_fake": scored(pc.equal(predictions["label"], tables.FAKE)),
        "n_padded": scored(pc.greater(predictions["num_repeated"], 0)),
        "n_missing": frozenset(video.video_id for video in failed),
        "n_excluded": frozenset(part.excluded),
    }


def localized(faces: pa.Table, population: Population) -> dict[str, Number]:
    """Return the metrics of `LOCALIZING` that there are for faces, as `detection.with_masks` returns them."""
    return {
        metric: number(metric, faces, population) for metric in LOCALIZING if len(detection.counting(metric, faces))
    }


def detected(level: str, scores: pa.Table, fitted: Fitted | str, population: Population) -> dict[str, Number]:
    """Return the metrics of `DETECTING` and `FITTED` of the rows `video_id`, `label`, `logit`.

    fitted: from validation, or why there is nothing.
    """
    clusters, labels = detection.clusters(scores, population)
    drawn = clusters.weights()
    counted = "faces" if level == "frame" else "videos"
    reasons = {metric: detection.undefined(metric, scores["label"], counted) for metric in DETECTING}
    defined = [metric for metric, reason in reasons.items() if not reason]
    resampled = detection.ranked(scores, drawn, defined) if defined else {}
    notes = {}
    for metric, base in FITTED.items():
        reasons[metric] = reasons[base] or (fitted if isinstance(fitted, str) else "")
        if isinstance(fitted, Fitted) and not reasons[metric]:
            resampled[metric] = detection.ranked(fitted.applied(metric, scores), drawn, (base,))[base]
            notes[metric] = fitted.note_of(metric)
    return {
        metric: Number(reason=reason)
        if reason
        else Number(
            resampled=resampled[metric],
            n_clusters=num_clusters(metric, clusters, labels),
            note=notes.get(metric, ""),
        )
        for metric, reason in reasons.items()
    }


def aucs_by_manipulation(scores: pa.Table, population: Population) -> dict[str, Number]:
    """Return the AUC of each manipulation's fakes against all real videos; nothing where there is but one.

    scores: a row for each video, in alphabetical order, with `method`.
    """
    methods = sorted(scores.filter(pc.equal(scores["label"], tables.FAKE))["method"].unique().to_pylist())
    if len(methods) < 2:
        return {}
    return {method: number("auc", detection.of_method(scores, method), population) for method in methods}


def macro(by_manipulation: Mapping[str, Number]) -> dict[str, Number]:
    """Return the mean of the AUCs of manipulations, as metric `MACRO`; nothing where there are none."""
    return {MACRO: mean(list(by_manipulation.values()))} if by_manipulation else {}


def number(metric: str, table: pa.Table, population: Population) -> Number:
    """Return one metric, not of `FITTED`, of rows as `scores_at` or, for masks, `detection.with_masks` return them."""
    if metric in LOCALIZING:
        faces = detection.counting(metric, table)
        if not faces.num_rows:
            return Number(reason=NO_MASKS)
        clusters, labels = detection.clusters(faces, population)
        masked = detection.masked(metric, faces, clusters.weights())
        return Number(resampled=masked, n_clusters=clusters.number(labels))
    if metric == MACRO:
        return macro(aucs_by_manipulation(table, population)).get(
            MACRO, Number(reason="there is one manipulation only")
        )
    if reason := detection.undefined(metric, table["label"]):
        return Number(reason=reason)
    clusters, labels = detection.clusters(table, population)
    resampled = detection.ranked(table, clusters.weights(), (metric,))[metric]
    return Number(resampled=resampled, n_clusters=num_clusters(metric, clusters, labels))


def num_clusters(metric: str, clusters: Clusters, labels: NDArray[np.int64]) -> int:
    """Return how many clusters the interval of a metric of `DETECTING` or `FITTED` can rely on, at least 1.

    At a false positive rate no more than the real videos that may lie above the threshold: it rests on these alone.
    labels (V,): of the videos.
    """
    if metric not in TPR_AT:
        return clusters.number(labels)
    above = math.floor(TPR_AT[metric] * np.count_nonzero(labels == tables.REAL) + 1e-9)
    return max(1, min(above, clusters.number(labels)))


def scores_at(level: str, origin: Origin, part: ScoredPart, predictions: pa.Table) -> pa.Table:
    """Return what numbers at a level rank: `video_id`, `label`, `logit`, `score`, `method` of each face or video.

    A frame in which every face counts is one face. Failed videos are in it at level `video`, with score 0.5, where the
    trial's rule is to count them.
    """
    if level == "frame":
        faces = detection.highest_faces(predictions, part.every_face)
        return _with_method(detection.with_score(faces.select(["video_id", "label", "logit"])), part, predictions)
    table = predictions.select(detection.SCORES)
    if origin.failed_rule == "half":
        halves = [
            {"video_id": video.video_id, "frame_index": 0, "label": video.label, "logit": 0.0, "face_area_px": 0}
            for video in part.failed
        ]
        table = pa.concat_tables([table, pa.Table.from_pylist(halves, schema=table.schema)])
    return _with_method(detection.by_video(table, origin.pooling, part.every_face), part, predictions)


def _with_method(scores: pa.Table, part: ScoredPart, predictions: pa.Table) -> pa.Table:
    """Return the scores with a column `method`: real, or the manipulation."""
    pairs = predictions.group_by(["video_id", "method"]).aggregate([])
    failed = pa.table({name: [getattr(v, name) for v in part.failed] for name in pairs.schema.names}, pairs.schema)
    known = pa.concat_tables([pairs, failed]).combine_chunks()
    return scores.append_column("method", known["method"].take(pc.index_in(scores["video_id"], known["video_id"])))


def to_rows(origin: Origin, measurement: Measurement, commit: str) -> list[dict[str, Any]]:
    """Return a row of RESULTS for each number, with its 95 % interval."""
    common = {
        "run_id": origin.run_id,
        "model": origin.model,
        "stage": measurement.stage,
        "perturbation": measurement.perturbation,
        "train_on": origin.train_on,
        "failed_rule": origin.failed_rule,
        "seed": origin.seed,
        "commit": commit,
        **measurement.counted,
        **{name: len(video_ids) for name, video_ids in measurement.videos.items()},
    }
    rows = []
    for (level, metric), number in measurement.numbers.items():
        estimate = Estimate.of(number.resampled, number.n_clusters)
        low, high = estimate.interval()
        rows.append(
            common
            | {"level": level, "metric": metric, "value": estimate.value, "low": low, "high": high}
            | {"reason": number.reason, "n_clusters": number.n_clusters}
            | {"note": "; ".join(filter(None, (number.note, estimate.note)))}
        )
    return rows


def means(origin: Origin, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the means of a trial.

    They are the mean over the levels of each perturbation that has all of them, and after that, of clean and perturbed
    faces alike, the mean over the datasets not trained on, if these are several. A dataset of which several parts are
    scored counts once, with the mean over its parts.
    """
    at = {(m.part, m.stage, m.perturbation): m for m in measurements}
    over_levels = []
    for part, stage in dict.fromkeys((m.part, m.stage) for m in measurements):
        for family, levels in perturb.MEANS.items():
            if all((part, stage, level) in at for level in levels):
                of_levels = [at[part, stage, level] for level in levels]
                first = of_levels[0]
                over_levels.append(
                    Measurement(
                        stage=stage,
                        perturbation=family,
                        dataset=first.dataset,
                        counted=first.counted,
                        videos=first.videos,
                        numbers=_mean([m.numbers for m in of_levels]),
                    )
                )
    unseen: dict[tuple[str, str], list[Measurement]] = {}
    for m in (*measurements, *over_levels):
        if origin.train_on and m.dataset != origin.train_on:
            unseen.setdefault((m.stage, m.perturbation), []).append(m)
    return over_levels + [
        _over_datasets(several) for several in unseen.values() if len({m.dataset for m in several}) > 1
    ]


def _over_datasets(several: Sequence[Measurement]) -> Measurement:
    by_dataset: dict[str, list[Mapping[LevelMetric, Number]]] = {}
    for m in several:
        by_dataset.setdefault(m.dataset, []).append(m.numbers)
    first = several[0]
    counted = dict(first.counted) | {"test_dataset": UNSEEN}
    for name in ("codec", "part_ids"):
        counted[name] = ", ".join(dict.fromkeys(str(m.counted[name]) for m in several))
    return Measurement(
        stage=first.stage,
        perturbation=first.perturbation,
        dataset=UNSEEN,
        counted=counted,
        videos={name: frozenset().union(*(m.videos[name] for m in several)) for name in first.videos},
        numbers=_mean([_mean(of_parts) for of_parts in by_dataset.values()]),
    )


def _mean(several: Sequence[Mapping[LevelMetric, Number]]) -> dict[LevelMetric, Number]:
    """Return the means of the numbers that all have."""
    return {
        key: mean([numbers[key] for numbers in several])
        for key in several[0]
        if all(key in numbers for numbers in several)
    }


def mean(numbers: Sequence[Number]) -> Number:
    """Return the mean of at least one number; it is not defined where one is not. The fewest clusters count."""
    if reason := next((number.reason for number in numbers if number.reason), ""):
        return Number(reason=reason)
    values, resamples = zip(*(number.resampled for number in numbers), strict=True)
    return Number(
        resampled=Resampled(float(np.mean(values)), np.mean(resamples, axis=0)),
        n_clusters=min(number.n_clusters for number in numbers),
        note="; ".join(dict.fromkeys(number.note for number in numbers if number.note)),
    )
