"""Make the arrays of this folder from LAA-Net's released code: numbers only, no code of it is here.

    python make_laa_net.py <checkout of 10Ring/LAA-Net> [network] [maps] [losses] [steps] [bi] [fakes] [geometry]

Writes `laa_net_<part>.npz` beside this file. README.md has the commit, and the versions it was run with.
"""

import contextlib
import os
import random
import sys
from pathlib import Path

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
    """Give all weights and statistics of the modules, in order, seeded values; the test has the same function."""
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
                module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].clone()))
            heads = net(torch.zeros(1, 3, 64, 64))[0]
        names = ("level2",) if plain else ("level5", "level4", "level3", "level2")
        for name, tensor in [*zip(names, seen, strict=True), *heads.items()]:
            flat = tensor.flatten().numpy()
            made[f"{merge}{lowest} {name}"] = flat[places(flat.size)]
    return made


def boundaries() -> np.ndarray:
    """Return four B of faces, uint8 (4, 96, 96): lobed discs, away from the borders; the last one is all zero."""
    y, x = np.mgrid[:96, :96] - np.array([46.3, 50.2])[:, None, None]
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    made = []
    for lobes, depth, width in ((2, 3.0, 2.5), (3, 5.0, 1.2), (1, 6.0, 0.7)):
        mask = 1 / (1 + np.exp(np.clip((distance - 26 - depth * np.cos(lobes * angle)) / width, -50, 50)))
        made.append((4 * mask * (1 - mask) * (255 - 10 * lobes)).astype(np.uint8))
    return np.stack([*made, np.zeros_like(made[0])])


def maps() -> dict[str, np.ndarray]:
    """The heat-map's numbers above 0 and where they are, and every eighth row of the consistency map, of each B."""
    from datasets.face_forensic_sbi import SBIFaceForensic

    encoder = object.__new__(SBIFaceForensic)
    encoder.heatmap_type, encoder.sigma_adaptive = "gaussian", True
    encoder._cfg = type("Config", (), {"HEATMAP_SIZE": [96, 96]})
    made: dict[str, np.ndarray] = {}
    for number, boundary in enumerate(boundaries()):
        heat, similar = encoder._new_encode_target(np.repeat(boundary[..., None], 3, axis=2))
        made[f"places {number}"] = np.flatnonzero(heat).astype(np.uint16)
        made[f"heat {number}"] = heat[heat > 0].astype(np.float16)
        made[f"consistency {number}"] = similar[0, ::8].astype(np.uint8)
    return made


def losses() -> dict[str, np.ndarray]:
    """The three losses of seeded predictions, unweighted, and the gradients of the first and last."""
    from losses.losses import BaseLoss, _neg_loss, _sigmoid

    torch.Tensor.cuda = lambda tensor, *args, **options: tensor
    rng = np.random.default_rng(5)
    made: dict[str, np.ndarray] = {
        "heat": rng.choice([0.0, 0.3, 0.8, 0.99, 1.0], (4, 12, 12), p=[0.6, 0.2, 0.1, 0.05, 0.05]),
        "heat logit": rng.normal(-1, 3, (4, 12, 12)).round(2),
        "consistency": rng.integers(0, 256, (4, 6, 6)) / 255,
        "embedding": rng.normal(0, 1, (4, 16, 6, 6)).round(2),
        "label": np.array([0.0, 1.0, 1.0, 0.0]),
        "logit": np.array([2.0, -1.0, 0.3, -4.0]),
    }
    made["heat"][2:] *= made["heat"][2:] < 1  # real faces
    made["consistency"][2:] = 0
    tensor = {name: torch.tensor(value) for name, value in made.items()}
    for name in ("heat logit", "embedding"):
        tensor[name].requires_grad_()
    heat = _neg_loss(_sigmoid(tensor["heat logit"].clone())[:, None], tensor["heat"][:, None], alpha=1.0)
    heat.backward()
    config = {"mse_reduction": "sum", "ce_reduction": "mean"}
    config |= dict.fromkeys(("offset_lmda", "cls_lmda", "dst_hm_cls_lmda", "hm_lmda", "cstency_lmda"), 1.0)
    base = BaseLoss(type("Config", (), config))
    similar = base._consistency_loss(tensor["embedding"], tensor["consistency"][:, None])
    similar.backward()
    bce = base._cls_loss(tensor["logit"].sigmoid(), tensor["label"])
    none = _neg_loss(_sigmoid(tensor["heat logit"].detach().clone())[2:, None], tensor["heat"][2:, None], alpha=1.0)
    made |= {"L_H": heat, "L_H without points": none, "L_C": similar, "L_BCE": bce}
    made |= {"gradient of L_H": tensor["heat logit"].grad, "gradient of L_C": tensor["embedding"].grad[:, ::4]}
    arrays = {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in made.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def steps() -> dict[str, np.ndarray]:
    """The weights of a logistic regression over 40 steps of SAM around Adam."""
    from lib.optimizers.sam import SAM

    rng = np.random.default_rng(6)
    made = {"input": rng.normal(0, 1, (32, 7)), "label": rng.integers(0, 2, 32) / 1.0, "start": rng.normal(0, 1, 7)}
    weight = torch.nn.Parameter(torch.tensor(made["start"]))
    optimizer = SAM([weight], torch.optim.Adam, lr=0.02, weight_decay=1e-4)
    seen = []
    for _ in range(40):
        for step in (optimizer.first_step, optimizer.second_step):
            logit = torch.tensor(made["input"]) @ weight
            torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor(made["label"])).backward()
            step(zero_grad=True)
        seen.append(weight.detach().clone())
    return made | {"weights": torch.stack(seen).numpy()}


