"""One trial: an experiment's stages trained, every test part scored, RESULTS written. Where all pieces meet.

    <storage>/runs/<digest>/  trial.json, predictions.parquet, results.parquet, _done.json; then features.parquet,
                              evidence.parquet (`explain`), which no number depends on

A trial that is done is read, not run again; one that is not goes on where its stages are.
"""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import models
from pipelines.common import cluster
from pipelines.common.provenance import commit
from pipelines.common.storage import digest, write_json, write_parquet
from pipelines.common.tables import RESULTS, VERSION, to_table
from pipelines.metrics import detection, names, results
from pipelines.scoring import score
from pipelines.scoring.explain import Part, log, made, write
from pipelines.scoring.score import Finished
from pipelines.scoring.trained import TRIAL
from pipelines.training import job, stages
from pipelines.training.job import Compute
from pipelines.training.train import train_stage
from pipelines.trials.trial import Trial, description, origin, scoring


def run_trial(trial: Trial, compute: Compute, report: Callable[[str, int, int], None]) -> None:
    """Trains what is missing, scores what is missing, writes RESULTS. report(phase, done, total)."""
    if trial.done:
        show(trial, compute)
        return
    write_json(trial.folder / TRIAL, description(trial))
    train_stages(trial, compute, report)
    config = trial.experiment.config()
    score.score(
        [score.Finished(planned=stage, config=config) for stage in scoring(trial)],
        {part.digest: part.videos for part in trial.test},
        trial.faces,
        num_actors=compute.scoring_actors,
        gpus_per_actor=compute.gpus_per_actor,
        on_video=lambda done, total: report("score", done, total),
        perturbations=trial.perturbations,
    )
    finish(trial)
    show(trial, compute)


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
            finished = score.Finished(planned=planned, config=config)
            videos = (*trial.train.videos, *trial.select.videos)
            actors = compute.scoring_actors if compute.num_workers else 0
            with planned.lock():
                score.derive(
                    finished,
                    videos,
                    trial.faces,
                    _derived(trial, planned),
                    num_actors=actors,
                    gpus_per_actor=compute.gpus_per_actor,
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
        compute=compute,
    )


def _reads(trial: Trial, planned: stages.PlannedStage) -> str | None:
    return models.stage(planned.paper, planned.name).reads_of(trial.experiment.config())


def _derived(trial: Trial, source: stages.PlannedStage) -> Path:
    """Named by the videos it covers: a stage that saw real videos only is shared by trials with other fakes."""
    return source.folder / "derived" / f"{digest([trial.train.contents, trial.select.contents])}.parquet"


def finish(trial: Trial) -> None:
    """PREDICTIONS of all stages and of their mean, and RESULTS, from the scores that are there."""
    known = origin(trial)
    tables, blocks = [], []
    for part, perturbation in product(trial.test, ("", *trial.perturbations)):
        by_stage = [score.predictions(stage, part.digest, perturbation) for stage in scoring(trial)]
        for table in (*by_stage, detection.mean_of_stages(by_stage)):
            stage = str(table["stage"][0])
            tables.append(table)
            block = {"part": part.part.name, "stage": stage, "perturbation": perturbation, "rows": table.num_rows}
            blocks.append(block)
    rows = results.every_row(known, zip(blocks, tables, strict=True), commit())
    for name, table in (
        ("predictions", pa.concat_tables(tables)),
        ("results", to_table(rows, RESULTS)),
    ):
        write_parquet(trial.folder / f"{name}.parquet", table)
    write_json(
        trial.folder / "_done.json",
        # predictions: whose rows follow each other in the file; a real video may stand in several parts
        {"schema": VERSION, "results": len(rows), "predictions": blocks, "commit": commit()},
    )


def show(trial: Trial, compute: Compute) -> None:
    """Both files of a trial that is done, unless they are there. What goes wrong is logged and costs no result.

    Where training has workers of its own, a task of Ray's with as many GPUs as one of them does it.
    """
    if made(trial.folder):
        return
    config = trial.experiment.config()
    finished = [Finished(planned=planned, config=config) for planned in trial.planned]
    try:
        args = (trial.folder, finished, _parts(trial), trial.faces, trial.experiment.seed)
        if compute.num_workers:
            import ray  # here: a trial without workers needs none

            where = None if compute.gpus_per_worker else cluster.selector(cluster.VIDEO)
            options: dict[str, Any] = {"num_gpus": compute.gpus_per_worker, "label_selector": where}
            task = ray.remote(num_cpus=1, **options)(write)
            ray.get(task.remote(*args))
        else:
            write(*args)
    except Exception:  # noqa: BLE001  the results are there, and stay
        log.exception("%s: no pictures of what its stages look at", trial.folder)


def _parts(trial: Trial) -> list[Part]:
    """The test parts with their scores, from the trial's own file."""
    path = trial.folder / "predictions.parquet"
    table = pq.read_table(path, columns=[name for name in pq.read_schema(path).names if not name.startswith("mask_")])
    if "perturbation" in table.column_names:
        table = table.filter(pc.equal(table["perturbation"], ""))
    scoring = [s for planned in trial.planned if (s := models.stage(planned.paper, planned.name)).scores]
    parts = []
    for usable in trial.test:
        ids = pa.array([video.video_id for video in usable.videos], pa.string())
        own = table.filter(pc.is_in(table["video_id"], ids))
        predictions = {name: own.filter(pc.equal(own["stage"], name)) for name in own["stage"].unique().to_pylist()}
        highest = detection.highest_faces(predictions[names.FINAL], usable.part.every_face)
        videos = detection.by_video(highest, scoring[-1].pooling)
        scores = dict(zip(videos["video_id"].to_pylist(), videos["score"].to_pylist(), strict=True))
        parts.append(Part(name=usable.part.name, videos=usable.videos, predictions=predictions, scores=scores))
    return parts
