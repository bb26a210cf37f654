"""LAA-Net's losses, schedule, optimizer and scores."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import laa_net
from models._sam import SAM
from models.laa_net import Detect, LossConfig, Prediction, heatmap_loss, losses, similarity

SMALL = models.override(laa_net.SMALL, {"data.synthesis": "sbi"})
PX, SIDE = SMALL.data.input_px, SMALL.data.input_px // laa_net.MAP_STRIDE


def count(module: nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def changed(cfg: laa_net.Config, **changes) -> laa_net.Config:
    return models.override(cfg, {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def paper() -> Detect:
    """Build the stage at the paper's size, without memory for its weights."""
    with torch.device("meta"):
        return Detect(laa_net.Config(pretrained=False))


@pytest.fixture(scope="module")
def batch(sample) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    faces = [sample(rng, SMALL.data.face_px, None, 0, -1, SMALL.crop_margin) for _ in range(6)]
    rows = [Detect.prepare(SMALL, face, np.random.default_rng(i), "train") for i, face in enumerate(faces)]
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


# -------------------------------------------------------------------------------------------- losses
def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_heatmap_loss_by_hand():
    p, h = torch.tensor([[[0.5, 0.25], [0.75, 0.5]]]), torch.tensor([[[1.0, 1.0], [0.5, 0.0]]])
    hit = 0.72 * (0.5**2 * math.log(0.5) + 0.75**2 * math.log(0.25))
    miss = 0.5**4 * 0.75**2 * math.log(0.25) + 0.5**2 * math.log(0.5)
    assert heatmap_loss(LossConfig(), p.logit(), h).item() == pytest.approx(-(hit + miss) / 2, rel=1e-5)
    literal = LossConfig(beta=0, heatmap_smoothing=0, heatmap_over="images")  # Eq. 5 and 6
    miss = 0.75**2 * math.log(0.25) + 0.5**2 * math.log(0.5)
    assert heatmap_loss(literal, p.logit(), h).item() == pytest.approx(-(hit / 0.72 + miss), rel=1e-5)


def test_heatmap_loss_without_points_is_not_divided():
    assert heatmap_loss(LossConfig(), torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)).item() == pytest.approx(
        -18 * 0.25 * math.log(0.5), rel=1e-5
    )


def test_a_perfect_heatmap_costs_next_to_nothing():
    h = torch.zeros(2, SIDE, SIDE)
    h[0, 3, 4], h[0, 3, 5], h[0, 20, 20] = 1, 0.6, 1
    assert heatmap_loss(LossConfig(), torch.where(h == 1, 20.0, -20.0), h) < 1e-3


