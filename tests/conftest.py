"""One small Ray for the whole session. The variables must be set before anything imports ray or torch."""

import os

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",  # else Ray would rebuild the environment for each worker
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_DATA_USE_DATASOURCE_V2="0",  # V2 starts 32 processes to read one Parquet footer
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    OMP_NUM_THREADS="1",  # two processes run the tests
)

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import skimage.data
from xdist.scheduler import LoadFileScheduling


class RayTogether(LoadFileScheduling):
    """All files with Ray in one process, which share one Ray; the others by file. (`xdist_group` has no effect with
    the pytest that is locked: xdist 3.8 changes the name of a test where pytest 9 no longer looks.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if "mark.ray" in _text(file) else file


@cache
def _text(file: str) -> str:
    return (Path(__file__).parents[1] / file).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayTogether:
    return RayTogether(config, log)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Four logical CPUs whatever the machine has: actor pools and Train workers hold CPUs that other tasks need."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """write_video(path, frames, ...) writes RGB uint8 (H, W, 3) frames as a real video file."""

    def write(
        path: Path,
        frames: Sequence[np.ndarray],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        pts: Sequence[int] | None = None,  # in tenths of a second
        container: dict[str, str] | None = None,
        **options: str,
    ) -> Path:
        with av.open(str(path), "w", options=container or {}) as out:
            stream = out.add_stream(codec, rate=10, options=options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = stream.time_base = Fraction(1, 10)
            for number, rgb in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts = number if pts is None else pts[number]
                frame.time_base = Fraction(1, 10)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """RGB uint8 (256, 256, 3): a face about 90 pixels wide in the middle of the upper half."""
    return np.ascontiguousarray(skimage.data.astronaut()[:256, 100:356])
