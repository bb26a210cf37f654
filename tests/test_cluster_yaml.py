"""The cluster files: Ray's own schema and loading code accept them, a mocked AWS starts their nodes, and what they
tell a node to run exists, with these switches.
"""

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from pipelines.common import cluster

ROOT = Path(__file__).parents[1]
AWS, OWN = ROOT / "cluster.yaml", ROOT / "docs" / "cluster-on-premises.yaml"
FILES = pytest.mark.parametrize("path", [AWS, OWN], ids=lambda path: path.stem)
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def load(path: Path) -> dict[str, Any]:
    """As `ray up` does. Raises what it raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    configuration: dict[str, Any] = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(configuration)
    return configuration


def commands(path: Path) -> list[str]:
    written = yaml.safe_load(path.read_text())
    return [command for name in COMMANDS for command in written.get(name, [])]


def calls(text: str, *program: str) -> list[list[str]]:
    """The arguments of each call of a program in a command: up to the end of the line or the next command."""
    name = r"\s+".join(map(re.escape, program))
    found = re.findall(rf"(?<![\w-]){name}(?= |$)([^\n;&|]*)", re.sub(r"\$\([^)]*\)", "x", text), re.M)
    return [shlex.split(rest) for rest in found]


# ------------------------------------------------------------------------------------------------------- Ray
@FILES
def test_ray_accepts_the_file(path: Path) -> None:
    assert load(path)["cluster_name"] == "crossforge"


@FILES
def test_ray_refuses_a_misspelt_key(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(path.read_text() + "\nsetup_comands: []\n")
    with pytest.raises(Exception, match="setup_comands"):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize(("path", "places"), [(AWS, "123"), (OWN, "12345")])
def test_a_user_edits_the_marked_places(path: Path, places: str) -> None:
    assert re.findall(r"# \[(\d)\] ", path.read_text()) == list(places)


def test_on_aws_no_file_system_is_set_up() -> None:
    assert re.findall(r"nfs|fstab|\bmount |efs", AWS.read_text()) == []


def test_nodes_have_the_roles_by_which_work_is_placed() -> None:
    kinds = load(AWS)["available_node_types"]
    roles = {name: kind["labels"][cluster.ROLE] for name, kind in kinds.items()}
    assert roles == {"head": cluster.HEAD, "video": cluster.VIDEO, "train": cluster.TRAIN, "train-other": cluster.TRAIN}
    assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0}
    workers = [kind for name, kind in kinds.items() if name != "head"]
    assert [kind["min_workers"] for kind in workers] == [0, 0, 0]
    assert load(AWS)["max_workers"] == sum(kind["max_workers"] for kind in workers)
    started = " ".join(command for command in commands(OWN) if "ray start" in command)
    assert f"--labels={cluster.ROLE}={cluster.HEAD}" in started
    assert f"--labels={cluster.ROLE}=$(test -e /dev/nvidia0 && echo {cluster.TRAIN} || echo {cluster.VIDEO})" in started


def test_workers_are_spot_instances_and_the_head_is_not() -> None:
    kinds = load(AWS)["available_node_types"]
    spot = {name: kind["node_config"].get("InstanceMarketOptions") for name, kind in kinds.items()}
    assert spot.pop("head") is None
    assert spot == {name: {"MarketType": "spot"} for name in ("video", "train", "train-other")}


# ------------------------------------------------------------------------------------------------------- AWS
def started(configuration: dict[str, Any], up: list[str], wanted: list[tuple[dict[str, float], str]]) -> dict[str, int]:
    """What Ray's autoscaler would start where these kinds of node are up and idle. wanted: (resources, role)."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.schema import AutoscalerInstance
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus
    from ray.core.generated.common_pb2 import LabelSelectorOperator
    from ray.core.generated.instance_manager_pb2 import Instance

    kinds = AutoscalingConfig(configuration, skip_content_hash=True).get_node_type_configs()
    there = []
    for number, name in enumerate(up):
        state = NodeState(node_id=b"%d" % number, ray_node_type_name=name, status=NodeStatus.IDLE)
        has = {"memory": 1e10, **kinds[name].resources}  # a node that is up knows its memory itself
        state.total_resources.update(has)
        state.available_resources.update(has)
        state.labels.update(kinds[name].labels)
        running = Instance(instance_id=str(number), instance_type=name, status=Instance.RAY_RUNNING)
        there.append(AutoscalerInstance(ray_node=state, im_instance=running, cloud_instance_id=str(number)))
    asked = [
        ResourceRequestUtil.make(
            resources,
            label_selectors=[[(cluster.ROLE, LabelSelectorOperator.LABEL_OPERATOR_IN, [role])]] if role else None,
        )
        for resources, role in wanted
    ]
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=kinds,
            max_num_nodes=configuration["max_workers"] + 1,
            resource_requests=ResourceRequestUtil.group_by_count(asked),
            current_instances=there,
        )
    )
    assert not reply.infeasible_resource_requests
    return {one.instance_type: one.count for one in reply.to_launch}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """cluster.yaml as `ray up` would have it just before it starts the head, on a mocked AWS."""
    moto = pytest.importorskip("moto")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray writes the key by which it reaches the nodes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": False}}):
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        configuration = load(AWS)
        ec2 = boto3.client("ec2", region_name=configuration["provider"]["region"])
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = ec2.create_security_group(GroupName="crossforge", Description="x", VpcId=vpc)["GroupId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for name in ("crossforge-head", "crossforge-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        for kind in configuration["available_node_types"].values():
            kind["node_config"]["SecurityGroupIds"] = [group]
            assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
            kind["node_config"]["ImageId"] = image  # AWS resolves the name, the mock does not
        configuration = AWSNodeProvider.fillout_available_node_types_resources(configuration)
        yield bootstrap_aws(configuration)


@pytest.mark.nightly
def test_aws_starts_a_node_of_each_kind_as_declared(aws: dict[str, Any]) -> None:
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(aws["provider"], aws["cluster_name"])
    client = boto3.client("ec2", region_name=aws["provider"]["region"])
    for name, kind in aws["available_node_types"].items():
        provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
    found = [one for group in client.describe_instances()["Reservations"] for one in group["Instances"]]
    profiles = [one["IamInstanceProfile"]["Arn"].rpartition("/")[2] for one in found]
    assert [one["InstanceType"] for one in found] == ["m7i.xlarge", "c7i.4xlarge", "g6.4xlarge", "g5.4xlarge"]
    assert [one.get("InstanceLifecycle") for one in found] == [None, "spot", "spot", "spot"]
    assert profiles == ["crossforge-head", *["crossforge-worker"] * 3]


@pytest.mark.nightly
def test_ray_opens_no_port_of_its_own_accord(aws: dict[str, Any]) -> None:
    import boto3

    groups = {id for kind in aws["available_node_types"].values() for id in kind["node_config"]["SecurityGroupIds"]}
    client = boto3.client("ec2", region_name=aws["provider"]["region"])
    [group] = client.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    assert group["GroupName"] == "crossforge"  # the user's; Ray's own is open to the world on port 22
    assert group["IpPermissions"] == []


@pytest.mark.nightly
def test_a_sweep_sees_what_the_cluster_can_grow_to(aws: dict[str, Any]) -> None:
    found = cluster.growth(aws)
    assert (found.cpus, found.gpus, found.cpus_per_gpu) == (16 * 16, (4 + 4) * 1, 16)
    assert found.memory_bytes > 16 * 2**34  # 32 GiB each, less what Ray keeps for itself


@pytest.mark.nightly
def test_work_that_waits_starts_nodes_of_its_role(aws: dict[str, Any]) -> None:
    video = ({"CPU": 1.0}, cluster.VIDEO)
    assert started(aws, ["head"], [video] * 20) == {"video": 2}  # 16 CPUs each
    # A train node's idle CPUs are no place for extraction: it would keep a GPU from ending.
    assert started(aws, ["head", "train"], [video] * 4) == {"video": 1}
    of_gpus = started(aws, ["head", "video"], [({"CPU": 1.0, "GPU": 1.0}, "")] * 6)
    assert sum(of_gpus.values()) == 6
    assert of_gpus.keys() <= {"train", "train-other"}
    assert started(aws, ["head", "video"], [video] * 4) == {}
    assert started(aws, ["head"], [({"memory": 1e6}, cluster.HEAD)]) == {}


# -------------------------------------------------------------------------------------------------- commands
@FILES
@pytest.mark.parametrize(("version", "code"), [("570.86.15", 1), ("580.65.06", 0), ("1000.1", 0), ("", 0)])
def test_a_driver_that_torch_can_not_use_ends_the_setup(path: Path, version: str, code: int, tmp_path: Path) -> None:
    [check] = [command for command in commands(path) if "nvidia-smi" in command and "--query-gpu" in command]
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert any(each["name"] == "nvidia-cublas" and each["version"].startswith("13.") for each in packages)  # CUDA 13
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    device = tmp_path / "nvidia0"
    if version:
        device.touch()
    done = subprocess.run(
        ["bash", "-c", check.replace("/dev/nvidia0", str(device))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("older than 580" in done.stdout) == bool(code)


@FILES
def test_every_command_is_valid_shell_as_ray_sends_it(path: Path) -> None:
    from ray.autoscaler._private.command_runner import _with_interactive

    for command in commands(path):
        sent = shlex.split(_with_interactive(command)[-1])[0]
        done = subprocess.run(["bash", "-n"], input=sent, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


@FILES
def test_ray_and_mlflow_know_the_switches(path: Path) -> None:
    import mlflow.cli
    from ray.scripts import scripts

    text = "\n".join(commands(path))
    known: list[tuple[tuple[str, ...], click.Command, int]] = [
        (("ray", "start"), scripts.start, 2),
        (("ray", "stop"), scripts.stop, 2),
        (("mlflow", "server"), mlflow.cli.server, 1),
    ]
    for program, command, number in known:
        found = calls(text, *program)
        assert len(found) == number, program
        for arguments in found:
            command.make_context(program[-1], [a.replace("$RAY_HEAD_IP", "10.0.0.1") for a in arguments])


@FILES
def test_uv_knows_the_switches(path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    told = subprocess.run(["uv", "sync", "--help"], capture_output=True, text=True, check=True).stdout
    [arguments] = calls("\n".join(commands(path)), "~/.local/bin/uv", "sync")
    used = {word for word in arguments if word.startswith("-")}
    assert used <= set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", told)), arguments


@FILES
def test_the_environment_is_the_locked_one_without_the_code(path: Path) -> None:
    [sync] = calls("\n".join(commands(path)), "~/.local/bin/uv", "sync")
    assert {"--locked", "--no-dev", "--no-install-project"} <= set(sync)
    version = sync[sync.index("--python") + 1]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(settings["requires-python"]).contains(version)
    sent = {Path(remote).name for remote in load(path)["file_mounts"]}
    assert sent == {"pyproject.toml", "uv.lock", "auth_token"}


def test_nodes_on_aws_have_what_starts_nodes_and_keeps_artifacts() -> None:
    [sync] = calls("\n".join(commands(AWS)), "~/.local/bin/uv", "sync")
    assert sync[sync.index("--extra") + 1] == "aws"
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    [own] = [one for one in packages if one["name"] == "crossforge"]
    assert own["optional-dependencies"]["aws"] == [{"name": "boto3"}]
    # One botocore for MLflow's uploads (boto3) and for datasets in buckets (s3fs).
    assert [one["name"] for one in packages].count("botocore") == 1


def test_a_login_shell_finds_the_environment_and_asks_for_the_token(tmp_path: Path) -> None:
    for command in commands(AWS):
        if ".bashrc" in command:
            for _ in range(2):  # `ray up` again adds nothing
                subprocess.run(
                    ["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True
                )
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 3
    shown = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; env"], env={"HOME": str(tmp_path), "PATH": "/bin"}, text=True, capture_output=True
    )
    seen = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert seen["PATH"].split(":")[0] == f"{tmp_path}/crossforge/.venv/bin"
    assert seen["RAY_AUTH_MODE"] == "token"
    assert seen["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


# ------------------------------------------------------------------------------------------ MLflow's database
COPY = "crossforge/mlflow/mlflow.db"  # as place [3] has it


@pytest.fixture
def bucket(new_bucket: Callable[[], Any]) -> Any:
    return new_bucket()


class Head:
    """A head node's home folder, with the script that cluster.yaml writes there."""

    def __init__(self, home: Path, bucket: Any, name: str = "") -> None:
        self.file = home / "mlflow" / "mlflow.db"
        self.file.parent.mkdir(parents=True)
        own = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        prefix = f"s3://{name or bucket.name}/{COPY.rpartition('/')[0]}"
        self.environment = own | {"CROSSFORGE_MLFLOW": prefix} | bucket.environment
        script = next(command for command in commands(AWS) if "database.py" in command and "END" in command)
        subprocess.run(["bash", "-c", script], env=self.environment, check=True)

    def run(self, what: str) -> tuple[int, str]:
        """Exit code and what it says."""
        command = [sys.executable, str(self.file.with_name("database.py")), what]
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True, check=False, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def log(self, name: str) -> None:
        with sqlite3.connect(self.file) as database:
            database.execute("create table if not exists runs (name text)")
            database.execute("insert into runs values (?)", [name])

    def runs(self) -> list[str]:
        with sqlite3.connect(self.file) as database:
            return [name for (name,) in database.execute("select name from runs")]


@pytest.mark.nightly
def test_a_new_head_goes_on_with_the_copy_of_the_database(tmp_path: Path, bucket: Any) -> None:
    first = Head(tmp_path / "first", bucket)
    assert first.run("fetch") == (0, "")  # the very first start: there is no copy
    assert not first.file.exists()
    assert first.run("keep") == (0, "")  # nor anything to copy
    first.log("kept")
    assert first.run("keep") == (0, "")
    first.log("lost with the node")
    second = Head(tmp_path / "second", bucket)
    assert second.run("fetch") == (0, "")
    assert second.runs() == ["kept"]
    second.log("newer")
    assert second.run("fetch") == (0, "")  # a restart of the server: its own database is newer than the copy
    assert second.runs() == ["kept", "newer"]
    assert second.run("keep") == (0, "")
    third = Head(tmp_path / "third", bucket)
    assert third.run("fetch") == (0, "")
    assert third.runs() == ["kept", "newer"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "damage", [lambda whole: b"<html>" * 200, lambda whole: whole[:4096] + bytes(4096) + whole[8192:]]
)
def test_a_damaged_copy_does_not_become_the_database(
    tmp_path: Path, bucket: Any, damage: Callable[[bytes], bytes]
) -> None:
    first = Head(tmp_path / "first", bucket)
    for number in range(200):
        first.log(f"{number:0200d}")
    assert first.run("keep") == (0, "")
    bucket.put(COPY, damage(bucket.get(COPY)))
    second = Head(tmp_path / "second", bucket)
    code, said = second.run("fetch")
    assert code == 1
    assert f"restore an older version of s3://{bucket.name}/{COPY}" in said
    assert not second.file.exists()


@pytest.mark.nightly
def test_a_damaged_database_does_not_become_the_copy(tmp_path: Path, bucket: Any) -> None:
    head = Head(tmp_path / "head", bucket)
    head.log("kept")
    assert head.run("keep") == (0, "")
    before = bucket.get(COPY)
    head.file.write_bytes(b"<html>" * 200)
    code, said = head.run("keep")
    assert code == 1
    assert "file is not a database" in said
    assert bucket.get(COPY) == before


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["fetch", "keep"])
def test_without_its_bucket_a_head_fails_and_touches_nothing(tmp_path: Path, bucket: Any, what: str) -> None:
    """Else a head that can't read the copy would start empty, and five minutes later replace it."""
    unreachable, misspelt = Head(tmp_path / "1", bucket), Head(tmp_path / "2", bucket, "my-bukcet")
    bucket.stop()
    for head in (unreachable, misspelt):
        if what == "keep":
            head.log("own")
        code, said = head.run(what)
        assert code == 1
        assert f"/{COPY}: no such bucket, or it can't be reached" in said
        assert head.file.exists() == (what == "keep")
        bucket.stop()
        bucket.start()
    assert unreachable.run(what) == (0, "")


@pytest.mark.nightly
def test_a_restart_does_not_wait_for_the_bucket(tmp_path: Path, bucket: Any) -> None:
    head = Head(tmp_path / "head", bucket)
    head.log("own")
    bucket.stop()
    assert head.run("fetch") == (0, "")
    assert head.runs() == ["own"]


# ------------------------------------------------------------------------------------------------------ docs
DOC = (ROOT / "docs" / "cluster.md").read_text() if (ROOT / "docs" / "cluster.md").exists() else ""


@cache
def told_commands() -> list[list[str]]:
    fenced = re.findall(r"^```bash\n(.*?)^```", DOC, re.M | re.S)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_ray_knows_the_commands_of_the_documentation() -> None:
    from ray.scripts.scripts import cli

    found = [words[words.index("ray") + 1 :] for words in told_commands() if "ray" in words[:5]]
    assert {words[0] for words in found} >= {"up", "down", "dashboard", "attach", "job", "get-auth-token"}
    for words in found:
        group: Any = cli
        while isinstance(group, click.Group):
            name, *words = words
            assert name in group.commands, f"ray has no {name}"
            group = group.commands[name]
        group.make_context(name, words)


def test_files_that_the_documentation_names_exist() -> None:
    named = set(re.findall(r"(?<![\w./-])(?:docs|pipelines|sweeps|tests)/[\w./-]*\w", DOC)) | {"cluster.yaml"}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_older_versions_in_the_bucket_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket keeps versions for the database's sake: without an end each checkpoint would be paid for for ever."""
    moto = pytest.importorskip("moto")
    [rules] = re.findall(r"--lifecycle-configuration '(.*?)'", DOC, re.S)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with moto.mock_aws():
        import boto3

        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="faces")
        s3.put_bucket_lifecycle_configuration(Bucket="faces", LifecycleConfiguration=json.loads(rules))
        found = s3.get_bucket_lifecycle_configuration(Bucket="faces")["Rules"]
    ends = {rule["Filter"]["Prefix"]: rule.get("NoncurrentVersionExpiration") for rule in found}
    [prefix] = set(re.findall(r"--storage s3://my-bucket/([\w/]+)", DOC))
    assert ends[f"{prefix}/"] == {"NoncurrentDays": 1}
