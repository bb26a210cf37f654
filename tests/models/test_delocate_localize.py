"""Delocate's mapping, mask prediction and meta-learning."""

import socket

import numpy as np
import pytest
import timm
import torch
from torch.nn.parallel import DistributedDataParallel

import models
from models import _layers, delocate
from models._localization_net import SpatialChannelGate
from models._meta_learning import inner_update, split_domains

ABLATIONS = {
    "default": {},
    "no_meta": {"use_meta": False},
    "no_map_loss": {"use_map_loss": False},
    "no_loc_loss": {"use_loc_loss": False},
    "no_mapping": {"use_mapping": False, "use_map_loss": False},
    "no_encoder_decoder": {"use_encoder_decoder": False, "use_loc_loss": False},
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Faces of 64 px; second derivatives, as in the paper.
SMALL = models.override(delocate.SMALL, {"clip.input_px": 64, "clip.patch_px": 8, "localize.first_order": False})


def small(**localize) -> delocate.Config:
    return models.override(SMALL, {f"localize.{name}": value for name, value in localize.items()})


def build(**localize) -> delocate.Localize:
    torch.manual_seed(0)
    return delocate.Localize(small(**localize))


@pytest.fixture(scope="module")
def batch(sample) -> dict[str, torch.Tensor]:
    """Three manipulations, a real and a fake face of each."""
    rng = np.random.default_rng(0)
    rows = []
    for domain in range(3):
        for label in (0, 1):
            face = sample(rng, 64, None, label, domain) | {"recovered": rng.integers(0, 256, (16, 16, 3), np.uint8)}
            rows.append(delocate.Localize.prepare(SMALL, face, rng, "select"))
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]} | {
        "step_seed": torch.tensor(7)
    }


def of_domains(batch, *domains):
    rows = torch.isin(batch["domain"], torch.tensor(domains))
    return {name: value[rows] if value.ndim else value for name, value in batch.items()}


# ---------------------------------------------------------------------------------------- networks
def test_paper_size():
    cfg = models.override(delocate.Config(), {"pretrained": False})
    with torch.device("meta"):
        net = delocate.Localize(cfg).net
        out = net(torch.zeros(2, 3, 224, 224))
        features = net.mapping_features(torch.zeros(2, 3, 224, 224))
    assert features.shape == (2, 448, 56, 56)
    assert out.mapped.shape == (2, 3, 56, 56)
    assert out.mask.shape == (2, 224, 224)
    assert out.logits.shape == (2, 2)
    assert count(net.backbone) == 2_782_784
    assert count(net.map) == 1_132_659
    assert count(net.encoder) == 25_510_896 + 9_408  # three more input channels
    assert count(net.decoder) == 15_738_593
    assert (count(net.head_map), count(net.head_loc)) == (769, 2049)
    with torch.device("meta"):
        net = delocate.Localize(models.override(cfg, {"localize.encoder": "legacy_senet154"})).net
    assert count(net.encoder) == 113_039_984 + 1_728
    assert count(net.decoder) == 15_775_457


@torch.no_grad()
def test_outputs_are_in_range(batch):
    stage = build().eval()
    out = stage.net(batch["image"].permute(0, 3, 1, 2) / 255)
    assert out.mapped.shape == (6, 3, 16, 16)
    assert out.mask.shape == (6, 64, 64)
    for image in (out.mapped, out.mask):
        assert image.min() > 0
        assert image.max() < 1
    scored = stage.score(batch)
    torch.testing.assert_close(scored["logit"].sigmoid(), out.logits.sigmoid().mean(1))
    torch.testing.assert_close(scored["mask"], out.mask)


@torch.no_grad()
def test_gate_keeps_the_larger_of_two():
    torch.manual_seed(0)
    gate, x = SpatialChannelGate(8), torch.rand(2, 8, 5, 5)
    by_channel = x * torch.sigmoid(gate.channel(x))
    by_place = x * torch.sigmoid(gate.space(x))
    out = gate(x)
    assert ((out == by_channel) | (out == by_place)).all()
    assert (out >= by_channel).all()
    assert (out >= by_place).all()
    assert (out <= x).all()
    assert (by_channel > by_place).any()
    assert (by_place > by_channel).any()


