"""One worker with a whole batch, or one of two with half of it: losses, gradients and buffers of every stage.

A process of its own: `python two_workers.py <rank> <world size> <folder>`; in the folder lie the batches, and there
go the results.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models
from models._distributed import synchronize_batch_norm

EPOCHS = (1, 2, -1)  # -1: the last of the training


def without_dropout(module: nn.Module) -> nn.Module:
    """Set every dropout in the module to 0: each worker would leave out other units."""
    for part in module.modules():
        for probability in ("drop_prob", "drop_rate", "p"):  # as timm and torch name it
            if isinstance(getattr(part, probability, None), float):
                setattr(part, probability, 0.0)
    return module


def wrap(module: nn.Module, world_size: int) -> nn.Module:
    return DistributedDataParallel(module, broadcast_buffers=False) if world_size > 1 else module


def trace(paper: str, stage_name: str, whole: dict[str, torch.Tensor], rank: int, world_size: int) -> list[Any]:
    """Train a step in each of `EPOCHS`, from the same weights; return losses, the last gradients, and buffers."""
    cfg, stage = models.config(paper, "small"), models.stage(paper, stage_name)
    torch.manual_seed(0)
    module = without_dropout(stage(cfg)).train()
    size = len(whole["image"]) // world_size
    batch = {name: value[rank * size : (rank + 1) * size] for name, value in whole.items() if value.ndim}
    optimizer, _ = module.optimizer(4 * stage.feed(cfg).num_epochs)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    if world_size > 1:
        synchronize_batch_norm(module)
    traces = []
    for epoch in EPOCHS:
        module.start_epoch(epoch if epoch > 0 else stage.feed(cfg).num_epochs)
        model = wrap(module, world_size)
        losses: list[float] = []

        def closure(model: nn.Module = model, losses: list[float] = losses) -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = model({**batch, "step_seed": whole["step_seed"], "repeat": torch.tensor(bool(losses))})["loss"]
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        traces.append({"losses": losses, "gradients": gradients, "buffers": buffers})
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(start[name])
        optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)
    return traces


def main() -> None:
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    # In 32 bits the order in which a batch is summed already moves some gradients by a hundredth (batch norm over few
    # pixels, ReLUs at their kinks): in 64 bits what is left is a difference of the arithmetic.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    for path in sorted(folder.glob("*.batch")):
        paper, stage_name = path.stem.split("-")
        torch.save(
            trace(paper, stage_name, torch.load(path), rank, world_size), folder / f"{path.stem}.{world_size}.{rank}"
        )
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
