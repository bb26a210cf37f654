"""Finished stages and FACES to PREDICTIONS, by Ray Data or in this process; and what one stage derives for another.

In   stage folders with `_done.json`, and the usable videos of the parts to score
Out  <stage>/predictions/...                    one row per face, see `scoring.predictions`
     <stage>/derived/<videos digest>.parquet    one row group per video

Scores are made once per stage, part and perturbation.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.torch
import torch
from scipy.special import expit

import models
from pipelines.common import cluster, device, provenance, storage
from pipelines.common.numerics import Numerics
from pipelines.common.pictures import encode_png
from pipelines.common.storage import writing
from pipelines.common.tables import PREDICTIONS, UNPERTURBED, dataset_of, to_table
from pipelines.metrics import detection
from pipelines.scoring.predictions import (
    KEY,
    MADE_WITH,
    as_predictions,
    gather,
    in_slices,
    predictions_path,
    write_slice,
)
from pipelines.training import batches, stages
from pipelines.training.samples import Arrays, Derived, Samples, face_area_px
from pipelines.training.views import Video

BATCH_SAMPLES = 32  # clips or faces that go through the model at once
VIDEOS_PER_TASK = 8
MOST_PERTURBATIONS = 10  # in one pass over the videos: with their rows a task of many faces is still of some MB
SLICE_BYTES = 64 * 2**20  # of PREDICTIONS that a process holds; with masks some 3,000 faces, else some 500,000
SLICE_SECONDS = 300  # that an interruption of scoring may cost, as in training
MAX_RESTARTS = 2  # of a scoring actor that dies; without a bound Ray retries for ever


@dataclass(frozen=True, kw_only=True)
class FinishedStage:
    """A trained stage and its paper's Config: all it takes to load the network."""

    planned: stages.PlannedStage
    config: Any

    @property
    def stage_class(self) -> type[models.Stage]:
        return models.stage(self.planned.paper, self.planned.name)

    def load(self, on: torch.device) -> models.Stage:
        """Return the trained network in evaluation mode. Raise StorageError if its weights can't be read."""
        self.planned.summary()  # raises if it is not finished
        path = self.planned.folder / "weights.safetensors"
        module = self.stage_class(models.override(self.config, {"pretrained": False}))
        try:
            module.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            raise storage.StorageError(
                f"{path} can't be loaded ({str(error).splitlines()[0]}); delete {path.parent} and run again"
            ) from error
        return module.to(on).eval()

    def samples(self, faces: Mapping[str, Path]) -> Samples:
        """Return the samples that the network takes, from the FACES folder of each dataset."""
        return Samples(self.stage_class, self.config, faces)


