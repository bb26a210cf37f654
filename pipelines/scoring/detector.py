"""A detector of the user's own over FACES, scored as a stage is: same videos, same frames, same PREDICTIONS.

In   a Python file with a factory, which returns a network and what it wants to see; the FACES of the parts to score
Out  <storage>/detectors/<digest>/predictions/<part digest>-v<version>.parquet   a row for each face, and in the file's
                                  metadata the videos that gave none, with the reason

The digest covers the file, the files beside it that it imports, the input, and the weights: all tensors that a
`torch.nn.Module` holds. A part that was scored is not scored again, except for the videos that failed; where the
weights are not known, all of it is. A video on which the detector fails costs itself.
"""

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import models
from pipelines.common import device, own_code, provenance
from pipelines.common.numerics import Precision
from pipelines.common.own_code import OwnCodeError
from pipelines.common.storage import digest, expanded, write_json, write_parquet
from pipelines.common.tables import PREDICTIONS
from pipelines.metrics.names import FINAL
from pipelines.scoring.from_file import NEARLY_SURE, Scale, Side
from pipelines.scoring.predictions import MADE_WITH, predictions_path, scored_with
from pipelines.scoring.score import FinishedStage, ScoreVideos, apply_actor
from pipelines.training.stages import PlannedStage
from pipelines.training.views import Video

MOST_SIZE_PX = 1024
MOST_MARGIN = 10  # sides of the box
_FAILED = b"failed"  # in the metadata of a file: JSON, video_id -> reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What a detector wants to see, and what its numbers say. Raises ValueError for a setting that makes no sense."""

    size_px: int = 224  # H = W of a picture
    margin: float = 1.3  # side of the crop in longer sides of the face's box
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of each colour in [0, 1]; taken off first
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # divided by then; 1/255 gives numbers from 0 to 255
    colour: Literal["rgb", "bgr"] = "rgb"  # the order of colours, of mean and std as well
    clip_frames: int = 1  # T frames of one face in a row; 1: single pictures
    batch_size: int = 32  # pictures or clips in one call
    score_is: Scale = "logit"
    higher_is: Side = "fake"
    frames: Literal["mean", "mean_logit"] = "mean"  # a video's score: the mean of P(fake), or of log odds
    precision: Precision = "auto"  # auto: bf16 on GPUs that have it, else fp32

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= MOST_SIZE_PX:
            raise ValueError(f"size_px must be from 16 to {MOST_SIZE_PX}, got {self.size_px}")
        if not self.margin >= 1:
            raise ValueError(f"margin must be at least 1, got {self.margin}")
        if self.margin > MOST_MARGIN:
            raise ValueError(f"margin must be at most {MOST_MARGIN}, got {self.margin}")
        if min(self.clip_frames, self.batch_size) < 1:
            raise ValueError(f"clip_frames and batch_size must be 1 or more, got {self.clip_frames}, {self.batch_size}")
        if 0 in self.std:
            raise ValueError(f"std must not be 0, got {self.std}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std must be positive and finite, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite, got {self.mean}")

    @property
    def pooling(self) -> models.Pooling:
        """How the scores of faces become that of a video."""
        return models.Pooling(frames=self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        """What the network gets, after the batch: ([T,] 3, H, W)."""
        picture = (3, self.size_px, self.size_px)
        return picture if self.clip_frames == 1 else (self.clip_frames, *picture)


class _Faces(models.Stage):
    """A detector in the shape of a stage that scores single faces."""

    name = FINAL
    view = "frames"
    mean: Tensor
    std: Tensor

    @staticmethod
    def feed(cfg: Input) -> models.Feed:
        return models.Feed(input_px=cfg.size_px, clip_frames=cfg.clip_frames)

    @classmethod
    def prepare(
        cls, cfg: Input, sample: models.Sample, rng: np.random.Generator, mode: models.Mode
    ) -> dict[str, np.ndarray]:
        return {"image": sample["image"]}

    def __init__(self, network: Callable[[Tensor], Tensor], wants: Input) -> None:
        super().__init__()
        self.network, self.wants = network, wants  # a network that is a Module is moved and set to evaluation with us
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(wants, name)).view(3, 1, 1), persistent=False)

    def score(self, batch: models.Batch) -> dict[str, Tensor]:
        """Return `logit` (B,). Raises ValueError for an output that is no such score."""
        pictures = batch["image"].movedim(-1, -3).float() / 255
        if self.wants.colour == "bgr":
            pictures = pictures.flip(-3)
        pictures = (pictures - self.mean) / self.std
        return {"logit": torch.cat([self._logits(few) for few in pictures.split(self.wants.batch_size)])}

    def _logits(self, pictures: Tensor) -> Tensor:
        out = self.network(pictures)
        if not isinstance(out, Tensor) or out.numel() != len(pictures) or out.shape[:1] != pictures.shape[:1]:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"it must return one score of each: a tensor ({len(pictures)},); it returned {shape}")
        value = out.reshape(-1).double()
        if not value.isfinite().all():
            raise ValueError("it gives no finite number")
        if self.wants.score_is == "probability":
            if ((value < 0) | (value > 1)).any():
                raise ValueError('it gives numbers outside [0, 1]; say "score_is": "logit" if they are log odds')
            value = value.clamp(*NEARLY_SURE).logit()
        return value if self.wants.higher_is == "fake" else -value


