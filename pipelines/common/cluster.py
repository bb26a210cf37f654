"""Connect to Ray: start a quiet one on this machine, or join an existing cluster.

Nodes of a cluster may carry the label `ROLE`, which says what they are for (cluster.yaml sets it). Decoding, face
extraction, pseudo-fakes and scoring on CPUs then run on nodes with the role `VIDEO` only; training runs where the GPUs
are. Where no node has a role, as on a laptop, work runs wherever there is room.
"""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.common import provenance

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 512 * 2**20  # faces go through Parquet, not through the object store
TRIAL_BYTES = 2 * 2**30  # a trial's process and its scoring actor, small preset
DRIVER_BYTES = 2**30  # the process of a trial whose workers and actors are elsewhere: torch, Ray's libraries, scores
ROOT = Path(__file__).resolve().parents[2]

ROLE = "crossforge-role"  # label of a node
HEAD, VIDEO, TRAIN = "head", "video", "train"  # its values
CODE = ("models", "pipelines", "sweeps")  # what travels to the nodes; data, caches and secrets beside it stay here
EXCLUDED = ("/*", "!/.", *(f"!/{name}" for name in CODE), "__pycache__")  # as in .gitignore; "/." is the folder itself
COMPARED = ("ray", "torch", "pyarrow")  # packages whose versions must be the same on all nodes
ANSWER_SECONDS = 180  # a node that is asked first fetches the code
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` leaves the cluster's configuration on the head
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # by which a pod may ask Kubernetes

# Read by Ray when it is imported, and by its workers when they start.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # raylets announce each task that was lost with a node and is done again
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints its configuration whatever the verbosity
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TQDM_DISABLE": "1",
    # Not only Ray: each worker process works on one core, and a node runs as many of them as it has cores.
    "OPENCV_FOR_THREADS_NUM": "1",
}


class ClusterError(OSError):
    """The cluster can't be reached or used; the message says what to do."""


class VersionError(ClusterError):
    """A node runs other versions than the driver; the message names the node and the difference."""


@dataclass(frozen=True, slots=True)
class Resources:
    """How much the cluster has in all, or can grow to."""

    cpus: int  # where nodes have roles, only those of the role `VIDEO` count
    gpus: int
    memory_bytes: int
    head_bytes: int | None = None  # memory of the nodes of the role `HEAD`; None: there are none, drivers run anywhere
    cpus_per_gpu: float = 0  # where nodes have roles: of the node with GPUs and another role that has the fewest


def prepare_environment(address: str | None) -> None:
    """Set the environment variables that Ray reads when it is imported; call this before the first import.

    `address` is that of the cluster to join, or None for a local Ray.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Under `uv run`, Ray would build the environment anew for each worker; a cluster's nodes have it, too.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    token_file = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")))
    if address is not None and ("RAY_AUTH_TOKEN" in os.environ or token_file.is_file()):
        # Ray reads the token by itself only where it starts a cluster; without it, joining ends in a timeout.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what is written to standard error, also by native code; exceptions are not touched.

    Ray's native code announces there the log level that `QUIET` asks for.
    """
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
    """Start or join Ray, yield what it has, and shut it down or leave it at the end.

    Without `address`, use the Ray that this process has started or joined already, as it is, and leave it running, or
    else start a local one on this machine's GPUs and `num_cpus` CPUs (None: all). With `dashboard`, that also starts
    its web server on localhost; without it, what a stopped trial's workers held is never free again.
    Raise ClusterError where the cluster can't be joined, or a local Ray has too long a path for temporary files,
    VersionError where a cluster's nodes run other code or packages.
    """
    import ray  # here, and in other places that a dry run passes: see `prepare_environment`
    import torch

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None and ray.is_initialized():
        if len(ray.nodes()) > 1:
            check_nodes()
        yield _checked(resources())
        return
    if address is None:
        try:
            with _silent_stderr():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=dashboard,
                    # Batches go through it, of which a GPU has many on their way: Ray takes its share of the memory.
                    object_store_memory=None if torch.cuda.is_available() else OBJECT_STORE_BYTES,
                    **options,
                )
        except OSError as error:
            if "AF_UNIX path length" not in str(error):
                raise
            name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
            raise ClusterError(
                f"{name}={os.environ.get(name, '')} is too long: Ray puts sockets below it, whose paths may have 107 "
                "bytes; set RAY_TMPDIR to a short folder, such as RAY_TMPDIR=/tmp"
            ) from error
    else:
        _join(address, options)
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the report says what failed, once
    try:
        if address is not None:
            check_nodes()
        yield _checked(resources())
    finally:
        ray.shutdown()


# ---------------------------------------------------------------------------------------- an existing cluster
def _join(address: str, options: Mapping[str, Any]) -> None:
    """Join the cluster at this address. Raise ClusterError where that fails."""
    import ray

    try:
        with _silent_stderr():
            ray.init(address=address, runtime_env=_runtime_env(), **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        # ConnectionError has no text where the token is missing; RuntimeError is another version of Ray or Python.
        message = str(error).strip().splitlines()
        reason = message[0] if message else "no answer"
        raise ClusterError(
            f"--address {address}: {reason}; the cluster must run, this machine must be one of its nodes, with the "
            "same Ray and Python, and have its token in ~/.ray/auth_token (see docs/cluster.md)"
        ) from error


def _runtime_env() -> dict[str, Any]:
    """Return the driver's code and settings for all workers.

    What a submitted job sets itself is left out, since Ray refuses a setting that comes twice.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    settings = {name: os.environ.get(name, value) for name, value in QUIET.items()}
    settings["CROSSFORGE_COMMIT"] = provenance.commit()  # the copy on the nodes is no git checkout
    own: dict[str, Any] = {
        "env_vars": {name: value for name, value in settings.items() if name not in job.get("env_vars", {})}
    }
    return own if "working_dir" in job else own | {"working_dir": str(ROOT), "excludes": list(EXCLUDED)}


def versions() -> dict[str, str]:
    """Return this process's versions of all that must be the same on every node: {what: version}."""
    code_and_python = {"code": _code_digest(), "Python": platform.python_version()}
    return code_and_python | {name: metadata.version(name) for name in COMPARED}


@cache
def _code_digest() -> str:
    """Return a digest of the source files of `models` and `pipelines` that this process runs."""
    digest = hashlib.sha256()
    for folder in (ROOT / "models", ROOT / "pipelines"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def check_nodes() -> None:
    """Ask every node that is up for its versions. Raise VersionError, which names each node that differs and how."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    questions = {
        node["NodeID"]: ray.remote(num_cpus=0, max_retries=1)(versions)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in _alive()
    }
    answers = {node_id: _answer(question) for node_id, question in questions.items()}
    own = versions()
    different = []
    for node in _alive():  # again: one that is gone since then does no harm
        theirs = answers.get(node["NodeID"], own)
        if unlike := [f"{k} {v}, here {own.get(k, 'none')}" for k, v in theirs.items() if v != own.get(k)]:
            role = node["Labels"].get(ROLE, "node")
            different.append(f"  {role} {node['NodeManagerAddress']}: {'; '.join(unlike)}")
    if different:
        raise VersionError(
            "these nodes differ from the one that runs the sweep:\n"
            + "\n".join(different)
            + "\nrun `ray up` again with this checkout's uv.lock, or install the environment of uv.lock there"
        )


def _answer(question: Any) -> Mapping[str, str]:
    """Wait for a node's versions; where it does not answer, return why under the name `answer`."""
    import ray

    try:
        theirs: Mapping[str, str] = ray.get(question, timeout=ANSWER_SECONDS)
        return theirs
    except (ray.exceptions.RayError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return {"answer": lines[-1] if lines else type(error).__name__}


# ------------------------------------------------------------------------------------------------- where work runs
def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def selector(role: str) -> dict[str, str] | None:
    """Return Ray's `label_selector` for work of this role; None where any node will do.

    Any node will do where no node has a role. For the role `HEAD`, which no node that starts later can have, any will
    do also where no node has this one.
    """
    roles = {node["Labels"].get(ROLE) for node in _alive()} - {None}
    return {ROLE: role} if (role in roles if role == HEAD else roles) else None


def data_in_order(where: dict[str, str] | None) -> None:
    """Set for what this process next does with Ray Data: rows stay in order, and all runs where this selector says.

    Ray Data also asks the autoscaler for such nodes only. Without a selector it would ask for any, and idle nodes with
    GPUs would be kept, or started, for work of CPUs.
    """
    import ray.data

    options = ray.data.DataContext.get_current().execution_options
    options.preserve_order, options.label_selector = True, where


def this_node() -> dict[str, str]:
    """Return Ray's `label_selector` for work that must run on the node of the process that asks."""
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def resources() -> Resources:
    """Return what the nodes that are up have, or what all that the autoscaler may start would have, if that is more.

    Needs a connection to Ray.
    """
    import ray

    nodes = _alive()
    if not any(ROLE in node["Labels"] for node in nodes):
        total = ray.cluster_resources()
        return Resources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), int(total.get("memory", 0)))
    up = _sum((node["Labels"].get(ROLE), 1, node["Resources"]) for node in nodes)
    head = {"node:__internal_head__": 0.001}
    configuration: Any = ray.get(ray.remote(num_cpus=0, resources=head)(_configuration).remote())
    possible = growth(configuration)
    return Resources(
        max(up.cpus, possible.cpus),
        max(up.gpus, possible.gpus),
        max(up.memory_bytes, possible.memory_bytes),
        up.head_bytes if selector(HEAD) else None,
        min(filter(None, (up.cpus_per_gpu, possible.cpus_per_gpu)), default=0),
    )


def _configuration() -> Mapping[str, Any]:
    """Return, on the head, what the autoscaler may start; it is empty on clusters that were started by hand.

    `ray up` leaves its file there. On Kubernetes it is the RayCluster, read as Ray's autoscaler beside the head reads
    it, which leaves it nowhere. Where that can't be read, the log says why, and what is up is all there is.
    """
    import yaml

    path = Path(BOOTSTRAP).expanduser()
    if path.is_file():
        configuration: Mapping[str, Any] = yaml.safe_load(path.read_text())
        return configuration
    name, service_account = os.environ.get("RAY_CLUSTER_NAME"), Path(SERVICE_ACCOUNT)
    if not name or not service_account.is_dir():
        return {}
    import requests
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        configuration = AutoscalingConfigProducer(name, (service_account / "namespace").read_text().strip())()
    except (OSError, ValueError, KeyError, requests.RequestException):
        log.exception("the RayCluster %s can't be read: only pods that are up count", name)
        return {}
    return configuration


def growth(configuration: Mapping[str, Any]) -> Resources:
    """Return what a cluster has with all the nodes that its configuration (cluster.yaml) allows."""
    head = configuration.get("head_node_type")
    kinds = configuration.get("available_node_types", {})
    return _sum(
        (kind.get("labels", {}).get(ROLE), 1 if name == head else kind.get("max_workers", 0), kind.get("resources", {}))
        for name, kind in kinds.items()
    )


def _sum(nodes: Iterator[tuple[str | None, int, Mapping[str, float]]]) -> Resources:
    """Add up nodes given as (role, how many of them, resources of each). Only CPUs of the role `VIDEO` count."""
    cpus = gpus = memory = 0.0
    head: float | None = None
    beside: list[float] = []
    for role, number, each in nodes:
        cpus += number * each.get("CPU", 0) * (role == VIDEO)
        gpus += number * each.get("GPU", 0)
        memory += number * each.get("memory", 0)
        if role == HEAD:
            head = (head or 0) + number * each.get("memory", 0)
        elif role != VIDEO and number and each.get("GPU", 0):
            beside.append(each.get("CPU", 0) / each["GPU"])
    return Resources(int(cpus), int(gpus), int(memory), None if head is None else int(head), min(beside, default=0))


def _checked(total: Resources) -> Resources:
    """Return it. Raise ClusterError where no node does or may do the work of `VIDEO`, which would wait for ever."""
    if not total.cpus and selector(VIDEO):
        raise ClusterError(
            f"no node with the label {ROLE}={VIDEO} is up, nor may one start; allow some in cluster.yaml, or start "
            f'Ray there with --labels "{ROLE}={VIDEO}"'
        )
    return total


def free_cpus() -> int:
    """Return how many CPUs extraction may take, at least 1. Needs a connection to Ray."""
    import ray

    free = resources().cpus if selector(VIDEO) else int(ray.available_resources().get("CPU", 1))
    return max(1, free)
