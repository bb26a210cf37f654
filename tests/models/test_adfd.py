"""ADFD's noise refinement, samples, network, schedule and scores. Masks and blending: test_blend."""

import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from models import adfd
from models._blend import transforms
from models._noise_refinement import NoiseRefinement, NrsConfig, k_means
from models._sam import SAM
from models._stage import BadSample, Pooling
from models.adfd import Detect, lr_factor, network_region, synthesis_region
from pipelines.experiments.experiment import Experiment
from pipelines.faces.crops import cut
from pipelines.training.views import Video, View

SMALL = adfd.SMALL
PX, CANVAS = SMALL.data.input_px, SMALL.data.canvas_px
STILL = {  # source and target stay the same picture
    "data.blend.transform.color": False,
    "data.blend.transform.frequency": False,
    "data.blend.transform.affine": False,
}


def small(**changes) -> adfd.Config:
    return models.override(SMALL, {name.replace("__", "."): value for name, value in changes.items()})


def refinement(width: int = 4, **options) -> NoiseRefinement:
    return NoiseRefinement(NrsConfig(**options), width)


def test_a_refinement_goes_to_another_process_and_follows_what_it_loads() -> None:
    nrs = pickle.loads(pickle.dumps(refinement()))
    assert not nrs.active
    assert at_epoch(nrs, 20, nrs.centres).active


def at_epoch(nrs: NoiseRefinement, epoch: int, centres: Tensor) -> NoiseRefinement:
    """Bring the refinement to where it is within an epoch that has centres."""
    there = {"epoch": torch.tensor(epoch), "centres": centres, "num_clustered": torch.tensor(100)}
    nrs.load_state_dict(nrs.state_dict() | there)
    return nrs


@pytest.fixture(scope="module")
def paper() -> Detect:
    """Build the stage at the paper's size, without memory for its weights."""
    with torch.device("meta"):
        return Detect(adfd.Config(pretrained=False))


@pytest.fixture(scope="module")
def batch(prepared) -> dict[str, Tensor]:
    return prepared("adfd", "detect", "train")[2] | {"repeat": torch.tensor(False)}


@pytest.fixture
def face(sample) -> Callable[..., dict]:
    return lambda seed=0: sample(np.random.default_rng(seed), CANVAS, None, 0, -1, SMALL.crop_margin)


# ------------------------------------------------------------------------------- weights (Eq. 5 and 6)
@pytest.mark.parametrize(
    ("epoch", "distance", "weight"),
    [
        (100, 0.3, 0.65),
        (100, 0.0, 0.5),
        (50, 0.4, 0.85),
        (100, 0.5, 1.0),  # the threshold itself is no noise
        (100, 0.4999, 0.74995),
        (100, 1.7, 1.0),
        (10, 0.0, 0.95),
    ],
)
def test_weights_by_hand(epoch, distance, weight):
    nrs = at_epoch(refinement(), epoch, torch.eye(5, 4))
    assert nrs.weight(torch.tensor([distance])).item() == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_weights_lie_between_their_bounds(threshold):
    distance = torch.linspace(0, 2, 401)
    for epoch in (10, 57, 100):
        weight = at_epoch(refinement(threshold=threshold), epoch, torch.eye(5, 4)).weight(distance)
        assert weight.min().item() == pytest.approx(1 - epoch / 200)
        assert weight.max() == 1
    assert (weight[distance >= threshold] == 1).all()


def test_before_there_are_centres_all_weights_are_1():
    nrs = refinement()
    assert not nrs.active
    assert torch.equal(nrs.weight(torch.tensor([0.0, 0.3, 1.0])), torch.ones(3))


def test_cosine_distance():
    centres = torch.tensor([[3.0, 0, 0, 0], [0, 0, 2.0, 0]])
    nrs = at_epoch(refinement(num_centres=2), 50, centres)
    features = torch.tensor([[3.0, 0, 0, 0], [0, 0, 2, 0], [0, 5, 0, 0], [-1, 0, -1, 0], [1, 1, 0, 0]])
    expected = torch.tensor([0, 0, 1, 1 + math.sqrt(0.5), 1 - math.sqrt(0.5)])
    torch.testing.assert_close(nrs.distance(features), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(nrs.distance(1000 * features), expected, atol=1e-6, rtol=0)
    random = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    cosine = nn.functional.cosine_similarity(random[:, None], centres, dim=2)
    torch.testing.assert_close(nrs.distance(random), 1 - cosine.max(1).values)


def test_l2_distance_is_of_unit_vectors():
    nrs = at_epoch(refinement(num_centres=2, distance="l2"), 50, torch.tensor([[3.0, 0, 0, 0], [0, 0, 2.0, 0]]))
    features = torch.tensor([[9.0, 0, 0, 0], [0, 7, 0, 0], [-1, 0, 0, 0], [-1, 0, -1e-9, 0]])
    expected = torch.tensor([0, math.sqrt(2), math.sqrt(2), math.sqrt(2)])
    torch.testing.assert_close(nrs.distance(features), expected, atol=1e-6, rtol=0)


def test_distances_do_not_lose_digits_in_mixed_precision():
    nrs = at_epoch(refinement(64, num_centres=2), 50, torch.randn(2, 64))
    features = torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nrs.distance(features), nrs.distance(features))
        mixed = nrs.distance(features)
    assert torch.equal(mixed, nrs.distance(features))