class _Clips(_Faces):
    """A detector in the shape of a stage that scores clips."""

    view = "clips"


def _stage_class(wants: Input) -> type[_Faces]:
    return _Faces if wants.clip_frames == 1 else _Clips


@dataclass(frozen=True, kw_only=True)
class Detector(FinishedStage):
    """The user's detector, where a finished stage is expected; `config` is its `Input`."""

    file: Path
    factory: str

    @property
    def stage_class(self) -> type[models.Stage]:
        return _stage_class(self.config)

    def load(self, on: torch.device) -> models.Stage:
        """Return the network on a device. Raises OwnCodeError where the file or its factory fails."""
        network, _ = _made(self.file, self.factory)
        return self.stage_class(network, self.config).to(on).eval()

    @property
    def knows_weights(self) -> bool:
        """Whether the digest knows the weights; if not, finished scores may be of others."""
        return bool(self.planned.spec["weights"])


def load(named: str, storage: Path) -> Detector:
    """Return the detector that `FILE:FACTORY` names, after it has scored pictures of noise.

    Raises OwnCodeError, which names the file, for whatever is wrong with it.
    """
    file_name, _, factory = named.rpartition(":")
    if not file_name or not factory.isidentifier():
        raise OwnCodeError(f"{named}: write FILE:FACTORY, such as my_detector.py:build")
    file = expanded(file_name).resolve()
    network, wants = _made(file, factory)
    weights = _weights(network)  # now: what a first call keeps is none
    on = device.best()
    noise = torch.randint(0, 256, (2, *wants.shape), dtype=torch.uint8, device=on).movedim(-3, -1)
    try:
        with torch.no_grad():
            _stage_class(wants)(network, wants).to(on).eval().score({"image": noise})
    except own_code.FAILURES as error:
        told = f"pictures {tuple(wants.shape)} of noise"
        raise OwnCodeError(f"{file}:{factory} can't score {told}: {own_code.reason(error)}") from error
    spec = {
        "file": sha256(file.read_bytes()).hexdigest(),
        "beside": own_code.beside(file),
        "factory": factory,
        "input": asdict(wants),
        "weights": weights,
        "precision": wants.precision,
    }
    folder = storage / "detectors" / digest(spec)
    planned = PlannedStage(paper=file.stem, name=FINAL, folder=folder, spec=spec)
    return Detector(planned=planned, config=wants, file=file, factory=factory)


def _made(file: Path, factory: str) -> tuple[Callable[[Tensor], Tensor], Input]:
    """Return what the factory makes. Raises OwnCodeError."""
    make = own_code.load(file, factory)
    try:
        made = make()
    except own_code.FAILURES as error:
        raise OwnCodeError(f"{file}:{factory} failed: {own_code.reason(error)}") from error
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[0]) and isinstance(made[1], Mapping)):
        raise OwnCodeError(
            f"{file}:{factory} must return a network and what it wants, such as "
            f'(network, {{"size_px": 299, "margin": 1.3}}); it returned {type(made).__name__}'
        )
    try:
        return made[0], models.override(Input(), made[1])
    except ValueError as error:
        raise OwnCodeError(f"{file}:{factory}: {error}") from error


