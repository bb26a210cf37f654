"""LAA-Net against numbers computed by its released code on seeded inputs: `oracles/README.md`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.optim import Adam

from models import _vulnerable_points as vulnerable
from models import laa_net
from models._blend import Blended, blend_faces, blended_images, self_blend
from models._efpn import Decoder
from models._laa_samples import SBI, BiConfig
from models._sam import SAM

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

        def forward(self, x: Tensor) -> dict[int, Tensor]:
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


# ------------------------------------------------------------------------------------------ ground truth
def boundaries() -> np.ndarray:
    """Return four B of faces, uint8 (4, 96, 96), the last one of a real face; as in `oracles/make_laa_net.py`."""
    y, x = np.mgrid[:96, :96] - np.array([46.3, 50.2])[:, None, None]
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    made = []
    for lobes, depth, width in ((2, 3.0, 2.5), (3, 5.0, 1.2), (1, 6.0, 0.7)):
        mask = 1 / (1 + np.exp(np.clip((distance - 26 - depth * np.cos(lobes * angle)) / width, -50, 50)))
        made.append((4 * mask * (1 - mask) * (255 - 10 * lobes)).astype(np.uint8))
    return np.stack([*made, np.zeros_like(made[0])])


def test_maps():
    expected, moved = oracle("maps"), 0
    for number, boundary in enumerate(boundaries()):
        points = vulnerable.vulnerable_points(boundary)
        heat = vulnerable.heatmap(boundary, points, "released")
        released = np.zeros_like(heat)
        released.flat[expected[f"places {number}"].astype(int)] = expected[f"heat {number}"]
        np.testing.assert_allclose(heat, released, atol=3e-4)  # stored in 16 bit
        centred = vulnerable.heatmap(boundary, points)
        assert (centred == 1).sum() == len(points)  # the paper's: the same Gaussians, on their points
        moved += (released == 1).sum() - ((released == 1) & (centred == 1)).sum()
        np.testing.assert_array_equal(vulnerable.consistency(boundary)[::8], expected[f"consistency {number}"])
    assert moved > 5


# ------------------------------------------------------------------------------------------------ losses
def test_losses_and_their_gradients():
    given = {name: torch.tensor(value) for name, value in oracle("losses").items()}
    logit, embedding = given["heat logit"].requires_grad_(), given["embedding"].requires_grad_()
    out = laa_net.Prediction(given["logit"], logit, embedding)
    heat = laa_net.heatmap_loss(laa_net.LossConfig(), logit, given["heat"])
    torch.testing.assert_close(heat, given["L_H"], rtol=1e-5, atol=0)
    none = laa_net.heatmap_loss(laa_net.LossConfig(), logit[2:], given["heat"][2:])
    torch.testing.assert_close(none, given["L_H without points"], rtol=1e-5, atol=0)
    target = {
        "label": given["label"],
        "heatmap": torch.zeros_like(logit),
        "consistency": (given["consistency"] * 255).round(),
        "anchor": given["consistency"].flatten(1).argmax(1),
    }
    terms = laa_net.losses(laa_net.LossConfig(), out, target)
    torch.testing.assert_close(terms["consistency"], given["L_C"], rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["bce"], given["L_BCE"], rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(heat, logit)
    torch.testing.assert_close(gradient, given["gradient of L_H"], rtol=1e-3, atol=1e-6)
    (gradient,) = torch.autograd.grad(terms["consistency"], embedding)
    torch.testing.assert_close(gradient[:, ::4], given["gradient of L_C"], rtol=1e-3, atol=1e-7)


def test_steps_of_sam():
    given = {name: torch.tensor(value) for name, value in oracle("steps").items()}
    weight = nn.Parameter(given["start"].clone())
    optimizer = SAM(Adam([weight], lr=0.02, weight_decay=1e-4))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(given["input"] @ weight, given["label"])
        loss.backward()
        return loss

    for expected in given["weights"]:
        optimizer.step(closure)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------ pseudo-fakes
def picture(seed: int) -> np.ndarray:
    """Return a picture, uint8 (256, 256, 3), as in `oracles/make_laa_net.py`."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(20, 220, (32, 32, 3)), np.ones((8, 8, 1), np.int64))
    return (blocks + rng.integers(-20, 36, (256, 256, 3))).astype(np.uint8)


def test_weight_of_bi():
    y, x = np.mgrid[:64, :72]
    disc = np.hypot(x - 34, 1.2 * (y - 31)) < 27
    regions = [
        disc & ~((abs(x - 34) < 6) & (y < 30)),
        disc & ~(np.hypot(x - 46, y - 31) < 20),
        disc & ~(np.hypot(x - 30, y - 36) < 7),
        disc & (abs(y - 30) > 5),
    ]
    expected = oracle("bi")
    for number, region in enumerate(regions):
        weight = blended_images.feathered(region.view(np.uint8), 0.2)
        np.testing.assert_allclose(weight[::2, ::2], expected[f"weight {number}"], atol=1e-4)


