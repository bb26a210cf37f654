"""Landmarks for tests: the mean shape of dlib's 68-point predictor, and random faces around them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import models

# x, y in units of the detector's box, 0 to 1 from its upper left corner; the other side follows by mirroring.
_HALF = {
    **dict(enumerate([(0.029, 0.322), (0.033, 0.446), (0.046, 0.570), (0.072, 0.692), (0.120, 0.805)])),
    **dict(enumerate([(0.195, 0.903), (0.286, 0.985), (0.386, 1.050), (0.500, 1.070)], 5)),
    **dict(enumerate([(0.119, 0.231), (0.178, 0.178), (0.260, 0.163), (0.345, 0.175), (0.425, 0.208)], 17)),
    **dict(enumerate([(0.5, 0.306), (0.5, 0.386), (0.5, 0.465), (0.5, 0.547)], 27)),
    **dict(enumerate([(0.405, 0.602), (0.450, 0.619), (0.5, 0.634)], 31)),
    **dict(enumerate([(0.214, 0.316), (0.265, 0.286), (0.326, 0.287), (0.379, 0.328)], 36)),
    **dict(enumerate([(0.322, 0.338), (0.261, 0.337)], 40)),
    **dict(enumerate([(0.317, 0.751), (0.384, 0.724), (0.453, 0.710), (0.5, 0.722)], 48)),
    **dict(enumerate([(0.618, 0.817), (0.552, 0.846), (0.5, 0.852)], 55)),
    **dict(enumerate([(0.345, 0.755), (0.452, 0.750), (0.5, 0.755)], 60)),
    **dict(enumerate([(0.549, 0.786), (0.5, 0.792)], 65)),
}
_PAIRS = [(i, 16 - i) for i in range(8)] + [(i, 43 - i) for i in range(17, 22)]
_PAIRS += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53)]
_PAIRS += [(50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]


def _landmarks(size_px: int, crop_scale: float = 1.3) -> np.ndarray:
    """Return landmarks (68, 2), in px of a square crop whose side is `crop_scale` times the detector's box."""
    points = dict(_HALF)
    for a, b in _PAIRS:
        known, missing = (a, b) if a in points else (b, a)
        points[missing] = (1 - points[known][0], points[known][1])
    shape = np.array([points[i] for i in range(68)])
    return ((0.5 + (shape - 0.5) / crop_scale) * size_px - 0.5).astype(np.float32)


def _box(size_px: int, crop_scale: float) -> np.ndarray:
    """Return the detector's box (4,), in the middle of such a crop."""
    half = size_px / crop_scale / 2
    return np.array([size_px / 2 - half, size_px / 2 - half, size_px / 2 + half, size_px / 2 + half], np.float32)


def _sample(
    rng: np.random.Generator,
    size_px: int,
    num_frames: int | None,
    label: int,
    domain: int = -1,
    crop_scale: float = 1.3,
) -> dict:
    """Make a sample as `Stage.prepare` gets it: noise with a bright disc for a head; in fakes the mouth is inverted."""
    frames = num_frames or 1
    y, x = np.mgrid[:size_px, :size_px]
    image = rng.integers(0, 120, (frames, size_px, size_px, 3)).astype(np.uint8)
    image[:, (x - size_px / 2) ** 2 + (y - size_px / 2) ** 2 < (0.4 * size_px) ** 2] += 100
    mask = np.zeros((frames, size_px, size_px), np.uint8)
    if label:
        mask[:, int(0.6 * size_px) : int(0.8 * size_px), int(0.35 * size_px) : int(0.65 * size_px)] = 1
        image = np.where(mask[..., None] == 1, 255 - image, image)
    arrays = {
        "image": image,
        "landmarks": _landmarks(size_px, crop_scale) + rng.normal(0, size_px / 100, (frames, 68, 2)).astype(np.float32),
        "box": np.tile(_box(size_px, crop_scale), (frames, 1)),
        "mask": mask,
        "mask_valid": np.ones(frames, bool),
        "native_px": np.full(frames, size_px, np.float32),
        "key": rng.integers(1 << 55, size=frames),
    }
    if num_frames is None:
        arrays = {name: value[0] for name, value in arrays.items()}
    return arrays | {"label": label, "domain": domain}


@pytest.fixture(scope="session")
def landmarks() -> Callable[..., np.ndarray]:
    return _landmarks


@pytest.fixture(scope="session")
def sample() -> Callable[..., dict]:
    return _sample


@pytest.fixture(scope="session")
def prepared() -> Callable[..., Any]:
    """Return a function of paper, stage, mode and count that makes a config, the stage class, and a batch.

    Its samples are real and fake in turn; in a view of real faces all are real, unless they are to be scored. With
    domains, six samples have three of them, and the halves of any other number two each.
    """

    def make(paper: str, stage_name: str, mode: models.Mode, count: int = 6) -> tuple[Any, type[models.Stage], Any]:
        cfg, stage = models.config(paper, "small"), models.stage(paper, stage_name)
        feed, rng = stage.feed(cfg), np.random.default_rng(0)
        num_frames = feed.clip_frames if "clips" in stage.view else None
        derived = {}
        if source := stage.reads_of(cfg):
            _, derive_class, batch = make(paper, source, "score", count)
            torch.manual_seed(0)
            with torch.no_grad():
                values = derive_class(cfg).eval().derive(batch)
            derived = {name: value.numpy() for name, value in values.items()}
            assert all(value.dtype == np.uint8 for value in derived.values())
        rows = []
        for i in range(count):
            label = 0 if stage.view.startswith("real") and mode != "score" else i % 2
            domain = i // 2 % (3 if count == 6 else 2) if stage.view == "domain_frames" else -1
            face = _sample(rng, feed.input_px, num_frames, label, domain, cfg.crop_margin)
            face |= {name: value[i, 0] if num_frames is None else value[i] for name, value in derived.items()}
            if feed.donors and mode != "score":
                donor = _sample(rng, feed.input_px, None, 0, -1, cfg.crop_margin)
                face["donor"] = {name: donor[name] for name in ("image", "landmarks")}
            before = copy.deepcopy(face)
            row = stage.prepare(cfg, face, np.random.default_rng(i), mode)
            again = stage.prepare(cfg, face, np.random.default_rng(i), mode)
            for name, value in row.items():
                np.testing.assert_array_equal(value, again[name], err_msg=f"{name} is not a function of rng")
            np.testing.assert_equal(face, before, err_msg="prepare changed the sample")
            rows.append(row)
        batch = {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}
        return cfg, stage, batch | ({"step_seed": torch.tensor(3)} if mode == "train" else {})

    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute on one thread: tensors this small gain nothing from more, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
