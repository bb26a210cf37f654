"""Own videos -> scores: faces are cut, and scored by a trained trial, as its test datasets were."""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

import models
from pipelines.common import cluster, progress, provenance, tables
from pipelines.datasets._root import VIDEO_SUFFIXES, is_video
from pipelines.faces import store
from pipelines.faces.store import ExtractionError
from pipelines.metrics import detection
from pipelines.metrics.names import FINAL
from pipelines.reporting import evidence
from pipelines.scoring import explain, score
from pipelines.scoring.trained import Trained
from pipelines.training.views import Video

DATASET = "own"  # stands before the ids of videos that belong to no dataset
MOST_HERE = 4  # videos whose faces are cut one after the other; for more, Ray is worth its start
TIMEOUT_S, MEMORY_GIB = 900, 8.0  # of one video
_LIGHT = ("frame_index", "face_index", "time_s", "image_png", "box_px", "face_score")
_NOT_SCORED = "not_scored"  # status, beside those of schemas.STATUSES


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of one video."""

    path: Path
    status: str
    reason: str
    num_frames: int
    num_faces: int
    seconds: float
    score: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    faces: tuple[Mapping[str, Any], ...] = ()  # by face_index, then frame_index


def find_videos(names: Sequence[str]) -> list[Path]:
    """The files that are named or lie in a named folder, each once. Raises ValueError for a name without videos."""
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_video(str(file)) and file.is_file())
            if not inside:
                raise ValueError(f"{path} holds no videos ({', '.join(VIDEO_SUFFIXES)}); name files or another folder")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            raise ValueError(f"there is no file or folder {path}")
    return list(found)


def video_id(path: Path) -> str:
    """By content: where masks are drawn by the id (LRE), a file then has the same score wherever it lies."""
    try:
        with path.open("rb") as file:
            return f"{DATASET}/{file_digest(file, 'sha256').hexdigest()[:32]}"
    except OSError:  # extraction will say why
        return f"{DATASET}/{sha256(os.fsencode(path.absolute())).hexdigest()[:32]}"


def _row(name: str, path: Path) -> dict[str, Any]:
    """The VIDEOS row. Labelled as fake, for which alone "no mask" means that the mask is not known."""
    return {
        "dataset": DATASET,
        "video_id": name,
        "label": tables.FAKE,
        "method": "unknown",
        "codec": "unknown",
        "split": "test",
        "root": DATASET,
        "uri": str(path.absolute())[1:],
        "mask_uri": None,
        "real_id": None,
        "real_uri": None,
        "source_ids": [name],
        "face_rule": "largest",
    }


def cut_faces(trained: Trained, paths: Mapping[str, Path], folder: Path, console: Console) -> None:
    """FACES of the videos (id -> file) in `folder`, which must be new.

    Few videos are read one after the other by the actor that Ray would run; `extract` then finds nothing left to do.
    """
    from pipelines.faces import extract  # here: Ray reads the environment when it is imported
    from pipelines.faces.video import VideoReader

    videos = tables.to_table([_row(name, path) for name, path in paths.items()], tables.VIDEOS)
    roots = {DATASET: "/"}
    with progress.view(console, "Cutting faces") as view:

        def on_video(done: int) -> None:
            view.update("videos", f"{done} of {len(paths)}", done, len(paths))

        if len(paths) <= MOST_HERE:
            from ray import cloudpickle

            reader = cloudpickle.dumps(partial(VideoReader, roots, (trained.recipe,), None))
            actor = extract.ExtractFaces(reader, [str(folder)], TIMEOUT_S, MEMORY_GIB)
            try:
                for done, row in enumerate(videos.to_pylist(), 1):
                    if error := actor(row | {"targets": [0]})["error"]:
                        raise ExtractionError(error)
                    on_video(done)
            finally:
                actor.read.close()
        with cluster.connect(None) if len(paths) > MOST_HERE else nullcontext():
            extract.extract(
                videos,
                roots,
                folder,
                trained.recipe,
                timeout_s=TIMEOUT_S,
                memory_gib=MEMORY_GIB,
                on_video=lambda row: on_video(row["num_done"]),
            )


def score_faces(
    trained: Trained, paths: Mapping[str, Path], folder: Path, pictures: bool = False
) -> Iterator[tuple[str, Scored]]:
    """Each video's id and its scores, from the FACES in `folder`. Raises StorageError for unreadable weights.

    pictures: the faces that `write_pictures` shows come with a Grad-CAM, where no stage draws a mask.
    """
    faces = store.Faces(folder)
    ledger = {row["video_id"]: row for row in faces.ledger.to_pylist()}
    scorer = score.ScoreVideos(trained.finished, {DATASET: folder})
    for name, path in paths.items():
        entry = ledger[name]
        common = {"path": path, "num_frames": entry["num_frames"], "num_faces": entry["num_faces"]}
        start = time.monotonic()
        reason = entry["reason"].removeprefix(f"{path.absolute()}: ")
        result: dict[str, Any] = {"status": entry["status"], "reason": reason}
        if entry["status"] == "ok":
            try:
                result |= _scores(trained, scorer, faces, name)
                if pictures:
                    result["faces"] = explain.with_cam(
                        scorer.stages, _video(name), result["faces"], evidence.MOST_FACES, scorer.device
                    )
            except (ValueError, RuntimeError) as error:  # a face that a stage refuses, or no memory: costs this video
                result = {"status": _NOT_SCORED, "reason": " ".join(str(error).split())}
        seconds = entry["seconds"] + time.monotonic() - start
        yield name, Scored(**common, **result, seconds=seconds)


def _scores(trained: Trained, scorer: Any, faces: store.Faces, name: str) -> dict[str, Any]:
    """The video's scores, as fields of `Scored`."""
    table = scorer(pa.Table.from_pylist([asdict(_video(name))]))
    by_stage = {planned.name: table.filter(pc.equal(table["stage"], planned.name)) for planned in trained.planned}
    by_stage[FINAL] = final = detection.mean_of_stages(list(by_stage.values()))
    values = {stage: _of_video(own, trained.pooling) for stage, own in by_stage.items()}
    if not all(map(math.isfinite, values.values())):
        raise ValueError("the model gives no finite number for it")
    key = ("face_index", "frame_index")
    scores: dict[tuple[int, ...], dict[str, float]] = {}
    for stage, own in by_stage.items():
        for row in own.select([*key, "score"]).to_pylist():
            scores.setdefault(tuple(row[part] for part in key), {})[stage] = row["score"]
    masks = {tuple(row[part] for part in key): row["mask_png"] for row in final.to_pylist()}
    rows = sorted(faces.video(name, _LIGHT).to_pylist(), key=lambda row: tuple(row[part] for part in key))
    found = []
    for row in rows:
        at = tuple(row[part] for part in key)
        found.append(row | {"score": scores[at].pop(FINAL), "stages": scores[at], "mask_png": masks[at]})
    return {"score": values.pop(FINAL), "stages": values, "faces": tuple(found)}


