"""Delocate's masked autoencoder and its finetuning."""

import itertools

import numpy as np
import pytest
import torch

import models
from models import delocate
from models._layers import sinusoid_table
from models._stage import ON_CPU
from models._video_mae import to_tubelets, to_video, visible_index

TINY = models.override(
    delocate.SMALL,
    {
        "clip.input_px": 64,
        "clip.num_frames": 8,
        "clip.patch_px": 8,
        "vit.width": 24,
        "vit.num_heads": 2,
        "vit.depth": 2,
        "recover.decoder_width": 16,
        "recover.decoder_heads": 2,
    },
)
NUM_TOKENS = 4 * 8 * 8  # slots x rows x columns


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def clips(sample):
    def make(*labels: int, mode: str = "select", stage=delocate.Recover) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(0)
        prepared = [stage.prepare(TINY, sample(rng, 64, 8, label), rng, mode) for label in labels]
        return {name: torch.as_tensor(np.stack([p[name] for p in prepared])) for name in prepared[0]}

    return make


@pytest.fixture(scope="module")
def recover() -> delocate.Recover:
    torch.manual_seed(0)
    return delocate.Recover(TINY).eval()


# --------------------------------------------------------------------------------------- accumulation
def test_what_a_cut_weighs_is_read_from_the_copy_on_the_cpu(recover):
    mask = torch.arange(2 * NUM_TOKENS).reshape(2, NUM_TOKENS) % 3 == 0
    # Nothing can be read from a tensor without memory.
    assert recover.weight({"mask": mask.to("meta"), "mask" + ON_CPU: mask}) == mask.sum()
    assert recover.weight({"mask": mask}) == mask.sum()


# ---------------------------------------------------------------------------------------- tubelets
def test_tubelet_order():
    video = torch.arange(1 * 4 * 4 * 4 * 3).reshape(1, 4, 4, 4, 3)
    tubelets = to_tubelets(video, tubelet_frames=2, patch_px=2)
    assert tubelets.shape == (1, 2 * 2 * 2, 2 * 2 * 2 * 3)
    # Token 6 = slot 1, row 1, column 0; its values run over frame, row, column, channel.
    torch.testing.assert_close(tubelets[0, 6], video[0, 2:4, 2:4, 0:2].reshape(-1))
    torch.testing.assert_close(to_video(tubelets, 2, 2, grid=2), video)


def test_sinusoid_table():
    table = sinusoid_table(3, 4)
    expected = [np.sin(2), np.cos(2), np.sin(2 / 100), np.cos(2 / 100)]  # 10000 ** (2 / 4) = 100
    np.testing.assert_allclose(table[2], expected, rtol=1e-6)


# ---------------------------------------------------------------------------------------- networks
def test_paper_size():
    with torch.device("meta"):
        recover, finetune = delocate.Recover(delocate.Config()), delocate.Finetune(delocate.Config())
    assert (count(recover.encoder), count(recover.decoder)) == (86_227_200, 7_983_744)
    # 86,228,738 with two outputs: this one has a single logit, 769 parameters less.
    assert count(finetune) == 86_228_738 - 769
    eight = models.override(delocate.Config(), {"recover.decoder_depth": 8})
    with torch.device("meta"):
        assert count(delocate.Recover(eight)) == 101_307_264


def test_positions_are_fixed_and_there_is_no_class_token(recover):
    assert not any("position" in name for name in recover.state_dict())
    assert not recover.encoder.position.requires_grad
    assert recover.encoder(torch.zeros(1, NUM_TOKENS, 384)).shape == (1, NUM_TOKENS, 24)


@torch.no_grad()
def test_prediction_sees_visible_tokens_of_all_slots_and_no_masked_one(recover):
    torch.manual_seed(1)
    tubelets = torch.rand(1, NUM_TOKENS, 384)
    mask = torch.zeros(1, NUM_TOKENS, dtype=torch.bool)
    mask[0, [3, 70, 200]] = True
    before = recover.predict(tubelets, mask, [3])
    hidden = tubelets.clone()
    hidden[mask] = torch.rand(3, 384)
    torch.testing.assert_close(recover.predict(hidden, mask, [3]), before, rtol=0, atol=0)
    seen = tubelets.clone()
    seen[0, 255] = torch.rand(384)  # the last slot; token 3 is in the first
    assert (recover.predict(seen, mask, [3])[0] - before[0]).abs().max() > 1e-5


