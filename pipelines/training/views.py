"""Which face, of which video, in which step of training.

Sample number p of a training is a pure function of (rows, view, seed, p). So a resumed training sees exactly what an
uninterrupted one sees, and N workers see together what one would see alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any
from zlib import crc32

import numpy as np

from models import Feed
from pipelines.common import tables

META_TRAIN_SHARE = 0.7  # of the source ids, where only one manipulation is trained on (Delocate, Table 2)
TRIES_PER_VIDEO, MOST_TRIES = 3, 12  # where a stage cannot use a face: other frames of the video, then other videos


@dataclass(frozen=True, slots=True)
class Video:
    """One usable video of a part."""

    video_id: str
    label: int
    method: str
    target: str  # first source id: the clip or person whose face was replaced; for a real video its own

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Video":
        """Make it from a row of VIDEOS."""
        return cls(str(row["video_id"]), int(row["label"]), str(row["method"]), str(row["source_ids"][0]))


@dataclass(frozen=True, slots=True)
class Pick:
    """One sample of a view: `where` in [0, 1) chooses the frame, or the first frame of the clip."""

    video: Video
    where: float
    domain: int
    seed: tuple[int, ...]  # of the sample's own random generator


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
        self._real_of: dict[str, list[Video]] = {}  # target -> its real videos
        for video in self.real:
            self._real_of.setdefault(video.target, []).append(video)

    @property
    def step_size(self) -> int:
        """Number of samples in one step, over all workers."""
        return self.feed.batch_size * max(1, len(self.domains))

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps: what the paper says, or as many as show each video of the larger class so often."""
        if self.feed.steps_per_epoch:
            return self.feed.steps_per_epoch
        epoch = len(self.real) if self.name in REAL_VIEWS else 2 * max(len(self.real), len(self.fake))
        return -(-epoch * self.feed.samples_per_video // self.step_size)

    def step(self, step: int) -> list[Pick]:
        """Return the samples of one step, ordered so that any equal cut over workers is as balanced as the whole."""
        return _PICKERS[self.name](self, step)

    def share(self, step: int, rank: int, world_size: int) -> list[Pick]:
        """Return one worker's samples of a step. Raises ValueError if the step can't be cut equally."""
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
        """Return sample number `position` of the training, at a random place in the video."""
        key = (self.seed, _VIEW_SEED[self.name], position)
        # Two streams: else the sample's first draw would repeat the one that chose the frame.
        where = float(np.random.default_rng((*key, 1)).random())
        return Pick(video, where, domain, (*key, 2))

    def pick_fixed(self, video: Video, position: int) -> Pick:
        """Return sample number `position` of the training, at one of `samples_per_video` evenly spaced places.

        Each time that the video comes it is at the next place: after so many times all places have been seen once.
        """
        count = self.feed.samples_per_video
        number = (position // len(self.real) + crc32(video.video_id.encode())) % count
        where = min(number / max(1, count - 1), 1 - 1e-9)
        return replace(self.pick(video, position), where=where)

    def paired(self, picks: list[Pick]) -> list[Pick]:
        """Return picks, real and fake in turn; with `Feed.pairs` the real ones are of the fakes' targets and moments.

        A fake of whose target there is no real video keeps the real one beside it.
        """
        if not self.feed.pairs:
            return picks
        pairs = []
        for real, fake in zip(picks[::2], picks[1::2], strict=True):
            if videos := self._real_of.get(fake.video.target):
                real = replace(real, video=videos[crc32(repr(fake.seed).encode()) % len(videos)], where=fake.where)
            pairs += [real, fake]
        return pairs

    def instead(self, pick: Pick, tries: int) -> Pick:
        """Return what replaces a pick that the stage could not use: another frame, later another video of its class."""
        rng = np.random.default_rng((*pick.seed, tries))
        if tries < TRIES_PER_VIDEO:
            video = pick.video
        else:
            real, fake = self.domains[pick.domain] if self.domains else (self.real, self.fake)
            pool = fake if pick.video.label == tables.FAKE else real
            video = pool[rng.integers(len(pool))]
        return Pick(video, float(rng.random()), pick.domain, (*pick.seed, tries, 2))

    def shuffled(self, pool: Sequence[Video], position: int, salt: int) -> Video:
        """Return entry `position` of the endless sequence in which every `len(pool)` entries hold each video once."""
        turn, index = divmod(position, len(pool))
        return pool[_permutation(self.seed, salt, turn, len(pool))[index]]


@lru_cache(maxsize=64)
def _permutation(seed: int, salt: int, turn: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, salt, turn)).permutation(size)


def _real_only(view: View, step: int) -> list[Pick]:
    first = step * view.step_size
    pick = view.pick_fixed if view.feed.fixed_frames else view.pick
    return [pick(view.shuffled(view.real, p, 1), p) for p in range(first, first + view.step_size)]


def _real_and_fake(view: View, step: int) -> list[Pick]:
    """Pick real and fake in turn, so that each worker's share is balanced."""
    pools = (view.real, view.fake)
    first = step * view.step_size
    last = first + view.step_size
    return view.paired([view.pick(view.shuffled(pools[p % 2], p // 2, 1 + p % 2), p) for p in range(first, last)])


def _by_domain(view: View, step: int) -> list[Pick]:
    """Pick rounds of (real, fake) for each domain; real faces are drawn without repetition within a step."""
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
    return view.paired(picks)


def _without_repeats(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Return `count` indices below `size`; an index comes back only after all others have been used."""
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
    """Return (real, fake) of each domain: one per manipulation.

    A single manipulation is cut 7:3 by source id, real and fake of an id together.
    """
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
    """Return the first frames of the fewest evenly spaced clips that cover a video: 30 frames, clips of 16 -> 0, 14."""
    count = -(-num_frames // clip_frames)
    last = max(0, num_frames - clip_frames)
    return [round(last * i / (count - 1)) for i in range(count)] if count > 1 else [0]