def _video(name: str) -> Video:
    return Video(name, tables.FAKE, "unknown", name)


def _of_video(predictions: pa.Table, pooling: models.Pooling) -> float:
    return float(detection.by_video(predictions, pooling)["score"][0].as_py())


def predict(trained: Trained, videos: Sequence[Path], console: Console, pictures: bool = False) -> list[Scored]:
    """One for each of `videos`, in their order; files of equal content are scored once."""
    names = [video_id(path) for path in videos]
    distinct = dict(zip(names, videos, strict=True))
    with tempfile.TemporaryDirectory(prefix="crossforge-") as folder:
        cut_faces(trained, distinct, Path(folder), console)
        found = dict(score_faces(trained, distinct, Path(folder), pictures))
    return [Scored(**(vars(found[name]) | {"path": path})) for name, path in zip(names, videos, strict=True)]


def as_json(trained: Trained, scored: Sequence[Scored]) -> dict[str, Any]:
    """The report: the run and what it was trained on, then each video with the scores of its faces."""
    return trained.description() | {"predicted_by": provenance.commit(), "videos": [_video_json(one) for one in scored]}


def _video_json(one: Scored) -> dict[str, Any]:
    values = vars(one) | {"path": str(one.path)}
    faces = [{name: value for name, value in row.items() if not name.endswith("_png")} for row in one.faces]
    return values | {"stages": dict(one.stages), "faces": faces}
