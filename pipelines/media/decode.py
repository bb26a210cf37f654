"""Videos, and the decoding of exactly the frames that are asked for.

A video is a video file, a folder of pictures, or a folder of pictures inside a tar archive. Only local paths are
opened; `pipelines.media.fetch` downloads others.

A frame's index is its place in the decoded stream, in order of presentation, whatever the header says about frame rate
and count. The index comes from the packets' timestamps, which costs a pass over the file without decoding. The decoder
then starts at the last keyframe before a wanted frame and skips what no wanted frame refers to. Streams whose
timestamps say nothing about the order of presentation are decoded from the start, and frames are counted.

Frames come upright (display matrix applied) as RGB. Pixels are taken as square: a sample aspect ratio is not applied,
as in the papers' own tools.
"""

import math
import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.common.text import one_line
from pipelines.media import stills
from pipelines.media.frames import Frame, Source, UnreadableVideo

# What reading a damaged container or stream raises; some are FFmpegError, some plain OSError.
_MEDIA_ERRORS = (av.error.FFmpegError, OSError)
_REORDER = 16  # frames that a decoder may be late with: the most that H.264 and HEVC allow
# Decoders that can be told packet by packet to leave out frames which no other refers to. dav1d (AV1) reads this once,
# when it opens.
_SKIPPING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"})
_CLOCK_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT: transport and program streams, which may be cut and joined
_JUMP_S = 10  # a longer step of such a clock is none of the film
_SHORT_S = 0.5  # by which frames may end before the end that a header promises


@dataclass(slots=True)
class Index:
    """What the packets say about a stream.

    `pts` are the frames' timestamps in order of presentation, in the stream's units, and `times` the same in seconds
    from the first, both empty where packets lack timestamps or two share one; `keyframes` are those at which a decoder
    can start; `rank` maps a timestamp to the frame's index. `in_order` is False where timestamps do not say in which
    order frames are shown; then frames have to be counted. `note` says what is damaged.
    """

    pts: list[int]
    keyframes: list[int]
    times: list[float]
    in_order: bool
    note: str = ""
    rank: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rank = {pts: index for index, pts in enumerate(self.pts)}


def grab(path: str | PathLike[str], frame_indices: Iterable[int]) -> Iterator[Frame]:
    """Yield the frames at the given indices, in order; those that do not exist or cannot be decoded are left out.

    Raise UnreadableVideo when the file cannot be read at all.
    """
    return open_source(path).frames(frame_indices)


def open_source(path: str | PathLike[str]) -> Source:
    """Look through the video at a local path: a video file, a picture, a folder of pictures, `archive.tar.gz/folder`.

    This costs one pass over the packets of a video file, or over the names in an archive. Raise UnreadableVideo when
    it is missing, is no video or holds no picture.
    """
    if Path(path).is_dir():
        return stills.open_folder(Path(path))
    inside = stills.split(path)
    if inside is not None:
        return stills.open_archive(Path(inside[0]), inside[1])
    if stills.is_picture(Path(path).name):
        return stills.open_picture(Path(path))
    return _Film(path)


class _Film:
    """A video file as a source (see `frames.Source`)."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = path
        self._index = _index(path)
        self._counted = ""
        self._doubtful: set[int] = set()  # indices of frames given that may show garbage

    @cached_property
    def times(self) -> Sequence[float]:
        if self._index.times:
            return self._index.times
        shown = [_seconds(frame, count) for count, (frame, _) in enumerate(_decode(self._path))]
        return _from_first(shown, clock_may_jump=True)

    @property
    def note(self) -> str:
        lines = [self._index.note, self._counted]
        if self._doubtful:
            lines.append(f"damaged: {len(self._doubtful)} of the frames taken may show what was lost wrongly")
        return "; ".join(filter(None, lines))

    def frames(self, frame_indices: Iterable[int]) -> Iterator[Frame]:
        wanted = sorted(set(frame_indices))
        if self._index.in_order:
            try:
                yield from self._known(_grab_by_time(self._path, self._index, wanted))
                return
            except _ForeignTimes:
                self._counted = "decoded frames carry other timestamps than the packets: frames are counted"
        yield from self._known(_grab_by_count(self._path, wanted, self.times if wanted else ()))

    def _known(self, frames: Iterable[tuple[Frame, bool]]) -> Iterator[Frame]:
        for frame, sound in frames:
            if not sound:
                self._doubtful.add(frame.frame_index)
            yield frame


class _ForeignTimes(Exception):
    """Frames come out of the decoder, but none with a timestamp of the index."""


def _index(path: str | PathLike[str]) -> Index:
    """Read all packets of a video file, without decoding. Raise UnreadableVideo."""
    pts: list[int | None] = []
    dts: list[int] = []
    keyframes: list[int] = []
    num_hidden = 0  # packets that an edit list cuts off: decoded, but not shown
    damage, ends_broken = "", False
    with _open(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.dts is not None:
                    dts.append(packet.dts)
                if packet.is_discard:
                    num_hidden += 1
                elif packet.size:
                    ends_broken = packet.is_corrupt
                    pts.append(packet.pts)
                    if packet.is_keyframe and packet.pts is not None:
                        keyframes.append(packet.pts)
        except _MEDIA_ERRORS as error:
            damage = f"reading stops after {len(pts)} frames: {one_line(error)}"
        if pts and ends_broken:  # the rest of a last frame lies behind the end of the file
            pts.pop()
        known = [value for value in pts if value is not None]
        clock_runs_on = all(before <= after for before, after in pairwise(dts))  # not so in joined transport streams
        usable = bool(stream.time_base) and 0 < len(known) == len(pts) == len(set(known)) and clock_runs_on
        shown = sorted(known) if usable else []
        times = _from_first([float(value * (stream.time_base or 0)) for value in shown], _clock_may_jump(container))
        if not damage and stream.frames > len(pts) + num_hidden > 0:
            damage = f"truncated: the header promises {stream.frames} frames, the file holds {len(pts) + num_hidden}"
        damage = damage or _cut_off(Path(path), container, stream, times)
        in_order = usable and not (
            # Stored in another order than shown (B-frames), in a container that keeps the order of storing only: AVI,
            # MP4 without a table of composition offsets.
            stream.codec_context.has_b_frames and (known == shown or container.format.name == "avi")
        )
    return Index(shown, sorted(keyframes), times, in_order, damage)


def _clock_may_jump(container: InputContainer) -> bool:
    return bool(container.format.flags & _CLOCK_MAY_JUMP)


def _from_first(times: Sequence[float], clock_may_jump: bool) -> list[float]:
    """Return times as seconds from the first one, never going back.

    A step back, or where the clock may jump one of more than `_JUMP_S`, is taken for one of usual length.
    """
    steps = [after - before for before, after in pairwise(times)]
    usual = median([step for step in steps if step > 0] or [0.0])
    most = _JUMP_S if clock_may_jump else math.inf
    kept = (step if 0 <= step <= most else usual for step in steps)
    return list(accumulate(kept, initial=0.0)) if times else []


def _cut_off(path: Path, container: InputContainer, stream: VideoStream, times: Sequence[float]) -> str:
    """Return how the file ends before the end that it promises itself, or nothing: fragmented MP4, Matroska, WebM."""
    if "mp4" in container.format.name:
        return _half_a_box(path)
    promised_s = None
    told = next((text for name, text in stream.metadata.items() if name.startswith("DURATION")), "")
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", told):
        hours, minutes, seconds = map(float, clock.groups())
        promised_s = 3600 * hours + 60 * minutes + seconds
    elif "matroska" in container.format.name and len(container.streams) == 1 and container.duration is not None:
        promised_s = container.duration / av.time_base
    begins_s = float((stream.start_time or 0) * (stream.time_base or 0))
    if promised_s is not None and times and begins_s + times[-1] + _SHORT_S < promised_s:
        return f"truncated: the header promises {promised_s:.1f} s, the frames end at {begins_s + times[-1]:.1f} s"
    return ""


def _half_a_box(path: Path) -> str:
    """Return that the last of an MP4 file's boxes is not whole, or nothing."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place + 8 <= size:
            file.seek(place)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:  # the length stands in the next eight bytes
                length = int.from_bytes(file.read(8), "big")
            if length < 8:  # 0: to the end of the file
                return ""
            place += length
    if place <= size:
        return ""
    return f"truncated: its last part ({kind.decode('latin-1')}) lacks {place - size} bytes"


