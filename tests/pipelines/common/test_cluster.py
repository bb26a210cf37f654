"""Joining a cluster: who may, what travels there, where work runs. Real raylets, no other machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.common import cluster, provenance
from pipelines.common.cluster import ClusterError, Resources

CONFIGURATION: dict[str, Any] = {
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "memory": 100}, "max_workers": 0, "labels": {cluster.ROLE: "head"}},
        "video": {"resources": {"CPU": 8, "memory": 10}, "max_workers": 3, "labels": {cluster.ROLE: "video"}},
        "train": {
            "resources": {"CPU": 16, "GPU": 2, "memory": 40},
            "max_workers": 2,
            "labels": {cluster.ROLE: "train"},
        },
    },
}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings as on a machine that has never seen a cluster; restored after the test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in cluster.QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")


def test_growth_counts_every_node_that_may_start() -> None:
    # CPUs of video nodes only: 3 * 8. GPUs: 2 * 2. Memory: the head's 100, 3 * 10, 2 * 40. Beside a GPU: 16 / 2.
    assert cluster.growth(CONFIGURATION) == Resources(24, 4, memory_bytes=210, head_bytes=100, cpus_per_gpu=8)


def test_a_cluster_started_by_hand_does_not_grow() -> None:
    assert cluster.growth({}) == Resources(0, 0, 0)


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("address", [None, "auto"])
def test_under_uv_no_worker_builds_an_environment(address: str | None) -> None:
    cluster.prepare_environment(address)
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


@pytest.mark.usefixtures("no_cluster")
def test_a_token_is_used_where_there_is_one(tmp_path: Path) -> None:
    cluster.prepare_environment("auto")
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    cluster.prepare_environment(None)
    assert "RAY_AUTH_MODE" not in os.environ  # Ray's own choice for a cluster of its own
    cluster.prepare_environment("auto")
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.usefixtures("no_cluster")
def test_a_driver_sends_its_code_and_a_submitted_job_has_it_already(monkeypatch: pytest.MonkeyPatch) -> None:
    own = cluster._runtime_env()
    assert own["working_dir"] == str(cluster.ROOT)
    assert own["env_vars"]["TQDM_DISABLE"] == "1"
    job = {"working_dir": "gcs://_ray_pkg_0.zip", "env_vars": {"CROSSFORGE_COMMIT": "abc", "TQDM_DISABLE": "0"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": job, "metadata": {}}))
    submitted = cluster._runtime_env()
    assert "working_dir" not in submitted
    assert "excludes" not in submitted
    assert not submitted["env_vars"].keys() & job["env_vars"].keys()  # Ray refuses what is given twice


def test_only_code_travels(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package, unzip_package

    kept = {"models/a.py", "models/_blend/b.py", "pipelines/c.py", "sweeps/d.py"}
    left = {".env", "datasets.toml", ".git/config", "storage/faces/x.parquet", "models/__pycache__/a.pyc", "e.py", "x"}
    for name in kept | left:
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    create_package(str(tmp_path / "code"), tmp_path / "p.zip", True, excludes=list(cluster.EXCLUDED))
    unzip_package(str(tmp_path / "p.zip"), str(tmp_path / "out"), False, False)
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == kept


def test_the_code_that_travels_is_small(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    create_package(str(cluster.ROOT), tmp_path / "p.zip", True, excludes=list(cluster.EXCLUDED))
    assert 50_000 < (tmp_path / "p.zip").stat().st_size < 5_000_000


def nodes(*roles: str) -> list[dict[str, Any]]:
    return [{"NodeID": name, "Labels": {cluster.ROLE: name} if name else {}, "Resources": {}} for name in roles]


def test_without_roles_work_runs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_alive", lambda: nodes("", ""))
    assert cluster.selector(cluster.VIDEO) is None
    assert cluster._checked(Resources(0, 0, 0)) == Resources(0, 0, 0)


def test_drivers_of_trials_go_to_the_head_where_one_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_alive", lambda: nodes("head", "train"))
    assert cluster.selector(cluster.HEAD) == {cluster.ROLE: "head"}
    monkeypatch.setattr(cluster, "_alive", lambda: nodes("", "video"))  # nobody may wait for a second head
    assert cluster.selector(cluster.HEAD) is None


def test_with_roles_video_goes_to_its_nodes_and_there_must_be_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_alive", lambda: nodes("head", "train"))  # video nodes may start yet
    assert cluster.selector(cluster.VIDEO) == {cluster.ROLE: "video"}
    assert cluster._checked(Resources(8, 0, 0)) == Resources(8, 0, 0)
    with pytest.raises(ClusterError, match="no node with the label crossforge-role=video"):
        cluster._checked(Resources(0, 4, 0))


def test_the_commit_of_a_copy_is_what_the_driver_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFORGE_COMMIT", "abc-dirty")
    assert provenance.commit.__wrapped__() == "abc-dirty"


# A cluster of its own needs a process of its own: the tests' Ray is there already.
DRIVER = """
import json, logging, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from pipelines.common import cluster

