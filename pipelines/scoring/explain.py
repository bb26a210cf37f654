"""What the stages of a trained trial look at: Grad-CAM, a paper's own pictures, features.

In   finished stages, the test parts with their PREDICTIONS, FACES
Out  <run>/features.parquet   FEATURES: at most `MOST_FACES` faces, spread evenly over datasets and manipulations
     <run>/evidence.parquet   EVIDENCE: of each part and class the video that is most clearly right, and wrong

`write` makes both files once, after the results of a trial. Reports draw from them and need no model. What can't be
shown becomes a row that says why, and costs no result. The pictures depend on the trial alone, unless `MOST_SECONDS`
are over: the rows of what is then left out say so. `with_cam` makes Grad-CAMs for videos of one's own.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import models
from pipelines.common import device, tables
from pipelines.common.numerics import Numerics
from pipelines.common.pictures import encode_png
from pipelines.common.storage import write_parquet
from pipelines.metrics import names
from pipelines.scoring.score import FinishedStage, as_batch
from pipelines.training import views
from pipelines.training.samples import Arrays, Samples
from pipelines.training.views import Video

log = logging.getLogger(__name__)

EVIDENCE, FEATURES = "evidence.parquet", "features.parquet"
FACE, CAM = "face", "Grad-CAM"
MOST_FACES = 240  # whose features are kept, of each stage
MOST_OF_VIDEO = 4
MOST_SECONDS = 60.0  # for the pictures of a trial, and again for its features
PICTURE_PX = 160  # a larger picture is made smaller
MIDDLE = 0.5  # above it a score says fake

FaceAt = tuple[int, int]  # face_index, frame_index: a face of a video


@dataclass(frozen=True, kw_only=True)
class ShownPart:
    """A scored test part, from which the faces to show are chosen."""

    name: str
    videos: tuple[Video, ...]
    predictions: Mapping[str, pa.Table]  # by stage, and by names.FINAL
    scores: Mapping[str, float]  # video_id -> final P(fake)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A video to show, by the face that speaks most for its score."""

    part: str
    video: Video
    face: FaceAt
    video_score: float
    scores: Mapping[str, float]  # of the face, by stage

    def row(self, stage: str) -> dict[str, Any]:
        """Return the columns of EVIDENCE that say what is shown, without the picture."""
        right = (self.video_score > MIDDLE) == (self.video.label == tables.FAKE)
        return _row(self.video, self.face, stage, self.scores) | {
            "dataset": self.part,
            "verdict": "right" if right else "wrong",
            "video_score": self.video_score,
        }


