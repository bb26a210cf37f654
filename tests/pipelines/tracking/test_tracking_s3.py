"""MLflow as on a cluster: its server keeps artifacts in a bucket that nobody else can open, and both may be away."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from pipelines.experiments.experiment import Experiment
from pipelines.scoring import predict
from pipelines.tracking import client, lookup

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.nightly]

PREFIX = "crossforge/mlflow/artifacts"
CHANGES = {"model.stages": ["recover", "finetune"]}
ROWS = {"low": {"model.finetune.base_lr": 1e-4}, "high": {"model.finetune.base_lr": 1e-3}}
SCRIPT = '''"""Sweep of a test."""
from pipelines.experiments.experiment import Experiment
from pipelines.sweep import Row, Sweep, main
from pipelines.tracking import runs

runs.PATIENCE_S = {patience}
SWEEP = Sweep(
    name="{name}",
    title="Table 0: rates",
    base=Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df", "dfdc"), preset="small").override({base}),
    row_name="rate",
    headings=("celeb_df", "dfdc"),
    rows=tuple(Row(label, settings, "50.0 50.0") for label, settings in {rows}.items()),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
'''


@dataclass(frozen=True)
class Site:
    """A folder with sweeps on one storage, the server that they log to, and the bucket that only the server knows."""

    folder: Path
    base: Mapping[str, Any]
    server: Any
    bucket: Any

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def uri(self) -> str:
        """With a password, as in front of a server that asks for one."""
        return str(self.server.uri).replace("://", "://somebody:secret@")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.server.uri, self.server.uri)

    def script(self, name: str, patience_s: float) -> None:
        text = SCRIPT.format(name=name, patience=patience_s, base=dict(self.base), rows=ROWS)
        (self.folder / f"{name}.py").write_text(text)

    def start(self, name: str) -> "subprocess.Popen[str]":
        unwanted = ("RAY_", "MLFLOW_", "CROSSFORGE_", "AWS_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        switches = ["--datasets", "datasets.toml", "--preset", "small", "--storage", str(self.storage)]
        with (self.folder / f"{name}.out").open("w") as out:
            return subprocess.Popen(
                [sys.executable, "-X", "importtime", f"{name}.py", *switches],
                cwd=self.folder,
                env=env | {"RAY_AUTH_MODE": "disabled", "MLFLOW_TRACKING_URI": self.uri},
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def run(self, name: str) -> int:
        return self.start(name).wait(300)

    def runs(self, name: str) -> tuple[Any, list[Any]]:
        """The parent, and the children."""
        all_runs = self.client.search_runs([self.client.get_experiment_by_name(name).experiment_id])
        [parent] = [run for run in all_runs if "mlflow.parentRunId" not in run.data.tags]
        return parent, [run for run in all_runs if run is not parent]

    def expected(self, name: str) -> dict[str, Path]:
        """Key of each artifact of the runs of a sweep in the bucket -> the file that it is a copy of."""
        parent, children = self.runs(name)
        [report] = self.storage.glob(f"reports/{name}-*")
        shown = [path for path in report.iterdir() if path.suffix != ".json" or path.name == "table.json"]
        files = [(parent, path) for path in shown]
        for child in children:
            folder = self.storage / "runs" / child.data.tags["run_key"]
            tables = ("results", "predictions", "validation", "sources")
            files += [(child, folder / name) for name in ("trial.json", *(f"{table}.parquet" for table in tables))]
        return {key_of(run.info.artifact_uri) + f"/{path.name}": path for run, path in files}


def key_of(uri: str) -> str:
    """In the bucket, of what clients see as `mlflow-artifacts:/...`."""
    scheme, _, path = uri.partition(":/")
    assert scheme == "mlflow-artifacts", uri
    return f"{PREFIX}/{path}"


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_experiment: Experiment,
    tiny_roots: Mapping[str, str],
    new_bucket: Callable[[], Any],
    new_mlflow_server: Callable[..., Any],
) -> Iterator[Site]:
    folder, bucket = tmp_path_factory.mktemp("site"), new_bucket()
    roots = "".join(f'{name} = "{tiny_roots[name]}"\n' for name in ("ffpp", "celeb_df", "dfdc"))
    (folder / "datasets.toml").write_text(roots)
    (folder / "server").mkdir()
    server = new_mlflow_server(folder / "server", f"s3://{bucket.name}/{PREFIX}", bucket.environment)
    server.start()
    base = {f"model.{name}": value for name, value in tiny_experiment.model_args.items()} | CHANGES
    yield Site(folder, base, server, bucket)
    server.kill()


@pytest.fixture(scope="module")
def swept(site: Site) -> Site:
    """With a server that is away from the end of the first stage on, for as long as it takes to start."""
    site.script("tiny", 240)
    process = site.start("tiny")
    until(lambda: list(site.storage.glob("stages/*/*/*/_done.json")), process)
    site.server.kill()
    assert process.poll() is None
    site.server.start()
    assert process.wait(400) == 0, site.said("tiny")
    return site


def until(ready: Callable[[], Sequence[Any]], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, "the sweep has ended already"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a client like any other."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_TRACKING_URI"))]:
        monkeypatch.delenv(name)


def test_a_sweep_outlives_a_server_that_is_away_and_logs_all(swept: Site) -> None:
    parent, children = swept.runs("tiny")
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert "NOT LOGGED" not in swept.said("tiny")
    for child in children:
        for stage, num_epochs in (("recover", 2), ("finetune", 1)):
            history = swept.client.get_metric_history(child.info.run_id, f"{stage}/train/loss")
            assert len({point.step for point in history}) == len(history) == num_epochs
        assert {"celeb_df/video/auc", "dfdc/video/auc"} <= child.data.metrics.keys()


def test_a_sweep_prints_no_password(swept: Site) -> None:
    """MLflow's client would, at the end of each run."""
    said = swept.said("tiny")
    assert f"MLflow: {client.shown(swept.uri)}/#/experiments/" in said
    assert "secret" not in re.findall(r"\w+", said)
    assert "View run" not in said