def _weights(network: object) -> str | None:
    """Return a digest of all that a network holds: its state, buffers, and tensors or arrays among its attributes.

    None where it is no Module, holds nothing of the kind, or something that can't be told in bytes.
    """
    if not isinstance(network, nn.Module):
        return None
    content = sha256()
    try:
        held = {**dict(network.named_buffers()), **network.state_dict()}
        for place, module in network.named_modules():
            plain = {name: value for name, value in vars(module).items() if isinstance(value, Tensor | np.ndarray)}
            held |= {f"{place}.{name}": value for name, value in plain.items()}
        for name, value in sorted(held.items()):
            content.update(f"{name} ".encode())
            content.update(_content(value))
    except own_code.FAILURES:  # a state of the user's own making
        return None
    return content.hexdigest() if held else None


def _content(value: object) -> bytes:
    """Return type, shape and numbers of a tensor, or another value as a pickle. Raises where it has none."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.is_quantized or value.layout != torch.strided:
        return pickle.dumps(value)
    numbers = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)}".encode() + numbers


# ------------------------------------------------------------------------------------------------------------- scoring
@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a detector made of a part."""

    predictions: pa.Table  # PREDICTIONS
    failed: Mapping[str, str]  # video_id -> why it has no score
    made_with: provenance.MadeWith


def score_part(
    detector: Detector,
    part_digest: str,
    videos: Sequence[Video],
    faces: Mapping[str, Path],
    *,
    num_actors: int = 0,
    gpus_per_actor: float = 0,
    on_video: Callable[[int, int], None] | None = None,
) -> Scored:
    """Score the videos of a part that have no score yet, and return what came out; at least one video has a score.

    A video that failed before may have lacked no more than memory: it is tried again. Where the weights are not known,
    all are scored. faces, num_actors, gpus_per_actor and on_video: as in `score.score_parts`. Raises ValueError where
    all fail.
    """
    path = predictions_path(detector.planned, part_digest)
    tables, missing, failed = [], videos, {}
    if detector.knows_weights and path.exists():
        tables = [pq.read_table(path)]
        lost = json.loads(tables[0].schema.metadata[_FAILED])
        missing = [video for video in videos if video.video_id in lost]
    if missing:
        done = apply_actor(_ScoreEach, (detector, faces), missing, num_actors, gpus_per_actor)
        for number, row in enumerate((row for table in done for row in table.to_pylist()), 1):
            if row["problem"]:
                failed[row["video_id"]] = row["problem"]
            else:
                tables.append(pa.ipc.open_stream(row["predictions"]).read_all())
            if on_video:
                on_video(number, len(missing))
        if len(failed) == len(videos):
            example = next(iter(failed.items()), ("", "there is none"))
            raise ValueError(f"{detector.file} scored none of {len(videos)} videos, e.g. {': '.join(example)}")
        write_json(detector.planned.folder / "spec.json", dict(detector.planned.spec))
        kept = pa.concat_tables([table.cast(PREDICTIONS) for table in tables])
        kept = kept.sort_by([(name, "ascending") for name in ("video_id", "face_index", "frame_index")])
        made_with = provenance.joined([json.loads(table.schema.metadata[MADE_WITH]) for table in tables])
        about = {MADE_WITH: json.dumps(made_with), _FAILED: json.dumps(failed)}
        write_parquet(path, kept.replace_schema_metadata({**(PREDICTIONS.metadata or {}), **about}))
    table = pq.read_table(path)
    return Scored(
        predictions=table.cast(PREDICTIONS),
        failed=json.loads(table.schema.metadata[_FAILED]),
        made_with=scored_with(detector.planned, part_digest),
    )


_EACH = pa.schema([("video_id", pa.string()), ("problem", pa.string()), ("predictions", pa.binary())])


class _ScoreEach:
    """Ray Data actor: videos -> a row for each, with its PREDICTIONS as an Arrow stream, or what went wrong with it."""

    def __init__(self, detector: Detector, faces: Mapping[str, Path]) -> None:
        self.score = ScoreVideos([detector], faces)

    def __call__(self, videos: pa.Table) -> pa.Table:
        rows = []
        for place in range(videos.num_rows):
            video, sink = videos.slice(place, 1), pa.BufferOutputStream()
            problem = ""
            try:
                table = self.score(video)
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
            except own_code.FAILURES as error:  # the user's code: it costs this video
                problem = own_code.reason(error)
            predictions = None if problem else sink.getvalue().to_pybytes()
            rows.append({"video_id": video["video_id"][0].as_py(), "problem": problem, "predictions": predictions})
        return pa.Table.from_pylist(rows, schema=_EACH)
