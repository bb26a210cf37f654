"""The cluster on Kubernetes: KubeRay's own schema takes it, Ray's autoscaler reads from it what our sweeps count on."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.common import cluster
from pipelines.common.cluster import Resources

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "cluster-kubernetes.yaml"
DOCKERFILE = (ROOT / "docs" / "cluster-kubernetes.Dockerfile").read_text().replace("\\\n", " ")
SCHEMA = json.loads((ROOT / "tests" / "kuberay_raycluster.json").read_text())
OBJECTS = list(yaml.safe_load_all(PATH.read_text()))
RAY = next(each for each in OBJECTS if each["kind"] == "RayCluster")
GROUPS = [RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"]]
GIB = 2**30


# --------------------------------------------------------------------------------------------------- KubeRay
def test_kuberay_accepts_the_file() -> None:
    jsonschema.validate(RAY["spec"], SCHEMA)
    assert (RAY["apiVersion"], RAY["kind"]) == ("ray.io/v1", "RayCluster")


WRONG: dict[str, Callable[[Any], Any]] = {
    "a misspelt field": lambda spec: spec.update(enableInTreeAutoscaler=True),
    "a misspelt field of a pod": lambda spec: spec["headGroupSpec"]["template"]["spec"].update(volume=[]),
    "a number for a text": lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "a text for a number": lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="many"),
    "a way to authenticate that is none": lambda spec: spec["authOptions"].update(mode="password"),
    "a group without a name": lambda spec: spec["workerGroupSpecs"][1].pop("groupName"),
    "no pods": lambda spec: spec["headGroupSpec"].pop("template"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_kuberay_refuses(change: Callable[[Any], Any]) -> None:
    spec = deepcopy(RAY["spec"])
    change(spec)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec, SCHEMA)


# ------------------------------------------------------------------------------------------------------- Ray
@pytest.fixture
def in_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """As on the head pod: no file of `ray up`, a service account, and Kubernetes answers; the paths that were asked."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    asked: list[str] = []

    class Client:
        def __init__(self, namespace: str) -> None:
            self.namespace = namespace

        def get(self, path: str) -> dict[str, Any]:
            asked.append(f"{self.namespace}/{path}")
            if not path.endswith("/crossforge"):
                raise autoscaling_config.requests.HTTPError("403 Forbidden")
            return RAY | {"metadata": RAY["metadata"] | {"namespace": self.namespace}}

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Client)
    monkeypatch.setattr(autoscaling_config, "MAX_RAYCLUSTER_FETCH_TRIES", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_CLUSTER_NAME", "crossforge")
    monkeypatch.setattr(cluster, "SERVICE_ACCOUNT", str(tmp_path))
    (tmp_path / "namespace").write_text("research\n")
    return asked


def test_a_sweep_sees_from_zero_pods_what_may_start(in_a_pod: list[str]) -> None:
    found = cluster.growth(cluster._configuration())
    assert in_a_pod == ["research/rayclusters/crossforge"]
    assert found == Resources(
        cpus=16 * 15,
        gpus=4,
        memory_bytes=16 * GIB + 16 * 26 * GIB + 4 * 56 * GIB,
        head_bytes=16 * GIB,
        cpus_per_gpu=15,
    )


def test_where_it_may_not_ask_what_is_up_counts(
    in_a_pod: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAME", "another")
    assert cluster._configuration() == {}
    assert "the RayCluster another can't be read" in caplog.text
    monkeypatch.delenv("RAY_CLUSTER_NAME")
    assert cluster._configuration() == {}
    assert len(in_a_pod) == 1


def test_the_file_of_ray_up_comes_first(in_a_pod: list[str], tmp_path: Path) -> None:
    (tmp_path / "ray_bootstrap_config.yaml").write_text("max_workers: 3")
    assert cluster._configuration() == {"max_workers": 3}
    assert in_a_pod == []


def test_pods_have_the_roles_by_which_work_is_placed() -> None:
    assert [group["labels"] for group in GROUPS] == [
        {cluster.ROLE: role} for role in (cluster.HEAD, cluster.VIDEO, cluster.TRAIN)
    ]
    assert RAY["spec"]["headGroupSpec"]["resources"] == {"CPU": "0", "GPU": "0"}
    assert [(group["replicas"], group["minReplicas"]) for group in GROUPS[1:]] == [(0, 0), (0, 0)]


def named(kind: str) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def test_all_pods_run_the_locked_ray_and_reach_the_bucket() -> None:
    packages = {each["name"]: each["version"] for each in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert RAY["spec"]["rayVersion"] == packages["ray"]
    settings = named("ConfigMap")["crossforge"]["data"]
    assert {"AWS_REGION", "CROSSFORGE_CACHE"} <= settings.keys()
    for group in GROUPS:
        pod = group["template"]["spec"]
        assert "role-arn" in str(named("ServiceAccount")[pod["serviceAccountName"]]["metadata"]["annotations"])
        volumes = {each["name"]: each for each in pod["volumes"]}
        claimed = {each["persistentVolumeClaim"]["claimName"] for each in volumes.values() if "emptyDir" not in each}
        assert claimed <= named("PersistentVolumeClaim").keys()
        for container in pod["containers"]:
            assert container["image"] == GROUPS[0]["template"]["spec"]["containers"][0]["image"]
            assert container["envFrom"] == [{"configMapRef": {"name": "crossforge"}}]
            mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
            assert mounts.keys() <= volumes.keys()
            if container["name"].startswith("ray-"):
                assert mounts["cache"] == settings["CROSSFORGE_CACHE"]
    # KubeRay takes an account of the cluster's name for its autoscaler; the workers' may start and delete no pods.
    assert [group["template"]["spec"]["serviceAccountName"] for group in GROUPS] == [
        RAY["metadata"]["name"],
        "crossforge-worker",
        "crossforge-worker",
    ]


def test_a_user_edits_four_marked_places() -> None:
    assert re.findall(r"# \[(\d)\] ", PATH.read_text()) == ["1", "2", "3", "4"]


# --------------------------------------------------------------------------------------------- what is run
def test_mlflow_is_for_the_head_alone_and_knows_its_switches() -> None:
    import mlflow.cli

    ray_head, server = RAY["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    words = shlex.split(server["args"][0])
    assert words[:3] == ["exec", "mlflow", "server"]
    mlflow.cli.server.make_context("server", words[3:])
    told = dict(zip(words[3::2], words[4::2], strict=True))
    address = f"http://{told['--host']}:{told['--port']}"
    assert {"name": "MLFLOW_TRACKING_URI", "value": address} in ray_head["env"]
    assert told["--host"] == RAY["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert told["--artifacts-destination"].removeprefix("$") in named("ConfigMap")["crossforge"]["data"]
    database = told["--backend-store-uri"].removeprefix("sqlite:///")
    assert database.startswith(next(m["mountPath"] for m in server["volumeMounts"] if m["name"] == "mlflow"))
    assert RAY["spec"]["authOptions"]["mode"] == "token"


def test_the_image_has_the_locked_environment_without_the_code() -> None:
    def synced(text: str) -> list[str]:
        [rest] = re.findall(r"~/\.local/bin/uv sync([^\n&]*)", text)
        return rest.split()

    on_aws = "\n".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"])
    assert {"--locked", "--no-dev", "--no-install-project"} <= set(synced(DOCKERFILE)) == set(synced(on_aws))
    assert set(re.findall(r"^COPY (?:--\S+ )*(.*) \./$", DOCKERFILE, re.M)[0].split()) == {"pyproject.toml", "uv.lock"}
