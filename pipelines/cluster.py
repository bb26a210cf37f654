"""Connecting to Ray: a quiet one of our own on this machine, or an existing cluster."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 512 * 2**20  # faces go through Parquet, not through the object store
TRIAL_BYTES = 2 * 2**30  # a trial's process and its scoring actor, small preset
ROOT = Path(__file__).resolve().parent.parent

# Read by Ray when it is imported, by its workers when they start.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints its configuration whatever the verbosity
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What the cluster has in all."""

    cpus: int
    gpus: int
    memory_bytes: int


def prepare_environment(address: str | None) -> None:
    """Settings that must stand before Ray is imported for the first time."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address is None:
        # Under `uv run`, Ray would build the environment anew for each worker.
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Without what native code writes to standard error; exceptions come through."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def connect(address: str | None, num_cpus: int | None = None, dashboard: bool = False) -> Iterator[Resources]:
    """Ray, initialised; shut down at the end. address None: a local one on this machine's CPUs and GPUs.

    dashboard: also its web server, on localhost; without it what a stopped trial's workers held is never free again.
    """
    import ray  # here, and in other places that a dry run passes: see `prepare_environment`

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        with _silent_stderr():  # Ray's C++ side announces the log level that `QUIET` asks for
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=dashboard,
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
    else:
        excluded = [".git", ".venv", "crossforge-storage"]
        ray.init(address=address, runtime_env={"working_dir": str(ROOT), "excludes": excluded}, **options)
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told by the report, once
    try:
        total = ray.cluster_resources()
        yield Resources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), int(total.get("memory", 0)))
    finally:
        ray.shutdown()
