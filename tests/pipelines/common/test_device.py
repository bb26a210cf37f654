"""The device: a GPU that Ray counts and torch can't use is an error, unless the cluster is simulated. Precision.

Also whether operations give each time the same.
"""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from pipelines.common import device
from pipelines.common.numerics import Numerics

CPU, GPU = torch.device("cpu"), torch.device("cuda")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here torch has its GPU")


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


@without_gpu
@pytest.mark.parametrize("gpus", [1.0, 0.25])
def test_work_that_paid_for_a_gpu_does_not_run_on_the_cpu(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(device.MissingGPU, match=r"a GPU of node 10\.0\.0\.7.*no CUDA.*--gpus-per-worker 0"):
        device.best()


@without_gpu
def test_on_a_simulated_cluster_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    monkeypatch.setenv(device.FAKE_GPUS, "1")
    assert device.best() == torch.device("cpu")
    monkeypatch.setenv(device.FAKE_GPUS, "0")
    with pytest.raises(device.MissingGPU):
        device.best()


@without_gpu
def test_who_was_given_none_uses_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert device.best() == torch.device("cpu")
    pretend(monkeypatch, 1, worker=False)  # a driver: Ray gives it nothing, and can't be asked
    assert device.best() == torch.device("cpu")
    monkeypatch.delitem(sys.modules, "ray")
    assert device.best() == torch.device("cpu")


# -------------------------------------------------------------------------------------- how networks compute
@pytest.mark.parametrize(
    ("precision", "on", "has_bf16", "resolved"),
    [
        ("auto", GPU, True, "bf16"),
        ("auto", GPU, False, "fp32"),
        ("auto", CPU, True, "fp32"),
        ("fp32", GPU, True, "fp32"),
        ("bf16", CPU, False, "bf16"),
    ],
)
def test_auto_is_bf16_where_a_gpu_has_it(precision, on, has_bf16, resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where torch would emulate it, as on a V100: `is_bf16_supported()` says yes there."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
    )
    assert device.resolved(Numerics(precision=precision), on) == resolved


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_a_network_computes_at_the_precision(precision, dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with device.autocast(Numerics(precision=precision), CPU):
        assert layer(torch.ones(1, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_what_has_no_deterministic_version_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device.CUBLAS, raising=False)

    def put() -> None:  # one of the few on a CPU
        torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))

    with device.in_force(Numerics(deterministic=True)), pytest.raises(RuntimeError, match=r"put_.*deterministic"):
        put()
    assert os.environ[device.CUBLAS] == ":4096:8"
    put()  # outside, all is as before
    with device.in_force(Numerics()):
        put()


def test_fp32_is_never_tf32() -> None:
    """Convolutions of cuDNN are in TF32 unless told otherwise: ten bits in place of 23."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    with device.in_force(Numerics(precision="fp32")):
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before
