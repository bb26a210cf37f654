"""A fake that begins later than its counterpart gets masks from the right frames; one of another, none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.common import tables
from pipelines.common.pictures import decode_png
from pipelines.faces import counterpart
from pipelines.faces.counterpart import Surroundings
from pipelines.faces.recipe import Recipe
from pipelines.faces.video import VideoReader
from pipelines.media import decode
from pipelines.media.frames import Frame

LATE = 11  # frames
LENGTH = 24  # of the fake
RECIPE = Recipe(num_frames=4, size_px=64)


def row(uri: str, real_uri: str) -> dict:
    """Return a row of VIDEOS of a fake."""
    told = {"dataset": "toy", "video_id": f"toy/{uri}", "label": 1, "method": "made", "codec": "raw", "split": "test"}
    return (
        dict.fromkeys(tables.VIDEOS.names)
        | told
        | {
            "root": "toy",
            "uri": uri,
            "real_uri": real_uri,
            "source_ids": [uri],
            "face_rule": "largest",
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_video, portrait) -> Path:
    """Make a face that moves before a room in which something moves, fakes of a part of it, and another room."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rooms = [cv2.resize(rng.integers(0, 255, (9, 13, 3), np.uint8), (440, 288)) for _ in range(2)]
    real, fake, other = [], [], []
    for number in range(LENGTH + LATE + 3):
        frame = rooms[0].copy()
        cv2.circle(frame, (20, 10 * number % 280), 15, (255, 255, 255), -1)
        x = 60 + 3 * number
        frame[16:272, x : x + 256] = portrait
        real.append(frame)
        forged = frame.copy()
        forged[100:130, x + 110 : x + 150] = np.minimum(forged[100:130, x + 110 : x + 150].astype(int) + 70, 255)
        fake.append(forged)
        elsewhere = rooms[1].copy()
        elsewhere[16:272, x : x + 256] = portrait
        other.append(elsewhere)
    lossless = {"crf": "0", "pix_fmt": "yuv444p"}
    write_video(root / "real.mp4", real, **lossless)
    write_video(root / "other.mp4", other, **lossless)
    write_video(root / "late.mp4", fake[LATE : LATE + LENGTH], **lossless)
    write_video(root / "late_real.mp4", real[LATE : LATE + LENGTH], **lossless)
    write_video(root / "cut.mp4", fake[:LENGTH], **lossless)
    write_video(root / "cut_real.mp4", real[:LENGTH], **lossless)
    write_video(root / "long.mp4", fake, **lossless)
    return root


@pytest.fixture(scope="module")
def read(root):
    reader = VideoReader({"toy": str(root)}, [RECIPE])
    return lambda *pair: reader(row(*pair))[0]


@pytest.mark.parametrize(
    ("fake", "real", "aligned", "note"),
    [
        ("late.mp4", "real.mp4", "late_real.mp4", "begins 11 frames later than real.mp4"),
        ("long.mp4", "late_real.mp4", "real.mp4", "begins 11 frames earlier than late_real.mp4"),
        ("cut.mp4", "real.mp4", "cut_real.mp4", ""),
    ],
)
def test_masks_come_from_the_frames_that_show_the_same(read, fake, real, aligned, note):
    rows, ledger = read(fake, real)
    wanted, sound = read(fake, aligned)
    assert sound["reason"] == ""
    assert note in ledger["reason"]
    assert bool(note) == bool(ledger["reason"])
    known = [mask is not None for mask in rows["mask_png"].to_pylist()]
    assert sum(known) == (len(known) if fake != "long.mp4" else 3)  # the counterpart has not got the others
    for mask, expected in zip(rows["mask_png"].to_pylist(), wanted["mask_png"].to_pylist(), strict=True):
        if mask is not None:
            np.testing.assert_array_equal(decode_png(mask), decode_png(expected))
            assert 0.01 < (decode_png(mask) > 0).mean() < 0.2


def test_another_scene_tells_nothing_of_what_was_forged(read):
    rows, ledger = read("late.mp4", "other.mp4")
    assert rows["mask_png"].null_count == rows.num_rows == RECIPE.num_frames
    assert (
        "no mask for 4 of 4 faces: other.mp4 lacks the frame, has another size, shows another scene or no change"
        in ledger["reason"]
    )


def test_surroundings_by_hand():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 255, (120, 160, 3), np.uint8)
    faces = [(40, 20, 120, 100)]
    around = Surroundings(Frame(0, 0.0, picture), faces)
    forged = picture.copy()
    forged[20:100, 40:120] = 0
    assert around.tell
    assert around.difference(forged) == 0
    assert around.is_scene_of(np.clip(forged.astype(int) // 2 + 90, 0, 255).astype(np.uint8))  # darker, less contrast
    assert not around.is_scene_of(picture[::-1].copy())
    assert not around.is_scene_of(picture[:100].copy())
    whole = Surroundings(Frame(0, 0.0, picture), [(0, 0, 160, 115)])
    assert not whole.tell
    assert whole.is_scene_of(picture[::-1].copy())


def test_where_nothing_moves_both_begin_together(tmp_path, write_video):
    still = [np.full((96, 128, 3), 80, np.uint8)] * 9
    real = decode.open_source(write_video(tmp_path / "real.mp4", still))
    around = {index: Surroundings(Frame(index, 0.0, still[0]), []) for index in range(5)}
    assert counterpart.offset(around, 5, real) == 0
    assert counterpart.offset({}, 5, real) == 0
