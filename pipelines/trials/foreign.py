"""Scores from elsewhere as a finished trial: the same folder and the same numbers, without a stage of ours.

In   parts of a protocol, PREDICTIONS of their videos by another's method, and why the others have none
Out  <storage>/runs/<digest>/  trial.json, predictions.parquet, results.parquet, _done.json, as of any trial
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from models import Pooling
from pipelines.common import tables
from pipelines.common.provenance import commit
from pipelines.common.storage import digest, write_json
from pipelines.experiments.protocol import Part
from pipelines.metrics import detection, results
from pipelines.metrics.names import FINAL
from pipelines.metrics.results import Origin
from pipelines.scoring.from_file import Meaning, Scores
from pipelines.scoring.trained import FOREIGN, TRIAL
from pipelines.training.views import Video
from pipelines.trials.run import write_numbers
from pipelines.trials.trial import UsablePart, scored_part, sources

SEED = 0  # scores from elsewhere have none that we know


@dataclass(frozen=True, kw_only=True)
class ForeignTrial:
    """What another's method says of the parts of a protocol."""

    name: str  # of the method
    source: Mapping[str, Any]  # where the scores come from, as JSON values
    train_on: str  # dataset; empty: not known
    failed_rule: str
    pooling: Pooling = detection.MEAN
    levels: tuple[str, ...]  # at which there are numbers
    is_sample: bool
    parts: tuple[UsablePart, ...]
    predictions: Mapping[str, pa.Table]  # part -> PREDICTIONS, stage `final`
    storage: Path

    @cached_property
    def digest(self) -> str:
        """Names all that can change the numbers, the name, and whether the videos are made up."""
        return digest(
            {
                "foreign": self.name,
                "is_sample": self.is_sample,
                "test": {part.name: part.deciding for part in self.parts},
                "failed": {part.name: part.failed for part in self.parts},
                "rules": [self.train_on, self.failed_rule, self.pooling, self.levels],
                "version": results.VERSION,
            }
        )

    @property
    def folder(self) -> Path:
        return self.storage / "runs" / self.digest

    @property
    def citations(self) -> list[str]:
        """Name, version and digest of the parts that are scored."""
        return [usable.part.citation for usable in self.parts]

    def origin(self) -> Origin:
        """Return what RESULTS need to know besides PREDICTIONS."""
        return Origin(
            run_id=self.digest,
            model=self.name,
            train_on=self.train_on,
            seed=SEED,
            failed_rule=self.failed_rule,
            pooling=self.pooling,
            parts=tuple(map(scored_part, self.parts)),
            levels=self.levels,
        )

    def write(self) -> None:
        """Write the run's folder, unless it is there."""
        if (self.folder / "_done.json").is_file():
            return
        about = {"name": self.name, "is_sample": self.is_sample, **self.source}
        write_json(
            self.folder / TRIAL,
            {FOREIGN: about, "parts": self.citations, "origin": self.origin().to_json(), "commit": commit()},
        )
        common = {"stage": FINAL, "perturbation": tables.UNPERTURBED}
        blocks = [({**common, "part": name}, table) for name, table in self.predictions.items()]
        scores = {part.name: part.digest for part in self.parts}
        write_numbers(self.folder, self.origin(), blocks, sources(self.parts), scores=scores)

    def results(self) -> pa.Table:
        """Return RESULTS of a run that is written."""
        return pq.read_table(self.folder / "results.parquet")


def usable(part: Part, predictions: pa.Table, reasons: Mapping[str, str], otherwise: str = "") -> UsablePart:
    """Return a part as it came out of another's method: videos in `predictions` are scored, the others failed.

    reasons: video_id -> why it has no score. otherwise: why one has none of which no reason is told.
    """
    contents: dict[str, Any] = {}
    columns = predictions.select(["video_id", "frame_index", "face_index", "logit"]).to_pydict().values()
    for video_id, *row in zip(*columns, strict=True):
        contents.setdefault(video_id, sha256()).update(repr(row).encode())
    scored = sorted((row for row in part.rows if row["video_id"] in contents), key=lambda row: str(row["video_id"]))
    return UsablePart(
        part=part,
        videos=tuple(map(Video.of, scored)),
        failed={i: reasons.get(i, otherwise) for i in part.video_ids if i not in contents},
        contents=tuple((str(row["video_id"]), contents[row["video_id"]].hexdigest()) for row in scored),
    )


def of_file(part: Part, scores: Scores, meaning: Meaning) -> pa.Table:
    """Return PREDICTIONS of the videos of a part that a file has: a row for each frame, or for each video."""
    told: dict[str, list[Any]] = {name: [] for name in ("video_id", "label", "method", "frame_index", "logit")}
    for video in part.rows:
        frames = sorted(scores.get(str(video["video_id"]), {}).items())
        for name in ("video_id", "label", "method"):
            told[name] += [video[name]] * len(frames)
        told["frame_index"] += [frame for frame, _ in frames]
        told["logit"] += [meaning.logit(value) for _, value in frames]
    number = len(told["logit"])
    same = {
        "stage": FINAL,
        "perturbation": tables.UNPERTURBED,
        "dataset": part.dataset,
        "face_index": 0,
        "num_repeated": 0,
        "face_area_px": 0.0,  # not known; no rule about sizes is asked of it
    }
    columns = {field.name: pa.nulls(number, field.type) for field in tables.PREDICTIONS}
    columns |= {name: pa.array(values, tables.PREDICTIONS.field(name).type) for name, values in told.items()}
    columns |= {
        name: pa.repeat(pa.scalar(value, tables.PREDICTIONS.field(name).type), number) for name, value in same.items()
    }
    columns["score"] = pa.array(expit(np.array(told["logit"])), tables.PREDICTIONS.field("score").type)
    return pa.table(columns, schema=tables.PREDICTIONS)
