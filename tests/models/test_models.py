"""What every paper's file must keep to, and how configs are found and changed."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import models
from models._stage import ON_CPU

STAGES = [(paper, stage.name) for paper in models.names() for stage in models.stages(paper)]


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
def test_training_step(paper, stage_name, prepared):
    cfg, stage_class, batch = prepared(paper, stage_name, "train")
    here = {name + ON_CPU: batch[name].clone() for name in stage_class.left_on_cpu} | {"step_seed": batch["step_seed"]}
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        stage = stage_class(cfg).train()
        optimizer, scheduler = stage.optimizer(4 * stage.feed(cfg).num_epochs)
        before = {name: value.clone() for name, value in stage.named_parameters() if value.requires_grad}
        losses: list[float] = []
        stage.start_epoch(1)
        if paper == "adfd":  # as if an epoch had filled its memory
            full = {"nrs.epoch": torch.tensor(9), "nrs.num_clustered": torch.tensor(5)}
            stage.load_state_dict(stage.state_dict() | full)
        for _ in range(3):
            calls: list[bool] = []

            def closure(stage=stage, optimizer=optimizer, losses=losses, calls=calls):
                optimizer.zero_grad(set_to_none=True)
                here["repeat"] = torch.tensor(bool(calls))
                with Waits(here.values()) as waits:
                    out = stage({**batch, **here})
                assert not waits.found, "a GPU would wait"
                assert out["loss"].shape == ()
                assert torch.isfinite(out["loss"])
                assert all(not value.requires_grad for name, value in out.items() if name != "loss")
                out["loss"].backward()
                losses.append(out["loss"].item())
                calls.append(True)
                return out["loss"]

            optimizer.step(closure)
        without = [name for name, value in stage.named_parameters() if value.requires_grad and value.grad is None]
        assert not without, f"parameters without a gradient, which distributed training refuses: {without[:5]}"
        assert any(not torch.equal(value, before[name]) for name, value in stage.named_parameters() if name in before)
        assert _moves(scheduler, stage.feed(cfg).num_epochs) or isinstance(scheduler, ConstantLR), (
            "the learning rate never moves"
        )
        runs.append(losses)
    assert runs[0] == runs[1], "the same seeds gave other losses"


READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
SIZES = {"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount"}
COPIES = {"new_tensor", "pin_memory"}


class Waits(TorchFunctionMode):
    """Notes calls for which a GPU has to end its work: a value is asked for, a size hangs on one, or memory is copied.

    Tensors count as being on the GPU, but for those that stay on the CPU and what is computed from them alone.
    """

    def __init__(self, here: Iterable[Tensor]) -> None:
        super().__init__()
        self.here = {id(value): value for value in here}  # held, so that no other tensor gets its id
        self.found: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        of_here = [value for value in inputs if id(value) in self.here]
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        placed = "device" in (kwargs or {})
        if len(of_here) == len(inputs) and not placed:
            self.here |= {id(value): value for value in tree_leaves(result) if isinstance(value, Tensor)}
            return result
        masks = name in ("__getitem__", "__setitem__") and any(
            value.dtype == torch.bool for value in tree_leaves(args[1]) if isinstance(value, Tensor)
        )
        made = name == "tensor" and placed
        if name in READS | SIZES | COPIES or masks or made or any(value.ndim for value in of_here):
            self.found.add(name)
        return result


def _moves(scheduler, num_epochs: int) -> bool:
    """Return whether the rate changes within a training of 4 steps an epoch, in which val stops to improve."""
    rates = set()
    for _ in range(4 * num_epochs):
        rates.add(scheduler.get_last_lr()[0])
        scheduler.step(1.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
    return len(rates | set(scheduler.get_last_lr())) > 1


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
def test_a_forward_pass_in_evaluation_changes_nothing(paper, stage_name, prepared):
    cfg, stage_class, batch = prepared(paper, stage_name, "select")
    torch.manual_seed(0)
    stage = stage_class(cfg).train().eval()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    here = {name + ON_CPU: batch[name].clone() for name in stage_class.left_on_cpu}
    with torch.no_grad(), Waits(here.values()) as waits:
        first, again = stage({**batch, **here}), stage({**batch, **here})
    assert not waits.found, "a GPU would wait"
    assert torch.equal(first["loss"], again["loss"])
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
@torch.no_grad()
def test_evaluation(paper, stage_name, prepared):
    cfg, stage_class, batch = prepared(paper, stage_name, "select")
    torch.manual_seed(0)
    stage = stage_class(cfg).eval()
    out = stage(batch)
    assert out["loss"].shape in ((), (6,))
    assert torch.isfinite(out["loss"]).all()
    if not stage_class.scores:
        return
    assert out["logit"].shape == ((6, 2) if stage_class.view == "real_pairs" else (6,))
    _, _, scoring = prepared(paper, stage_name, "score")
    scored = stage.score(scoring)
    assert scored["logit"].shape == (6,)
    assert torch.isfinite(scored["logit"]).all()
    if stage_class.view != "real_pairs":
        torch.testing.assert_close(scored["logit"], out["logit"])
    alone = stage.score({name: value[2:3] for name, value in scoring.items()})
    torch.testing.assert_close(alone["logit"], scored["logit"][2:3], atol=1e-4, rtol=1e-3)
    if "mask" in scored:
        assert scored["mask"].shape == (6, *scoring["image"].shape[1:3])


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
@torch.no_grad()
def test_the_loss_on_val_is_the_same_however_its_samples_are_cut_into_batches(paper, stage_name, prepared):
    cfg, stage_class, batch = prepared(paper, stage_name, "select")
    if "mask_valid" in batch:
        batch["mask_valid"][:2] = False
    torch.manual_seed(0)
    stage = stage_class(cfg).eval()
    total = weight = 0.0
    for rows in torch.arange(6).split([1, 3, 2]):
        part = {name: value[rows] for name, value in batch.items()}
        loss = stage(part)["loss"]
        counts = stage.weight(part) if loss.ndim == 0 else float(len(rows))
        total, weight = total + loss.mean().item() * counts, weight + counts
    assert total / weight == pytest.approx(stage(batch)["loss"].mean().item(), rel=1e-5)


@pytest.mark.parametrize("paper", models.names())
@pytest.mark.parametrize("preset", models.PRESETS)
def test_config(paper, preset):
    cfg = models.config(paper, preset)
    order = [stage.name for stage in models.stages(paper)]
    assert set(cfg.stages) <= set(order)
    for i, stage in enumerate(models.stages(paper)):
        assert json.loads(json.dumps(stage.settings(cfg))), "settings are not JSON values"
        feed = stage.feed(cfg)
        assert feed.input_px > 0
        assert feed.batch_size > 0
        assert feed.num_epochs > 0
        for earlier in (stage.starts_from, stage.reads_of(cfg)):
            assert earlier is None or earlier in order[:i]
    assert cfg.stored_px == max(stage.feed(cfg).input_px for stage in models.stages(paper))
    assert isinstance(models.version(paper), int)


def test_importing_a_paper_is_cheap():
    code = """
