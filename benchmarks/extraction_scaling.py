"""Does extraction scale: Ray against a bare process pool, two workers against one, memory on a long 4K video?

    uv run python benchmarks/extraction_scaling.py [video ...] [--copies 60] [--num-frames 32] [--skip-4k]

The videos (default: one of 1080p, 10 s, made from a portrait) are taken `--copies` times each.
    pool      `pipelines.faces.video.VideoReader` in a `multiprocessing` pool, each video's Parquet part written by it
    Ray       `extract` with as many actors: the same, with a child process for each actor, ledger,
              compaction and marker
Starting is not in the pool's figures (the workers' imports and models), nor is `ray.init` in Ray's, since it does not
grow with the videos; the start of Ray's actors is. Printed: wall seconds, videos per second, ratios; then the ratios of
what a further video costs, for which a third of the copies is taken too: there no start is left in.

Then peak memory (RSS) of one reader on a 4K video of ten minutes with 32 and with 128 frames, and what the measured
seconds and bytes per video and core come to for FaceForensics++, DFDC and a million videos.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data

from pipelines.common import cluster, tables
from pipelines.faces.recipe import Recipe
from pipelines.faces.video import VideoReader

SIZES = {  # videos, of how many seconds of 1080p each one costs as much
    "FaceForensics++ (c23, 4 methods)": (5_000, 0.75),  # 17 s of mostly 480p to 720p
    "DFDC": (124_000, 1.0),  # 10 s of 1080p
    "a million videos": (1_000_000, 1.0),
}


def write_video(path: Path, height: int, width: int, seconds: int, repeats: int = 1) -> Path:
    """Write a portrait that moves through a noisy room at 30 frames a second; its packets are repeated."""
    rng = np.random.default_rng(0)
    side = height // 2
    portrait = cv2.resize(skimage.data.astronaut()[:256, 100:356], (side, side), interpolation=cv2.INTER_CUBIC)
    room = cv2.resize(rng.integers(60, 140, (9, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = [rng.integers(-6, 7, (height, width, 1), np.int16) for _ in range(5)]
    packets = []
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, 15360)
        for number in range(30 * seconds):
            picture = room.copy()
            x = round((width - side) * (0.5 + 0.4 * np.sin(number / 40)))
            picture[height // 4 : height // 4 + side, x : x + side] = portrait
            picture = np.clip(picture + grain[number % 5], 0, 255).astype(np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode(None)
        length = 30 * seconds * 512 * (stream.time_base.denominator // 15360)
        kept = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for turn in range(repeats):
            for data, pts, dts, is_keyframe in kept:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, stream.time_base
                packet.pts, packet.dts = pts + turn * length, dts + turn * length
                packet.is_keyframe = is_keyframe
                out.mux(packet)
    return path


def videos_of(paths: Sequence[Path], copies: int) -> tuple[pa.Table, dict[str, str]]:
    """Return VIDEOS with each file `copies` times, and the roots that it names."""
    rows, roots = [], {}
    for number, path in enumerate(paths):
        roots[f"root{number}"] = str(path.parent)
        for copy in range(copies):
            row = {"dataset": "bench", "video_id": f"bench/{number}/{copy}", "label": 0, "method": "real"}
            row |= {"codec": "unknown", "split": "test", "root": f"root{number}", "uri": path.name, "mask_uri": None}
            row |= {"real_id": None, "real_uri": None, "source_ids": [path.stem], "face_rule": "largest"}
            rows.append(row)
    return tables.to_table(rows, tables.VIDEOS), roots


_READ: VideoReader  # of a process of the pool


def _load(roots: dict[str, str], recipe: Recipe) -> None:
    global _READ
    _READ = VideoReader(roots, [recipe])


def _extract_video(job: tuple[dict[str, object], Path]) -> int:
    video, part = job
    ((faces, _),) = _READ(video)
    pq.write_table(faces, part, compression="none")
    return part.stat().st_size


def by_pool(videos: pa.Table, roots: dict[str, str], recipe: Recipe, workers: int, folder: Path) -> tuple[float, int]:
    """Extract by a process pool; return wall seconds and the bytes written."""
    jobs = [(row, folder / f"{i}.parquet") for i, row in enumerate(videos.to_pylist())]
    with multiprocessing.get_context("spawn").Pool(workers, _load, (roots, recipe)) as pool:
        pool.map(os.getenv, ["HOME"] * workers)  # all started
        time.sleep(5)  # ... and their models loaded
        start = time.monotonic()
        sizes = list(pool.imap_unordered(_extract_video, jobs))
        return time.monotonic() - start, sum(sizes)


def by_ray(videos: pa.Table, roots: dict[str, str], recipe: Recipe, workers: int, folder: Path) -> float:
    """Extract by Ray; return wall seconds."""
    from pipelines.faces.extract import extract

    start = time.monotonic()
    extract(videos, roots, folder, recipe, actors=workers)
    return time.monotonic() - start


def peak_memory(path: Path, recipe: Recipe) -> tuple[float, float]:
    """Return the peak GiB and the seconds of a reader in a process of its own, for one video."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_measure, args=(path, recipe, send))
    child.start()
    peak, seconds = receive.recv()
    child.join()
    return peak, seconds


