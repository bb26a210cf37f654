"""Size, digest and faults of media files, for the doctor.

    sizes     which files there are, and how large
    problems  what is wrong with those that cannot be read
    digests   SHA-256 of their content

Faults are looked for in child processes, so that a file which kills the decoder costs one line of a report.
"""

import hashlib
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
import fsspec
from av.container import InputContainer
from av.video.stream import VideoStream

from pipelines.common.filenames import on_disk
from pipelines.common.text import one_line
from pipelines.media import decode, fetch, stills
from pipelines.media.frames import UnreadableVideo
from pipelines.media.sandbox import Crashed, NotStarted, Sandbox

OnDone = Callable[[int, int], None]  # how many are done, of how many

HEADER_S, DECODE_S = 60, 1800  # seconds that one file may take
MEMORY_GIB = 8
NOT_A_FILE = -1  # the size of a folder of pictures
_MEDIA_ERRORS = (av.error.FFmpegError, OSError)


# ---------------------------------------------------------------------------------- in the child
def start(decode_all: bool) -> Callable[[str], str]:
    """Prepare the child; return the function that looks at one file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends its children
    return partial(look, decode_all=decode_all)


HEADER, EVERY_FRAME = pickle.dumps(partial(start, False)), pickle.dumps(partial(start, True))


def look(path: str, *, decode_all: bool) -> str:
    """Return what is wrong with a video, in one line; empty when nothing is.

    With `decode_all`, every frame is decoded; else only the header and the end are looked at. Then only the touched
    parts of a remote video file are read; anything else remote is downloaded whole.
    """
    try:
        if "://" in path and not decode_all and stills.split(path) is None and Path(path).suffix:
            with fsspec.open(path, "rb") as file, av.open(file) as container:
                return _look_at_video(container, decode_all)
        with fetch.local(path) as here:
            return _look_here(here, decode_all)
    except UnreadableVideo as error:
        return str(error).removeprefix(f"{path}: ")
    except av.error.InvalidDataError:
        return "not a video file, or cut off before its index"
    except _MEDIA_ERRORS as error:
        return one_line(error)


def _look_here(path: Path, decode_all: bool) -> str:
    if stills.split(path) is not None or path.is_dir() or stills.is_picture(path.name):
        pictures = decode.open_source(path)
        num_read = sum(1 for _ in pictures.frames(range(len(pictures.times)) if decode_all else [0]))
        return pictures.note or ("" if num_read else "no picture can be read")
    if path.stat().st_size == 0:
        return "empty file"
    with av.open(str(path)) as container:
        return _look_at_video(container, decode_all)


def _look_at_video(container: InputContainer, decode_all: bool) -> str:
    try:
        stream = decode.video_stream(container.name, container)
    except UnreadableVideo as error:
        return str(error).removeprefix(f"{container.name}: ")
    if not (stream.codec_context.width > 0 and stream.codec_context.height > 0):
        return "its frames have no size"
    if (duration := _duration_s(container, stream)) is not None and duration <= 0:
        return "lasts 0 seconds"
    return _decode_all(container, stream) if decode_all else _look_at_end(container, stream)


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the duration that the header promises; None where it promises none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _look_at_end(container: InputContainer, stream: VideoStream) -> str:
    """Return what is wrong with the end of a video: a download that broke off may have a sound header."""
    try:
        if stream.duration is not None:
            container.seek((stream.start_time or 0) + stream.duration, stream=stream)
    except _MEDIA_ERRORS:
        pass  # cannot be sought in: then the first packet has to do
    try:
        if any(packet.size for packet in container.demux(stream)):
            return ""
    except _MEDIA_ERRORS as error:
        return f"cannot be read to its end: {one_line(error)}"
    return "cut off: nothing lies where its end should be"


def _decode_all(container: InputContainer, stream: VideoStream) -> str:
    stream.codec_context.thread_count = 1  # files are looked at side by side
    num_frames = num_damaged = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                num_damaged += 1
                continue
            num_frames += len(frames)
            num_damaged += sum(frame.is_corrupt for frame in frames)
    except _MEDIA_ERRORS as error:
        return f"reading stops after {num_frames} frames: {one_line(error)}"
    if not num_frames:
        return "no frame can be decoded"
    if num_damaged:
        return f"{num_damaged} damaged frames beside {num_frames} that decode"
    if stream.frames > num_frames:
        return f"truncated: the header promises {stream.frames} frames, {num_frames} can be decoded"
    return ""


# --------------------------------------------------------------------------------- in the parent
def problems(
    paths: Iterable[str], *, look: bytes = HEADER, timeout_s: int = HEADER_S, jobs: int, on_done: OnDone
) -> dict[str, str]:
    """Return {path: what is wrong} for the files with which something is; `jobs` child processes look at once.

    `look` is a pickled factory of a function from a path to a line, `HEADER` or `EVERY_FRAME`. Each file may take
    `timeout_s` seconds. `on_done` is called with (files done, all files) after each. Raise sandbox.NotStarted when
    no child starts.
    """
    of_thread = threading.local()
    children: list[Sandbox] = []

    def ask(path: str) -> str:
        if not hasattr(of_thread, "child"):
            of_thread.child = Sandbox(look, timeout_s=timeout_s, memory_gib=MEMORY_GIB)
            children.append(of_thread.child)
        try:
            return of_thread.child(path)
        except Crashed as error:
            return str(error)
        except NotStarted:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a media library raises on this one file
            return f"{type(error).__name__}: {error}"

    try:
        return {path: text for path, text in _in_threads(ask, paths, jobs, on_done) if text}
    finally:
        for child in children:
            child.close()


def sizes(paths: Iterable[str], jobs: int = 16) -> dict[str, int | None]:
    """Return {path: size in bytes}: None where there is nothing, `NOT_A_FILE` for folders and paths into archives.

    A path into an archive is there when the archive is.
    """
    return dict(_in_threads(_size, paths, jobs, lambda done, total: None))


def digests(paths: Iterable[str], *, jobs: int, on_done: OnDone) -> dict[str, str]:
    """Return {path: SHA-256 of the file}, empty where it cannot be read. `on_done` is called as in `problems`."""
    return dict(_in_threads(_digest, paths, jobs, on_done))


def _in_threads(
    function: Callable[[str], Any], paths: Iterable[str], jobs: int, on_done: OnDone
) -> Iterator[tuple[str, Any]]:
    """Yield (path, result) for each different path, as results come."""
    paths = list(dict.fromkeys(paths))
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        running = {pool.submit(function, path): path for path in paths}
        for done, future in enumerate(as_completed(running), start=1):
            on_done(done, len(paths))
            yield running[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _size(path: str) -> int | None:
    inside = stills.split(path)
    path = inside[0] if inside else path
    try:
        if "://" in path:
            files, name = fsspec.core.url_to_fs(path)
            entry: Mapping[str, Any] = files.info(name)
            size, is_folder = int(entry["size"] or 0), entry["type"] == "directory"
        else:
            path = on_disk(path)
            size, is_folder = os.stat(path).st_size, os.path.isdir(path)
    except FileNotFoundError:
        return None
    except OSError:
        return NOT_A_FILE  # there, but not to be looked at: opening it says why
    return NOT_A_FILE if inside or is_folder else size


def _digest(path: str) -> str:
    try:
        with fsspec.open(path, "rb") if "://" in path else open(on_disk(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