def test_a_feature_of_zeros_is_far_from_everything():
    nrs = at_epoch(refinement(), 100, torch.eye(5, 4) + 0.1)
    assert nrs.distance(torch.zeros(1, 4)).item() == pytest.approx(1)


# ------------------------------------------------------------------------------------- memory, centres
def filled(nrs: NoiseRefinement, margin: Tensor, keys: Tensor, epoch: int = 9, per_step: int = 16) -> Tensor:
    """Collect in steps; return the features that were offered."""
    features = torch.randn(len(keys), nrs.features.shape[1], generator=torch.Generator().manual_seed(1))
    nrs.start_epoch(epoch)
    for step, part in enumerate(torch.arange(len(keys)).split(per_step)):
        nrs.collect(features[part], margin[part], keys[part], seed=step)
    return features


def test_the_memory_holds_the_most_confident_reals():
    torch.manual_seed(0)
    margin, keys = torch.randn(100), torch.randperm(100) + 1000
    nrs = refinement(memory_size=30)
    features = filled(nrs, margin, keys)
    held = torch.isin(keys, nrs.keys)
    assert held.sum() == 30
    assert margin[held].min() >= margin[~held].max()
    assert (margin[held] > 0).all()
    for i in range(30):
        row = (keys == nrs.keys[i]).nonzero().item()
        assert torch.equal(nrs.features[i], features[row])
        assert nrs.rank[i] == margin[row]


def test_faces_taken_for_fakes_are_left_out():
    margin = torch.tensor([2.0, -1.0, 0.0, 1e-6, 30.0, 60.0])  # softmax could not tell the last two apart
    nrs = refinement(memory_size=5)
    filled(nrs, margin, torch.arange(6))
    assert sorted(nrs.keys.tolist()) == [-1, 0, 3, 4, 5]
    only_best = refinement(memory_size=1, num_centres=1)
    filled(only_best, margin, torch.arange(6))
    assert only_best.keys.tolist() == [5]


def test_a_face_counts_once_with_its_highest_rank():
    margin, keys = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.5]), torch.tensor([7, 8, 7, 9, 9, 7])
    nrs = refinement(memory_size=5)
    filled(nrs, margin, keys, per_step=3)
    assert nrs.keys.tolist()[:3] == [7, 8, 9]
    assert nrs.rank.tolist()[:3] == [2.0, 3.0, 5.0]
    assert nrs.keys.tolist()[3:] == [-1, -1]


def test_random_filter_draws_evenly_and_asks_no_prediction():
    counts = torch.zeros(40)
    for seed in range(200):
        nrs = refinement(memory_size=10, filter="random")
        nrs.start_epoch(9)
        for step, keys in enumerate(torch.arange(40).split(8)):
            nrs.collect(torch.zeros(8, 4), torch.full((8,), -1.0), keys, seed=1000 * seed + step)
        counts[nrs.keys] += 1
    assert counts.sum() == 2000
    assert counts.min() > 25  # 50 +- 6 expected
    assert counts.max() < 75


def test_nothing_is_collected_before_the_epoch_that_needs_it():
    for epoch, held in ((1, 0), (8, 0), (9, 6), (10, 6)):
        nrs = refinement(memory_size=10)
        filled(nrs, torch.ones(6), torch.arange(6), epoch=epoch)
        assert int((nrs.rank > -math.inf).sum()) == held


def test_centres_come_from_the_epoch_before():
    nrs = refinement(memory_size=20, num_centres=5)
    features = filled(nrs, torch.ones(12), torch.arange(12), epoch=9)
    assert not nrs.active  # in epoch T_k - 1 itself
    nrs.start_epoch(10)
    assert nrs.active
    assert nrs.num_clustered == 12
    assert nrs.centres.shape == (5, 4)
    assert torch.equal(nrs.centres, k_means(features, 5))
    assert (nrs.keys == -1).all()  # a new epoch, a new memory
    before = nrs.centres.clone()
    nrs.collect(features[:6] + 10, torch.ones(6), torch.arange(6), seed=0)
    assert torch.equal(nrs.centres, before)
    nrs.start_epoch(11)
    assert nrs.num_clustered == 6
    assert (nrs.centres > 5).all()


def test_too_few_reals_give_no_centres():
    nrs = refinement(memory_size=20, num_centres=5)
    filled(nrs, torch.ones(4), torch.arange(4), epoch=9)
    nrs.start_epoch(10)
    assert not nrs.active
    assert torch.equal(nrs.weight(torch.zeros(2)), torch.ones(2))
    nrs.collect(torch.randn(6, 4), torch.ones(6), torch.arange(6), seed=0)
    nrs.start_epoch(11)
    assert nrs.active


