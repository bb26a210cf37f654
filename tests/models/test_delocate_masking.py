"""Which patches Delocate hides."""

import numpy as np
import pytest

import models
from models import delocate
from models._masking import MIRROR, PARTS, cells_in_boxes, flip_landmarks, num_masked, part_cells

GRID = """
..............
..............
..............
...eee..eee...
...eeecceee...
....eeccee....
....cc..cc....
....cc..cc....
....cc..cc....
....ll..ll....
....ll..ll....
....llllll....
......ll......
..............
"""


def paper(**recover) -> delocate.Config:
    return models.override(delocate.Config(), {f"recover.{name}": value for name, value in recover.items()})


@pytest.fixture
def clip_landmarks(landmarks):
    def make(rng: np.random.Generator | None = None) -> np.ndarray:
        still = np.repeat(landmarks(224)[None], 16, 0)
        return still if rng is None else still + rng.normal(0, 6, still.shape).astype(np.float32)

    return make


def slots(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(8, 14, 14)


@pytest.mark.parametrize(("crop_scale", "counts"), [(1.0, [36, 32, 34]), (1.3, [16, 16, 16]), (1.5, [16, 16, 16])])
def test_part_sizes_on_the_mean_shape(crop_scale, counts, landmarks):
    points = landmarks(224, crop_scale)
    assert [part_cells(points, part, 14, 16, use_rois=True).sum() for part in PARTS] == counts


def test_part_places_on_the_mean_shape(landmarks):
    drawn = np.full((14, 14), ".")
    for part in PARTS:
        drawn[part_cells(landmarks(224), part, 14, 16, use_rois=True)] = part[0]
    assert ["".join(row) for row in drawn] == GRID.split()


def test_bands_on_the_mean_shape(landmarks):
    cells = [part_cells(landmarks(224), part, 14, 16, use_rois=False) for part in PARTS]
    assert [c.sum() for c in cells] == [30, 30, 40]
    assert not (cells[0] & cells[1]).any()
    assert not (cells[1] & cells[2]).any()


def test_mirror_swaps_sides(landmarks):
    assert (MIRROR[MIRROR] == np.arange(68)).all()
    points = landmarks(224)
    np.testing.assert_allclose(flip_landmarks(points, 224), points, atol=1e-3)  # the mean shape is symmetric
    assert flip_landmarks(np.zeros((68, 2), np.float32), 224)[0].tolist() == [223, 0]


@pytest.mark.parametrize("use_rois", [True, False])
def test_flipped_landmarks_give_flipped_cells(use_rois, landmarks):
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = landmarks(224) + rng.normal(0, 8, (68, 2)).astype(np.float32)
        for part in PARTS:
            cells = part_cells(points, part, 14, 16, use_rois=use_rois)
            mirrored = part_cells(flip_landmarks(points, 224), part, 14, 16, use_rois=use_rois)
            np.testing.assert_array_equal(mirrored, cells[:, ::-1])


def test_cell_belongs_to_a_box_by_its_centre():
    assert np.argwhere(cells_in_boxes([(8, 7, 24, 9)], 3, 16)).tolist() == [[0, 1]]  # centres 7.5, 23.5, 39.5
    assert np.argwhere(cells_in_boxes([(7, 7, 24, 24)], 3, 16)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("box", "cell"), [((9, 9, 14, 14), [0, 0]), ((90, -30, 99, -20), [0, 2]), ((30, 40, 20, 38), [2, 1])]
)
def test_box_without_a_centre_takes_the_cell_it_lies_in(box, cell):
    assert np.argwhere(cells_in_boxes([box], 3, 16)).tolist() == [cell]


@pytest.mark.parametrize(("ratio", "count"), [(0.55, 9), (0.65, 10), (0.75, 12), (0.85, 14), (0.95, 15), (0.01, 1)])
def test_number_hidden_of_16(ratio, count):
    assert num_masked(ratio, 16) == count


@pytest.mark.parametrize("temporal", ["tube", "per_slot"])
@pytest.mark.parametrize("strategy", ["proposed", "without_rois", *PARTS])
def test_hidden_patches_lie_in_the_drawn_part(strategy, temporal, clip_landmarks):
    cfg = paper(strategy=strategy, temporal=temporal)
    rng = np.random.default_rng(1)
    points = clip_landmarks(rng)
    for part in delocate.STRATEGIES[strategy]:
        mask = slots(delocate.draw_mask(cfg, points, part, rng))
        for slot in range(8):
            seen = points.mean(0) if temporal == "tube" else points[2 * slot : 2 * slot + 2].mean(0)
            cells = part_cells(seen, part, 14, 16, use_rois=strategy != "without_rois")
            assert not (mask[slot] & ~cells).any()
            assert mask[slot].sum() == max(1, np.floor(0.75 * cells.sum() + 0.5))


def test_tube_hides_the_same_patches_in_all_slots_and_per_slot_does_not(clip_landmarks):
    rng = np.random.default_rng(2)
    tube = slots(delocate.draw_mask(paper(), clip_landmarks(rng), "eyes", rng))
    assert (tube == tube[0]).all()
    per_slot = slots(delocate.draw_mask(paper(temporal="per_slot"), clip_landmarks(rng), "eyes", rng))
    assert (per_slot != per_slot[0]).any()


@pytest.mark.parametrize("temporal", ["tube", "per_slot"])
def test_of_81_landmarks_the_first_68_count(temporal, clip_landmarks):
    points = clip_landmarks(np.random.default_rng(5))
    forehead = np.full((16, 13, 2), 7, np.float32)
    cfg = paper(temporal=temporal)
    for part in PARTS:
        of_68, of_81 = (
            delocate.draw_mask(cfg, given, part, np.random.default_rng(6))
            for given in (points, np.concatenate([points, forehead], 1))
        )
        np.testing.assert_array_equal(of_68, of_81)


def test_whole_clip_strategies(clip_landmarks):
    rng = np.random.default_rng(3)
    mae = slots(delocate.draw_mask(paper(strategy="mae"), clip_landmarks(), "clip", rng))
    assert mae.sum() == 1176
    assert (mae != mae[0]).any()
    for ratio, count in ((0.9, 176), (0.75, 147)):
        tube = slots(delocate.draw_mask(paper(strategy="video_mae", mask_ratio=ratio), clip_landmarks(), "clip", rng))
        assert tube[0].sum() == count
        assert (tube == tube[0]).all()


def test_parts_are_drawn_equally_often(landmarks, clip_landmarks):
    rng = np.random.default_rng(4)
    cells = {part: part_cells(landmarks(224), part, 14, 16, use_rois=True) for part in PARTS}
    sample = {"image": np.zeros((16, 1, 1, 3), np.uint8), "landmarks": clip_landmarks()}
    counts = dict.fromkeys(PARTS, 0)
    for _ in range(300):
        mask = slots(delocate.Recover.prepare(paper(), sample, rng, "train")["mask"])[0]
        counts[next(part for part in PARTS if not (mask & ~cells[part]).any())] += 1
    assert all(75 <= count <= 125 for count in counts.values()), counts  # 100 expected, 8 standard deviation


def test_bad_settings_are_refused():
    for bad in ({"mask_ratio": 0.0}, {"mask_ratio": 1.2}, {"strategy": "nose"}, {"temporal": "never"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            paper(**bad)
    with pytest.raises(ValueError, match="nothing is left to see"):
        paper(strategy="mae", mask_ratio=1.0)
