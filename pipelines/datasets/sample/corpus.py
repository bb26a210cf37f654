"""The sample corpus: small made-up videos in the folder layouts of the real datasets, made on first use.

`make(folder)` writes FaceForensics++ (four manipulations with masks, c23 and c40, split lists), Celeb-DF-v2,
DeeperForensics-1.0, DFDC, DFD, the DFDC preview, FFIW-10K and WildDeepfake. On demand it also writes Celeb-DF++ and a
manifest of "your own videos". Each has up to a few dozen people, made from two public-domain portraits that installed
packages carry (`skimage.data.astronaut`, NASA; matplotlib's `grace_hopper.jpg`, U.S. Navy). The adapters, the decoder
and the models run on them as on the real datasets. Scores on them say that the machinery works, no more.

What is kept from the real datasets: nobody is in two splits. A fake differs from its real counterpart only where its
mask is white (before compression). Each dataset has its own forging, light, noise, frame size and compression, so that
a detector trained on one meets something new in another; and how hard a fake is to find varies within each. In DFD and
FFIW a second person stands beside the forged one.
"""

import fcntl
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path

import av
import cv2
import numpy as np

from pipelines.common.bucket import BucketPath
from pipelines.common.storage import (
    copy_tree,
    make_folder,
    on_this_machine,
    path_of,
    to_disk,
    tree_to_disk,
    write_json,
)
from pipelines.datasets.sample.drawing import Image
from pipelines.datasets.sample.forgeries import forge
from pipelines.datasets.sample.people import Person, make_person, portraits
from pipelines.datasets.sample.plan import (
    BESIDE,
    FOLDERS,
    LOOKS,
    MASK_CRF,
    NAMES,
    Plan,
    Shot,
    only,
    planned,
    rng_of,
    size_of,
    with_needs,
)
from pipelines.datasets.sample.takes import FPS, Look, Take, film, make_take, placed_beside

VERSION = 5  # raise it when any frame of the corpus changes
NOTE = "sample corpus (made-up videos): these numbers show that the machinery works, nothing about the world"
DONE = "_done.json"
AT_ONCE = max(2, os.cpu_count() or 2)  # clips that are filmed at the same time


def make(
    folder: str | Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    size: str = "full",
    names: Iterable[str] = NAMES,
) -> dict[str, str]:
    """Make the named datasets, and those that they need, unless they are there; return {dataset name: root}.

    They lie in a folder of their own below `folder`, one for each size and seed. The same seed gives the same files,
    whatever else is made. `progress(done, total)` is called as takes get finished. A dataset appears under its final
    name only when it is complete. If two processes want one, the first makes it and the other waits. Raise ValueError
    for an unknown `size` or name.
    """
    wanted = with_needs(names)
    plan = planned(size_of(size), seed)
    home = _home(folder, seed, size)
    if set(wanted) <= _made(home):
        return _roots(home, wanted)
    if isinstance(home, BucketPath):
        local = on_this_machine(home.parent)
        make(local, seed, progress, size=size, names=names)
        copy_tree(_home(local, seed, size), home, last=DONE)
        return _roots(home, wanted)
    make_folder(home)
    with open(home.parent / f".{home.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system even if this process is killed
        made = _made(home)
        missing = [name for name in wanted if name not in made]
        if missing:
            partial = home.parent / f".{home.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: we hold the lock
            _write(partial, only(plan, missing), seed, size_of(size).num_frames, progress)
            tree_to_disk(partial)
            for name in missing:
                _replace(partial / FOLDERS[name], home / FOLDERS[name])
            to_disk(home)  # the names of the datasets, before the file that says that they are there
            state = {"version": VERSION, "seed": seed, "size": size, "made": sorted(made | set(missing))}
            partial.rmdir()
            write_json(home / DONE, state)
    return _roots(home, wanted)


def made(
    folder: str | Path, seed: int = 0, *, size: str = "full", names: Iterable[str] = NAMES
) -> dict[str, str] | None:
    """Return what `make` would return, if all is made already; else None. Nothing is written."""
    wanted, home = with_needs(names), _home(folder, seed, size)
    return _roots(home, wanted) if set(wanted) <= _made(home) else None


def num_missing_clips(folder: str | Path, seed: int = 0, *, size: str = "full", names: Iterable[str] = NAMES) -> int:
    """Return how many clips `make` would film now; each becomes several videos. Nothing is written."""
    home = _home(folder, seed, size)
    there = _made(home)
    if isinstance(home, BucketPath):  # it is filmed on this machine, whatever of it is in the bucket
        there = _made(_home(on_this_machine(home.parent, make=False), seed, size))
    missing = [name for name in with_needs(names) if name not in there]
    return len(only(planned(size_of(size), seed), missing).shots)


@contextmanager
def outlined(
    folder: str | Path, seed: int = 0, *, size: str = "full", names: Iterable[str] = NAMES
) -> Iterator[dict[str, str]]:
    """Yield what `make` would return; what is not made yet, in a temporary folder with an empty file for each video.

    The adapters find in it which videos `make` would write, before any is made. Raise ValueError as `make` does.
    """
    wanted, there = with_needs(names), _home(folder, seed, size)
    made = _made(there)
    with tempfile.TemporaryDirectory() as temporary:
        home = _home(temporary, seed, size)
        plan = only(planned(size_of(size), seed), [name for name in wanted if name not in made])
        _write_lists(home, plan)
        for path in (path for shot in plan.shots for path in shot.paths):
            if Path(path).suffix:
                (home / path).touch()
            else:
                (home / path).mkdir()
                (home / path / "0.png").touch()
        _pack_archives(home)
        yield {name: _roots(there if name in made else home, [name])[name] for name in wanted}


def _home(folder: str | Path, seed: int, size: str) -> Path:
    return path_of(folder) / f"sample-corpus-v{VERSION}-{size}-seed{seed}"


def _made(home: Path) -> set[str]:
    """Return the names of the datasets that are complete."""
    done = home / DONE
    return set(json.loads(done.read_text())["made"]) if done.exists() else set()


def _roots(home: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: str(home / FOLDERS[name]) for name in names}


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)  # moved by a process that was killed before it could say so
    source.rename(target)