# ----------------------------------------------------------------------------------------- scoring
def score_parts(
    finished: Sequence[FinishedStage],
    parts: Mapping[str, Sequence[Video]],
    faces: Mapping[str, Path],
    *,
    num_actors: int,
    gpus_per_actor: float = 0,
    on_video: Callable[[int, int], None] | None = None,
    perturbations: Sequence[str] = (),
    clean_only: Collection[str] = (),
) -> None:
    """Write the PREDICTIONS of each stage for each part, clean and perturbed, where they are missing.

    parts: part digest -> usable videos. faces: dataset -> FACES folder. num_actors: of Ray Data; 0: in this process.
    perturbations: single levels, e.g. `blur-1`. clean_only: digests of parts without them. on_video(done, total) is
    called as videos come back; a video counts once for each pass over the videos, of which there are several with many
    perturbations, and is left out where an earlier call that was interrupted has scored it. Raise StorageError if a
    stage's weights can't be read.
    """
    passes = _passes(finished, parts, (UNPERTURBED, *perturbations), clean_only)
    for stage in {stage.planned.name: stage for each in passes for stage, _ in each.missing}.values():
        stage.load(torch.device("cpu"))  # what is wrong with the weights is said here; an actor would only die of it
    total, done = sum(len(each.videos) for each in passes), 0
    for each in passes:
        args = ([stage for stage, _ in each.missing], faces, each.perturbations)
        scored: list[pa.Table] = []  # since the last slices were written
        num_bytes = 0  # of these
        seen: set[str] = set()
        since = time.monotonic()
        tables = apply_actor(ScoreVideos, args, each.videos, num_actors, gpus_per_actor) if each.videos else iter(())
        for table in tables:
            scored.append(table)
            seen |= set(table["video_id"].unique().to_pylist())
            num_bytes += table.nbytes
            if num_bytes >= SLICE_BYTES or time.monotonic() - since >= SLICE_SECONDS:
                for path, _, rows in each.split(scored, parts):
                    write_slice(path, rows)
                scored, num_bytes, since = [], 0, time.monotonic()
            if on_video:
                on_video(done + len(seen), total)
        for path, video_ids, rows in each.split(scored, parts):
            gather(path, video_ids, rows)
        done += len(each.videos)


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What is scored at once: some perturbations, all of which lack the same parts of the same stages."""

    perturbations: tuple[str, ...]
    missing: tuple[tuple[FinishedStage, tuple[str, ...]], ...]  # with digests of parts
    videos: tuple[Video, ...]  # in alphabetical order; those that are in a slice of each are left out

    def split(
        self, scored: Sequence[pa.Table], parts: Mapping[str, Sequence[Video]]
    ) -> Iterator[tuple[Path, list[str], pa.Table]]:
        """Yield each file that the pass is to make, the ids of its videos, and its own rows of those scored, sorted."""
        together = as_predictions(scored)
        for stage, digests in self.missing:
            of_stage = together.filter(pc.equal(together["stage"], stage.planned.name))
            for perturbation in self.perturbations:
                rows = of_stage.filter(pc.equal(of_stage["perturbation"], perturbation))
                for part in digests:
                    ids = [video.video_id for video in parts[part]]
                    table = rows.filter(pc.is_in(rows["video_id"], pa.array(ids, pa.string())))
                    assert table.group_by(KEY).aggregate([]).num_rows == table.num_rows, "a face was scored twice"
                    ordered = table.sort_by([(name, "ascending") for name in KEY])
                    yield predictions_path(stage.planned, part, perturbation), ids, ordered


def _passes(
    finished: Sequence[FinishedStage],
    parts: Mapping[str, Sequence[Video]],
    perturbations: Sequence[str],
    clean_only: Collection[str],
) -> list[_Pass]:
    names_by_lack: dict[tuple[tuple[str, ...], ...], list[str]] = {}  # key: for each stage the parts that it lacks
    for name in perturbations:
        wanted = [part for part in parts if name == UNPERTURBED or part not in clean_only]
        lack = tuple(
            tuple(part for part in wanted if not predictions_path(stage.planned, part, name).exists())
            for stage in finished
        )
        names_by_lack.setdefault(lack, []).append(name)
    passes = []
    for lack, names in names_by_lack.items():
        missing = tuple((stage, digests) for stage, digests in zip(finished, lack, strict=True) if digests)
        videos: set[Video] = set()
        for stage, digests in missing:
            for part in digests:
                for name in names:
                    there = in_slices(predictions_path(stage.planned, part, name))
                    videos.update(video for video in parts[part] if video.video_id not in there)
        if not missing:
            continue
        ordered = tuple(sorted(videos, key=lambda video: video.video_id))
        for first in range(0, len(names), MOST_PERTURBATIONS):
            few = tuple(names[first : first + MOST_PERTURBATIONS])
            passes.append(_Pass(perturbations=few, missing=missing, videos=ordered))
    return passes


class FaceKey(NamedTuple):
    """A face of one frame, under one perturbation."""

    video: Video
    perturbation: str
    frame_index: int
    face_index: int


class ScoreVideos:
    """Score the faces of videos with networks that are loaded once: a table of videos in, PREDICTIONS out.

    An actor of Ray Data where a sweep scores its test parts; an object like any other where `scoring.predict` scores
    videos of one's own. So the two can't differ.
    """

    def __init__(
        self,
        finished: Sequence[FinishedStage],
        faces: Mapping[str, Path],
        perturbations: Sequence[str] = (UNPERTURBED,),
    ) -> None:
        """finished: the stages that score. faces: dataset -> FACES folder. perturbations: single levels, "": none."""
        self.device, self.perturbations = device.best(), perturbations
        self.numerics = {stage.planned.name: stage.planned.numerics for stage in finished}
        self.made_with = provenance.joined([device.made_with(each, self.device) for each in self.numerics.values()])
        self.stages = [(stage.planned.name, stage.load(self.device), stage.samples(faces)) for stage in finished]

    def __call__(self, videos: pa.Table) -> pa.Table:
        """Return PREDICTIONS of all faces of the videos, which come as `as_table` makes them."""
        wanted = [Video(**row) for row in videos.to_pylist()]
        rows = [row for name, module, samples in self.stages for row in self._rows(name, module, samples, wanted)]
        metadata = {**PREDICTIONS.metadata, MADE_WITH: json.dumps(self.made_with)}
        return to_table(rows, PREDICTIONS).replace_schema_metadata(metadata)

    def _rows(
        self, name: str, module: models.Stage, samples: Samples, videos: Sequence[Video]
    ) -> Iterator[dict[str, Any]]:
        """Yield one stage's PREDICTIONS. A face that lies in two clips gets the mean of their scores."""
        logits: dict[FaceKey, list[float]] = {}
        measures: dict[FaceKey, dict[str, Any]] = {}
        for covered, out in _outputs(
            module.score, samples, videos, self.device, self.numerics[name], self.perturbations
        ):
            for i, sample in enumerate(covered):
                for row in sample.rows:
                    key = FaceKey(sample.video, sample.perturbation, row["frame_index"], row["face_index"])
                    logits.setdefault(key, []).append(float(out["logit"][i]))
                    measures[key] = {
                        "num_repeated": samples.feed.clip_frames - len(sample.rows),
                        "face_area_px": face_area_px(row),
                        **_NO_MASK,
                    }
                    if "mask" in out:
                        mask = out["mask"][i]
                        measures[key] |= _compare(mask, samples.face(row, mask.shape[0]))
                        if sample.perturbation:
                            measures[key]["mask_png"] = None  # dozens of pictures of each face, for nobody to look at
        for key, values in logits.items():
            logit = detection.mean_score(values)
            yield {
                "stage": name,
                "perturbation": key.perturbation,
                "dataset": dataset_of(key.video.video_id),
                "video_id": key.video.video_id,
                "frame_index": key.frame_index,
                "face_index": key.face_index,
                "label": key.video.label,
                "method": key.video.method,
                "logit": float(logit),
                "score": float(expit(logit)),
                **measures[key],
            }


