"""What the training loop asks of the other workers: there are none, or they are Ray Train's."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models
from models._distributed import form, synchronize_batch_norm
from pipelines.common import device
from pipelines.training.batches import local_batches, ray_batches
from pipelines.training.job import Job
from pipelines.training.samples import Arrays, Samples
from pipelines.training.views import Pick, View


class World(Protocol):
    """What the loop needs to know about the other workers."""

    rank: int
    size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module as it is called in training; gradients are averaged over workers."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank."""
        ...

    def batches(self, job: Job, samples: Samples, view: View, steps: range) -> Iterator[tuple[list[Pick], Arrays]]:
        """Yield this worker's picks and batch of each step."""
        ...


class Alone:
    """One worker: this process."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.device = device.best()

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def batches(self, job: Job, samples: Samples, view: View, steps: range) -> Iterator[tuple[list[Pick], Arrays]]:
        return local_batches(samples, view, steps, 0, 1)


class TrainWorker:
    """One of Ray Train's workers. Of rank `size` or more, it is left over and must not enter the loop."""

    def __init__(self, job: Job) -> None:
        import ray.train.torch  # here: the loop itself runs without Ray

        context = ray.train.get_context()
        started = context.get_world_size()
        self.rank, self.size = context.get_world_rank(), job.sharing(job.view()).workers(started)
        best = device.best()
        self.device = ray.train.torch.get_device() if best.type == "cuda" else best
        if best.type == "cuda":
            torch.cuda.set_device(self.device)
        self.group = form(self.size, "nccl" if best.type == "cuda" else "gloo") if started > 1 else None

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        twice = isinstance(module, models.Stage) and module.differentiates_twice
        synchronize_batch_norm(module, native=self.device.type == "cuda" and not twice)
        # Buffers are equal on all workers by what is done with them; copying them in every step would only cost.
        # Without `device_ids` it leaves inputs where they are: to read `repeat` on a GPU is to wait for it.
        return DistributedDataParallel(
            module, process_group=self.group, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def gather(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def batches(self, job: Job, samples: Samples, view: View, steps: range) -> Iterator[tuple[list[Pick], Arrays]]:
        compute = job.compute
        return ray_batches(
            job.samples, view, steps, self.rank, self.size, compute.num_loaders, here=compute.loaders_on_node
        )
