"""LAA-Net's ground truth, from the boundary of a blending; expected values are worked out by hand."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from models import _vulnerable_points as vulnerable
from models._laa_samples import DataConfig, ground_truth

DATA = DataConfig()
SIDE = 24


def ring(side: int = SIDE, radius: float = 7.0) -> np.ndarray:
    """Return B of a face that is a disc: highest on a circle; no two equal neighbours across a quadrant's border."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (255 * np.exp(-((np.hypot(x, y) - radius) ** 2))).astype(np.uint8)


def test_one_maximum_per_quadrant_and_all_that_equal_it():
    b = np.zeros((8, 8), np.uint8)
    b[1, 2], b[1, 3], b[0, 0] = 90, 90, 89  # a tie; less
    b[2, 6] = 255
    b[7, 7] = 3
    assert vulnerable.vulnerable_points(b).tolist() == [[1, 2], [1, 3], [2, 6], [7, 7]]
    assert vulnerable.vulnerable_points(b, "global").tolist() == [[2, 6]]


def test_a_real_image_has_no_points_and_empty_maps():
    b = np.zeros((SIDE, SIDE), np.uint8)
    for search in ("quadrant", "global"):
        points = vulnerable.vulnerable_points(b, search)
        assert len(points) == 0
        assert not vulnerable.heatmap(b, points).any()
        assert not vulnerable.consistency(b, search).any()


def test_every_quadrant_that_is_not_empty_has_a_point():
    rng = np.random.default_rng(0)
    for _ in range(20):
        b = rng.integers(0, 256, (8, 8)).astype(np.uint8) * (rng.random((8, 8)) < 0.1)
        b = b.astype(np.uint8)
        points = vulnerable.vulnerable_points(b)
        filled = {(y // 4, x // 4) for y, x in np.argwhere(b)}
        assert {(y // 4, x // 4) for y, x in points} == filled


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(6, 6, 1.640), (7, 7, 1.913), (10, 10, 2.733), (7, 30, 3.207), (10, 40, 4.510), (0, 0, 0), (0, 9, 0)],
)
def test_radius(height, width, expected):
    assert vulnerable.radius(height, width) == pytest.approx(expected, abs=1e-3)
    assert vulnerable.radius(width, height) == vulnerable.radius(height, width)
    total, t = height + width, 0.7  # the smallest of CornerNet's three cases is always the third
    r1 = (total + math.sqrt(total**2 - 4 * height * width * (1 - t) / (1 + t))) / 2
    r2 = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - t) * height * width)) / 2
    assert vulnerable.radius(height, width) <= min(r1, r2)


def test_a_gaussian_is_as_wide_as_the_boundary_around_its_point():
    b = np.zeros((20, 20), np.uint8)
    b[4:9, 6] = 200  # 5 high
    b[6, 0:8] = 200  # 8 wide, from the border on
    b[6, 6] = 255
    heat = vulnerable.heatmap(b, np.array([[6, 6]]))
    r = vulnerable.radius(5 + 1, 8 + 1)  # the point counts twice
    assert 1 < r < 2
    near = np.argwhere(heat > 0)
    assert (near.min(0).tolist(), near.max(0).tolist()) == ([5, 5], [7, 7])
    assert heat[6, 6] == 1
    assert heat[7, 7] == pytest.approx(math.exp(-(1 + 1) / (2 * (r / 3 + 1e-4) ** 2)), rel=1e-5)
    np.testing.assert_array_equal(heat[5:8, 5:8], heat[7:4:-1, 7:4:-1])  # centred on the point


def test_a_low_point_is_a_single_pixel():
    b = np.zeros((8, 8), np.uint8)
    b[2, 2:6] = 128  # as high as "above" begins, not above
    heat = vulnerable.heatmap(b, np.array([[2, 2]]))
    assert heat[2, 2] == 1
    assert np.count_nonzero(heat) == 1


