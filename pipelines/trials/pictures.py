"""The pictures of a trial that is done: what its stages look at, by `scoring.explain`.

In   the trial's PREDICTIONS, its stages, FACES
Out  <storage>/runs/<digest>/features.parquet, evidence.parquet
"""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import cluster
from pipelines.common.tables import UNPERTURBED
from pipelines.metrics import detection, names
from pipelines.scoring import explain
from pipelines.scoring.explain import ShownPart
from pipelines.scoring.score import FinishedStage
from pipelines.training.job import Compute
from pipelines.trials.trial import Trial

log = logging.getLogger(__name__)


def write_missing(trial: Trial, compute: Compute) -> None:
    """Write both files of a trial that is done, unless they are there. What goes wrong is logged and costs no result.

    Where training has workers of its own, a task of Ray makes them, with as many GPUs as one worker has.
    """
    if trial.complete:
        return
    finished = [FinishedStage(planned=planned, config=trial.config) for planned in trial.planned]
    try:
        args = (trial.folder, finished, _shown_parts(trial), trial.faces, trial.experiment.seed)
        if compute.num_workers:
            import ray  # here: a trial without workers needs none

            where = None if compute.gpus_per_worker else cluster.selector(cluster.VIDEO)
            options: dict[str, Any] = {"num_gpus": compute.gpus_per_worker, "label_selector": where}
            task = ray.remote(num_cpus=1, **options)(explain.write)
            ray.get(task.remote(*args))
        else:
            explain.write(*args)
    except Exception:  # the results are there, and stay
        log.exception("%s: no pictures of what its stages look at", trial.folder)


def _shown_parts(trial: Trial) -> list[ShownPart]:
    """Return the test parts with their scores of clean faces, from the trial's own file."""
    path = trial.folder / "predictions.parquet"
    table = pq.read_table(path, columns=[name for name in pq.read_schema(path).names if not name.startswith("mask_")])
    table = table.filter(pc.equal(table["perturbation"], UNPERTURBED))
    parts = []
    for part in trial.test:
        ids = pa.array([video.video_id for video in part.videos], pa.string())
        of_part = table.filter(pc.is_in(table["video_id"], ids))
        stages = of_part["stage"].unique().to_pylist()
        predictions = {stage: of_part.filter(pc.equal(of_part["stage"], stage)) for stage in stages}
        videos = detection.by_video(predictions[names.FINAL], trial.pooling, part.every_face)
        scores = dict(zip(videos["video_id"].to_pylist(), videos["score"].to_pylist(), strict=True))
        parts.append(ShownPart(name=part.name, videos=part.videos, predictions=predictions, scores=scores))
    return parts
