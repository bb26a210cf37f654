"""What fits on a GPU, and how long it would train: every stage at the papers' sizes, computed on a CPU.

    uv run python benchmarks/memory.py [--methods delocate plain] [--gpus 1 2 4] [--no-bf16] [--markdown] [--tflops 30]

Computed, not measured on a GPU (`benchmarks/training.py --preset paper --device cuda` measures). A stage's memory is

    weights      parameters and buffers, float32
  + gradients    of what is trained, float32. With several GPUs they lie in DDP's buckets (`gradient_as_bucket_view`)
                 and count once; that is so for cuts=1 only, as those of earlier cuts lie beside the buckets
  + optimizer    its state after a step, and the weights that SAM keeps while it climbs
  + activations  what autograd keeps for the backward pass, counted with `saved_tensors_hooks` on a CPU under bf16
                 autocast, each storage once, weights and buffers not: a part that does not grow with the samples
                 (weights cast to bf16) and so much for each sample, from two small batches
  + margin       `MARGIN` of the activations, for gradients of activations, convolutions' workspace and
                 fragmentation, and `CONTEXT_BYTES` for CUDA and its libraries

CPU and CUDA autocast differ in single operations (layer norm and softmax are float32 on CUDA); `--no-bf16` counts all
in float32, for GPUs without bf16. In `recover` a fifth of the tokens is hidden, as with the smaller facial parts: then
most tokens are seen, and most memory is needed. Weights are random and samples are noise: neither changes a size.

Columns: parameters; fixed = all but what grows with the samples; each sample; samples of a step; then GB on each GPU
when a step is shared by so many, and the smallest of the common cards that holds it. `cut` is the smallest N of
`--accumulate` with which one card of 16 GB holds the step, where the stage can be cut.

Then the work: floating point operations of a sample, three times those of the forward pass as torch counts them
(matrix products and convolutions; its count of a depthwise convolution's backward pass is far too high), with SAM six
times; samples of a whole training on FaceForensics++ (720 real videos, 4 x 720 fake ones); and hours on one GPU that
keeps up `--tflops`. That rate is an assumption.
"""

import argparse
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import models
from models._sam import SAM
from pipelines.training.views import Video, View

GB = 1e9
CARDS_GB = (16, 24, 40, 80)
MARGIN = 0.15
CONTEXT_BYTES = 1e9
NUM_DOMAINS = 4  # FaceForensics++'s manipulations
FFPP_TRAIN = 720  # its training videos: real ones, and of each manipulation
HIDDEN = 0.2  # share of the tokens in `recover`
BASELINE = {"backbone": "tf_efficientnet_b4.ap_in1k", "input_px": 380}  # of LAA-Net's and ADFD's tables

Batch = Mapping[str, Tensor]


# ------------------------------------------------------------------------------------------- samples
def _noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _labels(count: int) -> Tensor:
    return torch.arange(count) % 2


def _hidden(count: int, tokens: int, share: float) -> Tensor:
    """Return a mask (B, N) bool that hides a share of the tokens, the same in each sample."""
    return (torch.arange(tokens) < round(share * tokens)).expand(count, tokens).contiguous()


def _frames(px: int) -> Callable[[int], Batch]:
    return lambda count: {"image": _noise(count, px, px, 3), "label": _labels(count)}


def _lre(cfg: Any) -> Callable[[int], Batch]:
    hidden = cfg.mask.ratio
    return lambda count: {**_frames(cfg.face.input_px)(count), "mask": _hidden(count, cfg.grid**2, hidden)[:, None]}


def _clips(cfg: Any, hidden: float) -> Callable[[int], Batch]:
    clip = cfg.clip

    def make(count: int) -> Batch:
        image = _noise(count, clip.num_frames, clip.input_px, clip.input_px, 3)
        return {"image": image, "label": _labels(count), "mask": _hidden(count, clip.num_tokens, hidden)}

    return make


