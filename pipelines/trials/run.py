"""One trial, run: its stages are trained, its test parts scored, its RESULTS written. Here all pieces meet.

    <storage>/runs/<digest>/  times.json, trial.json, predictions.parquet (test parts), validation.parquet (likewise),
                              sources.parquet, results.parquet, _done.json; then the pictures
                              (`pictures`), on which no number depends

A trial that is done is not run again. One that is not goes on where its stages are.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import models
from pipelines.common import provenance
from pipelines.common.provenance import MadeWith, commit
from pipelines.common.storage import digest, write_json, write_parquet, writing
from pipelines.common.tables import RESULTS, UNPERTURBED, VERSION, to_table
from pipelines.metrics import detection, results
from pipelines.metrics.names import FINAL
from pipelines.metrics.results import Origin, Predictions
from pipelines.scoring import score
from pipelines.scoring.predictions import predictions_path, read_predictions, scored_with, with_masks
from pipelines.scoring.score import FinishedStage
from pipelines.scoring.trained import TRIAL
from pipelines.training.job import Compute, Job
from pipelines.training.stages import PlannedStage
from pipelines.training.train import train_stage
from pipelines.trials import pictures
from pipelines.trials.trial import Trial, UsablePart, sources

Report = Callable[[str, int, int], None]  # phase, done, total


# "predictions" or "validation" (a test part may have the name of the part that chooses), part, stage, perturbation
MasksOf = tuple[str, str, str, str]


def run_trial(trial: Trial, compute: Compute, report: Report) -> None:
    """Train and score what is missing, write RESULTS and the pictures. A trial that is done gets its pictures only.

    report: as in `make_numbers`.
    """
    make_numbers(trial, compute, report)
    pictures.write_missing(trial, compute)


def make_numbers(trial: Trial, compute: Compute, report: Report) -> None:
    """Train and score what is missing, and write RESULTS, unless the trial is done.

    report is called at the beginning of each phase and as it goes on: a stage's name, `derive from <stage>`, `score`.
    """
    if not trial.done:
        with trial.timed():
            _make(trial, compute, report)


def _make(trial: Trial, compute: Compute, report: Report) -> None:
    write_json(trial.folder / TRIAL, trial.record())
    train_stages(trial, compute, report)
    score.score_parts(
        [FinishedStage(planned=stage, config=trial.config) for stage in trial.scoring_stages],
        {part.digest: part.videos for part in (*trial.test, trial.select)},
        trial.faces,
        num_actors=compute.scoring_actors,
        gpus_per_actor=compute.gpus_per_actor,
        on_video=lambda done, total: report("score", done, total),
        perturbations=trial.perturbations,
        clean_only=[trial.select.digest],
    )
    write_results(trial)


def train_stages(trial: Trial, compute: Compute, report: Report) -> None:
    """Train the stages that are not trained yet, and derive what later stages read. report: as in `make_numbers`."""
    for planned in trial.planned:
        report(planned.name, 0, 1)
        train_stage(job_of(trial, planned, compute))
        if any(source_of(trial, later) == planned for later in trial.planned):
            report(f"derive from {planned.name}", 0, 1)
            with planned.lock():
                score.derive(
                    FinishedStage(planned=planned, config=trial.config),
                    (*trial.train.videos, *trial.select.videos),
                    trial.faces,
                    derived_path(trial, planned),
                    num_actors=compute.scoring_actors if compute.num_workers else 0,
                    gpus_per_actor=compute.gpus_per_actor,
                )


def job_of(trial: Trial, planned: PlannedStage, compute: Compute) -> Job:
    """Return what it takes to train one of the trial's stages."""
    by_name = {stage.name: stage for stage in trial.planned}
    source = source_of(trial, planned)
    train, select = trial.parts_of(planned.name)
    return Job(
        planned=planned,
        config=trial.config,
        train=train.videos,
        select=select.videos,
        every_face=select.every_face,
        faces=trial.faces,
        earlier={name: by_name[name] for name in planned.needs},
        derived=derived_path(trial, source) if source else None,
        compute=compute,
    )


def source_of(trial: Trial, planned: PlannedStage) -> PlannedStage | None:
    """Return the stage that derives what this one reads, if it reads anything."""
    name = models.stage(planned.paper, planned.name).reads_of(trial.config)
    return next((stage for stage in trial.planned if stage.name == name), None)


