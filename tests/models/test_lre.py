"""LRE: the properties that its equations must have; numbers worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import lre
from models._alignment import upright_face
from models._image_mae import MaskedAutoencoder, sincos_2d, to_image
from models._key_region import corner_points, draw_mask, key_patches, num_hidden
from models._layers import to_patches
from models._masking import flip_landmarks

PAPER = models.config("lre")
TINY = models.override(
    lre.SMALL,
    {
        "face.input_px": 64,
        "reconstruct.patch_px": 8,
        "reconstruct.width": 32,
        "reconstruct.depth": 1,
        "reconstruct.decoder_width": 16,
        "reconstruct.decoder_heads": 2,
        "detect.xception_width": 0.05,
    },
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def parameters(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


# ------------------------------------------------------------------------------------------- masks
def rectangle(cells: np.ndarray) -> tuple[int, int, int, int]:
    """Return first and last row, first and last column of the rectangle that the cells must fill."""
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    assert cells[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert cells.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, (2, 12, 2, 11)),
        (1.2, (3, 11, 3, 10)),
        (1.3, (3, 11, 3, 10)),
        (1.5, (3, 10, 3, 10)),
        (1.6, (4, 10, 4, 9)),
    ],
)
def test_key_region_of_the_mean_face(landmarks, scale, expected):
    cells = key_patches(landmarks(224, scale), 14, 16)
    assert rectangle(cells) == expected


def test_a_patch_that_begins_where_the_region_ends_is_no_part_of_it(landmarks):
    """Edges at 32 and 64 px, and one at 64.5: patches of 16 px, of which the last is covered by half a pixel."""
    points = landmarks(224)
    points[:27] = 48
    points[[17, 26]] = [[31.5, 31.5], [63.5, 31.5]]  # centres of pixels; the region's edges are half a pixel further
    points[[4, 12]] = [[31.5, 63.5], [63.5, 63.5]]
    assert rectangle(key_patches(points, 14, 16)) == (2, 3, 2, 3)
    points[[4, 12], 1] = 64
    assert rectangle(key_patches(points, 14, 16)) == (2, 4, 2, 3)


def test_corner_points_of_the_mean_face(landmarks):
    assert corner_points(landmarks(224), 224) == {"left brow": 18, "right brow": 25, "left jaw": 5, "right jaw": 11}


def test_numbering_is_the_papers(landmarks):
    """T = {45, 46, ...}, row by row from 1: row 3, column 2. With point 17, as near as 18, the set starts there."""
    points = landmarks(224)
    points[18] = points[17]
    numbers = np.flatnonzero(key_patches(points, 14, 16).ravel()) + 1
    assert numbers[:2].tolist() == [45, 46]


def test_a_margin_widens_the_region_on_every_side(landmarks):
    plain, wide = (rectangle(key_patches(landmarks(224), 14, 16, margin)) for margin in (0, 16))
    assert np.subtract(wide, plain).tolist() == [-1, 1, -1, 1]


def test_key_region_mirrors_with_the_face(landmarks):
    points = landmarks(224) + rng().normal(0, 2, (68, 2)).astype(np.float32)
    cells = key_patches(points, 14, 16)
    np.testing.assert_array_equal(key_patches(flip_landmarks(points, 224), 14, 16), cells[:, ::-1])


@pytest.mark.parametrize("kind", ["nan", "outside", "collinear", "partly outside"])
def test_landmarks_of_no_use_give_a_region_all_the_same(landmarks, kind):
    points = landmarks(224)
    if kind == "nan":
        points[3] = np.nan
    elif kind == "outside":
        points += 1000
    elif kind == "collinear":
        points[:, 1] = 100
    else:
        points -= 120
    cells = key_patches(points, 14, 16)
    assert cells.any()
    assert rectangle(cells)
    if kind in ("nan", "outside"):
        # 3/14 to 11/14 of the width and to 12/14 of the height: rows 3 to 11, columns 3 to 10, counted from 0.
        assert rectangle(cells) == (3, 11, 3, 10)
        assert cells.sum() == 72
    for fraction in (None, 0.0, 0.9, 1.0):
        assert draw_mask(cells, 0.75, fraction, rng()).sum() == 147


@pytest.mark.parametrize(
    ("ratio", "fraction", "num_key", "expected"),
    [
        (0.75, 0.9, 72, (65, 82)),  # of the notes: 65 hidden of T, 7 seen; 82 outside
        (0.75, 1.0, 72, (72, 75)),
        (0.25, 1.0, 72, (49, 0)),  # fewer are hidden than T has
        (0.85, 0.0, 72, (43, 124)),  # the 124 outside are not enough
        (0.55, 0.75, 0, (0, 108)),
        (0.65, 0.5, 196, (127, 0)),
    ],
)
def test_how_many_patches_are_hidden(ratio, fraction, num_key, expected):
    assert num_hidden(ratio, fraction, num_key, 196) == expected


@pytest.mark.parametrize("ratio", [0.55, 0.65, 0.75, 0.85])
@pytest.mark.parametrize("fraction", [None, 0.75, 0.9, 1.0])
def test_every_mask_has_the_same_size(landmarks, ratio, fraction):
    counts = set()
    for seed in range(20):
        cells = key_patches(landmarks(224, 1 + seed / 20), 14, 16)
        counts.add(int(draw_mask(cells, ratio, fraction, rng(seed)).sum()))
    assert counts == {int(ratio * 196 + 0.5)}


def test_the_key_region_is_hidden_as_asked(landmarks):
    cells = key_patches(landmarks(224), 14, 16)
    for fraction, hidden in ((0.9, 65), (1.0, 72)):
        assert {int(draw_mask(cells, 0.75, fraction, rng(s))[cells.ravel()].sum()) for s in range(20)} == {hidden}
    plain = [draw_mask(cells, 0.75, None, rng(s))[cells.ravel()].mean() for s in range(200)]
    assert np.mean(plain) == pytest.approx(0.75, abs=0.02)
    shown = np.mean([draw_mask(cells, 0.75, 0.9, rng(s)) for s in range(400)], axis=0)
    assert shown[cells.ravel()].min() > 0.8  # no patch is always seen
    assert shown[~cells.ravel()].max() < 0.8


def test_masks_of_evaluation_belong_to_the_face_and_those_of_training_do_not(sample):
    face = sample(rng(), 91, None, 0, -1, 1.85)
    cfg = models.override(TINY, {"detect.num_masks": 3})
    score = [lre.Detect.prepare(cfg, face, rng(7), "score")["mask"] for _ in range(2)]
    np.testing.assert_array_equal(*score)
    assert score[0].shape == (3, 64)
    assert len({mask.tobytes() for mask in score[0]}) == 3
    assert lre.Detect.prepare(cfg, face, rng(7), "train")["mask"].shape == (1, 64)


# ----------------------------------------------------------------------------------------- picture
def test_eyes_are_level_after_alignment_and_landmarks_follow_the_pixels(landmarks):
    size, angle = 160, 0.3
    points = landmarks(size, 1.85)
    centre = np.array([size / 2 - 0.5] * 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = ((points - centre) @ turn + centre).astype(np.float32)
    image = np.zeros((size, size, 3), np.uint8)
    nose = np.round(points[30]).astype(int)
    image[nose[1] - 2 : nose[1] + 3, nose[0] - 2 : nose[0] + 3] = 255
    half = size / 1.85 / 2
    box = np.array([size / 2 - half, size / 2 - half, size / 2 + half, size / 2 + half], np.float32)
    face, moved = upright_face(image, points, box, 1.3, 112, align=True)
    assert face.shape == (112, 112, 3)
    assert moved[36:42, 1].mean() == pytest.approx(moved[42:48, 1].mean(), abs=1e-3)
    assert moved[36:42, 0].mean() < moved[42:48, 0].mean()
    y, x = (face[..., 0].astype(float) ** 2).sum(1), (face[..., 0].astype(float) ** 2).sum(0)
    place = np.array([(x * np.arange(112)).sum() / x.sum(), (y * np.arange(112)).sum() / y.sum()])
    np.testing.assert_allclose(place, moved[30], atol=0.8)
    scale = 112 / (1.3 * 2 * half)  # distances grow by the scale of the cut
    assert np.linalg.norm(moved[0] - moved[16]) == pytest.approx(
        scale * np.linalg.norm(points[0] - points[16]), rel=1e-4
    )


def test_without_alignment_the_box_decides(landmarks):
    image = rng().integers(0, 255, (104, 104, 3)).astype(np.uint8)
    box = np.array([12, 12, 92, 92], np.float32)  # 1.3 of it is the whole crop
    face, moved = upright_face(image, landmarks(104), box, 1.3, 104, align=False)
    np.testing.assert_array_equal(face, image)
    np.testing.assert_allclose(moved, landmarks(104), atol=1e-4)


@pytest.mark.parametrize("where", [(0, 0), (60, 60)])
def test_no_pixel_is_made_up_at_the_edge_of_the_frame(landmarks, where):
    image = np.full((160, 160, 3), 200, np.uint8)
    points = landmarks(160) + np.array([0, 20]) * np.arange(68)[:, None] / 68  # slanted
    box = np.array([*where, where[0] + 90, where[1] + 90], np.float32)
    face, _ = upright_face(image, points.astype(np.float32), box, 1.3, 64, align=True)
    assert (face == 200).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image": np.zeros((64, 64), np.uint8)}, r"image must be uint8 of shape \(H, H, 3\)"),
        ({"image": np.zeros((64, 64, 4), np.uint8)}, "image must be uint8"),
        ({"image": np.zeros((64, 60, 3), np.uint8)}, "image must be uint8"),
        ({"image": np.zeros((64, 64, 3), np.float32)}, "float32"),
        ({"box": np.array([10, 10, 10, 20], np.float32)}, "box must be"),
        ({"box": np.full(4, np.nan, np.float32)}, "box must be"),
    ],
)
def test_wrong_pictures_are_refused(sample, change, text):
    with pytest.raises(ValueError, match=text):
        lre.Detect.prepare(TINY, sample(rng(), 91, None, 0) | change, rng(), "score")


def test_a_flip_mirrors_picture_and_region(sample):
    face = sample(rng(), 91, None, 0, -1, 1.85)
    cfg = models.override(TINY, {"mask.key_fraction": 1.0, "face.align": False})
    seen = {}
    for seed in range(20):
        out = lre.Reconstruct.prepare(cfg, face, rng(seed), "train")
        seen[bool(rng(seed).random() < 0.5)] = out
    np.testing.assert_array_equal(seen[True]["image"], seen[False]["image"][:, ::-1])


# ------------------------------------------------------------------------------------- autoencoder
def autoencoder(seed: int = 0) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    return lre.Reconstruct(TINY).autoencoder.eval()


def a_mask(hidden: int = 48) -> torch.Tensor:
    return torch.as_tensor(np.stack([rng(s).permutation(64) < hidden for s in range(2)]))


def test_patches_are_row_column_channel_and_come_back():
    image = torch.arange(2 * 4 * 4 * 3.0).view(2, 4, 4, 3)
    patches = to_patches(image, 2).flatten(2)
    assert torch.equal(to_image(patches, 2), image)
    assert torch.equal(patches[0, 1], image[0, :2, 2:].flatten())  # to the right of the first one


def test_parameter_counts_at_paper_size():
    with torch.device("meta"):
        stage = lre.Reconstruct(PAPER)
        detect = lre.Detect(models.override(PAPER, {"pretrained": False}))
    net = stage.autoencoder
    positions = net.position.numel() + net.decoder_position.numel() + 768 + 512  # of the class token: zeros, not stored
    assert parameters(net) == 111_655_680
    assert parameters(net) + positions == 111_907_840
    decoder = [net.narrow, net.decoder_blocks, net.decoder_norm, net.predict]
    assert sum(parameters(part) for part in decoder) + net.mask_token.numel() == 26_008_320
    assert parameters(detect, trained=True) == 20_809_001
    trained = {id(p) for group in detect.optimizer(10)[0].param_groups for p in group["params"]}
    assert trained == {id(p) for part in (detect.detector, detect.head) for p in part.parameters()}


def test_positions_are_fixed_and_two_dimensional():
    table = sincos_2d(14, 768)
    assert table.shape == (196, 768)
    assert torch.equal(table[0].view(2, 2, 192)[:, 0], torch.zeros(2, 192))  # sines of place 0
    same_row, same_column = table[3 * 14 + 2], table[3 * 14 + 9]
    assert torch.equal(same_row[384:], same_column[384:])
    assert not torch.equal(same_row[:384], same_column[:384])
    names = dict(autoencoder().named_parameters())
    assert not any("position" in name for name in names)


@torch.no_grad()
def test_hidden_pixels_do_not_leak_and_seen_ones_matter():
    net, mask, patches = autoencoder(), a_mask(), torch.randn(2, 64, 192)
    before = net(patches, mask, 48)
    hidden = patches.clone()
    hidden[mask] = 9.0
    assert torch.equal(net(hidden, mask, 48), before)
    seen = patches.clone()
    seen[0, int((~mask[0]).nonzero()[0])] += 1
    after = net(seen, mask, 48)
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("hidden", [47, 49])
def test_a_mask_of_another_share_is_an_error(hidden):
    mask = a_mask()
    mask[1] = a_mask(hidden)[1]
    with pytest.raises(ValueError, match=rf"48 patches of each image, got \[48, {hidden}\]"):
        autoencoder()(torch.randn(2, 64, 192), mask, 48)


@torch.no_grad()
def test_order_of_the_visible_tokens_does_not_matter():
    net, mask, patches = autoencoder(), a_mask(), torch.randn(2, 64, 192)
    index = torch.stack([(~row).nonzero().squeeze(1) for row in mask])
    shuffled = index[:, torch.randperm(16)]

    def predicted(order: torch.Tensor) -> torch.Tensor:
        visible = patches.gather(1, order[..., None].expand(-1, -1, 192))
        return net.decode(net.encode(visible, order), order, mask)

    torch.testing.assert_close(predicted(shuffled), predicted(index), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(patches, mask, 48), predicted(index))


def reconstruct_batch(sample, count: int = 4) -> dict[str, torch.Tensor]:
    generator = rng(3)
    rows = [
        lre.Reconstruct.prepare(TINY, sample(generator, 91, None, 0, -1, 1.85), generator, "train")
        for _ in range(count)
    ]
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


@torch.no_grad()
def test_the_loss_is_the_mean_over_hidden_pixels(sample):
    torch.manual_seed(0)
    stage, batch = lre.Reconstruct(TINY).eval(), reconstruct_batch(sample)
    patches = to_patches(batch["image"].float() / 127.5 - 1, 8).flatten(2)
    mask = batch["mask"][:, 0]
    predicted = stage.autoencoder(patches, mask, int(mask[0].sum()))
    per_patch = (predicted - patches).square().mean(2)
    by_hand = (per_patch * mask).sum() / mask.sum()
    assert stage(batch)["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    stage.autoencoder.forward = lambda given, hidden, number: torch.where(hidden[..., None], given, given + 5)
    assert stage(batch)["loss"].item() == 0  # perfect where hidden; what is predicted elsewhere is not looked at


def test_eight_faces_can_be_learnt_by_heart(sample):
    torch.manual_seed(0)
    cfg = models.override(TINY, {"reconstruct.lr": 3e-3})
    stage, batch = lre.Reconstruct(cfg), reconstruct_batch(sample, 8)
    batch["image"] = F.avg_pool2d(batch["image"].permute(0, 3, 1, 2).float(), 8).repeat_interleave(8, 2)
    batch["image"] = batch["image"].repeat_interleave(8, 3).permute(0, 2, 3, 1).to(torch.uint8)  # no noise to learn
    optimizer, _ = stage.optimizer(300)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = stage(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.03 * losses[0]


# --------------------------------------------------------------------------------------- attention
def test_attention_map_by_hand():
    f = torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1)
    orthogonal = torch.tensor([2.0, -1.0, 0.0]).view(1, 3, 1, 1)
    zero = torch.zeros_like(f)
    for other, value in ((f, 0.0), (7 * f, 0.0), (-f, 1.0), (orthogonal, 0.5), (zero, 0.5)):
        assert lre.attention_map(f, other).item() == pytest.approx(value, abs=1e-6)
    assert lre.attention_map(zero, zero).item() == 0.0


def test_attention_map_has_one_channel_a_range_and_no_scale():
    torch.manual_seed(0)
    face, filled_in = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
    attention = lre.attention_map(face, filled_in)
    assert attention.shape == (2, 1, 5, 5)
    assert ((attention >= 0) & (attention <= 1)).all()
    assert attention.max() > 0.5
    torch.testing.assert_close(lre.attention_map(face * (0.1 + torch.rand(2, 1, 5, 5)), 3 * filled_in), attention)
    assert lre.attention_map(face.relu(), filled_in.relu()).max() <= 0.5 + 1e-6


def detect(**changes) -> lre.Detect:
    torch.manual_seed(0)
    return lre.Detect(models.override(TINY, {name.replace("__", "."): value for name, value in changes.items()}))


def detect_batch(sample, count: int = 4, **changes) -> dict[str, torch.Tensor]:
    generator, cfg = rng(5), detect(**changes).cfg
    rows = [
        lre.Detect.prepare(cfg, sample(generator, 91, None, i % 2, -1, 1.85), generator, "score") for i in range(count)
    ]
    return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}


@torch.no_grad()
def test_the_reconstruction_keeps_what_was_seen(sample):
    stage, batch = detect().eval(), detect_batch(sample)
    image, mask = batch["image"].float() / 127.5 - 1, batch["mask"][:, 0]
    filled_in = stage.reconstructed(image, mask)
    same = (to_patches(filled_in, 8) == to_patches(image, 8)).flatten(2).all(2)
    assert same[~mask].all()
    assert not same[mask].any()
    assert filled_in.abs().max() <= 1


@torch.no_grad()
def test_a_perfect_reconstruction_draws_no_attention(sample, monkeypatch):
    stage, batch = detect().eval(), detect_batch(sample)
    monkeypatch.setattr(stage, "reconstructed", lambda image, mask: image)
    maps = stage.attention(batch["image"].float() / 127.5 - 1, batch["mask"])
    assert list(maps) == [1, 2, 3]
    assert all(attention.abs().max() < 1e-6 for attention in maps.values())


def test_map_sizes_at_224_pixels():
    with torch.device("meta"):
        stage = lre.Detect(models.override(PAPER, {"pretrained": False}))
        taps = stage._taps(torch.empty(1, 224, 224, 3))
    assert {tap: tuple(features.shape[1:]) for tap, features in taps.items()} == {
        1: (128, 55, 55),
        2: (256, 28, 28),
        3: (728, 14, 14),
    }


def test_frozen_parts_stay_as_they_are(sample):
    stage, batch = detect(), detect_batch(sample)
    stage.train()
    assert not stage.autoencoder.training
    assert not stage.extractor.training
    before = {
        name: value.clone() for name, value in stage.state_dict().items() if not name.startswith(("detector", "head"))
    }
    optimizer, _ = stage.optimizer(10)
    stage(batch)["loss"].backward()
    optimizer.step()
    assert all(torch.equal(value, stage.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None for part in (stage.autoencoder, stage.extractor) for p in part.parameters())
    assert stage.detector.training


def test_detect_takes_over_the_autoencoder():
    torch.manual_seed(1)
    earlier, stage = lre.Reconstruct(TINY), detect()
    stage.load_start(earlier.state_dict())
    for name, value in earlier.autoencoder.state_dict().items():
        assert torch.equal(value, stage.autoencoder.state_dict()[name])


# ------------------------------------------------------------------------------------------- gates
def test_gate_by_hand():
    y = torch.tensor([[[[2.0, -4.0]], [[6.0, 8.0]]]])  # two channels at two places
    attention = torch.tensor([[[[0.5, 0.0]]]])
    assert lre.gated(y, attention, residual=False).tolist() == [[[[1.0, 0.0]], [[3.0, 0.0]]]]
    assert lre.gated(y, attention, residual=True).tolist() == [[[[3.0, -4.0]], [[9.0, 8.0]]]]
    assert lre.gated(y.bfloat16(), attention, residual=True).dtype == torch.bfloat16


@torch.no_grad()
def plain_logit(stage: lre.Detect, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    top = stage.detector((batch["image"].float() / 127.5 - 1).permute(0, 3, 1, 2)).top
    return stage.head(top.mean((2, 3))).squeeze(1)


@pytest.mark.parametrize(("gate", "constant"), [("none", None), ("mul", 1.0), ("residual", 0.0)])
@torch.no_grad()
def test_gates_that_do_nothing_leave_a_plain_xception(sample, monkeypatch, gate, constant):
    stage, batch = detect(detect__gate=gate).eval(), detect_batch(sample)
    if constant is not None:
        monkeypatch.setattr(stage, "attention", lambda image, mask: dict.fromkeys((1, 2, 3), torch.tensor(constant)))
    assert torch.equal(stage.logit(batch), plain_logit(stage, batch))


@torch.no_grad()
def test_a_closed_gate_hides_the_picture_from_both_paths_of_the_next_block(sample, monkeypatch):
    stage, batch = detect(detect__gate="mul", detect__taps=[3]).eval(), detect_batch(sample)
    monkeypatch.setattr(stage, "attention", lambda image, mask: {3: torch.tensor(0.0)})
    logit = stage.logit(batch)
    assert torch.equal(logit, logit[:1].expand(4))
    assert plain_logit(stage, batch).unique().numel() == 4


@torch.no_grad()
def test_maps_of_several_masks_are_averaged(sample):
    stage, batch = detect().eval(), detect_batch(sample, detect__num_masks=3)
    image = batch["image"].float() / 127.5 - 1
    single = [stage.attention(image, batch["mask"][:, i : i + 1]) for i in range(3)]
    together = stage.attention(image, batch["mask"])
    for tap, attention in together.items():
        torch.testing.assert_close(attention, sum(maps[tap] for maps in single) / 3)


def test_the_loss_is_cross_entropy(sample):
    stage, batch = detect().eval(), detect_batch(sample)
    with torch.no_grad():
        out = stage(batch)
    p, y = out["logit"].sigmoid(), batch["label"].float()
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert out["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------ config
def test_the_papers_settings():
    reconstruct, detection = lre.Reconstruct.feed(PAPER), lre.Detect.feed(PAPER)
    assert (reconstruct.batch_size, reconstruct.num_epochs, reconstruct.samples_per_video) == (32, 300, 32)
    assert (detection.batch_size, detection.num_epochs, detection.steps_per_epoch) == (32, 30, 200)
    assert (PAPER.mask.ratio, PAPER.grid, PAPER.face.input_px) == (0.75, 14, 224)
    assert lre.Reconstruct.view == "real_frames"
    stage = lre.Reconstruct(TINY)
    optimizer, _ = stage.optimizer(10)
    assert type(optimizer) is torch.optim.Adam
    mae = models.override(
        TINY, {"reconstruct.recipe": "mae", "reconstruct.lr": 1.5e-4, "reconstruct.weight_decay": 0.05}
    )
    optimizer, schedule = lre.Reconstruct(mae).optimizer(10)
    assert type(optimizer) is torch.optim.AdamW
    assert schedule.get_last_lr()[0] == pytest.approx(1.5e-4 * 16 / 256)


def test_a_warm_up_counts_only_where_there_is_one():
    def settings(**changes) -> dict:
        cfg = models.override(PAPER, {f"reconstruct.{name}": value for name, value in changes.items()})
        return lre.Reconstruct.settings(cfg)["reconstruct"]

    assert settings(warmup_epochs=5) == settings()
    assert settings(recipe="mae", warmup_epochs=5) != settings(recipe="mae")


def test_the_codec_of_the_autoencoder_says_which_videos_and_nothing_else():
    cfg = models.override(PAPER, {"reconstruct.codec": "c23"})
    assert (lre.Reconstruct.codec_of(PAPER), lre.Reconstruct.codec_of(cfg)) == (None, "c23")
    assert lre.Detect.codec_of(cfg) is None
    assert lre.Reconstruct.settings(cfg) == lre.Reconstruct.settings(PAPER)
    assert lre.Detect.settings(cfg) == lre.Detect.settings(PAPER)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reconstruct.codec": "h264"}, "codec must be raw, c23, c40 or none, got 'h264'"),
        ({"mask.ratio": 1.0}, r"ratio must be in \(0, 1\)"),
        ({"mask.key_fraction": 1.5}, "key_fraction"),
        ({"detect.taps": []}, "taps must be different blocks from 1 to 12"),
        ({"detect.taps": [1, 13]}, "taps"),
        ({"detect.gate": "add"}, r"detect\.gate must be one of 'mul', 'residual', 'none', got 'add'"),
        ({"detect.batch_size": 7}, "even"),
        ({"detect.xception_width": 0.5}, "pretrained to false"),
        ({"reconstruct.patch_px": 15}, "must divide face.input_px 224"),
        ({"reconstruct.decoder_width": 500}, "multiple of 4 and of heads 16"),
        ({"crop_margin": 1.0}, "must not be below face.margin"),
        ({"stages": ["detect"]}, "stages must be"),
    ],
)
def test_what_cannot_be_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        models.override(PAPER, change)