def test_k_means_finds_groups_and_repeats_itself():
    torch.manual_seed(0)
    corners = 10 * torch.eye(5, 8)
    points = corners.repeat_interleave(20, 0) + 0.1 * torch.randn(100, 8)
    centres = k_means(points, 5)
    assert centres.dtype == torch.float32
    assert torch.equal(centres, k_means(points, 5))
    nearest = torch.cdist(corners, centres).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2, 3, 4]
    assert nearest.values.max() < 0.2  # 20 points of 0.1 each; the corners are 14 apart


WORKER = """
import sys, torch, torch.distributed as dist
from models._noise_refinement import NoiseRefinement, NrsConfig
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
for filter in ("predicts", "random"):
    nrs = NoiseRefinement(NrsConfig(memory_size=20, num_centres=3, filter=filter), 6)
    nrs.start_epoch(9)
    for step, (features, margin, keys) in enumerate(torch.load(f"{folder}/given")):
        nrs.collect(features.chunk(2)[rank], margin.chunk(2)[rank], keys.chunk(2)[rank], seed=step)
    memory = {name: value.clone() for name, value in nrs.state_dict().items()}
    nrs.start_epoch(10)
    torch.save((memory, nrs.state_dict()), f"{folder}/{filter}{rank}")
dist.destroy_process_group()
"""


@pytest.mark.nightly
def test_two_workers_have_the_memory_and_centres_of_one(tmp_path: Path):
    torch.manual_seed(0)
    keys = torch.randint(0, 40, (6, 8))  # some faces come twice, on one worker or on both
    steps = [(torch.randn(8, 6), torch.randn(8) + 0.5, keys[i]) for i in range(6)]
    torch.save(steps, tmp_path / "given")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(errors)
    for kept in ("predicts", "random"):
        nrs = refinement(6, memory_size=20, num_centres=3, filter=kept)
        nrs.start_epoch(9)
        for step, (features, margin, step_keys) in enumerate(steps):
            nrs.collect(features, margin, step_keys, seed=step)
        memory = {name: value.clone() for name, value in nrs.state_dict().items()}
        nrs.start_epoch(10)
        assert nrs.active
        for rank in range(2):
            other_memory, other_state = torch.load(tmp_path / f"{kept}{rank}")
            for name, value in memory.items():
                assert torch.equal(other_memory[name], value), (kept, rank, name)
            for name, value in nrs.state_dict().items():
                assert torch.equal(other_state[name], value), (kept, rank, name)


# --------------------------------------------------------------------------------- loss (Eq. 8 and 9)
def trained_stage(batch, epoch: int = 8, **changes) -> Detect:
    """Build a stage in an epoch with centres, one of them the feature of the first fake, the other far away."""
    torch.manual_seed(0)
    stage = Detect(small(net__dropout=0.0, **changes)).train()
    if stage.nrs is not None:
        with torch.no_grad():
            features = stage.encoded(batch["image"].transpose(0, 1).flatten(0, 1))
        at_epoch(stage.nrs, epoch, torch.stack([features[len(batch["image"])], -features[0]]))
    return stage


def test_loss_by_hand(batch):
    stage = trained_stage(batch)
    out = stage(batch)
    with torch.no_grad():
        features = stage.encoded(batch["image"].transpose(0, 1).flatten(0, 1))
        logits = stage.logits(features)
        distance = 1 - nn.functional.cosine_similarity(features[:, None], stage.nrs.centres, dim=2).max(1).values
    num_pairs = len(batch["image"])
    total = 0.0
    for i in range(2 * num_pairs):
        label = int(i >= num_pairs)
        p = logits[i].double().softmax(0)[label].item()
        share, d = 8 / SMALL.nrs.beta, distance[i].item()
        weight = d * share + (1 - share) if label == adfd.FAKE and d < 0.5 else 1.0
        total += -weight * math.log(p)
    assert out["loss"].item() == pytest.approx(total / (2 * num_pairs), rel=1e-5)  # over the batch, not the weights
    assert out["nrs_weight"] < 0.9
    assert out["nrs_noise"] == (distance[num_pairs:] < 0.5).float().mean()
    assert distance[num_pairs].item() == pytest.approx(0, abs=1e-6)
    logit = logits[:, 1] - logits[:, 0]
    torch.testing.assert_close(out["logit"], torch.stack([logit[:num_pairs], logit[num_pairs:]], 1))


def test_no_gradient_flows_through_the_weights(batch):
    stage = trained_stage(batch)
    stage(batch)["loss"].backward()
    weight = stage._first_pass["weight_N"]
    assert not weight.requires_grad
    assert (weight[: len(batch["image"])] == 1).all()  # of reals
    gradients = {name: p.grad.clone() for name, p in stage.named_parameters()}
    stage.zero_grad()
    logits = stage.logits(stage.encoded(batch["image"].transpose(0, 1).flatten(0, 1)))
    label = torch.tensor([0, 1]).repeat_interleave(len(batch["image"]))
    assert label.tolist().count(0) == label.tolist().count(1) == 6
    (weight * nn.functional.cross_entropy(logits, label, reduction="none")).mean().backward()
    for name, p in stage.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4)