@torch.no_grad()
def test_padding_changes_nothing(recover):
    torch.manual_seed(2)
    tubelets = torch.rand(2, NUM_TOKENS, 384)
    mask = torch.zeros(2, NUM_TOKENS, dtype=torch.bool)
    mask[0, :40], mask[1, 100:103] = True, True  # 216 and 253 visible tokens
    index, valid = visible_index(mask, [40, 3])
    assert index.shape == (2, 253)
    assert valid.sum(1).tolist() == [216, 253]
    assert index[0, :216].tolist() == list(range(40, NUM_TOKENS))
    together = recover.predict(tubelets, mask, [40, 3])
    torch.testing.assert_close(together[:40], recover.predict(tubelets[:1], mask[:1], [40]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together[40:], recover.predict(tubelets[1:], mask[1:], [3]), atol=1e-6, rtol=1e-5)
    assert visible_index(mask[:1], [40])[1] is None


def constant_prediction(value: float) -> delocate.Recover:
    stage = delocate.Recover(TINY).eval()
    torch.nn.init.zeros_(stage.decoder.predict.weight)
    torch.nn.init.constant_(stage.decoder.predict.bias, value)
    return stage


@torch.no_grad()
def test_loss_is_the_squared_error_of_hidden_pixels(clips):
    batch = clips(0, 0)
    hidden = batch["mask"].reshape(2, 4, 8, 8).repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    pixels = batch["image"][hidden].double() / 255
    loss = constant_prediction(0.25)(batch)["loss"]
    assert loss.item() == pytest.approx(((pixels - 0.25) ** 2).mean().item(), rel=1e-5)


@torch.no_grad()
def test_recovered_face_is_the_original_except_for_hidden_patches(clips):
    batch = clips(0, 1)
    assert batch["part_masks"].shape == (2, 3, NUM_TOKENS)
    recovered = constant_prediction(1.7).derive(batch)["recovered"]
    assert recovered.dtype == torch.uint8
    assert recovered.shape == (2, 8, 16, 16, 3)
    hidden = batch["part_masks"].any(1).reshape(2, 4, 8, 8)
    hidden = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)  # a patch is 2 x 2 there
    assert (recovered[hidden] == 255).all()  # clamped
    original = batch["image"].double().reshape(2, 8, 16, 4, 16, 4, 3).mean((3, 5))
    assert (recovered.double() - original)[~hidden].abs().max() <= 0.5001


def test_checkpointed_activations_give_the_same_gradients(clips):
    batch, gradients = clips(0, 0, mode="train"), []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        stage = delocate.Recover(models.override(TINY, {"vit.checkpoint_activations": checkpointed}))
        stage(batch)["loss"].backward()
        gradients.append([parameter.grad for parameter in stage.parameters()])
    torch.testing.assert_close(*gradients)


def test_flip_moves_image_and_mask_together(sample):
    cfg = models.override(TINY, {"recover.mask_ratio": 1.0, "recover.strategy": "eyes"})  # the mask is the whole part
    face = sample(np.random.default_rng(0), 64, 8, 0)
    face["landmarks"] += np.array([9, 0], np.float32)  # a face off the middle
    masks = {}
    for seed in range(20):
        arrays = delocate.Recover.prepare(cfg, face, np.random.default_rng(seed), "train")
        step = 1 if np.array_equal(arrays["image"], face["image"]) else -1
        np.testing.assert_array_equal(arrays["image"], face["image"][:, :, ::step])
        masks[step] = arrays["mask"].reshape(4, 8, 8)
    assert (masks[1] != masks[1][..., ::-1]).any()
    np.testing.assert_array_equal(masks[-1], masks[1][..., ::-1])


