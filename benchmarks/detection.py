"""Which face detector: recall, false faces, stability of boxes, crops and CPU time, on one's own pictures and videos.

    uv run python benchmarks/detection.py own=/data/videos.csv celeb_df=/data/celeb_df [--detectors dlib retinaface]
        [--num-frames 8] [--every 1] [--look DIR]

Each argument is a line of datasets.toml: a dataset's name and its folder, or a name and a manifest of one's own.
Faces are found as an extraction finds them (`pipelines.faces.crops.FaceFinder.tracks`), by each detector in the same
frames. One thread, one process. Printed for each list and detector:

    no face          videos (pictures are videos of one frame) without a face, and the share among real and fake ones
    p                of Fisher's exact test whether real and fake differ in this
    frames           share of frames with a face
    alone            faces that no other detector sees (boxes overlap by less than an eighth of the smaller), as a share
                     of all: a gain or a false face, which only eyes can tell; `--look` writes them as pictures
    missed           frames in which others see a face and this one sees none
    moved            by how much the largest face's box moves when the picture is mirrored and a tenth smaller: mean
                     distance of centres, and of the logarithms of their sides, in per cent
    crop             intersection over union of its crop and the first detector's, median, at one margin; side of its
                     box as a multiple of the first detector's
    ms               CPU time of a frame, of finding and following
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from scipy import stats

from pipelines import datasets
from pipelines.common.pictures import encode_png
from pipelines.common.storage import write_bytes
from pipelines.faces.boxes import area, longer_side, overlap, shared_area
from pipelines.faces.crops import FaceFinder, square_crop
from pipelines.faces.detect import DETECTORS, Detection
from pipelines.faces.files import locate
from pipelines.faces.recipe import Recipe
from pipelines.media import decode, fetch
from pipelines.media.frames import Frame, UnreadableVideo
from pipelines.media.sampling import Sampling, indices

_SHRUNK = 0.9
_SAME = 1 / 8  # of the smaller box: what two detectors take for one face differs in height


@dataclass
class Found:
    """What a detector found in a list, summed up."""

    without: list[int] = field(default_factory=lambda: [0, 0])  # videos, by label
    frames: int = 0  # with a face
    faces: int = 0
    alone: int = 0
    missed: int = 0
    shifts: list[float] = field(default_factory=list)
    growths: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Detectors:
    """The detectors that are compared, each with its recipe."""

    def __init__(self, names: Sequence[str]) -> None:
        self.recipes = {name: Recipe(detector=name) for name in names}
        self.finders = {name: FaceFinder(recipe) for name, recipe in self.recipes.items()}

    def faces(self, name: str, frames: Sequence[Frame]) -> dict[int, list[Detection]]:
        """Return place -> faces, the largest first, for the frames in which the detector finds any."""
        found: dict[int, list[Detection]] = defaultdict(list)
        for track in self.finders[name].tracks(frames, self.recipes[name]):
            for place, face in track.detections.items():
                found[place].append(face)
        return {place: sorted(faces, key=lambda face: -area(face.box)) for place, faces in found.items()}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two boxes are of one face."""
    return shared_area(a, b) >= _SAME * min(area(a), area(b))


def turned(frame: Frame) -> Frame:
    """Return the frame mirrored and smaller."""
    size = tuple(round(_SHRUNK * side) for side in frame.rgb.shape[1::-1])
    return Frame(0, 0.0, np.ascontiguousarray(cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)[:, ::-1]))


def back(box: np.ndarray, frame: Frame) -> np.ndarray:
    """Return a box of the turned frame in the frame itself."""
    width = round(_SHRUNK * frame.rgb.shape[1])
    scale = np.tile(np.array(frame.rgb.shape[1::-1]) / [width, round(_SHRUNK * frame.rgb.shape[0])], 2)
    return np.array([width - box[2], box[1], width - box[0], box[3]]) * scale


