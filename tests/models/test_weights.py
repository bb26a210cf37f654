import pytest
import timm
import torch

from models import _layers, _weights, adfd, laa_net, override, plain
from models._weights import fitted, given

NETWORK = "test_resnet"


def state(name: str = NETWORK, seed: int = 0, **options) -> dict[str, torch.Tensor]:
    """Returns weights that no other seed gives."""
    torch.manual_seed(seed)
    weights = timm.create_model(name, pretrained=False, **options).state_dict()
    return {
        key: value + torch.rand_like(value) if value.is_floating_point() else value for key, value in weights.items()
    }


def same(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    own = module.state_dict()
    return all(torch.equal(own[name], value) for name, value in weights.items())


def test_given_weights_reach_every_form_of_the_network():
    weights = fitted(NETWORK, state(seed=7))
    assert not [name for name in weights if name.startswith("fc.")]
    with given({NETWORK: weights}):
        for options in ({"num_classes": 0}, {"num_classes": 1}):
            assert same(_layers.timm_model(f"{NETWORK}.r160_in1k", pretrained=True, **options), weights)
        features = _layers.timm_model(NETWORK, pretrained=True, features_only=True)
        six = _layers.timm_model(NETWORK, pretrained=True, num_classes=0, in_chans=6)
        fresh = _layers.timm_model(NETWORK, pretrained=False, num_classes=0)
    first = weights["conv1.0.weight"]
    assert torch.equal(features.state_dict()["conv1.0.weight"], first)
    assert torch.allclose(six.state_dict()["conv1.0.weight"], first.repeat(1, 2, 1, 1) / 2)
    assert not same(fresh, weights)
    assert "state_dict" not in six.pretrained_cfg  # else each network would hold them twice
    assert _weights.weights_for(NETWORK) is None


@pytest.mark.parametrize(
    ("stage", "changes", "of"),
    [
        (adfd.Detect, {"net.backbone": NETWORK}, lambda stage: stage.encoder),
        (plain.Detect, {"backbone": NETWORK, "input_px": 64}, lambda stage: stage.network),
        (laa_net.Detect, {"net.encoder": "test_efficientnet"}, lambda stage: stage.net.encoder.net),
    ],
)
def test_the_methods_start_from_given_weights(stage, changes, of):
    module = {adfd.Detect: adfd, plain.Detect: plain, laa_net.Detect: laa_net}[stage]
    cfg = override(module.SMALL, changes | {"pretrained": True})
    network = changes.get("net.encoder", NETWORK)
    weights = fitted(network, state(network, seed=3))
    with given({network: weights}):
        assert same(of(stage(cfg)), weights)


def test_both_xceptions_start_from_given_weights():
    from models._xception import TIMM_NAME, Xception

    weights = fitted(TIMM_NAME, state("legacy_xception", seed=1))
    with given({"legacy_xception": weights}):
        assert same(Xception(pretrained=True), weights)


def test_weights_in_half_precision_and_without_counters_fit():
    weights = state()
    less = {name: value.half() for name, value in weights.items() if "num_batches" not in name and "fc" not in name}
    found = fitted(NETWORK, less)
    assert found.keys() == less.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    with given({NETWORK: found}):
        assert same(_layers.timm_model(NETWORK, pretrained=True, num_classes=0), found)


def test_what_does_not_fit_is_counted_and_named():
    weights = state()
    del weights["conv1.0.weight"], weights["conv1.1.weight"]
    weights["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    weights["layer1.0.bn1.bias"] = weights["layer1.0.bn1.bias"] * torch.nan
    weights["a.head"] = torch.zeros(1)
    with pytest.raises(ValueError, match="do not fit test_resnet, which has") as error:
        fitted(NETWORK, weights)
    for part in (
        f"weights of {len(weights)} tensors",
        "2 missing (conv1.0.weight, conv1.1.weight)",
        "1 not the network's (a.head)",
        "1 of another shape (layer1.0.conv1.weight (3, 3) instead of (",
        "1 not finite (layer1.0.bn1.bias)",
    ):
        assert part in str(error.value)


def test_weights_by_other_names_fit_in_order_only_where_it_is_asked_for():
    weights = state(seed=5)
    renamed = {f"_net.{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(weights.items())}
    found = fitted(NETWORK, renamed, in_order=True)
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    assert not {"fc.weight", "fc.bias"} & found.keys()
    with pytest.raises(ValueError, match=r"missing \(conv1"):
        fitted(NETWORK, renamed)


def test_weights_in_another_order_do_not_fit():
    weights = state()
    names = [f"_{i}.{name.rpartition('.')[2]}" for i, name in enumerate(weights)]
    at = next(i for i, name in enumerate(weights) if name == "conv1.1.weight")
    swapped = names[:]
    swapped[at], swapped[at + 1] = names[at + 1], names[at]  # of one shape
    with pytest.raises(ValueError, match=f"tensor {at + 1} of {len(weights)} is _{at + 1}.bias"):
        fitted(NETWORK, dict(zip(swapped, weights.values(), strict=True)), in_order=True)
    with pytest.raises(ValueError, match="which has"):
        fitted(NETWORK, dict(list(zip(names, weights.values(), strict=True))[1:]), in_order=True)


def test_a_network_that_timm_does_not_have():
    with pytest.raises(ValueError, match="'no_net' is not one of timm's"):
        fitted("no_net", {})