# ---------------------------------------------------------------------------------------- finetune
def test_finetune_takes_the_encoder_only(recover, clips):
    torch.manual_seed(5)
    finetune = delocate.Finetune(TINY)
    finetune.load_start(recover.state_dict())
    for name, value in finetune.encoder.state_dict().items():
        torch.testing.assert_close(value, recover.encoder.state_dict()[name], rtol=0, atol=0)
    assert not any(name.startswith("encoder.norm") for name in finetune.state_dict())
    with torch.no_grad():
        logit = finetune.eval().score(clips(0, 1, stage=delocate.Finetune))["logit"]
    assert logit.abs().max() < 1e-3  # a head that starts near zero


def test_finetune_loss_by_hand(clips):
    finetune = delocate.Finetune(TINY)
    torch.nn.init.zeros_(finetune.head.weight)
    torch.nn.init.constant_(finetune.head.bias, np.log(3))  # P(fake) = 3 / 4
    out = finetune(clips(0, 1, 1, stage=delocate.Finetune))
    assert out["loss"].item() == pytest.approx(-(np.log(0.25) + 2 * np.log(0.75)) / 3, rel=1e-6)
    assert out["logit"].tolist() == pytest.approx([np.log(3)] * 3)


def test_finetune_learning_rates():
    cfg = models.override(
        TINY,
        {"finetune.base_lr": 1e-3, "finetune.batch_size": 8, "finetune.layer_decay": 0.75, "finetune.warmup_epochs": 0},
    )
    finetune = delocate.Finetune(cfg)
    optimizer, _ = finetune.optimizer(100)
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    top = 1e-3 * 8 / 256  # 3.1e-5
    expected = {
        "head.weight": (top, 0.05),
        "head.bias": (top, 0.0),
        "norm.weight": (top, 0.0),
        "encoder.blocks.1.mlp.0.weight": (top * 0.75, 0.05),
        "encoder.blocks.0.attention.query_bias": (top * 0.75**2, 0.0),
        "encoder.embed.weight": (top * 0.75**3, 0.05),
    }
    named = dict(finetune.named_parameters())
    for name, (lr, decay) in expected.items():
        assert rate[id(named[name])] == (pytest.approx(lr), decay), name
    assert len(rate) == len(named)


def test_recover_schedule_warms_up_and_decays(recover):
    cfg = models.override(TINY, {"recover.lr": 1.0, "recover.num_epochs": 20, "recover.warmup_epochs": 1})
    optimizer, scheduler = delocate.Recover(cfg).optimizer(200)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[105] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


# ---------------------------------------------------------------------------------------- settings
def test_settings_hold_what_changes_a_stage_and_nothing_else():
    base = delocate.Config()
    before = {stage.name: stage.settings(base) for stage in delocate.STAGES}
    touched = {
        "recover.mask_ratio": (0.5, {"recover"}),
        "finetune.base_lr": (1e-2, {"finetune"}),
        "localize.use_meta": (False, {"localize"}),
        "pretrained": (False, {"localize"}),
        "vit.depth": (6, {"recover", "finetune"}),
        "vit.checkpoint_activations": (True, set()),
        "clip.input_px": (256, {"recover", "finetune", "localize"}),
    }
    for key, (value, changed) in touched.items():
        cfg = models.override(base, {key: value})
        assert {stage.name for stage in delocate.STAGES if stage.settings(cfg) != before[stage.name]} == changed, key


def test_stages_that_need_recover_need_it():
    override = models.override
    assert override(delocate.Config(), {"stages": ["recover", "finetune"]}).stages == ("recover", "finetune")
    alone = override(delocate.Config(), {"stages": ["localize"], "localize.use_map_loss": False})
    assert delocate.Localize.reads_of(alone) is None
    assert delocate.Localize.reads_of(delocate.Config()) == "recover"
    for bad in (["localize"], ["finetune"], ["finetune", "recover"], [], ["recover", "detect"]):
        with pytest.raises(ValueError, match="stage"):
            override(delocate.Config(), {"stages": bad})
