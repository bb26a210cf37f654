"""Sharpness-aware minimization: an optimizer, so that the training loop needs to know nothing of it.

Paper: Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, Algorithm 1, not adaptive. With several workers both gradients are averaged over
all of them, so the step is that of one worker with the whole batch (the paper's own multi-device recipe
climbs along local gradients, which is another algorithm).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SAM(Optimizer):
    """An optimizer that climbs `rho` along the gradient, takes the gradient there, and steps `base` from where it was.

    step(closure): the closure clears the gradients, computes the loss, calls backward and returns the loss; it
    runs twice. Learning rates, schedules and checkpoints are those of `base`. Raises ValueError unless rho > 0.
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        if not rho > 0:
            raise ValueError(f"rho must be positive, got {rho}")
        super().__init__(base.param_groups, base.defaults)
        self.base, self.rho = base, rho
        self.param_groups = base.param_groups  # the very same, so that a schedule reaches the base

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # SAM can't do without
        """Take one step. Returns the loss of the first pass, at the parameters as they were."""
        with torch.enable_grad():
            loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        before = [p.clone() for p in moved]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # All parameters at once: on a GPU a launch for each of hundreds takes longer than the arithmetic.
        torch._foreach_add_(moved, torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))
        with torch.enable_grad():
            closure()
        torch._foreach_copy_(moved, before)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups
