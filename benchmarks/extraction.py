"""Extraction against the classic way, video by video, in one run on one core.

    python benchmarks/extraction.py [video ...] [--num-frames 30]

Classic: OpenCV decodes every frame in turn; dlib's HOG detector with one upsampling looks at each sampled frame;
68 landmarks, crop and PNG of the largest face. Ours: `pipelines.video.VideoReader`. Both sample the same frames.
Without videos: three made from a portrait that scikit-image carries, moving through 1280 x 720.

Printed for each video and in all:
    frames/s       sampled frames per second of CPU time, with decoding and PNG
    faces          frames with a face: classic, ours (held ones not counted)
    found again    share of the classic faces where ours overlaps with IoU >= 0.5
    landmarks      mean distance of the 68 points on those, as a share of the distance between the eyes
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import dlib
import numpy as np
import skimage.data

from pipelines import decode
from pipelines.faces import Landmarks, Recipe, cut, square_crop
from pipelines.video import VideoReader, encode_png

Found = dict[int, tuple[np.ndarray, np.ndarray]]  # frame_index -> box (4,), landmarks (68, 2) in frame pixels


@dataclass
class Compared:
    frames: int
    classic_s: float
    ours_s: float
    classic_faces: int
    our_faces: int
    again: int
    deviation: list[float]

    def line(self, name: str) -> str:
        again = f"{self.again / self.classic_faces:.3f}" if self.classic_faces else "-"
        landmarks = f"{np.mean(self.deviation):.4f}" if self.deviation else "-"
        speeds = self.frames / self.classic_s, self.frames / self.ours_s, self.classic_s / self.ours_s
        return (
            f"{name[:34]:34s} {speeds[0]:8.2f} {speeds[1]:8.2f} {speeds[2]:7.1f} "
            f"{self.classic_faces:6d} {self.our_faces:6d} {again:>7s} {landmarks:>9s}"
        )


class Classic:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.detect = dlib.get_frontal_face_detector()
        self.landmarks = Landmarks()

    def __call__(self, path: Path, wanted: Sequence[int]) -> Found:
        found: Found = {}
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        for index in range(max(wanted) + 1):
            read, bgr = video.read()
            if not read:
                break
            if index in wanted:
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                boxes = self.detect(rgb, 1)
                if boxes:
                    largest = max(boxes, key=dlib.rectangle.area)
                    box = np.array([largest.left(), largest.top(), largest.right() + 1, largest.bottom() + 1], float)
                    side = self.recipe.margin * float(max(box[2] - box[0], box[3] - box[1]))
                    encode_png(cut(rgb, square_crop(box, side, rgb.shape), self.recipe.size_px))
                    found[index] = box, self.landmarks(rgb, box)
        video.release()
        return found


def ours(reader: VideoReader, path: Path) -> Found:
    row = {"dataset": "", "video_id": path.stem, "label": 0, "method": "real", "codec": "", "split": "test"}
    table, _ = reader(row | {"root": "videos", "uri": path.name, "mask_uri": None, "real_uri": None})
    found: Found = {}
    for face in table.to_pylist():
        if face["face_index"] == 0 and face["face_score"] > 0:
            x0, y0, x1, _ = face["crop_px"].values()
            scale = (x1 - x0) / reader.recipe.size_px
            points = (np.array(face["landmarks_px"]).reshape(-1, 2) + 0.5) * scale - 0.5 + [x0, y0]
            found[face["frame_index"]] = np.array(list(face["box_px"].values())), points
    return found


def compare(path: Path, recipe: Recipe, classic: Classic, finder: VideoReader) -> Compared:
    wanted = [frame.frame_index for frame in decode.sample(path, recipe.num_frames)]
    finder.roots = {"videos": str(path.parent)}
    start = time.process_time()
    theirs = classic(path, wanted)
    middle = time.process_time()
    mine = ours(finder, path)
    end = time.process_time()
    deviation = []
    again = 0
    for index, (box, points) in theirs.items():
        if index in mine and overlap(box, mine[index][0]) >= 0.5:
            again += 1
            eyes = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
            deviation.append(float(np.linalg.norm(points - mine[index][1], axis=1).mean() / eyes))
    return Compared(len(wanted), middle - start, end - middle, len(theirs), len(mine), again, deviation)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common)


def make_videos(folder: Path) -> list[Path]:
    """A face of about 70, 140 and 280 pixels, moving through 1280 x 720 for 90 frames."""
    portrait = skimage.data.astronaut()[:256, 100:356]
    paths = []
    for face_px in (70, 140, 280):
        side = round(256 * face_px / 90)
        small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)[: min(side, 720)]
        path = folder / f"face_{face_px}.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            for number in range(90):
                picture = np.full((720, 1280, 3), 100, np.uint8)
                x = (1280 - side) * number // 89
                y = (720 - small.shape[0]) * (number % 45) // 44
                picture[y : y + small.shape[0], x : x + side] = small
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--num-frames", type=int, default=30, help="sampled frames of a video")
    arguments = parser.parse_args()
    recipe = Recipe(num_frames=arguments.num_frames)
    classic, finder = Classic(recipe), VideoReader({}, recipe)
    cv2.setNumThreads(1)
    print(f"{'':34s} {'frames/s':>17s} {'':7s} {'faces':>13s} {'found':>7s} {'land-':>9s}")
    print(
        f"{'':34s} {'classic':>8s} {'ours':>8s} {'ratio':>7s} {'class.':>6s} {'ours':>6s} {'again':>7s} {'marks':>9s}"
    )
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.videos or make_videos(Path(folder)):
            results.append(compare(path.absolute(), recipe, classic, finder))
            print(results[-1].line(path.stem), flush=True)
    total = Compared(
        sum(one.frames for one in results),
        sum(one.classic_s for one in results),
        sum(one.ours_s for one in results),
        sum(one.classic_faces for one in results),
        sum(one.our_faces for one in results),
        sum(one.again for one in results),
        [value for one in results for value in one.deviation],
    )
    print(total.line("in all"))
    median, most = np.quantile(total.deviation, (0.5, 0.95))
    print(f"landmarks, median and 95 % quantile: {median:.4f}, {most:.4f}")


if __name__ == "__main__":
    main()
