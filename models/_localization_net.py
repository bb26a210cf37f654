"""The network of Delocate's localization (Hu et al., IJCAI 2024, Sec. 3.2): mapping net and encoder-decoder.

The paper names ResNet-18, SENet, U-Net and SCSE; how they are joined follows its references: stages,
map and map head from Jia et al. 2021, encoder-decoder from Wu et al. 2022. In timm's default sizes:

    face 224 -> ResNet-18 stages 1-3 -> 448 x 56 x 56 -> A^m 3 x 56 x 56 -> (pooled to 16 x 16) linear head
    face and A^m, 6 x 224 x 224 -> SE-ResNeXt-50 -> 64, 256, 512, 1024, 2048 channels at 112, 56, 28, 14, 7
        deepest -> pooled, linear head;  all -> 384, 256, 128, 64, 32 channels at 14, 28, 56, 112, 224 -> mask

Shapes: B faces, H = W pixels, S = H / 4, K heads.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._layers import Normalize, timm_model

HEAD_GRID = 16  # the mapped face is pooled to 16 x 16 before its linear head


class SpatialChannelGate(nn.Module):
    """SCSE: gates by channel and by place; of the two results the larger one is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1)
        )
        self.space = nn.Conv2d(width, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x * self.channel(x).sigmoid(), x * self.space(x).sigmoid())


class DecoderStep(nn.Module):
    """One step up the U: upsample, join the encoder's feature of that size, gate."""

    def __init__(self, width_in: int, width_skip: int, width: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(width_in, width, 3, padding=1)
        self.join = nn.Conv2d(width + width_skip, width, 3, padding=1)
        self.gate = SpatialChannelGate(width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.relu(self.up(F.interpolate(x, size=skip.shape[-2:], mode="nearest")))
        return self.gate(F.relu(self.join(torch.cat([x, skip], 1))))


class MaskDecoder(nn.Module):
    """U-Net decoder with SCSE, without batch norm: encoder features, finest first -> mask (B, 2h, 2w)."""

    def __init__(self, encoder_widths: list[int], widths: tuple[int, ...]) -> None:
        super().__init__()
        *skips, deepest = encoder_widths
        inputs = (deepest, *widths)
        self.steps = nn.ModuleList(DecoderStep(inputs[i], skip, widths[i]) for i, skip in enumerate(reversed(skips)))
        self.last = nn.Conv2d(widths[-2], widths[-1], 3, padding=1)
        self.mask = nn.Conv2d(widths[-1], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Start near 0.1, about the share of manipulated pixels. From 0.5 the squared error drives the whole mask
        # to 0 in a few steps, where the sigmoid is flat, and there it stays.
        self.mask.bias = nn.Parameter(torch.full((1,), -math.log(9)))

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, x = features
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = step(x, skip)
        x = F.relu(self.last(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.mask(x).float().sigmoid().squeeze(1)


class Localized(NamedTuple):
    """What `LocalizationNet` finds in faces."""

    logits: Tensor  # (B, K), one column per head
    mapped: Tensor | None  # A^m (B, 3, S, S) in [0, 1]
    mask: Tensor | None  # A^pl (B, H, W) in [0, 1]


class LocalizationNet(nn.Module):
    """Face A^o (B, 3, H, W) in [0, 1] -> mapped face, mask, logits.

    mapping, encoder: timm names, None to leave that half out (Table 7). decoder_widths: None for no mask.
    """

    backbone: Any  # timm's feature extractors
    encoder: Any
    # What the inner step of meta-learning adapts; the backbones and the decoder are shared.
    ADAPTED = ("map.", "head_map.", "head_loc.")

    def __init__(
        self,
        mapping: str | None,
        encoder: str | None,
        map_widths: tuple[int, int],
        decoder_widths: tuple[int, ...] | None,
        *,
        pretrained: bool,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(dim=1)
        self.use_mapping, self.use_encoder = mapping is not None, encoder is not None
        if mapping is not None:
            self.backbone = timm_model(mapping, pretrained=pretrained, features_only=True, out_indices=(1, 2, 3))
            wide, narrow = map_widths
            self.map = nn.Sequential(
                nn.Conv2d(sum(self.backbone.feature_info.channels()), wide, 3, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, narrow, 3, padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
                nn.Conv2d(narrow, 3, 3, padding=1),
                nn.Sigmoid(),
            )
            self.head_map = nn.Sequential(nn.AdaptiveAvgPool2d(HEAD_GRID), nn.Flatten(), nn.Linear(3 * HEAD_GRID**2, 1))
        self.decoder: MaskDecoder | None = None
        if encoder is not None:
            # timm repeats the filters for RGB where there are six channels, so A^m starts with them too.
            channels = 6 if self.use_mapping else 3
            self.encoder = timm_model(encoder, pretrained=pretrained, features_only=True, in_chans=channels)
            widths = self.encoder.feature_info.channels()
            self.head_loc = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
            if decoder_widths is not None:
                self.decoder = MaskDecoder(widths, decoder_widths)

    def mapping_features(self, face: Tensor) -> Tensor:
        """Return stages 1 to 3 of the backbone (B, 448, S, S), brought to the size of the first."""
        first, *rest = self.backbone(self.normalize(face))
        return torch.cat([first] + [F.interpolate(x, size=first.shape[-2:], mode="nearest") for x in rest], 1)

    def deepest(self) -> nn.Module:
        """Return the part of the encoder that makes its last feature."""
        name = self.encoder.feature_info.module_name(-1)
        parts = dict(self.encoder.named_modules())
        return parts.get(name) or parts[name.replace(".", "_")]  # timm flattens the names of the parts it takes out

    def maps(self, face: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """Return A^m, where there is one, and the encoder's features, finest first; none without an encoder."""
        mapped = None
        inputs = [face]
        if self.use_mapping:
            mapped = self.map(self.mapping_features(face)).float()
            # Not detached: mapping and localization are meant to shape each other.
            inputs.append(F.interpolate(mapped, size=face.shape[-2:], mode="bilinear", align_corners=False))
        features = self.encoder(torch.cat([self.normalize(x) for x in inputs], 1)) if self.use_encoder else []
        return mapped, features

    def pooled(self, face: Tensor) -> Tensor:
        """Return what the linear layers of the heads get, side by side: (B, D)."""
        mapped, features = self.maps(face)
        parts = [] if mapped is None else [self.head_map[:-1](mapped)]
        parts += [self.head_loc[:-1](features[-1])] if features else []
        return torch.cat(parts, 1)

    def forward(self, face: Tensor) -> Localized:
        mapped, features = self.maps(face)
        logits = [] if mapped is None else [self.head_map(mapped)]
        logits += [self.head_loc(features[-1])] if features else []
        mask = None if self.decoder is None else self.decoder(features)
        return Localized(torch.cat(logits, 1).float(), mapped, mask)
