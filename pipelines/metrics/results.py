"""PREDICTIONS of a trial's test parts, and what is known of these besides, to rows of RESULTS.

A trial writes down what is known (`Origin` in trial.json), so that its RESULTS can be made again from its PREDICTIONS
alone.

The mean over the levels of a perturbation, or over datasets, has the interval of the mean: levels share the resamples
of their videos, datasets are resampled apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models import Pooling
from pipelines.common import tables
from pipelines.faces import perturb
from pipelines.metrics import detection
from pipelines.metrics.detection import Resampled
from pipelines.metrics.names import LEVELS, UNSEEN

LevelMetric = tuple[str, str]
VERSION = 1  # raise it when other rows come of the same PREDICTIONS: those of done trials are then made again
NOT_DEFINED: Resampled = (float("nan"), np.full(detection.NUM_RESAMPLES, np.nan))


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The trial that numbers come from, and the rules by which they are made."""

    run_id: str
    model: str
    train_on: str
    seed: int
    failed_rule: str  # "half": failed videos count with score 0.5 at level `video`
    pooling: Pooling
    parts: tuple[ScoredPart, ...]

    def part(self, name: str) -> ScoredPart:
        """Return the part of this name."""
        return next(part for part in self.parts if part.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return a value for JSON that `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "Origin":
        """Return what `to_json` was called on. Raises TypeError or KeyError for what it did not write."""
        parts = tuple(
            ScoredPart(
                **{
                    **part,
                    "failed": tuple(Failed(**failed) for failed in part["failed"]),
                    "excluded": tuple(part["excluded"]),
                    "every_face": tuple(part["every_face"]),
                }
            )
            for part in told["parts"]
        )
        return cls(**{**told, "pooling": Pooling(**told["pooling"]), "parts": parts})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The numbers of one stage on one part or a mean of parts, clean or under one perturbation or a mean of levels."""

    stage: str
    perturbation: str
    dataset: str
    counted: Mapping[str, Any]  # columns of RESULTS that say what was scored
    numbers: Mapping[LevelMetric, Resampled]

    @property
    def part(self) -> str:
        """The name of the part."""
        return str(self.counted["test_dataset"])


def every_row(
    origin: Origin, blocks: Iterable[tuple[Mapping[str, Any], pa.Table]], commit: str
) -> list[dict[str, Any]]:
    """Return the rows of RESULTS of a trial: numbers with the ends of their intervals, and their `means`.

    blocks: `part` and `stage`, with the PREDICTIONS of the two, all clean or all under one perturbation.
    """
    measurements = [_measure(origin, origin.part(block["part"]), block["stage"], table) for block, table in blocks]
    return [row for m in (*measurements, *means(origin, measurements)) for row in to_rows(origin, m, commit)]


def _measure(origin: Origin, part: ScoredPart, stage: str, predictions: pa.Table) -> Measurement:
    labels = predictions.group_by(["video_id", "label"]).aggregate([])["label"].to_pylist()
    (perturbation,) = predictions["perturbation"].unique().to_pylist()
    counted = {
        "test_dataset": part.name,
        "part": part.split,
        "part_version": part.version,
        "part_ids": part.ids_digest,
        "codec": part.codec,
        "n_real": labels.count(tables.REAL),
        "n_fake": labels.count(tables.FAKE),
        "n_padded": len(predictions.filter(pc.greater(predictions["num_repeated"], 0))["video_id"].unique()),
        "n_missing": len(part.failed),
        "n_excluded": len(part.excluded),
    }
    numbers: dict[LevelMetric, Resampled] = {}
    faces = detection.with_masks(predictions)
    if faces.num_rows:
        by_metric = detection.masked(faces, detection.draws_of(faces))
        numbers |= {("frame", metric): number for metric, number in by_metric.items()}
    for level in LEVELS:
        table = scores_at(level, origin, part, predictions)
        if len(table["label"].unique()) == 2:
            by_metric = detection.ranked(table, detection.draws_of(table))
        else:  # extraction may leave only one class: the counts in the row say so
            by_metric = {"auc": NOT_DEFINED}
        numbers |= {(level, metric): number for metric, number in by_metric.items()}
    return Measurement(stage=stage, perturbation=perturbation, dataset=part.dataset, counted=counted, numbers=numbers)


def scores_at(level: str, origin: Origin, part: ScoredPart, predictions: pa.Table) -> pa.Table:
    """Return what numbers at a level rank, `video_id`, `label`, `logit`, `score`: of each face (`frame`), or video.

    A frame in which every face counts is one face. Failed videos are in it at level `video`, with score 0.5, where the
    trial's rule is to count them.
    """
    if level == "frame":
        faces = detection.highest_faces(predictions, part.every_face)
        return detection.with_score(faces.select(["video_id", "label", "logit"]))
    table = predictions.select(detection.SCORES)
    if origin.failed_rule == "half":
        halves = [
            {"video_id": video.video_id, "frame_index": 0, "label": video.label, "logit": 0.0, "face_area_px": 0}
            for video in part.failed
        ]
        table = pa.concat_tables([table, pa.Table.from_pylist(halves, schema=table.schema)])
    return detection.by_video(table, origin.pooling, part.every_face)


def to_rows(origin: Origin, measurement: Measurement, commit: str) -> list[dict[str, Any]]:
    """Return a row of RESULTS for each number, with its 95 % percentile interval."""
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
    }
    rows = []
    for (level, metric), (value, resampled) in measurement.numbers.items():
        low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
        reason = f"{common['n_real']} real and {common['n_fake']} fake videos with a face" if math.isnan(value) else ""
        number = {"value": value, "low": low, "high": high, "reason": reason}
        number["n_clusters"] = min(common["n_real"], common["n_fake"])
        rows.append(common | {"level": level, "metric": metric, **number})
    return rows


def means(origin: Origin, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the means of a trial.

    They are the mean over the levels of each perturbation that has all of them, and after that, of clean and perturbed
    faces alike, the mean over the datasets not trained on, if these are several.
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
                        numbers=_mean([m.numbers for m in of_levels], apart=False),
                    )
                )
    unseen: dict[tuple[str, str], list[Measurement]] = {}
    for m in (*measurements, *over_levels):
        if m.dataset != origin.train_on:
            unseen.setdefault((m.stage, m.perturbation), []).append(m)
    return over_levels + [_over_datasets(several) for several in unseen.values() if len(several) > 1]


def _over_datasets(several: Sequence[Measurement]) -> Measurement:
    first = several[0]
    counted = dict(first.counted) | {"test_dataset": UNSEEN}
    counted |= {name: sum(m.counted[name] for m in several) for name in counted if name.startswith("n_")}
    for name in ("codec", "part_ids"):
        counted[name] = ", ".join(dict.fromkeys(str(m.counted[name]) for m in several))
    return Measurement(
        stage=first.stage,
        perturbation=first.perturbation,
        dataset=UNSEEN,
        counted=counted,
        numbers=_mean([m.numbers for m in several], apart=True),
    )


def _mean(several: Sequence[Mapping[LevelMetric, Resampled]], *, apart: bool) -> dict[LevelMetric, Resampled]:
    """Return the means of the numbers that all have. apart: their videos are resampled independently."""
    mean = {}
    for key in several[0]:
        if all(key in numbers for numbers in several):
            values, resamples = zip(*(numbers[key] for numbers in several), strict=True)
            if apart:  # datasets with as many videos have the same draws: turned, else chance would move them together
                resamples = tuple(np.roll(resampled, i) for i, resampled in enumerate(resamples))
            mean[key] = (float(np.mean(values)), np.mean(resamples, axis=0))
    return mean
