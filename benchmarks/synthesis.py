"""Pseudo-fake synthesis against a plain version of the same steps, in one run on one core.

    python benchmarks/synthesis.py [--px 256 380] [--samples 300]

Plain: every step on the whole canvas with the usual library call, in the order and with the arithmetic of the released
codes of SBI and Face X-ray. Ours: `models._blend`. Both get the same faces: portraits that scikit-image and matplotlib
carry, and people made from them. The landmark masks are ours in both.

Printed, for SBI, BBMG and BI:
    fakes/s        pseudo-fakes per second of CPU time, made in turn: plain, ours, and their ratio
    distributions  mean over the samples of what describes a pseudo-fake, plain and ours, with the p of a two-sample
                   Kolmogorov-Smirnov test: area of the mask, share of the canvas where 0 < M < 1, width of that
                   boundary in px (area over the length of the contour at one half), mean |real - fake| inside the
                   mask in levels; for the elastic deformation the displacement's std and max in px
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL.Image import Resampling
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from skimage.transform import PiecewiseAffineTransform
from skimage.transform import warp as skimage_warp

from models import _blend
from models._blend import transforms
from models._blend.landmark_masks import lal_region
from pipelines.datasets.sample.people import make_person, portraits

Face = tuple[np.ndarray, np.ndarray]  # image uint8 (px, px, 3), landmarks float32 (68, 2)
Made = tuple[np.ndarray, np.ndarray, np.ndarray]  # real, fake, mask
Maker = Callable[[Face, Face, np.random.Generator], Made]


def faces(px: int, num_people: int) -> list[Face]:
    """Return square crops around the landmarks of some people, 1.6 times as long as the landmarks' box."""
    pair = portraits()
    people = [*pair, *(make_person(pair, np.random.default_rng(seed)) for seed in range(num_people - 2))]
    crops = []
    for person in people:
        low, high = person.landmarks.min(0), person.landmarks.max(0)
        side = 1.6 * float((high - low).max())
        scale, corner = px / side, (low + high) / 2 - side / 2
        matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
        image = cv2.warpAffine(person.image, matrix, (px, px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        crops.append((image, ((person.landmarks - corner) * scale).astype(np.float32)))
    return crops


# --- the plain version: SBI ----------------------------------------------------------------------------------------


def plain_sbi(face: Face, _: Face, rng: np.random.Generator) -> Made:
    image, landmarks = face
    mask = lal_region(landmarks, image.shape, rng).astype(np.float32)
    source, target = plain_transforms(image, rng)
    matrix = plain_affine(image.shape, rng)
    source = cv2.warpAffine(source, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(mask, matrix, image.shape[1::-1], flags=cv2.INTER_NEAREST)
    mask = plain_remap(mask, plain_elastic(image.shape, rng))
    return plain_blend(source, target, plain_blur(mask, rng), rng)


def plain_bbmg(face: Face, _: Face, rng: np.random.Generator) -> Made:
    image, landmarks = face
    whole = lal_region(landmarks, image.shape, rng).astype(np.float32)
    local = plain_features(landmarks, image.shape, rng) * whole
    source, target = plain_transforms(image, rng)
    matrix = plain_affine(image.shape, rng)
    source = cv2.warpAffine(source, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR)
    field = plain_elastic(image.shape, rng)
    whole, local = (
        plain_remap(cv2.warpAffine(part, matrix, image.shape[1::-1], flags=cv2.INTER_NEAREST), field)
        for part in (whole, local)
    )
    parts = [plain_blur(part, rng) for part in (whole - local, local) if part.any()]
    return plain_blend(source, target, np.max(parts, axis=0), rng)


def plain_features(landmarks: np.ndarray, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Draw BBMG's local mask, each feature by SLADD's repeated dilation with a cross."""
    eyes = [((landmarks[i] + landmarks[j]) / 2).astype(int) for i, j in ((36, 39), (42, 45))]
    apart = int(np.hypot(*(eyes[1] - eyes[0])))
    lines = [(landmarks[i].astype(int), landmarks[j].astype(int)) for i, j in ((36, 39), (42, 45), (48, 54))]
    widths = [int(np.hypot(*(end - start))) for start, end in lines]
    reaches = [widths[0] // 4 * 4, widths[1] // 4 * 4, widths[2] // 3, apart // 4]
    lines.append((landmarks[33].astype(int), (eyes[0] + eyes[1]) // 2))
    chosen = rng.random(4) < 0.5
    while not chosen.any():
        chosen = rng.random(4) < 0.5
    mask = np.zeros(shape[:2], np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for (start, end), reach, is_chosen in zip(lines, reaches, chosen, strict=True):
        if is_chosen:
            region = np.zeros(shape[:2], np.float32)
            cv2.line(region, tuple(map(int, start)), tuple(map(int, end)), (1,), 2)
            for _ in range(reach):
                region = cv2.dilate(region, cross)
            mask = np.maximum(mask, region)
    return mask


def plain_transforms(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    source, target = image.copy(), image.copy()
    if rng.random() < 0.5:
        return plain_appearance(source, rng), target
    return source, plain_appearance(target, rng)


def plain_appearance(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    levels = np.arange(256, dtype=np.float32)
    if rng.random() < 0.3:
        tables = [np.clip(levels + rng.uniform(-20, 20), 0, 255).astype(np.uint8) for _ in range(3)]
        image = np.dstack([cv2.LUT(image[..., channel], table) for channel, table in enumerate(tables)])
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    hue = cv2.LUT(hue, np.mod(levels + rng.uniform(-0.3, 0.3), 180).astype(np.uint8))
    saturation = cv2.LUT(saturation, np.clip(levels + rng.uniform(-0.3, 0.3), 0, 255).astype(np.uint8))
    value = cv2.LUT(value, np.clip(levels + rng.uniform(-0.3, 0.3), 0, 255).astype(np.uint8))
    image = cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB)
    gain, offset = 1 + rng.uniform(-0.1, 0.1), 255 * rng.uniform(-0.1, 0.1)
    image = cv2.LUT(image, np.clip(gain * levels + offset, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        height, width = image.shape[:2]
        ratio = rng.choice([2, 4])
        small = cv2.resize(image, (width // ratio, height // ratio), interpolation=cv2.INTER_NEAREST)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha, lightness = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.0)
    effect = np.array([[-1, -1, -1], [-1, 8 + lightness, -1], [-1, -1, -1]])
    identity = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    return cv2.filter2D(image, -1, ((1 - alpha) * identity + alpha * effect).astype(np.float32))


def plain_affine(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    height, width = shape[:2]
    sx, sy = rng.uniform(0.95, 1 / 0.95), rng.uniform(0.95, 1 / 0.95)
    tx, ty = rng.uniform(-0.03, 0.03) * width, rng.uniform(-0.015, 0.015) * height
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[sx, 0, x - sx * x + tx], [0, sy, y - sy * y + ty]])


def plain_elastic(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    height, width = shape[:2]
    dx, dy = (gaussian_filter(rng.uniform(-1, 1, (height, width)), 7) * 50 for _ in range(2))
    return np.stack([dx, dy], axis=-1).astype(np.float32)


def plain_remap(mask: np.ndarray, field: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(np.arange(mask.shape[1]), np.arange(mask.shape[0]))
    maps = (x + field[..., 0]).astype(np.float32), (y + field[..., 1]).astype(np.float32)
    return cv2.remap(mask, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)


def plain_blur(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    mask = cv2.resize(mask, (int(rng.integers(192, 257)), int(rng.integers(192, 257))))
    first, second = (int(rng.choice(np.arange(5, 26, 2))) for _ in range(2))
    mask = cv2.GaussianBlur(mask, (first, first), 0)
    mask = mask / mask.max()
    mask[mask < 1 - 1e-6] = 0
    mask = cv2.GaussianBlur(mask, (second, second), int(rng.integers(5, 46)))
    return cv2.resize(mask / mask.max(), (width, height))


def plain_blend(source: np.ndarray, target: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Made:
    alpha = rng.choice([0.25, 0.5, 0.75, 1, 1, 1]) * mask[..., None]
    return target, (alpha * source + (1 - alpha) * target).astype(np.uint8), mask


# --- the plain version: BI -----------------------------------------------------------------------------------------


def plain_bi(face: Face, donor: Face, rng: np.random.Generator) -> Made:
    side = int(rng.integers(128, 318))
    back, fore = (cv2.resize(image, (side, side)) for image, _ in (face, donor))
    mask = np.zeros((side, side), np.float32)
    while not mask.any():
        landmarks = (face[1] + 0.5) * side / len(face[0]) - 0.5
        mask = lal_region(landmarks, (side, side), rng, drop_to_68=0.0).astype(np.float32)
        mask = np.floor(plain_piecewise(mask, rng) + 1e-6)
        if rng.random() < 0.5:
            size = int(rng.integers(1, 22)) | 1
            mask = cv2.erode(mask, np.ones((size, size)))
        else:
            size = int(rng.integers(1, 6)) | 1
            mask = cv2.dilate(mask, np.ones((size, size)))
    inside = mask > 0
    fore = np.clip(fore + (back[inside].mean(0) - fore[inside].mean(0)), 0, 255)
    weight = plain_feather(mask)
    fake = (weight[..., None] * fore + (1 - weight[..., None]) * back).astype(np.uint8)
    images = [face[0], cv2.resize(fake, (317, 317))]
    weight = cv2.resize(weight, (317, 317))
    if rng.random() < 0.5:
        size, how = int(rng.integers(64, 318)), rng.choice([Resampling.BILINEAR, Resampling.NEAREST])
        images = [np.asarray(Pillow.fromarray(image).resize((size, size), how)) for image in images]
    real, fake = (cv2.resize(image, (317, 317))[60:317, 30:287] for image in images)
    return real, fake, weight[60:317, 30:287]


def plain_piecewise(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deform the mask as imgaug does: on a triangulated grid in scikit-image."""
    side = len(mask)
    rows, columns = (np.linspace(0, side - 1, rng.integers(2, 5)) for _ in range(2))
    nodes = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    moved = np.clip(nodes + rng.normal(0, rng.uniform(0.01, 0.15) * side, nodes.shape), 0, side - 1)
    estimate = PiecewiseAffineTransform()
    estimate.estimate(nodes, moved)
    return skimage_warp(mask, estimate, order=1, mode="constant")


def plain_feather(mask: np.ndarray) -> np.ndarray:
    """Weigh the mask's pixels by their signed distance to its convex hull, one by one."""
    hull = cv2.convexHull(cv2.findNonZero(mask.astype(np.uint8)))
    longer = max(cv2.boundingRect(hull)[2:]) - 1
    weight = np.zeros(mask.shape)
    for row, column in np.argwhere(mask).tolist():
        distance = cv2.pointPolygonTest(hull, (column, row), True)
        weight[row, column] = np.clip(distance / (0.2 * longer), 0, 1)
    return weight


# --- ours ----------------------------------------------------------------------------------------------------------

SBI = _blend.BlendConfig()
BBMG = _blend.BlendConfig(mask=_blend.MaskConfig(kind="bbmg"))
BI = _blend.BlendFacesConfig()


def our_sbi(face: Face, _: Face, rng: np.random.Generator) -> Made:
    made = _blend.self_blend(*face, rng, SBI)
    return made.real, made.fake, made.mask


def our_bbmg(face: Face, _: Face, rng: np.random.Generator) -> Made:
    made = _blend.self_blend(*face, rng, BBMG)
    return made.real, made.fake, made.mask


def our_bi(face: Face, donor: Face, rng: np.random.Generator) -> Made:
    made = _blend.blend_faces(*face, *donor, rng, BI)
    return made.real, made.fake, made.mask


METHODS: dict[str, tuple[Maker, Maker]] = {
    "SBI": (plain_sbi, our_sbi),
    "BBMG": (plain_bbmg, our_bbmg),
    "BI": (plain_bi, our_bi),
}


# --- measuring -----------------------------------------------------------------------------------------------------


def describe(made: Made) -> dict[str, float]:
    """Return the numbers whose distributions are compared, of one pseudo-fake."""
    real, fake, mask = made
    partly, inside = (mask > 0) & (mask < 1), mask > 0
    contours, _ = cv2.findContours((mask >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    length = sum(cv2.arcLength(contour, closed=True) for contour in contours)
    return {
        "mask area": float(mask.mean()),
        "0 < M < 1": float(partly.mean()),
        "boundary px": float(partly.sum() / max(length, 1)),
        "|real - fake|": float(np.abs(real[inside].astype(int) - fake[inside]).mean()) if inside.any() else 0.0,
    }


def measure(
    plain: Maker, ours: Maker, people: list[Face], num_plain: int, num_ours: int
) -> tuple[list[list[dict[str, float]]], list[float]]:
    """Make pseudo-fakes in turn, so that what else the machine does meets both; return descriptions and CPU seconds.

    Both are of the plain version, then of ours; seconds are medians of one pseudo-fake.
    """
    descriptions: list[list[dict[str, float]]] = [[], []]
    seconds: list[list[float]] = [[], []]
    for maker in (plain, ours):
        maker(people[0], people[1], np.random.default_rng(0))  # first calls set things up
    for number in range(max(num_plain, num_ours)):
        face, donor = people[number % len(people)], people[(number + 1) % len(people)]
        for which, (maker, count) in enumerate(((plain, num_plain), (ours, num_ours))):
            if number < count:
                rng = np.random.default_rng((which + 1, number))
                start = time.process_time()
                made = maker(face, donor, rng)
                seconds[which].append(time.process_time() - start)
                descriptions[which].append(describe(made))
    return descriptions, [statistics.median(times) for times in seconds]


def compare(title: str, plain: list[dict[str, float]], ours: list[dict[str, float]]) -> None:
    """Print the mean of each number, plain and ours, and the p of a Kolmogorov-Smirnov test."""
    for name in plain[0]:
        a, b = ([description[name] for description in descriptions] for descriptions in (plain, ours))
        print(f"  {title:8s} {name:14s} {np.mean(a):9.4f} {np.mean(b):9.4f} {ks_2samp(a, b).pvalue:8.3f}")


def describe_displacement(field: np.ndarray) -> dict[str, float]:
    return {"std px": float(field.std()), "max px": float(np.abs(field).max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, nargs="+", default=[256, 380], help="sides of the square canvas")
    parser.add_argument("--samples", type=int, default=300, help="pseudo-fakes of each method; plain BI: a tenth")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for px in arguments.px:
        people = faces(px, 10)
        described = {}
        print(f"{px} x {px} px{'':6s}fakes/s: plain      ours     ratio   ms each")
        for name, (plain, ours) in METHODS.items():
            num_plain = max(arguments.samples // (10 if name == "BI" else 1), 1)
            (plain_descriptions, our_descriptions), (plain_s, ours_s) = measure(
                plain, ours, people, num_plain, arguments.samples
            )
            described[name] = plain_descriptions, our_descriptions
            print(f"  {name:8s} {1 / plain_s:19.1f} {1 / ours_s:9.1f} {plain_s / ours_s:9.1f} {1e3 * ours_s:9.2f}")
        print("  distributions                 plain      ours     KS p")
        for name, (plain_descriptions, our_descriptions) in described.items():
            compare(name, plain_descriptions, our_descriptions)
        rng = np.random.default_rng(3)
        plain_fields = [plain_elastic((px, px), rng) for _ in range(arguments.samples // 3)]
        our_fields = [transforms.elastic_field(rng, (px, px), 7, 50 / np.sqrt(12 * np.pi) / 7) for _ in plain_fields]
        compare(
            "elastic",
            [describe_displacement(field) for field in plain_fields],
            [describe_displacement(field) for field in our_fields],
        )


if __name__ == "__main__":
    main()
