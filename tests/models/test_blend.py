"""Pseudo-fakes: what must hold of every one of them, and how often what is drawn."""

from collections import Counter

import cv2
import numpy as np
import pytest

from models import BadSample, _blend
from models._blend import (
    BlendConfig,
    BlendFacesConfig,
    EmptyMask,
    MaskConfig,
    TransformConfig,
    blended_images,
    blending_mask,
    landmark_masks,
    synthesize,
    transforms,
)
from models._masking import flip_landmarks

KINDS = ("lal", "dfl", "components", "extended", "facehull", "local", "lal_or_local", "bbmg")
NO_TRANSFORM = TransformConfig(color=False, frequency=False, affine=False)


def photo(seed: int, side: int = 256, detail_px: int = 8) -> np.ndarray:
    """Return a smooth picture with all levels in it."""
    num = side // detail_px + 2
    coarse = np.random.default_rng(seed).integers(0, 256, (num, num, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def face(landmarks):
    """Return an image (side, side, 3) and the 68 or 81 landmarks of a face that takes up two thirds of it."""

    def make(side: int = 256, num_points: int = 68, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        points = landmarks(side, 1.6)
        if num_points == 81:
            x = np.linspace(points[0, 0], points[16, 0], 13)
            y = points[17:27, 1].min() - 0.15 * side * np.sin(np.linspace(0.2, np.pi - 0.2, 13))
            points = np.concatenate([points, np.stack([x, y], 1)]).astype(np.float32)
        return photo(seed, side), points

    return make


def config(kind: str = "lal", *, transform: TransformConfig | None = None, **mask) -> BlendConfig:
    return BlendConfig(mask=MaskConfig(kind=kind, **mask), transform=transform or TransformConfig())


def gaussian_b(mask: np.ndarray, kernel_px: int) -> np.ndarray:
    """Erode as the first half of SBI's mask routine does, in double precision, so that only a full window gives 1."""
    blurred = cv2.GaussianBlur(mask.astype(np.float64), (kernel_px, kernel_px), 0)
    blurred /= blurred.max()
    return (blurred >= 1 - 1e-9).astype(np.float32)


def assert_even(counts: Counter, options: int, draws: int) -> None:
    """Assert that each of `options` outcomes was seen about as often: within 4.5 standard deviations of a fair draw."""
    assert len(counts) == options
    share = 1 / options
    limit = 4.5 * np.sqrt(draws * share * (1 - share))
    assert max(abs(count - draws * share) for count in counts.values()) < limit


# --- landmarks -----------------------------------------------------------------------------------------------------


def bad_landmarks(name: str, points: np.ndarray) -> np.ndarray:
    points = points.copy()
    if name == "nan":
        points[3, 1] = np.nan
    elif name == "infinite":
        points[3, 1] = np.inf
    elif name == "line":
        points[:, 1] = 0.5 * points[:, 0] + 20
    elif name == "point":
        points[:] = 100
    elif name == "outside":
        points[:, 0] += 200
    elif name == "far":
        points[0] = -1e9
    elif name == "count":
        points = points[:67]
    elif name == "flat":
        points = points.ravel()
    return points


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "1 landmarks are NaN"),
        ("infinite", "infinite"),
        ("line", "on one line"),
        ("point", "in one point"),
        ("outside", "lie outside the 256 x 256 image"),
        ("far", "1 of 68 landmarks lie outside"),
        ("count", r"got \(67, 2\)"),
        ("flat", r"got \(136,\)"),
    ],
)
def test_landmarks_of_no_use_are_refused(name, message, face):
    image, points = face()
    bad = bad_landmarks(name, points)
    with pytest.raises(BadSample, match=message):
        _blend.check_landmarks(bad, image.shape)
    rng = np.random.default_rng(0)
    with pytest.raises(BadSample, match=message):
        _blend.self_blend(image, bad, rng, BlendConfig())
    for pair in ((image, bad, image, points), (image, points, image, bad)):
        with pytest.raises(BadSample, match=message):
            _blend.blend_faces(*pair, rng, BlendFacesConfig())


def test_landmarks_a_little_outside_are_used(face):
    image, points = face()
    points[:, 1] += 60  # the chin and lower lip leave the image
    assert (points[:, 1] > 256).any()
    _blend.check_landmarks(points, image.shape)
    for kind in KINDS:
        made = _blend.self_blend(image, points, np.random.default_rng(0), config(kind))
        assert made.mask.max() > 0.5


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.zeros((64, 64, 3)), np.zeros((64, 64, 4), np.uint8)])
def test_images_of_another_kind_are_refused(image, landmarks):
    with pytest.raises(ValueError, match="image must be uint8"):
        _blend.self_blend(image, landmarks(64), np.random.default_rng(0), BlendConfig())


@pytest.mark.parametrize("num_points", [68, 81])
def test_flipping_twice_restores_and_swaps_the_eyes(num_points, face):
    image, points = face(num_points=num_points)
    points += np.random.default_rng(0).normal(0, 3, points.shape).astype(np.float32)
    flipped_image, flipped = _blend.flip(image, points)
    assert (flipped_image == image[:, ::-1]).all()
    assert flipped[36:42, 0].mean() < flipped[42:48, 0].mean()
    assert flipped[0, 0] < flipped[16, 0]
    again_image, again = _blend.flip(flipped_image, flipped)
    np.testing.assert_array_equal(again_image, image)
    np.testing.assert_allclose(again, points, atol=1e-4)


def test_forehead_runs_from_left_to_right_before_and_after_a_flip(face):
    _, points = face(num_points=81)
    assert (np.diff(points[68:, 0]) > 0).all()
    assert (np.diff(flip_landmarks(points, 256)[68:, 0]) > 0).all()


def test_flip_refuses_other_counts():
    with pytest.raises(ValueError, match="68 or 81 points"):
        flip_landmarks(np.zeros((5, 2), np.float32), 100)


# --- landmark masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", landmark_masks.HULL_KINDS)
def test_landmark_region_is_binary(kind, face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, kind)
    assert region.dtype == np.uint8
    assert region.shape == (256, 256)
    assert set(np.unique(region)) == {0, 1}


def test_landmark_regions_contain_what_they_are_made_of(face):
    image, points = face(num_points=81)
    regions = {kind: landmark_masks.landmark_region(points, image.shape, kind) for kind in landmark_masks.HULL_KINDS}
    x, y = points.astype(int).T
    everywhere = {"dfl": [0, 8, 16, 19, 24, 30, 33], "components": [0, 8, 16, 17, 19, 24, 26, 33]}
    for kind, indices in everywhere.items():
        assert regions[kind][y[indices], x[indices]].all()
    assert regions["facehull"][y, x].all()
    assert (regions["extended"] >= regions["components"]).all()  # raised brows only add
    assert regions["extended"].sum() > regions["components"].sum()
    assert (regions["facehull"] >= regions["dfl"]).all()
    short = landmark_masks.landmark_region(points[:68], image.shape, "facehull")
    assert short.sum() < regions["facehull"].sum()


