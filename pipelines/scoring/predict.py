"""Videos of one's own to scores: faces are cut and scored by a trained trial exactly as those of its test datasets.

In   a trial that `scoring.trained` has read back, video files
Out  `Scored`, one for each file; what can't be scored says why
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from pipelines.common import cluster, progress, provenance, tables
from pipelines.common.filenames import escaped
from pipelines.faces import store
from pipelines.faces.store import ExtractionError
from pipelines.media import stills
from pipelines.media.sampling import even_indices
from pipelines.metrics import detection
from pipelines.metrics.names import FINAL
from pipelines.reporting import evidence
from pipelines.scoring import explain, score
from pipelines.scoring.explain import FaceAt
from pipelines.scoring.trained import Trained
from pipelines.training.views import Video

DATASET = "own"  # stands before the ids of videos that belong to no dataset
MOST_HERE = 4  # videos whose faces are cut one after the other; for more, Ray is worth its start
TIMEOUT_S, MEMORY_GIB = 900, 8.0  # of one video
_READ = 32  # pictures of a folder that its id depends on: there may be 100,000
_SHOWN = ("frame_index", "face_index", "time_s", "image_png", "box_px", "face_score")  # columns of FACES
_NOT_SCORED = "not_scored"  # status, beside those of tables.STATUSES


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of one video."""

    path: Path
    status: str  # ok, one of tables.STATUSES, or not_scored: a stage refused a face
    reason: str  # why there is no score; may remark on one that there is
    num_frames: int
    num_faces: int
    seconds: float
    score: float | None = None  # P(fake) in [0, 1]: the mean over the stages
    stages: Mapping[str, float] = field(default_factory=dict)  # P(fake) of each stage
    faces: tuple[Mapping[str, Any], ...] = ()  # by face_index, then frame_index


def video_id(path: Path) -> str:
    """Return an id made of the file's content; of a folder's names, sizes and the content of `_READ` pictures.

    So a video has the same score wherever it lies, even where masks are drawn by the id (LRE).
    """
    try:
        if path.is_dir():
            return f"{DATASET}/{_folder_digest(path)[:32]}"
        with path.open("rb") as file:
            return f"{DATASET}/{file_digest(file, 'sha256').hexdigest()[:32]}"
    except OSError:  # extraction will say why
        return f"{DATASET}/{sha256(os.fsencode(path.absolute())).hexdigest()[:32]}"


def _folder_digest(folder: Path) -> str:
    pictures = sorted(path for path in folder.iterdir() if stills.is_picture(path.name))
    digest = sha256()
    for path in pictures:
        digest.update(os.fsencode(path.name) + f"\0{path.stat().st_size}\0".encode())
    for index in even_indices(len(pictures), _READ):
        digest.update(pictures[index].read_bytes())
    return digest.hexdigest()


def cut_faces(trained: Trained, paths: Mapping[str, Path], folder: Path, console: Console) -> None:
    """Write FACES of the videos (id -> file) to `folder`, which must be new, as the trial's recipe cuts them.

    Few videos are read one after the other by the actor that Ray would run; `extract` then finds nothing left to do.
    """
    from pipelines.faces import extract  # here: Ray reads the environment when it is imported
    from pipelines.faces.video import VideoReader

    Thread(target=_import_networks, daemon=True).start()

    videos = tables.to_table([_videos_row(name, path) for name, path in paths.items()], tables.VIDEOS)
    roots = {DATASET: "/"}
    with progress.view(console, "Cutting faces") as view:

        def on_video(done: int) -> None:
            view.update("videos", f"{done} of {len(paths)}", done, len(paths))

        if len(paths) <= MOST_HERE:
            reader = extract.factory(VideoReader, roots, (trained.recipe,), None)
            actor = extract.ExtractFaces(reader, [str(folder)], TIMEOUT_S, MEMORY_GIB)
            try:
                for done, row in enumerate(videos.to_pylist(), 1):
                    if error := actor.extract([row], [0])[0]["error"]:
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


def _import_networks() -> None:
    """Import what most networks are built of, which takes seconds, while other processes read the videos."""
    import timm  # noqa: F401


