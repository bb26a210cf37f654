"""A sweep on a cluster that loses machines: Ray's own commands start the nodes, and kill -9 takes all of one at once.

All nodes are processes of this machine, their GPUs are numbers (`CROSSFORGE_FAKE_GPUS`), the rest is as on a real
cluster: token, roles, what the autoscaler may start, a folder that all share, or a bucket and a cache for each node.
The same sweep on a laptop's Ray is what the results are compared with.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from _faults import FAULTS
from mlflow.tracking import MlflowClient

from pipelines.common import cluster
from pipelines.common.storage import read_json
from pipelines.experiments.experiment import Experiment
from pipelines.reporting.saved import differing

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly]

PATIENCE_S = 240
TRIES = 4
STARTED = "Ray runtime started"
STORE_BYTES = 80 * 2**20
COMMIT = "0123456789ab"  # of the job
OF_NODES = {"RAY_AUTH_MODE": "token", "RAY_health_check_period_ms": "500"}  # a dead one is missed in 3 s, not in 15
CPUS = {cluster.HEAD: 0, cluster.VIDEO: 2, cluster.TRAIN: 1}
GPUS = {cluster.HEAD: 0, cluster.VIDEO: 0, cluster.TRAIN: 1}
# What `ray up` leaves on the head: a node more of each kind may start.
GROWTH = {
    "head_node_type": "head",
    "available_node_types": {
        role: {
            "resources": {"CPU": CPUS[role], "GPU": GPUS[role], "memory": 8 * 2**30},
            "max_workers": 1,
            "labels": {cluster.ROLE: role},
        }
        for role in CPUS
    },
}

SCRIPT = '''"""Sweep of a test."""
from pipelines.experiments.experiment import Experiment
from pipelines.sweep import Row, Sweep, main

SWEEP = Sweep(
    name="losses",
    title="Table 0: rates",
    base=Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df",), preset="small").override({base}),
    row_name="rate",
    headings=("celeb_df",),
    rows=tuple(Row(label, settings, "50.0") for label, settings in {rows}.items()),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
'''
# Long enough for something to happen in each of its stages.
CHANGES = {
    "model.stages": ["recover", "finetune"],
    "model.recover.num_epochs": 20,
    "model.finetune.num_epochs": 12,
}
# The second trial shares `recover` with the first.
ROWS: dict[str, dict[str, Any]] = {
    "low": {"model.finetune.base_lr": 1e-4},
    "high": {"model.finetune.base_lr": 1e-3},
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Machine:
    """A node: `ray start --block`, and all that it starts. `cache`: what it keeps of a bucket's objects."""

    def __init__(self, role: str, arguments: list[str], env: Mapping[str, str], log: Path) -> None:
        self.log, self.cache = log, log.with_suffix(".cache")
        roles = ["--labels", f"{cluster.ROLE}={role}", "--num-cpus", str(CPUS[role]), "--num-gpus", str(GPUS[role])]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *roles, *arguments]
        command += ["--object-store-memory", str(STORE_BYTES), "--disable-usage-stats"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env={**env, "CROSSFORGE_CACHE": str(self.cache)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def started(self) -> bool:
        """Waits until the node is up, or has given up."""
        wait_for(lambda: self.process.poll() is not None or STARTED in self.log.read_text(), self.log.stem)
        return self.process.poll() is None

    @property
    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.process.pid or any(
                p.pid == self.process.pid for p in process.parents()
            )
        except (psutil.Error, OSError):
            return False

    def kill(self) -> None:
        """As when the power goes: every process of it, none of which hears of it before."""
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody is to clean up
            for process in self.processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
        self.process.wait()

    def works_on(self, name: str) -> bool:
        """Whether a process of this node has this in its title."""
        for process in self.processes:
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    return True
        return False


class Site:
    """Machines that share a folder or a bucket, and a person who starts a sweep there."""

    def __init__(self, folder: Path, experiment: Experiment, roots: Mapping[str, str]) -> None:
        self.folder = folder
        self.home = Path(tempfile.mkdtemp(prefix="cf-"))  # short: Ray puts sockets below it
        (self.home / ".ray").mkdir()
        (self.home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        (self.home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(GROWTH))
        told = ("RAY_", "MLFLOW_", "CROSSFORGE_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(told)}
        self.env |= {"HOME": str(self.home), "CROSSFORGE_FAKE_GPUS": "1", "PYTHONPATH": str(cluster.ROOT)}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.machines: list[Machine] = []
        toml = "".join(f'{name} = "{roots[name]}"\n' for name in ("ffpp", "celeb_df"))
        (folder / "datasets.toml").write_text(toml)
        base = {f"model.{name}": value for name, value in experiment.model_args.items()} | CHANGES
        (folder / "losses.py").write_text(SCRIPT.format(base=base, rows=ROWS))

    # ---------------------------------------------------------------------------------------- machines
    def start_head(self) -> Machine:
        self.port, self.dashboard = free_port(), free_port()
        ports = ["--port", str(self.port), "--ray-client-server-port", str(free_port())]
        return self._start(cluster.HEAD, ["--head", *ports, "--dashboard-port", str(self.dashboard)])

    def add(self, role: str) -> Machine:
        return self._start(role, ["--address", f"127.0.0.1:{self.port}"])

    def _start(self, role: str, arguments: list[str]) -> Machine:
        for _ in range(TRIES):  # Ray gives a node 30 s, which a busy machine may not keep
            log = self.folder / f"{role}{len(self.machines)}.log"
            # A disk of its own, so to say: nodes that shared one would unpack the code of a job over each other's.
            disk = ["--temp-dir", tempfile.mkdtemp(prefix="r-", dir=self.home)]
            # Nor do they share a port: an agent that finds its usual one taken takes no jobs, for as long as it lives.
            port = ["--dashboard-agent-listen-port", "0"]
            machine = Machine(role, [*arguments, *disk, *port], self.env | OF_NODES, log)
            self.machines.append(machine)
            if machine.started():  # one at a time: nodes look for free ports, and here they look on one machine
                return machine
            machine.kill()
        raise AssertionError(log.read_text()[-2000:])

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    # ------------------------------------------------------------------------------------------- sweeps
    def sweep(self, storage: str, *switches: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "losses.py", "--datasets", "datasets.toml", "--preset", "small"]
        command += ["--storage", storage, *switches]
        with self._out(storage).open("ab") as out:
            return subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=out, stderr=out)

    def on_laptop(self, storage: str) -> "subprocess.Popen[bytes]":
        return self.sweep(storage, "--workers", "0")

    def on_cluster(self, storage: str) -> "subprocess.Popen[bytes]":
        address = f"127.0.0.1:{self.port}"
        return self.sweep(storage, "--address", address, "--workers", "1", "--gpus-per-worker", "1")

    def submit(self, storage: str) -> tuple[int, str]:
        """Run the command of docs/cluster.md to its end, in a checkout in which the sweep lies beside the others.

        Return its exit status and what it printed. Repeat it while a head that has just started says "try again later":
        the agents that start jobs come up after the node itself.
        """
        checkout = self.folder / "checkout"
        for name in cluster.CODE:
            shutil.copytree(cluster.ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(self.folder / "losses.py", checkout / "sweeps")
        (line,) = re.findall(r"^uv run (ray job submit .*)", (cluster.ROOT / "docs" / "cluster.md").read_text(), re.M)
        for told, here in (
            ("--no-wait ", ""),
            ("sweeps/mask_ratio.py", "sweeps/losses.py"),
            ("--datasets datasets.toml", f"--datasets {self.folder / 'datasets.toml'}"),
            ("s3://my-bucket/crossforge/storage", str(self.folder / storage)),
        ):
            assert told in line
            line = line.replace(told, here)
        line += " --preset small --workers 1 --gpus-per-worker 1"
        server = {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}"}
        env = self.env | server | {"CROSSFORGE_COMMIT": COMMIT}
        until = time.monotonic() + PATIENCE_S
        while True:
            job = subprocess.run(
                ["bash", "-c", f"{line} 2>&1"],
                cwd=checkout,
                env=env,
                stdout=subprocess.PIPE,
                text=True,
                timeout=PATIENCE_S,
            )
            if "try again later" not in job.stdout or time.monotonic() > until:
                return job.returncode, job.stdout
            time.sleep(3)

    def _out(self, storage: str) -> Path:
        return self.folder / f"{re.sub('[:/ ]+', '_', storage)}.out"

    def told(self, storage: str) -> str:
        return self._out(storage).read_text()


def wait_for(ready: Callable[[], Any], what: str, process: "subprocess.Popen[bytes] | None" = None) -> None:
    until = time.monotonic() + PATIENCE_S
    while not ready():
        assert process is None or process.poll() is None, f"ended before {what}"
        assert time.monotonic() < until, f"waited for {what} in vain"
        time.sleep(0.02)


@pytest.fixture
def site(tmp_path: Path, tiny_experiment: Experiment, tiny_roots: Mapping[str, str]) -> Iterator[Site]:
    made = Site(tmp_path, tiny_experiment, tiny_roots)
    yield made
    made.close()


@pytest.fixture(scope="module")
def laptop(
    tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Experiment, tiny_roots: Mapping[str, str]
) -> Path:
    """The storage of the same sweep without a cluster."""
    desk = Site(tmp_path_factory.mktemp("desk"), tiny_experiment, tiny_roots)
    try:
        assert desk.on_laptop("laptop").wait(PATIENCE_S) == 0, desk.told("laptop")
    finally:
        desk.close()
    return desk.folder / "laptop"


# ------------------------------------------------------------------------------------- where a sweep stands
def parts(storage: Path) -> int:
    """Videos whose faces are there, of an extraction that goes on."""
    return len(list(storage.glob("faces/*/*/parts/*.parquet")))


def epochs(storage: Path, stage: str) -> int:
    """Of the training that goes on."""
    open_ones = [path for path in storage.glob(f"stages/*/{stage}/*") if not (path / "_done.json").exists()]
    return max(
        (
            len((path / "curves.jsonl").read_text().splitlines())
            for path in open_ones
            if (path / "curves.jsonl").exists()
        ),
        default=0,
    )


def done(storage: Path, kind: str) -> int:
    return len(list(storage.glob(f"{kind}/**/_done.json")))


def results(storage: Path) -> dict[str, pa.Table]:
    """RESULTS by trial."""
    return {path.parent.name: pq.read_table(path) for path in storage.glob("runs/*/results.parquet")}


def assert_as_on(laptop: Path, storage: Path) -> None:
    """The same rows, the same numbers but for the last digits of sums over other batches, every video read."""
    wanted, ours = results(laptop), results(storage)
    assert ours.keys() == wanted.keys()
    for digest, table in wanted.items():
        assert differing(table, ours[digest]) == []
    ledgers = [pq.read_table(path) for path in storage.glob("faces/*/*/ledger.parquet")]
    assert {status for table in ledgers for status in table["status"].to_pylist()} == {"ok"}
    tables = [next(path.glob("reports/*/losses.csv")).read_text() for path in (laptop, storage)]
    assert tables[0] == tables[1]


# ------------------------------------------------------------------------------------------------ the tests
@pytest.mark.timeout(1800)
def test_whatever_is_lost_the_results_are_those_of_a_laptop(site: Site, laptop: Path) -> None:
    storage = site.folder / "cluster"
    head = site.start_head()
    video, train = site.add(cluster.VIDEO), site.add(cluster.TRAIN)
    sweep = site.on_cluster("cluster")

    # A node dies while it reads videos; the only other one joins later.
    wait_for(lambda: parts(storage) >= 3, "faces", sweep)
    video.kill()
    video = site.add(cluster.VIDEO)
    read = parts(storage)
    wait_for(lambda: parts(storage) > read or done(storage, "faces"), "faces from the late node", sweep)

    # A node dies in the middle of a training, which goes on at its newest checkpoint on another.
    wait_for(lambda: epochs(storage, "recover") >= 3, "a training", sweep)
    train.kill()
    assert head.works_on("_trial") or head.works_on("ImplicitFunc"), "the trial's driver is not on the head"
    train = site.add(cluster.TRAIN)

    # The driver dies; what its sweep held is free again for the same command.
    wait_for(lambda: epochs(storage, "finetune") >= 2, "the next stage", sweep)
    sweep.kill()
    sweep.wait()
    sweep = site.on_cluster("cluster")

    # A node dies while it scores.
    wait_for(lambda: train.works_on("ScoreVideos"), "scoring", sweep)
    train.kill()
    assert done(storage, "runs") == 0
    train = site.add(cluster.TRAIN)

    # The head dies, and the driver with it. Other nodes hear of it late, and train on for a while beside their heirs.
    wait_for(lambda: done(storage, "runs") == 1 and epochs(storage, "finetune") >= 2, "the last training", sweep)
    os.kill(sweep.pid, signal.SIGKILL)
    head.kill()
    sweep.wait()
    kept = {path: path.stat().st_mtime_ns for path in storage.glob("faces/**/*.parquet")}
    kept |= {path: path.stat().st_mtime_ns for path in storage.glob("runs/*/results.parquet")}
    site.start_head()
    site.add(cluster.VIDEO)
    site.add(cluster.TRAIN)
    status, printed = site.submit("cluster")
    assert status == 0, printed[-5000:]
    commits = [read_json(path)["commit"] for path in storage.glob("runs/*/_done.json")]
    assert COMMIT in commits

    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing that was done was done again
    assert_as_on(laptop, storage)
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = (experiment for experiment in client.search_experiments() if experiment.name == "losses")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * (1 + len(ROWS))  # the sweep and its trials, each once
    told = site.told("cluster")
    assert "Traceback" not in told  # what was lost and made again is nobody's worry
    assert "raylet" not in told


@pytest.mark.timeout(1800)
def test_in_a_bucket_they_are_too_though_nodes_share_no_disk(site: Site, laptop: Path, in_bucket: Any) -> None:
    """A node is lost while it reads videos, one while it trains; one request in 50 goes wrong."""
    storage, server, faults = in_bucket.path, in_bucket.server, random.Random(1)
    server.fault = lambda *_: faults.choice(FAULTS) if faults.random() < 0.02 else ""
    site.env |= server.environment

    def puts(pattern: str) -> int:
        return sum(method == "PUT" and bool(re.search(pattern, path)) for method, path in list(server.requests))

    site.start_head()
    video, train = site.add(cluster.VIDEO), site.add(cluster.TRAIN)
    sweep = site.on_cluster(str(storage))
    wait_for(lambda: puts("/faces/.*/parts/") >= 3, "faces", sweep)
    video.kill()
    video, read = site.add(cluster.VIDEO), puts("/faces/.*/parts/")
    wait_for(lambda: puts("/faces/.*/parts/") > read, "faces from the late node", sweep)
    wait_for(lambda: puts("/stages/.*/recover/.*/curves") >= 3, "a training", sweep)
    assert not puts("/stages/.*/recover/.*/_done")
    train.kill()
    train = site.add(cluster.TRAIN)
    wait_for(lambda: puts(r"/runs/\w+/_done\.json"), "the first trial", sweep)
    assert sweep.wait(PATIENCE_S) == 0, site.told(str(storage))

    server.fault = lambda *_: ""
    assert_as_on(laptop, storage)
    assert list(train.cache.iterdir())  # it read the faces, and no other node's disk
    assert not list((site.folder / "crossforge-storage").glob("[!.m]*"))  # but for MLflow nothing lies on the disk
    told = site.told(str(storage))
    assert "Traceback" not in told
