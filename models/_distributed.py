"""Sums, gathering and batch norm over workers: a stage computes the same on one and on many. Alone, all are no-ops.

Everything here can be differentiated, twice where the operation around it can. Gradients are meant for
DDP, which averages them over workers: the gradient that `total` and `gather` pass back is the sum over
workers of what each asks for, so a loss that every worker computes from all samples comes out right.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=30)  # as long as Ray's; NCCL's own 10 are short for one that validates longer videos

_alone = False
_group: Any = None  # a process group; None: all processes
_norms: Any = None  # the same processes, for batch norm: on CPUs its sums do not queue behind gradients


def form(number: int, backend: str) -> Any:
    """Let the first `number` processes compute together from now on; return their process group.

    All processes must call it, also those that are left out; these must not compute afterwards.
    backend: `nccl` for tensors on GPUs, `gloo` for those on CPUs, whatever the processes found each other with.
    """
    global _group, _norms
    _group = dist.new_group(range(number), timeout=TIMEOUT, backend=backend)
    # Two communicators of NCCL at work at once may wait for each other.
    _norms = _group if backend == "nccl" else dist.new_group(range(number), timeout=TIMEOUT, backend=backend)
    return _group


def world_size() -> int:
    """Return the number of workers that compute together."""
    return dist.get_world_size(_group) if not _alone and dist.is_available() and dist.is_initialized() else 1


@contextmanager
def alone() -> Iterator[None]:
    """Let a worker compute as if there were no others: on validation samples, of which they hold unequal numbers."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


class _Total(torch.autograd.Function):
    """A differentiable sum over workers; torch's own is deprecated in favour of a private one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        y = x.contiguous().clone()
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(grads[0], ctx.group), None  # once more differentiable


def total(x: Tensor) -> Tensor:
    """Return the sum over workers."""
    return _Total.apply(x, _group) if world_size() > 1 else x


def gather(x_B: Tensor) -> Tensor:
    """Return the rows of all W workers (W B, ...), in the order of their ranks. B must be equal on all of them."""
    return _gather(x_B, _group) if world_size() > 1 else x_B


def _gather(x_B: Tensor, group: Any) -> Tensor:
    own = [x_B if rank == dist.get_rank(group) else torch.zeros_like(x_B) for rank in range(world_size())]
    gathered: Tensor = _Total.apply(torch.cat(own), group)
    return gathered


def mean_over_workers(sum_of_own: Tensor, count_of_own: Tensor) -> Tensor:
    """Return a loss that is a mean over items of which workers hold unequal numbers.

    Its mean over workers, which DDP makes of it, is the sum of all over the number of all; 0 where there are none.
    """
    return sum_of_own * world_size() / total(count_of_own.detach().float()).clamp(min=1)


def broadcast(x: Tensor) -> Tensor:
    """Return the first worker's tensor on all workers. Not differentiated."""
    if world_size() > 1:
        x = x.detach().clone()
        dist.broadcast(x, src=0, group=_group)
    return x


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the samples of all workers, in training; else as `nn.BatchNorm2d`.

    torch's own has no CPU version and no second derivative, which meta-learning needs. Each layer takes one collective
    forward and one backward, like torch's own.
    """

    after: nn.Module  # what timm's layers do behind the norm

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self._global(x) if self.training and world_size() > 1 else super().forward(x))

    def _global(self, x_BCHW: Tensor) -> Tensor:
        """Normalise by mean and variance over the samples of all workers, and move the running statistics."""
        var_C, mean_C = torch.var_mean(x_BCHW.float(), dim=(0, 2, 3), correction=0)
        count_1 = torch.full_like(mean_C[:1], x_BCHW.numel() // x_BCHW.shape[1])
        of_workers = _gather(torch.cat([mean_C, var_C, count_1])[None], _norms)
        mean_WC, var_WC, count_W1 = of_workers.split([len(mean_C), len(var_C), 1], dim=1)
        count_all = count_W1.sum()
        mean_all_C = (mean_WC * count_W1).sum(0) / count_all
        # Around the common mean: the difference of two large squares would lose the digits.
        var_all_C = ((var_WC + (mean_WC - mean_all_C).square()) * count_W1).sum(0) / count_all
        self._update_running(mean_all_C.detach(), var_all_C.detach() * count_all / (count_all - 1))
        scale_C = (var_all_C + self.eps).rsqrt()
        if self.affine:
            scale_C = scale_C * self.weight
        shift_C = -mean_all_C * scale_C
        if self.affine:
            shift_C = shift_C + self.bias
        y = torch.addcmul(shift_C[:, None, None], x_BCHW.float(), scale_C[:, None, None])
        return y.to(x_BCHW.dtype)

    @torch.no_grad()
    def _update_running(self, mean_C: Tensor, var_C: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_C.to(self.running_mean), momentum)
        self.running_var.lerp_(var_C.to(self.running_var), momentum)


class NativeSyncBatchNorm(nn.SyncBatchNorm):
    """The same by torch's own, on GPUs only and once differentiable: it keeps activations as they come, in 16 bits."""

    after: nn.Module  # what timm's layers do behind the norm

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(x))


def synchronize_batch_norm(module: nn.Module, *, native: bool = False) -> None:
    """Replace every batch norm in `module` by one over all workers, with the very same parameters and buffers.

    native: by torch's own, see `NativeSyncBatchNorm`.
    """
    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, nn.BatchNorm2d) or isinstance(norm, SyncBatchNorm):
                continue
            options = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            fresh = NativeSyncBatchNorm(*options, process_group=_norms) if native else SyncBatchNorm(*options)
            fresh.weight, fresh.bias = norm.weight, norm.bias
            fresh.running_mean, fresh.running_var = norm.running_mean, norm.running_var
            fresh.num_batches_tracked = norm.num_batches_tracked
            # A batch norm of timm also drops and activates, by children of these names.
            fresh.after = nn.Sequential(*(getattr(norm, child) for child in ("drop", "act") if hasattr(norm, child)))
            setattr(parent, name, fresh.train(norm.training))  # under the old name, so weights are found again