def test_the_heatmap_is_the_maximum_of_its_gaussians_and_one_at_the_points_only():
    b = np.zeros((SIDE, SIDE), np.uint8)
    b[4:11, 3:9] = 200
    b[7, 5] = b[7, 7] = b[15, 15] = 255
    points = vulnerable.vulnerable_points(b)
    heat = vulnerable.heatmap(b, points)
    single = [vulnerable.heatmap(b, point[None]) for point in points]
    np.testing.assert_array_equal(heat, np.max(single, axis=0))
    assert np.sum(single, axis=0).max() > 1  # so that a sum would differ
    at_points = np.zeros(b.shape, bool)
    at_points[tuple(points.T)] = True
    np.testing.assert_array_equal(heat == 1, at_points)
    assert heat.min() >= 0
    stored = ground_truth(DATA, b, np.random.default_rng(0))["heatmap"]
    np.testing.assert_array_equal(stored == 255, at_points)
    np.testing.assert_allclose(stored / 255, heat, atol=1 / 255)


def test_even_wide_gaussians_are_stored_as_less_than_one_beside_their_point():
    b = np.full((256, 256), 250, np.uint8)
    b[100, 100] = 255
    heat = vulnerable.heatmap(b, vulnerable.vulnerable_points(b, "global"))
    assert heat[100, 101] * 255 > 254.5  # rounded, it would be one more point
    stored = ground_truth(replace(DATA, points="global"), b, np.random.default_rng(0))["heatmap"]
    assert np.argwhere(stored == 255).tolist() == [[100, 100]]


def test_consistency_is_the_distance_to_the_highest_value():
    b = ring()
    b[SIDE // 2 :, SIDE // 2 :] = 0
    b = np.minimum(b, 240)
    truth = ground_truth(DATA, b, np.random.default_rng(0))
    c, highest = truth["consistency"], int(b.max())
    active = np.ones(b.shape, bool)
    active[SIDE // 2 :, SIDE // 2 :] = False
    np.testing.assert_array_equal(c[active], 255 - (highest - b[active].astype(int)))
    assert not c[~active].any()
    assert c.ravel()[truth["anchor"]] == 255
    assert b.ravel()[truth["anchor"]] == highest
    assert np.abs(c[active].astype(int) - b[active]).max() <= 255 - highest
    everywhere = ground_truth(replace(DATA, points="global"), b, np.random.default_rng(0))["consistency"]
    assert (everywhere[~active] == 255 - highest).all()


def test_consistency_compares_all_quadrants_with_the_highest_of_all():
    b = np.zeros((4, 4), np.uint8)
    b[0, 0], b[0, 3] = 255, 100
    c = vulnerable.consistency(b)
    assert c.tolist() == [[255, 0, 0, 100], [0, 0, 0, 0], [0] * 4, [0] * 4]
    b[0, 0] = 200
    assert vulnerable.consistency(b).tolist() == [[255, 55, 55, 155], [55] * 4, [0] * 4, [0] * 4]


def test_anchor_and_real_consistency_options():
    b, zeros = ring(), np.zeros((SIDE, SIDE), np.uint8)
    highest = set(np.flatnonzero(b == b.max()).tolist())
    assert len(highest) > 1
    rngs = [np.random.default_rng(i) for i in range(40)]
    drawn = {int(ground_truth(replace(DATA, anchor="random"), b, rng)["anchor"]) for rng in rngs}
    assert len(drawn) > 1
    assert drawn <= highest
    assert int(ground_truth(DATA, b, rngs[0])["anchor"]) == min(highest)
    real = ground_truth(DATA, zeros, rngs[0])
    assert (int(real["anchor"]), real["heatmap"].any(), real["consistency"].any()) == (0, False, False)
    ones = ground_truth(replace(DATA, real_consistency="ones"), zeros, rngs[0])
    assert (ones["consistency"] == 255).all()
    assert not ones["heatmap"].any()


def test_ground_truth_of_the_mirrored_boundary_is_mirrored():
    rng = np.random.default_rng(0)
    b = cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8), (0, 0), 2)
    truth, mirrored = (ground_truth(DATA, edges, rng) for edges in (b, np.ascontiguousarray(b[:, ::-1])))
    for name in ("heatmap", "consistency"):
        np.testing.assert_array_equal(mirrored[name], truth[name][:, ::-1])