def _domains(cfg: Any) -> Callable[[int], Batch]:
    px = cfg.clip.input_px

    def make(count: int) -> Batch:
        domain = torch.arange(count) // 2 % NUM_DOMAINS
        mask = {"mask": _noise(count, px, px) % 2, "mask_valid": torch.ones(count, dtype=torch.bool)}
        return {**_frames(px)(count), "domain": domain, "recovered": _noise(count, px // 4, px // 4, 3), **mask}

    return make


def _pairs(px: int, map_px: int) -> Callable[[int], Batch]:
    """Return what makes real faces and their pseudo-fakes, with what LAA-Net's heads learn, which ADFD ignores."""

    def make(count: int) -> Batch:
        maps = {name: _noise(count, 2, map_px, map_px) for name in ("heatmap", "consistency")}
        label = torch.tensor([0, 1]).expand(count, 2).contiguous()
        faces = {"image": _noise(count, 2, px, px, 3), "label": label, "key": torch.arange(count)}
        return {**faces, **maps, "anchor": torch.zeros(count, 2, dtype=torch.int64)}

    return make


SAMPLES: Mapping[tuple[str, str], Callable[[Any], Callable[[int], Batch]]] = {
    ("plain", "detect"): lambda cfg: _frames(cfg.input_px),
    ("mc_lcr", "detect"): lambda cfg: _frames(cfg.input_px),
    ("lre", "reconstruct"): _lre,
    ("lre", "detect"): _lre,
    ("delocate", "recover"): lambda cfg: _clips(cfg, HIDDEN),
    ("delocate", "finetune"): lambda cfg: _clips(cfg, HIDDEN),
    ("delocate", "localize"): _domains,
    ("adfd", "detect"): lambda cfg: _pairs(cfg.data.input_px, 1),
    ("laa_net", "detect"): lambda cfg: _pairs(cfg.data.input_px, cfg.data.input_px // 4),
}


# ------------------------------------------------------------------------------------------- counting
@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a stage needs in training, in bytes; `step` in samples over all GPUs."""

    name: str
    parameters: int
    weights: float
    gradients: float
    optimizer: float
    kept: float  # activations that do not grow with the samples
    each: float  # activations for each sample
    step: int
    unit: int  # what a GPU's share of a step must be a multiple of
    can_be_cut: bool
    flop: float  # of one sample, forward and backward
    samples: int  # of a whole training on FaceForensics++

    def total(self, num_gpus: int, cuts: int = 1) -> float:
        """Return the bytes on each of some GPUs that share a step, computed in so many cuts."""
        activations = self.kept + self.each * self.step / num_gpus / cuts
        fixed = self.weights + self.gradients + self.optimizer
        return fixed + (1 + MARGIN) * activations + CONTEXT_BYTES

    @property
    def fixed(self) -> float:
        """All but what grows with the samples."""
        return self.total(1) - (1 + MARGIN) * self.each * self.step

    def cuts_for(self, card_gb: int) -> int | None:
        """Return the smallest `--accumulate` with which one card holds a step; None: there is none."""
        possible = [n for n in range(1, self.step + 1) if self.step % (n * self.unit) == 0] if self.can_be_cut else [1]
        return next((n for n in possible if self.total(1, n) <= card_gb * GB), None)


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept_for_backward(module: nn.Module, batch: Batch, bf16: bool) -> int:
    """Return the bytes that autograd keeps after a forward pass, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}  # holds them, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        out = module({**batch, "step_seed": torch.tensor(0), "repeat": torch.tensor(False)})
    assert out["loss"].requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def flop_of(module: nn.Module, batch: Batch) -> int:
    """Return the operations of a forward pass and of a backward pass that is twice the work."""
    with FlopCounterMode(display=False) as counter:
        module({**batch, "step_seed": torch.tensor(0), "repeat": torch.tensor(False)})
    return 3 * counter.get_total_flops()


def training_samples(stage: type[models.Stage], feed: models.Feed) -> int:
    """Return the samples of a whole training on FaceForensics++."""
    ids = range(FFPP_TRAIN)
    videos = [Video(f"real/{i}", 0, "real", str(i)) for i in ids]
    videos += [Video(f"{method}/{i}", 1, str(method), str(i)) for method in range(NUM_DOMAINS) for i in ids]
    view = View(stage.view, videos, feed, seed=0)
    return view.steps_per_epoch * view.step_size * feed.num_epochs


def optimizer_bytes(module: models.Stage) -> int:
    """Return the bytes of the state after one step, and of the weights that SAM keeps in its second pass."""
    optimizer, _ = module.optimizer(1000)
    trained = [p for p in module.parameters() if p.requires_grad]

    def closure() -> Tensor:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(())

    optimizer.step(closure)  # type: ignore[arg-type]  # torch's own closures return tensors
    state = optimizer.state_dict()["state"].values()
    tensors = [value for entry in state for value in entry.values() if isinstance(value, Tensor)]
    module.zero_grad(set_to_none=True)
    return bytes_of(tensors) + (bytes_of(trained) if isinstance(optimizer, SAM) else 0)


def memory(paper: str, stage: type[models.Stage], cfg: Any, bf16: bool, note: str = "") -> Memory:
    """Count what a stage needs."""
    feed = stage.feed(cfg)
    module = stage(cfg).train()
    module.start_epoch(feed.num_epochs)  # nothing that is freed later is still frozen
    trained = [p for p in module.parameters() if p.requires_grad]
    make = SAMPLES[paper, stage.name](cfg)
    domains = NUM_DOMAINS if stage.view == "domain_frames" else 1
    small = (1, 2) if "clips" in stage.view else (2 * domains, 4 * domains)
    counted = []
    for count in small:
        counted.append(kept_for_backward(module, make(count), bf16))
        gc.collect()
    each = (counted[1] - counted[0]) / (small[1] - small[0])
    real_only = stage.view.startswith("real")
    passes = 2 if isinstance(module.optimizer(1000)[0], SAM) else 1
    return Memory(
        name=f"{paper}.{stage.name}{note}",
        parameters=sum(p.numel() for p in module.parameters()),
        weights=bytes_of((*module.parameters(), *module.buffers())),
        gradients=bytes_of(trained),
        optimizer=optimizer_bytes(module),
        kept=counted[0] - small[0] * each,
        each=each,
        step=feed.batch_size * domains,
        unit=1 if real_only else 2 * domains,
        can_be_cut=stage.accumulates != "no",
        flop=passes * flop_of(module, make(small[0])) / small[0],
        samples=training_samples(stage, feed),
    )


def rows(methods: Sequence[str], bf16: bool) -> list[Memory]:
    needs = []
    for paper in methods:
        cfg = replace(models.config(paper, "paper"), pretrained=False)
        for stage in models.stages(paper):
            needs.append(memory(paper, stage, cfg, bf16))
            if stage.name == "finetune":
                vit = replace(cfg.vit, checkpoint_activations=True)
                needs.append(memory(paper, stage, replace(cfg, vit=vit), bf16, " (checkpoint_activations)"))
        if paper == "plain":
            needs.append(memory(paper, models.stage(paper, "detect"), replace(cfg, **BASELINE), bf16, " (B4, 380 px)"))
    return needs


# ---------------------------------------------------------------------------------------------- table
def card(num_bytes: float) -> str:
    """Return the GB of the smallest common card that holds so much."""
    return next((f"{size}" for size in CARDS_GB if num_bytes <= size * GB), "none")


def cells(row: Memory, gpus: Sequence[int], tflops: float) -> list[str]:
    texts = [row.name, f"{row.parameters / 1e6:.0f} M", f"{row.fixed / GB:.1f}", f"{row.each / 1e6:.0f} MB"]
    texts.append(str(row.step))
    for number in gpus:
        fits = row.step % (row.unit * number) == 0
        total = row.total(number)
        texts.append(f"{total / GB:.1f} ({card(total)})" if fits else "no equal shares")
    cuts = row.cuts_for(CARDS_GB[0])
    texts.append(("–" if cuts == 1 else str(cuts or "none")) if row.can_be_cut else "cannot be cut")
    hours = row.flop * row.samples / (tflops * 1e12) / 3600
    return [*texts, f"{row.flop / 1e9:.0f} GFLOP", f"{row.samples:,}", f"{hours:.1f}"]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--methods", nargs="+", default=models.names(), choices=models.names(), metavar="METHOD")
    p.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4], metavar="N")
    p.add_argument("--no-bf16", action="store_true", help="a GPU without bf16: float32 throughout")
    p.add_argument("--markdown", action="store_true")
    p.add_argument("--tflops", type=float, default=30.0, metavar="X", help="what a GPU keeps up (default: %(default)s)")
    arguments = p.parse_args()
    names = ["stage", "parameters", "fixed, GB", "each sample", "samples of a step"]
    names += [f"{n} GPU{'s' if n > 1 else ''}: GB (card)" for n in arguments.gpus] + ["cut for 16 GB"]
    names += ["work of a sample", "samples", f"hours at {arguments.tflops:g} TFLOP/s"]
    lines = [cells(row, arguments.gpus, arguments.tflops) for row in rows(arguments.methods, not arguments.no_bf16)]
    console = Console(width=240)
    if arguments.markdown:
        for line in (names, ["---"] * len(names), *lines):
            console.print(f"| {' | '.join(line)} |", soft_wrap=True, highlight=False)
        return
    table = Table(*names)
    for line in lines:
        table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    main()