def _grab_by_time(path: str | PathLike[str], index: Index, wanted: Sequence[int]) -> Iterator[tuple[Frame, bool]]:
    """Yield frames by timestamp, and whether they are sound: jump between keyframes, and go on from the start as soon
    as that misses one.

    Jumping misses frames that are damaged, and those where a container's keyframe flags promise too much
    (gradual refresh, broken seek tables).
    """
    queue = deque(index.pts[i] for i in wanted if 0 <= i < len(index.pts))
    if not queue:
        return
    for frame, sound in _decode(path, queue, index.keyframes):
        if frame.pts is None or frame.pts < queue[0]:
            continue
        if frame.pts > queue[0] or frame.is_corrupt:
            break
        queue.popleft()
        yield _indexed(frame, index), sound
        if not queue:
            return
    yield from _grab_from_start(path, index, queue)


def _grab_from_start(path: str | PathLike[str], index: Index, wanted: Iterable[int]) -> Iterator[tuple[Frame, bool]]:
    """Yield the frames at the wanted timestamps that can be decoded, in order, and whether they are sound.

    A frame that comes before an earlier one waits for it, for at most `_REORDER` frames. Raise _ForeignTimes when
    frames come, but none with a timestamp of the index.
    """
    missing = set(wanted)
    last = max(missing)
    held: dict[int, tuple[Frame, bool]] = {}
    foreign = seen = False
    behind = 0  # frames at or behind the last wanted one
    for frame, sound in _decode(path, missing):
        if frame.pts is None:
            continue
        seen, foreign = seen or frame.pts in index.rank, foreign or frame.pts not in index.rank
        if frame.pts in missing and not frame.is_corrupt:
            missing.discard(frame.pts)
            held[frame.pts] = _indexed(frame, index), sound
        while held and (min(held) < min(missing, default=math.inf) or len(held) > _REORDER):
            earliest = min(held)
            missing = {pts for pts in missing if pts > earliest}  # what has not come by now is lost
            yield held.pop(earliest)
        behind += frame.pts >= last
        if behind and (not missing or behind > _REORDER):
            break
    for pts in sorted(held):
        yield held[pts]
    if foreign and not seen:
        raise _ForeignTimes


def _indexed(frame: VideoFrame, index: Index) -> Frame:
    assert frame.pts is not None
    rank = index.rank[frame.pts]
    return _to_frame(frame, rank, index.times[rank])


def _grab_by_count(
    path: str | PathLike[str], wanted: Iterable[int], times: Sequence[float]
) -> Iterator[tuple[Frame, bool]]:
    """Yield the frames at the wanted places of the decoder's output, and whether they are sound."""
    remaining = {place for place in wanted if 0 <= place < len(times)}
    for count, (frame, sound) in enumerate(_decode(path)):
        if not remaining:
            break
        if count in remaining:
            remaining.discard(count)
            yield _to_frame(frame, count, times[count]), sound


