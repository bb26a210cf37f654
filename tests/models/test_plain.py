"""The plain classifier: its sizes, its loss by hand, what the network gets to see, and what it refuses."""

import math

import numpy as np
import pytest
import timm
import torch

import models
from models import _layers, plain

SMALL = plain.SMALL


def small(**changes) -> plain.Detect:
    torch.manual_seed(0)
    return plain.Detect(models.override(SMALL, changes))


def after_all_steps(optimizer, scheduler) -> float:
    """Return the rate after 100 steps."""
    for _ in range(100):
        optimizer.step()
        scheduler.step()
    return scheduler.get_last_lr()[0]


def image_batch(value: int = 128, count: int = 2, size_px: int = SMALL.input_px) -> dict[str, torch.Tensor]:
    return {
        "image": torch.full((count, size_px, size_px, 3), value, dtype=torch.uint8),
        "label": torch.arange(count) % 2,
    }


# ---------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 20_809_001),  # Xception without its classifier, 20,806,952, and 2048 weights with a bias
        ({"backbone": "tf_efficientnet_b4.ap_in1k", "input_px": 380}, 17_550_409),  # 17,548,616 and 1792 + 1
    ],
)
def test_parameters(changes, count):
    cfg = models.override(plain.Config(), changes | {"pretrained": False})
    with torch.device("meta"):
        stage = plain.Detect(cfg)
    assert sum(p.numel() for p in stage.parameters()) == count


def test_all_of_it_learns_at_one_rate():
    stage = small(weight_decay=1e-3)
    assert all(p.requires_grad for p in stage.parameters())
    optimizer, scheduler = stage.optimizer(100)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in stage.parameters()}
    assert (group["lr"], group["weight_decay"], group["betas"]) == (SMALL.lr, 1e-3, (0.9, 0.999))
    assert after_all_steps(optimizer, scheduler) == pytest.approx(0, abs=1e-9)
    assert after_all_steps(*small(schedule="constant").optimizer(100)) == SMALL.lr


# --------------------------------------------------------------------------------------- computation
def test_loss_and_score_by_hand():
    stage = small()
    head = stage.network.get_classifier()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(math.log(3))  # P(fake) = 3 / 4
    out = stage(image_batch(count=4) | {"label": torch.tensor([1, 1, 1, 0])})
    assert out["loss"].item() == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    torch.testing.assert_close(out["logit"], torch.full((4,), math.log(3)))
    torch.testing.assert_close(stage.eval().score(image_batch())["logit"], torch.full((2,), math.log(3)))


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_a_batch_of_one_class_has_a_loss(labels):
    assert torch.isfinite(small()(image_batch() | {"label": torch.tensor(labels)})["loss"])


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("test_resnet", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("test_efficientnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_b0.aa_in1k", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tf_efficientnet_b0.ap_in1k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # AdvProp: the tag decides
    ],
)
def test_the_network_sees_what_its_weights_were_trained_on(backbone, mean, std):
    stage, seen = small(backbone=backbone).eval(), []
    stage.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    batch = image_batch(0)
    batch["image"][:, 3, 5] = torch.tensor([255, 51, 0], dtype=torch.uint8)
    stage.score(batch)
    assert seen[0].shape == (2, 3, SMALL.input_px, SMALL.input_px)
    for channel, unit in enumerate((1.0, 0.2, 0.0)):
        assert seen[0][0, channel, 3, 5].item() == pytest.approx((unit - mean[channel]) / std[channel], abs=1e-6)
        assert seen[0][0, channel, 5, 3].item() == pytest.approx(-mean[channel] / std[channel], abs=1e-6)


@torch.no_grad()
def test_dropout_is_off_in_evaluation():
    stage, batch = small(dropout=0.5), image_batch(200)
    for norm in (m for m in stage.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 0.0
    first, again = stage(batch)["loss"], stage(batch)["loss"]
    assert not torch.equal(first, again)
    stage.eval()
    assert torch.equal(stage.score(batch)["logit"], stage.score(batch)["logit"])


# -------------------------------------------------------------------------------------------- samples
def test_half_of_the_training_images_are_mirrored_and_no_other(sample):
    face = sample(np.random.default_rng(0), SMALL.input_px, None, 1)
    rows = [plain.Detect.prepare(SMALL, face, np.random.default_rng(i), "train") for i in range(400)]
    mirrored = [np.array_equal(row["image"], face["image"][:, ::-1]) for row in rows]
    assert all(flip or np.array_equal(row["image"], face["image"]) for flip, row in zip(mirrored, rows, strict=True))
    assert 160 < sum(mirrored) < 240  # 200 +- 4 standard deviations of 10
    for cfg, mode in ((SMALL, "select"), (SMALL, "score"), (models.override(SMALL, {"flip": False}), "train")):
        for i in range(20):
            row = plain.Detect.prepare(cfg, face, np.random.default_rng(i), mode)
            assert np.array_equal(row["image"], face["image"])
            assert row["label"] == 1


def test_random_crops_lie_within_the_face():
    cfg = models.override(SMALL, {"flip": False, "smallest_crop": 0.5})
    ramp = np.linspace(0, 255, SMALL.input_px)  # a pixel's value says where it was
    image = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 0), axis=-1).astype(np.uint8)
    widths, corners = [], []
    for i in range(200):
        out = plain.augmented(cfg, image, np.random.default_rng(i))
        assert out.shape == image.shape
        width, height = (int(out[..., c].max()) - int(out[..., c].min()) for c in (0, 1))
        assert abs(width - height) <= 5  # a square
        widths.append(width / 255)
        corners.append((out[..., 0].min() / 255, out[..., 1].min() / 255))
    assert min(widths) == pytest.approx(0.5, abs=0.03)
    assert max(widths) > 0.95
    assert np.min(corners) == 0
    assert (np.max(corners, axis=0) > 0.35).all()  # to the right and below, too
    assert abs(np.corrcoef(np.transpose(corners))[0, 1]) < 0.9  # by their own


