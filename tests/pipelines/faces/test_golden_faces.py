"""No face moves without its digest: faces that are stored would be taken for those that this code cuts.

`golden_faces.json` holds the faces of a made-up video as some recipes cut them, with the names of these. It is made by

    uv run python tests/pipelines/faces/test_golden_faces.py

which refuses as long as a face has moved, and neither a recipe nor `FACES_VERSION` has.
"""

import ast
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from pipelines.common import tables
from pipelines.common.pictures import decode_png
from pipelines.faces import boxes, counterpart, crops, detect, follow, masks, video
from pipelines.faces.plan import faces_folder
from pipelines.faces.recipe import Recipe
from pipelines.media import decode, sampling, stills

FILE = Path(__file__).with_name("golden_faces.json")
AGAIN = "uv run python tests/pipelines/faces/test_golden_faces.py"
NUM_FRAMES, HIDDEN, CUT = 12, 4, 8  # the frame in which no face is seen; the one from which on it is another shot
PLAIN = Recipe(num_frames=NUM_FRAMES, size_px=64)
RECIPES = {
    "dlib": PLAIN,
    "two faces, each frame its own crop": replace(
        PLAIN, max_faces=2, constant_box=False, margin=1.6, num_frames=4, sampling="stride", stride=3
    ),
    "retinaface": replace(PLAIN, num_frames=3, detector="retinaface"),
}
# Differences that are none, of other processors' sums: in pixels of the frame or gray levels, and of detectors' scores.
TOLERANCE, SCORE_TOLERANCE = 0.75, 0.02
DECIDE_NOTHING = {"pipelines.faces.video._FRAME_BYTES", "pipelines.media.stills._SPOOL_BYTES"}  # but memory and time


def frames(fake: bool) -> list[NDArray[np.uint8]]:
    """Return RGB pictures (260, 540, 3): a large face that goes to the right and hides, a smaller one, and a cut."""
    portrait = np.ascontiguousarray(skimage.data.astronaut()[:256, 100:356])
    if fake:
        portrait[125:150, 100:140] = np.minimum(portrait[125:150, 100:140].astype(int) + 60, 255)
    small = cv2.resize(portrait, (190, 190), interpolation=cv2.INTER_AREA)
    made = []
    for number in range(NUM_FRAMES):
        frame = np.full((260, 540, 3), 90, np.uint8)
        if number >= CUT:
            frame[:] = (20, 160, 60)
            frame[4:260, 200:456] = portrait[:, ::-1]
        else:
            frame[2:258, 4 * number : 4 * number + 256] = portrait
            frame[40:230, 330:520] = small
            if number == HIDDEN:
                frame[70:190, 60 + 4 * number : 190 + 4 * number] = 120
        made.append(frame)
    return made


def numbers(folder: Path) -> dict[str, Any]:
    """Return for each recipe the rows of FACES that it makes of the video, as numbers."""
    for name in ("real", "fake"):
        (folder / name).mkdir()
        for number, frame in enumerate(frames(name == "fake")):
            cv2.imwrite(str(folder / name / f"{number:02d}.png"), frame[..., ::-1])
    told = {"dataset": "toy", "video_id": "toy/fake", "label": 1, "method": "made", "codec": "raw", "split": "test"}
    told |= {"root": "toy", "uri": "fake", "source_ids": ["one"], "face_rule": "largest", "real_uri": "real"}
    row = dict.fromkeys(tables.VIDEOS.names) | told
    read = video.VideoReader({"toy": str(folder)}, tuple(RECIPES.values()))(row, range(len(RECIPES)))
    return {name: [_row(row) for row in rows.to_pylist()] for name, (rows, _) in zip(RECIPES, read, strict=True)}


