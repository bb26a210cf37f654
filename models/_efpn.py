"""LAA-Net's encoder and its decoder, the Enhanced Feature Pyramid Network.

Source: Nguyen et al., "LAA-Net", CVPR 2024, Sec. 3.2, Eq. 9, Fig. 4 and Table 4; widths, kernels and initialisation
as in the released code.

Differs from Eq. 9: E5 comes from a convolution only, because F5 and F6 have the same resolution.

Shapes: N images, F2 .. F6 the encoder's features, at 1/4, 1/8, 1/16, 1/32 and 1/32 of the input's side; for
EfficientNet-B4 they have 32, 56, 160, 448 and 1792 channels.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._laa_net_config import Merge
from models._layers import set_bn_momentum, timm_model

HIGHEST, LOWEST = 6, 2  # F6 .. F2
REDUCTIONS = [2, 4, 8, 16, 32]  # sides of the input in sides of timm's features


class Encoder(nn.Module):
    """Any of timm's EfficientNets: images to F2 .. F6, by their number. F6 comes from the closing 1 x 1 convolution.

    Raises ValueError for a network with other stages.
    """

    def __init__(self, name: str, *, pretrained: bool, bn_momentum: float, drop_path: float) -> None:
        super().__init__()
        net: Any = timm_model(name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path)
        stages = list(getattr(net, "feature_info", ()))
        if [stage["reduction"] for stage in stages] != REDUCTIONS or not hasattr(net, "conv_head"):
            raise ValueError(f"encoder must be an EfficientNet of timm with features at 1/2 to 1/32, got {name!r}")
        channels = [stage["num_chs"] for stage in stages[1:]] + [net.conv_head.out_channels]
        set_bn_momentum(net, bn_momentum)
        self.net = net
        self.channels: dict[int, int] = dict(enumerate(channels, LOWEST))

    def forward(self, x_NCHW: Tensor) -> dict[int, Tensor]:
        last, stages = self.net.forward_intermediates(x_NCHW)
        return dict(enumerate([*stages[1:], last], LOWEST))


def conv(width_in: int, width: int, kernel: int = 3) -> nn.Sequential:
    """Return f of Eq. 9: a convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def upsample(width_in: int, width: int) -> nn.Sequential:
    """Return T of Eq. 9: a convolution to twice the resolution with batch norm, nothing after it."""
    transposed = nn.ConvTranspose2d(width_in, width, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(transposed.weight, std=math.sqrt(2 / (4 * 4 * width)))
    return nn.Sequential(transposed, nn.BatchNorm2d(width))


class Fuse(nn.Module):
    """F'(l) of Eq. 9 for E(l) and F(l) of the same shape: E beside what F adds to it.

    efpn: F weighted by (1 - sigmoid(E))^gamma. fpn: F as it is, "traditional FPN" of Table 4.
    """

    def __init__(self, merge: Merge, gamma: float) -> None:
        super().__init__()
        self.merge, self.gamma = merge, gamma

    def forward(self, e_NCHW: Tensor, f_NCHW: Tensor) -> Tensor:
        weighted_NCHW = f_NCHW if self.merge == "fpn" else f_NCHW * torch.sigmoid(-e_NCHW) ** self.gamma
        return torch.cat([e_NCHW, weighted_NCHW], 1)


class Inception(nn.Module):
    """Four branches of a quarter of the channels each, which 1 x 1 convolutions begin.

    shared: one convolution begins all branches, as in the released code. Its batch norm then sees the map three times
    and once the pooled map, which lies higher: in training it takes each by its own statistics, in evaluation both by
    a mixture, which shifts all scores. Otherwise the pooled map has a convolution of its own.
    """

    def __init__(self, channels: int, *, shared: bool) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"the decoder needs a multiple of 4 channels at 1/8 of the input's side, got {channels}")
        self.squeeze = conv(channels, channels // 4, 1)
        self.conv3 = conv(channels // 4, channels // 4, 3)
        self.conv5 = conv(channels // 4, channels // 4, 5)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.squeeze_pooled = None if shared else conv(channels, channels // 4, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.squeeze_pooled is None:  # a call for each branch: each counts in the running statistics
            first, second, third, pooled = (self.squeeze(x) for x in (x_NCHW, x_NCHW, x_NCHW, self.pool(x_NCHW)))
        else:
            first = second = third = self.squeeze(x_NCHW)
            pooled = self.squeeze_pooled(self.pool(x_NCHW))
        return torch.cat([first, self.conv3(second), self.conv5(third), pooled], 1)


class Decoder(nn.Module):
    """E-FPN: from F6 down to 1/4 of the input's side, merging F5 .. F(lowest) on the way. `channels`: of F2 .. F6.

    Table 4: lowest 5, 4, 3 and 2 are its rows (b), (c), (d), which is the published model, and (e). Row (a) is `Plain`.
    E4 and E3 are merged without ReLU, E2 with one in FPN and without in E-FPN: as in the released code.
    """

    def __init__(
        self, channels: dict[int, int], lowest: int, merge: Merge, gamma: float, dropout: float, *, shared: bool
    ) -> None:
        super().__init__()
        self.lowest = lowest
        self.dropout = nn.Dropout(dropout)
        self.fuse = Fuse(merge, gamma)
        width = {level: channels[level] * (2 if level >= lowest else 1) for level in (5, 4, 3)}  # after the merge
        self.level5 = conv(channels[6], channels[5])
        self.level4 = nn.Sequential(conv(width[5], channels[4]), *upsample(channels[4], channels[4]))
        self.level3 = nn.Sequential(conv(width[4], channels[3]), *upsample(channels[3], channels[3]))
        self.level2 = nn.Sequential(Inception(width[3], shared=shared), *upsample(width[3], width[3]))
        self.skip2 = conv(channels[2], width[3]) if lowest == 2 else None
        self.out_channels = width[3] * (2 if lowest == 2 else 1)

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        kept = {level: self.dropout(f_NCHW) for level, f_NCHW in features.items() if level >= self.lowest}
        x = kept[6]
        for level, step in ((5, self.level5), (4, self.level4), (3, self.level3)):
            x = step(x)
            x = self.fuse(x, kept[level]) if level in kept else x.relu()
        x = self.level2(x)
        if self.skip2 is None:
            return x.relu()
        return self.fuse(x.relu() if self.fuse.merge == "fpn" else x, self.skip2(kept[2]))


class Plain(nn.Module):
    """Row (a) of Table 4, "without E-FPN": F6 alone, three times doubled."""

    def __init__(self, channels: dict[int, int], dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.steps = nn.ModuleList(upsample(channels[level + 1], channels[level]) for level in (5, 4, 3))
        self.out_channels = channels[3]

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        x = self.dropout(features[6])
        for step in self.steps:
            x = F.relu(step(x))
        return x


def decoder(
    channels: dict[int, int], lowest: int, merge: Merge, gamma: float, dropout: float, *, shared: bool = True
) -> Decoder | Plain:
    """Return the decoder that merges F6 .. F(lowest); shared: as in `Inception`.

    Raises ValueError for another `lowest` than 2 to 6.
    """
    if not LOWEST <= lowest <= HIGHEST:
        raise ValueError(f"lowest_level must be from {LOWEST} to {HIGHEST}, got {lowest}")
    if lowest == HIGHEST:
        return Plain(channels, dropout)
    return Decoder(channels, lowest, merge, gamma, dropout, shared=shared)