def test_heatmap_loss_counts_the_points_of_all_workers(monkeypatch):
    torch.manual_seed(0)
    z, h = torch.randn(4, 8, 8), torch.zeros(4, 8, 8)
    h[0, 0, :5], h[2, 3, 3] = 1, 1  # unequal: 5 points and 1
    whole = heatmap_loss(LossConfig(), z, h)
    monkeypatch.setattr(laa_net, "world_size", lambda: 2)
    monkeypatch.setattr(laa_net, "total", lambda x: torch.tensor(6.0))
    halves = [heatmap_loss(LossConfig(), z[part], h[part]) for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_the_terms_of_equation_8():
    torch.manual_seed(0)
    out = Prediction(torch.tensor([2.0, -1.0]), torch.randn(2, 4, 4), torch.randn(2, 16, 4, 4))
    target = {
        "label": torch.tensor([0, 1]),
        "heatmap": torch.randint(0, 256, (2, 4, 4), dtype=torch.uint8),
        "consistency": torch.randint(0, 256, (2, 4, 4), dtype=torch.uint8),
        "anchor": torch.tensor([0, 9]),
    }
    terms = losses(LossConfig(), out, target)
    bce = (math.log(1 + math.exp(2)) + math.log(1 + math.exp(1))) / 2
    assert terms["bce"].item() == pytest.approx(bce, rel=1e-5)
    p, c = similarity(out.embedding_NEDD, target["anchor"]).sigmoid(), target["consistency"] / 255
    expected = -(c * p.log() + (1 - c) * (1 - p).log()).mean()
    torch.testing.assert_close(terms["consistency"], expected)
    torch.testing.assert_close(terms["heatmap"], heatmap_loss(LossConfig(), out.heatmap_NDD, target["heatmap"] / 255))
    smooth = losses(LossConfig(label_smoothing=0.2), out, target)["bce"].item()
    fake, real = -math.log(1 / (1 + math.exp(-2))), math.log(1 + math.exp(2))
    third, fourth = -math.log(1 / (1 + math.exp(1))), -math.log(1 / (1 + math.exp(-1)))
    assert smooth == pytest.approx((0.9 * real + 0.1 * fake + 0.9 * third + 0.1 * fourth) / 2, rel=1e-5)


def test_loss_is_the_weighted_sum(batch):
    torch.manual_seed(0)
    weights = {"loss.heatmap_weight": 10.0, "loss.consistency_weight": 100.0}
    assert models.override(SMALL, weights).loss == LossConfig()  # the paper's
    stage = Detect(models.override(SMALL, weights)).train()
    out = stage(batch)
    expected = out["bce"] + 10 * out["heatmap"] + 100 * out["consistency"]
    torch.testing.assert_close(out["loss"].detach(), expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class(label, batch):
    one_class = {name: value[:, label : label + 1] for name, value in batch.items() if value.ndim > 1}
    stage = Detect(SMALL).train()
    out = stage(one_class)
    assert torch.isfinite(out["loss"])
    assert out["logit"].shape == (len(batch["image"]),)


def test_input_is_checked(batch):
    stage = Detect(SMALL).eval()
    for wrong in (batch["image"].float(), batch["image"][..., :2], batch["image"][:, :, ::2]):
        with pytest.raises(ValueError, match="uint8"):
            stage(dict(batch) | {"image": wrong})
    black_and_white = torch.stack([torch.zeros(PX, PX, 3), torch.full((PX, PX, 3), 255)]).to(torch.uint8)
    assert stage._input(black_and_white).unique().tolist() == [-1, 1]


# ------------------------------------------------------------------------------- optimizer and schedule
def train_step(stage, optimizer, batch) -> list[dict[str, torch.Tensor]]:
    """Take one step; return the weights and buffers at each call of the closure."""
    seen = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        seen.append({name: value.clone() for name, value in stage.state_dict().items()})
        loss = stage({**batch, "repeat": torch.tensor(len(seen) > 1)})["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    return seen


def test_learning_rate_by_epoch(paper):
    _, schedule = paper.optimizer(200)  # two steps an epoch
    rates = [schedule.base_lrs[0] * schedule.lr_lambdas[0](step) for step in range(201)]
    assert rates[0:200:2] == rates[1:200:2]
    expected = {0: 5e-5, 12: 1.22e-4, 25: 2e-4, 62: 1.0133e-4, 99: 2.667e-6}
    for epoch, rate in expected.items():
        assert rates[2 * epoch] == pytest.approx(rate, rel=2e-4)
    assert max(rates) == rates[50]
    assert rates[200] == 0


def test_variants():
    paper, released = laa_net.OptimConfig(), laa_net.OptimConfig(variant="released")
    assert paper.schedule == {"lr": 5e-5, "boost": 4, "freeze_epochs": 6}
    assert released.schedule == {"lr": 1e-7, "boost": 500, "freeze_epochs": 0}
    assert laa_net.OptimConfig(variant="released", boost=2).schedule == {"lr": 1e-7, "boost": 2, "freeze_epochs": 0}
    stage = Detect(changed(SMALL, optim__variant="released", optim__freeze_epochs=0))
    stage.start_epoch(1)
    assert count(stage, trainable=True) == count(stage)


def test_optimizer_is_sam_around_adam_with_coupled_decay(batch):
    torch.manual_seed(0)
    assert laa_net.OptimConfig().rho == 0.05
    stage = Detect(changed(SMALL, optim__rho=0.05)).train()
    optimizer, _ = stage.optimizer(8)
    assert isinstance(optimizer, SAM)
    assert type(optimizer.base) is torch.optim.Adam
    settings = optimizer.base.defaults
    assert (settings["weight_decay"], settings["betas"], settings["eps"]) == (1e-4, (0.9, 0.999), 1e-8)
    parameters = [name for name, _ in stage.named_parameters()]
    first, second = train_step(stage, optimizer, batch)
    moved = math.sqrt(sum((second[name] - first[name]).double().square().sum().item() for name in parameters))
    assert moved == pytest.approx(0.05, rel=1e-4)


def test_a_frozen_encoder_keeps_its_weights_while_batch_norm_follows(batch):
    stage = Detect(SMALL).train()
    stage.start_epoch(1)
    before = {name: value.clone() for name, value in stage.net.encoder.state_dict().items()}
    optimizer, _ = stage.optimizer(8)
    train_step(stage, optimizer, batch)
    weights = dict(stage.net.encoder.named_parameters())
    for name, value in stage.net.encoder.state_dict().items():
        if name in weights:
            assert torch.equal(value, before[name]), name
        elif "running" in name:
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("at_rest", [False, True])
def test_batch_norm_in_the_second_pass(at_rest, batch):
    torch.manual_seed(0)
    stage = Detect(changed(SMALL, optim__freeze_bn_second=at_rest)).train()
    momenta = [m.momentum for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]
    optimizer, _ = stage.optimizer(8)
    seen = train_step(stage, optimizer, batch)
    last = stage.state_dict()
    running = [name for name in last if "running" in name]
    assert all(not torch.equal(seen[0][name], seen[1][name]) for name in running)
    assert all(torch.equal(seen[1][name], last[name]) == at_rest for name in running)
    assert [m.momentum for m in stage.modules() if isinstance(m, nn.BatchNorm2d)] == momenta


# ------------------------------------------------------------------------------------------ evaluation
@torch.no_grad()
def test_the_logit_is_the_mean_of_a_face_and_its_mirror_image(prepared):
    _, _, scoring = prepared("laa_net", "detect", "score")
    torch.manual_seed(0)
    stage = Detect(SMALL).eval()
    x = scoring["image"].permute(0, 3, 1, 2).float() / 127.5 - 1
    nn.init.normal_(stage.net.classify[-1].weight, std=3e3)  # or an untrained network would tell nothing apart
    stage.net.classify[-1].bias -= stage.net(x).logit_N.mean()
    logit = stage.score(scoring)["logit"]
    mirrored = stage.score({"image": scoring["image"].flip(2)})["logit"]
    torch.testing.assert_close(logit, mirrored)
    z, z_mirrored = stage.net(x).logit_N, stage.net(x.flip(-1)).logit_N
    assert (z - z_mirrored).abs().max() > 0.1
    torch.testing.assert_close(logit, (z + z_mirrored) / 2)


def test_frames_are_averaged_as_logits_and_the_epoch_is_chosen_as_in_the_paper():
    assert Detect.pooling(SMALL) == models.Pooling(frames="mean_logit")
    assert Detect.selects_by == "accuracy_and_loss"
    assert Detect.view == "real_pairs"


def test_what_a_batch_holds(sample):
    def shapes(synthesis: str, mode: models.Mode) -> dict[str, tuple[int, ...]]:
        cfg = changed(SMALL, data__synthesis=synthesis)
        return {name: value.shape for name, value in Detect.prepare(cfg, face, np.random.default_rng(0), mode).items()}

    rng = np.random.default_rng(0)
    face, donor = (sample(rng, SMALL.data.face_px, None, 0, -1, SMALL.crop_margin) for _ in range(2))
    face["donor"] = donor
    pair = {"image": (2, PX, PX, 3), "label": (2,), "heatmap": (2, SIDE, SIDE), "consistency": (2, SIDE, SIDE)}
    single = {name: (1, *shape[1:]) for name, shape in pair.items()}
    assert shapes("sbi", "train") == shapes("sbi", "select") == shapes("bi", "select") == pair | {"anchor": (2,)}
    assert shapes("bi", "train") == single | {"anchor": (1,)}
    assert shapes("sbi", "score") == shapes("bi", "score") == {"image": (PX, PX, 3)}