def _row(row: Mapping[str, Any]) -> dict[str, list[float]]:
    points = np.reshape(row["landmarks_px"], (-1, 2))
    mask = row["mask_png"] and decode_png(row["mask_png"])
    found = {
        "index": [row["frame_index"], row["face_index"]],
        "box": list(row["box_px"].values()),
        "crop": list(row["crop_px"].values()),
        "score": [row["face_score"]],
        "landmarks": [*points.mean(0), *points.std(0)],
        "image": [decode_png(row["image_png"]).mean()],
        "mask": [-1.0 if mask is None else mask.mean() / 10],
    }
    return {name: [round(float(value), 3) for value in values] for name, values in found.items()}


def names() -> dict[str, str]:
    """Return the folders that faces of each recipe are kept in."""
    return {name: faces_folder(Path(), "toy", recipe, None).name for name, recipe in RECIPES.items()}


def constants() -> dict[str, str]:
    """Return the numbers that the code of extraction names in capitals: few of them show in so short a video."""
    found = {}
    for module in (boxes, counterpart, crops, decode, detect, follow, masks, sampling, stills, video):
        tree = ast.parse(Path(module.__file__).read_text())
        assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        names = {name.id for target in assigned for name in ast.walk(target) if isinstance(name, ast.Name)}
        for name in sorted(names):
            value = getattr(module, name)
            if name.isupper() and isinstance(value, int | float | np.ndarray):
                found[f"{module.__name__}.{name}"] = repr(value)
    return {name: value for name, value in found.items() if name not in DECIDE_NOTHING}


def moved(stored: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return the first difference that is one; empty where there is none."""
    here = constants()
    for name, value in stored["constants"].items():
        if here.get(name, value) != value:
            return f"{name} was {value}, is {here[name]}"
    for name, old in stored["numbers"].items():
        new = found.get(name, [])
        if [row["index"] for row in old] != [row["index"] for row in new]:
            return f"{name}: {len(old)} faces were found, now {len(new)}, or in other frames"
        for before, after in zip(old, new, strict=True):
            for part, values in before.items():
                allowed = SCORE_TOLERANCE if part == "score" else TOLERANCE
                if not np.allclose(values, after[part], rtol=0, atol=allowed):
                    return f"{name}, frame {before['index'][0]}: {part} was {values}, is {after[part]}"
    return ""


def main() -> str | None:
    """Write the file. Return why not, if a face has moved and its digest has not."""
    with tempfile.TemporaryDirectory() as folder:
        found = numbers(Path(folder))
    stored = json.loads(FILE.read_text()) if FILE.exists() else {"names": None}
    if stored["names"] == names() and (text := moved(stored, found)):
        return f"{text}; raise FACES_VERSION in pipelines/faces/recipe.py"
    FILE.write_text(json.dumps({"names": names(), "constants": constants(), "numbers": found}) + "\n")
    return None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return numbers(tmp_path_factory.mktemp("videos"))


def test_faces_move_with_their_digest_only(found: dict[str, Any]) -> None:
    stored = json.loads(FILE.read_text())
    if stored["names"] == names():
        difference = moved(stored, found)
        assert not difference, f"{difference}. If that is meant, raise FACES_VERSION in faces/recipe.py; then: {AGAIN}"
    assert stored["names"] == names(), f"recipes or FACES_VERSION differ from golden_faces.json, as is right: {AGAIN}"
    assert stored["constants"].keys() == constants().keys(), f"constants came or went: {AGAIN}"


def test_the_made_up_video_shows_what_it_should(found: dict[str, Any]) -> None:
    """A face that is held where it hides, a second face, masks, and another shot."""
    one, two, retina = found.values()
    assert {row["index"][0]: row["score"] for row in one}[HIDDEN] == [0.0]
    assert {row["index"][1] for row in two} == {0, 1}
    assert all(row["mask"][0] > 0.1 for row in one if row["score"][0] > 0)
    assert {row["index"][0] for row in one} >= {0, CUT}
    assert {row["index"][0] for row in retina} == {2, 6, 10}


if __name__ == "__main__":
    sys.exit(main())
