"""One stage, trained: in this process, or by Ray Train on N workers with DDP. Same loop, same numbers.

Whatever dies, the same call continues from the newest checkpoint in the stage's folder.
"""

import logging
import uuid
from dataclasses import replace
from typing import Any

from pipelines.common import device, progress, storage
from pipelines.common.lease import LeaseLost
from pipelines.common.text import one_line
from pipelines.training.job import Job
from pipelines.training.learner import newest_checkpoint
from pipelines.training.loop import NonFiniteLoss, loop
from pipelines.training.workers import Alone, TrainWorker

log = logging.getLogger(__name__)

FINAL = (device.MissingGPU, NonFiniteLoss, LeaseLost)  # causes that end a training at once
MAX_FAILURES = 3  # restarts without a newer checkpoint in between; on spot instances nodes go every few hours, for days


def train_stage(job: Job) -> None:
    """Train the stage unless it is done. Blocks; on return the stage is finished.

    Who was stopped or cut off for so long that another process has taken over, waits for what that one makes of it.
    Raises NonFiniteLoss, or whatever ended the training.
    """
    while True:
        try:
            with job.planned.lock() as claim:
                if not job.planned.done:
                    _train(replace(job, claim=claim))
                return
        except LeaseLost as lost:
            log.warning("%s; waiting for what it makes of the stage", lost)


def _train(job: Job) -> None:
    progress.forget(job.planned.folder)
    storage.write_json(job.planned.folder / "spec.json", dict(job.planned.spec))
    if job.compute.num_workers == 0:
        loop(job, Alone())
    else:
        _fit(job)


def _fit(job: Job) -> None:
    """Start the workers, again as long as the training goes forward in between. Raises what ended it at last."""
    from ray.train import TrainingFailedError  # here: the loop itself runs without Ray

    job.sharing(job.view()).check()
    failures, newest = 0, newest_checkpoint(job)
    while True:
        try:
            _attempt(job)
            return
        except TrainingFailedError as error:
            causes = list(getattr(error, "worker_failures", {}).values())
            for cause in causes:
                if isinstance(cause, FINAL):  # started again, it would only meet it again
                    raise cause from None
            before, newest = newest, newest_checkpoint(job)
            failures = failures + 1 if newest == before else 1
            if failures > MAX_FAILURES:
                raise
            why = "; ".join(f"{type(cause).__name__}: {one_line(cause)}" for cause in causes or [error])
            log.warning("%s: started again: %s", job.planned.folder, why)


def _attempt(job: Job) -> None:
    """Run one group of workers until it has trained the stage or one of them is lost.

    Ray Train counts its own restarts over the whole training, so it may make none here. It never counts those for
    nodes whose loss was announced to Ray (`max_preemption_failures`), and makes them; most losses come unannounced.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    compute = job.compute
    gpu = compute.gpus_per_worker > 0
    scaling: dict[str, Any] = {
        "num_workers": (compute.min_workers, compute.num_workers) if compute.min_workers else compute.num_workers,
        "use_gpu": gpu,
        "resources_per_worker": {"CPU": compute.cpus_per_worker} | ({"GPU": compute.gpus_per_worker} if gpu else {}),
        "elastic_resize_monitor_interval_s": job.resize_seconds,
    }
    TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(**scaling),
        torch_config=TorchConfig(backend="gloo"),  # to find each other; `TrainWorker` then sees what it has
        run_config=ray.train.RunConfig(
            name=f"{job.planned.digest}-{uuid.uuid4().hex[:8]}",  # the stage's own checkpoints resume it, not Ray's
            storage_path=str(storage.on_this_machine(job.planned.folder / "ray")),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    ).fit()


def _worker(config: dict[str, Job]) -> None:
    world = TrainWorker(config["job"])
    if world.rank < world.size:
        loop(config["job"], world)