def test_brows_are_raised_by_half_their_distance_to_the_eye_rounded_down():
    points = np.zeros((68, 2), np.int32)
    points[[0, 16, 36, 45]] = [0, 100], [200, 100], [40, 100], [160, 100]
    points[37:40], points[42:45] = (60, 95), (140, 95)
    points[17:22], points[22:27] = (50, 75), (150, 75)
    raised = landmark_masks._raise_brows(points)
    assert raised[17].tolist() == [50 + (50 - 30) // 2, 75 + (75 - 100) // 2]  # (36 + (36 + 0) // 2) // 2 = (30, 100)
    assert raised[18].tolist() == [50 + (50 - 40) // 2, 75 - 13]
    assert raised[26].tolist() == [150 + (150 - 170) // 2, 75 - 13]
    assert (raised[27:] == points[27:]).all()


def test_unknown_kinds_list_those_there_are(face):
    image, points = face()
    with pytest.raises(ValueError, match=r"'components'.*got 'oval'"):
        landmark_masks.landmark_region(points, image.shape, "oval")
    with pytest.raises(ValueError, match=r"'mouth'.*got 'ear'"):
        landmark_masks.feature_region(points, image.shape, "ear", "sladd")
    with pytest.raises(ValueError, match=r"local_shape.*got 'round'"):
        landmark_masks.feature_region(points, image.shape, "nose", "round")


def test_lal_draws_its_kinds_evenly_and_drops_the_forehead_in_a_quarter(face):
    image, points = face(96, num_points=81)
    points[[0, 16], 0] += [8, -8]  # so that no two kinds are the same: the hulls of dfl leave a notch here,
    points[8, 1] -= 10  # those of components one here
    known = {
        landmark_masks.landmark_region(points, image.shape, kind).tobytes(): kind for kind in landmark_masks.HULL_KINDS
    }
    known[landmark_masks.landmark_region(points[:68], image.shape, "facehull").tobytes()] = "facehull of 68"
    assert len(known) == 5
    rng = np.random.default_rng(0)
    drawn = Counter(known[landmark_masks.lal_region(points, image.shape, rng).tobytes()] for _ in range(4000))
    dropped = drawn.pop("facehull of 68")
    drawn["facehull"] += dropped
    assert_even(drawn, 4, 4000)
    assert dropped / drawn["facehull"] == pytest.approx(0.25, abs=0.06)


def test_anti_aliasing_does_nothing_in_float(face):
    image, points = face(num_points=81)
    points += 0.3
    hull = cv2.convexHull(points.astype(np.int32))
    plain, smooth = np.zeros((2, 256, 256), np.float32)
    cv2.fillConvexPoly(plain, hull, (1,), cv2.LINE_8)
    cv2.fillConvexPoly(smooth, hull, (1,), cv2.LINE_AA)
    np.testing.assert_array_equal(plain, smooth)
    np.testing.assert_array_equal(landmark_masks.landmark_region(points, image.shape, "facehull"), smooth)
    cv2.fillConvexPoly(smooth, hull, (255,), cv2.LINE_AA)
    np.testing.assert_array_equal(plain, smooth / 255)
    masks = [
        synthesize.draw_mask(points, image.shape, np.random.default_rng(1), config("facehull", line=line))[0]
        for line in ("8", "aa")
    ]
    np.testing.assert_array_equal(*masks)


def test_anti_aliasing_changes_the_edge_in_8_bit(face):
    image, points = face(num_points=81)
    regions = [
        blending_mask.draw_labels(
            points, image.shape, np.random.default_rng(1), MaskConfig(kind="facehull", dtype="uint8", line=line)
        )
        for line in ("8", "aa")
    ]
    assert 0 < (regions[0] != regions[1]).mean() < 0.01


# --- features ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [*landmark_masks.FEATURES, "both_eyes"])
@pytest.mark.parametrize("side", [64, 256])
def test_sladd_region_is_a_repeated_dilation_with_a_cross(part, side, face):
    image, points = face(side)
    start, end, reach = landmark_masks._segment_line(points, part)
    expected = np.zeros((side, side), np.uint8)
    cv2.line(expected, start, end, (1,), 2)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    expected = cv2.dilate(expected, cross, iterations=reach) if reach else expected
    np.testing.assert_array_equal(landmark_masks._segment(points, image.shape, part), expected)


def test_sladd_lines_and_reaches():
    points = np.zeros((68, 2), np.float32)
    points[36], points[39], points[42], points[45] = (40, 50), (61, 50), (90, 50), (111, 50)
    points[33], points[48], points[54] = (75, 90), (60, 120), (91, 120)
    lines = {part: landmark_masks._segment_line(points, part) for part in (*landmark_masks.FEATURES, "both_eyes")}
    assert lines == {
        "left_eye": ((40, 50), (61, 50), 20),  # 4 * floor(21 / 4)
        "right_eye": ((90, 50), (111, 50), 20),
        "both_eyes": ((50, 50), (100, 50), 12),  # floor(50 / 4)
        "nose": ((75, 90), (75, 50), 12),
        "mouth": ((60, 120), (91, 120), 10),  # floor(31 / 3)
    }


def test_sladd_regions_are_a_sixth_of_the_face(face):
    image, points = face()
    whole = landmark_masks.landmark_region(points, image.shape, "facehull").sum()
    for feature in landmark_masks.FEATURES:
        region = landmark_masks.feature_region(points, image.shape, feature, "sladd")
        assert 0.08 < region.sum() / whole < 0.25


def test_feature_hulls_are_small_and_lie_on_the_feature(face):
    image, points = face()
    whole = landmark_masks.landmark_region(points, image.shape, "facehull").sum()
    for feature, center in (("left_eye", 36), ("right_eye", 42), ("nose", 30), ("mouth", 62)):
        region = landmark_masks.feature_region(points, image.shape, feature, "hull")
        assert region[int(points[center, 1]), int(points[center, 0])] == 1
        assert region.sum() / whole < 0.12


@pytest.mark.parametrize("local_shape", ["sladd", "hull"])
@pytest.mark.parametrize("feature", landmark_masks.FEATURES)
def test_68_and_81_points_give_the_same_features(feature, local_shape, face):
    image, points = face(num_points=81)
    regions = [landmark_masks.feature_region(p, image.shape, feature, local_shape) for p in (points, points[:68])]
    np.testing.assert_array_equal(*regions)


def test_sladd_draws_ten_combinations_evenly(face):
    image, points = face(64)
    known = {}
    for parts in landmark_masks.SLADD_COMBINATIONS:
        regions = [landmark_masks._segment(points, image.shape, part) for part in parts]
        known[np.max(regions, axis=0).tobytes()] = parts
    assert len(known) == 10
    rng = np.random.default_rng(0)
    drawn = Counter(
        known[landmark_masks.sladd_region(points, image.shape, rng, jitter_px=0).tobytes()] for _ in range(2000)
    )
    assert_even(drawn, 10, 2000)


def test_sladd_warp_only_takes_away(face):
    image, points = face()
    regions = [landmark_masks._segment(points, image.shape, part) for part in (*landmark_masks.FEATURES, "both_eyes")]
    whole = np.max(regions, axis=0)
    gone = []
    for seed in range(40):
        region = landmark_masks.sladd_region(points, image.shape, np.random.default_rng(seed))
        full = landmark_masks.sladd_region(points, image.shape, np.random.default_rng(seed), jitter_px=0)
        assert set(np.unique(region)) <= {0, 1}
        assert (region <= whole).all()
        assert (region <= full).all()
        gone.append(1 - region.sum() / full.sum())
    assert 0.05 < np.mean(gone) < 0.6


def test_grid_warp_reads_where_its_nodes_say():
    columns, rows = np.array([10, 40, 90]), np.array([0, 60, 99])
    moved = np.random.default_rng(0).normal(0, 4, (3, 3, 2))
    x, y = landmark_masks.grid_map(columns, rows, moved, (100, 100))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert x[row, column] == pytest.approx(np.clip(column + moved[i, j, 0], 0, 99), abs=1e-4)
            assert y[row, column] == pytest.approx(np.clip(row + moved[i, j, 1], 0, 99), abs=1e-4)
    assert x[30, 25] == pytest.approx(x[[0, 60]][:, [10, 40]].mean(), abs=1e-4)  # bilinear in between
    assert (x[:, :10] == -1).all()
    assert (x[:, 91:] == -1).all()
    still_x, still_y = landmark_masks.grid_map(columns, rows, np.zeros((3, 3, 2)), (100, 100))
    np.testing.assert_allclose(still_x[:, 10:91], np.tile(np.arange(10, 91), (100, 1)), atol=1e-4)
    np.testing.assert_allclose(still_y[:, 50], np.arange(100), atol=1e-4)


# --- SBI: the boundary blur ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["gaussian", "average"])
def test_blur_normalise_and_zero_below_1_is_an_erosion(operation, face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "dfl")
    region[:40, 100:160] = 1  # touches the border
    cfg = MaskConfig(operation=operation)
    for kernel_px in range(5, 26, 2):
        eroded = blending_mask._erode(region.astype(np.float32), kernel_px, cfg)
        square = cv2.erode(region, np.ones((kernel_px, kernel_px), np.uint8))
        np.testing.assert_array_equal(eroded, square)
        if operation == "gaussian":
            np.testing.assert_array_equal(eroded, gaussian_b(region, kernel_px))


def test_a_resized_mask_is_eroded_as_by_the_blur(face):
    image, points = face()
    cfg = MaskConfig()
    for seed, (width, height) in enumerate([(192, 256), (201, 233), (256, 256), (319, 204)]):
        small = blending_mask._resized(
            landmark_masks.lal_region(points, image.shape, np.random.default_rng(seed)), width, height, cfg
        )
        for kernel_px in (5, 15, 25):
            differs = blending_mask._erode(small, kernel_px, cfg) != gaussian_b(small, kernel_px)
            assert differs.sum() <= 2


def test_a_region_thinner_than_the_kernel_leaves_its_densest_pixels():
    region = np.zeros((256, 256), np.uint8)
    region[100:110, 100:108] = 1
    left = blending_mask._erode(region.astype(np.float32), 25, MaskConfig())
    np.testing.assert_array_equal(left, gaussian_b(region, 25))
    assert 0 < left.sum() <= 4
    mask = blending_mask.boundary_blur(region, np.random.default_rng(0), MaskConfig(erode_kernel=(25, 25)))
    assert mask.max() > 0.9


def test_in_8_bit_nothing_is_eroded(face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "facehull")
    for kernel_px in (5, 15, 25):
        small = blending_mask._resized(region, 224, 224, MaskConfig(dtype="uint8"))
        left = blending_mask._erode(small, kernel_px, MaskConfig(dtype="uint8"))
        literal = cv2.GaussianBlur(cv2.resize(region, (224, 224)), (kernel_px, kernel_px), 0)
        np.testing.assert_array_equal(left, literal)
        assert 1 - left.sum() / small.sum() < 0.01
        float_left = blending_mask._erode(small, kernel_px, MaskConfig())
        assert 1 - float_left.sum() / small.sum() > 0.03


@pytest.mark.parametrize("operation", ["gaussian", "average", "median"])
def test_blurring_in_a_window_changes_nothing(operation):
    mask = np.zeros((120, 100), np.float32)
    mask[30:60, 20:70] = 1
    cfg = MaskConfig(operation=operation)
    for shift in ((0, 0), (-28, 0), (55, 40), (-30, -20)):  # also touching borders
        moved = np.roll(mask, shift, (0, 1))
        for kernel_px in (5, 15, 25):
            np.testing.assert_allclose(
                blending_mask._blur_around(moved, kernel_px, 9, cfg),
                blending_mask._blur(moved, kernel_px, 9, cfg),
                atol=1e-6,
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_mask_is_float_in_0_1_and_reaches_1(kind, dtype, face):
    image, points = face(num_points=81)
    for seed in range(6):
        cfg = config(kind, dtype=dtype, mask_resize=(256, 256))  # not resized, so that nothing smooths the maximum
        mask, _ = synthesize.draw_mask(points, image.shape, np.random.default_rng(seed), cfg)
        assert mask.dtype == np.float32
        assert mask.shape == (256, 256)
        assert mask.min() == 0
        assert mask.max() == pytest.approx(1, abs=1e-6)
        assert mask.max() <= 1


@pytest.mark.parametrize("operation", ["gaussian", "average", "median"])
@pytest.mark.parametrize("blur", ["sbi", "single"])
def test_every_operation_gives_a_mask(operation, blur, face):
    image, points = face()
    for seed in range(4):
        made = _blend.self_blend(image, points, np.random.default_rng(seed), config(operation=operation, blur=blur))
        partly = ((made.mask > 0.02) & (made.mask < 0.98)).mean()
        assert made.mask.max() > 0.99
        assert partly < 0.03 if operation == "median" else partly > 0.01  # the median does not blur


def test_single_blur_does_not_shrink(face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "dfl")
    areas = {}
    for blur in ("sbi", "single"):
        masks = [
            blending_mask.boundary_blur(region, np.random.default_rng(s), MaskConfig(blur=blur)) for s in range(20)
        ]
        areas[blur] = np.mean(masks)
    assert areas["single"] == pytest.approx(region.mean(), rel=0.02)
    assert areas["sbi"] < 0.85 * region.mean()


def test_a_fixed_core_stays_1(face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "dfl")
    fixed = {"erode_kernel": (15, 15), "mask_resize": (256, 256), "fixed_core": True}
    core = cv2.erode(region, np.ones((15, 15), np.uint8)) == 1
    areas = []
    for kernel_px in (5, 15, 25):
        cfg = MaskConfig(blur_kernel=(kernel_px, kernel_px), **fixed)
        mask = blending_mask.boundary_blur(region, np.random.default_rng(0), cfg)
        assert (mask[core] == 1).all()
        areas.append((mask > 0).sum())
    assert areas == sorted(areas)
    assert areas[0] < areas[2]


def test_sizes_of_the_blur_are_those_of_the_papers():
    rng = np.random.default_rng(0)
    kernels = Counter(blending_mask._draw_kernel(rng, (5, 25), 1.0) for _ in range(5500))
    assert sorted(kernels) == list(range(5, 26, 2))
    assert_even(kernels, 11, 5500)
    assert {blending_mask._draw_kernel(rng, (9, 9), 1.0) for _ in range(9)} == {9}
    sbi = {blending_mask._draw_side(rng, 256, MaskConfig(), 1.0) for _ in range(3000)}
    assert (min(sbi), max(sbi)) == (192, 256)
    laa_cfg = MaskConfig(mask_resize=(0.8, 1.25), mask_resize_unit="canvas")
    laa = {blending_mask._draw_side(rng, 256, laa_cfg, 1.0) for _ in range(5000)}
    assert (min(laa), max(laa)) == (204, 319)


@pytest.mark.parametrize("unit", ["px", "canvas"])
def test_with_a_reference_a_small_canvas_looks_like_a_large_one_reduced(unit, face):
    resize = {"px": (192, 256), "canvas": (0.8, 1.25)}[unit]
    cfg = config("facehull", reference_px=256, mask_resize=resize, mask_resize_unit=unit)
    shares = {}
    for side in (64, 256):
        image, points = face(side)
        masks = [synthesize.draw_mask(points, image.shape, np.random.default_rng(s), cfg)[0] for s in range(60)]
        shares[side] = np.mean([[mask.mean(), ((mask > 0.05) & (mask < 0.95)).mean()] for mask in masks], axis=0)
    np.testing.assert_allclose(shares[64], shares[256], rtol=0.12)


def test_kernels_scaled_to_almost_nothing_are_one_pixel():
    rng = np.random.default_rng(0)
    assert {blending_mask._draw_kernel(rng, (5, 25), 1 / 64) for _ in range(50)} == {1}
    scaled = {blending_mask._draw_kernel(rng, (5, 25), 0.25) for _ in range(200)}
    assert scaled == {1, 3, 5, 7}


@pytest.mark.parametrize("side", [8, 17, 40])
def test_tiny_canvases_work(side, face):
    image, points = face(side)
    for kind in ("lal", "bbmg"):
        for reference_px in (None, 256):
            made = _blend.self_blend(image, points, np.random.default_rng(3), config(kind, reference_px=reference_px))
            assert made.mask.shape == (side, side)
            assert np.isfinite(made.mask).all()
            assert made.mask.any()


# --- SBI: the blend ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lal", "bbmg", "local"])
def test_each_pixel_lies_between_target_and_source(kind, face, monkeypatch):
    image, points = face(num_points=81)
    seen = {}
    blend = synthesize.blend

    def spy(source, target, mask, ratio):
        seen.update(source=source.astype(int), target=target.astype(int), alpha=mask * ratio)
        seen["fake"] = blend(source, target, mask, ratio)
        return seen["fake"]

    monkeypatch.setattr(synthesize, "blend", spy)
    full = 0
    for seed in range(25):
        made = _blend.self_blend(image, points, np.random.default_rng(seed), config(kind))
        source, target, fake = seen["source"], seen["target"], seen["fake"].astype(int)
        assert (fake >= np.minimum(source, target) - 1).all()
        assert (fake <= np.maximum(source, target) + 1).all()
        where = seen["alpha"] >= 1 - 1e-6
        full += where.sum()
        assert (np.abs(fake - source)[where] <= 1).all()
        outside = made.mask == 0
        np.testing.assert_array_equal(made.fake[outside], made.real[outside])
        assert (made.fake != made.real)[~outside].any()
    assert full > 1000


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("side", [256, 157])  # 157: nothing fits a grid of 4
def test_source_is_computed_in_its_window_as_on_the_whole_canvas(side, color):
    image = photo(0, side, detail_px=32)
    rng = np.random.default_rng(0)
    for _ in range(30):
        steps = transforms.draw_appearance(rng, (2, 4), color=color)
        affine = transforms.draw_affine(rng, image.shape)
        x, y = (int(value) for value in rng.integers(0, side // 2, 2))
        box = (x, y, int(rng.integers(20, side - x + 1)), int(rng.integers(20, side - y + 1)))
        whole = cv2.warpAffine(transforms.apply(image, steps), affine.matrix(), (side, side), flags=cv2.INTER_LINEAR)
        window = whole[y : y + box[3], x : x + box[2]].astype(int)
        difference = np.abs(synthesize._source(image, steps, affine, box) - window)
        # OpenCV rounds HSV differently at the end of a row, by one level, which sharpening can magnify.
        assert difference.max() <= (8 if color else 1)
        assert difference.mean() < (0.6 if color else 0.01)


def test_real_is_the_target_after_its_transform(face):
    image, points = face()
    changed = Counter()
    for seed in range(60):
        made = _blend.self_blend(image, points, np.random.default_rng(seed), BlendConfig())
        changed["target" if (made.real != image).any() else "source"] += 1
    assert_even(changed, 2, 60)


@pytest.mark.parametrize(
    ("objects", "real_changes", "fake_differs"),
    [("source", False, True), ("target", True, True), ("target_and_source", True, True)],
)
def test_transform_objects(objects, real_changes, fake_differs, face):
    image, points = face()
    cfg = config(transform=TransformConfig(objects=objects, affine=False))
    for seed in range(5):
        made = _blend.self_blend(image, points, np.random.default_rng(seed), cfg)
        assert (made.real != image).any() == real_changes
        assert (made.fake != made.real).any() == fake_differs


def test_the_target_stays_where_it_is(face):
    image, points = face()
    before = image.copy()
    for seed in range(5):
        cfg = config(transform=TransformConfig(color=False, frequency=False))
        made = _blend.self_blend(image, points, np.random.default_rng(seed), cfg)
        np.testing.assert_array_equal(made.real, image)
        assert (made.fake != image).any()  # the source was moved
    made.real[:] = 0
    made.fake[:] = 0
    np.testing.assert_array_equal(image, before)  # nothing shares memory with the input


def test_without_any_transform_a_face_is_blended_with_itself(face):
    image, points = face()
    made = _blend.self_blend(image, points, np.random.default_rng(0), config(transform=NO_TRANSFORM))
    np.testing.assert_array_equal(made.fake, image)
    assert made.mask.max() > 0.99


def test_ratio_frequencies(face):
    image, points = face(32)
    cfg = config("dfl", reference_px=256, transform=NO_TRANSFORM)
    rng = np.random.default_rng(0)
    drawn = Counter(_blend.self_blend(image, points, rng, cfg).ratio for _ in range(1800))
    assert sorted(drawn) == [0.25, 0.5, 0.75, 1]
    for ratio, share in ((0.25, 1 / 6), (0.5, 1 / 6), (0.75, 1 / 6), (1, 1 / 2)):
        assert drawn[ratio] / 1800 == pytest.approx(share, abs=0.05)


def test_mask_is_that_before_the_ratio(face):
    image, points = face()
    masks = [
        _blend.self_blend(image, points, np.random.default_rng(0), BlendConfig(ratios=(ratio,))).mask
        for ratio in (0.25, 1.0)
    ]
    np.testing.assert_array_equal(*masks)
    assert masks[0].max() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_fakes(kind, face):
    image, points = face(num_points=81)
    made = [_blend.self_blend(image, points, np.random.default_rng((1, 2, 3)), config(kind)) for _ in range(2)]
    other = _blend.self_blend(image, points, np.random.default_rng((1, 2, 4)), config(kind))
    for name in ("real", "fake", "mask"):
        np.testing.assert_array_equal(getattr(made[0], name), getattr(made[1], name))
    assert (other.fake != made[0].fake).any()


def test_boundary_is_1_at_one_half_and_0_at_the_ends():
    mask = np.array([0, 0.25, 0.5, 0.75, 1], np.float32)
    np.testing.assert_array_equal(_blend.boundary(mask), [0, 0.75, 1, 0.75, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"erode_kernel": (4, 25)}, "erode_kernel must be two odd sizes"),
        ({"blur_kernel": (25, 5)}, "blur_kernel"),
        ({"sigma": (0, 5)}, "sigma must be two positive"),
        ({"feature_prob": 1.5}, "feature_prob must be in"),
        ({"narrow": 0.0}, "narrow must be in"),
        ({"reference_px": 0}, "reference_px must be positive"),
    ],
)
def test_mask_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        MaskConfig(**changes)


def test_other_configs_refuse():
    with pytest.raises(ValueError, match="ratios must be"):
        BlendConfig(ratios=())
    with pytest.raises(ValueError, match="downscale must be"):
        TransformConfig(downscale=(3,))
    with pytest.raises(ValueError, match="crop"):
        BlendFacesConfig(crop=(100, 100, 257))
    with pytest.raises(ValueError, match="grid must be a range"):
        BlendFacesConfig(grid=(1, 4))


# --- transforms ----------------------------------------------------------------------------------------------------

LEVELS = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)  # (256, 1, 3) all grays


def test_rgb_shift_truncates():
    shift = (3.7, -4.2, -0.3)
    expected = np.clip(LEVELS + np.float32(shift), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(transforms.rgb_shift(LEVELS, shift), expected)


def test_hsv_shift_takes_a_level_or_nothing():
    np.testing.assert_array_equal(transforms.hsv_shift(LEVELS, (0.2, 0.2, 0.2)), LEVELS)
    np.testing.assert_array_equal(transforms.hsv_shift(LEVELS, (0.2, 0.2, -0.2)), np.maximum(LEVELS, 1) - 1)
    red = np.full((4, 4, 3), (200, 20, 20), np.uint8)  # hue 0 goes to 179, towards magenta
    shifted = transforms.hsv_shift(red, (-0.2, 0.1, 0.1))[0, 0].astype(int)
    assert shifted[2] > shifted[1]


def test_hsv_shift_is_that_of_its_tables():
    image = photo(3, 64)
    for shift in ((-0.2, -0.1, -0.3), (0.1, -0.3, 0.2), (-20, 15, -8.5), (20, -20, 20)):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        levels = np.arange(256, dtype=np.float32)
        tables = [np.mod(levels + np.float32(shift[0]), 180), levels + shift[1], levels + shift[2]]
        tables = [np.clip(table, 0, 255).astype(np.uint8) for table in tables]
        expected = np.dstack([cv2.LUT(hsv[..., i], table) for i, table in enumerate(tables)])
        np.testing.assert_array_equal(transforms.hsv_shift(image, shift), cv2.cvtColor(expected, cv2.COLOR_HSV2RGB))


def test_brightness_contrast_truncates_and_clips():
    out = transforms.brightness_contrast(LEVELS, 1.05, -7.5)[:, 0, 0]
    np.testing.assert_array_equal(out, np.clip(1.05 * np.arange(256, dtype=np.float32) - 7.5, 0, 255).astype(np.uint8))


def test_sharpen_and_downscale():
    flat = np.full((16, 16, 3), 100, np.uint8)
    np.testing.assert_array_equal(transforms.downscale(flat, 4), flat)
    assert (transforms.sharpen(flat, 0.2, 0.5) == 90).all()  # weights add up to (1 - a) + a l = 0.9
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 20
    sharp = transforms.sharpen(dot, 0.5, 1.0)
    assert (sharp[4, 4] == 100).all()  # 20 (0.5 + 0.5 * 9)
    assert sharp.sum() == 300  # its neighbours would be below 0
    stripes = np.tile(np.array([10, 200], np.uint8), (8, 4))[..., None].repeat(3, 2)
    assert (transforms.downscale(stripes, 2) == 10).all()  # every second pixel


def test_affine_draws_are_within_the_range_of_sbi():
    rng = np.random.default_rng(0)
    drawn = [transforms.draw_affine(rng, (200, 100)) for _ in range(2000)]
    sx, sy = np.array([[a.sx, a.sy] for a in drawn]).T
    center = np.array([a.matrix() @ [49.5, 99.5, 1] for a in drawn]) - [49.5, 99.5]
    for scale in (sx, sy):
        assert 0.95 <= scale.min() < 0.952
        assert 1.051 < scale.max() <= 1 / 0.95
    assert abs(np.corrcoef(sx, sy)[0, 1]) < 0.08  # independent
    limits = np.abs(center).max(0)
    assert 2.95 < limits[0] <= 3  # 3 % of the width
    assert 2.95 < limits[1] <= 3  # 1.5 % of the height


@pytest.mark.parametrize("side", [128, 100])
def test_elastic_field_is_filtered_white_noise(side):
    rng = np.random.default_rng(0)
    std = 50 / np.sqrt(12 * np.pi) / 7
    assert std == pytest.approx(1.163, abs=0.001)
    fields = np.stack([transforms.elastic_field(rng, (side, side), 7, std) for _ in range(150)])
    assert fields.shape == (150, side, side, 2)
    inner = fields[:, 24:-24, 24:-24]  # the mirrored border adds
    assert inner.std() == pytest.approx(std, rel=0.04)
    assert np.abs(inner.mean()) < 0.1
    assert abs((inner[..., 0] * inner[..., 1]).mean()) < 0.1 * std**2
    for distance in (4, 7, 10, 20):
        expected = std**2 * np.exp(-((distance / 14) ** 2))
        along_x = (inner[:, :, distance:] * inner[:, :, :-distance]).mean()
        along_y = (inner[:, distance:] * inner[:, :-distance]).mean()
        assert along_x == pytest.approx(expected, abs=0.06 * std**2)
        assert along_y == pytest.approx(expected, abs=0.06 * std**2)
    assert 1.5 < fields[:, 0, 24:-24].var() / std**2 < 2.2  # mirrored noise weighs twice at the border
    variance = inner.var(axis=(0, 3))
    nodes = np.add.outer(np.arange(variance.shape[0]) % 8, np.arange(variance.shape[1]) % 8)
    by_place = [variance[nodes == place].mean() for place in range(15)]
    assert max(by_place) / min(by_place) < 1.1  # no grid is seen


def test_elastic_in_its_window_is_that_of_the_whole_canvas(face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "dfl")
    for seed, shift in enumerate([(0, 0), (-70, 0), (60, 60), (0, -60)]):
        moved = np.roll(region, shift, (0, 1))
        field = transforms.elastic_field(np.random.default_rng(seed), moved.shape, 7, 1.16)
        y, x = np.mgrid[:256, :256].astype(np.float32)
        whole = cv2.remap(
            moved, x + field[..., 0], y + field[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
        )
        result = transforms.elastic(moved, np.random.default_rng(seed), 7, 1.16)
        assert (result != whole).mean() < 1e-4
        assert (result != moved).any()


def test_photometric_is_the_same_for_all_images(face, monkeypatch):
    image, points = face()
    made = _blend.self_blend(image, points, np.random.default_rng(0), BlendConfig())
    for seed in range(40):
        twice = _blend.photometric([image, image], np.random.default_rng(seed))
        np.testing.assert_array_equal(*twice)
    monkeypatch.setattr(transforms, "jpeg", lambda image, quality: image)  # the only step that mixes pixels
    outside = made.mask == 0
    changed = Counter()
    for seed in range(40):
        real, fake = _blend.photometric([made.real, made.fake], np.random.default_rng(seed))
        np.testing.assert_array_equal(real[outside], fake[outside])
        changed[bool((real != made.real).any())] += 1
    assert set(changed) == {True, False}  # 0.7^3 stay as they are


def test_how_often_photometric_takes_each_step(monkeypatch):
    steps = {"rgb_shift": 0.3, "hsv_shift": 0.3, "brightness_contrast": 0.3, "jpeg": 0.5}
    taken = Counter()
    for name in steps:
        monkeypatch.setattr(
            transforms, name, lambda image, *strength, name=name: taken.update([name]) or np.full_like(image, 7)
        )
    image, num_draws = photo(0, 8), 3000
    num_unchanged = 0
    for seed in range(num_draws):
        (out,) = _blend.photometric([image], np.random.default_rng(seed))
        assert (out == 7).all() or (out == image).all()  # a step that is taken has an effect
        num_unchanged += int((out == image).all())
    for name, probability in steps.items():
        assert taken[name] / num_draws == pytest.approx(probability, abs=0.04), name
    assert num_unchanged / num_draws == pytest.approx(0.7**3 * 0.5, abs=0.04)


def test_jpeg_takes_red_for_blue_and_keeps_colours():
    red = np.full((32, 32, 3), (220, 30, 40), np.uint8)
    assert np.abs(transforms.jpeg(red, 95).astype(int) - red).max() < 6
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    kept = []
    for channel in (0, 2):
        image = transforms.jpeg(stripes * (np.arange(3) == channel).astype(np.uint8), 90)
        kept.append(np.abs(np.diff(image[..., channel].astype(int))).mean())
    assert kept[0] < 0.7 * kept[1]  # of thin red stripes; JPEG keeps fewest of the colour that it takes for blue


def test_bi_photometric_keeps_the_kind_of_image():
    image = photo(0, 48)
    for seed in range(60):
        out = _blend.photometric_bi(image, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        assert out.shape == image.shape
        np.testing.assert_array_equal(out, _blend.photometric_bi(image, np.random.default_rng(seed)))


# --- BBMG ----------------------------------------------------------------------------------------------------------

PLAIN = TransformConfig(affine=False)


def parts_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return labels > 0, labels == blending_mask.GLOBAL, labels == blending_mask.LOCAL


def test_global_and_local_parts_make_up_the_face(face):
    image, points = face(num_points=81)
    for seed in range(30):
        cfg = MaskConfig(kind="bbmg")
        labels = blending_mask.draw_labels(points, image.shape, np.random.default_rng(seed), cfg)
        expected = landmark_masks.lal_region(points, image.shape, np.random.default_rng(seed))
        labels, _ = synthesize.deform(labels, np.random.default_rng(9), BlendConfig(mask=cfg))
        face_part, rest, local = parts_of(labels)
        assert not (rest & local).any()
        np.testing.assert_array_equal(rest | local, face_part)
        moved, _ = synthesize.deform(expected, np.random.default_rng(9), BlendConfig(mask=cfg))
        np.testing.assert_array_equal(face_part, moved == 1)  # the same warp for all parts
        assert set(np.unique(labels)) <= {0, blending_mask.GLOBAL, blending_mask.LOCAL}


def test_the_15_sets_of_features_are_equally_frequent():
    rng = np.random.default_rng(0)
    drawn = Counter(tuple(blending_mask.draw_features(rng, 0.5)) for _ in range(15000))
    assert () not in drawn
    assert_even(drawn, 15, 15000)
    assert np.mean([len(features) for features in drawn.elements()]) == pytest.approx(32 / 15, abs=0.03)
    assert blending_mask.draw_features(rng, 0) == []


def test_the_merged_mask_is_the_larger_of_both(face):
    image, points = face(num_points=81)
    cfg = MaskConfig(kind="bbmg")
    for seed in range(20):
        labels = blending_mask.draw_labels(points, image.shape, np.random.default_rng(seed), cfg)
        _, rest, local = parts_of(labels)
        rng = np.random.default_rng(seed)
        blurred = [blending_mask.boundary_blur(part.astype(np.uint8), rng, cfg) for part in (rest, local)]
        merged = blending_mask.merge(labels, np.random.default_rng(seed), cfg)
        np.testing.assert_array_equal(merged, np.maximum(*blurred))
        assert merged.dtype == np.float32
        assert 0 <= merged.min() <= merged.max() <= 1


def test_without_features_bbmg_is_sbi(face):
    image, points = face(num_points=81)
    for seed in range(5):
        masks = [
            synthesize.draw_mask(points, image.shape, np.random.default_rng(seed), cfg)[0]
            for cfg in (config("bbmg", feature_prob=0.0), config("lal"))
        ]
        np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("blur", ["sbi", "single"])
def test_a_valley_runs_along_every_feature(blur, face):
    image, points = face(num_points=81)
    cfg = config("bbmg", blur=blur, transform=PLAIN)
    ring = np.ones((3, 3), np.uint8)
    for seed in range(30):
        labels = blending_mask.draw_labels(points, image.shape, np.random.default_rng(seed), cfg.mask)
        _, rest, local = parts_of(labels)
        mask, _ = synthesize.draw_mask(points, image.shape, np.random.default_rng(seed), cfg)
        border = local & (cv2.dilate(rest.astype(np.uint8), ring) == 1)
        assert border.any()
        assert (mask[border] < 1).all()


def test_degenerate_parts(face):
    image, points = face()
    region = landmark_masks.landmark_region(points, image.shape, "dfl")
    cfg = MaskConfig(kind="bbmg")

    def expected() -> np.ndarray:
        return blending_mask.boundary_blur(region, np.random.default_rng(5), cfg)

    no_local = region * np.uint8(blending_mask.GLOBAL)
    np.testing.assert_array_equal(blending_mask.merge(no_local, np.random.default_rng(5), cfg), expected())
    no_rest = region * np.uint8(blending_mask.LOCAL)
    np.testing.assert_array_equal(blending_mask.merge(no_rest, np.random.default_rng(5), cfg), expected())
    for labels, mode in ((region * 0, "full"), (no_rest, "global_only")):
        with pytest.raises(EmptyMask):
            blending_mask.merge(labels, np.random.default_rng(5), MaskConfig(kind="bbmg", bbmg=mode))


@pytest.mark.parametrize("kind", ["lal", "local", "bbmg"])
def test_a_face_without_any_mask_is_given_up(kind, face, monkeypatch):
    image, points = face()
    monkeypatch.setattr(blending_mask, "lal_region", lambda landmarks, shape, *_: np.zeros(shape[:2], np.uint8))
    monkeypatch.setattr(blending_mask, "sladd_region", lambda landmarks, shape, *_: np.zeros(shape[:2], np.uint8))
    with pytest.raises(EmptyMask, match="10 masks"):
        _blend.self_blend(image, points, np.random.default_rng(0), config(kind))
    assert issubclass(EmptyMask, BadSample)


def test_an_empty_mask_is_drawn_again(face, monkeypatch):
    image, points = face()
    draws = iter([np.zeros((256, 256), np.uint8), landmark_masks.landmark_region(points, image.shape, "dfl")])
    monkeypatch.setattr(blending_mask, "lal_region", lambda *_: next(draws))
    assert _blend.self_blend(image, points, np.random.default_rng(0), config("lal")).mask.max() > 0.9


def test_narrow_local_keeps_the_hole_and_shrinks_the_feature(face):
    image, points = face(num_points=81)
    for seed in range(10):
        full, narrow, rest_only = (
            blending_mask.draw_labels(
                points, image.shape, np.random.default_rng(seed), MaskConfig(kind="bbmg", bbmg=mode)
            )
            for mode in ("full", "narrow_local", "global_only")
        )
        np.testing.assert_array_equal(full == blending_mask.GLOBAL, narrow == blending_mask.GLOBAL)
        np.testing.assert_array_equal(full, rest_only)
        local, less = (labels == blending_mask.LOCAL for labels in (full, narrow))
        assert (less <= local).all()
        assert less.sum() / local.sum() == pytest.approx(0.75**2, abs=0.2)


def test_global_only_leaves_the_features_out(face):
    image, points = face()
    labels = blending_mask.draw_labels(points, image.shape, np.random.default_rng(1), MaskConfig(kind="bbmg"))
    _, rest, _ = parts_of(labels)
    mask = blending_mask.merge(labels, np.random.default_rng(2), MaskConfig(kind="bbmg", bbmg="global_only"))
    expected = blending_mask.boundary_blur(rest.astype(np.uint8), np.random.default_rng(2), MaskConfig())
    np.testing.assert_array_equal(mask, expected)


def test_lal_or_local_draws_both(face):
    image, points = face(64)
    rng = np.random.default_rng(0)
    whole = landmark_masks.landmark_region(points, image.shape, "components").sum()
    cfg = MaskConfig(kind="lal_or_local", reference_px=256)
    areas = [blending_mask.draw_labels(points, image.shape, rng, cfg).sum() / whole for _ in range(400)]
    assert np.mean(np.array(areas) > 0.9) == pytest.approx(0.5, abs=0.1)  # SLADD's largest is well below the face


# --- BI ------------------------------------------------------------------------------------------------------------

STILL = BlendFacesConfig(canvas_px=256, side_px=(256, 256), rescale_prob=0.0, crop=None)


def test_bi_changes_nothing_outside_the_mask(face):
    background, points = face()
    foreground, others = face(seed=1)
    for seed in range(10):
        made = _blend.blend_faces(background, points, foreground, others, np.random.default_rng(seed), STILL)
        np.testing.assert_array_equal(made.real, background)
        outside = made.mask == 0
        np.testing.assert_array_equal(made.fake[outside], background[outside])
        assert made.mask.dtype == np.float32
        assert made.mask.min() == 0
        assert made.mask.max() == 1
        assert (made.fake != made.real).mean() > 0.05


def test_bi_gives_the_mean_colour_of_the_background(face):
    background, points = face()
    foreground, others = np.clip(face(seed=1)[0] // 3 + 20, 0, 255).astype(np.uint8), face()[1]
    background = background // 3 + 90
    made = _blend.blend_faces(background, points, foreground, others, np.random.default_rng(0), STILL)
    inside = made.mask > 0
    weight = made.mask[inside][:, None]
    difference = (made.fake.astype(float) - background)[inside]
    assert np.abs((difference * 1).sum(0) / weight.sum()).max() < 8  # without it: 70


@pytest.mark.parametrize("side_px", [(128, 128), (317, 317)])
def test_bi_mask_lies_on_the_face_at_every_size(side_px, face):
    background, points = face()
    cfg = BlendFacesConfig(side_px=side_px, crop=None, jitter=(0, 0), erode_px=(1, 1), dilate_px=(1, 1))
    made = _blend.blend_faces(background, points, background, points, np.random.default_rng(0), cfg)
    assert made.real.shape == (317, 317, 3)
    y, x = np.nonzero(made.mask > 0.02)
    expected = (points + 0.5) * 317 / 256 - 0.5
    assert [x.min(), x.max()] == pytest.approx([expected[:, 0].min(), expected[:, 0].max()], abs=6)
    assert y.max() == pytest.approx(expected[:, 1].max(), abs=6)


def test_bi_crop_is_that_of_the_papers(face):
    background, points = face()
    whole = BlendFacesConfig(rescale_prob=0.0, crop=None)
    cut = BlendFacesConfig(rescale_prob=0.0)
    full, part = (
        _blend.blend_faces(background, points, background, points, np.random.default_rng(0), cfg)
        for cfg in (whole, cut)
    )
    for name in ("real", "fake", "mask"):
        np.testing.assert_array_equal(getattr(full, name)[60:317, 30:287], getattr(part, name))
    quarter = BlendFacesConfig(
        canvas_px=79, side_px=(32, 79), erode_px=(1, 5), dilate_px=(1, 1), rescale_prob=0.0, crop=(7, 15, 64)
    )
    small = _blend.blend_faces(background, points, background, points, np.random.default_rng(0), quarter)
    assert small.fake.shape == (64, 64, 3)


def test_bi_erodes_in_half_of_the_draws_and_dilates_in_the_other(face, monkeypatch):
    _, points = face(64)
    sizes = {"erode": Counter(), "dilate": Counter()}
    for name, counter in sizes.items():
        operation = getattr(cv2, name)

        def spy(region, kernel, operation=operation, counter=counter):
            counter[len(kernel)] += 1
            return operation(region, kernel)

        monkeypatch.setattr(blended_images.cv2, name, spy)
    rng = np.random.default_rng(0)
    for _ in range(1200):
        blended_images.draw_region(points, 64, rng, BlendFacesConfig(jitter=(0, 0)))
    assert sum(sizes["dilate"].values()) / 1200 == pytest.approx(0.5, abs=0.07)
    assert sorted(sizes["erode"]) == list(range(1, 22, 2))
    assert sorted(sizes["dilate"]) == [1, 3, 5]
    total = sum(sizes["dilate"].values())
    assert sizes["dilate"][1] / total == pytest.approx(1 / 5, abs=0.06)  # even draws are raised by one
    assert sizes["dilate"][5] / total == pytest.approx(2 / 5, abs=0.07)


def test_bi_weight_is_the_distance_to_the_hull_inside_the_region():
    region = np.zeros((80, 90), np.uint8)
    cv2.ellipse(region, (40, 42), (30, 20), 25, 0, 360, (1,), -1)
    region[40:50, 35:45] = 0  # a hole, which the hull does not see
    region[:32, 40:44] = 0  # a notch
    weight = blended_images.feathered(region, 0.2)
    hull = cv2.convexHull(cv2.findNonZero(region))
    longer = max(cv2.boundingRect(region)[2:]) - 1
    expected = np.array(
        [
            [np.clip(cv2.pointPolygonTest(hull, (x, y), True) / (0.2 * longer), 0, 1) for x in range(90)]
            for y in range(80)
        ]
    )
    assert expected[region == 0].max() == 1
    np.testing.assert_allclose(weight, expected * region, atol=1e-4)
    assert weight.max() == 1


def test_bi_weight_of_a_line_is_empty_and_drawn_again(face, monkeypatch):
    background, points = face()
    line = np.zeros((256, 256), np.uint8)
    line[100, 50:90] = 1
    assert not blended_images.feathered(line, 0.2).any()
    regions = iter([line, landmark_masks.landmark_region(points, (256, 256), "dfl")])
    monkeypatch.setattr(blended_images, "lal_region", lambda *_: next(regions))
    cfg = BlendFacesConfig(
        canvas_px=256, side_px=(256, 256), crop=None, jitter=(0, 0), erode_px=(1, 1), dilate_px=(1, 1)
    )
    made = _blend.blend_faces(background, points, background, points, np.random.default_rng(0), cfg)
    assert made.mask.max() == 1


def test_bi_alignment_brings_the_landmarks_together(face):
    background, points = face()
    turn = cv2.getRotationMatrix2D((128, 128), 20, 0.8)
    turned = (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    marked = np.zeros((256, 256, 3), np.uint8)
    cv2.circle(marked, tuple(map(int, turned[30])), 4, (255, 255, 255), -1)
    y, x = np.nonzero(blended_images._aligned(marked, turned, points)[..., 0] > 128)
    assert [x.mean(), y.mean()] == pytest.approx(points[30].tolist(), abs=1.5)
    cfg = BlendFacesConfig(align=True)
    made = _blend.blend_faces(background, points, marked, turned, np.random.default_rng(0), cfg)
    assert made.mask.any()


def test_bi_real_and_fake_are_degraded_alike(face):
    background, points = face()
    cfg = BlendFacesConfig(
        canvas_px=256, side_px=(256, 256), crop=None, rescale_prob=1.0, rescale_px=(40, 80), jpeg_prob=1.0
    )
    made = _blend.blend_faces(background, points, background, points, np.random.default_rng(0), cfg)
    assert (made.real != background).any()
    # The same face as its own foreground: what is left is truncation.
    assert np.abs(made.real.astype(int) - made.fake).mean() < 3


def test_bi_face_outside_the_crop_is_refused(face):
    background, points = face()
    cfg = BlendFacesConfig(crop=(0, 0, 20))
    with pytest.raises(EmptyMask, match="outside the window"):
        _blend.blend_faces(background, points, background, points, np.random.default_rng(0), cfg)


def test_bi_equal_seeds_give_equal_fakes(face):
    background, points = face()
    foreground, others = face(200, seed=1)
    made = [
        _blend.blend_faces(background, points, foreground, others, np.random.default_rng(4), BlendFacesConfig())
        for _ in range(2)
    ]
    np.testing.assert_array_equal(made[0].fake, made[1].fake)
    np.testing.assert_array_equal(made[0].mask, made[1].mask)