def _videos_row(name: str, path: Path) -> dict[str, Any]:
    """Return a video's row of VIDEOS. It is labelled as fake: only for fakes does "no mask" mean "not known"."""
    return {
        "dataset": DATASET,
        "video_id": name,
        "label": tables.FAKE,
        "method": "unknown",
        "codec": "unknown",
        "split": "test",
        "root": DATASET,
        "uri": escaped(str(path.absolute())[1:]),
        "mask_uri": None,
        "real_id": None,
        "real_uri": None,
        "source_ids": [name],
        "face_rule": "largest",
    }


def score_faces(
    trained: Trained, paths: Mapping[str, Path], folder: Path, pictures: bool = False
) -> Iterator[tuple[str, Scored]]:
    """Yield each video's id and its scores, from the FACES in `folder`. Raise StorageError for unreadable weights.

    pictures: add a Grad-CAM to the faces that a picture of the video shows, where no stage draws a mask.
    """
    faces = store.Faces(folder)
    ledger = {row["video_id"]: row for row in faces.ledger.to_pylist()}
    scorer = score.ScoreVideos(trained.finished, {DATASET: folder})
    for name, path in paths.items():
        entry = ledger[name]
        common = {"path": path, "num_frames": entry["num_frames"], "num_faces": entry["num_faces"]}
        start = time.monotonic()
        reason = entry["reason"].removeprefix(escaped(f"{path.absolute()}: "))
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


def _scores(trained: Trained, scorer: score.ScoreVideos, faces: store.Faces, name: str) -> dict[str, Any]:
    """Return the scores of a video and of its faces, as fields of `Scored`. Raise ValueError for NaN and infinity."""
    table = scorer(score.as_table([_video(name)]))
    by_stage = {planned.name: table.filter(pc.equal(table["stage"], planned.name)) for planned in trained.planned}
    by_stage[FINAL] = final = detection.mean_of_stages(list(by_stage.values()))
    videos = {stage: detection.by_video(table, trained.pooling).to_pylist()[0] for stage, table in by_stage.items()}
    if not all(math.isfinite(video["logit"]) for video in videos.values()):
        raise ValueError("the model gives no finite number for it")
    of_video = {stage: video["score"] for stage, video in videos.items()}
    scores: dict[FaceAt, dict[str, float]] = {}
    for stage, predictions in by_stage.items():
        for row in predictions.select(["face_index", "frame_index", "score"]).to_pylist():
            scores.setdefault(_at(row), {})[stage] = row["score"]
    masks = {_at(row): row["mask_png"] for row in final.to_pylist()}
    shown = []
    for row in sorted(faces.video(name, _SHOWN).to_pylist(), key=_at):
        by_name = scores[_at(row)]
        shown.append(row | {"score": by_name.pop(FINAL), "stages": by_name, "mask_png": masks[_at(row)]})
    return {"score": of_video.pop(FINAL), "stages": of_video, "faces": tuple(shown)}


def _at(row: Mapping[str, Any]) -> FaceAt:
    return row["face_index"], row["frame_index"]


def _video(name: str) -> Video:
    return Video(name, tables.FAKE, "unknown", name)


def predict(trained: Trained, videos: Sequence[Path], console: Console, pictures: bool = False) -> list[Scored]:
    """Return what became of each of `videos`, in their order; files of equal content are scored once.

    pictures: as in `score_faces`. Raise StorageError for unreadable weights, ExtractionError if the
    extraction of faces breaks.
    """
    names = [video_id(path) for path in videos]
    distinct = dict(zip(names, videos, strict=True))
    with tempfile.TemporaryDirectory(prefix="crossforge-") as folder:
        cut_faces(trained, distinct, Path(folder), console)
        scored = dict(score_faces(trained, distinct, Path(folder), pictures))
    return [replace(scored[name], path=path) for name, path in zip(names, videos, strict=True)]


def as_json(
    trained: Trained, scored: Sequence[Scored], left_out: Mapping[str, Sequence[Path]] | None = None
) -> dict[str, Any]:
    """Return the JSON report: the trial and what it was trained on, then each video with the scores of its faces.

    left_out: reason -> files that were not scored, which are listed at the end.
    """
    videos = []
    for video in scored:
        faces = [{name: value for name, value in row.items() if not name.endswith("_png")} for row in video.faces]
        videos.append(vars(video) | {"path": escaped(str(video.path)), "stages": dict(video.stages), "faces": faces})
    beside = [{"path": escaped(str(path)), "reason": why} for why, paths in (left_out or {}).items() for path in paths]
    return trained.description() | {"predicted_by": provenance.commit(), "videos": videos, "left_out": beside}
