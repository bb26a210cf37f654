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

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import skimage.data
from _faults import Bucket
from xdist.scheduler import LoadFileScheduling

SHARED = pytest.StashKey[Path]()  # folder in which the processes say which files use the session's Ray


# ------------------------------------------------------------------------------------------- which tests, and where
def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the nightly tests alone, as `-m nightly` does")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("nightly"):
        asked = config.option.markexpr
        config.option.markexpr = f"nightly and ({asked})" if asked else "nightly"
    if hasattr(config, "workerinput"):
        config.stash[SHARED] = Path(config.workerinput["shared_ray"])
    else:
        config.stash[SHARED] = Path(tempfile.mkdtemp(prefix="crossforge-tests-"))
        _own_cache(config.stash[SHARED] / "cache")


def _own_cache(folder: Path) -> None:
    """Keep what commands keep for the user, such as rates, out of the user's cache; other programs go on using it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    others = {"UV_CACHE_DIR": "uv", "MPLCONFIGDIR": "matplotlib", "HF_HOME": "huggingface", "TORCH_HOME": "torch"}
    for variable, name in others.items():
        os.environ.setdefault(variable, str(home / name))
    os.environ["XDG_CACHE_HOME"] = str(folder)


def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist where to say which of its tests use the session's Ray."""
    node.workerinput["shared_ray"] = str(node.config.stash[SHARED])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[SHARED], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses the session's Ray, leave out what is nightly unless it is asked for, put the longest first."""
    for item in items:
        if "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_ray")
            item.add_marker("ray")
    shared = {_file(item.nodeid) for item in items if item.get_closest_marker("shared_ray")}
    ray = {_file(item.nodeid) for item in items if item.get_closest_marker("ray")}
    (config.stash[SHARED] / f"{os.getpid()}").write_text("\n".join(sorted(shared)))
    if "nightly" not in config.option.markexpr:
        # A test by its name runs whatever it is.
        named = tuple(argument.rpartition("/")[2] for argument in config.args if "::" in argument)
        left_out = [
            item
            for item in items
            if item.get_closest_marker("nightly") and not item.nodeid.rpartition("/")[2].startswith(named or ("\0",))
        ]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    # So that no process is left alone with the longest files in the end.
    items.sort(key=lambda item: 0 if _file(item.nodeid) in shared else 1 if _file(item.nodeid) in ray else 2)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class SharedRayTogether(LoadFileScheduling):
    """All files that use the session's Ray in one process; the others file by file, also those with a Ray of their own.

    The processes that collect the tests know their markers and say so in a folder. (`xdist_group` has no effect with
    the pytest that is locked: xdist 3.8 changes the name of a test where pytest 9 no longer looks.)
    """

    @cached_property
    def _shared(self) -> frozenset[str]:
        said = sorted(self.config.stash[SHARED].iterdir())
        return frozenset(said[0].read_text().split("\n"))  # all processes collect the same

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if file in self._shared else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedRayTogether:
    return SharedRayTogether(config, log)


# ----------------------------------------------------------------------------------------------------------- fixtures
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


@pytest.fixture(scope="module")
def new_bucket() -> Iterator[Callable[[], Bucket]]:
    pytest.importorskip("moto.server")
    made: list[Bucket] = []

    def make() -> Bucket:
        made.append(Bucket(f"bucket-{len(made)}"))
        return made[-1]

    yield make
    for bucket in made:
        bucket.remove()


@pytest.fixture(scope="module")
def shared_bucket(new_bucket: Callable[[], Bucket]) -> Bucket:
    """One for the tests of a file: each has places of its own in it."""
    return new_bucket()


@pytest.fixture
def in_bucket(shared_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A place in a bucket, as storage: `in_bucket.path`, and its server `in_bucket.server`."""
    from pipelines.common import bucket_client, storage

    for name, value in {**shared_bucket.environment, "CROSSFORGE_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    bucket_client.store.cache_clear()
    shared_bucket.requests.clear()
    shared_bucket.written.clear()
    place = storage.path_of(f"s3://{shared_bucket.name}/runs of {uuid.uuid4().hex}/mine")
    yield SimpleNamespace(path=place, server=shared_bucket)
    shared_bucket.fault = lambda method, path: ""
    bucket_client.store.cache_clear()


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
