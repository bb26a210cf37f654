"""The device and the precision that training and scoring compute with.

`CROSSFORGE_FAKE_GPUS=1` is for simulated clusters, whose nodes claim GPUs that they don't have (`ray start
--num-gpus 1`): work that Ray places on such a GPU then runs on the CPU. Workers inherit the variable from `ray start`.
"""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

FAKE_GPUS = "CROSSFORGE_FAKE_GPUS"


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


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which the GPU computes in bf16 if it can; on other devices it changes nothing."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
