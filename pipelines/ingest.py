"""FACES -> batches: which face, of which video, in which step of training.

Sample number p of a training is a pure function of (rows, view, seed, p). So a resumed training sees
exactly what an uninterrupted one sees, and N workers see together what one would see alone.
Only this file reads FACES for training and scoring.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models import BadSample, Feed, Mode, Stage
from pipelines.common import cluster, tables
from pipelines.faces import perturb
from pipelines.faces.store import ROWS_PER_GROUP, Faces

log = logging.getLogger(__name__)

META_TRAIN_SHARE = 0.7  # of the source ids, where only one manipulation is trained on (Delocate, Table 2)
VAL_FRAMES = 8  # faces per video that a frame view validates on, evenly spaced
MOST_BLOCKS = 5000  # of a training's steps, for Ray Data; each loader holds one in the object store
MOST_DONORS = 10_000  # faces among which the nearest are looked for (LAA-Net's BI)
TRIES_PER_VIDEO, MOST_TRIES = 3, 12  # where a stage cannot use a face: other frames of the video, then other videos
_LIGHT = tuple(name for name in tables.FACES.names if not name.endswith("_png"))
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Video:
    """One usable video of a part."""

    video_id: str
    label: int
    method: str
    target: str  # first source id: the clip or person whose face was replaced; for a real video its own

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Video":
        return cls(str(row["video_id"]), int(row["label"]), str(row["method"]), str(row["source_ids"][0]))


@dataclass(frozen=True, slots=True)
class Pick:
    """One sample of a view: `where` in [0, 1) chooses the frame, or the first frame of the clip."""

    video: Video
    where: float
    domain: int
    seed: tuple[int, ...]  # of the sample's own random generator


# ----------------------------------------------------------------------------------- which sample
class View:
    """The endless sequence of a view's training samples, and its validation samples.

    Raises ValueError when `videos` lacks a class that the view needs.
    """

    def __init__(self, name: str, videos: Sequence[Video], feed: Feed, seed: int) -> None:
        if name not in _PICKERS:
            raise ValueError(f"unknown view {name!r}; allowed: {', '.join(_PICKERS)}")
        self.name, self.feed, self.seed = name, feed, seed
        self.real = [video for video in videos if video.label == tables.REAL]
        self.fake = [] if name in REAL_VIEWS else [video for video in videos if video.label == tables.FAKE]
        if not self.real or (name not in REAL_VIEWS and not self.fake):
            raise ValueError(f"view {name} needs both classes, got {len(self.real)} real, {len(self.fake)} fake videos")
        self.domains = _domains(self.real, self.fake) if name == "domain_frames" else []

    @property
    def step_size(self) -> int:
        """Samples in one step, over all workers."""
        return self.feed.batch_size * max(1, len(self.domains))

    @property
    def steps_per_epoch(self) -> int:
        if self.feed.steps_per_epoch:
            return self.feed.steps_per_epoch
        epoch = len(self.real) if self.name in REAL_VIEWS else 2 * max(len(self.real), len(self.fake))
        return -(-epoch * self.feed.samples_per_video // self.step_size)

    def step(self, step: int) -> list[Pick]:
        """The samples of one step, ordered so that any equal cut over workers is as balanced as the whole."""
        return _PICKERS[self.name](self, step)

    def share(self, step: int, rank: int, world_size: int) -> list[Pick]:
        """One worker's samples of a step. Raises ValueError if the step can't be cut equally."""
        unit = 2 * len(self.domains) or (1 if self.name in REAL_VIEWS else 2)
        if self.step_size % (unit * world_size):
            raise ValueError(
                f"a step of {self.step_size} samples (view {self.name}, units of {unit}) can't be shared equally by "
                f"{world_size} workers; choose a batch size that is a multiple of "
                f"{unit * world_size // max(1, len(self.domains))}"
            )
        size = self.step_size // world_size
        return self.step(step)[rank * size : (rank + 1) * size]

    def pick(self, video: Video, position: int, domain: int = -1) -> Pick:
        key = (self.seed, _VIEW_SEED[self.name], position)
        # Two streams: else the sample's first draw would repeat the one that chose the frame.
        where = float(np.random.default_rng((*key, 1)).random())
        return Pick(video, where, domain, (*key, 2))

    def instead(self, pick: Pick, tries: int) -> Pick:
        """What takes the place of a pick that the stage could not use `tries` times: a like one."""
        rng = np.random.default_rng((*pick.seed, tries))
        if tries < TRIES_PER_VIDEO:
            video = pick.video
        else:
            real, fake = self.domains[pick.domain] if self.domains else (self.real, self.fake)
            pool = fake if pick.video.label == tables.FAKE else real
            video = pool[rng.integers(len(pool))]
        return Pick(video, float(rng.random()), pick.domain, (*pick.seed, tries, 2))

    def shuffled(self, pool: Sequence[Video], position: int, salt: int) -> Video:
        """Entry `position` of the endless sequence in which every `len(pool)` entries hold each video once."""
        turn, index = divmod(position, len(pool))
        return pool[_permutation(self.seed, salt, turn, len(pool))[index]]


@lru_cache(maxsize=64)
def _permutation(seed: int, salt: int, turn: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, salt, turn)).permutation(size)


def _real_only(view: View, step: int) -> list[Pick]:
    first = step * view.step_size
    return [view.pick(view.shuffled(view.real, p, 1), p) for p in range(first, first + view.step_size)]


def _real_and_fake(view: View, step: int) -> list[Pick]:
    """Alternating, so that each worker's share is balanced."""
    pools = (view.real, view.fake)
    first = step * view.step_size
    return [view.pick(view.shuffled(pools[p % 2], p // 2, 1 + p % 2), p) for p in range(first, first + view.step_size)]


def _by_domain(view: View, step: int) -> list[Pick]:
    """Rounds of (real, fake) for each domain; real faces are drawn without repetition within a step."""
    rounds, num_domains = view.feed.batch_size // 2, len(view.domains)
    rng = np.random.default_rng((view.seed, _VIEW_SEED[view.name], step))
    pools = [real for real, _ in view.domains]
    if all(pool is view.real for pool in pools):
        order = _without_repeats(rng, len(view.real), rounds * num_domains).reshape(rounds, num_domains)
    else:
        order = np.stack([_without_repeats(rng, len(pool), rounds) for pool in pools], axis=1)
    picks = []
    for turn in range(rounds):
        for domain, (real, fake) in enumerate(view.domains):
            position = (step * rounds + turn) * num_domains + domain
            picks.append(view.pick(real[order[turn, domain]], 2 * position, domain))
            fake_video = view.shuffled(fake, step * rounds + turn, 10 + domain)
            picks.append(view.pick(fake_video, 2 * position + 1, domain))
    return picks


def _without_repeats(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` indices below `size`; an index comes back only after all others have been used."""
    turns = -(-count // size)
    return np.concatenate([rng.permutation(size) for _ in range(turns)])[:count]


_PICKERS = {
    "real_clips": _real_only,
    "clips": _real_and_fake,
    "frames": _real_and_fake,
    "domain_frames": _by_domain,
    "real_frames": _real_only,
    "real_pairs": _real_only,
}
_VIEW_SEED = {name: number for number, name in enumerate(_PICKERS)}
VIEWS = tuple(_PICKERS)
CLIP_VIEWS = ("real_clips", "clips")
REAL_VIEWS = ("real_clips", "real_frames", "real_pairs")  # of real videos only


def _domains(real: list[Video], fake: list[Video]) -> list[tuple[list[Video], list[Video]]]:
    """One domain per manipulation. A single manipulation is cut 7:3 by source id, real and fake of an id together."""
    methods = sorted({video.method for video in fake})
    if len(methods) > 1:
        return [(real, [video for video in fake if video.method == method]) for method in methods]
    ids = sorted({video.target for video in (*real, *fake)}, key=lambda name: sha256(name.encode()).hexdigest())
    first = set(ids[: round(META_TRAIN_SHARE * len(ids))])
    sides = [
        ([v for v in real if (v.target in first) == side], [v for v in fake if (v.target in first) == side])
        for side in (True, False)
    ]
    if any(not pool for side in sides for pool in side):
        raise ValueError(f"{len(ids)} source ids are too few to cut into meta-train and meta-test")
    return sides


def clip_starts(num_frames: int, clip_frames: int) -> list[int]:
    """First frames of the fewest evenly spaced clips that cover a video: 30 frames, clips of 16 -> 0, 14."""
    count = -(-num_frames // clip_frames)
    last = max(0, num_frames - clip_frames)
    return [round(last * i / (count - 1)) for i in range(count)] if count > 1 else [0]


# ------------------------------------------------------------------------------------ its contents
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
        self._rows = lru_cache(maxsize=64)(self._read_rows)  # neighbouring frames are asked for one after the other
        self._clean = lru_cache(maxsize=64)(self._decode_clean)  # a face comes once for each perturbation
        self.donors = _Donors(self, donors) if self.feed.donors and donors else None  # none are needed to score

    def _track(self, video_id: str, face_index: int) -> list[dict[str, Any]]:
        """One face of a video, frame by frame, without its pictures; `place` is where they are among its rows."""
        rows = self._faces_of(video_id).video(video_id, _LIGHT).to_pylist()
        rows = [row | {"place": place} for place, row in enumerate(rows)]
        track = [row for row in rows if row["status"] == "ok" and row["face_index"] == face_index]
        return sorted(track, key=lambda row: row["frame_index"])

    def face(self, row: Mapping[str, Any], size_px: int | None = None, perturbation: str = "") -> Arrays:
        """A face of a track, with its pictures, by default at the size that the stage wants.

        perturbation: of the image alone; landmarks, box and mask stay those of the clean face.
        """
        size_px = size_px or self.feed.input_px
        whole = {**row, **self._pictures(row["video_id"], row["place"])}
        if not perturbation:
            return face(whole, size_px)
        image = self._clean(row["video_id"], row["place"])
        return face(whole, size_px, perturb.apply(perturbation, image, row, _key(row)))

    def _decode_clean(self, video_id: str, place: int) -> np.ndarray:
        return _rgb(self._pictures(video_id, place)["image_png"])

    def _pictures(self, video_id: str, place: int) -> dict[str, Any]:
        first = place // ROWS_PER_GROUP * ROWS_PER_GROUP
        return self._rows(video_id, first)[place - first]

    def _read_rows(self, video_id: str, first: int) -> list[dict[str, Any]]:
        rows = range(first, first + ROWS_PER_GROUP)
        return self._faces_of(video_id).video(video_id, ("image_png", "mask_png"), rows).to_pylist()

    def _faces_of(self, video_id: str) -> Faces:
        return self.faces[video_id.split("/", 1)[0]]

    def training_sample(self, pick: Pick) -> Arrays:
        """The largest face of the video; the frame or clip that `where` points to. Raises BadSample."""
        track = self.track(pick.video.video_id, 0)
        frames = self.feed.clip_frames if self.stage.view in CLIP_VIEWS else 1
        start = int(pick.where * (max(0, len(track) - frames) + 1))
        return self._prepare(track, start, pick.video, pick.domain, np.random.default_rng(pick.seed), "train")

    def scoring_samples(
        self,
        video: Video,
        seed: int,
        mode: Mode = "score",
        most_frames: int | None = None,
        perturbation: str = "",
    ) -> Iterator[tuple[list[dict[str, Any]], Arrays]]:
        """Every face of a video: the FACES rows that a sample covers, and the sample.

        In mode select a face that the stage cannot use is left out. A perturbation changes the images and nothing else:
        where a stage draws at random, it draws the same.
        """
        rows = self._faces_of(video.video_id).video(video.video_id, ["face_index"])
        for face_index in sorted({index for index in rows["face_index"].to_pylist() if index is not None}):
            track = self.track(video.video_id, face_index)
            if self.stage.view in CLIP_VIEWS:
                starts, length = clip_starts(len(track), self.feed.clip_frames), self.feed.clip_frames
            else:
                count = min(len(track), most_frames or len(track))
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
        parts = [self.face(row, perturbation=perturbation) for row in frames]
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
                for place, row in enumerate(samples.track(video.video_id, 0)):
                    faces.append((video.video_id, place))
                    points.append(_landmarks(row))
        if len({video_id for video_id, _ in faces}) < 2:
            raise ValueError("donors need faces of at least 2 real videos")
        chosen = np.random.default_rng(0).permutation(len(faces))[:MOST_DONORS]
        self.faces = [faces[i] for i in chosen]
        self.points = np.stack([points[i] for i in chosen])
        self.video_ids = np.array([video_id for video_id, _ in self.faces])

    def near(self, video: Video, row: Mapping[str, Any], rng: np.random.Generator) -> Arrays:
        """`image` and `landmarks` of one of the nearest faces."""
        distance = np.linalg.norm(self.points - _landmarks(row), axis=2).sum(1)
        distance[self.video_ids == video.video_id] = np.inf
        number = min(self.number, int(np.isfinite(distance).sum()))
        video_id, place = self.faces[rng.choice(np.argpartition(distance, number - 1)[:number])]
        found = self.samples.face(self.samples.track(video_id, 0)[place])
        return {name: found[name] for name in ("image", "landmarks")}


def face(row: Mapping[str, Any], size_px: int, image: np.ndarray | None = None) -> Arrays:
    """image: instead of the row's own, of the same size."""
    if image is None:
        image = _rgb(row["image_png"])
    crop_px = image.shape[0]
    landmarks = (_landmarks(row) + 0.5) * (size_px / crop_px) - 0.5  # whole numbers are pixel centres in both
    known = row["label"] == tables.REAL or row["mask_png"] is not None
    mask = np.zeros((size_px, size_px), np.uint8)
    if row["mask_png"] is not None:
        full = _decode(row["mask_png"], cv2.IMREAD_GRAYSCALE)
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
        "key": np.int64(_key(row)),
    }


def _key(row: Mapping[str, Any]) -> int:
    """A number of its own for each face of each frame."""
    return _stable(f"{row['video_id']} {row['frame_index']} {row['face_index']}", 7)


def _landmarks(row: Mapping[str, Any]) -> np.ndarray:
    """(68, 2) in pixels of the stored crop, the same size for all faces of an extraction."""
    return np.asarray(row["landmarks_px"], np.float32).reshape(-1, 2)


def _to_crop(box: Mapping[str, float], crop: Mapping[str, float], size_px: int) -> np.ndarray:
    """A box of the source frame in pixels of its square crop, resized to `size_px`; edges, not pixel centres."""
    scale = size_px / (crop["x1"] - crop["x0"])
    corners = [box["x0"] - crop["x0"], box["y0"] - crop["y0"], box["x1"] - crop["x0"], box["y1"] - crop["y0"]]
    return np.array(corners, np.float32) * np.float32(scale)


def _rgb(png: bytes) -> np.ndarray:
    return cv2.cvtColor(_decode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _decode(png: bytes, flags: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), flags)
    assert pixels is not None, "FACES holds a PNG that can't be decoded"
    return pixels


def _stable(text: str, num_bytes: int = 4) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:num_bytes])


class Derived:
    """Per-frame arrays that one stage made for another: one row group per video, written by `evaluate.derive`."""

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
        """Each derived array, stacked over the frames."""
        found = [self.video(video_id)[index, face_index] for index in frame_indices]
        return {name: np.stack([arrays[name] for arrays in found]) for name in found[0]}


# ----------------------------------------------------------------------------------------- batches
def stack(samples: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items, of which None is none; a thread makes the next one while the caller is busy with the last."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last one may be shorter."""
    while chunk := list(islice(items, size)):
        yield chunk


def _load(samples: Samples, view: View, picks: Sequence[Pick]) -> tuple[list[Pick], Arrays]:
    """The picks as a batch; one that the stage cannot use is replaced, and named in the log."""
    used, arrays = [], []
    for pick in picks:
        for tries in range(MOST_TRIES + 1):
            instead = view.instead(pick, tries) if tries else pick
            try:
                arrays.append(samples.training_sample(instead))
            except BadSample as error:
                log.info("%s is not used in this step: %s", instead.video.video_id, error)
                if tries == MOST_TRIES:
                    raise BadSample(
                        f"no usable face after {tries} others for one of {pick.video.video_id}; the last: {error}"
                    ) from error
            else:
                used.append(instead)
                break
    return used, stack(arrays)


def batches(
    samples: Samples, view: View, steps: range, rank: int, world_size: int
) -> Iterator[tuple[list[Pick], Arrays]]:
    """One worker's batches of `steps`, made one ahead by a thread of this process."""

    def load(step: int) -> tuple[list[Pick], Arrays]:
        return _load(samples, view, view.share(step, rank, world_size))

    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(load, step) for step in steps[:2]]
        for step in steps[2:]:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(load, step))
        for future in ahead:
            yield future.result()


class _LoadStep:
    """Ray Data actor: step number -> that step's batch."""

    def __init__(self, make_samples: Any, view: View, rank: int, world_size: int) -> None:
        self.samples, self.view, self.rank, self.world_size = make_samples(), view, rank, world_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _load(self.samples, self.view, self.view.share(int(row["id"]), self.rank, self.world_size))[1]


def ray_batches(
    make_samples: Any, view: View, steps: range, rank: int, world_size: int, num_loaders: int
) -> Iterator[tuple[list[Pick], Arrays]]:
    """The same batches in the same order, made by Ray Data on up to `num_loaders` CPUs while the GPUs train."""
    import ray  # here: the rest of this file must run without Ray

    if not steps:
        return
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    # From memory: reading would be a task that needs a CPU beside those that workers and loaders hold.
    numbers = ray.data.from_items([{"id": step} for step in steps], override_num_blocks=min(len(steps), MOST_BLOCKS))
    loaded = numbers.map(
        _LoadStep,  # type: ignore[arg-type]  # Ray's stubs do not know classes that are called
        fn_constructor_args=(make_samples, view, rank, world_size),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_loaders),
        label_selector=cluster.selector(cluster.VIDEO),
    )
    for step, row in zip(steps, loaded.iter_rows(), strict=True):
        yield view.share(step, rank, world_size), row
