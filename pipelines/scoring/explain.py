"""What a trained trial looks at: Grad-CAM, the paper's own pictures, features. Made once, after its results.

In   finished stages, PREDICTIONS of the test parts, FACES
Out  <run>/features.parquet   schemas.FEATURES: at most `MOST_FACES` faces, as even as can be over manipulations
     <run>/evidence.parquet   schemas.EVIDENCE: of each part and class the surest right and the surest wrong video

Reports draw from these files and need no model. What can't be shown becomes a row that says why, and costs no result.
Pictures depend on the trial alone, unless `MOST_SECONDS` are over: what is left out then says so.
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
from pipelines.common.pictures import encode_png
from pipelines.common.storage import write_parquet
from pipelines.metrics import names
from pipelines.scoring.score import Finished
from pipelines.training import batches, views
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

At = tuple[int, int]  # face_index, frame_index


@dataclass(frozen=True, kw_only=True)
class Part:
    """A scored test part."""

    name: str
    videos: tuple[Video, ...]
    predictions: Mapping[str, pa.Table]  # by stage, and by metrics.FINAL
    scores: Mapping[str, float]  # video_id -> final P(fake)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A face that speaks for its video's score."""

    part: str
    video: Video
    at: At
    video_score: float
    scores: Mapping[str, float]  # of the face, by stage

    def row(self, stage: str) -> dict[str, Any]:
        right = (self.video_score > MIDDLE) == (self.video.label == tables.FAKE)
        return _row(self.video, self.at, stage, self.scores) | {
            "dataset": self.part,
            "verdict": "right" if right else "wrong",
            "video_score": self.video_score,
        }


def _row(video: Video, at: At, stage: str, scores: Mapping[str, float]) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "frame_index": at[1],
        "face_index": at[0],
        "label": video.label,
        "method": video.method,
        "stage": stage,
        "score": scores.get(stage),
    }


# ------------------------------------------------------------------------------------- the files
def made(folder: Path) -> bool:
    return (folder / EVIDENCE).exists()


def write(
    folder: Path, finished: Sequence[Finished], parts: Sequence[Part], faces: Mapping[str, Path], seed: int
) -> None:
    """Both files, each whole or not at all, the evidence last."""
    on = device.best()
    features = tables.to_table(_features(finished, parts, faces, seed, on), tables.FEATURES)
    evidence = tables.to_table(_evidence(finished, parts, faces, on), tables.EVIDENCE)
    for name, table in ((FEATURES, features), (EVIDENCE, evidence)):
        write_parquet(folder / name, table)


def _evidence(
    finished: Sequence[Finished], parts: Sequence[Part], faces: Mapping[str, Path], on: torch.device
) -> list[dict[str, Any]]:
    chosen, end = examples(parts), time.monotonic() + MOST_SECONDS
    rows: list[list[dict[str, Any]]] = [[] for _ in chosen]
    for one in finished:
        if not _shows(_stage_of(one)):
            continue
        failed = ""
        try:
            module, samples = one.load(on), Samples(_stage_of(one), one.config, faces)
        except Exception as error:  # noqa: BLE001  pictures must not cost a result; each example says what is missing
            failed = _said(one, "the stage", error)
        for example, own in zip(chosen, rows, strict=True):
            row = example.row(one.planned.name) | {"picture": "", "png": None}
            if not failed and time.monotonic() > end:
                failed = f"left out: the {MOST_SECONDS:g} s for pictures were over"
            if failed:
                own.append(row | {"problem": failed})
                continue
            try:
                own += [row | new for new in _pictures(one, module, samples, example, on) if not _repeats(own, new)]
            except Exception as error:  # noqa: BLE001
                own.append(row | {"problem": _said(one, example.video.video_id, error)})
    return [row for own in rows for row in own]


def _features(
    finished: Sequence[Finished], parts: Sequence[Part], faces: Mapping[str, Path], seed: int, on: torch.device
) -> list[dict[str, Any]]:
    scores = {name: _by_face(parts, name) for name in {name for part in parts for name in part.predictions}}
    wanted, end, rows = drawn(parts, seed), time.monotonic() + MOST_SECONDS, []
    for one in finished:
        if _stage_of(one).features is models.Stage.features:
            continue
        name = one.planned.name
        try:
            module, samples = one.load(on), Samples(_stage_of(one), one.config, faces)
        except Exception as error:  # noqa: BLE001  a plot must not cost a result
            _said(one, "features", error)
            continue
        for video, number in wanted:
            if time.monotonic() > end:
                log.warning("%s of %s: features end after %g s", name, one.planned.paper, MOST_SECONDS)
                break
            try:
                found = _vectors(module, samples, video, number, on)
            except Exception as error:  # noqa: BLE001
                _said(one, video.video_id, error)
                continue
            for at, vector in found:
                own = {name: scores[name][video.video_id, *at]}
                about = {"dataset": video.video_id.split("/", 1)[0], "features": vector.tolist()}
                rows.append(_row(video, at, name, own) | about)
    return rows


