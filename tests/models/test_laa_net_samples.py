"""LAA-Net's samples: the pseudo-fake, its boundary, and the geometry that images and maps share."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from models import BadSample, laa_net
from models import _face_geometry as geometry
from models._blend import Blended, BlendFacesConfig, flip
from models._face_geometry import align, cut_border, fit_square
from models._laa_samples import BiConfig, DataConfig, SbiConfig, pseudo_fake

SMALL = DataConfig(
    face_px=96,
    input_px=96,
    sbi=SbiConfig(border_px=(2, 9), score_border_px=2),
    bi=BiConfig(
        blend=BlendFacesConfig(  # the papers' sizes for faces of 256 px, at 96 px
            canvas_px=119,
            side_px=(48, 119),
            erode_px=(1, 8),
            dilate_px=(1, 2),
            rescale_px=(24, 119),
            crop=(11, 22, 96),
        ),
        score_border_px=7,
    ),
)
BI = replace(SMALL, synthesis="bi")
CFG = replace(laa_net.SMALL, data=SMALL)
SIDE = SMALL.input_px // laa_net.MAP_STRIDE


@pytest.fixture
def face(sample):
    """Make samples as the stage gets them, with a donor."""

    def make(seed: int = 0, px: int = SMALL.face_px) -> dict:
        rng = np.random.default_rng(seed)
        faces = [sample(rng, px, None, 0, -1, 1.5) for _ in range(2)]
        face, donor = (face | {"image": cv2.GaussianBlur(face["image"], (0, 0), 2)} for face in faces)
        return face | {"donor": donor}

    return make


# ------------------------------------------------------------------------------------------- pseudo-fake
@pytest.mark.parametrize("data", [SMALL, BI], ids=["sbi", "bi"])
def test_the_boundary_lies_where_real_and_fake_part(data, face):
    for seed in range(8):
        real, fake, edges = pseudo_fake(data, face(seed), np.random.default_rng(seed), "select")
        assert real.shape == fake.shape
        assert edges.shape == real.shape[:2]
        assert edges.dtype == np.uint8
        assert edges.max() > 128
        assert not np.array_equal(real, fake)
        if data is SMALL:  # in BI both are resized after the blending
            differs = np.abs(real.astype(int) - fake).max(2) > 1
            outside = cv2.dilate((edges > 0).astype(np.uint8), np.ones((3, 3)))
            filled = outside.copy()
            cv2.drawContours(filled, cv2.findContours(outside, 0, 2)[0], -1, 1, -1)
            assert not (differs & (filled == 0)).any()


@pytest.fixture
def blended(monkeypatch) -> np.ndarray:
    """Let self-blending give a dark real face, and a fake that shows B in all three channels; return this B."""
    y, x = np.mgrid[:96, :96] - 44.0
    mask = (1 / (1 + np.exp((np.hypot(x, 0.8 * y) - 24) / 3))).astype(np.float32)
    edges = (4 * mask * (1 - mask) * 255).astype(np.uint8)
    fake = np.repeat(edges[..., None], 3, axis=2)
    made = Blended(real=np.full_like(fake, 7), fake=fake, mask=mask, ratio=1.0)
    monkeypatch.setattr("models._laa_samples.self_blend", lambda *args: made)
    return edges


@pytest.mark.parametrize("mode", ["train", "select"])
def test_a_pair_is_real_then_fake_and_its_maps_follow_the_images(mode, blended, face, monkeypatch):
    monkeypatch.setattr(laa_net, "photometric", lambda images, rng: images)
    for seed in range(30):
        row = laa_net.Detect.prepare(CFG, face(), np.random.default_rng(seed), mode)
        assert row["label"].tolist() == [0, 1]
        assert row["image"][0].max() == 7
        assert not row["heatmap"][0].any()
        assert not row["consistency"][0].any()
        shown = cv2.resize(row["image"][1][..., 0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(shown.ravel(), row["consistency"][1].ravel())[0, 1] > 0.95


def test_colours_change_alike_in_a_pair(blended, face, monkeypatch):
    made = Blended(real=face()["image"], fake=face()["image"], mask=blended.astype(np.float32) / 255, ratio=1.0)
    monkeypatch.setattr("models._laa_samples.self_blend", lambda *args: made)
    rows = [laa_net.Detect.prepare(CFG, face(), np.random.default_rng(i), "train") for i in range(10)]
    for row in rows:
        np.testing.assert_array_equal(row["image"][0], row["image"][1])
    assert len({int(row["image"][0].mean()) for row in rows}) > 1


def test_boundary_ignores_the_ratio_of_blending_unless_asked(face):
    def edges(**options) -> np.ndarray:
        sbi = replace(SMALL.sbi, blend=replace(SMALL.sbi.blend, ratios=(0.25,)))
        return pseudo_fake(replace(SMALL, sbi=sbi, **options), face(), np.random.default_rng(0), "select")[2]

    free, bound = edges(), edges(ratio_in_boundary=True)
    assert free.max() >= 250
    assert free[free.shape[0] // 2, free.shape[1] // 2] == 0  # inside the face nothing is blended half
    assert bound.max() == 191  # 4 x 0.25 x 0.75 of 255
    assert bound[bound.shape[0] // 2, bound.shape[1] // 2] == 191


def test_the_border_that_is_cut_differs_from_sample_to_sample(face):
    sizes = {pseudo_fake(SMALL, face(), np.random.default_rng(i), "select")[0].shape[0] for i in range(60)}
    assert sizes == {96 - 2 * border for border in range(2, 10)}


def test_paper_settings():
    data = DataConfig()
    assert (data.face_px, data.input_px, data.sbi.border_px, data.sbi.score_border_px) == (256, 384, (5, 24), 5)
    mask = data.sbi.blend.mask
    assert (mask.mask_resize, mask.mask_resize_unit, mask.kind) == ((0.8, 1.25), "canvas", "lal")
    assert data.sbi.blend.ratios == (0.25, 0.5, 0.75, 1, 1, 1)
    assert (mask.erode_kernel, mask.blur_kernel, mask.sigma, mask.drop_to_68) == ((5, 25), (5, 25), (5, 45), 0.25)
    assert mask.reference_px == data.face_px  # so that nothing is scaled
    feed = laa_net.Detect.feed(laa_net.Config())
    assert (feed.input_px, feed.batch_size, feed.samples_per_video, feed.num_epochs, feed.donors) == (256, 8, 8, 100, 0)
    feed = laa_net.Detect.feed(laa_net.Config(data=DataConfig(synthesis="bi")))
    assert (feed.batch_size, feed.samples_per_video, feed.donors) == (16, 32, 30)


def test_colours_of_bi_are_for_training_and_for_sbi_on_request(face, monkeypatch):
    called = []
    monkeypatch.setattr("models._laa_samples.photometric_bi", lambda image, rng: called.append(1) or image)

    def times_called(data, mode) -> int:
        called.clear()
        pseudo_fake(data, face(), np.random.default_rng(0), mode)
        return len(called)

    listed = replace(SMALL, sbi=replace(SMALL.sbi, listed_augmentation=True))
    assert [times_called(SMALL, "train"), times_called(BI, "train"), times_called(BI, "select")] == [0, 1, 0]
    assert [times_called(listed, "train"), times_called(listed, "select")] == [1, 0]


def test_without_augmentation_faces_are_mirrored_only(face, monkeypatch):
    called = []
    monkeypatch.setattr(laa_net, "geometric", lambda arrays, *_, **__: called.append("geometry") or arrays)
    monkeypatch.setattr(laa_net, "photometric", lambda images, rng: called.append("colours") or images)
    monkeypatch.setattr("models._laa_samples.photometric_bi", lambda image, rng: called.append("bi") or image)

    def steps(data, mode, augment) -> list[str]:
        called.clear()
        cfg = replace(CFG, data=replace(data, augment=augment))
        laa_net.Detect.prepare(cfg, face(), np.random.default_rng(0), mode)
        return list(called)

    for data in (SMALL, BI):
        assert steps(data, "train", augment=False) == steps(data, "select", augment=False) == []
    assert steps(SMALL, "train", augment=True) == ["geometry", "colours"]
    assert steps(SMALL, "select", augment=True) == ["colours"]
    assert steps(BI, "train", augment=True) == ["bi", "geometry"]
    assert steps(BI, "select", augment=True) == []


def test_faces_that_nothing_can_be_made_of(face):
    good = face()
    points = good["landmarks"]
    bad = {
        "NaN": np.full_like(points, np.nan),
        "line": np.stack([np.linspace(10, 80, 68)] * 2, 1).astype(np.float32),
        "outside": points + 500,
    }
    for data in (SMALL, BI):
        for text, landmarks in bad.items():
            with pytest.raises(BadSample, match=text):
                pseudo_fake(data, good | {"landmarks": landmarks}, np.random.default_rng(0), "train")
    donor = good["donor"] | {"landmarks": bad["NaN"]}
    with pytest.raises(BadSample, match="NaN"):
        pseudo_fake(BI, good | {"donor": donor}, np.random.default_rng(0), "train")
    for landmarks in bad.values():  # to be scored, a face needs none
        sample = good | {"landmarks": landmarks}
        assert laa_net.Detect.prepare(CFG, sample, np.random.default_rng(0), "score")["image"].any()
    for image in (good["image"].astype(np.float32), good["image"][..., 0], good["image"][..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            pseudo_fake(replace(SMALL, align=False), good | {"image": image}, np.random.default_rng(0), "train")


def test_the_smallest_faces_still_give_a_pair(face):
    data = DataConfig(face_px=32, input_px=32, sbi=SbiConfig(border_px=(0, 3), score_border_px=1))
    cfg = replace(CFG, data=data)
    row = laa_net.Detect.prepare(cfg, face(px=32), np.random.default_rng(0), "train")
    assert row["image"].shape == (2, 32, 32, 3)


# ---------------------------------------------------------------------------------------------- geometry
def test_alignment_levels_the_eyes_and_keeps_landmarks_on_the_face(face):
    sample = face()
    points = sample["landmarks"].copy()
    turn = cv2.getRotationMatrix2D((47.5, 47.5), -20, 1)
    points = (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    image = np.zeros((96, 96, 3), np.uint8)
    for place in (8, 39, 42):
        cv2.circle(image, tuple(round(v) for v in points[place].tolist()), 2, (255, 255, 255), -1)
    turned, landmarks = align(image, points)
    assert landmarks[39, 1] == pytest.approx(landmarks[42, 1], abs=1e-3)
    assert landmarks[39, 0] < landmarks[42, 0]
    assert np.linalg.norm(landmarks[8] - landmarks[27]) == pytest.approx(
        np.linalg.norm(points[8] - points[27]), rel=1e-4
    )
    for place in (8, 39, 42):
        x, y = landmarks[place].round().astype(int)
        assert turned[y, x].min() > 200
    assert abs(points[39, 1] - points[42, 1]) > 3


def test_flip_twice_is_the_identity_and_keeps_left_left(face):
    sample = face()
    image, points = flip(sample["image"], sample["landmarks"])
    assert points[36:42, 0].max() < points[42:48, 0].min()
    image, points = flip(image, points)
    np.testing.assert_array_equal(image, sample["image"])
    np.testing.assert_allclose(points, sample["landmarks"], atol=1e-4)


def test_fit_square_never_stretches():
    wide = np.full((20, 40, 3), 255, np.uint8)
    square = fit_square(wide, 80)
    assert square.shape == (80, 80, 3)
    lit = np.argwhere(square[..., 0] == 255)
    assert (lit.min(0).tolist(), lit.max(0).tolist()) == ([20, 0], [59, 79])
    assert fit_square(np.zeros((7, 5), np.uint8), 24).shape == (24, 24)
    np.testing.assert_array_equal(cut_border(np.arange(25).reshape(5, 5), 2), [[12]])


@pytest.mark.parametrize("keep_size", [False, True])
@pytest.mark.parametrize("kind", ["crop", "scale", "erasing"])
def test_images_and_boundary_share_their_geometry(kind, keep_size, monkeypatch):
    """A grey image and a map with the same values stay equal, but for how their pixels are interpolated."""
    draw = getattr(geometry, f"_draw_{kind}")
    for drawn in ("crop", "scale", "erasing"):
        monkeypatch.setattr(geometry, f"_draw_{drawn}", draw)
    grey = cv2.GaussianBlur(np.random.default_rng(0).integers(1, 256, (60, 60)).astype(np.uint8), (0, 0), 3)
    image = np.repeat(grey[..., None], 3, axis=2)
    before = image.copy()
    sides, black = set(), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        real, fake, edges = geometry.geometric([image, image, grey], rng, 64, keep_size=keep_size)
        np.testing.assert_array_equal(real, fake)
        np.testing.assert_array_equal(real[..., 0] == 0, edges == 0)
        np.testing.assert_allclose(real[..., 0].astype(int), edges, atol=12 if kind == "scale" else 0)
        sides |= set(edges.shape)
        black.append(float((edges == 0).sum()) / 64**2)
    np.testing.assert_array_equal(image, before)
    if keep_size:
        assert sides == {60}
        shown = [1 - share * (64 / 60) ** 2 for share in black]
        assert {"crop": 0.73, "scale": 0.72, "erasing": 0.6}[kind] < min(shown) < {"crop": 0.8}.get(kind, 0.78)
        return
    low, high = {"crop": (52, 60), "scale": (51, 69), "erasing": (60, 60)}[kind]
    assert min(sides) in (low - 1, low, low + 1)
    assert max(sides) in (high - 1, high, high + 1)
    assert len(sides) > 5 or kind == "erasing"
    if kind == "erasing":
        assert min(share for share in black if share) <= 0.03
        assert 0.26 <= max(black) <= 0.35
    else:
        assert not any(black)


def test_a_crop_is_shifted_and_a_scale_anchored_at_the_upper_left_corner(monkeypatch):
    """Self-blended faces keep the scale that they had before: a pixel at (30, 40) moves as it is worked out by hand."""
    image = np.full((60, 60, 3), 50, np.uint8)
    image[40, 30] = 255

    def shown(step) -> np.ndarray:
        for drawn in ("crop", "scale", "erasing"):
            monkeypatch.setattr(geometry, f"_draw_{drawn}", lambda *args: step)
        rng = np.random.default_rng(0)  # not mirrored, not left alone
        return geometry.geometric([image], rng, 61, keep_size=True)[0][..., 0]

    cropped = shown(lambda array: array[5:55, 8:60])
    assert np.argwhere(cropped == 255).tolist() == [[35, 22]]
    assert not cropped[50:].any()
    assert not cropped[:, 52:].any()
    assert (cropped[:50, :52] > 0).all()
    larger = shown(lambda array: cv2.resize(array, (90, 90), interpolation=cv2.INTER_NEAREST))  # 1.5 times
    assert np.argwhere(larger == 255).tolist() == []  # at row 60: outside
    assert (larger > 0).all()
    smaller = shown(lambda array: cv2.resize(array, (30, 30), interpolation=cv2.INTER_NEAREST))
    assert np.argwhere(smaller == 255).tolist() == [[20, 15]]
    assert not smaller[30:].any()


def test_self_blended_faces_keep_their_scale_and_blended_ones_fill_the_square(face, monkeypatch):
    called = []
    monkeypatch.setattr(laa_net, "geometric", lambda arrays, rng, px, **how: called.append((px, how)) or arrays)
    for data in (SMALL, BI):
        laa_net.Detect.prepare(replace(CFG, data=data), face(), np.random.default_rng(0), "train")
    assert called == [(97, {"keep_size": True}), (97, {"keep_size": False})]


def test_how_often_each_augmentation_is_drawn(monkeypatch):
    drawn = dict.fromkeys(("crop", "scale", "erasing"), 0)
    for name in drawn:

        def count(rng, height, width, canvas_px, name=name):
            drawn[name] += 1
            return lambda array: array

        monkeypatch.setattr(geometry, f"_draw_{name}", count)
    ramp = np.arange(16, dtype=np.uint8).reshape(4, 4)
    augmented = [geometry.geometric([ramp], np.random.default_rng(i), 8, keep_size=True)[0] for i in range(1200)]
    assert sum(array[0, 0] == 3 for array in augmented) == pytest.approx(600, abs=70)  # mirrored
    for name, times in drawn.items():
        assert times == pytest.approx(200, abs=50), name


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"synthesis": "blend"}, "sbi"),
        ({"points": "all"}, "quadrant"),
        ({"input_px": 100}, "32"),
        ({"input_px": 0}, "32"),
        ({"sbi": SbiConfig(border_px=(9, 2))}, "range"),
        ({"sbi": SbiConfig(border_px=(0, 24))}, "sbi.border_px"),
        ({"sbi": SbiConfig(border_px=(0, 2), score_border_px=-1)}, "score_border_px"),
        ({"bi": replace(SMALL.bi, donors=0)}, "donors"),
    ],
)
def test_config_refuses(change, text):
    with pytest.raises(ValueError, match=text):
        replace(SMALL, **change)


def test_a_mask_kind_reaches_the_blending(face):
    """The kind "extended" is "components" with raised brows."""
    top = {}
    for kind in ("components", "extended"):
        blend = replace(SMALL.sbi.blend, mask=replace(SMALL.sbi.blend.mask, kind=kind))
        data = replace(SMALL, sbi=replace(SMALL.sbi, blend=blend, border_px=(2, 2)))
        boundaries = [pseudo_fake(data, face(), np.random.default_rng(i), "select")[2] for i in range(5)]
        top[kind] = [np.argwhere(edges > 128)[:, 0].min() for edges in boundaries]
    assert np.less(top["extended"], top["components"]).all()