_MASK_COLUMNS = ("mask_png", "mask_tp", "mask_fp", "mask_fn", "mask_tn")
_NO_MASK = dict.fromkeys(_MASK_COLUMNS)


def _compare(predicted: np.ndarray, face: Arrays) -> dict[str, Any]:
    """Return a predicted mask (H, W) in [0, 1] as PNG, and its pixels counted against the true one, at threshold 0.5.

    Without a true mask the counts are None.
    """
    png = encode_png(np.round(predicted * 255).astype(np.uint8))
    if not face["mask_valid"]:
        return {**_NO_MASK, "mask_png": png}
    p, t = predicted > 0.5, face["mask"] > 0
    counts = (p & t, p & ~t, ~p & t, ~p & ~t)
    return dict(zip(_MASK_COLUMNS, (png, *(int(count.sum()) for count in counts)), strict=True))


# ---------------------------------------------------------------------------------------- deriving
def derive(
    finished: FinishedStage,
    videos: Sequence[Video],
    faces: Mapping[str, Path],
    path: Path,
    *,
    num_actors: int,
    gpus_per_actor: float = 0,
) -> None:
    """Write to `path` what a stage derives for later ones from every face of `videos`, unless it is there.

    faces: dataset -> FACES folder. num_actors: of Ray Data; 0: in this process. Call it with the stage's lock held.
    """
    if path.exists():
        return
    ordered = sorted(videos, key=lambda video: video.video_id)
    tables = apply_actor(_DeriveFrames, (finished, faces), ordered, num_actors, gpus_per_actor)
    for abandoned in path.parent.glob(f".{path.name}.*.tmp"):  # GBs, of a process that was killed
        abandoned.unlink(missing_ok=True)
    with (
        writing(path) as temporary,
        pq.ParquetWriter(temporary, Derived.SCHEMA, compression="zstd", compression_level=1) as writer,
    ):
        for table in tables:
            for video_id in table["video_id"].unique().to_pylist():
                writer.write_table(table.filter(pc.equal(table["video_id"], video_id)).cast(Derived.SCHEMA))


