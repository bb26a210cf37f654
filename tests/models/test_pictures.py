"""What every stage shows of itself: Grad-CAM's layer, features, the paper's pictures. Showing changes nothing."""

from typing import Any

import pytest
import torch
from torch import nn

import models
from models import delocate
from models._layers import last_maps, timm_model

STAGES = [(paper, stage.name) for paper in models.names() for stage in models.stages(paper)]
SCORING = [(paper, name) for paper, name in STAGES if models.stage(paper, name).scores]
PICTURES = {
    ("delocate", "recover"): ["recovered"],
    ("delocate", "localize"): ["mask", "mapped"],
    ("laa_net", "detect"): ["heat-map"],
    ("lre", "detect"): ["reconstruction", "attention 1", "attention 2", "attention 3"],
    ("mc_lcr", "detect"): ["block 1", "block 2", "block 3"],
}


def built(prepared: Any, paper: str, stage_name: str, cfg: Any = None) -> tuple[Any, dict[str, torch.Tensor]]:
    made, stage, batch = prepared(paper, stage_name, "score")
    torch.manual_seed(0)
    module = stage(cfg or made).eval()
    for name, value in module.named_parameters():
        if value.ndim < 2 and "bias" in name:
            nn.init.normal_(value, std=0.1)  # heads that start at 0 would look nowhere
        elif "head" in name:
            nn.init.normal_(value, std=0.1)
    return module, batch


def cam_of(stage: models.Stage, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maps of Grad-CAM's layer, and the gradient of the summed logits in them."""
    at = stage.cam_layer()
    assert at is not None
    seen: list[torch.Tensor] = []
    handle = at.module.register_forward_hook(lambda module, args, out: seen.append(out))
    logit = stage.logit(batch)
    handle.remove()
    assert len(seen) == 1, f"the layer is used {len(seen)} times"
    (grad,) = torch.autograd.grad(logit.sum(), seen[0])
    to_maps = at.to_maps or (lambda maps: maps)
    return to_maps(seen[0]).detach(), to_maps(grad)


@pytest.mark.parametrize(("paper", "stage_name"), SCORING)
def test_the_logit_is_that_of_the_score(paper, stage_name, prepared):
    stage, batch = built(prepared, paper, stage_name)
    with torch.no_grad():
        scored, logit = stage.score(batch)["logit"], stage.logit(batch)
        if paper == "laa_net":
            mirrored = stage.logit({"image": batch["image"].flip(2)})
            logit = (logit + mirrored) / 2
    assert scored.std() > 0
    torch.testing.assert_close(logit, scored, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("paper", "stage_name"), SCORING)
def test_grad_cam_has_places_to_look_at(paper, stage_name, prepared):
    stage, batch = built(prepared, paper, stage_name)
    maps, grad = cam_of(stage, batch)
    assert maps.shape == grad.shape
    assert maps.ndim == (5 if "clips" in stage.view else 4)
    assert len(maps) == 6
    assert min(maps.shape[-2:]) >= 2, "one place shows nothing"
    assert grad.abs().amax(tuple(range(1, grad.ndim))).min() > 0


@pytest.mark.parametrize(("paper", "stage_name"), SCORING)
@torch.no_grad()
def test_features_are_what_the_last_layer_gets(paper, stage_name, prepared):
    """One vector for each face that no other face of the batch has a part in; a stage whose head is linear adds up."""
    stage, batch = built(prepared, paper, stage_name)
    features = stage.features(batch)
    assert features is not None
    assert (features.ndim, len(features)) == (2, 6)
    assert torch.isfinite(features).all()
    assert features.std(0).max() > 0
    alone = stage.features({name: value[1:2] for name, value in batch.items()})
    assert alone is not None
    torch.testing.assert_close(alone, features[1:2], atol=1e-4, rtol=1e-3)
    last: dict[str, Any] = {
        "adfd": lambda x: stage.logits(x).diff(dim=1)[:, 0],
        "mc_lcr": lambda x: stage.classify(x).diff(dim=1)[:, 0],
        "lre": lambda x: stage.head(x)[:, 0],
        "plain": lambda x: stage.network.get_classifier()(x)[:, 0],
        "laa_net": lambda x: stage.net.classify[-1](x)[:, 0],
    }
    if paper in last:
        torch.testing.assert_close(last[paper](features), stage.logit(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
@torch.no_grad()
def test_pictures_are_maps_or_images_of_each_face(paper, stage_name, prepared):
    stage, batch = built(prepared, paper, stage_name)
    pictures = stage.pictures(batch)
    assert list(pictures) == PICTURES.get((paper, stage_name), [])
    before = batch["image"].shape[: 2 if "clips" in stage.view else 1]
    for name, value in pictures.items():
        assert value.shape[: len(before)] == before, name
        inner = value.shape[len(before) :]
        assert len(inner) == 2 or (len(inner) == 3 and inner[0] == 3), f"{name}: {tuple(value.shape)}"
        assert inner[-1] == inner[-2]
        assert value.is_floating_point()
        assert ((value >= 0) & (value <= 1)).all(), name
        assert value.std() > 0, f"{name} is one colour"


@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
def test_to_show_changes_nothing(paper, stage_name, prepared):
    stage, batch = built(prepared, paper, stage_name)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    inputs = {name: value.clone() for name, value in batch.items()}
    trained = [value.requires_grad for value in stage.parameters()]
    if stage.scores:
        cam_of(stage, batch)
    stage.features(batch)
    stage.pictures(batch)
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert all(torch.equal(value, inputs[name]) for name, value in batch.items())
    assert [value.requires_grad for value in stage.parameters()] == trained
    assert not any(module.training for module in stage.modules())


@pytest.mark.parametrize("off", ["use_mapping", "use_encoder_decoder", "use_loc_loss"])
def test_half_a_localization_shows_the_half_it_has(off, prepared):
    also = {"use_mapping": ["use_map_loss"], "use_encoder_decoder": ["use_loc_loss"], "use_loc_loss": []}[off]
    cfg = models.override(delocate.SMALL, {f"localize.{name}": False for name in (off, *also)})
    stage, batch = built(prepared, "delocate", "localize", cfg)
    maps, _ = cam_of(stage, batch)
    assert min(maps.shape[-2:]) >= 2
    assert (
        list(stage.pictures(batch))
        == {
            "use_mapping": ["mask"],
            "use_encoder_decoder": ["mapped"],
            "use_loc_loss": ["mapped"],
        }[off]
    )
    assert stage.features(batch).shape[0] == 6


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"])
def test_any_network_of_timm_has_maps(name):
    network = timm_model(name, pretrained=False, num_classes=1).eval()

    class Wrapped(models.Stage):
        def cam_layer(self):
            return last_maps(network)

        def logit(self, batch):
            return network(batch["image"])[:, 0]

    torch.manual_seed(0)
    size = network.pretrained_cfg["input_size"][-1]
    maps, grad = cam_of(Wrapped(), {"image": torch.rand(2, 3, size, size)})
    assert maps.ndim == 4
    assert maps.shape[2] == maps.shape[3] >= 2
    assert grad.std() > 0
