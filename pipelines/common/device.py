"""Where tensors live, and in which precision they are multiplied: the same for training and scoring.

`CROSSFORGE_FAKE_GPUS=1` is for simulated clusters, whose nodes claim GPUs that they don't have (`ray start
--num-gpus 1`): what Ray places on such a GPU then computes on the CPU. Workers inherit it from `ray start`.
"""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

FAKE_GPUS = "CROSSFORGE_FAKE_GPUS"


class MissingGPU(RuntimeError):
    """Ray gave this process a GPU that torch can't use; the text names the node and says what to do."""


def best() -> torch.device:
    """The GPU if there is one, else the CPU. Raises MissingGPU rather than use the CPU for work that paid for a GPU."""
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
    """The address of the node of which Ray gave this process a GPU, or a part of one; None if it gave none."""
    ray = sys.modules.get("ray")  # not imported for this: whoever has not is none of Ray's workers
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return None
    # Not `ray.get_gpu_ids`: empty where CUDA_VISIBLE_DEVICES is, whatever the worker was given.
    if not ray.get_runtime_context().get_assigned_resources().get("GPU"):
        return None
    return str(ray.util.get_node_ip_address())


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 on a GPU that has it, else full precision."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