def derived_path(trial: Trial, source: PlannedStage) -> Path:
    """Return the file of what a stage derives for the trial, named by the videos that it covers.

    A stage that saw real videos only is shared by trials with other fakes: each has a file of its own.
    """
    return source.folder / "derived" / f"{digest([trial.train.contents, trial.select.contents])}.parquet"


def write_results(trial: Trial) -> None:
    """Write PREDICTIONS of all stages and of their mean, RESULTS, and the marker that the trial is done.

    All test parts must be scored.
    """

    masks: dict[MasksOf, Path] = {}

    def scored(part: UsablePart, perturbation: str, name: str = "predictions") -> list[Predictions]:
        by_stage = []
        for stage in trial.scoring_stages:
            by_stage.append(read_predictions(stage, part.digest, perturbation, masks=False))
            if by_stage[-1]["mask_png"].null_count < by_stage[-1].num_rows:
                path = predictions_path(stage, part.digest, perturbation)
                masks[name, part.name, stage.name, perturbation] = path
                masks.setdefault((name, part.name, FINAL, perturbation), path)  # as `mean_of_stages` takes them
        return [
            ({"part": part.name, "stage": str(table["stage"][0]), "perturbation": perturbation}, table)
            for table in (*by_stage, detection.mean_of_stages(by_stage))
        ]

    tested = [scored(*each) for each in product(trial.test, (UNPERTURBED, *trial.perturbations))]
    made_with = {stage.name: provenance.joined(_made_with(trial, stage)) for stage in trial.scoring_stages}
    write_numbers(
        trial.folder,
        trial.origin(),
        list(chain(*tested)),
        sources((*trial.test, trial.select)),
        validation=scored(trial.select, UNPERTURBED, "validation"),
        masks=masks,
        made_with=made_with,
    )


def _made_with(trial: Trial, stage: PlannedStage) -> list[MadeWith]:
    """Return on what a stage was trained, with those that it needs, and on what its parts were scored.

    Validation is one of these: thresholds and temperatures are fitted to its scores.
    """
    needed = [planned for planned in trial.planned if planned.name in stage.needs]
    scored = [*product(trial.test, (UNPERTURBED, *trial.perturbations)), (trial.select, UNPERTURBED)]
    return [
        *(planned.summary()["made_with"] for planned in (*needed, stage)),
        *(scored_with(stage, part.digest, perturbation) for part, perturbation in scored),
    ]


def write_numbers(
    folder: Path,
    origin: Origin,
    scored: Sequence[Predictions],
    sources: pa.Table,
    validation: Sequence[Predictions] = (),
    masks: Mapping[MasksOf, Path] = {},
    **told: Any,
) -> None:
    """Write PREDICTIONS, SOURCES, RESULTS, and the marker that a run is done, to its folder.

    scored, validation: part, stage and perturbation, with the PREDICTIONS of these. masks: the file in which the masks
    lie that are empty in these. told: what the marker says besides.
    """
    rows = results.every_row(origin, scored, commit(), sources, validation)
    blocks = {
        name: _write_predictions(folder / f"{name}.parquet", of_parts, masks)
        for name, of_parts in (("predictions", scored), ("validation", validation))
        if of_parts
    }
    write_parquet(folder / "sources.parquet", sources)
    write_parquet(folder / "results.parquet", to_table(rows, RESULTS))
    write_json(folder / "_done.json", {"schema": VERSION, "results": len(rows), **blocks, "commit": commit(), **told})


def _write_predictions(
    path: Path, scored: Sequence[Predictions], masks: Mapping[MasksOf, Path]
) -> list[dict[str, Any]]:
    """Write one file, and say whose rows follow each other in it: a real video may stand in several parts."""
    schema = scored[0][1].schema
    with writing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        held: list[pa.Table] = []
        for block, table in scored:
            of = masks.get((path.stem, block["part"], block["stage"], block["perturbation"]))
            for few in with_masks(table, of) if of and table["mask_png"].null_count < table.num_rows else [table]:
                held.append(few)
                if sum(each.nbytes for each in held) >= score.SLICE_BYTES:
                    writer.write_table(pa.concat_tables(held))
                    held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    return [{**block, "rows": table.num_rows} for block, table in scored]