def _row(video: Video, face: FaceAt, stage: str, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the columns that EVIDENCE and FEATURES have in common."""
    return {
        "video_id": video.video_id,
        "frame_index": face[1],
        "face_index": face[0],
        "label": video.label,
        "method": video.method,
        "stage": stage,
        "score": scores.get(stage),
    }


# ------------------------------------------------------------------------------------- the files
def made(folder: Path) -> bool:
    """Return whether a trial's folder has both files."""
    return (folder / EVIDENCE).is_file()  # which is written last


def write(
    folder: Path, finished: Sequence[FinishedStage], parts: Sequence[ShownPart], faces: Mapping[str, Path], seed: int
) -> None:
    """Write both files to a trial's folder, each whole or not at all, the evidence last.

    faces: dataset -> FACES folder. seed: draws the faces whose features are kept.
    """
    on = device.best()
    features = tables.to_table(_features(finished, parts, faces, seed, on), tables.FEATURES)
    evidence = tables.to_table(_evidence(finished, parts, faces, on), tables.EVIDENCE)
    for name, table in ((FEATURES, features), (EVIDENCE, evidence)):
        write_parquet(folder / name, table)


def _evidence(
    finished: Sequence[FinishedStage], parts: Sequence[ShownPart], faces: Mapping[str, Path], on: torch.device
) -> list[dict[str, Any]]:
    """Return the rows of EVIDENCE, example by example, within them stage by stage."""
    chosen, end = examples(parts), time.monotonic() + MOST_SECONDS
    rows: list[list[dict[str, Any]]] = [[] for _ in chosen]
    for stage in finished:
        if not _has_pictures(stage.stage_class):
            continue
        problem = ""
        try:
            module, samples = stage.load(on), stage.samples(faces)
        except Exception as error:  # noqa: BLE001  pictures must not cost a result; each example says what is missing
            problem = _log_problem(stage, "the stage", error)
        for example, of_example in zip(chosen, rows, strict=True):
            row = example.row(stage.planned.name) | {"picture": "", "png": None}
            if not problem and time.monotonic() > end:
                problem = f"left out: the {MOST_SECONDS:g} s for pictures were over"
            if problem:
                of_example.append(row | {"problem": problem})
                continue
            try:
                pictures = _pictures(stage, module, samples, example, on)
                of_example += [row | new for new in pictures if not _is_known_face(new, of_example)]
            except Exception as error:  # noqa: BLE001
                of_example.append(row | {"problem": _log_problem(stage, example.video.video_id, error)})
    return [row for of_example in rows for row in of_example]


def _has_pictures(stage: type[models.Stage]) -> bool:
    return stage.cam_layer is not models.Stage.cam_layer or stage.pictures is not models.Stage.pictures


def _is_known_face(new: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether `new` is the face that an earlier stage got, too; the first of them is kept."""
    first = next((row["png"] for row in rows if row["picture"] == FACE), None)
    return new["picture"] == FACE and new["png"] is not None and new["png"] == first


def _log_problem(stage: FinishedStage, what: str, error: Exception) -> str:
    """Log why something can't be shown; return it as one line for the row."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    log.warning("%s of %s can't be shown, %s: %s", stage.planned.name, stage.planned.paper, what, text)
    return text


def _features(
    finished: Sequence[FinishedStage],
    parts: Sequence[ShownPart],
    faces: Mapping[str, Path],
    seed: int,
    on: torch.device,
) -> list[dict[str, Any]]:
    """Return the rows of FEATURES, stage by stage."""
    scores = {name: _by_face(parts, name) for name in {name for part in parts for name in part.predictions}}
    wanted, end, rows = drawn(parts, seed), time.monotonic() + MOST_SECONDS, []
    for stage in finished:
        if stage.stage_class.features is models.Stage.features:
            continue
        name = stage.planned.name
        try:
            module, samples = stage.load(on), stage.samples(faces)
        except Exception as error:  # noqa: BLE001  a plot must not cost a result
            _log_problem(stage, "features", error)
            continue
        for video, number in wanted:
            if time.monotonic() > end:
                log.warning("%s of %s: features end after %g s", name, stage.planned.paper, MOST_SECONDS)
                break
            try:
                vectors = _vectors(module, samples, video, number, on, stage.planned.numerics)
            except Exception as error:  # noqa: BLE001
                _log_problem(stage, video.video_id, error)
                continue
            for face, vector in vectors:
                of_face = {name: scores[name][video.video_id, *face]}
                about = {"dataset": tables.dataset_of(video.video_id), "features": vector.tolist()}
                rows.append(_row(video, face, name, of_face) | about)
    return rows


def _by_face(parts: Sequence[ShownPart], stage: str) -> dict[tuple[str, int, int], float]:
    """Return a stage's scores by video_id, face_index and frame_index."""
    scores: dict[tuple[str, int, int], float] = {}
    for part in parts:
        if stage in part.predictions:
            columns = part.predictions[stage].select(["video_id", "face_index", "frame_index", "score"])
            scores |= {(name, *face): score for name, *face, score in zip(*columns.to_pydict().values(), strict=True)}
    return scores


# ---------------------------------------------------------------------------------- which faces
def examples(parts: Sequence[ShownPart]) -> list[Example]:
    """Return, of each part's real and of its fake videos, the one most clearly right and the one most clearly wrong.

    A video stands for itself once, even if several parts hold it. It is shown by the face, of all that were scored,
    which speaks most for the video's verdict.
    """
    chosen: dict[str, Example] = {}
    for part in parts:
        for label in (tables.REAL, tables.FAKE):
            of_label = sorted((v for v in part.videos if v.label == label), key=lambda video: video.video_id)
            for verdict in (tables.FAKE, tables.REAL) if label else (tables.REAL, tables.FAKE):
                sign = 1 if verdict == tables.FAKE else -1
                agreeing = [v for v in of_label if (part.scores[v.video_id] > MIDDLE) == (verdict == tables.FAKE)]
                if agreeing:
                    surest = max(agreeing, key=lambda video: sign * part.scores[video.video_id])
                    chosen.setdefault(surest.video_id, _example(part, surest, sign))
    return list(chosen.values())


def _example(part: ShownPart, video: Video, sign: int) -> Example:
    """sign: 1 for the highest face, -1 for the lowest."""
    scores: dict[str, dict[FaceAt, float]] = {}
    for name, table in part.predictions.items():
        rows = table.filter(pc.equal(table["video_id"], video.video_id)).to_pylist()
        scores[name] = {(row["face_index"], row["frame_index"]): row["score"] for row in rows}
    final = scores[names.FINAL]
    face = max(sorted(final), key=lambda face: sign * final[face])
    return Example(
        part=part.name,
        video=video,
        face=face,
        video_score=part.scores[video.video_id],
        scores={name: by_face[face] for name, by_face in scores.items()},
    )


def drawn(parts: Sequence[ShownPart], seed: int) -> list[tuple[Video, int]]:
    """Return videos, each once, and how many faces of each: about as many faces of each manipulation of each dataset.

    The manipulations take turns, so that a list that is cut short stays even.
    """
    groups: dict[tuple[str, str], dict[str, Video]] = {}
    for part in parts:
        for video in part.videos:
            key = tables.dataset_of(video.video_id), video.method
            groups.setdefault(key, {})[video.video_id] = video
    quota = max(1, MOST_FACES // max(1, len(groups)))
    turns = []
    for number, key in enumerate(sorted(groups)):
        videos = [groups[key][video_id] for video_id in sorted(groups[key])]
        each = min(MOST_OF_VIDEO, -(-quota // len(videos)))
        order = np.random.default_rng((seed, number)).permutation(len(videos))
        turns.append([(videos[i], each) for i in order[: quota // each]])
    return [entry for turn in zip_longest(*turns) for entry in turn if entry is not None]


# -------------------------------------------------------------------------------- what is shown
def _covering(samples: Samples, video: Video, wanted: Collection[FaceAt]) -> Iterator[tuple[dict[FaceAt, int], Arrays]]:
    """Yield the samples of a video that show wanted faces: which faces, each with its place in the clip, and the
    sample. A face in two clips comes with the first.
    """
    left = set(wanted)
    for rows, arrays in samples.scoring_samples(video, seed=0):
        places = {(row["face_index"], row["frame_index"]): place for place, row in enumerate(rows)}
        if here := {face: place for face, place in places.items() if face in left}:
            yield here, arrays
            left -= here.keys()
        if not left:
            return


def _index(module: models.Stage, place: int) -> tuple[int, ...]:
    """Return where a face lies in what the network gets or gives for a batch of one sample."""
    return (0, place) if module.view in views.CLIP_VIEWS else (0,)


def _pictures(
    stage: FinishedStage, module: models.Stage, samples: Samples, example: Example, on: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield `picture`, `png` and `problem` of the face, of its Grad-CAM and of the paper's own pictures."""
    places, arrays = next(_covering(samples, example.video, [example.face]))
    batch = as_batch([arrays], on)
    at = _index(module, places[example.face])

    def row(name: str, make: Callable[[], NDArray[Any]]) -> dict[str, Any]:
        try:
            return {"picture": name, "png": encode_png(_shrunk(make())), "problem": ""}
        except Exception as error:  # noqa: BLE001  a picture that fails costs itself only
            problem = _log_problem(stage, f"{name} of {example.video.video_id}", error)
            return {"picture": name, "png": None, "problem": problem}

    yield row(FACE, lambda: batch["image"][at].cpu().numpy())
    if module.cam_layer() is not None:
        yield row(CAM, lambda: _to_bytes(torch.from_numpy(grad_cam(module, batch)[at])))
    try:
        with torch.no_grad():
            pictures = module.pictures(batch)
    except Exception as error:  # noqa: BLE001  the face and Grad-CAM are there nevertheless
        yield {"picture": "", "png": None, "problem": _log_problem(stage, example.video.video_id, error)}
        return
    for name, value in pictures.items():
        yield row(name, partial(_to_bytes, value[at]))


def _to_bytes(picture: Tensor) -> NDArray[np.uint8]:
    """Return (h, w) or (3, h, w) in [0, 1] as 8 bit (h, w) or (h, w, 3). Raise ValueError for other values."""
    value = picture.detach().float().cpu().numpy()
    if value.ndim not in (2, 3) or (value.ndim == 3 and len(value) != 3):
        raise ValueError(f"a picture must be (h, w) or (3, h, w), got {value.shape}")
    if not (value.min() >= 0 and value.max() <= 1):  # also for NaN
        raise ValueError(f"a picture must lie in [0, 1], got {value.min():g} to {value.max():g}")
    return np.round((value if value.ndim == 2 else value.transpose(1, 2, 0)) * 255).astype(np.uint8)


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = PICTURE_PX / max(height, width)
    if scale >= 1:
        return picture
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _vectors(
    module: models.Stage, samples: Samples, video: Video, number: int, on: torch.device, numerics: Numerics
) -> list[tuple[FaceAt, NDArray[np.float32]]]:
    """Return the features of `number` faces of a video, or of all if it has fewer; a clip stands for its first face."""
    entries = list(islice(samples.scoring_samples(video, seed=0, most_frames=number), number))
    batch = as_batch([arrays for _, arrays in entries], on)
    with torch.no_grad(), device.in_force(numerics), device.autocast(numerics, on):
        features = module.features(batch)
    assert features is not None, f"{module.name} has no features"
    vectors = features.float().cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError("features are not finite")
    faces = [(rows[0]["face_index"], rows[0]["frame_index"]) for rows, _ in entries]
    return list(zip(faces, vectors, strict=True))


# ------------------------------------------------------------------------------------- Grad-CAM
class _Logit(nn.Module):
    """A stage as pytorch_grad_cam wants a network: a tensor in, whose size alone matters, one logit per sample."""

    def __init__(self, stage: models.Stage, batch: models.Batch) -> None:
        super().__init__()
        self.stage, self.batch = stage, batch

    def forward(self, size: Tensor) -> Tensor:
        return self.stage.logit(self.batch)[:, None]


def grad_cam(stage: models.Stage, batch: models.Batch) -> NDArray[np.float32]:
    """Return what speaks for a fake: Grad-CAM of the logit (Selvaraju et al. 2017), at the size of `image`.

    (B, H, W), of clips (B, T, H, W); in [0, 1], with 1 where a face speaks for a fake most, so that two faces can't be
    compared; all 0 where nothing does. Raise ValueError for a stage without a `cam_layer`.
    """
    from pytorch_grad_cam import GradCAM  # here: seconds of import

    layer = stage.cam_layer()
    if layer is None:
        raise ValueError(f"stage {stage.name} has no layer for Grad-CAM")
    places = batch["image"].shape[:-1]
    size = torch.zeros(len(batch["image"]), 1, *places[1:], device=batch["image"].device)
    cam = GradCAM(_Logit(stage, batch), [layer.module], layer.to_maps)
    try:
        with torch.enable_grad():
            maps = cam(size, [torch.sum] * len(size))
    finally:
        cam.activations_and_grads.release()
        stage.zero_grad(set_to_none=True)
    return np.clip(np.asarray(maps, np.float32), 0, 1)


def with_cam(
    scoring: Sequence[tuple[str, models.Stage, Samples]],
    video: Video,
    faces: Sequence[Mapping[str, Any]],
    most: int,
    on: torch.device,
) -> tuple[Mapping[str, Any], ...]:
    """Return the faces of a video, the `most` highest-scored ones with a Grad-CAM.

    scoring: name, network and samples of each stage, of which the last that has a layer for Grad-CAM is asked. faces:
    rows with `face_index`, `frame_index`, `score` and `mask_png`. To the chosen ones come `cam_png`, and as `image_png`
    the picture that the network gets. The faces stay as they are where no stage has such a layer, where a mask is
    drawn already, and where Grad-CAM fails, which is logged.
    """
    able = [(module, samples) for _, module, samples in scoring if module.cam_layer() is not None]
    if not able or any(row["mask_png"] is not None for row in faces):
        return tuple(faces)
    module, samples = able[-1]
    chosen = sorted(faces, key=lambda row: row["score"], reverse=True)[:most]
    wanted = {(row["face_index"], row["frame_index"]) for row in chosen}
    pictures: dict[FaceAt, dict[str, bytes]] = {}
    try:
        for places, arrays in _covering(samples, video, wanted):
            batch = as_batch([arrays], on)
            maps = grad_cam(module, batch)
            for face, place in places.items():
                at = _index(module, place)
                pictures[face] = {
                    "image_png": encode_png(batch["image"][at].cpu().numpy()),
                    "cam_png": encode_png(_to_bytes(torch.from_numpy(maps[at]))),
                }
    except Exception:  # a picture must not cost the score
        log.exception("%s: no Grad-CAM", video.video_id)
        return tuple(faces)
    return tuple({**row, **pictures.get((row["face_index"], row["frame_index"]), {})} for row in faces)
