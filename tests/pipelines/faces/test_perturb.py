"""Perturbations of faces: pixels worked out by hand, and the scale at which a crop is worn."""

from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.faces import perturb
from pipelines.faces.crops import cut
from pipelines.faces.perturb import PERTURBATIONS


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def constant(*rgb: int, side: int = 16) -> np.ndarray:
    return np.tile(np.array(rgb, np.uint8), (side, side, 1))


def textured(side: int = 64) -> np.ndarray:
    """Return smooth shapes with fine grain."""
    y, x = np.mgrid[:side, :side] * (64 / side)
    waves = [128 + 60 * np.sin(x / 5 + phase) * np.cos(y / 7 - phase) for phase in range(3)]
    grain = np.random.default_rng(0).normal(0, 12, (side, side, 3))
    return np.clip(np.stack(waves, axis=-1) + grain, 0, 255).astype(np.uint8)


def row(crop: float, box: float) -> dict[str, Any]:
    """Return a FACES row of a crop of this side with a face of this side in its middle."""
    edge = (crop - box) / 2
    corners = ("x0", "y0", "x1", "y1")
    return {
        "crop_px": dict(zip(corners, (30, 20, 30 + crop, 20 + crop), strict=True)),
        "box_px": dict(zip(corners, (30 + edge, 20 + edge, 30 + edge + box, 20 + edge + box), strict=True)),
    }


# --------------------------------------------------------------------------------------- operations
def test_no_saturation_is_the_luma() -> None:
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert np.all(perturb.saturation(constant(200, 100, 50), 0.0) == 124)
    assert np.all(perturb.saturation(constant(90, 90, 90), 0.0) == 90)


def test_half_the_saturation_is_half_way_to_the_luma() -> None:
    # 124.2 + (200 - 124.2) / 2 = 162.1; 112.1; 87.1
    assert np.all(perturb.saturation(constant(200, 100, 50), 0.5) == [162, 112, 87])


def test_contrast_is_a_factor_rounded_down() -> None:
    assert np.all(perturb.contrast(constant(201, 100, 0), 0.5) == [100, 50, 0])


def test_blocks_are_counted_by_area_and_are_gray_squares_of_eight() -> None:
    frame = np.zeros((480, 854, 3), np.uint8)
    single = perturb.block(frame, rng(), 1)
    gray = np.argwhere((single == 128).all(-1))
    assert len(gray) == 64
    assert (np.ptp(gray, axis=0) == 7).all()
    assert (single[(single != 0).any(-1)] == 128).all()
    many = (perturb.block(frame, rng(), 16) == 128).all(-1).sum()
    assert 12 * 64 < many <= 16 * 64  # some may overlap
    assert not frame.any()


def test_a_fraction_of_a_block_comes_as_often_as_it_is_large() -> None:
    quarter = np.zeros((240, 427, 3), np.uint8)
    some = [perturb.block(quarter, np.random.default_rng(seed), 2).any() for seed in range(400)]
    assert 0.4 < np.mean(some) < 0.6  # 2 / 4


def test_an_image_smaller_than_a_block_stays_as_large() -> None:
    assert perturb.block(np.zeros((4, 6, 3), np.uint8), rng(), 1e6).shape == (4, 6, 3)


def test_the_noise_of_a_gray_image_has_the_variance_of_its_luma() -> None:
    """Gray of a flat image: luma = 0.299 R + 0.587 G + 0.114 B carries the noise of Y alone, in the full range."""
    noisy = perturb.noise(constant(128, 128, 128, side=128), rng(), 0.001).astype(float)
    luma = noisy @ [0.299, 0.587, 0.114]
    assert luma.std() == pytest.approx(255 * np.sqrt(0.001) * 255 / 219, rel=0.02)
    assert luma.mean() == pytest.approx(127.5, abs=0.3)  # rounded down
    red_less_luma = (noisy[..., 0] - luma) / 1.402  # Cr
    assert red_less_luma.std() == pytest.approx(255 * np.sqrt(0.001) * 255 / 224, rel=0.02)


