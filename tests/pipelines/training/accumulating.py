"""One worker, or one of two, through the training loop with steps cut in N: the gradients of every step.

A process of its own: `python accumulating.py <rank> <world size> <folder> <cuts> ...`; there go the gradients.
Samples are made up here, so that no video is needed; everything else is the loop's own.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models._distributed import synchronize_batch_norm
from models._key_region import num_hidden_of
from pipelines.experiments.experiment import Experiment
from pipelines.training import loop, stages, views
from pipelines.training.job import Compute, Job
from pipelines.training.samples import Arrays
from pipelines.training.views import Pick, Video

NUM_STEPS = 2
# (paper, stage): changes of the small preset, so that a step has 8 samples and an epoch one step.
STAGES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("lre", "reconstruct"): {"face.input_px": 64, "reconstruct.batch_size": 8, "video_frames": 1},
    ("lre", "detect"): {"face.input_px": 64, "detect.batch_size": 8, "detect.steps_per_epoch": 1},
    ("delocate", "recover"): {"recover.batch_size": 8, "recover.warmup_epochs": 0},
    ("delocate", "finetune"): {"finetune.batch_size": 8, "finetune.warmup_epochs": 0},
    # Without batch norm: what is left of the difference is that of the cuts alone.
    ("plain", "detect"): {"backbone": "test_vit", "input_px": 160, "batch_size": 8, "samples_per_video": 1},
}
SMALLER = {"delocate": {"clip.input_px": 32, "clip.num_frames": 4, "vit.width": 32, "vit.depth": 2, "vit.num_heads": 2}}
VIDEOS = tuple(
    Video(f"ffpp/{label}/{i}", label, "real" if label == 0 else "Face2Face", f"ffpp/{i}")
    for i in range(8)
    for label in (0, 1)
)


def experiment(paper: str, stage: str) -> Experiment:
    epochs = "num_epochs" if paper == "plain" else f"{stage}.num_epochs"
    changes = {**SMALLER.get(paper, {}), **STAGES[paper, stage], epochs: NUM_STEPS}
    base = Experiment(model=paper, train_on="ffpp", test_on=(), preset="small")
    return base.override({f"model.{name}": value for name, value in changes.items()})


def arrays(paper: str, stage: str, cfg: Any, step: int, count: int) -> Arrays:
    """A whole step. In delocate's `recover` every clip hides another number of tokens, as facial parts do."""
    rng = np.random.default_rng(step)
    if paper == "delocate":
        shape, tokens = (cfg.clip.num_frames, cfg.clip.input_px, cfg.clip.input_px, 3), cfg.clip.num_tokens
    else:
        side = cfg.face.input_px if paper == "lre" else cfg.input_px
        shape, tokens = (side, side, 3), cfg.grid**2 if paper == "lre" else 0
    made = {"image": rng.integers(0, 256, (count, *shape), np.uint8), "label": np.arange(count) % 2}
    if stage in ("recover", "reconstruct") or paper == "lre":
        hidden = [1 + i if stage == "recover" else num_hidden_of(cfg.mask.ratio, tokens) for i in range(count)]
        mask = np.stack([rng.permutation(tokens) < number for number in hidden])
        made["mask"] = mask if stage == "recover" else mask[:, None]
    return made


class World:
    """This process, with those beside it, and samples that need no video."""

    def __init__(self, paper: str, stage: str, rank: int, size: int) -> None:
        self.name, self.rank, self.size, self.device = (paper, stage), rank, size, torch.device("cpu")

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        synchronize_batch_norm(module)
        return DistributedDataParallel(module, broadcast_buffers=False)

    def gather(self, value: Any) -> list[Any]:
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def batches(self, job: Any, samples: Any, view: Any, steps: range) -> Iterator[tuple[list[Pick], Arrays]]:
        for step in steps:
            whole = arrays(*self.name, job.config, step, view.step_size)
            size = view.step_size // self.size
            yield [], {name: value[self.rank * size : (self.rank + 1) * size] for name, value in whole.items()}


def gradients(paper: str, stage: str, world: World, cuts: int, folder: Path) -> dict[str, Any]:
    """`steps`: the gradients of each; `losses`: what the loop reports of each epoch; `spec` and `summary`."""
    base = experiment(paper, stage)
    asked = {f"{paper}.{stage}": cuts}
    planned = {one.name: one for one in stages.plan(base, dict.fromkeys(views.VIEWS, "rows"), folder, asked)}
    for one in planned.values():
        if one.name != stage:
            torch.manual_seed(7)
            one.folder.mkdir(parents=True, exist_ok=True)
            weights = loop.models.stage(paper, one.name)(base.config()).state_dict()
            safetensors.torch.save_file(weights, one.folder / f"weights-{world.rank}.safetensors")
            (one.folder / f"weights-{world.rank}.safetensors").replace(one.folder / "weights.safetensors")
    job = Job(
        planned=planned[stage],
        config=base.config(),
        train=VIDEOS,
        select=(),
        faces={},
        earlier=planned,
        compute=Compute(accumulate={planned[stage].paper + "." + stage: cuts}),
    )
    steps: list[dict[str, torch.Tensor]] = []
    step = loop._step

    def recorded(model: nn.Module, *arguments: Any) -> dict[str, float]:
        parts = step(model, *arguments)
        own = model.module if isinstance(model, DistributedDataParallel) else model
        steps.append({name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None})
        return parts

    loop._step = recorded  # type: ignore[assignment]
    try:
        loop.loop(job, world)
    finally:
        loop._step = step
    losses = [line["train/loss"] for line in job.planned.curve()]
    return {"steps": steps, "losses": losses, "summary": dict(job.planned.summary())}


def main() -> None:
    rank, size, folder, all_cuts = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # what is left is a difference of the arithmetic, not of rounding
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    loop.validate = lambda *arguments: {"loss": 1.0, "auc": 0.5, "accuracy": 0.5}  # type: ignore[assignment]
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    for paper, stage in STAGES:
        for cuts in map(int, all_cuts):
            world = World(paper, stage, rank, size)
            found = gradients(paper, stage, world, cuts, folder / f"storage-{size}-{cuts}")
            torch.save(found, folder / f"{paper}-{stage}.{size}.{cuts}.{rank}")
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
