"""Network blocks that more than one paper uses.

Shapes: B samples, N tokens, D width, H heads.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # of torch's batch norms, over workers or not

from models._stage import CamLayer
from models._weights import weights_for

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """RGB in [0, 1], shifted and scaled by ImageNet's mean and standard deviation; channels in dimension `dim`."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        shape = [1] * image.ndim
        shape[self.dim] = 3
        return (image - self.mean.view(shape)) / self.std.view(shape)


def sinusoid_table(num_positions: int, width: int) -> Tensor:
    """Return positions (num_positions, width): sine in even and cosine in odd channels, as in the first Transformer."""
    position = torch.arange(num_positions, dtype=torch.float64)[:, None]
    channel = torch.arange(width)
    angle = position / 10000.0 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def to_patches(image: Tensor, patch_px: int) -> Tensor:
    """Cut images (B, H, W, ...) into patches (B, N, patch_px, patch_px, ...) that do not overlap, row by row.

    `patch_px` must divide H and W. Dimensions behind W stay as they are.
    """
    return image.unflatten(2, (-1, patch_px)).unflatten(1, (-1, patch_px)).transpose(2, 3).flatten(1, 2)


def places_of(mask: Tensor, number: int) -> Tensor:
    """Return the places (number,) of the True entries of a mask, laid out flat, of which there are `number`.

    To index with the mask itself is to ask how many there are, for which a GPU ends all its work.
    """
    return mask.flatten().nonzero_static(size=number).squeeze(1)


class Attention(nn.Module):
    """Multi-head self-attention.

    `key_bias=False` leaves out the bias of the keys only: softmax cancels it, and VideoMAE has none.
    """

    def __init__(self, width: int, num_heads: int, *, key_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_bias = key_bias
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        bias: Tensor = self.qkv.bias
        if not self.key_bias:
            bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = F.linear(x_BND, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D / H)
        allowed = None if valid_BN is None else valid_BN[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.project(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm Transformer block with an MLP four times as wide.

    Tokens where `valid_BN` is False are padding: nothing attends to them.
    """

    def __init__(self, width: int, num_heads: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads, key_bias=key_bias)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self.attention(self.norm1(x_BND), valid_BN)
        return x_BND + self.mlp(self.norm2(x_BND))


def init_vit(module: nn.Module) -> None:
    """Give a linear layer Xavier-uniform weights and zero bias, as MAE and VideoMAE do; use with `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def set_bn_momentum(module: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm in `module`: the share of a new batch in the running statistics."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = momentum


@contextmanager
def batch_norm_at_rest(module: nn.Module, at_rest: bool) -> Iterator[None]:
    """Keep the running statistics of every batch norm in `module` as they are, if `at_rest`."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)] if at_rest else []
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class PretrainedUnavailable(RuntimeError):
    """Pretrained weights that were asked for and cannot be had."""


def timm_model(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    """Build a network by `timm.create_model`.

    Its weights are those that `_weights.given` gives, or else timm's. Raises PretrainedUnavailable where these cannot
    be had.
    """
    import timm  # takes seconds to import; what only reads a paper's config must not pay for it

    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    own = weights_for(name)
    if own is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": dict(own)}
    try:
        network: Any = timm.create_model(name, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise PretrainedUnavailable(
            f"cannot load the weights of timm's {name}: {error}. Give this machine access to timm's own, copy"
            " them into its Hugging Face or torch hub cache, name a file with --weights, or start from random weights"
            " with --no-pretrained"
        ) from error
    if own is not None:
        network.pretrained_cfg.pop("state_dict", None)  # timm keeps it there
    return network


@cache
def tagged(name: str) -> str:
    """Return the name of a network of timm with the tag of its weights: `resnet18` is `resnet18.a1_in1k`.

    Without a tag a name means the weights that the installed timm takes first; one that timm does not know stays as it
    is.
    """
    if "." in name:
        return name
    import timm  # seconds, see `timm_model`: so the papers' own names have tags

    known: Any = timm.get_pretrained_cfg(name)
    return f"{name}.{known.tag}" if known and known.tag else name


def last_maps(network: Any) -> CamLayer:
    """Return where Grad-CAM looks in a network of timm: its last feature maps, or the tokens its last block gets.

    The tokens that a block gives may not do: the classifier may read one of them alone.
    """
    num_prefix = getattr(network, "num_prefix_tokens", None)  # class and register tokens, which come first
    if num_prefix is not None and hasattr(network, "blocks"):

        def to_maps(tokens_BND: Tensor) -> Tensor:
            """Lay the tokens of a square image out as maps (B, D, h, h)."""
            patches_BDN = tokens_BND[:, num_prefix:].mT
            return patches_BDN.unflatten(2, (round(patches_BDN.shape[2] ** 0.5), -1))

        return CamLayer(network.blocks[-1].norm1, to_maps)
    layer = network.get_submodule(network.feature_info[-1]["module"])
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return CamLayer(layer, lambda maps: maps.permute(0, 3, 1, 2))
    return CamLayer(layer)


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a state dict below `prefix`, e.g. "encoder.", with the prefix taken off."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
