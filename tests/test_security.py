"""What docs/security.md says guards against strangers' videos, checkpoints, and access to the cluster."""

import ast
import json
import os
import pickle
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cloudpickle
import pytest
import torch
import yaml

from pipelines.common import storage
from pipelines.experiments.experiment import Experiment
from pipelines.media import fetch, sandbox
from pipelines.scoring import score
from pipelines.tracking import client
from pipelines.training import stages

ROOT = Path(__file__).parents[1]
CLUSTERS = [ROOT / "cluster.yaml", ROOT / "docs" / "cluster-on-premises.yaml"]
FILES = pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
SOURCES = [path for folder in ("models", "pipelines", "sweeps") for path in sorted((ROOT / folder).rglob("*.py"))]


class Bomb:
    """Its pickle, when it is read, leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


# --------------------------------------------------------------------------------------------------- videos
def test_a_video_that_crashes_costs_itself() -> None:
    def factory() -> Callable[[str], str]:
        import os  # the child has nothing of this file

        def read(name: str) -> str:
            if name == "bad":
                os.kill(os.getpid(), 11)
            return f"{name} was read"

        return read

    read = sandbox.Sandbox(cloudpickle.dumps(factory), timeout_s=20, memory_gib=4)
    try:
        with pytest.raises(sandbox.Crashed, match=signal.Signals(11).name):
            read("bad")
        assert read("good") == "good was read"
    finally:
        read.close()


@pytest.mark.parametrize("name", ["https://host/..%2F..%2Fetc/cron.d%2Fx.png", "bucket/../../etc/cron.d/x.png"])
def test_a_remote_name_cannot_lead_out_of_its_folder(name: str) -> None:
    assert fetch._name(name) == "x.png"


# ---------------------------------------------------------------------------------------------- checkpoints
def test_a_pickle_in_place_of_weights_is_not_run(tmp_path: Path) -> None:
    mark, folder = tmp_path / "run", tmp_path / "stage"
    planned = stages.PlannedStage(paper="plain", name="detect", folder=folder, spec={})
    storage.write_json(folder / "_done.json", {})
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    config = Experiment(model="plain", train_on="ffpp", test_on=(), preset="small").config()
    with pytest.raises(storage.StorageError, match="can't be loaded"):
        score.FinishedStage(planned=planned, config=config).load(torch.device("cpu"))
    assert not mark.exists()
    pickle.loads((folder / "weights.safetensors").read_bytes())
    assert mark.exists()  # it would have gone off


def named_calls() -> Iterator[tuple[Path, str, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT), ast.unparse(node.func), node


def test_torch_loads_nothing_but_tensors() -> None:
    loads = [(path, call) for path, name, call in named_calls() if name == "torch.load"]
    assert loads
    for path, call in loads:
        safe = [keyword.value for keyword in call.keywords if keyword.arg == "weights_only"]
        assert [ast.unparse(value) for value in safe] == ["True"], path


def test_nothing_else_turns_data_into_code() -> None:
    risky = r"(cloud)?pickle\.loads?|joblib\.load|yaml\.(unsafe_)?load|(builtins\.)?(eval|exec)|os\.system"
    found = {(str(path), name) for path, name, _ in named_calls() if re.fullmatch(risky, name)}
    assert found == {
        ("pipelines/media/sandbox.py", "pickle.loads"),  # its own parent's message
    }
    shells = [path for path, _, call in named_calls() for k in call.keywords if k.arg in ("shell", "allow_pickle")]
    assert shells == []


# ------------------------------------------------------------------------------------------ tracking, access
@FILES
def test_servers_listen_on_localhost(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"mlflow server .*?--host (\S+)", text) == ["127.0.0.1"]
    assert re.findall(r"--dashboard-host=(\S+)", text) == ["127.0.0.1"]
    assert "--host 127.0.0.1" in client.ui_command("sqlite:///x/mlflow.db")


def test_nothing_asks_to_listen_on_all_interfaces() -> None:
    written = [*SOURCES, *CLUSTERS, ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [path for path in written if "0.0.0.0" in path.read_text()] == []


def test_a_password_is_not_printed() -> None:
    uri = "https://ann:secret@mlflow.example.org/x"
    assert "secret" not in client.shown(uri) + client.ui_command(uri)


@FILES
def test_both_files_ask_for_the_token(path: Path) -> None:
    text = path.read_text()
    mounts = yaml.safe_load(text)["file_mounts"]
    assert [local for remote, local in mounts.items() if remote.endswith("/.ray/auth_token")] == ["~/.ray/auth_token"]
    assert re.findall(r"RAY_AUTH_MODE=(\w+)", text) == ["token"]


def kinds() -> dict[str, dict[str, Any]]:
    written = yaml.safe_load(CLUSTERS[0].read_text())["available_node_types"]
    return {name: kind["node_config"] for name, kind in written.items()}


def test_nodes_give_their_role_to_no_container() -> None:
    wanted = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert {name: node["MetadataOptions"] for name, node in kinds().items()} == dict.fromkeys(kinds(), wanted)


def test_disks_are_encrypted() -> None:
    assert all(disk["Ebs"]["Encrypted"] for node in kinds().values() for disk in node["BlockDeviceMappings"])


def test_workers_may_write_to_the_storage_alone() -> None:
    profiles = {name: node["IamInstanceProfile"]["Name"] for name, node in kinds().items()}
    assert profiles.pop("head") == "crossforge-head"
    assert profiles == dict.fromkeys(("video", "train", "train-other"), "crossforge-worker")
    text = (ROOT / "docs" / "cluster.md").read_text()
    [policy] = re.findall(r"--role-name crossforge-worker --policy-name \S+ --policy-document '(.*?)'", text, re.S)
    reading, writing = json.loads(policy)["Statement"]
    assert set(reading["Action"]) == {"s3:GetObject", "s3:ListBucket"}
    assert writing["Resource"] == ["arn:aws:s3:::MY_BUCKET/crossforge/storage/*"]
    assert "--storage s3://my-bucket/crossforge/storage" in text
    assert (
        yaml.safe_load(CLUSTERS[0].read_text())["initialization_commands"][-1].count("my-bucket/crossforge/mlflow") == 1
    )


def test_no_secret_is_written_down() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    paths = [ROOT / name for name in listed.split("\0") if name] or [*SOURCES, *CLUSTERS]
    secret = re.compile(
        rb"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|aws_secret_access_key\s*=\s*\S|(?:ghp|hf)_\w{30}", re.I
    )
    assert [path for path in paths if path.is_file() and secret.search(path.read_bytes())] == []


# ----------------------------------------------------------------------------------------------------- docs
def test_every_test_that_the_threat_list_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.M))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named
    assert named <= here
    files = {name for name in re.findall(r"`((?:tests|pipelines|docs)/[^`]+)`", text) if PurePosixPath(name).suffix}
    assert [name for name in files if not (ROOT / name).is_file()] == []
