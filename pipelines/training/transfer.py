"""Batches to the device that trains: copied while the step before is computed, so that no step waits for them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipelines.training.batches import ahead
from pipelines.training.samples import Arrays


def to_device(batches: Iterator[tuple[Any, Arrays]], on: torch.device) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Yield batches as tensors on a device, each with what comes with it; on a GPU the next one is on its way.

    To a GPU they go from pinned memory, by a stream of their own, which a thread of this process feeds. On a CPU they
    share the arrays' memory.
    """
    if on.type != "cuda":
        for told, arrays in batches:
            yield told, tensors(arrays)
        return
    side = torch.cuda.Stream(on)

    def send(told: Any, arrays: Arrays) -> tuple[Any, dict[str, Tensor], torch.cuda.Event]:
        with torch.cuda.device(on), torch.cuda.stream(side):
            # torch keeps the pinned memory until the copy is done.
            sent = {name: value.pin_memory().to(on, non_blocking=True) for name, value in tensors(arrays).items()}
            return told, sent, side.record_event()

    for told, batch, arrived in ahead(send(*each) for each in batches):
        computing = torch.cuda.current_stream(on)
        computing.wait_event(arrived)
        for value in batch.values():
            value.record_stream(computing)  # its memory must not be used by `side` again before the step is done
        yield told, batch


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Return arrays as tensors on the CPU, of the same memory where it may be written to."""
    # What comes from Ray's object store may not be, which tensors do not know of.
    owned = {name: value if value.flags.writeable else value.copy() for name, value in arrays.items()}
    return {name: torch.from_numpy(value) for name, value in owned.items()}
