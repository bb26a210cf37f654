"""Masked video autoencoder with joint space-time attention, after VideoMAE (Tong et al., 2022).

An asymmetric pair (He et al., 2022): the encoder sees visible tubelets only, a narrow decoder gets its
output plus mask tokens. A tubelet is `tubelet_frames` x `patch_px` x `patch_px` pixels. Positions are a
fixed one-dimensional sinusoid over the tokens in the order time, row, column; there is no class token.

Differs from VideoMAE: raw [0, 1] RGB is predicted, because the recovered image itself is needed; the
number of masked tokens may differ between samples, so visible tokens are padded to the longest; the
decoder's tokens keep their places (attention does not see the order, so this changes nothing).

Shapes: B clips, T frames, N tokens, V visible tokens (padded), P = 3 * tubelet pixels, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models._layers import Block, Normalize, init_vit, places_of, sinusoid_table


def to_tubelets(video_BTHWC: Tensor, tubelet_frames: int, patch_px: int) -> Tensor:
    """Cut clips into tubelets (B, N, P); values within one in the order frame, row, column, channel."""
    x = video_BTHWC.unflatten(3, (-1, patch_px)).unflatten(2, (-1, patch_px)).unflatten(1, (-1, tubelet_frames))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4).flatten(1, 3)


def to_video(tubelets_BNP: Tensor, tubelet_frames: int, patch_px: int, grid: int) -> Tensor:
    """Put tubelets together, the inverse of `to_tubelets` for frames of `grid` x `grid` patches: (B, T, H, W, 3)."""
    x = tubelets_BNP.unflatten(1, (-1, grid, grid)).unflatten(-1, (tubelet_frames, patch_px, patch_px, 3))
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


class Encoder(nn.Module):
    """ViT on tubelets with values in [0, 1].

    final_norm: the closing LayerNorm; a classifier that pools first and norms then leaves it out.
    """

    position: Tensor

    def __init__(
        self,
        num_tokens: int,
        tubelet_values: int,
        width: int,
        depth: int,
        num_heads: int,
        *,
        final_norm: bool,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.normalize = Normalize(dim=-1)
        self.embed = nn.Linear(tubelet_values, width)  # the same as a Conv3d whose stride is its kernel
        self.register_buffer("position", sinusoid_table(num_tokens, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, num_heads, key_bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if final_norm else nn.Identity()
        self.apply(init_vit)

    def forward(self, tubelets_BVP: Tensor, index_BV: Tensor | None = None, valid_BV: Tensor | None = None) -> Tensor:
        """Encode tubelets: (B, V, D). index_BV: the place of each among the N tokens; None: all of them, in order."""
        pixels = tubelets_BVP.unflatten(-1, (-1, 3))
        x_BVD = self.embed(self.normalize(pixels).flatten(-2))
        x_BVD = x_BVD + (self.position if index_BV is None else self.position[index_BV])
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                x_BVD = checkpoint(block, x_BVD, valid_BV, use_reentrant=False)
            else:
                x_BVD = block(x_BVD, valid_BV)
        return self.norm(x_BVD)


class Decoder(nn.Module):
    """Narrow ViT that predicts the pixels of masked tubelets from the encoder's output."""

    position: Tensor

    def __init__(
        self, num_tokens: int, tubelet_values: int, encoder_width: int, width: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.narrow = nn.Linear(encoder_width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("position", sinusoid_table(num_tokens, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, num_heads, key_bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, tubelet_values)
        self.apply(init_vit)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, visible_BVD: Tensor, index_BV: Tensor, mask_BN: Tensor, num_masked: int) -> Tensor:
        """Predict (M, P), the M = `num_masked` masked tokens of the batch, in the order of `tubelets_BNP[mask_BN]`."""
        visible = self.narrow(visible_BVD)
        x_BND = visible.new_zeros(*mask_BN.shape, visible.shape[-1])
        x_BND = x_BND.scatter(1, index_BV[..., None].expand_as(visible), visible)
        # Padding landed on masked places and is overwritten here.
        x_BND = torch.where(mask_BN[..., None], self.mask_token.to(x_BND.dtype), x_BND) + self.position
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.predict(self.norm(x_BND.flatten(0, 1)[places_of(mask_BN, num_masked)]))


def visible_index(mask_BN: Tensor, num_masked: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Return the places of each sample's visible tokens, in order and padded to the longest, and which are no padding.

    num_masked: the number of True entries in each row of the mask. The second, `valid_BV`, is None where nothing was
    padded, which lets attention take its fastest path.
    """
    longest = mask_BN.shape[1] - min(num_masked)
    index_BV = mask_BN.to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return index_BV, None if min(num_masked) == max(num_masked) else ~mask_BN.gather(1, index_BV)
