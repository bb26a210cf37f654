"""Weights for networks of timm from elsewhere than timm's hub: checked against the network, and given to it.

They are given for as long as `given` lasts, to every network of that name that is built meanwhile
(`_layers.timm_model`): so a paper's stage, which knows its settings only, need not know of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

NAMED = 3  # tensors that an error names, of each kind
COUNTER = "num_batches_tracked"  # of a batch norm; files from before it existed lack it

_given: ContextVar[Mapping[str, Mapping[str, Tensor]]] = ContextVar("weights by network")


@contextmanager
def given(weights: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
    """Start timm's networks that are built within from these weights, rather than from those of timm's hub.

    weights: name of a network without its tag -> what `fitted` returned for it.
    """
    token = _given.set(weights)
    try:
        yield
    finally:
        _given.reset(token)


def weights_for(network: str) -> Mapping[str, Tensor] | None:
    """Return the weights that are given for a network, named with a tag or without; None: there are none."""
    return _given.get({}).get(architecture(network))


def architecture(network: str) -> str:
    """Return the name of a network of timm without the tag of its weights: `resnet18.a1_in1k` is `resnet18`."""
    return network.partition(".")[0]


def fitted(network: str, weights: Mapping[str, Tensor], *, in_order: bool = False) -> dict[str, Tensor]:
    """Return the weights of a network of timm by timm's names, without those of its classifier.

    in_order: they may have other names, if there are as many, with the same shapes and last parts of their names (such
    as `running_mean`), in the same order. Raises ValueError, which says how many are missing, too many, of another
    shape or not finite, and names some; also for a network that timm does not have.
    """
    whole, of_classifier = _expected(network)
    if in_order and not weights.keys() & whole.keys():
        weights = _renamed(network, weights, whole)
    wanted = {name: tensor for name, tensor in whole.items() if not name.startswith(of_classifier)}
    there = {name: tensor for name, tensor in weights.items() if name in wanted}
    wrong = {
        "missing": [name for name in wanted if name not in there and not name.endswith(COUNTER)],
        "not the network's": [name for name in weights if name not in whole],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            for name, tensor in there.items()
            if tensor.shape != wanted[name].shape
        ],
        "not finite": [name for name, tensor in there.items() if not bool(torch.isfinite(tensor).all())],
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in wrong.items() if names)
        raise ValueError(
            f"weights of {len(weights)} tensors do not fit {architecture(network)}, which has {len(wanted)} besides "
            f"its classifier: {told}"
        )
    return {name: tensor.to(wanted[name].dtype).contiguous().clone() for name, tensor in there.items()}


def _expected(network: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict of a network, without its values, and how the names of its classifier's tensors begin."""
    import timm  # seconds, see `_layers.timm_model`

    name = architecture(network)
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is not one of timm's {len(timm.list_models())} networks")
    with torch.device("meta"):
        net: Any = timm.create_model(name, pretrained=False)
    classifier = net.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return net.state_dict(), tuple(f"{each}." for each in names)


def _renamed(network: str, weights: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the network's names, which they follow in order. Raises ValueError where they do not."""
    if len(weights) != len(whole):
        raise ValueError(
            f"weights of {len(weights)} tensors do not fit {architecture(network)}, which has {len(whole)}"
        )
    for place, ((name, tensor), (own, wanted)) in enumerate(zip(weights.items(), whole.items(), strict=True), 1):
        if tensor.shape != wanted.shape or name.rpartition(".")[2] != own.rpartition(".")[2]:
            raise ValueError(
                f"weights do not follow {architecture(network)} in order: tensor {place} of {len(whole)} is {name} "
                f"{tuple(tensor.shape)} instead of {own} {tuple(wanted.shape)}"
            )
    return dict(zip(whole, weights.values(), strict=True))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
