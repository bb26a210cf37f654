"""PREDICTIONS of a part, and what is known of it besides -> RESULTS rows. No model, no Ray, no file.

A trial writes down what is known (`Origin` in trial.json), so that its RESULTS can be made again from its
PREDICTIONS alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from models import Pooling
from pipelines import metrics, schemas

Key = tuple[str, str]  # level, metric
UNDEFINED = metrics.Value(float("nan"), float("nan"), float("nan"))


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


def rows(origin: Origin, part: Part, stage: str, predictions: pa.Table, commit: str) -> list[dict[str, Any]]:
    """predictions: of this part, by this stage."""
    videos = predictions.group_by(["video_id", "label"]).aggregate([])["label"].to_pylist()
    common = {
        "run_id": origin.run_id,
        "model": origin.model,
        "stage": stage,
        "train_on": origin.train_on,
        "test_dataset": part.name,
        "part": part.split,
        "codec": part.codec,
        "n_real": videos.count(schemas.REAL),
        "n_fake": videos.count(schemas.FAKE),
        "n_missing": len(part.failed),
        "n_excluded": len(part.excluded),
        "failed_rule": origin.failed_rule,
        "seed": origin.seed,
        "commit": commit,
    }
    return [
        common | {"level": level, "metric": name, "value": value.value, "low": value.low, "high": value.high}
        for (level, name), value in _values(origin, part, predictions).items()
    ]


def _values(origin: Origin, part: Part, predictions: pa.Table) -> dict[Key, metrics.Value]:
    values = {("frame", name): value for name, value in metrics.localization(predictions).items()}
    for level in metrics.LEVELS:
        table = scores(origin, part, predictions, level)
        # Extraction may leave only one class: the counts in the row say so.
        both = len(table["label"].unique()) == 2
        found = metrics.detection(table, "frame") if both else {"auc": UNDEFINED}
        values |= {(level, name): value for name, value in found.items()}
    return values


def scores(origin: Origin, part: Part, predictions: pa.Table, level: str) -> pa.Table:
    """What a number at this level ranks: `video_id`, `label`, `score`, one row per face, or per video with the
    failed ones where they count."""
    table = metrics.highest_faces(predictions, part.every_face)
    if level == "frame":
        return table.select(["video_id", "label", "score"])
    if origin.failed_rule == "half":
        table = pa.concat_tables([table, _half(part.failed, table.schema)])
    return metrics.by_video(table, origin.pooling)


def _half(failed: tuple[Failed, ...], schema: pa.Schema) -> pa.Table:
    """The failed videos of a part, counted with score 0.5."""
    extra = [
        {"video_id": one.video_id, "frame_index": 0, "label": one.label, "score": 0.5, "face_area_px": 0}
        for one in failed
    ]
    return pa.Table.from_pylist(extra, schema=schema)
