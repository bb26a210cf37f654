"""A GPU that Ray counts and torch can't use is an error, unless the cluster is simulated."""

import sys
from types import SimpleNamespace

import pytest
import torch

from pipelines.common import device

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here torch has its GPU")


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: float, *, worker: bool = True) -> None:
    """Ray, connected, in a process that it gave so many GPUs."""
    context = SimpleNamespace(worker=SimpleNamespace(mode=int(worker)), get_assigned_resources=lambda: {"GPU": gpus})
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        get_runtime_context=lambda: context,
        WORKER_MODE=1,
        util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv(device.FAKE_GPUS, raising=False)


@pytest.mark.parametrize("gpus", [1.0, 0.25])
def test_work_that_paid_for_a_gpu_does_not_run_on_the_cpu(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(device.MissingGPU, match=r"a GPU of node 10\.0\.0\.7.*no CUDA.*--gpus-per-worker 0"):
        device.best()


def test_on_a_simulated_cluster_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    monkeypatch.setenv(device.FAKE_GPUS, "1")
    assert device.best() == torch.device("cpu")
    monkeypatch.setenv(device.FAKE_GPUS, "0")
    with pytest.raises(device.MissingGPU):
        device.best()


def test_who_was_given_none_uses_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert device.best() == torch.device("cpu")
    pretend(monkeypatch, 1, worker=False)  # a driver: Ray gives it nothing, and can't be asked
    assert device.best() == torch.device("cpu")
    monkeypatch.delitem(sys.modules, "ray")
    assert device.best() == torch.device("cpu")
