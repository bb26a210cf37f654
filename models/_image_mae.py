"""Masked autoencoder of images, after He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.

The encoder sees the visible patches and a class token; a narrow decoder gets its output, mask tokens in the other
places, and predicts the pixels of every patch. Positions are fixed two-dimensional sinusoids.

Differs from MAE: targets are pixels and not normalised by patch, because the image itself is needed.

Shapes: B images, N patches, V visible patches, P = 3 * patch_px^2 values in the order row, column, channel, D width.
"""

import torch
from torch import Tensor, nn

from models._layers import Block, init_vit


def to_image(patches_BNP: Tensor, patch_px: int) -> Tensor:
    """Put the patches of square images together: (B, H, H, 3), the inverse of `_layers.to_patches` on RGB."""
    grid = round(patches_BNP.shape[1] ** 0.5)
    x = patches_BNP.unflatten(2, (patch_px, patch_px, 3)).unflatten(1, (grid, grid))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


def sincos_2d(grid: int, width: int) -> Tensor:
    """Return the positions (grid^2, width) of a grid of patches, row by row.

    The first half of the channels encodes the column, the second the row; in each half sines come before cosines.
    """
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * frequency
    table = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = table.repeat_interleave(grid, 0), table.repeat(grid, 1)
    return torch.cat([columns, rows], 1).float()


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder on images of `grid` x `grid` patches.

    width and decoder_width must be multiples of 4 (positions) and of their numbers of heads.
    """

    position: Tensor
    decoder_position: Tensor

    def __init__(
        self,
        grid: int,
        patch_px: int,
        *,
        width: int,
        depth: int,
        num_heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
    ) -> None:
        super().__init__()
        patch_values = 3 * patch_px**2  # P
        self.embed = nn.Linear(patch_values, width)  # the same as a convolution whose stride is its kernel
        self.class_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("position", sincos_2d(grid, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.narrow = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.register_buffer("decoder_position", sincos_2d(grid, decoder_width), persistent=False)
        self.decoder_blocks = nn.ModuleList(Block(decoder_width, decoder_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.predict = nn.Linear(decoder_width, patch_values)
        self.apply(init_vit)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, patches_BNP: Tensor, mask_BN: Tensor, num_hidden: int) -> Tensor:
        """Predict every patch (B, N, P) from those where `mask_BN` is False; it hides `num_hidden` of each image.

        Raises ValueError for a mask that hides another number: on the CPU only, as a GPU ends all its work to tell.
        """
        if mask_BN.device.type == "cpu":
            hidden_B = mask_BN.sum(1)
            if not torch.equal(hidden_B, torch.full_like(hidden_B, num_hidden)):
                raise ValueError(f"a mask has to hide {num_hidden} patches of each image, got {hidden_B.tolist()}")
        num_visible = mask_BN.shape[1] - num_hidden
        index_BV = mask_BN.to(torch.uint8).argsort(dim=1, stable=True)[:, :num_visible]
        visible_BVP = patches_BNP.gather(1, index_BV[..., None].expand(-1, -1, patches_BNP.shape[2]))
        return self.decode(self.encode(visible_BVP, index_BV), index_BV, mask_BN)

    def encode(self, visible_BVP: Tensor, index_BV: Tensor) -> Tensor:
        """Encode the visible patches at the places `index_BV`, in any order: (B, 1 + V, D), the class token first."""
        x = self.embed(visible_BVP) + self.position[index_BV]
        class_token = self.class_token.to(x.dtype).expand(len(x), 1, -1)  # its own position is zero
        x = torch.cat([class_token, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, encoded: Tensor, index_BV: Tensor, mask_BN: Tensor) -> Tensor:
        """Predict every patch (B, N, P) from what `encode` gave, with mask tokens in the hidden places."""
        class_token, visible = self.narrow(encoded).split([1, index_BV.shape[1]], 1)
        x_BND = self.mask_token.to(visible.dtype).expand(*mask_BN.shape, -1)
        x_BND = x_BND.scatter(1, index_BV[..., None].expand_as(visible), visible) + self.decoder_position
        x = torch.cat([class_token, x_BND], 1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.predict(self.decoder_norm(x)[:, 1:])