def test_the_second_pass_of_sam_takes_over_the_weights(batch):
    stage = trained_stage(batch)
    stage(batch)
    weight, memory = stage._first_pass["weight_N"].clone(), stage.nrs.features.clone()
    assert memory.any()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    out = stage(batch | {"repeat": torch.tensor(True)})
    logits = stage.logits(stage.encoded(batch["image"].transpose(0, 1).flatten(0, 1)))
    label = torch.tensor([0, 1]).repeat_interleave(len(batch["image"]))
    expected = (weight * nn.functional.cross_entropy(logits, label, reduction="none")).mean()
    torch.testing.assert_close(out["loss"], expected)
    assert torch.equal(stage._first_pass["weight_N"], weight)
    assert torch.equal(stage.nrs.features, memory)
    stage(batch)
    assert not torch.equal(stage._first_pass["weight_N"], weight)


@pytest.mark.parametrize("changes", [{"nrs__enabled": False}, {}])
def test_without_refinement_the_loss_is_plain_cross_entropy(changes, batch):
    torch.manual_seed(0)
    stage = Detect(small(net__dropout=0.0, **changes)).train()
    stage.start_epoch(1)
    out = stage(batch)
    torch.testing.assert_close(out["loss"].detach(), out["cls"])
    assert not any(name.startswith("nrs") for name in out)


def test_the_memory_takes_the_pooled_features_of_reals(batch):
    torch.manual_seed(0)
    stage = Detect(small(net__dropout=0.9, nrs__start_epoch=2)).train()  # features before dropout
    stage.start_epoch(1)
    with torch.no_grad():
        features = stage.encoded(batch["image"].transpose(0, 1).flatten(0, 1))[: len(batch["image"])]
        stage.classifier.weight.zero_()
        stage.classifier.bias.copy_(torch.tensor([1.0, -1.0]))  # everything is real
    stage(batch)
    order = batch["key"].argsort()
    assert torch.equal(stage.nrs.keys[:6], batch["key"][order])
    torch.testing.assert_close(stage.nrs.features[:6], features[order])
    assert torch.equal(stage.nrs.rank[:6], torch.full((6,), 2.0))


def test_evaluation_neither_weighs_nor_remembers(batch):
    stage = trained_stage(batch).eval()
    out = stage({name: value for name, value in batch.items() if name not in ("repeat", "step_seed")})
    torch.testing.assert_close(out["loss"], out["cls"])
    assert not stage.nrs.features.any()