def _measure(path: Path, recipe: Recipe, send: "multiprocessing.connection.Connection") -> None:
    videos, roots = videos_of([path], 1)
    read = VideoReader(roots, [recipe])
    start = time.monotonic()
    ((_, ledger),) = read(videos.to_pylist()[0])
    assert ledger["status"] == "ok", ledger
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.monotonic() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--copies", type=int, default=60, help="of each video, 2 and more")
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--skip-4k", action="store_true", help="leave out the memory of a long 4K video")
    arguments = parser.parse_args()
    recipe = Recipe(num_frames=arguments.num_frames)
    cluster.prepare_environment(None)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [path.absolute() for path in arguments.videos] or [write_video(folder / "made.mp4", 1080, 1920, 10)]
        videos, roots = videos_of(paths, arguments.copies)
        fewer, _ = videos_of(paths, max(1, arguments.copies // 3))
        print(f"{videos.num_rows} videos, {recipe.num_frames} frames each, {os.cpu_count()} CPUs")
        seconds: dict[tuple[str, int], float] = {}
        further: dict[tuple[str, int], float] = {}
        bytes_per_video = 0.0
        with cluster.connect(None):
            for workers in (1, 2):
                for some in (fewer, videos):
                    of_some = folder / f"{some.num_rows}-{workers}"
                    (of_some / "pool").mkdir(parents=True)
                    before = dict(seconds)
                    seconds["pool", workers], size = by_pool(some, roots, recipe, workers, of_some / "pool")
                    seconds["Ray", workers] = by_ray(some, roots, recipe, workers, of_some / "ray")
                    bytes_per_video = size / some.num_rows
                for kind in ("pool", "Ray"):
                    further[kind, workers] = seconds[kind, workers] - before[kind, workers]
        print_speeds(seconds, videos.num_rows)
        print(f"the last {videos.num_rows - fewer.num_rows} videos, without any start:")
        print_speeds(further, videos.num_rows - fewer.num_rows)
        if not arguments.skip_4k:
            long = write_video(folder / "long.mp4", 2160, 3840, 10, repeats=60)
            for num_frames in (32, 128):
                peak, took = peak_memory(long, Recipe(num_frames=num_frames))
                print(f"  4K, 10 minutes, {num_frames} frames: peak {peak:.2f} GiB, {took:.0f} s")
        print_costs(seconds["Ray", 2] * 2 / videos.num_rows, bytes_per_video)


def print_speeds(seconds: dict[tuple[str, int], float], num_videos: int) -> None:
    """Print wall seconds, given by (pool or Ray, workers), and their ratios."""
    for (kind, workers), value in seconds.items():
        print(f"  {kind:5s} {workers} worker(s) {value:8.1f} s {num_videos / value:8.2f} videos/s")
    for workers in (1, 2):
        slower = seconds["Ray", workers] / seconds["pool", workers] - 1
        print(f"  Ray against the pool, {workers} worker(s): {slower:+.1%} time")
    for kind in ("pool", "Ray"):
        print(f"  {kind}: two workers are {seconds[kind, 1] / seconds[kind, 2]:.2f} times one")


def print_costs(core_seconds: float, bytes_per_video: float) -> None:
    """Print what whole datasets come to, from what one video of 10 s in 1080p costs."""
    print(f"cost at {core_seconds:.2f} core seconds and {bytes_per_video / 1e6:.1f} MB for a video of 10 s in 1080p:")
    for name, (number, share) in SIZES.items():
        hours, size_tb = number * share * core_seconds / 3600, number * bytes_per_video / 1e12
        print(f"  {name:34s} {hours:9.0f} core hours, {hours / 64:7.1f} h on 64 cores, {size_tb:6.2f} TB of faces")


if __name__ == "__main__":
    main()
