"""PREDICTIONS of a part, and what is known of it besides -> RESULTS rows. No model, no Ray, no file.

A mean over the levels of a perturbation, or over datasets, has the interval of the mean: levels share the resamples of
their videos, datasets are resampled apart.

A trial writes down what is known (`Origin` in trial.json), so that its RESULTS can be made again from its
PREDICTIONS alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models import Pooling
from pipelines.common import tables
from pipelines.faces import perturb
from pipelines.metrics import detection, names
from pipelines.metrics.names import UNSEEN

Key = tuple[str, str]  # level, metric
NO_NUMBER = (float("nan"), np.full(detection.NUM_RESAMPLES, np.nan))


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A video of a part that gave no usable face."""

    video_id: str
    label: int
    method: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A test part as RESULTS know it; the videos that were scored stand in PREDICTIONS."""

    name: str  # dataset, or dataset/manipulation
    dataset: str
    split: str
    codec: str
    failed: tuple[Failed, ...] = ()
    excluded: tuple[str, ...] = ()  # video_ids that share a source with training
    every_face: tuple[str, ...] = ()  # video_ids of those in which every face counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Of which trial the numbers are, and by which rules they are made."""

    run_id: str
    model: str
    train_on: str
    seed: int
    failed_rule: str
    pooling: Pooling
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "Origin":
        """Raises TypeError or KeyError for what `to_json` did not write."""
        parts = tuple(
            Part(
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
class Measured:
    """The numbers of one stage on one part, clean or under one perturbation."""

    stage: str
    perturbation: str
    dataset: str
    counted: Mapping[str, Any]  # columns of RESULTS: what was scored
    numbers: Mapping[Key, tuple[float, detection.Floats]]  # value, and in each resample of the videos

    @property
    def name(self) -> str:
        return str(self.counted["test_dataset"])


def every_row(
    origin: Origin, blocks: Iterable[tuple[Mapping[str, Any], pa.Table]], commit: str
) -> list[dict[str, Any]]:
    """RESULTS of a trial: its numbers, and the means of perturbed ones.

    blocks: `part` and `stage`, with the PREDICTIONS of the two, all clean or all under one perturbation.
    """
    found = [measured(origin, origin.part(block["part"]), block["stage"], table) for block, table in blocks]
    return [row for one in (*found, *means(origin, found)) for row in rows_of(origin, one, commit)]


def rows(origin: Origin, part: Part, stage: str, predictions: pa.Table, commit: str) -> list[dict[str, Any]]:
    """RESULTS of one block, without means."""
    return rows_of(origin, measured(origin, part, stage, predictions), commit)


def measured(origin: Origin, part: Part, stage: str, predictions: pa.Table) -> Measured:
    videos = predictions.group_by(["video_id", "label"]).aggregate([])["label"].to_pylist()
    (perturbation,) = predictions["perturbation"].unique().to_pylist()
    counted = {
        "test_dataset": part.name,
        "part": part.split,
        "codec": part.codec,
        "n_real": videos.count(tables.REAL),
        "n_fake": videos.count(tables.FAKE),
        "n_missing": len(part.failed),
        "n_excluded": len(part.excluded),
    }
    numbers = _numbers(origin, part, predictions)
    return Measured(stage=stage, perturbation=perturbation, dataset=part.dataset, counted=counted, numbers=numbers)


def rows_of(origin: Origin, one: Measured, commit: str) -> list[dict[str, Any]]:
    common = {
        "run_id": origin.run_id,
        "model": origin.model,
        "stage": one.stage,
        "perturbation": one.perturbation,
        "train_on": origin.train_on,
        "failed_rule": origin.failed_rule,
        "seed": origin.seed,
        "commit": commit,
        **one.counted,
    }
    found = []
    for (level, name), (value, resampled) in one.numbers.items():
        low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
        found.append(common | {"level": level, "metric": name, "value": value, "low": low, "high": high})
    return found


def _numbers(origin: Origin, part: Part, predictions: pa.Table) -> dict[Key, tuple[float, detection.Floats]]:
    numbers: dict[Key, tuple[float, detection.Floats]] = {}
    known = detection.with_masks(predictions)
    if known.num_rows:
        numbers |= {("frame", name): number for name, number in detection.masked(known, _drawn(known)).items()}
    for level in names.LEVELS:
        table = scores(origin, part, predictions, level)
        # Extraction may leave only one class: the counts in the row say so.
        both = len(table["label"].unique()) == 2
        found = detection.ranked(table, _drawn(table)) if both else {"auc": NO_NUMBER}
        numbers |= {(level, name): number for name, number in found.items()}
    return numbers


def _drawn(table: pa.Table) -> Any:
    """The same for the same videos, so that a perturbation's levels share it."""
    return detection.draws_of(table)


def means(origin: Origin, found: Sequence[Measured]) -> list[Measured]:
    """Of a trial with perturbations: over the levels of each that has all, then over the datasets not trained on."""
    if not any(one.perturbation for one in found):
        return []
    at = {(one.name, one.stage, one.perturbation): one for one in found}
    over_levels = [
        _mean([at[name, stage, level] for level in levels], perturbation=family)
        for name, stage in dict.fromkeys((one.name, one.stage) for one in found)
        for family, levels in perturb.MEANS.items()
        if all((name, stage, level) in at for level in levels)
    ]
    apart: dict[tuple[str, str], list[Measured]] = {}
    for one in (*found, *over_levels):
        if one.dataset != origin.train_on:
            apart.setdefault((one.stage, one.perturbation), []).append(one)
    return over_levels + [_over_datasets(several) for several in apart.values() if len(several) > 1]


def _mean(several: Sequence[Measured], perturbation: str) -> Measured:
    first = several[0]
    numbers = _mean_numbers([one.numbers for one in several], lambda resampled, _: resampled)
    return Measured(
        stage=first.stage, perturbation=perturbation, dataset=first.dataset, counted=first.counted, numbers=numbers
    )


def _over_datasets(several: Sequence[Measured]) -> Measured:
    first = several[0]
    counted = dict(first.counted) | {"test_dataset": UNSEEN}
    counted |= {name: sum(one.counted[name] for one in several) for name in counted if name.startswith("n_")}
    counted["codec"] = ", ".join(dict.fromkeys(str(one.counted["codec"]) for one in several))
    # Datasets with as many videos have the same draws: turned, else chance would move them together.
    numbers = _mean_numbers([one.numbers for one in several], lambda resampled, i: np.roll(resampled, i))
    return Measured(
        stage=first.stage, perturbation=first.perturbation, dataset=UNSEEN, counted=counted, numbers=numbers
    )


def _mean_numbers(
    several: Sequence[Mapping[Key, tuple[float, detection.Floats]]],
    turned: Callable[[detection.Floats, int], detection.Floats],
) -> dict[Key, tuple[float, detection.Floats]]:
    """Of the numbers that all have."""
    shared = [key for key in several[0] if all(key in numbers for numbers in several)]
    return {
        key: (
            float(np.mean([numbers[key][0] for numbers in several])),
            np.mean([turned(numbers[key][1], i) for i, numbers in enumerate(several)], axis=0),
        )
        for key in shared
    }


def scores(origin: Origin, part: Part, predictions: pa.Table, level: str) -> pa.Table:
    """What a number at this level ranks: `video_id`, `label`, `score`, one row per face, or per video with the
    failed ones where they count."""
    table = detection.highest_faces(predictions, part.every_face)
    if level == "frame":
        return table.select(["video_id", "label", "score"])
    if origin.failed_rule == "half":
        table = pa.concat_tables([table, _half(part.failed, table.schema)])
    return detection.by_video(table, origin.pooling)


def _half(failed: tuple[Failed, ...], schema: pa.Schema) -> pa.Table:
    """The failed videos of a part, counted with score 0.5."""
    extra = [
        {"video_id": one.video_id, "frame_index": 0, "label": one.label, "score": 0.5, "face_area_px": 0}
        for one in failed
    ]
    return pa.Table.from_pylist(extra, schema=schema)
