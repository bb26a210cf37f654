"""The stages of a method as jobs, for benchmarks of their trainings: nothing that they need is trained first."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

import models
from pipelines.common.storage import make_folder, write_json
from pipelines.scoring import score
from pipelines.training.job import Job
from pipelines.training.stages import PlannedStage
from pipelines.training.views import Video


def jobs(
    planned: Sequence[PlannedStage],
    config: Any,
    train: tuple[Video, ...],
    select: tuple[Video, ...],
    faces: Mapping[str, Path],
) -> Iterator[Job]:
    """Yield the job of each stage of an experiment, in order.

    Earlier stages that it needs have random weights by then, and what it reads of one is derived with these.
    faces: FACES folder of each dataset.
    """
    by_name = {each.name: each for each in planned}
    for each in planned:
        stage, derived = models.stage(each.paper, each.name), None
        if source := stage.reads_of(config):
            derived = by_name[source].folder / "derived.parquet"
            finished = score.FinishedStage(planned=by_name[source], config=config)
            score.derive(finished, (*train, *select), faces, derived, num_actors=0)
        yield Job(
            planned=each,
            config=config,
            train=train,
            select=select,
            faces=faces,
            earlier={name: by_name[name] for name in each.needs},
            derived=derived,
        )
        if any(each.name in later.needs for later in planned):
            make_folder(each.folder)
            safetensors.torch.save_file(stage(config).state_dict(), each.folder / "weights.safetensors")
            write_json(each.folder / "_done.json", {"made_with": {}})
