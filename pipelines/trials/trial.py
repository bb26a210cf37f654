"""A trial: one row of a sweep with one seed, planned on extracted data, and where its files are."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import models
from pipelines.common.provenance import commit
from pipelines.common.storage import digest, read_json
from pipelines.common.tables import FAKE, REAL, RESULTS, clean
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics import results
from pipelines.training import stages
from pipelines.training.views import Video


@dataclass(frozen=True, kw_only=True)
class Usable:
    """A part as it came out of extraction: every video is in `videos` or in `failed`."""

    part: protocol.Part
    videos: tuple[Video, ...]
    failed: Mapping[str, str]  # video_id -> reason
    contents: tuple[tuple[str, str], ...]  # video_id, SHA-256 of its FACES rows

    @classmethod
    def of(cls, part: protocol.Part, ledger: Mapping[str, Mapping[str, Any]]) -> "Usable":
        ok = [row for row in part.rows if ledger[str(row["video_id"])]["status"] == "ok"]
        failed = {
            i: entry["reason"] or entry["status"] for i in part.video_ids if (entry := ledger[i])["status"] != "ok"
        }
        contents = tuple(sorted((str(row["video_id"]), str(ledger[str(row["video_id"])]["content"])) for row in ok))
        return cls(part=part, videos=tuple(Video.of(row) for row in ok), failed=failed, contents=contents)

    @property
    def digest(self) -> str:
        return digest(self.contents)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of a sweep with one seed, planned."""

    experiment: Experiment
    planned: tuple[stages.PlannedStage, ...]
    train: Usable
    select: Usable
    test: tuple[Usable, ...]
    faces: Mapping[str, Path]
    folder: Path

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        return (self.folder / "_done.json").exists()

    def results(self) -> pa.Table:
        return clean(pq.read_table(self.folder / "results.parquet"), RESULTS)

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Single levels."""
        return perturb.levels(self.experiment.perturbations)


def description(trial: Trial) -> dict[str, Any]:
    """The experiment, its stages, and which faces they were trained on, as JSON values."""
    recipe = trial.faces[trial.train.part.dataset] / "recipe.json"
    labels = [video.label for video in trial.train.videos]
    return {
        "experiment": asdict(trial.experiment),
        "stages": {stage.name: stage.digest for stage in trial.planned},
        "faces": {"folder": recipe.parent.name, **(read_json(recipe) if recipe.exists() else {})},
        "num_real": labels.count(REAL),
        "num_fake": labels.count(FAKE),
        "origin": origin(trial).to_json(),
        "commit": commit(),
    }


def origin(trial: Trial) -> results.Origin:
    """What RESULTS need to know besides PREDICTIONS."""
    return results.Origin(
        run_id=trial.digest,
        model=trial.experiment.model,
        train_on=trial.experiment.train_on,
        seed=trial.experiment.seed,
        failed_rule=trial.experiment.failed_videos,
        pooling=pooling_of(trial),
        parts=tuple(_part(part) for part in trial.test),
    )


def _part(usable: Usable) -> results.Part:
    part, failed = usable.part, usable.failed
    return results.Part(
        name=part.name,
        dataset=part.dataset,
        split=part.split,
        codec=part.codec,
        failed=tuple(
            results.Failed(
                video_id=str(row["video_id"]),
                label=row["label"],
                method=str(row["method"]),
                reason=failed[str(row["video_id"])],
            )
            for row in part.rows
            if row["video_id"] in failed
        ),
        excluded=part.excluded,
        every_face=tuple(sorted(part.every_face)),
    )


def scoring(trial: Trial) -> list[stages.PlannedStage]:
    """The stages whose scores count."""
    return [stage for stage in trial.planned if models.stage(stage.paper, stage.name).scores]


def validation_auc(trial: Trial) -> float:
    """On the val part of the training dataset, of the kept epochs: the mean over the stages that score.

    It stands for the trial where one is chosen among several; the AUC of the mean score would need another scoring.
    """
    found = []
    for stage in scoring(trial):
        kept = stage.summary()["best_epoch"]
        found += [line["val/auc"] for line in stage.curve() if line["epoch"] == kept]
    return sum(found) / len(found)


def pooling_of(trial: Trial) -> models.Pooling:
    """Of the last stage that scores; a mean over stages is one of scores that were made for it."""
    last = scoring(trial)[-1]
    return models.stage(last.paper, last.name).pooling


def pooling_text(trials: Iterable[Trial]) -> str:
    """How the scores of faces became that of a video: completes "score of a video =" in a report."""
    trials = list(trials)
    rules = {pooling_of(trial) for trial in trials}
    text = "as each method pools its faces" if len(rules) > 1 else f"pooled by {next(iter(rules), None)}"
    if rules == {models.Pooling()}:
        text = "mean over its faces"
    crowds = sorted({part.part.name for trial in trials for part in trial.test if part.part.every_face})
    return f"{text}; in {', '.join(crowds)}, of each frame only its highest face" if crowds else text
