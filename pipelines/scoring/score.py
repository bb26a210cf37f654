"""Finished stages x FACES -> PREDICTIONS, by Ray Data; and what one stage derives for another.

In   stage folders with `_done.json`, and the usable videos of the parts to score
Out  <stage>/predictions/<part digest>.parquet  one row per face; every face exactly once
     <stage>/predictions/<part digest>-<perturbation>-v<version>.parquet  the same faces, perturbed
     <stage>/derived/<videos digest>.parquet    one row group per video

Scores are made once per (stage weights, faces, perturbation): a part that is there is not scored again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.torch
import torch

import models
from pipelines.common import cluster, device, storage
from pipelines.common.pictures import encode_png
from pipelines.common.storage import write_parquet, writing
from pipelines.common.tables import PREDICTIONS, clean, to_table
from pipelines.faces import perturb
from pipelines.training import batches, stages
from pipelines.training.samples import Arrays, Derived, Samples
from pipelines.training.views import Video

BATCH_SAMPLES = 32  # clips or faces that go through the model at once
VIDEOS_PER_TASK = 8
MOST_PERTURBATIONS = 10  # in one pass over the videos: what an interruption can cost
MAX_RESTARTS = 2  # of a scoring actor that dies; without a bound Ray retries for ever


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished stage with its paper's Config."""

    planned: stages.PlannedStage
    config: Any

    def load(self, on: torch.device) -> models.Stage:
        """The trained module in evaluation mode. Raises StorageError if its weights can't be read."""
        self.planned.summary()
        path = self.planned.folder / "weights.safetensors"
        module = models.stage(self.planned.paper, self.planned.name)(
            models.override(self.config, {"pretrained": False})
        )
        try:
            module.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            raise storage.StorageError(
                f"{path} can't be loaded ({str(error).splitlines()[0]}); delete {path.parent} and run again"
            ) from error
        return module.to(on).eval()


@dataclass(frozen=True)
class Covered:
    """What one sample is of."""

    video: Video
    perturbation: str
    rows: list[dict[str, Any]]  # of FACES


def predictions_path(planned: stages.PlannedStage, part_digest: str, perturbation: str = "") -> Path:
    suffix = f"-{perturbation}-v{perturb.VERSION}" if perturbation else ""
    return planned.folder / "predictions" / f"{part_digest}{suffix}.parquet"


def predictions(planned: stages.PlannedStage, part_digest: str, perturbation: str = "") -> pa.Table:
    """PREDICTIONS of a scored part."""
    return clean(pq.read_table(predictions_path(planned, part_digest, perturbation)), PREDICTIONS)


