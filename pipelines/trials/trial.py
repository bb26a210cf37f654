"""A trial: one row of a sweep with one seed, planned on extracted data; its files, and what is known of it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import models
from pipelines.common.provenance import MadeWith, commit, joined
from pipelines.common.storage import digest, read_json, write_json
from pipelines.common.tables import FAKE, REAL, SOURCES
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics.results import Failed, Origin, ScoredPart
from pipelines.scoring import explain, trained
from pipelines.training import stages
from pipelines.training.views import Video

TIMES = "times.json"  # of a trial: when it `began` and `ended`, in ISO 8601


# Of a done run, its numbers and what they can be made of again. Scores from elsewhere have no validation.
KEPT = ("trial.json", "results.parquet", "predictions.parquet", "validation.parquet", "sources.parquet")


@dataclass(frozen=True, kw_only=True)
class UsablePart:
    """A part of the protocol as it came out of extraction: each of its videos is in `videos` or in `failed`."""

    part: protocol.Part
    videos: tuple[Video, ...]  # by video_id
    failed: Mapping[str, str]  # video_id -> reason
    contents: tuple[tuple[str, str], ...]  # video_id, SHA-256 of its FACES rows

    @classmethod
    def of(cls, part: protocol.Part, ledger: Mapping[str, Mapping[str, Any]], min_frames: int = 1) -> "UsablePart":
        """Return the part as a ledger (video_id -> LEDGER row) says it came out. min_frames: as in `Experiment`."""
        failed = {i: reason for i in part.video_ids if (reason := _failure(ledger[i], min_frames))}
        ok = [row for row in part.rows if row["video_id"] not in failed]
        # Training takes them in this order: it must not depend on that of a list or of a folder.
        ok.sort(key=lambda row: str(row["video_id"]))
        contents = tuple((str(row["video_id"]), str(ledger[str(row["video_id"])]["content"])) for row in ok)
        return cls(part=part, videos=tuple(Video.of(row) for row in ok), failed=failed, contents=contents)

    @property
    def digest(self) -> str:
        """Names the faces of the part: PREDICTIONS of equal digest are of the same faces."""
        return digest(self.contents)

    @property
    def deciding(self) -> list[Any]:
        """All that decides the numbers of the part besides its scores, also of videos that failed."""
        told = sorted((str(v["video_id"]), v["label"], str(v["method"]), *v["source_ids"]) for v in self.part.rows)
        return [self.digest, sorted(self.failed), sorted(self.excluded), sorted(self.every_face), digest(told)]

    @property
    def name(self) -> str:
        """The dataset, or dataset/manipulation."""
        return self.part.name

    @property
    def dataset(self) -> str:
        return self.part.dataset

    @property
    def split(self) -> str:
        return self.part.split

    @property
    def codec(self) -> str:
        return self.part.codec

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Of all its videos, also of those that failed."""
        return self.part.video_ids

    @property
    def excluded(self) -> tuple[str, ...]:
        """Ids of the videos that share a source with training and are not part of it."""
        return self.part.excluded

    @property
    def every_face(self) -> frozenset[str]:
        """Ids of the videos in which every face counts, not only the largest."""
        return self.part.every_face