@pytest.mark.parametrize(("name", "kernel"), [("blur-1", 7), ("blur-5", 21)])
def test_a_blurred_edge_is_the_sum_of_a_gaussian_of_a_sixth_of_the_kernel(name: str, kernel: int) -> None:
    edge = np.zeros((41, 60, 3), np.uint8)
    edge[:, 30:] = 255
    weights = np.exp(-((np.arange(kernel) - kernel // 2) ** 2) / 2 / (kernel / 6) ** 2)
    rise = 255 * np.cumsum(weights / weights.sum())
    expected = np.concatenate([np.zeros(30 - kernel // 2 - 1), [0], rise, np.full(60, 255)])[:60]
    out = PERTURBATIONS[name].operation(edge, rng())
    assert np.abs(out - expected[None, :, None]).max() <= 1
    assert np.ptp(out, axis=(0, 2)).max() == 0


@pytest.mark.parametrize(("name", "weights"), [("gaussian-3", [1, 2, 1]), ("gaussian-5", [1, 4, 6, 4, 1])])
def test_the_kernels_of_the_second_suite_are_those_that_opencv_takes_by_itself(name: str, weights: list[int]) -> None:
    point = np.zeros((11, 11, 3), np.uint8)
    point[5, 5] = 240
    spread = PERTURBATIONS[name].operation(point, rng())[..., 0].astype(float)
    half = len(weights) // 2
    expected = 240 * np.outer(weights, weights) / np.sum(weights) ** 2
    assert np.abs(spread[5 - half : 6 + half, 5 - half : 6 + half] - expected).max() <= 1
    assert (spread > 0).sum() <= len(weights) ** 2


def test_pixelation_takes_the_mean_of_squares_and_draws_lines_between_them() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = [[[40], [80]], [[0], [40]]]  # mean 40
    out = perturb.pixelation(image, 2)[..., 0]
    # Of [40, 0], enlarged to 4: 40, 3/4 * 40, 1/4 * 40, 0; and the same downwards.
    assert out[0].tolist() == [40, 30, 10, 0]
    assert out[:, 0].tolist() == [40, 30, 10, 0]
    assert np.all(perturb.pixelation(constant(7, 8, 9), 6) == [7, 8, 9])


def test_resizing_is_relative_to_a_face_of_380() -> None:
    side = 190
    image = textured(side)
    by_hand = cv2.resize(cv2.resize(image, (64, 64)), (side, side))
    assert np.array_equal(perturb.resize(image, 128), by_hand)


def test_jpeg_loses_more_at_a_lower_quality() -> None:
    image = textured()
    loss = {q: np.abs(perturb.jpeg(image, q).astype(int) - image).mean() for q in (100, 50)}
    assert 0 < loss[100] < loss[50] < 20
    red, blue = perturb.jpeg(constant(200, 20, 20), 100)[8, 8], perturb.jpeg(constant(20, 20, 200), 100)[8, 8]
    assert red[0] > 190 > 40 > red[2]
    assert blue[2] > 190 > 40 > blue[0]


# ----------------------------------------------------------------------------------------- registry
def test_the_levels_are_those_that_are_printed() -> None:
    printed = {
        "saturation": "0.4 0.3 0.2 0.1 0",
        "contrast": "0.85 0.725 0.6 0.475 0.35",
        "block": "16 32 48 64 80",
        "noise": "0.001 0.002 0.005 0.01 0.05",
        "blur": "7 9 13 17 21",
        "pixelation": "2 3 4 5 6",
    }
    assert {
        family: " ".join(PERTURBATIONS[name].parameter for name in names) for family, names in perturb.MEANS.items()
    } == printed
    assert [PERTURBATIONS[f"blur-{level}"].level for level in range(1, 6)] == [1, 2, 3, 4, 5]
    assert [name for name in PERTURBATIONS if PERTURBATIONS[name].family not in perturb.MEANS] == [
        *("resize-256", "resize-128", "gaussian-3", "gaussian-5", "jpeg-100", "jpeg-50")
    ]
    assert len(set(perturb.names())) == len(perturb.names())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_keeps_size_and_type_and_its_input_and_changes_it_more_at_higher_levels(name: str) -> None:
    image = cv2.GaussianBlur(textured(190), (5, 5), 0)
    before = image.copy()
    known = row(crop=300, box=200)
    out = perturb.apply(name, image, known, seed=3)
    assert (out.shape, out.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)
    assert out is not image
    worn = PERTURBATIONS[name]
    milder = [p for p in PERTURBATIONS.values() if p.family == worn.family and p.level == worn.level - 1]
    loss = [np.square(np.subtract(perturb.apply(p.name, image, known, 3), image, dtype=float)).mean() for p in milder]
    assert np.square(out.astype(float) - image).mean() > max(loss, default=0.02)


@pytest.mark.parametrize("name", ["noise-2", "block-4"])
def test_what_is_drawn_follows_from_the_seed_alone(name: str) -> None:
    image, known = textured(), row(crop=300, box=200)
    first, again, other = (perturb.apply(name, image, known, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_names_stand_for_levels_in_a_fixed_order() -> None:
    five = tuple(f"blur-{level}" for level in range(1, 6))
    assert perturb.levels(["jpeg-50", "blur", "blur-3", "contrast-2"]) == ("contrast-2", *five, "jpeg-50")
    assert perturb.levels([]) == ()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("", "allowed: .*blur.*five levels.*blur-5.*jpeg-50"),
        ("xyz", "allowed: .*blur.*five levels.*blur-5.*jpeg-50"),
        ("blur-6", r"did you mean 'blur-\d'\?"),
        ("Blur", r"did you mean 'blur'\?"),
        ("jpeg", r"did you mean 'jpeg-\d+'\?"),
        ("resize", r"did you mean 'resize-\d+'\?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant_or_all(name: str, answer: str) -> None:
    with pytest.raises(ValueError, match=f"unknown perturbation '{name}'; {answer}"):
        perturb.levels([name, "blur"])


# -------------------------------------------------------------------------------------------- scale
def test_a_crop_is_worn_at_the_size_it_was_made_for() -> None:
    known = row(crop=250, box=125)
    assert perturb.side_px("source", known, 224) == 250
    assert perturb.side_px("network", known, 224) == 608  # 2 boxes of 304: 1.25 boxes are 380
    assert perturb.side_px("any", known, 224) == 224


@pytest.mark.parametrize(("side", "stored"), [(80, 96), (160, 96), (96, 96)])
@pytest.mark.parametrize("name", ["blur-3", "pixelation-1", "contrast-2"])
def test_a_worn_crop_is_nearly_the_crop_of_a_worn_frame(name: str, side: int, stored: int) -> None:
    """Five times nearer than the clean crop, in square error; away from the border, beyond which the frame goes on."""
    frame = cv2.GaussianBlur(textured(360), (3, 3), 0)
    crop = (60, 60, 60 + side, 60 + side)
    clean = cut(frame, crop, stored)
    true = cut(PERTURBATIONS[name].operation(frame, rng()), crop, stored)
    ours = perturb.apply(name, clean, row(crop=side, box=side / 1.5), seed=0)
    inner = slice(stored // 6, -stored // 6)
    error, change = (np.square(np.subtract(true, other, dtype=float)[inner, inner]).mean() for other in (ours, clean))
    assert error < change / 5


def test_a_crop_that_was_enlarged_comes_back_to_the_pixels_of_the_video() -> None:
    small = cv2.GaussianBlur(textured(60), (3, 3), 0)
    back = perturb._at_scale("source", cut(small, (0, 0, 60, 60), 190), 60)
    assert np.abs(back.astype(int) - small).mean() < 0.5


@pytest.mark.parametrize(("side", "stored"), [(80, 96), (240, 96)])
def test_noise_is_drawn_in_pixels_of_the_video(side: int, stored: int) -> None:
    """Averaged where the crop was made smaller, spread where it was made larger."""
    flat = np.full((360, 360, 3), 128, np.uint8)
    crop = (60, 60, 60 + side, 60 + side)
    true = cut(perturb.noise(flat, rng(), 0.002), crop, stored)
    ours = perturb.apply("noise-2", cut(flat, crop, stored), row(crop=side, box=side / 1.5), seed=0)
    assert ours.std() == pytest.approx(true.std(), rel=0.1)
    neighbours = [np.corrcoef(image[:, 1:, 1].ravel(), image[:, :-1, 1].ravel())[0, 1] for image in (ours, true)]
    assert neighbours[0] == pytest.approx(neighbours[1], abs=0.1)


def test_blocks_are_eight_pixels_of_the_video() -> None:
    """A crop of 400 pixels that is stored at 200: blocks of four."""
    worn = perturb.apply("block-1", np.zeros((200, 200, 3), np.uint8), row(crop=400, box=300), seed=0)
    number, _, stats, _ = cv2.connectedComponentsWithStats((worn[..., 0] > 100).astype(np.uint8))
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    assert 4 <= number - 1 <= 7  # 16 * 400 * 400 / (854 * 480) = 6.2, and two may touch
    assert (np.abs(np.median(sides, axis=0) - 4) <= 1).all()