def test_pretrained_weights_that_cannot_be_had(monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(_layers.PretrainedUnavailable, match=r"resnet18.*--no-pretrained"):
        delocate.Localize(delocate.Config())


# ------------------------------------------------------------------------------------------ losses
def test_bce_of_the_mean_probability():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.5], [-3.0, 4.0]], dtype=torch.float64)
    label = torch.tensor([0, 1, 1])
    expected = torch.nn.functional.binary_cross_entropy(logits.sigmoid().mean(1), label.double(), reduction="none")
    torch.testing.assert_close(delocate.mean_probability_bce(logits, label), expected)
    extreme = torch.tensor([[200.0, 200.0]], requires_grad=True)
    loss = delocate.mean_probability_bce(extreme, torch.tensor([0])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert extreme.grad.sum().item() == pytest.approx(1, rel=1e-5)


def losses_and_net(batch):
    stage = build()
    return stage.net, delocate.losses(stage.net(batch["image"].permute(0, 3, 1, 2) / 255), batch)


def reaches(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_map_loss_reaches_the_backbone_only(batch):
    net, terms = losses_and_net(batch)
    terms["map"].backward()
    assert reaches(net.backbone)
    assert reaches(net.map)
    assert not reaches(net.encoder)
    assert not reaches(net.head_map)


def test_loc_loss_reaches_the_mapping(batch):
    net, terms = losses_and_net(batch)
    terms["loc"].backward()
    assert reaches(net.decoder)
    assert reaches(net.encoder)
    assert reaches(net.map)
    assert reaches(net.backbone)


def test_losses_by_hand(batch):
    out = delocate.Localized(
        logits=torch.zeros(6, 2), mapped=torch.full((6, 3, 16, 16), 0.5), mask=torch.full((6, 64, 64), 0.25)
    )
    valid = torch.tensor([True, True, False, False, True, False])
    terms = delocate.losses(out, batch | {"mask_valid": valid})
    assert terms["cls"].item() == pytest.approx(np.log(2))
    recovered = batch["recovered"].numpy() / 255
    assert terms["map"].item() == pytest.approx(((recovered - 0.5) ** 2).mean(), rel=1e-5)
    truth = batch["mask"].numpy()[valid.numpy()]
    assert terms["loc"].item() == pytest.approx(((truth - 0.25) ** 2).mean(), rel=1e-5)
    nothing_known = delocate.losses(out, batch | {"mask_valid": torch.zeros(6, dtype=torch.bool)})
    assert nothing_known["loc"].item() == 0


@pytest.mark.parametrize("variant", ABLATIONS)
def test_switches_remove_exactly_their_terms_and_parameters(variant, batch):
    off = ABLATIONS[variant]
    stage = build(**off)
    if "use_map_loss" in off:
        batch = {name: value for name, value in batch.items() if name != "recovered"}
    out = stage(batch)
    out["loss"].backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())
    terms = {"cls", "map", "loc"} - ({"map"} if "use_map_loss" in off else set())
    terms -= {"loc"} if "use_loc_loss" in off else set()
    meta = set() if variant == "no_meta" else {f"meta_test_{name}" for name in (*terms, "before", "after")}
    assert out.keys() - {"logit"} == {"loss"} | terms | meta
    parts = {name.split(".")[0] for name, _ in stage.net.named_parameters()}
    missing = {
        "no_mapping": {"backbone", "map", "head_map"},
        "no_encoder_decoder": {"encoder", "head_loc", "decoder"},
        "no_loc_loss": {"decoder"},
    }.get(variant, set())
    assert parts == {"backbone", "map", "head_map", "encoder", "head_loc", "decoder"} - missing
    assert ("mask" in stage.eval().score(batch)) == ("use_loc_loss" not in off)


@torch.no_grad()
def test_evaluation_needs_no_recovered_face(batch):
    stage = build().eval()
    without = stage({name: value for name, value in batch.items() if name != "recovered"})
    with_it = stage(batch)
    assert "map" not in without
    torch.testing.assert_close(without["loss"].mean() + with_it["map"], with_it["loss"].mean())
    torch.testing.assert_close(without["logit"], with_it["logit"])


def test_bad_combinations_are_refused():
    for bad in ({"use_mapping": False}, {"use_encoder_decoder": False}, {"inner_loss": "loc"}, {"inner_lr": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            small(**bad)


def test_flip_moves_image_mask_and_recovered_together(sample):
    rng = np.random.default_rng(0)
    face = sample(rng, 64, None, 1, 2) | {"recovered": rng.integers(0, 256, (16, 16, 3), np.uint8)}
    seen = set()
    for seed in range(10):
        arrays = delocate.Localize.prepare(SMALL, face, np.random.default_rng(seed), "train")
        step = 1 if np.array_equal(arrays["image"], face["image"]) else -1
        for name in ("image", "mask", "recovered"):
            np.testing.assert_array_equal(arrays[name], face[name][:, ::step])
        seen.add(step)
    assert seen == {1, -1}


# ----------------------------------------------------------------------------------- meta-learning
def test_domains_are_split_by_the_step_seed():
    domains = [3, 0, 1, 2]
    tests = []
    for seed in range(200):
        train, test = split_domains(domains, seed)
        assert sorted([*train, test]) == [0, 1, 2, 3]
        assert split_domains(domains[::-1], seed) == (train, test)
        tests.append(test)
    assert all(30 <= tests.count(domain) <= 70 for domain in range(4))
    with pytest.raises(ValueError, match="at least 2 manipulations"):
        split_domains([0], 0)


def meta_parts(batch):
    train, test = split_domains(set(batch["domain"].tolist()), int(batch["step_seed"]))
    return [of_domains(batch, domain) for domain in train], of_domains(batch, test)


def bracket(stage: delocate.Localize, part) -> torch.Tensor:
    """One bracket of Eq. 6 on a part of the batch: the sum of its terms."""
    return sum(delocate.losses(stage.net(part["image"].permute(0, 3, 1, 2) / 255), part).values())


def test_without_a_step_the_meta_test_loss_is_the_plain_loss(batch):
    stage = build(use_meta=False)
    trains, test = meta_parts(batch)
    expected = sum(bracket(stage, part) for part in trains) / 2 + bracket(stage, test)
    out = build(inner_lr=0.0)(batch)
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(out["meta_test_before"], out["meta_test_after"])
    assert abs(build(inner_lr=0.1)(batch)["loss"] - expected) > 1e-3


def test_meta_loss_is_eq_6(batch):
    """The same by hand: copy the net, move the adapted weights of the copy; two brackets, each a mean over domains."""
    train_losses, test_losses = [], []
    trains, test = meta_parts(batch)
    for part in trains:
        train_losses.append(bracket(build(), part).item())
        stage = build()
        delocate.losses(stage.net(part["image"].permute(0, 3, 1, 2) / 255), part)["cls"].backward()
        with torch.no_grad():
            for name, parameter in stage.net.named_parameters():
                if name.split(".")[0] in ("map", "head_map", "head_loc"):
                    parameter -= 0.1 * parameter.grad
        test_losses.append(bracket(stage, test).item())
    out = build(inner_lr=0.1)(batch)
    assert out["loss"].item() == pytest.approx(np.mean(train_losses) + np.mean(test_losses), rel=1e-5)
    assert out["meta_test_before"].item() == pytest.approx(bracket(build(), test).item(), rel=1e-5)
    assert out["meta_test_after"].item() == pytest.approx(np.mean(test_losses), rel=1e-5)


@pytest.mark.parametrize("num_domains", [2, 3, 4, 6])
def test_steps_are_of_one_size_with_and_without_meta_learning(num_domains, batch):
    """Every domain holds the same faces, and the inner step is 0: then Eq. 6 is twice the loss of the faces."""
    faces = of_domains(batch, 0)
    alike = {name: torch.cat([value] * num_domains) for name, value in faces.items() if value.ndim}
    alike |= {"domain": torch.arange(num_domains).repeat_interleave(2), "step_seed": torch.tensor(7)}
    meta, plain = build(inner_lr=0.0), build(use_meta=False)
    losses = {stage: stage(alike)["loss"] for stage in (meta, plain)}
    expected = 2 * bracket(build(), faces).item()
    assert losses[meta].item() == pytest.approx(expected, rel=1e-4)
    assert losses[plain].item() == pytest.approx(expected, rel=1e-4)
    for loss in losses.values():
        loss.backward()
    size = {stage: torch.cat([p.grad.flatten() for p in stage.parameters()]).norm().item() for stage in losses}
    assert size[meta] == pytest.approx(size[plain], rel=1e-3)


def test_the_inner_step_leaves_weights_and_statistics_alone(batch):
    stage = build(inner_lr=0.1, num_inner_steps=2)
    before = {name: value.clone() for name, value in stage.named_parameters()}
    stage(batch)
    for name, value in stage.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    norms = [module for module in stage.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {2}  # one plain pass for each meta-train domain
    plain = build(use_meta=False)
    for part in meta_parts(batch)[0]:
        plain(part)
    for (name, mine), theirs in zip(stage.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def gradient(batch, **localize) -> torch.Tensor:
    stage = build(**localize)
    stage(batch)["loss"].backward()
    return torch.cat([parameter.grad.flatten() for parameter in stage.parameters()])


def test_orders_differ_for_a_real_step_only(batch):
    torch.testing.assert_close(gradient(batch, inner_lr=0.0), gradient(batch, inner_lr=0.0, first_order=True))
    second, first = gradient(batch, inner_lr=0.1), gradient(batch, inner_lr=0.1, first_order=True)
    assert (second - first).norm() > 1e-3 * first.norm()


def test_second_order_gradient_matches_finite_differences():
    """Outer loss after a step on L = 0.5 w'Aw: d/dw f(w - a A w) = (I - a A) f'(w - a A w); first order drops a A."""
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)

    def outer(w: torch.Tensor, first_order: bool = False) -> torch.Tensor:
        moved = inner_update({"w": w}, 0.5 * w @ matrix @ w, 0.3, first_order=first_order)["w"]
        return (moved**4).sum()

    w = torch.tensor([0.7, -1.1], dtype=torch.float64, requires_grad=True)
    (second,) = torch.autograd.grad(outer(w), w)
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-5
        above = outer((w + step).detach().requires_grad_())
        below = outer((w - step).detach().requires_grad_())
        assert second[i].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-6)
    moved = (w - 0.3 * matrix @ w).detach()
    (first,) = torch.autograd.grad(outer(w, first_order=True), w)
    torch.testing.assert_close(first, 4 * moved**3)


def test_inner_loop_options_have_an_effect(batch):
    base = build(inner_lr=0.1)(batch)["loss"].item()
    for option in ({"num_inner_steps": 2}, {"inner_loss": "all"}, {"inner_lr": 0.05}):
        assert abs(build(**({"inner_lr": 0.1} | option))(batch)["loss"].item() - base) > 1e-6, option


@torch.no_grad()
def test_the_loss_in_evaluation_is_that_of_each_face(batch):
    """Of a face whose mask is not known it has no L_loc."""
    stage, valid = build().eval(), torch.tensor([True, True, False, False, True, False])
    known, some = stage(batch), stage(batch | {"mask_valid": valid})
    by_hand = known["cls"] + known["map"] + known["loc"]
    torch.testing.assert_close(known["loss"].mean(), by_hand)
    error = (stage.score(batch)["mask"] - batch["mask"]).square().mean((1, 2))
    torch.testing.assert_close(known["loss"] - some["loss"], error * ~valid)


def test_bfloat16(batch):
    stage = build()
    with torch.autocast("cpu", torch.bfloat16):
        out = stage(batch)
    assert out["loss"].dtype == torch.float32
    out["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in stage.parameters())


def test_learning_rate_falls_to_zero():
    optimizer, scheduler = build(lr=0.5).optimizer(10)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0.5
    assert rates[5] == pytest.approx(0.25)
    assert scheduler.get_last_lr()[0] == pytest.approx(0)


def test_distributed_wrapper_sees_every_parameter(batch):
    """DDP refuses a second step when a parameter had no gradient in the first, or had it twice."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        alone, wrapped = build(inner_lr=0.1), DistributedDataParallel(build(inner_lr=0.1))
        for stage in (alone, wrapped):
            optimizer = torch.optim.SGD(stage.parameters(), lr=0.01)
            for _ in range(2):
                optimizer.zero_grad()
                loss = stage(batch)["loss"]
                loss.backward()
                optimizer.step()
        for mine, theirs in zip(alone.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)
    finally:
        torch.distributed.destroy_process_group()


# ------------------------------------------------------------------------------------- paper's size
@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("stage_name", ["recover", "finetune", "localize"])
def test_one_step_at_the_papers_size(stage_name, sample):
    cfg = models.override(delocate.Config(), {"pretrained": False, "vit.checkpoint_activations": True})
    stage_class = models.stage("delocate", stage_name)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    if stage_name == "localize":
        faces = [
            sample(rng, 224, None, label, domain) | {"recovered": np.zeros((56, 56, 3), np.uint8)}
            for domain in (0, 1)
            for label in (0, 1)
        ]
    else:
        faces = [sample(rng, 224, 16, 0)]
    rows = [stage_class.prepare(cfg, face, rng, "train") for face in faces]
    batch = {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}
    stage = stage_class(cfg)
    out = stage(batch | {"step_seed": torch.tensor(0)})
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    assert all(torch.isfinite(parameter.grad).all() for parameter in stage.parameters())
