"""Pictures to face boxes and landmarks: the models, and where their files are. Numpy in, numpy out."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dlib
import numpy as np

_PREDICTOR = "shape_predictor_68_face_landmarks.dat"
_CNN = "mmod_human_face_detector.dat"


@dataclass(frozen=True, slots=True)
class Detection:
    """A face that a detector saw in a picture."""

    box: np.ndarray  # (4,): x0, y0, x1, y1, ends exclusive
    score: float  # the detector's own scale; dlib's HOG: 0 is its threshold, 1 and more a clear face


class Detector(Protocol):
    """A face detector over whole pictures, RGB uint8 (H, W, 3)."""

    sure: float  # score above which a face needs no confirmation

    def __call__(self, rgb: np.ndarray) -> list[Detection]: ...


class HogDetector:
    """dlib's frontal face detector; finds faces of about 80 pixels and more."""

    sure = 0.35

    def __init__(self) -> None:
        self._detect = dlib.get_frontal_face_detector()

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        boxes, scores, _ = self._detect.run(rgb, 0, 0.0)
        return [Detection(_corners(box), float(score)) for box, score in zip(boxes, scores, strict=True)]


class CnnDetector:
    """dlib's max-margin CNN; slow without a GPU, and better with turned faces."""

    sure = 0.8

    def __init__(self) -> None:
        self._detect = dlib.cnn_face_detection_model_v1(str(_packaged(_CNN)))

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        return [Detection(_corners(face.rect), float(face.confidence)) for face in self._detect(rgb, 0)]


DETECTORS: dict[str, type[HogDetector] | type[CnnDetector]] = {"dlib": HogDetector, "dlib-cnn": CnnDetector}


class Landmarks:
    """A dlib shape predictor: by default the packaged one of 68 points, or the one whose file is given.

    68 are the points of iBUG 300-W; 81 add 13 on the forehead. Raises ValueError when the file is missing, is not a
    predictor, or finds another number of points than `number`.
    """

    def __init__(self, path: Path | None = None, number: int = 68) -> None:
        if path is None and number != 68:
            raise ValueError(f"{number} landmarks need a predictor of your own: give its file (--predictor)")
        path = path or _packaged(_PREDICTOR)
        if not path.is_file():
            raise ValueError(f"landmark predictor {path}: no such file; give the path of {_PREDICTOR}")
        try:
            self._predict = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise ValueError(f"landmark predictor {path}: not a dlib shape predictor ({error})") from error
        finds = len(self(np.zeros((32, 32, 3), np.uint8), np.array([4.0, 4.0, 28.0, 28.0])))
        if finds != number:
            raise ValueError(f"landmark predictor {path} finds {finds} points, {number} are asked for")

    def __call__(self, rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Return the landmarks of the face in `box`: float32 (number, 2), x and y in pixels of `rgb`."""
        shape = self._predict(rgb, dlib.rectangle(*(int(value) for value in np.round(box - [0, 0, 1, 1]))))
        return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def _corners(box: dlib.rectangle) -> np.ndarray:
    return np.array([box.left(), box.top(), box.right() + 1, box.bottom() + 1], float)


def _packaged(name: str) -> Path:
    """Return a model file of face_recognition_models, found without importing it: it needs the removed pkg_resources.

    Raises ValueError when the package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ValueError(f"{name}: package face_recognition_models is not installed; install it or give a path")
    return Path(folders[0]) / "models" / name
