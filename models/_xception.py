"""The Xception of FaceForensics++ and after: timm's `legacy_xception` without its classifier, block by block.

Blocks are counted as in timm: `blocks[0]` is block1. The paper of Xception and Keras count the two stem
convolutions as their first block, so their "block 3" is our block 2. At width 1 the names and shapes of all
weights are timm's; smaller widths and fewer middle blocks are for quick runs.

Shapes at 224 px and width 1: stem 64 @ 109, block1 128 @ 55, block2 256 @ 28, block3 to block11 728 @ 14,
block12 1024 @ 7, top 2048 @ 7.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from models._layers import timm_model

TIMM_NAME = "legacy_xception.tf_in1k"
MEAN = STD = (0.5, 0.5, 0.5)  # of the images that its ImageNet weights were trained on


@dataclass(frozen=True, slots=True)
class Features:
    """What the layers of an Xception give for a batch of images."""

    stem: Tensor  # after the ReLU
    blocks: list[Tensor]  # output of each block, before the ReLU that starts the next
    top: Tensor  # after the last ReLU, not pooled


class Xception(nn.Module):
    """The network: images (B, 3, H, W), normalised with `MEAN` and `STD`, to `Features`.

    pretrained: ImageNet weights; only at width 1 with 8 middle blocks. Raises ValueError otherwise, and
    PretrainedUnavailable where they cannot be had.
    """

    def __init__(self, *, width: float = 1.0, num_middle: int = 8, pretrained: bool = False) -> None:
        from timm.models.xception import Block, SeparableConv2d  # seconds to import, see `timm_model`

        super().__init__()

        def scaled(channels: int) -> int:
            return max(4, round(channels * width))

        w32, w64, w128, w256, w728 = (scaled(channels) for channels in (32, 64, 128, 256, 728))
        w1024, w1536, w2048 = (scaled(channels) for channels in (1024, 1536, 2048))
        self.num_features = w2048
        self.widths = (w64, w128, w256, *[w728] * (1 + num_middle), w1024)  # stem, block1, block2, ...
        self.conv1 = nn.Conv2d(3, w32, 3, 2, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(w32), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(w32, w64, 3, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(w64), nn.ReLU(inplace=True)
        entry = [Block(w64, w128, 2, 2, start_with_relu=False), Block(w128, w256, 2, 2), Block(w256, w728, 2, 2)]
        middle = [Block(w728, w728, 3, 1) for _ in range(num_middle)]
        blocks = [*entry, *middle, Block(w728, w1024, 2, 2, grow_first=False)]
        self.num_blocks = len(blocks)
        for number, block in enumerate(blocks, 1):
            self.add_module(f"block{number}", block)
        self.conv3, self.bn3 = SeparableConv2d(w1024, w1536, 3, 1, 1), nn.BatchNorm2d(w1536)
        self.act3 = nn.ReLU(inplace=True)
        self.conv4, self.bn4 = SeparableConv2d(w1536, w2048, 3, 1, 1), nn.BatchNorm2d(w2048)
        self.act4 = nn.ReLU(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if pretrained:
            if width != 1 or num_middle != 8:
                raise ValueError(
                    f"ImageNet weights fit width 1 and 8 middle blocks, got {width} and {num_middle};"
                    " set pretrained to false"
                )
            self.load_state_dict(timm_model(TIMM_NAME, pretrained=True, num_classes=0).state_dict())

    def forward(self, image: Tensor, edit: Callable[[int, Tensor], Tensor] | None = None) -> Features:
        """Compute the features.

        edit(number, y): what takes the place of the output y of a block before it goes on, in `Features` too; blocks
        are numbered from 1, as in their names.
        """
        x = stem = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(image))))))
        blocks = []
        for number in range(1, self.num_blocks + 1):
            x = self.get_submodule(f"block{number}")(x)
            if edit is not None:
                x = edit(number, x)
            blocks.append(x)
        x = self.act3(self.bn3(self.conv3(x)))
        return Features(stem, blocks, self.act4(self.bn4(self.conv4(x))))
