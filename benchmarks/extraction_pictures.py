"""What a picture costs that is a source of its own, and what of it cannot be left out.

    uv run python benchmarks/extraction_pictures.py FOLDER [--number 500] [--face-rule largest] [--detector dlib]
        [--actors N]

Takes pictures at any depth of a folder, evenly spread. CPU milliseconds of one core for each picture:
    floor       bare: decoding; finding the face; 68 landmarks, crop and PNG of it
    read        `pipelines.faces.video.VideoReader.pictures`, in batches as an actor gets them
    write       parts, and moving them into faces files
With `--actors`, wall seconds of `pipelines.faces.extract.extract` with so many actors, from the first picture that is
done to the last, and in all.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from pipelines.common import cluster, tables
from pipelines.common.filenames import escaped
from pipelines.common.pictures import encode_png
from pipelines.faces import writer
from pipelines.faces.boxes import area, longer_side
from pipelines.faces.crops import FaceFinder, cut, square_crop
from pipelines.faces.recipe import Recipe
from pipelines.faces.video import VideoReader
from pipelines.media import decode, stills

TOGETHER = 64


def rows_of(folder: Path, number: int, face_rule: str) -> list[dict[str, Any]]:
    """Return rows of VIDEOS for pictures of a folder."""
    paths = sorted(path for path in folder.rglob("*") if stills.is_picture(path.name))
    paths = paths[:: max(1, len(paths) // number)][:number]
    rows = []
    for uri in (escaped(str(path.relative_to(folder))) for path in paths):
        row = {"dataset": "own", "video_id": f"own/{uri}", "label": 0, "method": "real", "codec": "unknown"}
        row |= {"split": "test", "root": "own", "uri": uri, "mask_uri": None, "real_id": None, "real_uri": None}
        rows.append(row | {"source_ids": [uri], "face_rule": face_rule})
    return rows


def floor(folder: Path, rows: Sequence[dict[str, Any]], finder: FaceFinder, recipe: Recipe) -> dict[str, float]:
    """Return CPU seconds of what cannot be left out, by what it is."""
    seconds = {"decode": 0.0, "find": 0.0, "landmarks, crop, PNG": 0.0}
    for row in rows:
        times = [time.process_time()]
        source = decode.open_source(folder / row["uri"])
        frames = list(source.frames([0]))
        times.append(time.process_time())
        tracks = finder.tracks(frames, recipe, row["face_rule"])
        times.append(time.process_time())
        faces = [face for track in tracks for face in track.detections.values()]
        if faces:
            largest = max(faces, key=lambda face: area(face.box))
            rgb = frames[0].rgb
            finder.landmarks(rgb, largest.landmark_box)
            crop = square_crop(largest.box, recipe.margin * longer_side(largest.box), rgb.shape)
            encode_png(cut(rgb, crop, recipe.size_px))
        times.append(time.process_time())
        for name, start, end in zip(seconds, times, times[1:], strict=False):
            seconds[name] += end - start
    return seconds


def ours(folder: Path, rows: Sequence[dict[str, Any]], recipe: Recipe) -> dict[str, float]:
    """Return CPU seconds of reading, and of writing."""
    read = VideoReader({"own": str(folder)}, [recipe])
    read.pictures(rows[:2])
    seconds = {"read": 0.0, "write": 0.0}
    with tempfile.TemporaryDirectory() as name:
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            before = time.process_time()
            results = read.pictures(some)
            between = time.process_time()
            writer.write_part(Path(name), some, [faces for (faces,) in results])
            seconds["read"] += between - before
            seconds["write"] += time.process_time() - between
        before = time.process_time()
        writer.compact(Path(name))
        seconds["write"] += time.process_time() - before
    return seconds


def by_ray(folder: Path, rows: Sequence[dict[str, Any]], recipe: Recipe, actors: int) -> tuple[float, float]:
    """Return wall seconds of an extraction: from the first picture done to the last, and in all."""
    from pipelines.faces.extract import extract

    done: list[float] = []
    with tempfile.TemporaryDirectory() as name, cluster.connect(None):
        start = time.monotonic()
        extract(
            tables.to_table(rows, tables.VIDEOS),
            {"own": str(folder)},
            Path(name),
            recipe,
            actors=actors,
            on_video=lambda row: done.append(time.monotonic()),
        )
        return done[-1] - done[0], time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--face-rule", choices=("largest", "whole"), default="largest")
    parser.add_argument("--detector", nargs="+", default=["dlib", "retinaface"])
    parser.add_argument("--actors", type=int)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = rows_of(arguments.folder, arguments.number, arguments.face_rule)
    print(f"{len(rows)} pictures of {arguments.folder}, face rule {arguments.face_rule}; CPU ms a picture")
    for detector in arguments.detector:
        recipe = Recipe(detector=detector)
        bare = floor(arguments.folder, rows, FaceFinder(recipe), recipe)
        own = ours(arguments.folder, rows, recipe)
        for title, seconds in (("floor", bare), ("ours", own)):
            parts = ", ".join(f"{name} {1000 * value / len(rows):.2f}" for name, value in seconds.items())
            print(f"{detector:10s} {title}: {parts}; in all {1000 * sum(seconds.values()) / len(rows):.2f}", flush=True)
        share = sum(bare.values()) / sum(own.values())
        print(f"{detector:10s} {len(rows) / sum(own.values()):.0f} pictures a core second, {share:.2f} of the floor")
        if arguments.actors:
            cluster.prepare_environment(None)
            between, total = by_ray(arguments.folder, rows, recipe, arguments.actors)
            print(f"{detector:10s} {arguments.actors} actors: {between:.1f} s from first to last, {total:.1f} s in all")


if __name__ == "__main__":
    main()
