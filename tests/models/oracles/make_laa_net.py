"""Make the arrays of this folder from LAA-Net's released code: numbers only, no code of it is here.

    python make_laa_net.py <checkout of 10Ring/LAA-Net> [network] [maps] [losses] [steps] [bi] [geometry] [fakes]

Writes `laa_net_<part>.npz` beside this file. README.md has the commit, and the versions it was run with.
"""

import contextlib
import os
import random
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

HERE = Path(__file__).parent
ROWS = {  # of Table 4: the options of the released network
    (6, "efpn"): {},
    (5, "efpn"): {"efpn": True, "use_c51": True},
    (4, "efpn"): {"efpn": True, "use_c51": True, "use_c4": True},
    (3, "efpn"): {"efpn": True, "use_c51": True, "use_c4": True, "use_c3": True},
    (2, "efpn"): {"efpn": True, "use_c51": True, "use_c4": True, "use_c3": True, "use_c2": True},
    (5, "fpn"): {"tfpn": True, "use_c51": True},
    (4, "fpn"): {"tfpn": True, "use_c51": True, "use_c4": True},
    (3, "fpn"): {"tfpn": True, "use_c51": True, "use_c4": True, "use_c3": True},
    (2, "fpn"): {"tfpn": True, "use_c51": True, "use_c4": True, "use_c3": True, "use_c2": True},
}
OFF = dict.fromkeys(("efpn", "tfpn", "se_layer", "use_c51", "use_c4", "use_c3", "use_c2"), False)


def fill(modules: list[torch.nn.Module], rng: np.random.Generator) -> None:
    """Give all weights and statistics of the modules, in order, seeded values; `test_laa_net_oracles.py` has the same."""
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
    """Return where a level of so many numbers is looked at; all of a small one."""
    return np.sort(np.random.default_rng(size).permutation(size)[:48])


def network() -> dict[str, np.ndarray]:
    """What the levels and heads of each row of Table 4 give, for seeded weights and features of a 64 px input."""
    from models import MODELS, build_model

    made: dict[str, np.ndarray] = {}
    for (lowest, merge), options in ROWS.items():
        config = {"type": "PoseEfficientNet", "model_name": "efficientnet-b4", "include_top": False}
        config |= {"include_hm_decoder": True, "head_conv": 64, "heads": {"hm": 1, "cls": 1, "cstency": 256}}
        net = build_model(config | OFF | options, MODELS).eval()
        rng = np.random.default_rng(lowest)
        sides = {2: (32, 16), 3: (56, 8), 4: (160, 4), 5: (448, 2), 6: (1792, 2)}
        features = {
            f"reduction_{level}": torch.from_numpy(rng.standard_normal((1, width, side, side), np.float32))
            for level, (width, side) in sides.items()
        }
        net.extract_endpoints = lambda inputs, features=features: features
        plain = lowest == 6
        steps = [net.deconv_layers] if plain else [net.deconv_1, net.deconv_2, net.deconv_3, net.deconv_4]
        with torch.no_grad():
            fill([*steps, *([net.conv_c2] if lowest == 2 else []), net.cls, net.hm, net.cstency], rng)
            seen: list[torch.Tensor] = []
            for module in (*steps[1:], net.cls):
                module.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
            heads = net(torch.zeros(1, 3, 64, 64))[0]
        names = ("level2",) if plain else ("level5", "level4", "level3", "level2")
        for name, tensor in [*zip(names, seen, strict=True), *heads.items()]:
            flat = tensor.flatten().numpy()
            made[f"{merge}{lowest} {name}"] = flat[places(flat.size)]
    return made


PARTS = {"network": network}


def main() -> None:
    """Make the named parts, or all."""
    checkout, *names = sys.argv[1:]
    os.chdir(checkout)
    sys.path.insert(0, checkout)
    for name in names or PARTS:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the released code draws from the global generators
        torch.manual_seed(0)
        with contextlib.redirect_stdout(None):
            arrays = PARTS[name]()
        np.savez_compressed(HERE / f"laa_net_{name}.npz", **arrays)


if __name__ == "__main__":
    main()
