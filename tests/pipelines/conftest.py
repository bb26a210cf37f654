"""A tiny corpus with its faces, made once for all tests that need real ones; an MLflow server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import requests

from pipelines import datasets
from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import Experiment
from pipelines.faces import store
from pipelines.faces.recipe import Recipe

# Delocate, so small that a stage trains in a second.
TINY = Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df", "dfdc"), preset="small").override(
    {
        "model.video_frames": 4,
        "model.clip.input_px": 64,
        "model.clip.patch_px": 8,
        "model.clip.num_frames": 4,
        "model.vit.width": 32,
        "model.vit.depth": 1,
        "model.vit.num_heads": 2,
        "model.recover.num_epochs": 2,
        "model.recover.warmup_epochs": 0,
        "model.recover.batch_size": 2,
        "model.finetune.num_epochs": 1,
        "model.finetune.warmup_epochs": 0,
        "model.localize.map_widths": [32, 16],
        "model.localize.decoder_widths": [64, 48, 32, 16, 8],
        "model.localize.first_order": False,
        "model.localize.optimizer": "sgd",
        "model.localize.lr": 0.006,
        "model.localize.num_epochs": 1,
        "model.localize.steps_per_epoch": 2,
    }
)


@dataclass(frozen=True)
class Extracted:
    experiment: Experiment
    roots: Mapping[str, str]
    videos: Mapping[str, pa.Table]
    faces: Mapping[str, Path]
    ledgers: Mapping[str, Mapping[str, Mapping[str, object]]]


SERVER_START_S = 240  # some 10 s on an idle machine


class Server:
    """A real MLflow server in a process of its own, with its database in a folder, its artifacts there or elsewhere.

    A test can take it away for a while. environment: what only the server knows.
    """

    def __init__(self, folder: Path, artifacts: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.artifacts = artifacts or str(folder / "artifacts")
        self.environment = environment or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        told = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        where = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--host", "127.0.0.1"]
        where += ["--artifacts-destination", self.artifacts, "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, "--workers", "1"],
                env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
                | told
                | self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + SERVER_START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """With its workers, at once."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def new_mlflow_server() -> type[Server]:
    return Server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def tiny_experiment() -> Experiment:
    return TINY


@pytest.fixture(scope="session")
def tiny_roots(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return corpus.make(
        tmp_path_factory.mktemp("corpus"), size="tiny", names=("ffpp", "celeb_df", "deeper_forensics", "dfdc")
    )


@pytest.fixture(scope="session")
def tiny(tiny_roots: Mapping[str, str], ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """The faces of everything that `TINY` needs."""
    from pipelines.faces.extract import extract

    folder = tmp_path_factory.mktemp("faces")
    videos = {name: datasets.load(name, tiny_roots) for name in ("ffpp", "celeb_df", "dfdc")}
    faces = {name: folder / name for name in videos}
    for name, table in videos.items():
        kept = [row for row in table.to_pylist() if row["codec"] in ("c23", "unknown")]
        extract(
            pa.Table.from_pylist(kept, table.schema),
            tiny_roots,
            faces[name],
            Recipe(num_frames=4, size_px=64),
            actors=2,
        )
    ledgers = {name: store.ledger(path) for name, path in faces.items()}
    return Extracted(TINY, tiny_roots, videos, faces, ledgers)
