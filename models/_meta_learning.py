"""Meta-learning over the domains of a batch: which of them is held out, and a gradient step inside a loss.

Delocate's Algorithm 1 is made of these: its domains are kinds of manipulation.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from models._distributed import total, world_size
from models._stage import ON_CPU, Batch, on_cpu


def split_domains(domains: Iterable[int], seed: int) -> tuple[list[int], int]:
    """Draw the meta-test domain from those in a batch; return the meta-train domains, and it.

    Raises ValueError for a batch of one domain.
    """
    there = sorted(domains)
    if len(there) < 2:
        raise ValueError(
            f"meta-learning needs faces of at least 2 manipulations in a step, got domains {there};"
            " train on more of them, or set localize.use_meta to false"
        )
    generator = torch.Generator().manual_seed(seed)
    test_domain = there.pop(int(torch.randint(len(there), (), generator=generator)))
    return there, test_domain


def by_domain(batch: Batch) -> dict[int, Batch]:
    """Return the faces of each domain in a batch, in their order."""
    domains, counts = (found.tolist() for found in on_cpu(batch, "domain").unique(return_counts=True))
    rows_of_domains = batch["domain"].argsort(stable=True).split(counts)
    of_faces = {name: value for name, value in batch.items() if value.ndim > 0 and not name.endswith(ON_CPU)}
    return {
        domain: {name: value[rows] for name, value in of_faces.items()}
        for domain, rows in zip(domains, rows_of_domains, strict=True)
    }


def inner_update(parameters: Mapping[str, Tensor], loss: Tensor, lr: float, *, first_order: bool) -> dict[str, Tensor]:
    """Return the parameters after a gradient step, along the mean gradient of all workers; the given ones stay.

    first_order: the step counts as a constant, instead of as a function of the parameters, in what is
    computed from its result.
    """
    grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=not first_order, retain_graph=True)
    flat = total(torch.cat([grad.flatten() for grad in grads])) / world_size()
    sizes = [grad.numel() for grad in grads]
    return {
        name: value - lr * grad.view_as(value)
        for (name, value), grad in zip(parameters.items(), flat.split(sizes), strict=True)
    }
