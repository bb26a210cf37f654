"""What training and scoring compute with: the device, the precision, and whether each time the same.

`CROSSFORGE_FAKE_GPUS=1` is for simulated clusters, whose nodes claim GPUs that they don't have (`ray start
--num-gpus 1`): work that Ray places on such a GPU then runs on the CPU. Workers inherit the variable from `ray start`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any, Literal

import torch

from pipelines.common.numerics import Numerics
from pipelines.common.provenance import MadeWith

FAKE_GPUS = "CROSSFORGE_FAKE_GPUS"
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS computes each time the same only with this set before its first use


class MissingGPU(RuntimeError):
    """Ray gave this process a GPU that torch can't use; the message names the node and says what to do."""


def best() -> torch.device:
    """Return the GPU if there is one, else the CPU.

    Raise MissingGPU in a worker to which Ray gave a GPU that torch can't use: it must not fall back on the CPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if (node := _promised()) and os.environ.get(FAKE_GPUS) != "1":
        raise MissingGPU(
            f"Ray gave this worker a GPU of node {node}, but torch {torch.__version__} finds no CUDA there; install "
            "the NVIDIA driver and a torch built for CUDA on that node, start Ray there with --num-gpus 0, or choose "
            "--gpus-per-worker 0"
        )
    return torch.device("cpu")


def _promised() -> str | None:
    """Return the address of this node if Ray gave this process a GPU of it, or a part of one; else None."""
    ray = sys.modules.get("ray")  # not imported for this: a process that has not imported it is no worker of Ray's
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return None
    # Not `ray.get_gpu_ids`: empty where CUDA_VISIBLE_DEVICES is, whatever the worker was given.
    if not ray.get_runtime_context().get_assigned_resources().get("GPU"):
        return None
    return str(ray.util.get_node_ip_address())


def resolved(numerics: Numerics, on: torch.device) -> Literal["fp32", "bf16"]:
    """Return what the precision is on a device."""
    if numerics.precision != "auto":
        return numerics.precision
    # Emulated, it would be slower than fp32.
    has_bf16 = on.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def autocast(numerics: Numerics, on: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a network computes on a device at the precision; its weights stay fp32."""
    if resolved(numerics, on) == "bf16":
        return torch.autocast(on.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def in_force(numerics: Numerics, *, same_shapes: bool = False) -> Iterator[None]:
    """Set this process up for the block, backward passes included: fp32 is never TF32; deterministic, if asked for.

    same_shapes: all batches in it are alike, so that it pays to try which of cuDNN's algorithms is the fastest.
    In the block an operation of which CUDA has no deterministic version raises RuntimeError, which names it.
    """
    cudnn, before = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    benchmark, matmul, conv = cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32
    if numerics.deterministic:
        os.environ.setdefault(CUBLAS, ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = False
    cudnn.benchmark = (cudnn.benchmark or same_shapes) and not numerics.deterministic
    _use_deterministic(numerics.deterministic)
    try:
        yield
    finally:
        _use_deterministic(before)
        cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32 = benchmark, matmul, conv


def _use_deterministic(wanted: bool) -> None:
    """Say whether torch may choose algorithms whose sums come in no fixed order."""
    if torch.are_deterministic_algorithms_enabled() != wanted:  # to say it again imports torch's compiler: a second
        torch.use_deterministic_algorithms(wanted)


def made_with(numerics: Numerics, on: torch.device) -> MadeWith:
    """Return what numbers depend on besides code, settings and data: versions, the device, how it computes."""
    gpu = on.type == "cuda"
    return {
        "torch": torch.__version__,
        "timm": version("timm"),
        "cuda": str(torch.version.cuda) if gpu else "none",
        "device": torch.cuda.get_device_name(on) if gpu else "cpu",
        "precision": resolved(numerics, on),
        "deterministic": "yes" if numerics.deterministic else "no",
    }
