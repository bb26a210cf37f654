"""Video files -> exact frames.

A frame's index is its place in the decoded stream, in order of presentation, whatever the header says
about frame rate and count. The index comes from the packets' timestamps, which costs a pass over the
file without decoding; the decoder then starts at the last keyframe before a wanted frame and leaves
out what no wanted frame refers to. Streams without usable timestamps are decoded from the start.

Frames come upright (display matrix applied) as RGB. Pixels are taken as square: a sample aspect ratio
is not applied, as in the papers' own tools.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import av
import av.error
import fsspec
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# What reading a damaged container or stream raises; some are FFmpegError, some plain OSError (remote files).
_MEDIA_ERRORS = (av.error.FFmpegError, OSError)


class UnreadableVideo(ValueError):
    """No frame of the video can be had; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`rgb` is uint8 (H, W, 3), upright; `time_s` counts from the first frame."""

    frame_index: int
    time_s: float
    rgb: np.ndarray


@dataclass(frozen=True, slots=True)
class Clip:
    """Sampled frames in order; `note` says what could not be decoded, and is empty for a sound video."""

    frames: list[Frame]
    num_frames: int  # in the whole stream
    note: str = ""


@dataclass(slots=True)
class Index:
    """What the packets say about the stream.

    `pts` are the frames' timestamps in order of presentation, in units of `time_base` seconds, and
    `keyframes` those among them at which a decoder can start. `usable` is False where packets lack
    timestamps or two share one; then `pts` says nothing and frames have to be counted.
    """

    pts: list[int]
    keyframes: list[int]
    time_base: float
    usable: bool
    note: str = ""
    rank: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rank = {pts: index for index, pts in enumerate(self.pts)}


def even_indices(total: int, n: int) -> list[int]:
    """`n` indices spread evenly over 0 .. total - 1: the middles of n equal parts; each once when total <= n.

    The middles, not the ends: the first and last frames of a film are the ones most often black.
    """
    if total < 0 or n < 1:
        raise ValueError(f"even_indices needs total >= 0 and n >= 1, got total={total}, n={n}")
    if total <= n:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * n) for part in range(n)]


def sample(path: str | PathLike[str], num_frames: int) -> list[Frame]:
    """`num_frames` evenly spaced frames of a video, or all of them when it has fewer."""
    return read(path, num_frames).frames


def read(path: str | PathLike[str], num_frames: int) -> Clip:
    """As `sample`, with a note on what is damaged. Memory: `num_frames` frames, however long the video.

    Raises UnreadableVideo when not one frame can be decoded.
    """
    index = _index(path)
    if index.usable:
        wanted = even_indices(len(index.pts), num_frames)
        frames = list(_grab_by_time(path, index, wanted))
        if frames:
            lost = len(wanted) - len(frames)
            notes = [index.note, f"{lost} of {len(wanted)} sampled frames cannot be decoded" if lost else ""]
            return Clip(frames, len(index.pts), "; ".join(filter(None, notes)))
    total = sum(1 for _ in _decode(path))
    if not total:
        raise UnreadableVideo(f"{path}: no frame can be decoded")
    return Clip(list(_grab_by_count(path, even_indices(total, num_frames))), total, index.note)


def grab(path: str | PathLike[str], frame_indices: Iterable[int]) -> Iterator[Frame]:
    """The frames at the given indices, in order, one at a time; those that do not exist are left out.

    Raises UnreadableVideo when the file cannot be read at all.
    """
    wanted = sorted(set(frame_indices))
    index = _index(path)
    return _grab_by_time(path, index, wanted) if index.usable else _grab_by_count(path, wanted)


def _index(path: str | PathLike[str]) -> Index:
    pts: list[int | None] = []
    keyframes: list[int] = []
    broken = ""
    with _open(path) as (container, stream):
        promised, time_base = stream.frames, float(stream.time_base or 0)
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard and not packet.is_corrupt:  # discard: cut off by an edit list
                    pts.append(packet.pts)
                    if packet.is_keyframe and packet.pts is not None:
                        keyframes.append(packet.pts)
        except _MEDIA_ERRORS as error:
            broken = f"reading stops after {len(pts)} frames: {_brief(error)}"
        if not broken and promised > len(pts) > 0:
            broken = f"truncated: the header promises {promised} frames, the file holds {len(pts)}"
    known = [value for value in pts if value is not None]
    usable = bool(time_base) and bool(known) and len(known) == len(pts) == len(set(known))
    return Index(sorted(known), sorted(keyframes), time_base, usable, broken)


def _grab_by_time(path: str | PathLike[str], index: Index, wanted: Sequence[int]) -> Iterator[Frame]:
    """Frames by timestamp: first by jumping between keyframes, then what that missed from the start.

    Jumping misses frames where a container's keyframe flags promise too much (gradual refresh, broken
    seek tables).
    """
    missing = {index.pts[i] for i in wanted if 0 <= i < len(index.pts)}
    early: dict[int, Frame] = {}  # found by jumping, held back until the frames before them are there
    for jumping in (True, False):
        if not missing:
            break
        last = max(missing)
        for frame in _decode(path, missing, index.keyframes if jumping else ()):
            if frame.pts in missing and not frame.is_corrupt:
                missing.discard(frame.pts)
                early[frame.pts] = _to_frame(frame, index.rank[frame.pts], (frame.pts - index.pts[0]) * index.time_base)
                while early and min(early) < min(missing, default=math.inf):
                    yield early.pop(min(early))
            if not missing or (frame.pts is not None and frame.pts >= last):
                break
    for pts in sorted(early):
        yield early[pts]


def _grab_by_count(path: str | PathLike[str], wanted: Sequence[int]) -> Iterator[Frame]:
    remaining = set(wanted)
    start: float | None = None
    for count, frame in enumerate(_decode(path)):
        if not remaining:
            break
        time_s = _seconds(frame, count)
        start = time_s if start is None else start
        if count in remaining:
            remaining.discard(count)
            yield _to_frame(frame, count, time_s - start)


def _decode(
    path: str | PathLike[str], wanted: Iterable[int] | None = None, keyframes: Sequence[int] = ()
) -> Iterator[VideoFrame]:
    """Decoded frames, in order of presentation; damaged packets are passed over.

    With `wanted` timestamps, frames that no other frame refers to are decoded only if wanted; with
    `keyframes` also, stretches without a wanted frame are jumped over.
    """
    targets = sorted(wanted) if wanted is not None else []
    needed = set(targets)
    starts = {pts: max((key for key in keyframes if key <= pts), default=None) for pts in targets}
    with _open(path) as (container, stream):
        position = -math.inf  # timestamp up to which frames have come out
        jumped: int | None = None
        while True:
            ahead = next((pts for pts in targets if pts > position), None)
            start = starts.get(ahead) if ahead is not None else None
            if start is not None and start > position and start != jumped:
                jumped = start
                try:
                    container.seek(start, stream=stream)
                except _MEDIA_ERRORS:
                    return  # a broken seek table: the caller goes through the file from its start
            for frame in _drain(container, stream, needed if targets else None):
                yield frame
                if frame.pts is None:
                    continue
                position = max(position, frame.pts)
                ahead = next((pts for pts in targets if pts > position), None)
                start = starts.get(ahead) if ahead is not None else None
                if start is not None and start > position and start != jumped:
                    break  # the next wanted frame lies behind a later keyframe
            else:
                return


def _drain(container: InputContainer, stream: VideoStream, needed: set[int] | None) -> Iterator[VideoFrame]:
    try:
        for packet in container.demux(stream):
            if needed is not None:  # a packet without a timestamp is the flush at the end
                idle = packet.pts is not None and packet.pts not in needed
                stream.codec_context.skip_frame = "NONREF" if idle else "DEFAULT"
            yield from _decode_packet(packet)
    except _MEDIA_ERRORS:
        return  # the rest of the file cannot be read: `Index.note` says so


def _decode_packet(packet: Packet) -> list[VideoFrame]:
    try:
        return packet.decode()
    except av.error.FFmpegError:
        return []


@contextmanager
def _open(path: str | PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, single-threaded: extraction runs one actor for each core."""
    name = str(path)
    remote = "://" in name
    if not remote and Path(name).is_dir():
        raise UnreadableVideo(f"{name}: is a folder, not a video file")
    try:
        if remote:
            with fsspec.open(name, "rb") as file, av.open(file) as container:
                yield container, _video_stream(name, container)
        else:
            if Path(name).stat().st_size == 0:
                raise UnreadableVideo(f"{name}: empty file")
            with av.open(name) as container:
                yield container, _video_stream(name, container)
    except FileNotFoundError as error:
        raise UnreadableVideo(f"{name}: no such file") from error
    except PermissionError as error:
        raise UnreadableVideo(f"{name}: no permission to read it") from error
    except av.error.InvalidDataError as error:
        raise UnreadableVideo(f"{name}: not a video file, or cut off before its index") from error
    except _MEDIA_ERRORS as error:
        raise UnreadableVideo(f"{name}: {_brief(error)}") from error


def _video_stream(name: str, container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise UnreadableVideo(f"{name}: holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise UnreadableVideo(f"{name}: no decoder for its video stream")
    stream.codec_context.thread_count = 1
    return stream


def _to_frame(frame: VideoFrame, frame_index: int, time_s: float) -> Frame:
    return Frame(frame_index, time_s, _upright(frame.to_ndarray(format="rgb24"), frame))


def _upright(rgb: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Apply the display matrix as far as it turns by quarters or mirrors; other angles are left, as OpenCV does.

    The matrix holds x' = a x + c y, y' = b x + d y as 16.16 fixed point in rows (a, b, u), (c, d, v), (x, y, w).
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
        if abs(a) < abs(b):
            rgb, a, d = rgb.transpose(1, 0, 2), c, b
        rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb)


def _seconds(frame: VideoFrame, count: int) -> float:
    """Time of a frame in a stream whose packets lack timestamps: the decoder's guess, else the count at 25 Hz."""
    return frame.time if frame.time is not None else count / 25


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