def _decode(
    path: str | PathLike[str], wanted: Iterable[int] | None = None, keyframes: Sequence[int] = ()
) -> Iterator[tuple[VideoFrame, bool]]:
    """Yield decoded frames in order of presentation, and whether they are sound; damaged packets are passed over.

    From damage to the next keyframe, frames refer to what was lost, and may show garbage without a sign of it. With
    `wanted` timestamps, frames that no other frame refers to are decoded only if wanted. With `keyframes` as well,
    stretches without a wanted frame are jumped over.
    """
    targets = sorted(wanted) if wanted is not None else []
    needed = set(targets)
    starts = {pts: max((key for key in keyframes if key <= pts), default=None) for pts in targets}
    with _open(path) as (container, stream):
        position = -math.inf  # timestamp up to which frames have come out
        jumped: int | None = None

        def keyframe_ahead() -> int | None:
            """Return the keyframe to jump to for the next wanted frame; None if the decoder is past it."""
            ahead = next((pts for pts in targets if pts > position), None)
            start = starts.get(ahead) if ahead is not None else None
            return start if start is not None and start > position and start != jumped else None

        while True:
            if (start := keyframe_ahead()) is not None:
                jumped = start
                try:
                    container.seek(start, stream=stream)
                except _MEDIA_ERRORS:
                    return  # a broken seek table: the caller goes through the file from its start
            for frame, sound in _drain(container, stream, needed if targets else None):
                yield frame, sound
                if frame.pts is None:
                    continue
                position = max(position, frame.pts)
                if keyframe_ahead() is not None:
                    break  # the next wanted frame lies behind a later keyframe
            else:
                return


def _drain(
    container: InputContainer, stream: VideoStream, needed: set[int] | None
) -> Iterator[tuple[VideoFrame, bool]]:
    skips = needed is not None and stream.codec_context.codec.name in _SKIPPING
    sound = True
    try:
        for packet in container.demux(stream):
            if skips and needed is not None:  # a packet without a timestamp is the flush at the end
                idle = packet.pts is not None and packet.pts not in needed
                stream.codec_context.skip_frame = "NONREF" if idle else "DEFAULT"
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                sound = False
                continue
            for frame in frames:
                sound = not frame.is_corrupt and (sound or frame.key_frame)
                yield frame, sound
    except _MEDIA_ERRORS:
        return  # the rest of the file cannot be read: `Index.note` says so


@contextmanager
def _open(path: str | PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and yield its container and its first video stream. Raise UnreadableVideo for what the block meets.

    The decoder gets one thread: extraction runs one actor for each core.
    """
    name = str(path)
    try:
        if Path(name).stat().st_size == 0:
            raise UnreadableVideo(f"{name}: empty file")
        with av.open(name) as container:
            yield container, video_stream(name, container)
    except FileNotFoundError as error:
        raise UnreadableVideo(f"{name}: no such file") from error
    except PermissionError as error:
        raise UnreadableVideo(f"{name}: no permission to read it") from error
    except av.error.InvalidDataError as error:
        raise UnreadableVideo(f"{name}: not a video file, or cut off before its index") from error
    except _MEDIA_ERRORS as error:
        raise UnreadableVideo(f"{name}: {one_line(error)}") from error


def video_stream(name: str, container: InputContainer) -> VideoStream:
    """Return the film of a container: not a cover picture or preview; of several, the default one, then the largest.

    Raise UnreadableVideo, naming the file, where there is none or no decoder for it.
    """
    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not films:
        raise UnreadableVideo(
            f"{name}: holds no video stream" + (", only a picture" if container.streams.video else "")
        )

    def rank(stream: VideoStream) -> tuple[bool, int]:
        size = stream.codec_context.width * stream.codec_context.height if stream.codec_context else 0
        return bool(stream.disposition & Disposition.default), size

    stream = max(films, key=rank)
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
    # Not `frame.side_data`: what that makes refers to the frame and the frame to it, and 12 MB of a 4K frame would wait
    # for the garbage collector, which counts objects and not bytes.
    matrix: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if matrix is not None:
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
        if abs(a) < abs(b):
            rgb, a, d = rgb.transpose(1, 0, 2), c, b
        rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb)


def _seconds(frame: VideoFrame, count: int) -> float:
    """Return the time of a frame whose packet has no timestamp: the decoder's guess, else the count at 25 a second."""
    return frame.time if frame.time is not None else count / 25
