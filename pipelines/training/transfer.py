"""Batches to the device that trains: copied while the step before is computed, so that no step waits for them."""

from collections.abc import Collection, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from models._stage import ON_CPU
from pipelines.training.batches import ahead
from pipelines.training.samples import Arrays


def to_device(
    batches: Iterator[tuple[Any, Arrays]], on: torch.device, left: Collection[str] = ()
) -> Generator[tuple[Any, dict[str, Tensor]], None, None]:
    """Yield batches as tensors on a device, each with what comes with it; on a GPU the next one is on its way.

    To a GPU they go from pinned memory, by a stream of their own, which a thread of this process feeds. On a CPU they
    share the arrays' memory. left: names of those that stay on the CPU as well, see `models._stage.on_cpu`.
    """
    if on.type != "cuda":
        for told, arrays in batches:
            batch = tensors(arrays)
            yield told, batch | left_on_cpu(batch, left)
        return
    side = torch.cuda.Stream(on)

    def send(told: Any, arrays: Arrays) -> tuple[Any, dict[str, Tensor], dict[str, Tensor], torch.cuda.Event]:
        batch = tensors(arrays)
        with torch.cuda.device(on), torch.cuda.stream(side):
            # torch keeps the pinned memory until the copy is done.
            sent = {name: value.pin_memory().to(on, non_blocking=True) for name, value in batch.items()}
            return told, sent, left_on_cpu(batch, left), side.record_event()

    for told, batch, here, arrived in ahead(send(*each) for each in batches):
        computing = torch.cuda.current_stream(on)
        computing.wait_event(arrived)
        for value in batch.values():
            value.record_stream(computing)  # its memory must not be used by `side` again before the step is done
        yield told, batch | here


def left_on_cpu(batch: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return those of a batch on the CPU that stay there, under the names of such copies."""
    return {name + ON_CPU: value for name, value in batch.items() if name in names}


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Return arrays as tensors on the CPU, of the same memory where it may be written to."""
    # What comes from Ray's object store may not be, which tensors do not know of.
    owned = {name: value if value.flags.writeable else value.copy() for name, value in arrays.items()}
    return {name: torch.from_numpy(value) for name, value in owned.items()}
