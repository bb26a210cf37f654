"""One trial: an experiment's stages trained, every test part scored, RESULTS written. Where all pieces meet.

    <storage>/runs/<digest>/  trial.json, predictions.parquet, results.parquet, _done.json; then features.parquet,
                              evidence.parquet (`explain`), which no number depends on

A trial that is done is read, not run again; one that is not goes on where its stages are.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import models
from pipelines import evaluate, explain
from pipelines.common.provenance import commit
from pipelines.common.storage import digest, read_json, write_json
from pipelines.common.tables import FAKE, REAL, RESULTS, VERSION, clean, to_table
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics import detection, results
from pipelines.training import job, stages
from pipelines.training.sharing import Sharing
from pipelines.training.train import train_stage
from pipelines.training.views import REAL_VIEWS, VIEWS, Video, View

FINAL = detection.FINAL
TRIAL = "trial.json"  # what it takes to use the trained stages without the sweep that trained them


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


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What one trial may use."""

    num_workers: int = 0  # 0: training happens in the trial's own process
    min_workers: int | None = None  # fewer, with which a training goes on while there are no more
    gpus_per_worker: float = 0
    num_loaders: int = 1  # of each worker, at most
    scoring_actors: int = 1  # 0: it is also scored there
    gpus_per_actor: float = 0  # of those
    accumulate: Mapping[str, int] = field(
        default_factory=dict
    )  # `<paper>.<stage>` -> cuts of a worker's share of a step

    def cuts(self, planned: stages.PlannedStage) -> int:
        return self.accumulate.get(f"{planned.paper}.{planned.name}", 1)


def plan(
    experiment: Experiment,
    videos: Mapping[str, pa.Table],
    ledgers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    faces: Mapping[str, Path],
    storage: Path,
    accumulate: Mapping[str, int] = {},
) -> Trial:
    """The trial of an experiment on extracted data; touches nothing. `check` says whether it can run.

    ledgers: of each dataset, video_id -> LEDGER row. accumulate: as in `Compute`. Raises ProtocolError.
    """
    return Planner(videos, ledgers, faces, storage, accumulate)(experiment)


@dataclass(frozen=True)
class _Sides:
    """What experiments with the same protocol on the same data share: a million rows are looked at once for all."""

    train: Usable
    select: Usable
    test: tuple[Usable, ...]
    rows: Mapping[str, str]  # view -> digest of what it sees
    scored: Mapping[str, list[Any]]  # test part -> what decides its numbers


class Planner:
    """`plan` for many experiments on the same data. Their trials share its parts, in memory and pickled."""

    def __init__(
        self,
        videos: Mapping[str, pa.Table],
        ledgers: Mapping[str, Mapping[str, Mapping[str, Any]]],
        faces: Mapping[str, Path],
        storage: Path,
        accumulate: Mapping[str, int] = {},
    ) -> None:
        self.videos, self.ledgers, self.faces = videos, ledgers, faces
        self.storage, self.accumulate = storage, accumulate
        self._known: dict[tuple[Any, ...], _Sides] = {}

    def __call__(self, experiment: Experiment) -> Trial:
        sides = self._sides(experiment)
        planned = stages.plan(experiment, sides.rows, self.storage, self.accumulate)
        levels = perturb.levels(experiment.perturbations)
        name = digest(
            {
                "stages": {stage.name: stage.digest for stage in planned},
                "test": sides.scored,
                "failed_videos": experiment.failed_videos,
                # Where there are none, none are named: trials from before there were any keep their name.
                **({"perturbations": [perturb.VERSION, *levels]} if levels else {}),
            }
        )
        return Trial(
            experiment=experiment,
            planned=planned,
            train=sides.train,
            select=sides.select,
            test=sides.test,
            faces=self.faces,
            folder=self.storage / "runs" / name,
        )

    def _sides(self, e: Experiment) -> _Sides:
        key = (e.protocol, e.train_on, e.test_on, e.codec, e.manipulations)
        if key not in self._known:
            built = protocol.build(e, self.videos)
            train_part, select_part = (
                Usable.of(part, self.ledgers[part.dataset]) for part in (built.train, built.select)
            )
            test = tuple(Usable.of(part, self.ledgers[part.dataset]) for part in built.test)
            rows = {view: _rows_digest(view, train_part, select_part) for view in VIEWS}
            scored = {part.part.name: _scored(part) for part in test}
            self._known[key] = _Sides(train_part, select_part, test, rows, scored)
        return self._known[key]


def _scored(part: Usable) -> list[Any]:
    """What decides the numbers of a part besides its stages. Where no rule about faces is set, none is named."""
    every_face = sorted(part.part.every_face)
    return [part.digest, sorted(part.failed), sorted(part.part.excluded), *([every_face] if every_face else [])]


def _rows_digest(view: str, *parts: Usable) -> str:
    """What a view sees of training and selection; a view of real clips does not change with the fakes."""
    seen = []
    for part in parts:
        fake = {video.video_id for video in part.videos if video.label == FAKE}
        seen.append([entry for entry in part.contents if view not in REAL_VIEWS or entry[0] not in fake])
    return digest(seen)


def run(trial: Trial, compute: Compute, report: Callable[[str, int, int], None]) -> None:
    """Trains what is missing, scores what is missing, writes RESULTS. report(phase, done, total)."""
    if trial.done:
        explain.show(trial, compute)
        return
    write_json(trial.folder / TRIAL, description(trial))
    train_stages(trial, compute, report)
    config = trial.experiment.config()
    evaluate.score(
        [evaluate.Finished(planned=stage, config=config) for stage in scoring(trial)],
        {part.digest: part.videos for part in trial.test},
        trial.faces,
        num_actors=compute.scoring_actors,
        gpus_per_actor=compute.gpus_per_actor,
        on_video=lambda done, total: report("score", done, total),
        perturbations=trial.perturbations,
    )
    finish(trial)
    explain.show(trial, compute)


