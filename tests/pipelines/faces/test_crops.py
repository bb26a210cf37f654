"""Faces are found, followed and cut as they should be; pictures are made from a public-domain portrait."""

import cv2
import numpy as np
import pytest

from pipelines.faces import crops, follow, masks
from pipelines.faces.boxes import overlap
from pipelines.faces.crops import FaceFinder
from pipelines.faces.detect import Detection, HogDetector, Landmarks
from pipelines.faces.follow import Track
from pipelines.faces.recipe import Recipe
from pipelines.media.frames import Frame

SMALL = Recipe(num_frames=8, size_px=64)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(SMALL)


def find(finder: FaceFinder, frames, **recipe) -> list[crops.Face]:
    """Return the faces of a film under a recipe."""
    chosen = Recipe(num_frames=8, size_px=64, **recipe)
    return list(finder.faces(frames, finder.tracks(frames, chosen), chosen))


def paste(portrait, *places, height=360, width=640):
    """Return a frame of plain background with the portrait, 256 pixels square times a scale, at each (x, y, scale)."""
    frame = np.full((height, width, 3), 90, np.uint8)
    for x, y, scale in places:
        side = round(256 * scale)
        frame[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    return frame


def film(pictures) -> list[Frame]:
    return [Frame(10 * place, place / 3, rgb) for place, rgb in enumerate(pictures)]


def detection(x0, y0, side, score=1.0):
    return Detection(np.array([x0, y0, x0 + side, y0 + side], float), score)


def test_a_moving_face_is_followed_in_one_track(finder, portrait):
    faces = find(finder, film(paste(portrait, (40 + 25 * step, 30, 1)) for step in range(8)))
    assert [(face.frame_index, face.face_index) for face in faces] == [(10 * step, 0) for step in range(8)]
    assert [face.time_s for face in faces] == pytest.approx([step / 3 for step in range(8)])
    moves = np.diff([face.box[0] for face in faces])
    assert np.all(np.abs(moves - 25) < 18)  # of a face 90 wide: boxes jump by steps of the detector's pyramid
    assert all(face.score > 0.5 for face in faces)


def test_followed_boxes_and_landmarks_are_those_of_the_plain_detector(finder, portrait):
    frames = film(paste(portrait, (40 + 25 * step, 30, 1)) for step in range(8))
    for face, frame in zip(find(finder, frames), frames, strict=True):
        (plain,) = HogDetector()(frame.rgb)
        assert overlap(face.box, plain.box) > 0.7
        in_frame = (face.landmarks + 0.5) * (face.crop[2] - face.crop[0]) / 64 - 0.5 + np.array(face.crop[:2])
        points = finder.landmarks(frame.rgb, plain.box)
        between_eyes = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
        assert np.linalg.norm(in_frame - points, axis=1).mean() < 0.08 * between_eyes


def test_landmarks_lie_on_the_face_in_the_crop(finder, portrait):
    (face,) = find(finder, film([paste(portrait, (200, 30, 1))]))
    eyes, mouth = face.landmarks[36:48], face.landmarks[48:]
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float32
    assert np.all((face.landmarks > -3) & (face.landmarks < 67))
    assert 15 < eyes[:, 1].mean() < 30 < mouth[:, 1].mean() < 55  # of 64 pixels


def test_two_faces_are_kept_apart_and_the_larger_is_face_0(finder, portrait):
    frames = film(paste(portrait, (20 + 10 * step, 60, 0.9), (380 - 10 * step, 60, 1)) for step in range(6))
    faces = find(finder, frames, max_faces=2)
    assert [(face.face_index, face.frame_index) for face in faces] == [
        (i, 10 * step) for i in (0, 1) for step in range(6)
    ]
    right, left = faces[:6], faces[6:]
    assert all(a.box[0] > b.box[2] for a, b in zip(right, left, strict=True))
    alone = find(finder, frames)  # max_faces = 1: the larger only
    assert [face.face_index for face in alone] == [0] * 6
    assert all(overlap(a.box, b.box) > 0.6 for a, b in zip(alone, right, strict=True))


def test_a_larger_face_that_comes_in_later_becomes_face_0(finder, portrait):
    """Without a cut: the small face is never lost, so only a look round finds the other, and frames before it."""
    wide = {"height": 540, "width": 960}
    alone = [paste(portrait, (20, 60, 0.6), **wide)] * 2
    both = [paste(portrait, (20, 60, 0.6), (600, 60, 1), **wide)] * 8
    frames = film(alone + both)
    assert follow.shots(frames) == [range(10)]
    faces = [face for face in find(finder, frames) if face.score > 0]
    assert [face.frame_index for face in faces if face.box[0] > 500] == [10 * place for place in range(2, 10)]


def test_a_lost_face_is_held_from_the_nearest_frame_with_score_0(finder, portrait):
    seen, hidden = paste(portrait, (200, 30, 1)), paste(portrait, (200, 30, 1))
    hidden[30:140, 260:420] = 90  # something passes before the face
    faces = find(finder, film([seen] * 3 + [hidden] * 2 + [seen] * 3))
    assert [face.score == 0 for face in faces] == [False] * 3 + [True] * 2 + [False] * 3
    np.testing.assert_array_equal(faces[3].landmarks, faces[2].landmarks)
    np.testing.assert_array_equal(faces[4].box, faces[5].box)
    assert not np.array_equal(faces[3].image, faces[2].image)  # the picture is the frame's own
    gaps = find(finder, film([seen] * 3 + [hidden] * 2 + [seen] * 3), hold_lost=False)
    assert [face.frame_index for face in gaps] == [0, 10, 20, 50, 60, 70]


def test_a_face_seen_in_less_than_half_of_a_shot_is_not_held(finder, portrait):
    seen, hidden = paste(portrait, (200, 30, 1)), paste(portrait, (200, 30, 1))
    hidden[30:140, 260:420] = 90
    assert [face.frame_index for face in find(finder, film([seen] * 3 + [hidden] * 5))] == [0, 10, 20]


def test_hold_takes_the_earlier_of_two_equally_near_frames():
    track = Track(range(5), {place: detection(0, 0, 50) for place in (0, 2, 4)})
    assert follow.hold({0: 0, 2: 0, 4: 0}, [track]) == {0: (0, 0), 1: (0, 0), 2: (2, 0), 3: (2, 0), 4: (4, 0)}


def test_at_a_cut_a_new_track_begins_and_face_0_goes_on(finder, portrait):
    rng = np.random.default_rng(0)
    other = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    other[60:316, 30:286] = portrait
    frames = film([paste(portrait, (330, 20, 1.2))] * 4 + [other] * 4)
    assert follow.shots(frames) == [range(4), range(4, 8)]
    faces = find(finder, frames)
    assert [face.face_index for face in faces] == [0] * 8
    assert len({face.crop for face in faces}) == 2


def test_chains_give_face_0_to_the_heaviest_and_never_one_index_to_two_faces_of_a_frame():
    shot = range(6)
    large = Track(shot, {place: detection(0, 0, 100) for place in (0, 1, 2)})  # weight 3 x 10000
    small = Track(shot, {place: detection(200, 0, 60) for place in (2, 3)})  # 2 x 3600, meets `large` in frame 2
    later = Track(shot, {place: detection(0, 0, 50) for place in (4, 5)})  # 2 x 2500
    assert follow.chains([small, later, large], 2) == [{0: 2, 1: 2, 2: 2, 4: 1, 5: 1}, {2: 0, 3: 0}]
    assert follow.chains([small, later, large], 1) == [{0: 2, 1: 2, 2: 2, 4: 1, 5: 1}]


def test_a_mask_names_face_0_but_not_which_faces_of_a_crowd_are_kept(finder):
    """Kept are as many in a fake as in a real video, the largest: else the mask would choose what is scored."""
    frames = film([np.zeros((100, 1000, 3), np.uint8)] * 2)
    crowd = [Track(range(2), {p: detection(100 * n, 10, 90 - 5 * n) for p in range(2)}) for n in range(10)]
    names = {100 * n: n for n in range(10)}

    def kept(**covered) -> list[int]:
        faces = finder.faces(frames, crowd, SMALL, "all", **covered)
        return [names[round(face.box[0])] for face in faces if face.frame_index == 0]

    assert kept() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert kept(covered=[0.0] * 5 + [2.0] + [0.0] * 4) == [5, 0, 1, 2, 3, 4, 6, 7]
    assert kept(covered=[0.0] * 9 + [2.0]) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_no_face(finder):
    rng = np.random.default_rng(0)
    assert find(finder, film(rng.integers(0, 255, (3, 180, 320, 3), np.uint8))) == []
    assert find(finder, film(np.full((2, 64, 64, 3), 7, np.uint8))) == []
    assert find(finder, []) == []


def test_in_a_single_picture_the_detectors_own_threshold_counts_and_in_a_video_a_second_frame():
    """No other frame can confirm what a picture shows."""

    class Doubtful:
        sure, search = 0.35, HogDetector.search

        def __init__(self, score, threshold, *seen):
            self.score, self.threshold, self.seen = score, threshold, seen

        def __call__(self, rgb):
            return [detection(20, 20, 90, self.score)] if rgb.mean() > 100 else []

    bright, dark = (np.full((160, 160, 3), shade, np.uint8) for shade in (120, 90))

    def found(score, threshold, *pictures):
        tracks = follow.Follower(Doubtful(score, threshold), several=False)(film(pictures))
        return [sorted(track.detections) for track in tracks]

    assert found(0.1, 0.0, bright) == [[0]]
    assert found(0.1, 0.2, bright) == []
    assert found(0.1, 0.0, dark, bright, dark) == []
    assert found(0.1, 0.0, dark, bright, bright) == [[1, 2]]
    assert found(0.4, 0.0, dark, bright, dark) == [[1]]


def test_only_a_face_that_is_seen_well_in_a_coarse_picture_ends_the_search():
    """Of two faces near the smallest size that a detector finds, it may see the smaller one alone."""
    seen = {320: detection(10, 10, 80), 640: detection(10, 10, 90), 1280: detection(10, 10, 400)}

    class Detect:
        sure, threshold, search = 0.35, 0.0, HogDetector.search

        def __call__(self, rgb):
            return [seen[rgb.shape[1]]] if rgb.shape[1] in seen else []

    def side():
        (face,) = follow.Follower(Detect(), several=False).search_frame(np.zeros((360, 640, 3), np.uint8), True)
        return face.box[2] - face.box[0]

    assert HogDetector.search.face_px == 100
    assert side() == 200  # twice as large in the finest picture
    seen[320] = detection(10, 10, 110)
    assert side() == 220


@pytest.mark.parametrize("side", [48, 400])
def test_small_and_large_faces_are_found(finder, portrait, side):
    """A face fills about a third of the portrait: from 16 to 130 pixels here need one upsampling or none."""
    scale = side / 90
    picture = paste(portrait, (10, 10, scale), height=round(256 * scale) + 20, width=round(256 * scale) + 400)
    (face,) = find(finder, film([picture]))
    assert 0.6 * side < face.box[2] - face.box[0] < 1.5 * side


def test_a_picture_cut_tight_around_a_face_is_searched_with_a_border(finder, portrait):
    (whole,) = find(finder, film([paste(portrait, (200, 30, 1))]))
    x0, y0, x1, y1 = (int(value) for value in whole.box)
    tight = np.ascontiguousarray(paste(portrait, (200, 30, 1))[y0 + 14 : y1 - 2, x0 + 8 : x1 - 8])
    assert not HogDetector()(cv2.resize(tight, None, fx=2, fy=2))  # what the plain detector makes of it
    (face,) = find(finder, film([tight]))
    assert overlap(face.box, whole.box - [x0 + 8, y0 + 14] * 2) > 0.6


@pytest.mark.parametrize(
    ("box", "side", "expected"),
    [
        ((40, 20, 60, 40), 30, (35, 15, 65, 45)),
        ((0, 20, 20, 40), 30, (0, 15, 30, 45)),  # moved in from the left
        ((85, 70, 105, 90), 30, (70, 50, 100, 80)),  # from right and bottom
        ((20, 10, 80, 70), 120, (10, 0, 90, 80)),  # larger than the frame: its shorter side
    ],
)
def test_square_crop(box, side, expected):
    assert crops.square_crop(np.array(box, float), side, (80, 100)) == expected


def test_a_still_face_has_the_median_crop():
    boxes = [np.array([100 + d, 100, 150 + d, 150], float) for d in (0, 2, 1, 1, 4)]
    assert crops.constant_crop(boxes, 1.2, (400, 400)) == [(96, 95, 156, 155)] * 5


def test_a_face_that_leaves_the_median_crop_gets_the_union():
    boxes = [np.array([100 + d, 100, 150 + d, 150], float) for d in (0, 0, 0, 40)]
    assert crops.constant_crop(boxes, 1.2, (400, 400)) == [(91, 71, 199, 179)] * 4  # 90 wide, times 1.2


def test_a_face_that_walks_through_the_frame_is_followed_at_constant_size():
    boxes = [np.array([d, 100, 50 + d, 150], float) for d in (0, 100, 200)]
    assert crops.constant_crop(boxes, 1.2, (400, 400)) == [(0, 95, 60, 155), (95, 95, 155, 155), (195, 95, 255, 155)]


def test_points_follow_the_crop():
    frame = np.zeros((100, 100), np.uint8)
    frame[40:44, 60:64] = 255  # centred on (61.5, 41.5)
    crop = (20, 10, 80, 70)
    picture = crops.cut(frame, crop, 120)
    rows, columns = np.nonzero(picture > 127)
    np.testing.assert_allclose(
        crops.to_crop(np.array([[61.5, 41.5]]), crop, 120), [[columns.mean(), rows.mean()]], atol=0.3
    )


def test_a_wrong_predictor_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Landmarks(tmp_path / "none.dat")
    (tmp_path / "text.dat").write_text("hello")
    with pytest.raises(ValueError, match="not a dlib shape predictor"):
        Landmarks(tmp_path / "text.dat")


@pytest.mark.parametrize(
    "wrong",
    [{"num_frames": 0}, {"margin": 0.9}, {"mask_threshold": 0}, {"detector": "eyes"}, {"mask_source": "guess"}],
)
def test_a_wrong_recipe_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_a_picture_has_an_empty_difference_to_itself(portrait):
    assert not masks.from_difference(portrait, portrait).any()


@pytest.mark.parametrize("clean_px", [0, 5])
def test_the_difference_mask_is_the_square_that_was_brightened(clean_px):
    rng = np.random.default_rng(0)
    real = rng.integers(60, 120, (80, 90, 3), np.uint8)
    fake = real.copy()
    fake[20:50, 30:70] += 26  # 26 / 255 > 0.1
    fake[60:75, 5:20] += 25  # 25 / 255 < 0.1
    wanted = np.zeros((80, 90), np.uint8)
    wanted[20:50, 30:70] = 255
    np.testing.assert_array_equal(masks.from_difference(fake, real, 0.1, clean_px), wanted)


def test_specks_go_and_pinholes_close():
    real = np.zeros((60, 60, 3), np.uint8)
    fake = real.copy()
    fake[10:40, 10:40] = 200
    fake[20, 20] = 0  # a pinhole
    fake[50, 50] = 200  # a speck
    wanted = np.zeros((60, 60), np.uint8)
    wanted[10:40, 10:40] = 255
    np.testing.assert_array_equal(masks.from_difference(fake, real), wanted)
    assert masks.from_difference(fake, real, clean_px=0)[50, 50] == 255


def test_difference_weighs_colours_as_gray():
    real = np.zeros((8, 8, 3), np.uint8)
    red, green = real.copy(), real.copy()
    red[..., 0] = green[..., 1] = 80  # 80 x 0.299 = 24 < 25.5 < 80 x 0.587 = 47
    assert not masks.from_difference(red, real).any()
    assert masks.from_difference(green, real).all()


def test_pictures_of_two_sizes_have_no_difference():
    with pytest.raises(ValueError, match="one size"):
        masks.from_difference(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))


def test_a_dataset_mask_is_split_at_half():
    gray = np.repeat(np.array([[0, 127, 128, 255]], np.uint8)[..., None], 3, axis=2)
    assert masks.from_dataset(gray).tolist() == [[0, 0, 255, 255]]


def test_a_resized_mask_keeps_two_values():
    mask = np.zeros((50, 50), np.uint8)
    mask[10:30, 20:40] = 255
    small = masks.resize(mask, 25)
    assert set(np.unique(small)) == {0, 255}
    assert small[5:15, 10:20].all()
    assert small.sum() == 255 * 100