def _failure(entry: Mapping[str, Any], min_frames: int) -> str:
    """Return why a video can't be used, of its LEDGER row; empty where it can."""
    if entry["status"] != "ok":
        return str(entry["reason"] or entry["status"])
    if min_frames > 1 and (num := min(entry["num_frames"], entry["num_faces"])) < min_frames:
        return f"a face in too few frames: {num}, at least {min_frames} are asked for (min_frames)"
    return ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of a sweep with one seed, planned."""

    experiment: Experiment
    planned: tuple[stages.PlannedStage, ...]  # in the paper's order
    train: UsablePart
    select: UsablePart  # chooses the epoch whose weights are kept
    test: tuple[UsablePart, ...]
    # Stage -> what it trains on and selects by instead: real videos in a compression of its own.
    own: Mapping[str, tuple[UsablePart, UsablePart]] = field(default_factory=dict)
    faces: Mapping[str, Path]  # dataset -> FACES folder
    folder: Path

    @property
    def digest(self) -> str:
        """Names the trial: all that can change its numbers."""
        return self.folder.name

    @property
    def done(self) -> bool:
        """Whether it is trained, scored and written down."""
        return (self.folder / "_done.json").is_file()

    @property
    def complete(self) -> bool:
        """Whether it is done and its pictures are made; one that was stopped right after its numbers lacks these."""
        return self.done and explain.made(self.folder)

    @cached_property
    def config(self) -> Any:
        """The paper's `Config`."""
        return self.experiment.config()

    @property
    def citations(self) -> list[str]:
        """Name, version and digest of the parts that train, select and are scored; see `Part.citation`."""
        of_stages = (part for pair in self.own.values() for part in pair)
        return list(dict.fromkeys(u.part.citation for u in (self.train, self.select, *of_stages, *self.test)))

    def parts_of(self, stage: str) -> tuple[UsablePart, UsablePart]:
        """Return what trains a stage, and what selects its checkpoint."""
        return self.own.get(stage, (self.train, self.select))

    @property
    def perturbations(self) -> tuple[str, ...]:
        """The single levels under which test parts are scored besides clean."""
        return perturb.levels(self.experiment.perturbations)

    @property
    def scoring_stages(self) -> list[stages.PlannedStage]:
        """The stages whose scores count; the trial's score is their mean."""
        return [stage for stage in self.planned if models.stage(stage.paper, stage.name).scores]

    @property
    def pooling(self) -> models.Pooling:
        """How the scores of faces become that of a video: the rule of the last stage that scores."""
        last = self.scoring_stages[-1]
        return models.stage(last.paper, last.name).pooling(self.config)

    def results(self) -> pa.Table:
        """Return RESULTS of a trial that is done."""
        return pq.read_table(self.folder / "results.parquet")

    @property
    def made_with(self) -> MadeWith:
        """On what it was trained and scored (`device.made_with`), over all stages; empty until it is done."""
        if not self.done:
            return {}
        records = read_json(self.folder / "_done.json")["made_with"]
        return joined(list(records.values()))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Write down when what is within begins and ends, well or not. What goes on after a kill began before it."""
        began = self.times.get("began", datetime.now(UTC))
        self._note_times(began=began)
        try:
            yield
        finally:
            self._note_times(began=began, ended=datetime.now(UTC))

    def _note_times(self, **times: datetime) -> None:
        write_json(self.folder / TIMES, {name: at.isoformat(timespec="milliseconds") for name, at in times.items()})

    @property
    def times(self) -> Mapping[str, datetime]:
        """When it `began` and `ended`, as far as either is known."""
        path = self.folder / TIMES
        return {name: datetime.fromisoformat(at) for name, at in read_json(path).items()} if path.is_file() else {}

    def validation_auc(self) -> float:
        """Return the AUC on the validation part: see `trained.validation_auc`."""
        return trained.validation_auc(self.scoring_stages)

    def origin(self) -> Origin:
        """Return what RESULTS need to know besides PREDICTIONS."""
        return Origin(
            run_id=self.digest,
            model=self.experiment.model,
            train_on=self.experiment.train_on,
            seed=self.experiment.seed,
            failed_rule=self.experiment.failed_videos,
            pooling=self.pooling,
            parts=tuple(scored_part(part) for part in self.test),
            validation=scored_part(self.select),
        )

    def record(self) -> dict[str, Any]:
        """Return what `trial.json` holds: the experiment, its stages, and which faces they are trained on."""
        recipe = self.faces[self.train.dataset] / "recipe.json"
        labels = [video.label for video in self.train.videos]
        return {
            "experiment": asdict(self.experiment),
            "stages": {stage.name: stage.digest for stage in self.planned},
            "faces": {"folder": recipe.parent.name, **(read_json(recipe) if recipe.exists() else {})},
            "num_real": labels.count(REAL),
            "num_fake": labels.count(FAKE),
            "parts": self.citations,
            "origin": self.origin().to_json(),
            "commit": commit(),
        }


def kept(folder: Path) -> list[Path]:
    """Return those files of a done run's folder that `KEPT` names."""
    return [path for name in KEPT if (path := folder / name).exists()]


def scored_part(usable: UsablePart) -> ScoredPart:
    """Return what RESULTS need to know of a part besides the PREDICTIONS of its videos."""
    failed = tuple(
        Failed(
            video_id=str(row["video_id"]),
            label=row["label"],
            method=str(row["method"]),
            reason=usable.failed[str(row["video_id"])],
        )
        for row in usable.part.rows
        if row["video_id"] in usable.failed
    )
    return ScoredPart(
        name=usable.name,
        dataset=usable.dataset,
        split=usable.split,
        codec=usable.codec,
        failed=failed,
        excluded=usable.excluded,
        every_face=tuple(sorted(usable.every_face)),
        version=protocol.VERSION,
        ids_digest=usable.part.ids_digest,
    )


def sources(parts: Iterable[UsablePart]) -> pa.Table:
    """Return SOURCES of the videos of parts, also of those that failed; a video in several parts is there once."""
    rows = {str(row["video_id"]): list(row["source_ids"]) for part in parts for row in part.part.rows}
    return pa.table([pa.array(rows, pa.string()), pa.array(rows.values(), SOURCES.field("source_ids").type)], SOURCES)


def pooling_text(trials: Iterable[Trial]) -> str:
    """Return how the scores of faces become that of a video, to complete "score of a video =" in a report."""
    trials = list(trials)
    rules = {trial.pooling for trial in trials}
    text = "as each method pools its faces" if len(rules) > 1 else f"pooled by {next(iter(rules), None)}"
    if rules == {models.Pooling()}:
        text = "mean over its faces"
    crowds = sorted({part.name for trial in trials for part in trial.test if part.every_face})
    return f"{text}; in {', '.join(crowds)}, of each frame only its highest face" if crowds else text