import sys, models
for name in models.names():
    models.config(name, "small")
print("torch" in sys.modules)
for name in models.names():
    models.stages(name)
print("timm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_settings, of_stages = done.stdout.split()
    assert of_settings == "False", "torch costs seconds: a paper's settings do without"
    assert of_stages == "False", "timm costs seconds: import it where a network is built"


def test_unknown_names_list_what_there_is():
    for call, text in (
        (lambda: models.config("delocat"), "delocate"),
        (lambda: models.config("delocate", "large"), "small"),
        (lambda: models.stage("delocate", "detect"), "localize"),
        (lambda: models.config("_stage"), "no paper"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_override():
    base = models.config("delocate")
    cfg = models.override(base, {"recover.mask_ratio": 1, "localize.map_widths": [8, 4], "pretrained": False})
    assert cfg.recover.mask_ratio == 1.0
    assert isinstance(cfg.recover.mask_ratio, float)
    assert cfg.localize.map_widths == (8, 4)
    assert cfg.pretrained is False
    assert cfg.recover.strategy == base.recover.strategy
    assert base.recover.mask_ratio == 0.75
    assert models.override(base, {}) == base


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("recover.mask", 0.5, "recover.mask_ratio"),
        ("mask_ratio", 0.5, "recover.mask_ratio"),
        ("recover", None, "unknown"),
        ("recover.mask_ratio", "0.5", "float"),
        ("recover.mask_ratio", True, "float"),
        ("recover.mask_ratio", float("nan"), "float"),
        ("recover.num_epochs", 2.0, "int"),
        ("recover.num_epochs", True, "int"),
        ("pretrained", 1, "bool"),
        ("localize.map_widths", [8], "tuple"),
        ("localize.map_widths", [8, "4"], "int"),
        ("stages", "recover", "tuple"),
        ("recover.mask_ratio", 1.5, r"\(0, 1\]"),
    ],
)
def test_override_refuses(key, value, text):
    with pytest.raises(ValueError, match=text):
        models.override(models.config("delocate"), {key: value})


def test_override_checks_the_final_combination():
    off = {"localize.use_mapping": False, "localize.use_map_loss": False}
    assert not models.override(models.config("delocate"), off).localize.use_mapping


def test_a_newer_field_at_its_default_stands_in_no_name():
    @dataclass(frozen=True)
    class Inner:
        old: int = 1
        added: tuple[int, ...] = models.newer(default=(2,))

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        old: str = ""
        added: Mapping[str, int] = models.newer(default_factory=dict)

    assert models.named(Outer(Inner())) == {"inner": {"old": 1}, "old": ""}
    assert models.named(Outer(Inner(added=()), added={"a": 1})) == {
        "inner": {"old": 1, "added": ()},
        "old": "",
        "added": {"a": 1},
    }