def test_the_bucket_holds_what_the_storage_holds(swept: Site) -> None:
    expected = swept.expected("tiny")
    assert {path.suffix for path in expected.values()} == {".csv", ".html", ".json", ".md", ".parquet", ".png", ".tex"}
    parent, _ = swept.runs("tiny")
    of_sweep = swept.bucket.keys(f"{PREFIX}/{parent.info.experiment_id}/")
    assert {key for key in of_sweep if "/models/" not in key} == set(expected)
    for key, path in expected.items():
        assert swept.bucket.get(key) == path.read_bytes(), path
    # Nothing lies where a server or a client without a bucket would have put it.
    assert not (swept.server.folder / "artifacts").exists()
    assert not (swept.storage / "mlartifacts").exists()


def test_clients_need_no_access_to_the_bucket(swept: Site, tmp_path: Path) -> None:
    imported = {line.rsplit("|", 1)[1].strip() for line in swept.said("tiny").splitlines() if "import time:" in line}
    assert "pipelines.launch.launch" in imported
    assert not {"boto3", "botocore", "aiobotocore"} & imported
    parent, children = swept.runs("tiny")
    expected = swept.expected("tiny")
    for run in (parent, *children):
        (tmp_path / run.info.run_id).mkdir()
        copy = Path(swept.client.download_artifacts(run.info.run_id, "", str(tmp_path / run.info.run_id)))
        own = {path.name: path.read_bytes() for key, path in expected.items() if run.info.run_id in key}
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == own


def test_videos_are_scored_by_the_model_from_the_bucket(
    swept: Site, tiny_roots: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", swept.server.uri)
    version = swept.client.get_model_version_by_alias("crossforge-tiny", "champion")
    weights = [key for key in swept.bucket.keys(key_of(version.source)) if key.endswith(".safetensors")]
    assert {swept.bucket.get(key) for key in weights} <= {
        path.read_bytes() for path in swept.storage.glob("stages/delocate/finetune/*/weights.safetensors")
    }
    assert len(weights) == 1
    video = sorted(Path(tiny_roots["celeb_df"]).rglob("*.mp4"))[0]
    trained = (
        lookup.by_name("models:/crossforge-tiny@champion", tmp_path / "another"),
        lookup.by_name(version.run_id, swept.storage),
    )
    assert swept.storage not in trained[0].folder.parents
    fetched, local = (predict.predict(trial, [video], Console(quiet=True))[0].score for trial in trained)
    assert fetched == local
    assert local is not None


def test_what_a_bucket_that_is_away_did_not_take_the_same_command_logs(swept: Site) -> None:
    swept.script("later", 3)  # the same trials under another name: all that is left to do is to log them
    swept.bucket.stop()
    try:
        assert swept.run("later") == 1
    finally:
        swept.bucket.start()
    said = [line for line in swept.said("later").splitlines() if not line.startswith("import time:")]
    [line] = [line for line in said if line.startswith("NOT LOGGED")]
    assert f"MLflow at {client.shown(swept.uri)}: " in line
    assert re.search(r"/artifacts/\w+\.(json|parquet) ", line)
    assert line.endswith("can't reach where it keeps them: see its log")
    assert "the same command logs them" in "".join(said)
    assert not {"Traceback", "secret"} & set(re.findall(r"\w+", "".join(said)))
    assert [path.name for path in swept.storage.glob("reports/later-*/later.csv")] == ["later.csv"]
    parent, children = swept.runs("later")
    assert "FINISHED" not in [run.info.status for run in (parent, *children)]
    assert not set(swept.expected("later")) & set(swept.bucket.keys(PREFIX))

    assert swept.run("later") == 0, swept.said("later")
    parent, children = swept.runs("later")
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    for key, path in swept.expected("later").items():
        assert swept.bucket.get(key) == path.read_bytes(), path


def test_a_server_that_hangs_is_given_up_in_seconds(swept: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes requests and answers none; MLflow itself would wait for minutes, and a sweep with it."""
    monkeypatch.setattr(client, "LEAST_WAIT_S", 1.0)
    tracker = client.Tracker(swept.server.uri, "hanging", swept.storage)
    run_id = tracker.open_run("one", "one")
    tracker.patience_s = 0
    os.killpg(swept.server.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(client.TrackingError, match="Read timed out"):
            tracker.describe(run_id, "text")
        assert time.monotonic() - started < 15
    finally:
        os.killpg(swept.server.process.pid, signal.SIGCONT)
    tracker.patience_s = client.PATIENCE_S
    tracker.describe(run_id, "text")