@pytest.mark.parametrize("how", ["bilinear", "nearest"])
@pytest.mark.parametrize("side", [64, 100, 180, 256, 300])
def test_degradation_of_bi(how, side):
    """A real face is made small and enlarged; on noise, to a level: the released code enlarges with Pillow."""
    expected = oracle("bi")
    blend = replace(BiConfig().blend, rescale_prob=1.0, rescale_px=(side, side))
    points = np.load(ORACLES / "landmarks.npy")[:68]
    for seed in range(100):  # until the wanted filter is drawn
        image = blend_faces(picture(0), points, picture(1), points, np.random.default_rng(seed), blend).real
        difference = np.abs(image[100:116, 100:116].astype(int) - expected[f"{how} {side}"])
        if difference.mean() < 1:
            break
    assert difference.max() <= 2
    energy = np.square(np.diff(image.astype(float), axis=1)).mean()
    assert energy == pytest.approx(float(expected[f"{how} {side} energy"]), rel=0.02)


def describe(made: Blended) -> dict[str, float]:
    """Return what describes a pseudo-fake, as in `oracles/make_laa_net.py`."""
    mask, real, fake = made.mask.astype(np.float64), made.real, made.fake
    edges = 4 * mask * (1 - mask)
    y, x = np.nonzero(mask > 0.5)
    change = np.abs(real.astype(np.int16) - fake).mean(2)
    detail = [np.abs(np.diff(image.astype(np.int16), axis=1)).mean() for image in (real, fake)]
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


@pytest.mark.nightly
def test_statistics_of_a_thousand_self_blended_images():
    """The largest distance between the distributions: below 0.073 in 99 of 100 pairs of equal ones (KS, 1000 each)."""
    points, pictures = np.load(ORACLES / "landmarks.npy"), [picture(i) for i in range(8)]
    rng = np.random.default_rng(0)
    rows = [describe(self_blend(pictures[i % 8], points, rng, SBI)) for i in range(1000)]
    percent = np.arange(1, 100) / 100
    for name, percentiles in oracle("fakes").items():
        values = np.array([row[name] for row in rows])
        below = (values[:, None] < percentiles - 1e-4).mean(0)
        up_to = (values[:, None] <= percentiles + 1e-4).mean(0)
        distance = np.maximum(below - percent, percent - up_to).max()
        assert distance < 0.09, name


# --------------------------------------------------------------------------------------------- geometry
def place(image: np.ndarray) -> tuple[float, ...]:
    """Read from a ramp image (D, D, 3) how it was placed, as in `oracles/make_laa_net.py`.

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


@pytest.fixture
def placed(monkeypatch) -> np.ndarray:
    """Return how 2000 training samples show a face of 246 px: rows of `place`, and the black share of the maps."""
    y, x = np.mgrid[:246, :246]
    ramp = np.stack([x, y, np.full_like(x, 255)], 2).astype(np.uint8)
    made = (ramp, ramp, np.full((246, 246), 255, np.uint8))
    seen: list[np.ndarray] = []
    monkeypatch.setattr(laa_net, "pseudo_fake", lambda *args: made)
    monkeypatch.setattr(laa_net, "photometric", lambda images, rng: images)
    monkeypatch.setattr(laa_net, "ground_truth", lambda data, edges, rng: seen.append(edges) or {})
    rows = []
    for seed in range(2000):
        row = laa_net.Detect.prepare(laa_net.Config(), {}, np.random.default_rng(seed), "train")
        rows.append([*place(row["image"][1]), (seen[-1] < 128).mean()])
    return np.array(rows)


def kinds(placed: np.ndarray) -> dict[str, np.ndarray]:
    """Part samples by what was done to them."""
    zoom, black = np.abs(placed[:, :2]), placed[:, 4]
    scaled = np.abs(zoom - 1).min(1) > 0.006
    cropped = ~scaled & ((placed[:, 5] > 0.99) | (placed[:, 6] > 0.99))
    erased = ~scaled & ~cropped & (black > 0.002)
    return {"scaled": scaled, "cropped": cropped, "erased": erased}


@pytest.mark.nightly
def test_zoom_and_shift_of_training_samples(placed):
    """Shares within 4 standard deviations; distributions by Kolmogorov and Smirnov, no p below 0.001."""
    released = oracle("geometry")["placed"].astype(float)
    ours, theirs = kinds(placed), kinds(released)
    assert np.mean(placed[:, 0] < 0) == pytest.approx(np.mean(released[:, 0] < 0), abs=0.063)
    for kind in theirs:
        assert ours[kind].mean() == pytest.approx(theirs[kind].mean(), abs=0.047), kind
    columns = {"zoom x": 0, "zoom y": 1, "source px at the left": 2, "source px at the top": 3, "black": 4, "maps": 7}
    asked = {"scaled": tuple(columns), "cropped": tuple(columns)[2:], "erased": ("black", "maps")}
    for kind, names in asked.items():
        for mirrored in (False, True):
            mine, others = (
                rows[known[kind] & ((rows[:, 0] < 0) == mirrored)]
                for rows, known in ((placed, ours), (released, theirs))
            )
            for name in names:
                # Of the samples' shifts, whole px: reading them, and where pixels lie, moves them by a fraction.
                few, many = (rows[:, columns[name]] for rows in (mine, others))
                if "px" in name:
                    few, many = few.round(), many.round()
                assert ks_2samp(few, many).pvalue > 0.001, (kind, mirrored, name)
    assert np.abs(np.abs(placed[ours["cropped"], :2]) - 1).max() < 0.01  # a crop is shifted, not enlarged
    zooms = np.abs(placed[ours["scaled"], 0])
    assert (zooms.min(), zooms.max()) == pytest.approx((0.85, 1.15), abs=0.01)
