"""LAA-Net against numbers computed by its released code on seeded inputs: `oracles/README.md`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import laa_net
from models._efpn import Decoder

ORACLES = Path(__file__).with_name("oracles")
WIDTHS = {2: 32, 3: 56, 4: 160, 5: 448, 6: 1792}  # of EfficientNet-B4's features


def oracle(part: str) -> dict[str, np.ndarray]:
    with np.load(ORACLES / f"laa_net_{part}.npz") as arrays:
        return dict(arrays)


def fill(modules: list[nn.Module], rng: np.random.Generator) -> None:
    """Give all weights and statistics of the modules, in order, seeded values; as in `oracles/make_laa_net.py`."""
    for module in modules:
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = rng.standard_normal(tuple(tensor.shape), np.float32)
            if tensor.ndim > 1:
                values *= 1.5 / np.sqrt(tensor[0].numel())
            elif name.endswith(("weight", "running_var")):
                values = 1 + 0.2 * np.abs(values)
            tensor.copy_(torch.from_numpy(np.asarray(0.2 * values if name.endswith(("bias", "mean")) else values)))


def places(size: int) -> np.ndarray:
    return np.sort(np.random.default_rng(size).permutation(size)[:48])


# --------------------------------------------------------------------------------------------- network
@pytest.mark.parametrize("row", ["efpn6", "efpn5", "efpn4", "efpn3", "efpn2", "fpn5", "fpn4", "fpn3", "fpn2"])
@torch.no_grad()
def test_levels_and_heads_of_table_4(row, monkeypatch):
    merge, lowest = row[:-1], int(row[-1])
    rng = np.random.default_rng(lowest)
    features = {
        level: torch.from_numpy(rng.standard_normal((1, width, *[64 >> min(level, 5)] * 2), np.float32))
        for level, width in WIDTHS.items()
    }

    class Features(nn.Module):
        channels = WIDTHS

        def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
            return features

    monkeypatch.setattr(laa_net, "Encoder", lambda *args, **options: Features())
    net = laa_net.Network(laa_net.NetConfig(lowest_level=lowest, merge=merge), pretrained=False).eval()
    made, seen = net.decoder, {}
    if isinstance(made, Decoder):
        steps = [made.level5, made.level4, made.level3, made.level2]
        for level, after in ((5, made.level4), (4, made.level3), (3, made.level2)):
            after.register_forward_pre_hook(lambda module, args, name=f"level{level}": seen.update({name: args[0]}))
        steps += [made.skip2] if lowest == 2 else []
    else:
        steps = list(made.steps)
    fill([*steps, net.classify, net.heatmap, net.embed], rng)
    out = net(torch.zeros(1, 3, 64, 64))
    seen |= {
        "level2": net.maps(torch.zeros(1)),
        "cls": out.logit_N,
        "hm": out.heatmap_NDD,
        "cstency": out.embedding_NEDD,
    }
    expected = {name.split()[1]: values for name, values in oracle("network").items() if name.split()[0] == row}
    assert set(seen) == set(expected)
    for name, values in expected.items():
        flat = seen[name].flatten().numpy()
        np.testing.assert_allclose(flat[places(flat.size)], values, rtol=1e-4, atol=1e-5, err_msg=name)