class _DeriveFrames:
    """Ray Data actor: videos -> rows of `Derived.SCHEMA`. A frame in two clips keeps the first clip's arrays."""

    def __init__(self, finished: FinishedStage, faces: Mapping[str, Path]) -> None:
        self.device = device.best()
        self.module, self.samples = finished.load(self.device), finished.samples(faces)
        self.numerics = finished.planned.numerics

    def __call__(self, videos: pa.Table) -> pa.Table:
        rows: dict[tuple[str, int, int, str], dict[str, Any]] = {}
        wanted = [Video(**row) for row in videos.to_pylist()]
        for covered, out in _outputs(self.module.derive, self.samples, wanted, self.device, self.numerics):
            for i, sample in enumerate(covered):
                for frame, face in enumerate(sample.rows):
                    for name, array in out.items():
                        key = {
                            "video_id": sample.video.video_id,
                            "frame_index": face["frame_index"],
                            "face_index": face["face_index"],
                            "name": name,
                        }
                        value = array[i, frame]
                        data = {"shape": list(value.shape), "data": value.tobytes()}
                        rows.setdefault(tuple(key.values()), key | data)
        return pa.Table.from_pylist(list(rows.values()), schema=Derived.SCHEMA)


# -------------------------------------------------------------------------------- samples to outputs
def as_batch(samples: Sequence[Arrays], on: torch.device) -> dict[str, torch.Tensor]:
    """Return samples as one batch on a device."""
    return {name: torch.from_numpy(value).to(on) for name, value in batches.stack(samples).items()}


class _Covered(NamedTuple):
    """The faces that one sample shows: one, or those of a clip."""

    video: Video
    perturbation: str
    rows: list[dict[str, Any]]  # of FACES


@torch.no_grad()
def _outputs(
    apply: Callable[[Any], Mapping[str, torch.Tensor]],
    samples: Samples,
    videos: Sequence[Video],
    on: torch.device,
    numerics: Numerics,
    perturbations: Sequence[str] = (UNPERTURBED,),
) -> Iterator[tuple[list[_Covered], dict[str, np.ndarray]]]:
    """Yield what `apply` makes of the videos' samples, batch by batch: the faces of each sample, and the arrays.

    A video comes under all perturbations before the next one, so that its faces are decoded once for them.
    """
    stream = (
        (_Covered(video, perturbation, rows), arrays)
        for video in videos
        for perturbation in perturbations
        for rows, arrays in samples.scoring_samples(video, seed=0, perturbation=perturbation)
    )
    for entries in batches.ahead(batches.chunks(stream, BATCH_SAMPLES)):
        batch = as_batch([arrays for _, arrays in entries], on)
        with device.in_force(numerics), device.autocast(numerics, on):
            out = apply(batch)
        # NumPy has no bfloat16.
        tensors = {name: value.float() if value.is_floating_point() else value for name, value in out.items()}
        yield [covered for covered, _ in entries], {name: value.cpu().numpy() for name, value in tensors.items()}


# --------------------------------------------------------------------------------- videos to tables
def as_table(videos: Sequence[Video]) -> pa.Table:
    """Return videos as a table, which `ScoreVideos` takes."""
    return pa.Table.from_pylist(
        [{"video_id": v.video_id, "label": v.label, "method": v.method, "target": v.target} for v in videos]
    )


def apply_actor(
    actor: type, args: tuple[Any, ...], videos: Sequence[Video], num_actors: int, gpus_per_actor: float
) -> Iterator[pa.Table]:
    """Yield what `actor(*args)` makes of the videos, in their order: by Ray Data, or with no actors in this process."""
    if num_actors == 0:
        apply = actor(*args)
        for video in videos:
            yield apply(as_table([video]))
        return
    import ray  # here: what is done in this process needs no Ray

    cluster.data_in_order(None if gpus_per_actor else cluster.selector(cluster.VIDEO))
    data = ray.data.from_items(
        as_table(videos).to_pylist(), override_num_blocks=-(-len(videos) // VIDEOS_PER_TASK)
    ).map_batches(
        actor,
        fn_constructor_args=args,
        batch_size=VIDEOS_PER_TASK,  # a block; "the whole block" is refused where there are GPUs
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
        num_cpus=1,
        num_gpus=gpus_per_actor,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
    )
    table: Any
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        if table.num_rows:
            yield table
