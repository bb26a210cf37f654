"""Extraction against the classic way and against its own floor, video by video, in one run on one core.

    uv run python benchmarks/extraction.py [video ...] [--num-frames 32 128] [--detector dlib] [--no-classic]

Classic: OpenCV decodes every frame in turn; dlib's HOG detector with one upsampling looks at each sampled frame;
68 landmarks, crop and PNG of the largest face. Ours: `pipelines.faces.video.VideoReader`, which also makes PNGs and the
FACES table. Floor: what cannot be left out, called bare: decode the frames that are needed, one search of the whole
frame for each cut, and for each sampled frame one look into a window and 68 landmarks.
All sample the same frames. Without videos: three made from a portrait that scikit-image carries, moving through
1280 x 720.

Printed for each video and in all:
    frames/s       sampled frames per second of CPU time: classic, ours
    ratio          CPU time of the classic way in CPU times of ours
    of floor       CPU time of the floor as a share of ours
    faces          frames with a face: classic, ours (held ones not counted)
    found again    share of the classic faces where ours overlaps with IoU >= 0.5
    landmarks      mean distance of the 68 points on those, as a share of the distance between the eyes
Then the frames where only one of the two found a face: what is not in the classic result is a gain or a false face,
which only eyes can tell (`python -m pipelines.browse`).
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

from pipelines.common.pictures import encode_png
from pipelines.faces.boxes import longer_side, overlap
from pipelines.faces.crops import cut, square_crop
from pipelines.faces.detect import DETECTORS, Landmarks
from pipelines.faces.follow import Follower, shots
from pipelines.faces.recipe import Recipe
from pipelines.faces.video import VideoReader
from pipelines.media import decode
from pipelines.media.frames import UnreadableVideo
from pipelines.media.sampling import indices

FacesByFrame = dict[int, tuple[np.ndarray, np.ndarray]]  # frame_index -> box (4,), landmarks (68, 2) in frame pixels


@dataclass
class Comparison:
    """Of one video, or summed over several."""

    frames: int
    classic_s: float
    ours_s: float
    floor_s: float
    classic_faces: int
    our_faces: int
    found_again: int
    deviation: list[float]  # of the landmarks, for each face that is found again
    only_classic: int = 0
    only_ours: int = 0

    def line(self, name: str) -> str:
        """Return the printed row."""
        again = f"{self.found_again / self.classic_faces:.3f}" if self.classic_faces else "-"
        landmarks = f"{np.mean(self.deviation):.4f}" if self.deviation else "-"
        classic = f"{self.frames / self.classic_s:8.2f}" if self.classic_s else "       -"
        ratio = f"{self.classic_s / self.ours_s:7.1f}" if self.classic_s else "      -"
        return (
            f"{name[:30]:30s} {classic} {self.frames / self.ours_s:8.2f} {ratio} {self.floor_s / self.ours_s:8.2f} "
            f"{self.classic_faces:6d} {self.our_faces:6d} {again:>7s} {landmarks:>9s}"
        )


class Classic:
    """The classic way: every frame is decoded, and each sampled one is searched whole."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.detect = dlib.get_frontal_face_detector()
        self.landmarks = Landmarks()

    def __call__(self, path: Path, wanted: Sequence[int]) -> FacesByFrame:
        """Return the largest face of each wanted frame that has one."""
        faces: FacesByFrame = {}
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
                    crop = square_crop(box, self.recipe.margin * longer_side(box), rgb.shape)
                    encode_png(cut(rgb, crop, self.recipe.size_px))
                    faces[index] = box, self.landmarks(rgb, box)
        video.release()
        return faces


class Floor:
    """The operations that no extraction can do without, and nothing else."""

    def __init__(self, recipe: Recipe) -> None:
        self.landmarks = Landmarks()
        self.follow = Follower(DETECTORS[recipe.detector](), several=False)

    def __call__(self, path: Path, wanted: Sequence[int]) -> None:
        frames = list(decode.open_source(path).frames(wanted))
        starts = {shot[0] for shot in shots(frames)}
        box = None
        for place, frame in enumerate(frames):
            if place in starts:
                faces = self.follow.search_frame(frame.rgb, coarse_first=True)
                box = max((face.box for face in faces), key=lambda b: b[2] - b[0], default=box)
            if box is not None:
                self.follow.search_near(frame.rgb, box)
                self.landmarks(frame.rgb, box)


def ours(reader: VideoReader, path: Path) -> FacesByFrame:
    """Return face 0 of each sampled frame in which it is seen, as `VideoReader` extracts it."""
    row = {"dataset": "", "video_id": path.stem, "label": 0, "method": "real", "codec": "", "split": "test"}
    row |= {"root": "videos", "uri": path.name, "mask_uri": None, "real_uri": None, "face_rule": "largest"}
    ((table, _),) = reader(row)
    size_px = reader.recipes[0].size_px
    faces: FacesByFrame = {}
    for face in table.to_pylist():
        if face["face_index"] == 0 and face["face_score"] > 0:
            x0, y0, x1, _ = face["crop_px"].values()
            scale = (x1 - x0) / size_px
            points = (np.array(face["landmarks_px"]).reshape(-1, 2) + 0.5) * scale - 0.5 + [x0, y0]
            faces[face["frame_index"]] = np.array(list(face["box_px"].values())), points
    return faces