# ------------------------------------------------------------------------------------------- refusals
def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(B, \(128, 128, 3\)\), got \(2, 96, 96, 3\)"):
        small()(image_batch(size_px=96))


@pytest.mark.parametrize(
    ("backbone", "text"),
    [
        ("legacy_xeption", r"'legacy_xeption' is not one of timm's .*did you mean legacy_xception.*list_models"),
        ("", r"'' is not one of timm's"),
        ("resnet18.imagenet", r"'resnet18.imagenet'.*tags \[.*'a1_in1k'"),
        ("vit_tiny_patch16_224", r"takes images of 224 px only, got input_px 128"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_backbone_that_cannot_be_used(backbone, text, pretrained):
    with pytest.raises(ValueError, match=text):
        small(backbone=backbone, pretrained=pretrained)


def test_pretrained_weights_that_cannot_be_had(monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(_layers.PretrainedUnavailable, match=r"legacy_xception.*--no-pretrained"):
        plain.Detect(plain.Config())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stages": ["classify"]}, r"\('detect',\)"),
        ({"input_px": 16}, "at least 32, got 16"),
        ({"batch_size": 7}, "even.*got 7"),
        ({"batch_size": 0}, "positive"),
        ({"dropout": 1.0}, r"\[0, 1\), got 1"),
        ({"smallest_crop": 0.0}, r"\(0, 1\], got 0"),
        ({"smallest_crop": 1.1}, r"\(0, 1\], got 1.1"),
        ({"schedule": "step"}, "cosine"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"weight_decay": -1.0}, "negative, got -1"),
        ({"crop_margin": 0.9}, "at least 1, got 0.9"),
        ({"num_epochs": 0}, "num_epochs must be positive"),
        ({"samples_per_video": 0}, "samples_per_video must be positive"),
        ({"video_frames": 0}, "video_frames must be positive"),
    ],
)
def test_config_refuses(changes, text):
    with pytest.raises(ValueError, match=text):
        models.override(plain.Config(), changes)


@pytest.mark.parametrize("backbone", ["legacy_xception", "tf_efficientnet_b0", "resnet18"])
def test_the_smallest_size_reaches_the_end_of_a_network(backbone):
    with torch.device("meta"):
        stage = small(backbone=backbone, input_px=plain.SMALLEST_PX).eval()
        assert stage.score(image_batch(size_px=plain.SMALLEST_PX))["logit"].shape == (2,)


@pytest.mark.parametrize("backbone", ["tf_efficientnet_b0", "mobilenetv3_small_050", "test_resnet"])
def test_training_begins_near_a_half(backbone):
    """With timm's own last layer the log odds of an EfficientNet lie 3.5 apart, a loss of 2."""
    torch.manual_seed(0)
    stage = small(backbone=backbone, input_px=64).train()
    batch = image_batch(count=8, size_px=64)
    batch["image"] = torch.randint(0, 256, batch["image"].shape, dtype=torch.uint8)
    assert stage(batch)["logit"].std() < 0.5
    assert abs(stage(batch)["loss"].item() - np.log(2)) < 0.2


def test_a_last_layer_as_torch_draws_it_stays():
    torch.manual_seed(0)
    stage = small(backbone="test_resnet")
    before = stage.network.get_classifier().weight.clone()
    plain.narrow_last_layer(stage.network)
    assert torch.equal(stage.network.get_classifier().weight, before)


# ------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize("name", [f for f in plain.Config.__slots__ if f not in ("stages",)])
def test_settings_hold_what_changes_the_weights(name):
    extraction = name in ("video_frames", "crop_margin", "detector")  # in the digest of the faces
    assert (name in plain.Detect.settings(SMALL)) != extraction
