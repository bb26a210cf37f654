"""How networks compute, as a setting: without torch, so that an experiment is declared without it. See `device`."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """How networks compute in training, validation and scoring: settings of an experiment."""

    precision: Precision = "auto"  # auto: bf16 on GPUs that have it, else fp32
    deterministic: bool = False  # True: the same result each time on a GPU too, or an error that names the operation
