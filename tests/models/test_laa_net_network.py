"""LAA-Net's encoder, E-FPN and heads, and what is frozen of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import laa_net
from models._efpn import Encoder, Fuse, Inception, decoder
from models._layers import set_bn_momentum
from models.laa_net import Detect, Network, similarity

SMALL = models.override(laa_net.SMALL, {"data.synthesis": "sbi"})
PX, SIDE = SMALL.data.input_px, SMALL.data.input_px // laa_net.MAP_STRIDE


def count(module: nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


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


def test_features_and_maps_at_the_papers_size(paper):
    x = torch.empty(1, 3, 384, 384, device="meta")
    features = paper.net.encoder(x)
    shapes = {level: tuple(f.shape[1:]) for level, f in features.items()}
    assert shapes == {2: (32, 96, 96), 3: (56, 48, 48), 4: (160, 24, 24), 5: (448, 12, 12), 6: (1792, 12, 12)}
    fused: list[tuple[int, ...]] = []
    hook = paper.net.decoder.fuse.register_forward_hook(lambda fuse, args, out: fused.append(tuple(out.shape[1:])))
    out = paper.net(x)
    hook.remove()
    assert fused == [(896, 12, 12), (320, 24, 24), (112, 48, 48)]
    assert out.logit_N.shape == (1,)
    assert out.heatmap_NDD.shape == (1, 96, 96)
    assert out.embedding_NEDD.shape == (1, 256, 96, 96)


@pytest.mark.parametrize(
    ("lowest", "channels", "decoder_count", "network_count"),
    [
        (6, 56, 14_136_624, 31_799_354),
        (5, 56, 9_115_580, 26_778_310),
        (4, 56, 9_196_220, 26_858_950),
        (3, 112, 9_369_288, 27_128_786),
        (2, 224, 9_401_768, 27_354_802),
    ],
)
@pytest.mark.parametrize("merge", ["efpn", "fpn"])
def test_parameters_of_table_4(lowest, channels, decoder_count, network_count, merge):
    b4 = {2: 32, 3: 56, 4: 160, 5: 448, 6: 1792}
    with torch.device("meta"):
        made = decoder(b4, lowest, merge, 1.0, 0.4)
        features = {level: torch.empty(1, c, *[384 >> min(level, 5)] * 2) for level, c in b4.items()}
    assert made.out_channels == channels
    assert made(features).shape == (1, channels, 96, 96)
    assert count(made) == decoder_count
    heads = 64 * (3 * 9 * channels + 3 + 2 * 3) + 64 * (1 + 1 + 256) + 1 + 1 + 256
    assert 17_548_616 + decoder_count + heads == network_count


def test_parameters_of_the_published_network(paper):
    net = paper.net
    parts = (net.encoder, net.decoder, net.heatmap, net.classify, net.embed)
    assert [count(part) for part in parts] == [17_548_616, 9_369_288, 64_769, 64_769, 81_344]
    assert count(net) == 27_128_786
    levels = (net.decoder.level5, net.decoder.level4, net.decoder.level3, net.decoder.level2)
    assert [count(level) for level in levels] == [7_226_240, 1_700_480, 211_680, 230_888]


def test_batch_norm_and_drop_path_of_the_encoder(paper):
    norms = [m for m in paper.net.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    rest = [m for part in (paper.net.decoder, paper.net.classify) for m in part.modules()]
    assert {(m.momentum, m.eps) for m in rest if isinstance(m, nn.BatchNorm2d)} == {(0.1, 1e-5)}
    rates = [m.drop_prob for m in paper.net.encoder.modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.2 * 31 / 32)  # of 32 blocks, linear
    assert {m.p for m in paper.net.decoder.modules() if isinstance(m, nn.Dropout)} == {0.4}


def test_freezing_holds_the_encoder_for_six_epochs(paper):
    paper.start_epoch(6)
    frozen = [p for p in paper.parameters() if not p.requires_grad]
    assert (len(frozen), sum(p.numel() for p in frozen)) == (416, 17_548_616)
    assert count(paper, trainable=True) == 9_580_170
    paper.start_epoch(7)
    assert count(paper, trainable=True) == 27_128_786


def test_a_resumed_training_is_as_frozen_as_it_was():
    first, again = Detect(SMALL), Detect(SMALL)
    for epoch, frozen in ((1, True), (2, False)):
        first.start_epoch(epoch)
        again.load_state_dict(first.state_dict())
        assert {p.requires_grad for p in again.net.encoder.parameters()} == {not frozen}
        assert all(p.requires_grad for p in again.net.decoder.parameters())


def test_fuse_is_equation_9():
    e, f = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    fuse = Fuse("efpn", 1.0)
    torch.testing.assert_close(fuse(e, f), torch.cat([e, f * (1 - e.sigmoid())], 1))
    torch.testing.assert_close(Fuse("efpn", 2.0)(e, f)[:, 3:], f * (1 - e.sigmoid()) ** 2)
    assert torch.equal(fuse(torch.full_like(e, math.inf), f)[:, 3:], torch.zeros_like(f))
    assert torch.equal(fuse(torch.full_like(e, -math.inf), f)[:, 3:], f)
    assert torch.equal(Fuse("efpn", 0.0)(e, f), torch.cat([e, f], 1))
    assert torch.equal(Fuse("fpn", 1.0)(e, f), torch.cat([e, f], 1))


@pytest.mark.parametrize("lowest", [2, 3, 4, 5, 6])
def test_only_the_levels_that_are_merged_reach_the_map(lowest):
    torch.manual_seed(0)
    channels = {2: 4, 3: 4, 4: 8, 5: 8, 6: 16}
    made = decoder(channels, lowest, "efpn", 1.0, 0.0).eval()
    features = {level: torch.randn(1, c, *[64 >> min(level, 5)] * 2) for level, c in channels.items()}
    out = made(features)
    for level in features:
        other = features | {level: features[level] + 1}
        assert torch.equal(made(other), out) == (level < lowest)
    if lowest != 2:
        assert (out >= 0).all()  # ends with a ReLU; row (e) with a concatenation
    if lowest < 6:
        assert (made.level5(features[6]) >= 0).all()


@pytest.mark.parametrize("lowest", [3, 6])
def test_dropout_falls_on_the_features(lowest):
    torch.manual_seed(0)
    channels = {2: 4, 3: 4, 4: 8, 5: 8, 6: 16}
    made = decoder(channels, lowest, "efpn", 1.0, 0.4).eval()
    made.dropout.train()
    seen: list[torch.Tensor] = []
    made.dropout.register_forward_hook(lambda drop, args, out: seen.append(out))
    made({level: torch.ones(1, c, *[256 >> min(level, 5)] * 2) for level, c in channels.items()})
    assert len(seen) == 7 - lowest
    for out in seen:
        assert (out == 0).float().mean().item() == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"use_consistency": False, "use_heatmap": False, "lowest_level": 6}, {"bce"}),
        ({"use_consistency": False, "use_heatmap": False}, {"bce"}),
        ({"use_consistency": False, "lowest_level": 6}, {"bce", "heatmap"}),
        ({"use_heatmap": False}, {"bce", "consistency"}),
        ({"lowest_level": 6}, {"bce", "heatmap", "consistency"}),
        ({"lowest_level": 2, "merge": "fpn"}, {"bce", "heatmap", "consistency"}),
    ],
)
def test_parts_that_are_off_have_no_loss_and_no_parameters(options, kept, batch):
    cfg = replace(SMALL, net=replace(SMALL.net, **options))
    stage = Detect(cfg).train()
    out = stage(batch)
    assert set(out) == {"loss", "logit"} | kept
    assert (stage.net.heatmap is not None, stage.net.embed is not None) == ("heatmap" in kept, "consistency" in kept)
    out["loss"].backward()
    assert all(p.grad is not None for p in stage.parameters())


def test_the_start_of_the_heads():
    torch.manual_seed(0)
    net = Network(replace(SMALL.net, head_width=64, embedding_width=256), pretrained=False)
    with torch.no_grad():
        out = net(torch.randn(4, 3, PX, PX))
    assert 0.08 < out.heatmap_NDD.sigmoid().mean() < 0.14
    assert net.embed[-1].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert not net.embed[-1].bias.any()
    up = net.decoder.level2[1]
    assert isinstance(up, nn.ConvTranspose2d)
    assert up.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * up.out_channels)), rel=0.05)


def test_similarity_is_the_scaled_product_with_the_anchor():
    torch.manual_seed(0)
    embedding, anchor = torch.randn(3, 16, 4, 4), torch.tensor([0, 7, 15])
    logit = similarity(embedding, anchor)
    for n, (y, x) in enumerate([(0, 0), (1, 3), (3, 3)]):
        at_anchor = embedding[n, :, y, x]
        assert logit[n, 2, 1].item() == pytest.approx((at_anchor @ embedding[n, :, 2, 1]).item() / 4, rel=1e-5)
        assert logit[n, y, x] >= 0  # so that the prediction there is at least one half
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity(embedding, anchor), logit)


def test_other_encoders_are_refused():
    with pytest.raises(ValueError, match="EfficientNet"):
        Encoder("test_resnet", pretrained=False, bn_momentum=0.1, drop_path=0.0)
    with pytest.raises(ValueError, match="from 2 to 6"):
        decoder({}, 7, "efpn", 1.0, 0.0)


@pytest.mark.parametrize("shared", [False, True])
def test_a_norm_that_two_branches_share_shifts_them_in_evaluation(shared):
    torch.manual_seed(0)
    block = Inception(8, shared=shared)
    set_bn_momentum(block, 1.0)  # statistics of the last batch
    images = torch.rand(8, 8, 16, 16)
    in_training = block(images)
    in_evaluation = block.eval()(images)
    assert torch.allclose(in_training, in_evaluation, atol=0.01) is not shared


def test_a_shared_norm_counts_the_map_three_times_and_the_pooled_map_once():
    """The released block calls the layer for each of its branches, for the pooled map last."""
    torch.manual_seed(0)
    block = Inception(8, shared=True)
    set_bn_momentum(block, 0.1)
    layer, norm = block.squeeze[0], block.squeeze[1]
    mean = torch.zeros(2)
    for _ in range(3):
        images = torch.rand(4, 8, 8, 8)
        block(images)
        for seen in (images, images, images, F.max_pool2d(images, 3, 1, 1)):
            mean = 0.9 * mean + 0.1 * layer(seen).mean((0, 2, 3)).detach()
    torch.testing.assert_close(norm.running_mean, mean)