def _stage_of(one: Finished) -> type[models.Stage]:
    return models.stage(one.planned.paper, one.planned.name)


def _shows(stage: type[models.Stage]) -> bool:
    return stage.cam_layer is not models.Stage.cam_layer or stage.pictures is not models.Stage.pictures


def _repeats(rows: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> bool:
    """Whether it is the face that an earlier stage got, too; the first of them is kept."""
    first = next((row["png"] for row in rows if row["picture"] == FACE), None)
    return new["picture"] == FACE and new["png"] is not None and new["png"] == first


def _said(one: Finished, what: str, error: Exception) -> str:
    """One line, for the row and for the log."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    log.warning("%s of %s can't be shown, %s: %s", one.planned.name, one.planned.paper, what, text)
    return text


# ---------------------------------------------------------------------------------- which faces
def examples(parts: Sequence[Part]) -> list[Example]:
    """Of each part, real and fake: the video that is right by most and the one that is wrong by most, each once.

    Of the video that face, of all that were scored, which speaks most for the video's verdict.
    """
    found: dict[str, Example] = {}
    for part in parts:
        for label in (tables.REAL, tables.FAKE):
            own = sorted((v for v in part.videos if v.label == label), key=lambda video: video.video_id)
            for verdict in (tables.FAKE, tables.REAL) if label else (tables.REAL, tables.FAKE):
                sign = 1 if verdict == tables.FAKE else -1
                agreeing = [v for v in own if (part.scores[v.video_id] > MIDDLE) == (verdict == tables.FAKE)]
                if agreeing:
                    surest = max(agreeing, key=lambda video: sign * part.scores[video.video_id])
                    found.setdefault(surest.video_id, _example(part, surest, sign))
    return list(found.values())


def _example(part: Part, video: Video, sign: int) -> Example:
    scores = {
        name: {(row["face_index"], row["frame_index"]): row["score"] for row in table.to_pylist()}
        for name, table in (
            (name, table.filter(pc.equal(table["video_id"], video.video_id)))
            for name, table in part.predictions.items()
        )
    }
    final = scores[names.FINAL]
    at = max(sorted(final), key=lambda face: sign * final[face])
    return Example(
        part=part.name,
        video=video,
        at=at,
        video_score=part.scores[video.video_id],
        scores={name: own[at] for name, own in scores.items()},
    )


def drawn(parts: Sequence[Part], seed: int) -> list[tuple[Video, int]]:
    """Videos, each once, and how many faces of each: as many of every dataset's every manipulation as there are.

    In turns, so that a list that is cut short stays even.
    """
    groups: dict[tuple[str, str], dict[str, Video]] = {}
    for part in parts:
        for video in part.videos:
            key = video.video_id.split("/", 1)[0], video.method
            groups.setdefault(key, {})[video.video_id] = video
    quota = max(1, MOST_FACES // max(1, len(groups)))
    turns = []
    for number, key in enumerate(sorted(groups)):
        own = [groups[key][video_id] for video_id in sorted(groups[key])]
        each = min(MOST_OF_VIDEO, -(-quota // len(own)))
        order = np.random.default_rng((seed, number)).permutation(len(own))
        turns.append([(own[i], each) for i in order[: quota // each]])
    return [entry for turn in zip_longest(*turns) for entry in turn if entry is not None]


def _by_face(parts: Sequence[Part], stage: str) -> dict[tuple[str, int, int], float]:
    found: dict[tuple[str, int, int], float] = {}
    for part in parts:
        if stage in part.predictions:
            columns = part.predictions[stage].select(["video_id", "face_index", "frame_index", "score"])
            found |= {(name, *at): score for name, *at, score in zip(*columns.to_pydict().values(), strict=True)}
    return found


# -------------------------------------------------------------------------------- what is shown
def covering(samples: Samples, video: Video, wanted: Collection[At]) -> Iterator[tuple[dict[At, int], Arrays]]:
    """Samples of a video that have some of the wanted faces: which, at what place in the clip, and the sample.

    A face in two clips is found in the first.
    """
    left = set(wanted)
    for rows, arrays in samples.scoring_samples(video, seed=0):
        places = {(row["face_index"], row["frame_index"]): place for place, row in enumerate(rows)}
        if here := {at: place for at, place in places.items() if at in left}:
            yield here, arrays
            left -= here.keys()
        if not left:
            return


def _pictures(
    one: Finished, module: models.Stage, samples: Samples, example: Example, on: torch.device
) -> Iterator[dict[str, Any]]:
    """`picture`, `png` and `problem` of each."""
    places, arrays = next(covering(samples, example.video, [example.at]))
    batch = {name: torch.from_numpy(value).to(on) for name, value in batches.stack([arrays]).items()}
    at = (0, places[example.at]) if _takes_clips(module) else (0,)
    makers: dict[str, Callable[[], NDArray[Any]]] = {FACE: lambda: batch["image"][at].cpu().numpy()}
    if module.cam_layer() is not None:
        makers[CAM] = lambda: _bytes(torch.from_numpy(grad_cam(module, batch)[at]))
    for name, make in makers.items():
        yield _picture(one, example, name, make)
    try:
        with torch.no_grad():
            own = module.pictures(batch)
    except Exception as error:  # noqa: BLE001  the face and Grad-CAM are there nevertheless
        yield {"picture": "", "png": None, "problem": _said(one, example.video.video_id, error)}
        return
    for name, value in own.items():
        yield _picture(one, example, name, partial(_bytes, value[at]))


def _picture(one: Finished, example: Example, name: str, make: Callable[[], NDArray[Any]]) -> dict[str, Any]:
    try:
        return {"picture": name, "png": encode_png(_small(make())), "problem": ""}
    except Exception as error:  # noqa: BLE001  a picture that fails costs itself only
        return {"picture": name, "png": None, "problem": _said(one, f"{name} of {example.video.video_id}", error)}


def _takes_clips(module: models.Stage) -> bool:
    return module.view in views.CLIP_VIEWS


def _bytes(picture: Tensor) -> NDArray[np.uint8]:
    """(h, w) or (3, h, w) in [0, 1] as 8 bit (h, w) or (h, w, 3). Raises ValueError for another shape or range."""
    value = picture.detach().float().cpu().numpy()
    if value.ndim not in (2, 3) or (value.ndim == 3 and len(value) != 3):
        raise ValueError(f"a picture must be (h, w) or (3, h, w), got {value.shape}")
    if not (value.min() >= 0 and value.max() <= 1):  # also for NaN
        raise ValueError(f"a picture must lie in [0, 1], got {value.min():g} to {value.max():g}")
    return np.round((value if value.ndim == 2 else value.transpose(1, 2, 0)) * 255).astype(np.uint8)


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = PICTURE_PX / max(height, width)
    if scale >= 1:
        return picture
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _vectors(
    module: models.Stage, samples: Samples, video: Video, number: int, on: torch.device
) -> list[tuple[At, NDArray[np.float32]]]:
    """Features of `number` faces of a video, or of fewer; a clip stands for its first."""
    entries = list(islice(samples.scoring_samples(video, seed=0, most_frames=number), number))
    batch = batches.stack([arrays for _, arrays in entries])
    with torch.no_grad(), device.autocast(on):
        found = module.features({name: torch.from_numpy(value).to(on) for name, value in batch.items()})
    assert found is not None, f"{module.name} has no features"
    vectors = found.float().cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError("features are not finite")
    faces = [(rows[0]["face_index"], rows[0]["frame_index"]) for rows, _ in entries]
    return list(zip(faces, vectors, strict=True))


# ------------------------------------------------------------------------------------- Grad-CAM
class _Logit(nn.Module):
    """A stage as the library wants a network: it gets a tensor, whose size alone matters, and gives one row each."""

    def __init__(self, stage: models.Stage, batch: models.Batch) -> None:
        super().__init__()
        self.stage, self.batch = stage, batch

    def forward(self, size: Tensor) -> Tensor:
        return self.stage.logit(self.batch)[:, None]


def grad_cam(stage: models.Stage, batch: models.Batch) -> NDArray[np.float32]:
    """What speaks for a fake, after Selvaraju et al. 2017: (B, H, W), of clips (B, T, H, W), the size of `image`.

    In [0, 1], 1 where a face speaks for a fake most: two faces can't be compared. All 0 where nothing does.
    Raises ValueError for a stage without a `cam_layer`.
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
    """The faces; the `most` highest-scored ones with the picture that the network gets and its Grad-CAM, `cam_png`.

    By the last of the scoring stages (name, module, samples) that has a layer for it. Without one, where a mask is
    drawn already, and where Grad-CAM fails, which is logged, they are as they were.
    """
    able = [(module, samples) for _, module, samples in scoring if module.cam_layer() is not None]
    if not able or any(row["mask_png"] is not None for row in faces):
        return tuple(faces)
    chosen = sorted(faces, key=lambda row: row["score"], reverse=True)[:most]
    try:
        seen = _looked_at(*able[-1], video, {(row["face_index"], row["frame_index"]) for row in chosen}, on)
    except Exception:  # a picture must not cost the score
        log.exception("%s: no Grad-CAM", video.video_id)
        return tuple(faces)
    return tuple({**row, **seen.get((row["face_index"], row["frame_index"]), {})} for row in faces)


def _looked_at(
    stage: models.Stage, samples: Samples, video: Video, wanted: Collection[At], on: torch.device
) -> dict[At, dict[str, bytes]]:
    """`image_png` and `cam_png` of each wanted face."""
    found = {}
    for places, arrays in covering(samples, video, wanted):
        batch = {name: torch.from_numpy(value).to(on) for name, value in batches.stack([arrays]).items()}
        maps = grad_cam(stage, batch)
        for face, place in places.items():
            at = (0, place) if _takes_clips(stage) else (0,)
            found[face] = {
                "image_png": encode_png(batch["image"][at].cpu().numpy()),
                "cam_png": encode_png(_bytes(torch.from_numpy(maps[at]))),
            }
    return found