def compare(frames: Sequence[Frame], label: int, detectors: Detectors, results: dict[str, Found], look: Path | None):
    """Add what each detector finds in the frames of one video."""
    by_name: dict[str, dict[int, list[Detection]]] = {}
    for name, found in results.items():
        start = time.process_time()
        by_name[name] = detectors.faces(name, frames)
        found.seconds += time.process_time() - start
        found.without[label] += not by_name[name]
        found.frames += len(by_name[name])
    first = next(iter(results))
    for name, found in results.items():
        for place in range(len(frames)):
            own = by_name[name].get(place, [])
            others = [face for other in results if other != name for face in by_name[other].get(place, [])]
            found.faces += len(own)
            found.missed += bool(others) and not own
            for number, face in enumerate(own):
                if not any(same(face.box, other.box) for other in others):
                    found.alone += 1
                    keep(look, f"{name}-{found.alone}", frames[place], face)
                reference = by_name[first].get(place)
                if number == 0 and reference and same(face.box, reference[0].box):
                    crops = [
                        square_crop(each.box, 1.3 * longer_side(each.box), frames[place].rgb.shape)
                        for each in (face, reference[0])
                    ]
                    found.ious.append(overlap(*(np.array(crop, float) for crop in crops)))
                    found.sides.append(longer_side(face.box) / longer_side(reference[0].box))
        place = len(frames) // 2
        if before := by_name[name].get(place):
            now = detectors.faces(name, [turned(frames[place])]).get(0, [])
            boxes = [box for face in now if same(box := back(face.box, frames[place]), before[0].box)]
            if boxes:
                a, b = before[0].box, boxes[0]
                shift = np.hypot(*((a[:2] + a[2:] - b[:2] - b[2:]) / 2)) / longer_side(a)
                found.shifts.append(float(shift))
                found.growths.append(abs(float(np.log(longer_side(b) / longer_side(a)))))


def keep(look: Path | None, name: str, frame: Frame, face: Detection) -> None:
    """Write the surroundings of a face, with its box."""
    if look is None:
        return
    x0, y0, x1, y1 = square_crop(face.box, 2.5 * longer_side(face.box), frame.rgb.shape)
    a, b, c, d = (int(value) for value in face.box)
    picture = cv2.rectangle(frame.rgb.copy(), (a, b), (c, d), (255, 0, 0), max(1, (c - a) // 60))[y0:y1, x0:x1]
    write_bytes(look / f"{name}.png", encode_png(cv2.resize(picture, (160, 160), interpolation=cv2.INTER_AREA)))


def line(name: str, found: Found, videos: Sequence[int], num_frames: int) -> str:
    """Return the printed row."""
    shares = [f"{found.without[label] / videos[label]:.2%}" if videos[label] else "-" for label in (0, 1)]
    p = "-"
    if all(videos):
        table = [[found.without[label], videos[label] - found.without[label]] for label in (0, 1)]
        p = f"{stats.fisher_exact(table).pvalue:.2g}"
    shift = f"{100 * np.mean(found.shifts):.1f} {100 * np.mean(found.growths):.1f}" if found.shifts else "-"
    crop = f"{np.median(found.ious):.2f} x{np.median(found.sides):.2f}" if found.ious else "-"
    return (
        f"{name:12s} {sum(found.without) / sum(videos):8.2%} {shares[0]:>7s} {shares[1]:>7s} {p:>8s} "
        f"{found.frames / num_frames:8.2%} {found.alone / max(1, found.faces):7.2%} {found.missed / num_frames:8.2%} "
        f"{shift:>9s} {crop:>10s} {1000 * found.seconds / num_frames:7.1f}"
    )


def measure(name: str, root: str, detectors: Detectors, num_frames: int, every: int, look: Path | None) -> None:
    """Print the table of one dataset."""
    rows = datasets.load(name, {name: root}).to_pylist()[::every]
    results = {detector: Found() for detector in detectors.finders}
    videos, total, unreadable = [0, 0], 0, 0
    for row in rows:
        try:
            with fetch.local(locate({name: root}, row["root"], row["uri"])) as path:
                source = decode.open_source(path)
                frames = list(source.frames(indices(Sampling(num_frames=num_frames), source.times)))
        except UnreadableVideo:
            frames = []
        if not frames:
            unreadable += 1
            continue
        videos[row["label"]] += 1
        total += len(frames)
        compare(frames, row["label"], detectors, results, look and look / name)
    print(
        f"\n{name}: {videos[0]} real, {videos[1]} fake, {total} frames"
        + f", {unreadable} unreadable" * bool(unreadable)
    )
    print(f"{'':12s} {'no face':>8s} {'real':>7s} {'fake':>7s} {'p':>8s} {'frames':>8s} {'alone':>7s} {'missed':>8s} "
          f"{'moved':>9s} {'crop':>10s} {'ms':>7s}")  # fmt: skip
    for detector, found in results.items():
        print(line(detector, found, videos, max(1, total)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", metavar="NAME=ROOT", help="a dataset's folder, or a manifest")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=["dlib", "retinaface"])
    parser.add_argument("--num-frames", type=int, default=8, help="of a video")
    parser.add_argument("--every", type=int, default=1, help="only every so many videos")
    parser.add_argument("--look", type=Path, metavar="DIR", help="where faces that one detector alone sees are shown")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    detectors = Detectors(arguments.detectors)
    for each in arguments.lists:
        name, _, root = each.partition("=")
        if not root:
            parser.error(f"{each}: write a name and a folder or manifest, as in own=/data/videos.csv")
        measure(name, root, detectors, arguments.num_frames, arguments.every, arguments.look)


if __name__ == "__main__":
    main()
