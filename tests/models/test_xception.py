"""Our Xception against timm's, and its smaller sizes."""

import pytest
import timm
import torch

from models._xception import Xception


@torch.no_grad()
def test_at_full_width_it_is_timms():
    theirs, ours = timm.create_model("legacy_xception", num_classes=0).eval(), Xception().eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 96, 96) * 2 - 1
    features = ours(image)
    assert torch.equal(features.top, theirs.forward_features(image))
    taps = theirs.forward_intermediates(image, indices=[0, 1, 2], intermediates_only=True)
    for tap, ours_there in zip(
        taps, (features.stem, features.blocks[0].relu(), features.blocks[1].relu()), strict=True
    ):
        assert torch.equal(tap, ours_there)
    assert sum(p.numel() for p in ours.parameters()) == 20_806_952


def test_sizes_at_224_pixels():
    with torch.device("meta"):
        features = Xception()(torch.empty(1, 3, 224, 224))
    assert features.stem.shape[1:] == (64, 109, 109)
    assert [tuple(block.shape[1:]) for block in features.blocks[:3]] == [(128, 55, 55), (256, 28, 28), (728, 14, 14)]
    assert features.blocks[-1].shape[1:] == (1024, 7, 7)
    assert features.top.shape[1:] == (2048, 7, 7)


@torch.no_grad()
def test_an_edited_block_goes_on_by_both_paths_of_the_next():
    net = Xception(width=0.1, num_middle=1).eval()
    images = torch.rand(2, 3, 64, 64)
    plain = net(images)
    same = net(images, edit=lambda block, y: y)
    assert torch.equal(same.top, plain.top)
    blank = net(images, edit=lambda block, y: y * 0 if block == 3 else y)
    assert torch.equal(blank.top[0], blank.top[1])  # nothing of the image is left behind block3
    assert not torch.equal(plain.top[0], plain.top[1])
    assert not blank.blocks[2].any()


def test_smaller_sizes_have_no_imagenet_weights():
    with pytest.raises(ValueError, match=r"width 1 and 8 middle blocks, got 0\.5 and 8"):
        Xception(width=0.5, pretrained=True)