# ------------------------------------------------------------------------------------------- images
def picture(seed: int) -> np.ndarray:
    """Return a picture, uint8 (256, 256, 3): blocks of all levels under fine noise; no library's filter is in it."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(20, 220, (32, 32, 3)), np.ones((8, 8, 1), np.int64))
    return (blocks + rng.integers(-20, 36, (256, 256, 3))).astype(np.uint8)


def regions() -> list[np.ndarray]:
    """Return four masks {0, 1}, (64, 72): a notched disc, a crescent, one with a hole, two parts."""
    y, x = np.mgrid[:64, :72]
    disc = np.hypot(x - 34, 1.2 * (y - 31)) < 27
    return [
        disc & ~((abs(x - 34) < 6) & (y < 30)),
        disc & ~(np.hypot(x - 46, y - 31) < 20),
        disc & ~(np.hypot(x - 30, y - 36) < 7),
        disc & (abs(y - 30) > 5),
    ]


def bi() -> dict[str, np.ndarray]:
    """BI's weight of each region, and a real face made small and enlarged to so many px, both ways."""
    import cv2
    import datasets.face_forensic_hm as released
    from package_utils.bi_online_generation import blendImages

    test = cv2.pointPolygonTest  # newer ones refuse numpy's numbers
    cv2.pointPolygonTest = lambda hull, point, signed: test(hull, tuple(map(float, point)), signed)
    made: dict[str, np.ndarray] = {}
    for number, region in enumerate(regions()):
        mask = np.repeat(region[..., None], 3, axis=2) * 255.0
        ones, zeros = np.ones_like(mask), np.zeros_like(mask)
        made[f"weight {number}"] = blendImages(ones, zeros, mask)[1][::2, ::2, 0].astype(np.float32)
    dataset = object.__new__(released.HeatmapFaceForensic)
    dataset.debug = False
    for side in (64, 100, 180, 256, 300):
        for how in ("bilinear", "nearest"):
            draws = iter([1, 1, side, int(how == "bilinear")])  # real; made small; to this side; this way
            released.random = type("Draws", (), {"randint": staticmethod(lambda low, high, draws=draws: next(draws))})
            image = dataset._gen_target(picture(0), np.ones((68, 2)), "")[0]
            made[f"{how} {side}"] = image[100:116, 100:116]
            made[f"{how} {side} energy"] = np.square(np.diff(image.astype(float), axis=1)).mean()
    return made


def landmarks() -> np.ndarray:
    """Return the 81 landmarks of a face of 256 px that `landmarks.npy` holds."""
    return np.load(HERE / "landmarks.npy")


def fakes() -> dict[str, np.ndarray]:
    """The percentiles, 1 to 99, of what describes a self-blended image, over 1000 of them."""
    from datasets.sbi.utils import gen_SBI

    return percentiles([describe(*made) for made in (gen_SBI(picture(i % 8), landmarks()) for i in range(1000))])