def score(
    finished: Sequence[Finished],
    parts: Mapping[str, Sequence[Video]],
    faces: Mapping[str, Path],
    *,
    num_actors: int,
    gpus_per_actor: float = 0,
    on_video: Callable[[int, int], None] | None = None,
    perturbations: Sequence[str] = (),
) -> None:
    """Scores every part (digest -> usable videos) that a stage has not scored yet, clean and perturbed.

    num_actors: of Ray Data; 0: in this process. perturbations: single levels. on_video(done, total) is called as
    videos come back; a video counts once for each pass over the videos, of which there are several with many
    perturbations.
    """
    passes = _passes(finished, parts, ("", *perturbations))
    for stage in {stage.planned.name: stage for one in passes for stage, _ in one.missing}.values():
        stage.load(torch.device("cpu"))  # what is wrong with the weights is said here; an actor would only die of it
    total, done = sum(len(one.videos) for one in passes), 0
    for one in passes:

        def said(number: int, _: int, before: int = done) -> None:
            if on_video:
                on_video(before + number, total)

        args = ([stage for stage, _ in one.missing], faces, one.perturbations)
        scored = pa.concat_tables(_tables(ScoreVideos, args, one.videos, num_actors, gpus_per_actor, said))
        _keep(scored.cast(PREDICTIONS), one, parts)
        done += len(one.videos)


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What is scored at once: some perturbations, all of which lack the same parts of the same stages."""

    perturbations: tuple[str, ...]
    missing: tuple[tuple[Finished, tuple[str, ...]], ...]  # digests of parts
    videos: tuple[Video, ...]


def _passes(
    finished: Sequence[Finished], parts: Mapping[str, Sequence[Video]], perturbations: Sequence[str]
) -> list[_Pass]:
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name in perturbations:
        lacks = tuple(
            tuple(part for part in parts if not predictions_path(stage.planned, part, name).exists())
            for stage in finished
        )
        alike.setdefault(lacks, []).append(name)
    found = []
    for lacks, names in alike.items():
        missing = tuple((stage, own) for stage, own in zip(finished, lacks, strict=True) if own)
        videos = {video for _, own in missing for part in own for video in parts[part]}
        if not videos:
            continue
        ordered = tuple(sorted(videos, key=lambda video: video.video_id))
        for first in range(0, len(names), MOST_PERTURBATIONS):
            few = tuple(names[first : first + MOST_PERTURBATIONS])
            found.append(_Pass(perturbations=few, missing=missing, videos=ordered))
    return found


def _keep(scored: pa.Table, one: _Pass, parts: Mapping[str, Sequence[Video]]) -> None:
    """Each part, stage and perturbation in its own file."""
    for stage, missing in one.missing:
        for perturbation in one.perturbations:
            mine = pc.and_(
                pc.equal(scored["stage"], stage.planned.name), pc.equal(scored["perturbation"], perturbation)
            )
            own = scored.filter(mine)
            for part in missing:
                ids = pa.array([video.video_id for video in parts[part]])
                table = _complete(own.filter(pc.is_in(own["video_id"], ids)), parts[part])
                # Another trial may be at the same part: the last to finish wins, with the same rows.
                write_parquet(predictions_path(stage.planned, part, perturbation), table)


def _complete(table: pa.Table, videos: Sequence[Video]) -> pa.Table:
    """The table, sorted. Raises if a video or a face is missing or counted twice."""
    key = ["video_id", "face_index", "frame_index"]
    scored = set(table["video_id"].to_pylist())
    missing = sorted({video.video_id for video in videos} - scored)
    assert not missing, f"{len(missing)} videos were given but not scored, e.g. {missing[:3]}"
    assert table.group_by(key).aggregate([]).num_rows == table.num_rows, "a face was scored twice"
    return table.sort_by([(name, "ascending") for name in key])


class ScoreVideos:
    """Ray Data actor: videos -> PREDICTIONS. The models are loaded once."""

    def __init__(
        self, finished: Sequence[Finished], faces: Mapping[str, Path], perturbations: Sequence[str] = ("",)
    ) -> None:
        self.device, self.perturbations = device.best(), perturbations
        self.stages = [
            (one.planned.name, one.load(self.device), Samples(_stage(one), one.config, faces)) for one in finished
        ]

    def __call__(self, batch: pa.Table) -> pa.Table:
        videos = [Video(**row) for row in batch.to_pylist()]
        rows = [row for name, module, samples in self.stages for row in self._score(name, module, samples, videos)]
        return to_table(rows, PREDICTIONS)

    def _score(
        self, name: str, module: models.Stage, samples: Samples, videos: Sequence[Video]
    ) -> Iterable[dict[str, Any]]:
        """A face that lies in two clips gets the mean of their scores."""
        scores: dict[_Key, list[float]] = {}
        masks: dict[_Key, dict[str, Any]] = {}
        areas: dict[_Key, float] = {}
        for covered, out in _outputs(module.score, samples, videos, self.device, self.perturbations):
            for sample, of in enumerate(covered):
                for row in of.rows:
                    key = (of.video, of.perturbation, row["frame_index"], row["face_index"])
                    scores.setdefault(key, []).append(float(out["score"][sample]))
                    box = row["box_px"]
                    areas[key] = (box["x1"] - box["x0"]) * (box["y1"] - box["y0"])
                    if "mask" in out:
                        predicted = out["mask"][sample]
                        masks[key] = _compare(predicted, samples.face(row, predicted.shape[0]))
                        if of.perturbation:
                            masks[key]["mask_png"] = None  # dozens of pictures of each face, for nobody to look at
        for (video, perturbation, frame_index, face_index), values in scores.items():
            key = (video, perturbation, frame_index, face_index)
            yield {
                "stage": name,
                "perturbation": perturbation,
                "dataset": video.video_id.split("/", 1)[0],
                "video_id": video.video_id,
                "frame_index": frame_index,
                "face_index": face_index,
                "label": video.label,
                "method": video.method,
                "score": float(np.mean(values)),
                "face_area_px": areas[key],
                **masks.get(key, _NO_MASK),
            }


_Key = tuple[Video, str, int, int]  # perturbation, frame, face
_MASK_COLUMNS = ("mask_png", "mask_tp", "mask_fp", "mask_fn", "mask_tn")
_NO_MASK = dict.fromkeys(_MASK_COLUMNS)


def _compare(predicted: np.ndarray, face: Arrays) -> dict[str, Any]:
    """Predicted mask (H, W) in [0, 1] as PNG, and its pixels counted against the true one, at threshold 0.5."""
    png = encode_png(np.round(predicted * 255).astype(np.uint8))
    if not face["mask_valid"]:
        return {**_NO_MASK, "mask_png": png}
    p, t = predicted > 0.5, face["mask"] > 0
    counts = (p & t, p & ~t, ~p & t, ~p & ~t)
    return dict(zip(_MASK_COLUMNS, (png, *(int(count.sum()) for count in counts)), strict=True))


def derive(
    finished: Finished,
    videos: Sequence[Video],
    faces: Mapping[str, Path],
    path: Path,
    *,
    num_actors: int,
    gpus_per_actor: float = 0,
) -> None:
    """Writes to `path` what `finished` derives for later stages, for every face of `videos`, unless it is there.

    num_actors 0: in this process. Whoever calls holds the stage's lock.
    """
    if path.exists():
        return
    ordered = sorted(videos, key=lambda video: video.video_id)
    tables = _tables(_DeriveFrames, (finished, faces), ordered, num_actors, gpus_per_actor, None)
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

    def __init__(self, finished: Finished, faces: Mapping[str, Path]) -> None:
        self.device = device.best()
        self.module = finished.load(self.device)
        self.samples = Samples(_stage(finished), finished.config, faces)

    def __call__(self, batch: pa.Table) -> pa.Table:
        found: dict[tuple[str, int, int, str], dict[str, Any]] = {}
        videos = [Video(**row) for row in batch.to_pylist()]
        for covered, out in _outputs(self.module.derive, self.samples, videos, self.device):
            for sample, of in enumerate(covered):
                for frame, row in enumerate(of.rows):
                    for name, array in out.items():
                        key = {
                            "video_id": of.video.video_id,
                            "frame_index": row["frame_index"],
                            "face_index": row["face_index"],
                            "name": name,
                        }
                        value = array[sample, frame]
                        found.setdefault(
                            tuple(key.values()), key | {"shape": list(value.shape), "data": value.tobytes()}
                        )
        return pa.Table.from_pylist(list(found.values()), schema=Derived.SCHEMA)


@torch.no_grad()
def _outputs(
    apply: Callable[[Any], Mapping[str, torch.Tensor]],
    samples: Samples,
    videos: Sequence[Video],
    on: torch.device,
    perturbations: Sequence[str] = ("",),
) -> Iterable[tuple[list[Covered], dict[str, np.ndarray]]]:
    """What each sample covers, and the model's outputs as arrays, batch by batch.

    A video comes under all perturbations before the next one, so that its faces are decoded once for them.
    """
    stream = (
        (Covered(video, perturbation, rows), arrays)
        for video in videos
        for perturbation in perturbations
        for rows, arrays in samples.scoring_samples(video, seed=0, perturbation=perturbation)
    )
    for waiting in batches.ahead(batches.chunks(stream, BATCH_SAMPLES)):
        yield _apply(apply, waiting, on)


def _apply(apply: Callable[[Any], Mapping[str, torch.Tensor]], waiting: list[Any], on: torch.device) -> Any:
    batch = batches.stack([arrays for _, arrays in waiting])
    with device.autocast(on):
        out = apply({name: torch.from_numpy(value).to(on) for name, value in batch.items()})
    arrays = {name: _numpy(value) for name, value in out.items()}
    return [covered for covered, _ in waiting], arrays


def _numpy(value: torch.Tensor) -> np.ndarray:
    return (value.float() if value.is_floating_point() else value).cpu().numpy()


def _stage(finished: Finished) -> type[models.Stage]:
    return models.stage(finished.planned.paper, finished.planned.name)


def _as_table(videos: Sequence[Video]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"video_id": v.video_id, "label": v.label, "method": v.method, "target": v.target} for v in videos]
    )


def _tables(
    actor: type,
    args: tuple[Any, ...],
    videos: Sequence[Video],
    num_actors: int,
    gpus_per_actor: float,
    on_video: Callable[[int, int], None] | None,
) -> Iterator[pa.Table]:
    """`actor` over `videos`, in order: by Ray Data, or with no actors in this process."""
    done: set[str] = set()
    for table in _by_ray(actor, args, videos, num_actors, gpus_per_actor) if num_actors else _here(actor, args, videos):
        done |= set(table["video_id"].unique().to_pylist())
        if on_video:
            on_video(len(done), len(videos))
        yield table


def _here(actor: type, args: tuple[Any, ...], videos: Sequence[Video]) -> Iterator[pa.Table]:
    one = actor(*args)
    return (one(_as_table([video])) for video in videos)


def _by_ray(
    actor: type, args: tuple[Any, ...], videos: Sequence[Video], num_actors: int, gpus_per_actor: float
) -> Iterator[pa.Table]:
    import ray  # here: what is done in this process needs no Ray

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    data = ray.data.from_items(
        _as_table(videos).to_pylist(), override_num_blocks=-(-len(videos) // VIDEOS_PER_TASK)
    ).map_batches(
        actor,
        fn_constructor_args=args,
        batch_size=VIDEOS_PER_TASK,  # a block; "the whole block" is refused where there are GPUs
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
        num_cpus=1,
        num_gpus=gpus_per_actor,
        label_selector=None if gpus_per_actor else cluster.selector(cluster.VIDEO),
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
    )
    table: Any
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        if table.num_rows:
            yield table
