"""Frames of a video, taken as extraction takes them: look through it, choose, decode."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.media import decode
from pipelines.media.frames import Frame
from pipelines.media.sampling import Sampling, indices


@dataclass(frozen=True)
class Taken:
    frames: list[Frame]
    num_frames: int  # in the whole video
    note: str  # what is damaged


def take(path: str | Path, sampling: Sampling | int) -> Taken:
    """Return the sampled frames; a number n stands for n evenly spaced ones. Raise UnreadableVideo."""
    if isinstance(sampling, int):
        sampling = Sampling(num_frames=sampling)
    source = decode.open_source(path)
    frames = list(source.frames(indices(sampling, source.times)))
    return Taken(frames, len(source.times), source.note)