def test_a_training_resumed_within_an_epoch_is_the_same(batch):
    first = trained_stage(batch)
    first(batch)
    again = Detect(first.cfg).train()
    again.load_state_dict(first.state_dict())
    for stage in (first, again):
        stage.restored = stage(batch)["loss"].item()
        stage.start_epoch(9)
    assert first.restored == again.restored
    for (name, value), other in zip(first.nrs.state_dict().items(), again.nrs.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_one_pair_is_a_batch(batch):
    stage = trained_stage(batch)
    one_pair = {name: value[:1] if value.ndim else value for name, value in batch.items()}
    out = stage(one_pair)
    assert torch.isfinite(out["loss"])
    assert out["logit"].shape == (1, 2)


def test_input_is_checked(batch):
    stage = Detect(SMALL).eval()
    images = batch["image"]
    for wrong in (images.float(), images[..., :2], images[:, :, ::2], images[:, 0]):
        with pytest.raises(ValueError, match="uint8"):
            stage({"image": wrong})
    with pytest.raises(ValueError, match="uint8"):
        stage.score({"image": images})


@pytest.mark.parametrize(("normalize", "ends"), [("none", [0, 1]), ("half", [-1, 1])])
def test_normalization(normalize, ends):
    stage = Detect(small(net__normalize=normalize)).eval()
    seen: list[Tensor] = []
    stage.encoder.register_forward_pre_hook(lambda encoder, args: seen.append(args[0]))
    black_and_white = torch.stack([torch.zeros(PX, PX, 3), torch.full((PX, PX, 3), 255)]).to(torch.uint8)
    stage.score({"image": black_and_white})
    assert seen[0].unique().tolist() == ends


# ------------------------------------------------------------------------------- network and schedule
def test_the_papers_network(paper):
    assert sum(p.numel() for p in paper.parameters()) == 17_552_202
    assert len(list(paper.parameters())) == 418
    features = paper.encoded(torch.empty(2, 380, 380, 3, dtype=torch.uint8, device="meta"))
    assert features.shape == (2, 1792)
    assert paper.logits(features).shape == (2, 2)
    norms = {(m.momentum, m.eps) for m in paper.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(0.01, 1e-3)}
    rates = [m.drop_prob for m in paper.modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.2 * 31 / 32)  # of 32 blocks, linear
    assert paper.nrs.centres.shape == (5, 1792)
    assert paper.nrs.features.shape == (500, 1792)


def test_a_training_starts_undecided(batch):
    stage = Detect(SMALL).eval()
    assert stage.classifier.weight.abs().max() <= stage.encoder.num_features**-0.5
    out = stage({"image": batch["image"]})
    assert out["loss"].item() == pytest.approx(math.log(2), abs=0.02)


def test_dropout_falls_between_feature_and_classifier(paper):
    assert paper.dropout.p == 0.4
    stage = Detect(small(net__dropout=0.5)).train()
    torch.manual_seed(0)
    nn.init.ones_(stage.classifier.weight)
    sums = stage.logits(torch.ones(400, stage.encoder.num_features))[:, 0] - stage.classifier.bias[0]
    assert (sums / 2).mean().item() == pytest.approx(stage.encoder.num_features / 2, rel=0.02)  # half of them, doubled
    assert sums.std() > 5
    assert stage.eval().logits(torch.ones(9, stage.encoder.num_features))[:, 0].unique().numel() == 1


@pytest.mark.filterwarnings("ignore:Detected call of")  # there is no gradient to step along
def test_learning_rate():
    rates = [1e-3 * lr_factor(epoch, 100, 75) for epoch in range(100)]
    assert rates[:76] == [1e-3] * 76
    assert [rates[e] for e in (76, 88, 99)] == pytest.approx([9.6e-4, 4.8e-4, 4e-5])
    stage = Detect(SMALL)
    cfg = SMALL.optim
    optimizer, scheduler = stage.optimizer(5 * cfg.num_epochs)
    seen = []
    for _ in range(5 * cfg.num_epochs):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.base.step()
        scheduler.step()
    expected = [cfg.lr * lr_factor(e, cfg.num_epochs, cfg.decay_start) for e in range(cfg.num_epochs)]
    assert seen == pytest.approx([rate for rate in expected for _ in range(5)])


def test_a_step_of_sam(batch):
    torch.manual_seed(0)
    stage = Detect(small(net__dropout=0.0, optim__rho=0.05)).double().train()
    stage.start_epoch(1)
    optimizer, _ = stage.optimizer(8)
    assert isinstance(optimizer, SAM)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0)
    assert adfd.Config().optim.rho == 0.05
    parameters = list(stage.parameters())
    seen, gradients = [], []
    stage.encoder.register_forward_pre_hook(lambda encoder, args: args[0].double())  # the norm holds to 1e-6

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        seen.append([p.detach().clone() for p in parameters])
        loss = stage({**batch, "repeat": torch.tensor(len(seen) > 1)})["loss"]
        loss.backward()
        gradients.append([p.grad.clone() for p in parameters])
        return loss

    optimizer.step(closure)
    moved = torch.cat([(b - a).flatten() for a, b in zip(*seen, strict=True)])
    assert moved.norm().item() == pytest.approx(0.05, rel=1e-6)
    for p, start, gradient in zip(parameters, seen[0], gradients[1], strict=True):
        torch.testing.assert_close(p.detach(), start - SMALL.optim.lr * gradient)  # from where it was


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_may_rest_in_the_second_pass(frozen, batch):
    stage = Detect(small(optim__freeze_bn_second=frozen)).train()
    norm = next(m for m in stage.modules() if isinstance(m, nn.BatchNorm2d))
    means = [norm.running_mean.clone()]
    for second in (False, True, False):
        stage(batch | {"repeat": torch.tensor(second)})
        means.append(norm.running_mean.clone())
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(means)]
    assert changed == [True, not frozen, True]


def test_an_epoch_of_the_paper_has_360_steps_of_16_pairs():
    videos = [Video(f"ffpp/original/{i}", 0, "real", str(i)) for i in range(720)]
    feed = Detect.feed(adfd.Config())
    view = View(Detect.view, videos, feed, seed=0)
    assert view.steps_per_epoch == 360
    assert len(view.step(0)) == 16
    assert (feed.num_epochs, Detect.selects_by) == (100, "last")


# --------------------------------------------------------------------------------------------- samples
def portrait(box_px: int, landmarks) -> dict:
    """Make the crop of a face of that size as it is in its frame, 2 boxes wide: noise with a photograph's spectrum."""
    side, rng = 2 * box_px, np.random.default_rng(box_px)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    white = rng.standard_normal((side, side, 1)) + 0.3 * rng.standard_normal((side, side, 3))  # colours go together
    pink = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) / frequency[..., None] ** 1.1, axes=(0, 1)).real
    image = np.clip(pink / pink.std((0, 1)) * 40 + 120, 0, 255).astype(np.uint8)
    box = np.array([side / 4, side / 4, 3 * side / 4, 3 * side / 4], np.float32)
    return {"image": image, "landmarks": landmarks(side, 2.0), "box": box, "native_px": np.float32(side), "key": 0}