def describe(real: np.ndarray, fake: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return what describes a pseudo-fake; the test has the same function."""
    mask = mask.reshape(mask.shape[:2]).astype(np.float64)
    edges = 4 * mask * (1 - mask)
    y, x = np.nonzero(mask > 0.5)
    change = np.abs(real.astype(int) - fake).mean(2)
    detail = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (real, fake)]
    return {
        "area": mask.mean(),
        "boundary": edges.mean(),
        "highest": edges.max(),
        "left": x.min(),
        "top": y.min(),
        "bottom": y.max(),
        "change": change[mask > 0.5].mean(),
        "change at the boundary": (change * edges).sum() / edges.sum(),
        "detail": detail[1] - detail[0],
    }


def percentiles(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Return the percentiles 1 to 99 of each column."""
    return {name: np.percentile([row[name] for row in rows], range(1, 100)).astype(np.float32) for name in rows[0]}


def geometry() -> dict[str, np.ndarray]:
    """How 2000 training samples of faces of 246 px show them: kind, zoom and shift of each (columns of `placed`)."""
    import datasets.face_forensic_sbi as released
    from datasets.pipelines.geo_transform import GeometryTransform

    y, x = np.mgrid[-5:251, -5:251]
    ramp = np.clip(np.stack([x, y, np.full_like(x, 255)], 2), 0, 255).astype(np.uint8)
    edges = np.repeat(ramp[..., 2:], 3, axis=2)
    dataset = object.__new__(released.SBIFaceForensic)
    values = {"split": "train", "train": True, "dynamic_fxray": True, "debug": False, "heatmap_type": "gaussian"}
    values |= {"pixel_std": 200, "aspect_ratio": 1.0, "rot": 0, "sigma_adaptive": True}
    values |= {"image_paths_r": ["a/b/c"], "labels_r": [0], "ot_props_r": [{"aligned_lms": np.ones((68, 2))}]}
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset._cfg = type("Config", (), {"IMAGE_SIZE": [384, 384], "HEATMAP_SIZE": [96, 96]})
    dataset._load_img = lambda path: ramp
    dataset.transforms = lambda **images: images  # colours stay, so that places can be read from them
    dataset.final_transforms = lambda image: image
    dataset.select_encode_method = lambda version: lambda target: (target, target)
    dataset.geo_transform = GeometryTransform(
        resize=[384, 384, 0], normalize=0, horizontal_flip=0.5, cropping=[0.15, 0.5], scale=[0.15, 0.5],
        rand_erasing=[0.5, 1], additional_targets={"image_f": "image", "mask_f": "mask"},
    )  # fmt: skip
    cut = slice(5, 251)
    released.sbi_hflip = lambda image, mask, points, box: (image, mask, points, box)
    made = (ramp, edges, ramp, 0 * edges)
    released.gen_target = lambda image, points, margin: tuple(array[cut, cut].copy() for array in made)
    placed = []
    for _ in range(2000):
        fake, _, target, *_ = dataset[0]
        placed.append([*place(np.rint(fake * 255)), (target[..., 0] * 255 < 128).mean()])
    return {"placed": np.array(placed, np.float16)}  # of the maps only the black share


def place(image: np.ndarray) -> tuple[float, ...]:
    """Read from a ramp image (D, D, 3) how it was placed; the test has the same function.

    Return the zoom along x and y, negative if mirrored; source px at the left and top end; share that is black, in all
    and at the right and the bottom end (middle half of the last column and row).
    """
    side, black = len(image), image[..., 2] < 128
    few = image[::6, ::6].astype(float)
    places, lines = np.argwhere(few[..., 2] == 255) * 6, []
    for axis in (0, 1):
        at, source = places[:, 1 - axis], few[few[..., 2] == 255][:, axis]
        slope = np.cov(at, source)[0, 1] / at.var(ddof=1)
        lines.append((246 / side / slope, source.mean() - slope * at.mean()))
    middle = slice(side // 4, 3 * side // 4)
    ends = black[middle, -2].mean(), black[-2, middle].mean()
    return (lines[0][0], lines[1][0], lines[0][1], lines[1][1], black.mean(), *ends)


PARTS = {f.__name__: f for f in (network, maps, losses, steps, bi, fakes, geometry)}


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
