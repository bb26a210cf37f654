"""FACES -> samples: the arrays of a face, or of a clip of faces, as a stage wants them.

Only this file reads FACES for training and scoring.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models import BadSample, Mode, Stage
from pipelines.common import tables
from pipelines.common.pictures import decode_png
from pipelines.faces import perturb
from pipelines.faces.store import ROWS_PER_GROUP, Faces
from pipelines.training.views import CLIP_VIEWS, Pick, Video, clip_starts

log = logging.getLogger(__name__)

VAL_FRAMES = 8  # faces per video that a frame view validates on, evenly spaced
MOST_DONORS = 10_000  # faces among which the nearest are looked for (LAA-Net's BI)
_LIGHT = tuple(name for name in tables.FACES.names if not name.endswith("_png"))
Arrays = dict[str, np.ndarray]


class Samples:
    """Samples of one stage, as `Stage.prepare` made them.

    faces: the FACES folder of each dataset. derived: what the stage `reads`, if it reads anything.
    donors: the videos whose faces a stage that asks for them gets as `donor`.
    """

    def __init__(
        self,
        stage: type[Stage],
        config: Any,
        faces: Mapping[str, Path],
        derived: "Derived | None" = None,
        donors: Sequence[Video] = (),
    ) -> None:
        self.stage, self.config, self.derived = stage, config, derived
        self.feed = stage.feed(config)
        self.faces = {name: Faces(folder) for name, folder in faces.items()}
        self.track = lru_cache(maxsize=4096)(self._track)
        self._rows = lru_cache(maxsize=64)(self._read_rows)
        self._clean = lru_cache(maxsize=64)(self._decode_clean)  # a face comes once for each perturbation
        self.donors = _Donors(self, donors) if self.feed.donors and donors else None  # none are needed to score

    def _track(self, video_id: str, face_index: int) -> list[dict[str, Any]]:
        """Return the FACES rows of one face of a video, frame by frame, without pictures.

        `place`: where a row lies among those of its video.
        """
        rows = self._faces_of(video_id).video(video_id, _LIGHT).to_pylist()
        rows = [row | {"place": place} for place, row in enumerate(rows)]
        track = [row for row in rows if row["status"] == "ok" and row["face_index"] == face_index]
        return sorted(track, key=lambda row: row["frame_index"])

    def face(
        self, row: Mapping[str, Any], size_px: int | None = None, perturbation: str = "", alone: bool = False
    ) -> Arrays:
        """Return the arrays of a row of a track (see `face_arrays`), by default at the size that the stage wants.

        A perturbation changes the image alone; landmarks, box and mask stay those of the clean face. `alone`: no
        neighbouring frame will be asked for, so that none is read.
        """
        size_px = size_px or self.feed.input_px
        whole = {**row, **self._pictures(row["video_id"], row["place"], alone)}
        if not perturbation:
            return face_arrays(whole, size_px)
        image = self._clean(row["video_id"], row["place"], alone)
        return face_arrays(whole, size_px, perturb.apply(perturbation, image, row, _key(row)))

    def _decode_clean(self, video_id: str, place: int, alone: bool) -> np.ndarray:
        return decode_png(self._pictures(video_id, place, alone)["image_png"])

    def _pictures(self, video_id: str, place: int, alone: bool) -> dict[str, Any]:
        number = 1 if alone else ROWS_PER_GROUP  # which lie side by side
        first = place // number * number
        return self._rows(video_id, first, number)[place - first]

    def _read_rows(self, video_id: str, first: int, number: int) -> list[dict[str, Any]]:
        rows = range(first, first + number)
        return self._faces_of(video_id).video(video_id, ("image_png", "mask_png"), rows).to_pylist()

    def _faces_of(self, video_id: str) -> Faces:
        return self.faces[tables.dataset_of(video_id)]

    def training_sample(self, pick: Pick) -> Arrays:
        """Return the sample of a pick: the video's largest face, in the frame or clip that `where` points to.

        Raises BadSample where the stage cannot use it.
        """
        track = self._of_use(self.track(pick.video.video_id, 0))
        if not track:
            raise BadSample(f"in no frame of {pick.video.video_id} a face was found")
        frames = self.feed.clip_frames if self.stage.view in CLIP_VIEWS else 1
        start = int(pick.where * (max(0, len(track) - frames) + 1))
        return self._prepare(track, start, pick.video, pick.domain, np.random.default_rng(pick.seed), "train")

    def _of_use(self, track: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that can be trained on. No pseudo-fake is made with landmarks of another frame."""
        return _detected(track) if self.stage.view == "real_pairs" else track

    def scoring_samples(
        self,
        video: Video,
        seed: int,
        mode: Mode = "score",
        most_frames: int | None = None,
        perturbation: str = "",
    ) -> Iterator[tuple[list[dict[str, Any]], Arrays]]:
        """Yield every face of a video: the FACES rows that a sample covers, and the sample.

        most_frames: so many, evenly spaced, of a stage that takes single frames. In mode select a face that the stage
        cannot use is left out; in mode score it raises BadSample. A perturbation changes the images and nothing else:
        where a stage draws at random, it draws the same.
        """
        rows = self._faces_of(video.video_id).video(video.video_id, ["face_index"])
        for face_index in sorted({index for index in rows["face_index"].to_pylist() if index is not None}):
            track = self.track(video.video_id, face_index)
            if mode == "select":
                track = self._of_use(track)
            if self.stage.view in CLIP_VIEWS:
                starts, length = clip_starts(len(track), self.feed.clip_frames), self.feed.clip_frames
            else:
                count = min(len(track), most_frames or len(track))  # 0 where no frame is of use
                starts, length = [i * len(track) // count for i in range(count)], 1
            for start in starts:
                rng = np.random.default_rng((seed, _stable(video.video_id), face_index, start))
                try:
                    sample = self._prepare(track, start, video, -1, rng, mode, perturbation)
                except BadSample as error:
                    if mode == "score":
                        raise  # a stage must score every face
                    log.info("%s, frame %d is not used: %s", video.video_id, track[start]["frame_index"], error)
                    continue
                yield track[start : start + length], sample

    def _prepare(
        self,
        track: list[dict[str, Any]],
        start: int,
        video: Video,
        domain: int,
        rng: np.random.Generator,
        mode: Mode,
        perturbation: str = "",
    ) -> Arrays:
        length = self.feed.clip_frames if self.stage.view in CLIP_VIEWS else 1
        # A video with fewer frames than a clip repeats its last one.
        frames = [track[min(start + i, len(track) - 1)] for i in range(length)]
        alone = length == 1 and mode != "score"
        parts = [self.face(row, perturbation=perturbation, alone=alone) for row in frames]
        sample: dict[str, Any] = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        if self.derived is not None:
            sample |= self.derived.frames(
                video.video_id, [row["frame_index"] for row in frames], frames[0]["face_index"]
            )
        if self.stage.view not in CLIP_VIEWS:
            sample = {name: value[0] for name, value in sample.items()}
        sample |= {"label": video.label, "domain": domain}
        if self.donors is not None and mode != "score":
            sample["donor"] = self.donors.near(video, track[start], rng)
        return self.stage.prepare(self.config, sample, rng, mode)


class _Donors:
    """Faces of other videos whose landmarks lie nearest in their crops (Face X-ray's blended images)."""

    def __init__(self, samples: Samples, videos: Sequence[Video]) -> None:
        self.samples, self.number = samples, samples.feed.donors
        faces, points = [], []
        for video in videos:
            if video.label == tables.REAL:
                for place, row in enumerate(_detected(samples.track(video.video_id, 0))):
                    faces.append((video.video_id, place))
                    points.append(_landmarks(row))
        if len({video_id for video_id, _ in faces}) < 2:
            raise ValueError("donors need faces of at least 2 real videos")
        chosen = np.random.default_rng(0).permutation(len(faces))[:MOST_DONORS]
        self.faces = [faces[i] for i in chosen]
        self.points = np.stack([points[i] for i in chosen])
        self.video_ids = np.array([video_id for video_id, _ in self.faces])

    def near(self, video: Video, row: Mapping[str, Any], rng: np.random.Generator) -> Arrays:
        """Return `image` and `landmarks` of one of the nearest faces of other videos, drawn at random."""
        distance = np.linalg.norm(self.points - _landmarks(row), axis=2).sum(1)
        distance[self.video_ids == video.video_id] = np.inf
        number = min(self.number, int(np.isfinite(distance).sum()))
        video_id, place = self.faces[rng.choice(np.argpartition(distance, number - 1)[:number])]
        donor = self.samples.face(_detected(self.samples.track(video_id, 0))[place], alone=True)
        return {name: donor[name] for name in ("image", "landmarks")}


def _detected(track: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of frames in which the face was found; in others its box and landmarks are another frame's."""
    return [row for row in track if row["face_score"] > 0]


def face_arrays(row: Mapping[str, Any], size_px: int, image: np.ndarray | None = None) -> Arrays:
    """Return the arrays of a FACES row, the crop resized to `size_px`.

    `image` uint8 (S, S, 3) RGB; `landmarks` float32 (68 or 81, 2), x, y, whole numbers are pixel centres; `box` float32
    (4,), x0, y0, x1, y1, edges; `mask` uint8 (S, S), 1 where the face is manipulated; `mask_valid`: whether that is
    known; `native_px`: side of the crop in its frame; `key`: a number of its own for each face of each frame.
    image: instead of the row's own, of the same size.
    """
    if image is None:
        image = decode_png(row["image_png"])
    crop_px = image.shape[0]
    landmarks = (_landmarks(row) + 0.5) * (size_px / crop_px) - 0.5
    known = row["label"] == tables.REAL or row["mask_png"] is not None
    mask = np.zeros((size_px, size_px), np.uint8)
    if row["mask_png"] is not None:
        full = decode_png(row["mask_png"])
        mask = (cv2.resize(full, (size_px, size_px), interpolation=cv2.INTER_NEAREST) > 127).astype(np.uint8)
    if crop_px != size_px:
        shrink = cv2.INTER_AREA if size_px < crop_px else cv2.INTER_CUBIC
        image = cv2.resize(image, (size_px, size_px), interpolation=shrink)
    return {
        "image": image,
        "landmarks": landmarks,
        "box": _to_crop(row["box_px"], row["crop_px"], size_px),
        "mask": mask,
        "mask_valid": np.asarray(known),
        "native_px": np.float32(row["crop_px"]["x1"] - row["crop_px"]["x0"]),
        "key": np.int64(_key(row)),
    }


def face_area_px(row: Mapping[str, Any]) -> float:
    """Return the area of a face's box in its source frame, in square pixels."""
    box = row["box_px"]
    return float((box["x1"] - box["x0"]) * (box["y1"] - box["y0"]))


def _key(row: Mapping[str, Any]) -> int:
    """Return a number of its own for each face of each frame."""
    return _stable(f"{row['video_id']} {row['frame_index']} {row['face_index']}", 7)


def _landmarks(row: Mapping[str, Any]) -> np.ndarray:
    """Return the landmarks (68 or 81, 2) in pixels of the stored crop, which has one size in an extraction."""
    return np.asarray(row["landmarks_px"], np.float32).reshape(-1, 2)


def _to_crop(box: Mapping[str, float], crop: Mapping[str, float], size_px: int) -> np.ndarray:
    """Return a box of the source frame in pixels of its square crop, resized to `size_px`; edges, not pixel centres."""
    scale = size_px / (crop["x1"] - crop["x0"])
    corners = [box["x0"] - crop["x0"], box["y0"] - crop["y0"], box["x1"] - crop["x0"], box["y1"] - crop["y0"]]
    return np.array(corners, np.float32) * np.float32(scale)


def _stable(text: str, num_bytes: int = 4) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(sha256(text.encode()).digest()[:num_bytes])


class Derived:
    """Arrays that one stage made of each frame for another: a row group per video, by `scoring.score.derive`."""

    SCHEMA = pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("frame_index", pa.int32(), nullable=False),
            pa.field("face_index", pa.int8(), nullable=False),
            pa.field("name", pa.string(), nullable=False),
            pa.field("shape", pa.list_(pa.int32()), nullable=False),
            pa.field("data", pa.binary(), nullable=False),  # uint8, C order
        ]
    )

    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetFile(path)
        metadata = self.file.metadata
        groups = range(metadata.num_row_groups)
        self.index = {metadata.row_group(g).column(0).statistics.min: g for g in groups}
        self.video = lru_cache(maxsize=128)(self._video)

    def _video(self, video_id: str) -> dict[tuple[int, int], Arrays]:
        rows = self.file.read_row_group(self.index[video_id]).to_pylist()
        arrays: dict[tuple[int, int], Arrays] = {}
        for row in rows:
            value = np.frombuffer(row["data"], np.uint8).reshape(row["shape"])
            arrays.setdefault((row["frame_index"], row["face_index"]), {})[row["name"]] = value
        return arrays

    def frames(self, video_id: str, frame_indices: Sequence[int], face_index: int) -> Arrays:
        """Return each derived array, stacked over the frames."""
        of_frames = [self.video(video_id)[index, face_index] for index in frame_indices]
        return {name: np.stack([arrays[name] for arrays in of_frames]) for name in of_frames[0]}