# --- writing it ----------------------------------------------------------------------------------------------------


def _write(
    home: Path, plan: Plan, seed: int, num_frames: int, progress: Callable[[int, int], None] | None = None
) -> None:
    _write_lists(home, plan)
    # Threads, not processes: the time goes into OpenCV and x264, which run without the interpreter lock, and a
    # process pool would import the caller's script again in each worker.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pair = portraits()
        names = sorted({name for shot in plan.shots for name in shot.people})
        made = pool.map(lambda name: make_person(pair, rng_of(seed, f"person {name}")), names)
        people = dict(zip(names, made, strict=True))
        jobs = pool.map(lambda shot: _write_shot(home, shot, people, seed, num_frames), plan.shots)
        for done, _ in enumerate(jobs, start=1):
            if progress:
                progress(done, len(plan.shots))
    _pack_archives(home)


def _write_lists(home: Path, plan: Plan) -> None:
    """Make all folders, and write the datasets' own lists."""
    outputs = [path for shot in plan.shots for path in shot.paths]
    for folder in sorted({(home / path).parent for path in [*outputs, *plan.texts]}):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in plan.texts.items():
        (home / path).write_text(text)


def _pack_archives(home: Path) -> None:
    for folder in sorted(home.rglob("*.tar.gz")):
        _pack(folder)


def _write_shot(home: Path, shot: Shot, people: Mapping[str, Person], seed: int, num_frames: int) -> None:
    num_frames = _num_frames(shot, num_frames)
    look = LOOKS[shot.dataset]

    def take_of(name: str, person: str, look: Look, at: float = 0.5) -> Take:
        return make_take(people[person], look, num_frames, rng_of(seed, f"take {name}"), at)

    take, behind = take_of(shot.take, shot.person, look, shot.at), None
    if shot.beside:
        behind = placed_beside(take_of(f"{shot.take}/beside", shot.beside, BESIDE[shot.dataset], 1 - shot.at), take)
    frames = film(take, behind)
    for path, quality in shot.outputs.items():
        _write_frames(home / path, frames, quality)
    for fake in shot.fakes:
        forged, masks = forge(
            frames, take, take_of(fake.donor, fake.donor, look), fake.forgery, rng_of(seed, *fake.outputs)
        )
        for path, quality in fake.outputs.items():
            _write_frames(home / path, forged, quality)
        if fake.mask:
            encode(home / fake.mask, np.repeat(masks[..., None] * np.uint8(255), 3, -1), MASK_CRF)


def _num_frames(shot: Shot, num_frames: int) -> int:
    return max(2, round(shot.frames * num_frames))


def _write_frames(path: Path, frames: Image, quality: int) -> None:
    if path.suffix:
        encode(path, frames, quality)
    else:
        _write_pictures(path, frames, quality)


def _write_pictures(folder: Path, frames: Image, jpeg_quality: int) -> None:
    """Write frames as PNG, numbered in fives, so that a sorted list of the names is not in their order."""
    folder.mkdir(exist_ok=True)
    for number, rgb in enumerate(frames):
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality))
        seen = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        assert seen is not None
        (folder / f"{5 * number}.png").write_bytes(cv2.imencode(".png", seen)[1].tobytes())


def _pack(folder: Path) -> None:
    """Replace a folder by an archive of the same name; the same content gives the same bytes."""
    packed = folder.with_name(f".{folder.name}")
    with (
        open(packed, "wb") as file,
        GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(f"./{path.relative_to(folder).as_posix()}")
            member.size = path.stat().st_size
            with open(path, "rb") as content:
                tar.addfile(member, content)
    shutil.rmtree(folder)
    packed.rename(folder)


def encode(path: Path, frames: Image, crf: int) -> None:
    """Write frames (T, H, W, 3) as H.264 in yuv420p, at 25 frames a second and a constant rate factor."""
    with av.open(str(path), "w") as container:
        # By default x264 rounds by what its vector code finds in memory, and two runs differ in some bytes.
        options = {"crf": str(crf), "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the number of threads changes the bytes
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