def train_stages(trial: Trial, compute: Compute, report: Callable[[str, int, int], None]) -> None:
    """Trains what is missing, and derives what later stages read."""
    config = trial.experiment.config()
    earlier: dict[str, stages.PlannedStage] = {}
    for planned in trial.planned:
        report(planned.name, 0, 1)
        train_stage(_job(trial, planned, config, earlier, compute))
        earlier[planned.name] = planned
        if any(_reads(trial, later) == planned.name for later in trial.planned):
            report(f"derive from {planned.name}", 0, 1)
            finished = evaluate.Finished(planned=planned, config=config)
            videos = (*trial.train.videos, *trial.select.videos)
            actors = compute.scoring_actors if compute.num_workers else 0
            with planned.lock():
                evaluate.derive(
                    finished,
                    videos,
                    trial.faces,
                    _derived(trial, planned),
                    num_actors=actors,
                    gpus_per_actor=compute.gpus_per_actor,
                )


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


def _job(
    trial: Trial,
    planned: stages.PlannedStage,
    config: Any,
    earlier: Mapping[str, stages.PlannedStage],
    compute: Compute,
) -> job.Job:
    source = _reads(trial, planned)
    return job.Job(
        planned=planned,
        config=config,
        train=trial.train.videos,
        select=trial.select.videos,
        faces=trial.faces,
        earlier={name: earlier[name] for name in planned.needs},
        derived=_derived(trial, earlier[source]) if source else None,
        num_workers=compute.num_workers,
        min_workers=compute.min_workers,
        gpus_per_worker=compute.gpus_per_worker,
        num_loaders=compute.num_loaders,
        accumulate=compute.cuts(planned),
    )


def _reads(trial: Trial, planned: stages.PlannedStage) -> str | None:
    return models.stage(planned.paper, planned.name).reads_of(trial.experiment.config())


def _derived(trial: Trial, source: stages.PlannedStage) -> Path:
    """Named by the videos it covers: a stage that saw real videos only is shared by trials with other fakes."""
    return source.folder / "derived" / f"{digest([trial.train.contents, trial.select.contents])}.parquet"


def check(trial: Trial, compute: Compute) -> None:
    """Raises ValueError for what would only come out later: too few videos, or a batch that workers can't share."""
    config = trial.experiment.config()
    for part in (trial.train, trial.select):
        labels = [video.label for video in part.videos]
        if len(set(labels)) < 2:
            raise ValueError(
                f"{part.part.name}/{part.part.split}: extraction left {labels.count(REAL)} real and "
                f"{labels.count(FAKE)} fake videos with a face; both classes are needed"
            )
    for part in trial.test:
        if not part.videos:
            example = next(iter(part.failed.items()), ("", "no videos"))
            raise ValueError(
                f"{part.part.name}/{part.part.split}: none of {len(part.failed)} videos has a usable face, "
                f"e.g. {': '.join(example)}; leave this dataset out, or give readable videos"
            )
    for planned in trial.planned:
        stage = models.stage(planned.paper, planned.name)
        view = View(stage.view, trial.train.videos, stage.feed(config), trial.experiment.seed)
        most = max(1, compute.num_workers)
        least = compute.min_workers or most
        Sharing(stage=stage, view=view, least=least, most=most, accumulate=compute.cuts(planned)).check()


def finish(trial: Trial) -> None:
    """PREDICTIONS of all stages and of their mean, and RESULTS, from the scores that are there."""
    known = origin(trial)
    tables, blocks = [], []
    for part, perturbation in product(trial.test, ("", *trial.perturbations)):
        by_stage = [evaluate.predictions(stage, part.digest, perturbation) for stage in scoring(trial)]
        for table in (*by_stage, detection.mean_of_stages(by_stage)):
            stage = str(table["stage"][0])
            tables.append(table)
            block = {"part": part.part.name, "stage": stage, "perturbation": perturbation, "rows": table.num_rows}
            blocks.append(block)
    rows = results.every_row(known, zip(blocks, tables, strict=True), commit())
    trial.folder.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("predictions", pa.concat_tables(tables)),
        ("results", to_table(rows, RESULTS)),
    ):
        temporary = trial.folder / f".{name}.{uuid.uuid4().hex}.tmp"
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(trial.folder / f"{name}.parquet")
    write_json(
        trial.folder / "_done.json",
        # predictions: whose rows follow each other in the file; a real video may stand in several parts
        {"schema": VERSION, "results": len(rows), "predictions": blocks, "commit": commit()},
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


def complete(trial: Trial) -> None:
    """Adds to a done trial from before what its RESULTS need besides PREDICTIONS; its numbers stay."""
    done = read_json(trial.folder / "_done.json")
    if "predictions" in done:
        return
    told = description(trial) | {"commit": done.get("commit", "unknown")}
    if (trial.folder / TRIAL).exists():
        told |= read_json(trial.folder / TRIAL)
    write_json(trial.folder / TRIAL, told)
    column = pq.read_table(trial.folder / "predictions.parquet", columns=["stage"])["stage"].to_pylist()
    runs = [(stage, len(list(rows))) for stage, rows in groupby(column)]
    each = len(runs) // len(trial.test)  # stages of a part, which stand part by part
    blocks = [
        {"part": trial.test[i // each].part.name, "stage": stage, "rows": rows} for i, (stage, rows) in enumerate(runs)
    ]
    write_json(trial.folder / "_done.json", done | {"predictions": blocks})


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