def compare(
    path: Path, wanted: Sequence[int], classic: Classic | None, reader: VideoReader, floor: Floor
) -> Comparison:
    """Return how the three do on one video, of which the `wanted` frames are sampled."""
    reader.roots = {"videos": str(path.parent)}
    ours(reader, path)  # a reader serves many videos, and the memory for the frames of its first one stays
    times = [time.process_time()]
    theirs = classic(path, wanted) if classic else {}
    times.append(time.process_time())
    mine = ours(reader, path)
    times.append(time.process_time())
    floor(path, wanted)
    times.append(time.process_time())
    classic_s, ours_s, floor_s = (float(seconds) for seconds in np.diff(times))
    deviation = []
    for index, (box, points) in theirs.items():
        if index in mine and overlap(box, mine[index][0]) >= 0.5:
            eyes = np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))
            deviation.append(float(np.linalg.norm(points - mine[index][1], axis=1).mean() / eyes))
    return Comparison(
        frames=len(wanted),
        classic_s=classic_s if classic else 0.0,
        ours_s=ours_s,
        floor_s=floor_s,
        classic_faces=len(theirs),
        our_faces=len(mine),
        found_again=len(deviation),
        deviation=deviation,
        only_classic=len(theirs.keys() - mine.keys()),
        only_ours=len(mine.keys() - theirs.keys()),
    )


def make_videos(folder: Path, num_frames: int = 300) -> list[Path]:
    """Write three videos: a face of about 70, 140 and 280 pixels, moving through 1280 x 720."""
    portrait = skimage.data.astronaut()[:256, 100:356]
    paths = []
    for face_px in (70, 140, 280):
        side = round(256 * face_px / 90)
        small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)[: min(side, 720)]
        path = folder / f"face_{face_px}.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            for number in range(num_frames):
                picture = np.full((720, 1280, 3), 100, np.uint8)
                x = (1280 - side) * (number % 150) // 149
                y = (720 - small.shape[0]) * (number % 45) // 44
                picture[y : y + small.shape[0], x : x + side] = small
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        paths.append(path)
    return paths


def warm_up(reader: VideoReader, floor: Floor) -> None:
    """Call everything once: the first call costs more, and that is no video's."""
    with tempfile.TemporaryDirectory() as folder:
        (path, *_) = make_videos(Path(folder), num_frames=2)
        reader.roots = {"videos": folder}
        ours(reader, path)
        floor(path, [0, 1])


def measure(paths: Sequence[Path], recipe: Recipe, with_classic: bool) -> None:
    """Print the table for a recipe."""
    reader = VideoReader({}, [recipe])
    classic, floor = Classic(recipe) if with_classic else None, Floor(recipe)
    cv2.setNumThreads(1)
    print(f"\n{recipe.num_frames} frames a video, {recipe.detector}")
    print(f"{'':30s} {'frames/s':>17s} {'':7s} {'of':>8s} {'faces':>13s} {'found':>7s} {'land-':>9s}")
    heads = f"{'classic':>8s} {'ours':>8s} {'ratio':>7s} {'floor':>8s} {'class.':>6s} {'ours':>6s}"
    print(f"{'':30s} {heads} {'again':>7s} {'marks':>9s}")
    results: list[Comparison] = []
    warm_up(reader, floor)
    for path in paths:
        try:
            wanted = indices(recipe.frame_sampling(), decode.open_source(path).times)
        except UnreadableVideo as error:
            print(f"{path.stem[:30]:30s} {error}")
            continue
        results.append(compare(path.absolute(), wanted, classic, reader, floor))
        print(results[-1].line(path.stem), flush=True)
    deviation = [value for result in results for value in result.deviation]
    sums = {
        name: sum(getattr(result, name) for result in results)
        for name in Comparison.__dataclass_fields__
        if name != "deviation"
    }
    total = Comparison(**sums, deviation=deviation)
    print(total.line("in all"))
    print(f"frames with a face in the classic result only: {total.only_classic}, in ours only: {total.only_ours}")
    if total.deviation:
        median, most = np.quantile(total.deviation, (0.5, 0.95))
        print(f"landmarks, median and 95 % quantile: {median:.4f}, {most:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--num-frames", nargs="+", type=int, default=[32, 128], help="sampled frames of a video")
    parser.add_argument("--detector", choices=DETECTORS, default="dlib", help="ours and the floor's (default: dlib)")
    parser.add_argument("--no-classic", action="store_true", help="only ours against the floor")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.videos or make_videos(Path(folder))
        for num_frames in arguments.num_frames:
            recipe = Recipe(num_frames=num_frames, detector=arguments.detector)
            measure(paths, recipe, not arguments.no_classic)


if __name__ == "__main__":
    main()
