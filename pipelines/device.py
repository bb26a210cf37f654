"""Where tensors live, and in which precision they are multiplied: the same for training and scoring."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def best() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 on a GPU that has it, else full precision."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
