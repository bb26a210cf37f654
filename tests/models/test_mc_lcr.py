"""MC-LCR: style of shallow layers, spectra of patches, dual attention, Mixers, contrast; checked by hand or by law."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from models import mc_lcr
from models._layers import to_patches
from models._patch_spectra import LUMA, DualAttention, FrequencyStream, MixerLayer, spectra, to_gray
from models.mc_lcr import Detect, style, supervised_contrastive

PAPER = models.override(mc_lcr.Config(), {"pretrained": False})
TINY = models.override(  # N = P^2 = 64 patches and values, D = 48: what is transposed does not fit
    mc_lcr.SMALL,
    {
        "input_px": 64,
        "backbone_width": 0.25,
        "frequency.patch_px": 8,
        "frequency.width": 48,
        "frequency.num_layers": 1,
        "dropout_at": ["fused", "encoded"],
    },
)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**changes) -> mc_lcr.Config:
    return models.override(TINY, {name.replace("__", "."): value for name, value in changes.items()})


def build(seed: int = 0, **changes) -> Detect:
    torch.manual_seed(seed)
    return Detect(tiny(**changes))


def paper_size(**changes) -> Detect:
    with torch.device("meta"):
        return Detect(models.override(PAPER, {name.replace("__", "."): value for name, value in changes.items()}))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    image = (noise(6, 64, 64, 3) * 255).to(torch.uint8)
    return {"image": image, "label": torch.tensor([0, 1, 0, 1, 0, 1])}


# ----------------------------------------------------------------------------------------- SSRB, GF
def test_taps_have_the_papers_sizes():
    with torch.device("meta"):
        features = mc_lcr.Xception()(torch.rand(2, 3, 256, 256))
    taps = [features.stem, features.blocks[0], features.blocks[1], features.top]
    assert [tuple(tap.shape[1:]) for tap in taps] == [(64, 125, 125), (128, 63, 63), (256, 32, 32), (2048, 8, 8)]


def test_taps_are_after_the_relu():
    stream = mc_lcr.SpatialStream(tiny()).eval()
    image = noise(2, 3, 64, 64)
    features = stream.backbone((image - 0.5) / 0.5)
    assert (features.blocks[0] < 0).any()  # so that the next lines can tell
    *styles, gf = stream(image)
    for ssf, tap in zip(styles, (features.stem, features.blocks[0].relu(), features.blocks[1].relu()), strict=True):
        torch.testing.assert_close(ssf, style(tap))
        assert (ssf >= 0).all()
    torch.testing.assert_close(gf, stream.fc(features.top.mean((2, 3))))


def test_style_is_the_row_mean_of_the_gram_matrix():
    features = noise(2, 5, 4, 3)
    flat = features.flatten(2)
    gram = flat @ flat.mT
    torch.testing.assert_close(style(features, mean=False), gram.mean(2), rtol=1e-5, atol=0)
    torch.testing.assert_close(style(features), gram.mean(2) / 12, rtol=1e-5, atol=0)


def test_style_by_hand():
    # F = [[1, 2], [3, 0]]: G = [[5, 3], [3, 9]], row means 4 and 6, over two positions 2 and 3.
    assert style(torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])).tolist() == [[2.0, 3.0]]


def test_style_forgets_positions_and_keeps_channels():
    features = noise(2, 6, 4, 4)
    moved = features.flatten(2)[:, :, torch.randperm(16)].unflatten(2, (4, 4))
    torch.testing.assert_close(style(moved), style(features))
    order = torch.randperm(6)
    torch.testing.assert_close(style(features[:, order]), style(features)[:, order])
    torch.testing.assert_close(style(3 * features), 9 * style(features))
    torch.testing.assert_close(style(torch.full((1, 6, 4, 4), 0.7)), torch.full((1, 6), 0.49))


def test_style_is_float32_in_half_precision():
    features = noise(2, 6, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(style(features), style(features))
        assert style(features.bfloat16()).dtype == torch.float32


def test_style_trains_the_stem():
    stage = build(use_frequency=False)
    ssf_b3 = stage.spatial(noise(2, 3, 64, 64))[2]
    ssf_b3.sum().backward()
    assert stage.spatial.backbone.conv1.weight.grad.abs().max() > 0
    assert stage.spatial.backbone.block3.rep[1].conv1.weight.grad is None  # behind the tap
    assert count(build(use_ssrb=False).spatial) == count(stage.spatial)  # SSRB has no parameters


def test_block_13_is_what_its_name_says():
    stream = build(gf="b13").spatial.eval()
    whole = build(gf="raw2048").spatial.eval()
    image = noise(2, 3, 64, 64)
    block12 = whole.backbone((image - 0.5) / 0.5).blocks[-1]
    stream.load_state_dict({k: v for k, v in whole.state_dict().items() if k in stream.state_dict()})
    torch.testing.assert_close(stream(image)[3], block12.mean((2, 3)))


# ------------------------------------------------------------------------------------------ spectra
def test_patches_come_row_by_row():
    gray = torch.arange(2 * 12 * 8).view(2, 12, 8)
    patches = to_patches(gray, 4)
    assert patches.shape == (2, 6, 4, 4)
    for row in range(3):
        for column in range(2):
            expected = gray[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(patches[:, 2 * row + column], expected)
    back = patches.unflatten(1, (3, 2)).transpose(2, 3).reshape(2, 12, 8)
    assert torch.equal(back, gray)


def test_gray_is_brightness_of_the_image_as_it_is():
    image = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).T.reshape(1, 3, 4, 1)
    torch.testing.assert_close(to_gray(image, torch.tensor(LUMA)).flatten(), torch.tensor([0.299, 0.587, 0.114, 1.0]))


@pytest.mark.parametrize("phase", ["atan2", "arctan"])
def test_constant_patch(phase):
    amplitude, angle = spectra(torch.full((1, 16, 16), 0.3), phase)
    assert amplitude[0, 0, 0] == pytest.approx(0.3)
    assert amplitude.flatten()[1:].max() < 1e-6
    assert (angle == 0).all()


def test_noise_at_the_size_of_rounding_has_no_phase():
    patch = 0.5 + 1e-8 * torch.randn(1, 16, 16)
    assert (spectra(patch)[1] == 0).all()


def test_negative_brightness_has_phase_pi():
    assert spectra(torch.full((1, 16, 16), -0.3))[1][0, 0, 0] == pytest.approx(math.pi)
    assert spectra(torch.full((1, 16, 16), -0.3), "arctan")[1][0, 0, 0] == 0  # what Eq. 4 as printed can't see


def test_arctan_is_atan2_up_to_half_a_turn():
    patches = noise(20, 16, 16)
    full, printed = spectra(patches)[1], spectra(patches, "arctan")[1]
    assert printed.abs().max() <= math.pi / 2 + 1e-6
    turns = (full - printed) / math.pi
    torch.testing.assert_close(turns, turns.round(), atol=1e-4, rtol=0)
    assert (turns.round() != 0).any()


def test_circular_shift_turns_the_phase_only():
    patch, dy, dx = noise(1, 16, 16), 3, 5
    amplitude, phase = spectra(patch)
    moved_amplitude, moved_phase = spectra(patch.roll((dy, dx), (1, 2)))
    torch.testing.assert_close(moved_amplitude, amplitude, atol=1e-6, rtol=1e-4)
    v, u = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    expected = phase - 2 * math.pi * (v * dy + u * dx) / 16
    torch.testing.assert_close((moved_phase - expected).cos(), torch.ones(1, 16, 16), atol=1e-4, rtol=0)
    assert not torch.allclose(spectra(noise(1, 16, 17)[..., 1:])[0], spectra(noise(1, 16, 17)[..., :-1])[0])


def test_more_light_and_more_contrast():
    patch = noise(1, 16, 16)
    amplitude, phase = spectra(patch)
    lighter_amplitude, lighter_phase = spectra(patch + 0.25)
    assert (lighter_amplitude - amplitude)[0, 0, 0] == pytest.approx(0.25, abs=1e-6)
    torch.testing.assert_close(lighter_amplitude.flatten()[1:], amplitude.flatten()[1:], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(lighter_phase, phase, atol=1e-3, rtol=0)
    strong_amplitude, strong_phase = spectra(2.5 * patch)
    torch.testing.assert_close(strong_amplitude, 2.5 * amplitude)
    torch.testing.assert_close(strong_phase, phase, atol=1e-3, rtol=0)


def test_spectra_of_a_real_picture_are_symmetric():
    amplitude, phase = spectra(noise(9, 16, 16))
    mirror = -torch.arange(16) % 16
    torch.testing.assert_close(amplitude, amplitude[:, mirror][:, :, mirror], atol=1e-7, rtol=1e-4)
    own = torch.zeros(16, 16, dtype=torch.bool)
    own[::8, ::8] = True
    torch.testing.assert_close(phase[:, ~own], -phase[:, mirror][:, :, mirror][:, ~own], atol=1e-3, rtol=0)
    at_own = phase[:, own]
    assert ((at_own == 0) | (at_own == torch.tensor(math.pi))).all()  # never -pi by rounding
    assert (at_own > 0).any()
    assert (amplitude >= 0).all()
    assert (phase > -math.pi).all()
    assert (phase <= torch.tensor(math.pi)).all()


def test_rounding_does_not_turn_real_bins(monkeypatch):
    """Another FFT may leave a little of either sign where there is nothing: +pi must not become -pi."""
    exact = torch.fft.fft2
    patches = noise(50, 16, 16)
    expected = spectra(patches)[1]
    monkeypatch.setattr(torch.fft, "fft2", lambda x, **options: exact(x, **options) - 1e-9j)
    torch.testing.assert_close(spectra(patches)[1][:, ::8, ::8], expected[:, ::8, ::8])
    assert (expected[:, ::8, ::8] > 3).any()


def test_spectra_keep_energy_and_give_the_patch_back():
    patch = noise(4, 16, 16)
    amplitude, phase = spectra(patch)
    torch.testing.assert_close(amplitude.square().sum((1, 2)), patch.square().mean((1, 2)))
    back = torch.fft.ifft2(torch.polar(amplitude, phase), norm="forward").real
    torch.testing.assert_close(back, patch, atol=1e-5, rtol=0)


def test_a_change_stays_in_its_patch():
    gray = noise(1, 32, 32)
    other = gray.clone()
    other[0, 20, 3] += 0.2  # patch 2 of 4
    for before, after in zip(spectra(to_patches(gray, 16)), spectra(to_patches(other, 16)), strict=True):
        assert torch.equal(before[0, [0, 1, 3]], after[0, [0, 1, 3]])
        assert not torch.equal(before[0, 2], after[0, 2])


def stream(**changes) -> FrequencyStream:
    torch.manual_seed(0)
    sizes = {"input_px": 32, "patch_px": 8, "width": 24, "num_heads": 4, "num_layers": 2}
    return FrequencyStream(**(sizes | changes)).eval()


@torch.no_grad()
def test_the_stream_is_float32_in_half_precision():
    """All of it: with bf16 embeddings the amplitude stream is off by more than a forgery changes it (about 1e-3)."""
    net, image = stream(), noise(2, 3, 32, 32)
    full = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(image)
        assert net.embed_amplitude(noise(1, 64)).dtype == torch.bfloat16  # autocast is on around it
    for expected, feature in zip(full, half, strict=True):
        assert feature.dtype == torch.float32
        assert torch.equal(feature, expected)


def test_frequency_options_have_an_effect():
    image = noise(2, 3, 32, 32)
    plain = stream()(image)
    assert [tuple(feature.shape) for feature in plain] == [(2, 24), (2, 24)]
    for changes in ({"phase": "arctan"}, {"amplitude": "log"}, {"amplitude": "log1p"}):
        other = stream(**changes)(image)
        assert not torch.allclose(plain[0], other[0], atol=1e-5, rtol=0), changes
    assert count(stream(cross_attention=False)) == count(stream()) - count(stream().papda)


def test_attention_joins_the_streams():
    """With it, the amplitude feature depends on the phases; without it, it does not."""
    image = noise(1, 3, 32, 32)
    moved = image.roll(2, 3)
    for changes, depends in (({}, True), ({"cross_attention": False}, False)):
        net = stream(**changes)
        before = net(image)[0]
        with torch.no_grad():
            net.embed_phase.weight.mul_(-1)
        assert torch.equal(net(image)[0], before) != depends
        assert not torch.equal(net(moved)[0], before)


def test_each_stream_has_its_mixer():
    net, image = stream(), noise(2, 3, 32, 32)
    before = net(image)
    torch.nn.init.zeros_(net.mix_amplitude.norm.weight)
    after = net(image)
    assert (after[0] == 0).all()
    assert torch.equal(after[1], before[1])


# ------------------------------------------------------------------------------------ PAPDA, Mixers
def papda(width: int = 24, num_heads: int = 4) -> DualAttention:
    torch.manual_seed(0)
    module = DualAttention(width, num_heads).eval()
    with torch.no_grad():
        for norm in (module.norm_amplitude, module.norm_phase):
            norm.weight.copy_(1 + 0.3 * torch.randn(width))
            norm.bias.copy_(0.3 * torch.randn(width))
    return module


def test_attention_by_the_equations():
    """Eq. 5 to 7 head by head, written out."""
    module, e_as, e_ps = papda(), normal(2, 10, 24, seed=1), normal(2, 10, 24, seed=2)
    attend = module.attend_amplitude
    key_value, query = module.norm_amplitude(e_as), module.norm_phase(e_ps)
    w_q, w_k, w_v = attend.in_proj_weight.chunk(3)
    heads = []
    for h in range(4):
        rows = slice(6 * h, 6 * h + 6)
        q, k, v = query @ w_q[rows].T, key_value @ w_k[rows].T, key_value @ w_v[rows].T
        heads.append((q @ k.mT / math.sqrt(6)).softmax(-1) @ v)
    expected = e_as + attend.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(module(e_as, e_ps)[0], expected, atol=1e-5, rtol=1e-4)


def test_attention_weights_at_the_papers_size():
    e = normal(1, 256, 256)
    _, weights = papda(256).attend_phase(e, e, e, average_attn_weights=False)
    assert weights.shape == (1, 4, 256, 256)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 256))


def test_attention_without_output_leaves_the_embeddings():
    module, e_as, e_ps = papda(), normal(2, 10, 24, seed=1), normal(2, 10, 24, seed=2)
    for attend in (module.attend_amplitude, module.attend_phase):
        torch.nn.init.zeros_(attend.out_proj.weight)
    assert torch.equal(module(e_as, e_ps)[0], e_as)
    assert torch.equal(module(e_as, e_ps)[1], e_ps)


def test_attention_is_the_same_with_streams_swapped():
    module, other = papda(), papda()
    e_as, e_ps = normal(2, 10, 24, seed=1), normal(2, 10, 24, seed=2)
    swapped = {
        name.replace("amplitude", "x").replace("phase", "amplitude").replace("x", "phase"): value
        for name, value in module.state_dict().items()
    }
    other.load_state_dict(swapped)
    at, pt = module(e_as, e_ps)
    pt_swapped, at_swapped = other(e_ps, e_as)
    torch.testing.assert_close(at_swapped, at)
    torch.testing.assert_close(pt_swapped, pt)
    assert not torch.allclose(module(e_ps, e_as)[1], at)  # two sets of weights


def test_attention_does_not_know_the_order_of_patches():
    module, e_as, e_ps, order = papda(), normal(2, 10, 24, seed=1), normal(2, 10, 24, seed=2), torch.randperm(10)
    for moved, token in zip(module(e_as[:, order], e_ps[:, order]), module(e_as, e_ps), strict=True):
        torch.testing.assert_close(moved, token[:, order])


def layer(num_patches: int = 10, width: int = 24) -> MixerLayer:
    torch.manual_seed(0)
    return MixerLayer(num_patches, width).eval()


def test_mixer_by_the_equations():
    module, t = layer(), normal(10, 24)
    w1, _, w2, _ = module.mix_patches
    w3, _, w4, _ = module.mix_channels
    normed = F.layer_norm(t, (24,))
    columns = [w2(F.gelu(w1(normed[:, channel]))) for channel in range(24)]
    u = t + torch.stack(columns, 1)
    y = torch.stack([row + w4(F.gelu(w3(F.layer_norm(row, (24,))))) for row in u])
    torch.testing.assert_close(module(t[None])[0], y, atol=1e-5, rtol=1e-4)


def test_mixer_knows_the_order_of_patches():
    module, t, order = layer(), normal(2, 10, 24), torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    assert not torch.allclose(module(t[:, order]), module(t)[:, order], atol=1e-3)


def test_mixer_paths():
    t = normal(1, 24, 24)  # N = D, so that a transposed layer would run
    other = t.clone()
    other[0, 3] += normal(24, seed=1)
    rest = [i for i in range(24) if i != 3]
    module = layer(24)
    assert (module(t) != module(other))[0, rest].any()  # patches mix
    torch.nn.init.zeros_(module.mix_patches[2].weight)
    assert torch.equal(module(t)[0, rest], module(other)[0, rest])  # only in the first half
    module = layer(24)
    torch.nn.init.zeros_(module.mix_channels[2].weight)
    torch.nn.init.zeros_(module.mix_channels[2].bias)
    module.norm1 = torch.nn.Identity()  # mixes channels of a patch
    other = t.clone()
    other[0, :, 5] += normal(24, seed=1)
    changed = (module(t) != module(other))[0].any(0)
    assert changed.nonzero().flatten().tolist() == [5]  # channels only in the second


# ---------------------------------------------------------------------------------------- assembly
def test_parameter_counts():
    whole = paper_size()
    assert count(whole) == 26_787_754
    assert count(whole.frequency) == 1_716_736
    assert count(whole.frequency.mix_phase.layers[0]) == 264_192
    assert count(whole.frequency.papda.attend_phase) == 263_168
    assert count(whole.spatial.backbone) == 20_806_952
    assert count(whole.spatial.fc) == 2_098_176
    assert count(paper_size(loss__alpha=0)) == 26_656_554
    assert count(paper_size(gf="b13")) == 19_940_778
    assert count(paper_size(gf="b13").spatial.backbone) == 16_058_152
    assert count(paper_size(gf="raw2048")) == 25_738_154
    baseline = paper_size(
        use_ssrb=False, use_frequency=False, use_encoder=False, gf="raw2048", loss__alpha=0, gf_width=5
    )
    assert count(baseline) == 20_806_952 + 2 * 2049


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({}, 1984),
        ({"use_ssrb": False}, 1536),
        ({"use_frequency": False}, 1472),
        ({"frequency__cross_attention": False}, 1984),
        ({"gf": "raw2048"}, 3008),
        ({"gf": "b13"}, 1984),
    ],
)
def test_width_of_the_joined_features(changes, width):
    assert paper_size(**changes).encode[1].in_features == width


def test_order_of_the_joined_features(batch):
    stage = build().eval()
    unit = batch["image"].permute(0, 3, 1, 2) / 255
    *ssf, gf = stage.spatial(unit)
    af, pf = stage.frequency(unit)
    assert [feature.shape[1] for feature in (*ssf, gf, af, pf)] == [16, 32, 64, 128, 48, 48]
    torch.testing.assert_close(stage.fuse(batch["image"]), torch.cat([*ssf, gf, af, pf], 1))


def test_gradients_reach_every_part(batch):
    for changes in (
        {},
        {"use_ssrb": False, "use_frequency": False, "use_encoder": False, "gf": "raw2048", "loss__alpha": 0},
        {"use_encoder": False},
        {"gf": "b13", "norm_ssf": True, "frequency__cross_attention": False},
        {"loss__alpha": 1},
    ):
        stage = build(**changes).train()
        stage(batch)["loss"].backward()
        without = [name for name, value in stage.named_parameters() if value.grad is None]
        assert not without, (changes, without)


def test_alpha_switches_the_heads(batch):
    assert build(loss__alpha=0).project is None
    stage = build(loss__alpha=1).train()
    out = stage(batch)
    out["loss"].backward()
    assert out["loss"] == out["contrastive"]
    assert (stage.classify[1].weight.grad == 0).all()
    assert stage.project.weight.grad.abs().max() > 0
    stage = build(loss__alpha=0.25).train()
    out = stage(batch)
    torch.testing.assert_close(out["loss"], 0.25 * out["contrastive"] + 0.75 * out["ce"])


def test_score_does_not_depend_on_the_projection_or_the_batch(batch):
    stage = build().eval()
    with torch.no_grad():
        before = stage.score(batch)["logit"]
        torch.nn.init.normal_(stage.project.weight)
        assert torch.equal(stage.score(batch)["logit"], before)
        torch.testing.assert_close(stage(batch)["logit"], before)
        alone = stage.score({name: value[2:3] for name, value in batch.items()})["logit"]
        torch.testing.assert_close(alone, before[2:3])
        logits = stage.classify(stage.encoded(batch["image"]))
    torch.testing.assert_close(before, logits[:, 1] - logits[:, 0])


def test_loss_in_evaluation_is_that_of_each_sample(batch):
    """So that validation can weigh the classes alike, however its batches are cut."""
    stage = build().eval()
    with torch.no_grad():
        out = stage(batch)
    p, y = out["logit"].sigmoid(), batch["label"].float()
    torch.testing.assert_close(out["loss"], -(y * p.log() + (1 - y) * (1 - p).log()))
    assert stage.balances_val_loss


@pytest.mark.parametrize("place", mc_lcr.DROPOUTS)
def test_each_dropout_is_where_it_says(place, batch):
    """In training, batch norm apart, what lies before the dropout stays, and the logits change."""
    stage = build(dropout_at=[place]).train()
    for module in stage.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    fused, encoded, scores = zip(
        *[(stage.fuse(batch["image"]), stage.encoded(batch["image"]), stage.score(batch)["logit"]) for _ in range(2)],
        strict=True,
    )
    in_stream = place in ("attention", "mixer")
    assert torch.equal(*fused) != in_stream
    assert torch.equal(*encoded) == (place == "encoded")
    assert not torch.equal(*scores)


def test_no_dropout_in_evaluation(batch):
    stage = build(dropout_at=list(mc_lcr.DROPOUTS)).eval()
    assert torch.equal(stage.score(batch)["logit"], stage.score(batch)["logit"])
    assert torch.equal(build(dropout_at=[]).eval().score(batch)["logit"], stage.score(batch)["logit"])


def test_options_of_the_style_features_have_an_effect(batch):
    plain = build().eval().fuse(batch["image"])
    summed = build(gram_mean=False).eval().fuse(batch["image"])
    torch.testing.assert_close(summed[:, :16], plain[:, :16] * 29**2, rtol=1e-4, atol=1e-5)
    normed = build(norm_ssf=True).eval().fuse(batch["image"])
    torch.testing.assert_close(normed[:, :16].mean(1), torch.zeros(6), atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------------------- loss
CLASSES = torch.tensor([0] * 8 + [1] * 8)
UNIT = torch.eye(4)[0]


def embeddings(kind: str) -> torch.Tensor:
    other = {"identical": UNIT, "orthogonal": torch.eye(4)[1], "opposite": -UNIT}[kind]
    return torch.where(CLASSES[:, None] == 0, UNIT, other)


@pytest.mark.parametrize(
    ("kind", "form", "expected"),
    [
        ("identical", "standard", math.log(15)),
        ("orthogonal", "standard", math.log(7 + 8 * math.exp(-10))),
        ("opposite", "standard", math.log(7 + 8 * math.exp(-20))),
        ("identical", "eq13", math.log(8)),
        ("orthogonal", "eq13", math.log(8) - 10),
        ("opposite", "eq13", math.log(8) - 20),
    ],
)
def test_contrastive_loss_by_hand(kind, form, expected):
    z = embeddings(kind)
    assert supervised_contrastive(z, CLASSES, 0.1, form=form).item() == pytest.approx(expected, abs=1e-4)
    summed = supervised_contrastive(z, CLASSES, 0.1, form=form, reduction="sum")
    assert summed.item() == pytest.approx(16 * expected, abs=2e-3)


def test_contrastive_loss_as_printed():
    """Both forms with loops, for classes of unequal size."""
    z, label = F.normalize(normal(7, 5), dim=1), torch.tensor([0, 1, 1, 0, 1, 1, 0])
    expected = {"standard": 0.0, "eq13": 0.0}
    for i in range(7):
        positives = [p for p in range(7) if p != i and label[p] == label[i]]
        negatives = [n for n in range(7) if label[n] != label[i]]
        for form, against in (("standard", positives + negatives), ("eq13", negatives)):
            below = sum(math.exp(float(z[i] @ z[a]) / 0.1) for a in against)
            terms = [math.log(math.exp(float(z[i] @ z[p]) / 0.1) / below) for p in positives]
            expected[form] -= sum(terms) / len(positives)
    for form, value in expected.items():
        loss = supervised_contrastive(z, label, 0.1, form=form, reduction="sum")
        assert loss.item() == pytest.approx(value, rel=1e-4)
    assert expected["standard"] > expected["eq13"]


@pytest.mark.parametrize("form", ["standard", "eq13"])
def test_contrastive_loss_does_not_know_the_order(form):
    z, order = F.normalize(normal(16, 5), dim=1), torch.randperm(16)
    torch.testing.assert_close(
        supervised_contrastive(z[order], CLASSES[order], 0.1, form=form),
        supervised_contrastive(z, CLASSES, 0.1, form=form),
    )


@pytest.mark.parametrize("form", ["standard", "eq13"])
@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1], [0], [0, 1], [0, 1, 1]])
def test_contrastive_loss_where_anchors_lack_a_class(form, label):
    z = F.normalize(normal(len(label), 5), dim=1).requires_grad_()
    loss = supervised_contrastive(z, torch.tensor(label), 0.1, form=form)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    if label in ([0], [0, 1]) or (form == "eq13" and len(set(label)) == 1):
        assert loss == 0
        assert (z.grad == 0).all()


def test_contrastive_gradient_in_half_precision():
    weight = (10 * normal(5, 8)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z = F.normalize((normal(16, 8, seed=3) @ weight.T).float(), dim=1)
        loss = supervised_contrastive(z, CLASSES, 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, supervised_contrastive(z, CLASSES, 0.1))
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("form", ["standard", "eq13"])
def test_a_batch_of_one_class_trains(label, form, batch):
    stage = build(loss__form=form).train()
    out = stage({**batch, "label": torch.full((6,), label)})
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    assert all(torch.isfinite(value.grad).all() for value in stage.parameters())


def test_projection_has_unit_norm_and_options_reach_the_loss(batch, monkeypatch):
    seen = []

    def record(z, label, temperature, **options):
        seen.append((z, label, temperature, options))
        return supervised_contrastive(z, label, temperature, **options)

    monkeypatch.setattr(mc_lcr, "supervised_contrastive", record)
    build(loss__form="eq13", loss__reduction="sum", loss__temperature=0.3).train()(batch)
    z, label, temperature, options = seen[0]
    torch.testing.assert_close(z.norm(dim=1), torch.ones(6))
    assert torch.equal(label, batch["label"])
    assert (temperature, options) == (0.3, {"form": "eq13", "reduction": "sum"})


def test_contrast_is_among_all_workers(batch, monkeypatch):
    monkeypatch.setattr(mc_lcr, "gather", lambda x: torch.cat([x, x]))  # as if another worker had the same images
    losses = {}
    for shared in (True, False):
        out = build(loss__gather_negatives=shared, dropout_at=[]).train()(batch)
        losses[shared] = out["contrastive"].item()
    stage = build(dropout_at=[]).train()
    z = F.normalize(stage.project(stage.encoded(batch["image"])), dim=1)
    label = batch["label"]
    alone = supervised_contrastive(z, label, 0.1)
    together = supervised_contrastive(torch.cat([z, z]), torch.cat([label, label]), 0.1)
    assert losses[False] == pytest.approx(alone.item(), rel=1e-5)
    assert losses[True] == pytest.approx(together.item(), rel=1e-5)
    assert losses[True] != pytest.approx(losses[False], rel=1e-3)


# ------------------------------------------------------------------------------------------ samples
def tilted(degrees: float, landmarks, size: int = 96) -> dict:
    """Make a face sample turned clockwise about the middle, as seen: its eyes are red, all else is grey."""
    points = landmarks(size, TINY.crop_margin)
    centre = (size - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), -degrees, 1.0)
    points = (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    image = np.full((size, size, 3), 120, np.uint8)
    for eye in (points[36:42].mean(0), points[42:48].mean(0)):
        cv2.circle(image, [round(float(v)) for v in eye], 3, (255, 0, 0), -1)
    half = size / 2 / TINY.crop_margin
    box = np.array([size / 2 - half, size / 2 - half, size / 2 + half, size / 2 + half], np.float32)
    return {"image": image, "landmarks": points, "box": box, "label": 1, "domain": -1}


def red_spots(image: np.ndarray) -> np.ndarray:
    """Return x, y (2, 2) of the centres of the two red spots, from left to right."""
    red = (image[..., 0].astype(int) - image[..., 1] > 60).astype(np.uint8)
    number, _, _, centres = cv2.connectedComponentsWithStats(red)
    assert number == 3  # with the background
    return centres[1:][np.argsort(centres[1:, 0])]


@pytest.mark.parametrize("degrees", [-40, -13, 0, 25, 44])
def test_alignment_levels_the_eyes_and_shows_nothing_else(degrees, landmarks):
    level = red_spots(mc_lcr.aligned_face(tiny(), tilted(0, landmarks)))
    image = mc_lcr.aligned_face(tiny(), tilted(degrees, landmarks))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    edge = np.concatenate([image[[0, -1]].reshape(-1, 3), image[:, [0, -1]].reshape(-1, 3)])
    assert (edge == 120).all(), "a corner is black"
    np.testing.assert_allclose(red_spots(image), level, atol=1.0)  # the same place and distance at any angle
    if abs(degrees) > 10:
        upright = red_spots(mc_lcr.aligned_face(tiny(align=False), tilted(degrees, landmarks)))
        assert np.sign(upright[1, 1] - upright[0, 1]) == np.sign(degrees)


def test_alignment_keeps_the_scale_of_the_box(landmarks):
    spots = red_spots(mc_lcr.aligned_face(tiny(), tilted(0, landmarks)))
    points = landmarks(1, 1.0)  # in boxes
    apart = np.hypot(*(points[42:48].mean(0) - points[36:42].mean(0)))
    assert np.hypot(*(spots[1] - spots[0])) == pytest.approx(64 * apart / 1.3, abs=1.0)


@pytest.mark.parametrize("degrees", [0, 30, -44])
@pytest.mark.parametrize("shift", [(-25, 0), (20, 25), (0, -40), "whole crop"])
def test_a_face_at_the_edge_shows_no_made_up_pixels(degrees, shift, landmarks):
    """Each pixel tells where it comes from; repeating the border would give constant runs."""
    size = 96
    sample = tilted(degrees, landmarks, size)
    ramp = np.arange(size, dtype=np.uint8)
    sample["image"] = np.stack([*np.meshgrid(ramp, ramp), np.zeros((size, size), np.uint8)], -1)
    if shift == "whole crop":
        sample["box"] = np.array([0, 0, size, size], np.float32)
    else:
        sample["box"] = sample["box"] + np.array([*shift, *shift], np.float32)
    image = mc_lcr.aligned_face(tiny(), sample).astype(int)
    across = np.hypot(image[:, -3, 0] - image[:, 2, 0], image[:, -3, 1] - image[:, 2, 1])
    down = np.hypot(image[-3, :, 0] - image[2, :, 0], image[-3, :, 1] - image[2, :, 1])
    assert across.std() < 1.5
    assert down.std() < 1.5
    assert across.mean() == pytest.approx(down.mean(), abs=1.5)


@pytest.mark.parametrize("spoil", ["nan", "same", "outside"])
def test_landmarks_that_say_nothing(spoil, landmarks):
    sample = tilted(30, landmarks)
    if spoil == "nan":
        sample["landmarks"] = np.full((68, 2), np.nan, np.float32)
    elif spoil == "same":
        sample["landmarks"] = np.full((68, 2), 7, np.float32)
    else:
        sample["landmarks"] = tilted(0, landmarks)["landmarks"] + 1000  # level, far out
    expected = mc_lcr.aligned_face(tiny(align=False), sample)
    for mode in ("train", "score"):
        image = Detect.prepare(tiny(flip=False), sample, np.random.default_rng(0), mode)["image"]
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("image", np.zeros((96, 96), np.uint8), "image must be"),
        ("image", np.zeros((96, 96, 4), np.uint8), "image must be"),
        ("image", np.zeros((96, 80, 3), np.uint8), "image must be"),
        ("image", np.zeros((96, 96, 3), np.float32), "image must be"),
        ("box", np.array([10, 10, 10, 40], np.float32), "box must be"),
        ("box", np.array([10, 10, np.nan, 40], np.float32), "box must be"),
    ],
)
def test_bad_samples_are_named(name, value, text, landmarks):
    with pytest.raises(ValueError, match=text):
        Detect.prepare(tiny(), {**tilted(0, landmarks), name: value}, np.random.default_rng(0), "train")


def test_bad_batches_are_named():
    stage = build()
    for shape in ((2, 64, 64, 4), (2, 32, 32, 3), (2, 3, 64, 64), (64, 64, 3)):
        with pytest.raises(ValueError, match="image must be"):
            stage.score({"image": torch.zeros(shape, dtype=torch.uint8)})


def test_flips_are_in_training_only(landmarks):
    sample = tilted(10, landmarks)
    sample["image"][:, :30] = 200
    still = Detect.prepare(tiny(), sample, np.random.default_rng(0), "score")["image"]
    seen = {}
    for seed in range(12):
        row = Detect.prepare(tiny(), sample, np.random.default_rng(seed), "train")
        seen[row["image"].tobytes()] = row["image"]
        for mode in ("select", "score"):
            row = Detect.prepare(tiny(), sample, np.random.default_rng(seed), mode)
            np.testing.assert_array_equal(row["image"], still)
    assert set(seen) == {still.tobytes(), np.ascontiguousarray(still[:, ::-1]).tobytes()}
    rows = [Detect.prepare(tiny(flip=False), sample, np.random.default_rng(s), "train")["image"] for s in range(12)]
    assert all(np.array_equal(row, still) for row in rows)


# ---------------------------------------------------------------------------------------- protocol
def test_an_epoch_shows_as_many_frames_as_there_are_real_ones():
    feed = Detect.feed(mc_lcr.Config())
    assert (feed.batch_size, feed.num_epochs, feed.steps_per_epoch) == (16, 50, 2700)
    assert feed.steps_per_epoch * feed.batch_size // 2 == 720 * 30 == 21_600
    assert 4 * 720 * 30 == 86_400
    assert feed.input_px == 364  # 1.85 boxes where the network sees 1.3 on 256 px


def test_crop_has_room_for_any_angle():
    cfg = mc_lcr.Config()
    assert cfg.crop_margin >= math.sqrt(2) * cfg.face_margin


def test_rate_halves_when_the_loss_stays():
    stage = build()
    optimizer, scheduler = stage.optimizer(10)
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(stage.parameters()))
    rates = []
    for loss in [1.0, 0.9, *[0.95] * 7]:
        scheduler.step(loss)
        rates.append(scheduler.get_last_lr()[0])
    assert rates == [1e-3] * 7 + [5e-4] * 2  # the sixth epoch that is not better than 0.9


def test_optimizer_options():
    stage = build(detect__optimizer="adamw", detect__backbone_lr_scale=0.1, detect__lr=0.01)
    optimizer, _ = stage.optimizer(10)
    assert type(optimizer) is torch.optim.AdamW
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(stage.spatial.backbone.conv1.weight)] == pytest.approx(0.001)
    assert rates[id(stage.spatial.fc.weight)] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stages": ["train"]}, "stages"),
        ({"crop_margin": 1.2}, "crop_margin"),
        ({"frequency.patch_px": 10}, "divide"),
        ({"frequency.patch_px": 7}, "even"),
        ({"frequency.num_heads": 5}, "num_heads"),
        ({"input_px": 32}, "48"),
        ({"loss.alpha": 1.5}, "alpha"),
        ({"loss.temperature": 0}, "temperature"),
        ({"loss.form": "eq14"}, "standard"),
        ({"gf": "b14"}, "b13"),
        ({"dropout_at": ["head"]}, "encoded"),
        ({"dropout": 1}, "dropout"),
        ({"detect.batch_size": 15}, "even"),
        ({"detect.optimizer": "sgd"}, "adamw"),
        ({"detect.lr_factor": 1}, "lr_factor"),
        ({"pretrained": True}, "ImageNet"),
    ],
)
def test_config_refuses(changes, text):
    with pytest.raises(ValueError, match=text):
        models.override(TINY, changes)


def test_config_refuses_unknown_choices_when_built_directly():
    for make in (
        lambda: mc_lcr.LossConfig(form="eq14"),
        lambda: mc_lcr.LossConfig(reduction="none"),
        lambda: mc_lcr.FrequencyConfig(phase="angle"),
        lambda: mc_lcr.FrequencyConfig(amplitude="sqrt"),
        lambda: mc_lcr.DetectConfig(optimizer="sgd"),
        lambda: mc_lcr.Config(gf="b14"),
    ):
        with pytest.raises(ValueError, match="must be one of"):
            make()


def test_settings_leave_out_what_changes_only_the_extraction():
    assert Detect.settings(tiny()) == Detect.settings(tiny(video_frames=3, crop_margin=2.5))
    assert Detect.settings(tiny()) != Detect.settings(tiny(face_margin=1.2))


@pytest.mark.parametrize(
    ("off", "without_effect"),
    [
        ({"use_encoder": False}, {"dropout_at": ["encoded"], "encoded_width": 7}),
        ({"use_frequency": False}, {"frequency.phase": "arctan", "frequency.width": 16, "frequency.num_layers": 3}),
        ({"use_frequency": False}, {"dropout_at": ["fused", "encoded", "attention", "mixer"]}),
        ({"frequency.cross_attention": False}, {"dropout_at": ["attention", "encoded", "fused"]}),
        ({"frequency.cross_attention": False}, {"frequency.num_heads": 2}),
        ({"use_ssrb": False}, {"gram_mean": False, "norm_ssf": True}),
        ({"gf": "raw2048"}, {"gf_width": 7}),
        ({"loss.alpha": 0.0}, {"loss.form": "eq13", "loss.temperature": 1.0, "projected_width": 7}),
        ({"dropout_at": []}, {"dropout": 0.1}),
    ],
)
def test_settings_leave_out_what_has_no_effect(off, without_effect):
    alone, together = (models.override(TINY, changes) for changes in (off, off | without_effect))
    assert Detect.settings(alone) == Detect.settings(together)
    assert Detect.settings(models.override(TINY, without_effect)) != Detect.settings(TINY)  # where it has one
    torch.manual_seed(0)
    first = Detect(alone).state_dict()
    torch.manual_seed(0)
    second = Detect(together).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first.keys() == second.keys()