def stored(face: dict) -> dict:
    """Return the face as extraction stores it: its crop at the size that the stage asks for."""
    scale = adfd.Config().data.canvas_px / len(face["image"])
    image = cut(face["image"], (0, 0, len(face["image"]), len(face["image"])), adfd.Config().data.canvas_px)
    landmarks = ((face["landmarks"] + 0.5) * scale - 0.5).astype(np.float32)
    return face | {"image": image, "landmarks": landmarks, "box": face["box"] * np.float32(scale)}


TRANSFORMS = {
    "halved": lambda image: transforms.downscale(image, 2),
    "quartered": lambda image: transforms.downscale(image, 4),
    "sharpened": lambda image: transforms.sharpen(image, 0.35, 0.75),
    "jpeg 40": lambda image: transforms.jpeg(image, 40),
    "jpeg 70": lambda image: transforms.jpeg(image, 70),
    "jpeg 95": lambda image: transforms.jpeg(image, 95),
}


def change(image: np.ndarray, box: np.ndarray, transform) -> float:
    """Return by how many levels a transform changes what the network sees, in the mean."""
    region = network_region(box, np.full(4, 0.125), image.shape)
    before, after = (
        cv2.resize(picture[region], (380, 380), interpolation=cv2.INTER_LINEAR).astype(float)
        for picture in (image, transform(image))
    )
    return float(np.abs(after - before).mean())


@pytest.mark.parametrize("box_px", [80, 120, 150, 200, 300])
def test_transforms_change_a_stored_face_as_much_as_the_face_in_its_frame(box_px, landmarks):
    """SBI's code works in the frame. Within 10 %; without the way back, at 640 px, halving changes a quarter to 0.9."""
    face = portrait(box_px, landmarks)
    image, points, box = adfd.native_face(stored(face))
    assert image.shape == face["image"].shape  # so that elastic deformation and shifts are those of the frame too
    np.testing.assert_allclose(points, face["landmarks"], atol=0.01)
    np.testing.assert_allclose(box, face["box"], atol=0.01)
    for name, transform in TRANSFORMS.items():
        of_frame = change(face["image"], face["box"], transform)
        assert change(image, box, transform) == pytest.approx(of_frame, rel=0.1), name
    if box_px <= 200:
        enlarged, halved = stored(face), TRANSFORMS["halved"]
        assert change(enlarged["image"], enlarged["box"], halved) < 0.8 * change(face["image"], face["box"], halved)


@pytest.mark.parametrize("box_px", [80, 120, 150, 200, 300])
def test_pseudo_fakes_of_stored_faces_are_as_strong_as_those_of_faces_in_their_frame(box_px, landmarks):
    """All steps together, with equal draws: real, fake and their difference as the network sees them."""
    face = portrait(box_px, landmarks)
    as_stored, in_frame = (
        np.stack([Detect.prepare(cfg, sample, np.random.default_rng(s), "select")["image"] for s in range(8)])
        for cfg, sample in (
            (adfd.Config(), stored(face)),
            (models.override(adfd.Config(), {"data.native_size": False}), face),
        )
    )
    strength = [np.abs(pairs[:, 0].astype(float) - pairs[:, 1]).mean() for pairs in (as_stored, in_frame)]
    assert strength[0] == pytest.approx(strength[1], rel=0.1)
    if box_px <= 200:  # above, the rounding of a region may move by a pixel
        assert np.abs(as_stored.astype(float) - in_frame).mean() < 1  # of 255 levels


def test_a_face_larger_than_its_picture_is_blended_at_most_twice_as_large(landmarks):
    face = stored(portrait(100, landmarks)) | {"native_px": np.float32(5000)}
    image, _, box = adfd.native_face(face)
    assert image.shape == (1280, 1280, 3)
    np.testing.assert_allclose(box, [320, 320, 960, 960])


def test_a_frame_keeps_several_faces_in_the_papers_recipe():
    """SBI's score of a frame is the highest of its faces that are at least half as large as the largest one."""
    experiment = Experiment(model="adfd", train_on="ffpp", test_on=("dfdc",))
    assert experiment.recipe().max_faces == 4
    assert experiment.override({"model.max_faces": 2}).recipe().max_faces == 2
    assert experiment.override({"model": "mc_lcr"}).recipe().max_faces == 1


def test_synthesis_region_by_hand():
    points = np.zeros((81, 2), np.float32)
    points[:68] = [100, 120]
    points[0], points[16], points[8], points[19] = [80, 110], [119.5, 110], [100, 149.5], [100, 100]
    points[68:] = [100, 20]  # the forehead does not count
    rows, columns = synthesis_region(points, (400, 400))
    assert (columns.start, columns.stop) == (60, 140)  # 80 - 19.75 and 119.5 + 19.75, both in
    assert (rows.start, rows.stop) == (50, 170)  # 100 - 49.5 and 149.5 + 0.4 * 49.5
    rows, columns = synthesis_region(points, (160, 130))
    assert (rows.stop, columns.stop) == (160, 130)