roles = json.loads(sys.argv[1])
own = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "labels": roles[0]})
for labels in roles[1:]:
    own.add_node(num_cpus=2, labels=labels)
told = {}
class Where:
    def __call__(self, row):
        return {"role": ray.get_runtime_context().get_node_labels().get(cluster.ROLE, "none")}
try:
    with cluster.connect(own.address) as resources:
        import ray.data
        told["cpus"], told["selector"], told["free"] = resources.cpus, cluster.selector("video"), cluster.free_cpus()
        rows = ray.data.from_items([{"n": n} for n in range(6)], override_num_blocks=6).map(
            Where, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1, label_selector=cluster.selector("video"))
        told["ran on"] = sorted({row["role"] for row in rows.iter_rows()})
        def imported():
            import os, pipelines
            return pipelines.__file__, os.environ.get("CROSSFORGE_COMMIT", ""), os.environ.get("TQDM_DISABLE")
        told["imported"] = ray.get(ray.remote(num_cpus=0)(imported).remote())
        cluster._code_digest = lambda: "changed"  # here, and not on the nodes
        try:
            cluster.check_nodes()
        except cluster.VersionError as error:
            told["different"] = str(error)
except cluster.ClusterError as error:
    told["refused"] = str(error)
print("TOLD", json.dumps(told))
ray.shutdown()
own.shutdown()
"""


def told(roles: list[dict[str, str]], home: Path) -> dict[str, Any]:
    """What a driver sees on a cluster of these nodes, the first of which is the head."""
    command = [sys.executable, "-c", DRIVER, json.dumps(roles)]
    environment = os.environ | {"PYTHONPATH": str(cluster.ROOT), "HOME": str(home)}
    done = subprocess.run(command, env=environment, timeout=240, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.split("TOLD ")[1].splitlines()[0])
    return found


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
def test_work_goes_where_roles_say_with_the_drivers_code(tmp_path: Path) -> None:
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(CONFIGURATION))  # JSON is YAML
    seen = told([{cluster.ROLE: name} for name in ("head", "train", "video")], tmp_path)
    assert seen["cpus"] == seen["free"] == 24  # what may start; 2 are up
    assert seen["ran on"] == ["video"]
    path, commit, quiet = seen["imported"]
    assert path.endswith("pipelines/__init__.py")
    assert not path.startswith(str(cluster.ROOT))  # the copy, not what happens to be installed
    assert (bool(commit), quiet) == (True, "1")
    assert seen["different"].count("code ") == 3
    assert "here changed" in seen["different"]
    assert "  video " in seen["different"]


@pytest.mark.ray
def test_a_path_for_temporary_files_that_is_too_long_is_one_error_with_its_name(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 100)
    long.mkdir()
    code = (
        "from pipelines.common import cluster\n"
        "cluster.prepare_environment(None)\n"
        "try:\n    cluster.connect(None, 1).__enter__()\n"
        "except cluster.ClusterError as error:\n    print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cluster.ROOT,
        env=environment | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert told.startswith(f"TMPDIR={long} is too long: Ray puts sockets below it")
    assert "set RAY_TMPDIR to a short folder" in told


def test_opencv_takes_one_thread_in_each_process_that_workers_start_in() -> None:
    """Its own threads know nothing of OMP_NUM_THREADS: 16 loaders would start 16 each."""
    code = "from pipelines.common import cluster; cluster.prepare_environment(None); "
    code += "import cv2; print(cv2.getNumThreads())"
    own = {name: value for name, value in os.environ.items() if name not in cluster.QUIET}
    told = subprocess.run([sys.executable, "-c", code], env=own, cwd=cluster.ROOT, capture_output=True, check=True)
    assert told.stdout.split() == [b"1"]