def test_network_region_by_hand():
    box = np.array([100.0, 50.0, 200.0, 130.0])
    rows, columns = network_region(box, np.full(4, 0.125), (400, 400))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (40, 141, 87, 213)  # 40 to 140, 87.5 to 212.5
    rows, columns = network_region(box, np.array([0.05, 0.1, 0.15, 0.2]), (400, 400))
    assert (columns.start, rows.start, columns.stop, rows.stop) == (95, 42, 216, 147)
    rows, columns = network_region(box, np.full(4, 0.2), (135, 205))
    assert (rows.stop, columns.stop) == (135, 205)


def positions(face: dict) -> dict:
    """Return the face with a picture that says where each pixel was."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.uint8)
    return face | {"image": np.stack([x, y, np.full_like(x, 7)], 2)}


def seen_region(image: np.ndarray) -> tuple[float, ...]:
    """Return the edges x0, y0, x1, y1 of what a picture of positions shows."""
    x, y = image[PX // 2, :, 0].astype(float), image[:, PX // 2, 1].astype(float)
    return tuple(float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))


def test_scoring_shows_the_box_and_an_eighth_on_each_side(face):
    sample = positions(face())
    sample["box"] = np.array([40.0, 30.0, 88.0, 94.0], np.float32)
    image = Detect.prepare(SMALL, sample, np.random.default_rng(0), "score")["image"]
    assert image.shape == (PX, PX, 3)
    assert seen_region(image) == pytest.approx((34, 22, 94, 102), abs=1)
    sample["landmarks"] = np.full((68, 2), np.nan, np.float32)  # are not needed
    again = Detect.prepare(SMALL, sample, np.random.default_rng(1), "score")["image"]
    assert np.array_equal(image, again)
    region = sample["image"][22:103, 34:95]
    assert np.array_equal(image, cv2.resize(region, (PX, PX), interpolation=cv2.INTER_LINEAR))


def test_margins_are_drawn_for_each_side(face, monkeypatch):
    monkeypatch.setattr(adfd, "photometric", lambda images, rng: images)
    cfg, sample = small(**STILL), positions(face())
    x0, y0, x1, y1 = sample["box"]
    drawn = []
    for seed in range(200):
        real, fake = Detect.prepare(cfg, sample, np.random.default_rng(seed), "train")["image"]
        assert np.array_equal(real, fake)  # one rectangle: without transforms both are the same picture
        flipped = real[0, 0, 0] > real[0, -1, 0]
        a, b, c, d = seen_region(real)
        left, right = ((x0 - a) / (x1 - x0), (c - x1) / (x1 - x0))
        drawn.append((flipped, left, (y0 - b) / (y1 - y0), right, (d - y1) / (y1 - y0)))
    flips, margins = np.array([f[0] for f in drawn]), np.array([f[1:] for f in drawn])
    assert 70 < flips.sum() < 130
    one_px = 1.5 / (x1 - x0)
    assert margins.min() > 0.05 - one_px
    assert margins.max() < 0.20 + one_px
    assert (margins.min(0) < 0.07).all()
    assert (margins.max(0) > 0.18).all()
    assert np.abs(np.corrcoef(margins.T) - np.eye(4)).max() < 0.3  # each on its own


def test_validation_is_without_flip_and_augmentation(face, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("in validation")

    monkeypatch.setattr(adfd, "photometric", refuse)
    monkeypatch.setattr(adfd, "flip", refuse)
    cfg, sample = small(**STILL), face()
    for seed in range(4):
        pair = Detect.prepare(cfg, sample, np.random.default_rng(seed), "select")
        scored = Detect.prepare(cfg, sample, np.random.default_rng(seed), "score")
        assert np.array_equal(pair["image"][0], pair["image"][1])
        assert np.array_equal(pair["image"][0], scored["image"])
        assert pair["key"] == sample["key"]


def test_a_pair_differs_in_the_face_only(face):
    sample = face()
    pairs = [Detect.prepare(SMALL, sample, np.random.default_rng(s), "select")["image"].astype(int) for s in range(20)]
    difference = np.stack([np.abs(real - fake).max(2) for real, fake in pairs])
    assert (difference.max((1, 2)) > 0).all()
    assert difference[:, :3, :3].max() == 0  # corners are outside every face
    assert difference[:, -3:, :3].max() == 0
    train = Detect.prepare(SMALL, sample, np.random.default_rng(0), "train")
    assert train["image"].shape == (2, PX, PX, 3)
    assert train["image"].dtype == np.uint8


def test_each_option_of_the_tables_makes_a_pair(face):
    rows = [
        {"kind": "facehull", "dtype": "uint8", "line": "aa"},  # Tables 2 and 3
        {"kind": "lal"},
        {"kind": "local"},
        {"kind": "lal_or_local"},
        {"kind": "facehull", "operation": "median"},  # Table 4
        {"kind": "facehull", "fixed_core": True, "blur_kernel": [11, 11]},  # Fig. 5
        {"bbmg": "global_only"},  # Table 12
        {"bbmg": "narrow_local"},
        {"blur": "single", "local_shape": "hull"},
    ]
    cfgs = [models.override(SMALL, {f"data.blend.mask.{name}": v for name, v in row.items()}) for row in rows]
    cfgs += [small(data__blend__ratios=[1.0]), small(**{"data.blend.transform.objects": "target_and_source"})]
    for cfg in cfgs:
        for seed in range(5):  # local masks may be empty in a face
            try:
                pair = Detect.prepare(cfg, face(seed), np.random.default_rng(seed), "train")["image"]
            except BadSample:
                continue
            break
        assert pair.shape == (2, PX, PX, 3)
        assert not np.array_equal(pair[0], pair[1])


def outside(landmarks: np.ndarray) -> np.ndarray:
    return landmarks + 3 * CANVAS


def on_a_line(landmarks: np.ndarray) -> np.ndarray:
    return np.repeat(landmarks[:, :1], 2, 1)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [(outside, "outside"), (on_a_line, "line"), (lambda p: p * np.nan, "NaN"), (lambda p: p[:5], "68")],
)
def test_a_face_with_landmarks_of_no_use(face, spoil, text):
    sample = face()
    sample["landmarks"] = spoil(sample["landmarks"]).astype(np.float32)
    for mode in ("train", "select"):
        with pytest.raises(BadSample, match=text):
            Detect.prepare(SMALL, sample, np.random.default_rng(0), mode)
    Detect.prepare(SMALL, sample, np.random.default_rng(0), "score")


def test_a_box_of_no_use(face):
    for box in ([1, 2, 3], [np.nan, 0, 9, 9], [50, 10, 50, 90]):
        with pytest.raises(ValueError, match="box must be") as error:
            Detect.prepare(SMALL, face() | {"box": np.array(box, np.float32)}, np.random.default_rng(0), "score")
        assert not isinstance(error.value, BadSample)
    beside = face() | {"box": np.array([3.0, 3.0, 4.0, 4.0]) * CANVAS}
    with pytest.raises(BadSample, match="outside"):
        Detect.prepare(SMALL, beside, np.random.default_rng(0), "train")


def test_a_box_at_the_edge_is_clipped(face):
    sample = face() | {"box": np.array([-10.0, -10.0, 60.0, 60.0])}
    assert Detect.prepare(SMALL, sample, np.random.default_rng(0), "score")["image"].shape == (PX, PX, 3)


def test_images_are_checked(face):
    for wrong in (face()["image"][..., 0], face()["image"].astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            Detect.prepare(SMALL, face() | {"image": wrong}, np.random.default_rng(0), "train")


# --------------------------------------------------------------------------------- scores and settings
def test_scores_of_a_video_are_by_sbis_code_or_by_the_paper():
    assert Detect.pooling(adfd.Config()) == Pooling(faces="max", min_area=0.5, frames="mean")
    of_all = models.override(adfd.Config(), {"smallest_face": 0.0})
    assert Detect.pooling(of_all) == Pooling(faces="max", min_area=0.0, frames="mean")
    with pytest.raises(ValueError, match=r"smallest_face must be in \[0, 1\], got 1.5"):
        models.override(adfd.Config(), {"smallest_face": 1.5})


@torch.no_grad()
def test_a_logit_is_that_of_the_probability_of_fake(batch):
    torch.manual_seed(0)
    stage = Detect(SMALL).eval()
    images = batch["image"][:, 1]
    stage.classifier.bias.copy_(torch.tensor([0.0, 30.0]))
    assert (stage.score({"image": images})["logit"] > 4.6).all()
    stage.classifier.bias.copy_(torch.tensor([30.0, 0.0]))
    assert (stage.score({"image": images})["logit"] < -4.6).all()
    pairs = stage({"image": batch["image"]})["logit"]
    torch.testing.assert_close(stage.score({"image": images})["logit"], pairs[:, adfd.FAKE])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("nrs.filter", "best", "predicts"),
        ("nrs.distance", "l1", "cosine"),
        ("nrs.threshold", 2.5, r"\[0, 2\]"),
        ("nrs.beta", 0.0, "positive"),
        ("nrs.beta", 99.0, "num_epochs = 100"),
        ("nrs.num_centres", 501, "memory_size = 500"),
        ("nrs.start_epoch", 1, "at least 2"),
        ("net.normalize", "imagenet", "half"),
        ("net.dropout", 1.5, r"\[0, 1\]"),
        ("optim.batch_size", 31, "even"),
        ("optim.decay_start", 100, "num_epochs = 100"),
        ("optim.rho", 0.0, "positive"),
        ("optim.momentum", 1.0, r"\[0, 1\)"),
        ("data.margin", [0.2, 0.1], "smaller end first"),
        ("data.input_px", 0, "input_px"),
        ("crop_margin", 1.3, "at least 1.4"),
        ("stages", ["train"], "detect"),
        ("data.blend.mask.kind", "face", "bbmg"),
    ],
)
def test_refused_settings(key, value, text):
    with pytest.raises(ValueError, match=text):
        models.override(adfd.Config(), {key: value})
