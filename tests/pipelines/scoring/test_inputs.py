"""Which files of a folder are scored, and that each of the others is named with a reason."""

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.media import decode
from pipelines.scoring import inputs, predict

CODECS = {".webm": "libvpx-vp9", ".wmv": "wmv2", ".flv": "flv", ".gif": "gif", ".3gp": "mpeg4"}


def names(paths, top: Path) -> list[str]:
    return [str(path.relative_to(top)) for path in paths]


def test_whatever_the_decoder_opens_is_a_video(write_video, tmp_path):
    """Of each format of which a real file was left out, also where its name does not say what it is."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    for suffix in (".mp4", ".webm", ".m4v", ".wmv", ".flv", ".3gp", ".ts", ".gif"):
        pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
        write_video(tmp_path / f"a{suffix}", noise, codec=CODECS.get(suffix, "libx264"), pix_fmt=pix_fmt)
    for suffix in (".ts", ".webm", ".wmv", ".mp4"):
        (tmp_path / f"b{suffix[1:]}").write_bytes((tmp_path / f"a{suffix}").read_bytes())
    (tmp_path / "script.ts").write_text("export const a = 1\n" * 50)
    given = inputs.find([str(tmp_path)])
    assert names(given.videos, tmp_path) == [
        *(f"a.{name}" for name in ("3gp", "flv", "gif", "m4v", "mp4", "ts", "webm", "wmv")),
        *("bmp4", "bts", "bwebm", "bwmv"),
    ]
    assert names(given.left_out[inputs.OTHER], tmp_path) == ["script.ts"]
    for path in given.videos:
        assert [frame.frame_index for frame in decode.grab(path, [0, 1, 2])] == [0, 1, 2], path


def test_what_is_left_out_is_named_with_its_reason(tmp_path):
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    (top / ".git").mkdir(parents=True)
    elsewhere.mkdir()
    for name in ("clip.mp4", "._clip.mp4", "notes.txt", "data.bin", "x.tar", os.fsdecode(b"caf\xe9.mp4"), ".git/a.mp4"):
        (top / name).write_bytes(b"anything")
    (elsewhere / "far.mp4").touch()
    (top / "link").symlink_to(elsewhere)
    (top / "circle").symlink_to(top)
    (top / "nowhere.mp4").symlink_to(top / "gone.mp4")
    os.mkfifo(top / "pipe.mp4")
    given = inputs.find([str(top), str(top / "clip.mp4")])
    assert names(given.videos, top) == [os.fsdecode(b"caf\xe9.mp4"), "clip.mp4", "link/far.mp4"]
    assert {why: names(paths, top) for why, paths in given.left_out.items()} == {
        inputs.HIDDEN: [".git", "._clip.mp4"],
        inputs.OTHER: ["data.bin", "notes.txt"],
        inputs.ARCHIVE: ["x.tar"],
        "a link that leads nowhere": ["nowhere.mp4"],
        "not a regular file": ["pipe.mp4"],
        "a link to a folder that is searched already": ["circle"],
    }
    assert f"Left out, {inputs.OTHER}: {top}/data.bin, {top}/notes.txt" in given.remarks()


def test_numbered_pictures_are_a_video_and_others_stand_alone(tmp_path):
    for folder, files in {
        "frames": ("f_9.png", "f_10.png"),
        "photos": ("anna.png", "ben.png"),
        "people": ("id1_1.png", "id2_1.png"),
        "beside": ("1.png", "2.png"),
        "single": ("1.png",),
    }.items():
        (tmp_path / folder).mkdir()
        for name in files:
            cv2.imwrite(str(tmp_path / folder / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "beside" / "a.mp4").touch()
    given = inputs.find([str(tmp_path)])
    assert names(given.videos, tmp_path) == [
        *("beside/1.png", "beside/2.png", "beside/a.mp4", "frames", "people/id1_1.png", "people/id2_1.png"),
        *("photos/anna.png", "photos/ben.png", "single/1.png"),
    ]
    assert given.remarks() == [f"Numbered pictures, taken for the frames of a video: {tmp_path}/frames"]
    assert inputs.find([str(tmp_path / "frames")]).videos == [tmp_path / "frames"]


def test_a_folder_without_videos_is_one_error(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"holds no videos or pictures; name others\nLeft out, neither .*a\.txt"):
        inputs.find([str(tmp_path)])
    with pytest.raises(ValueError, match="there is no file or folder"):
        inputs.find([str(tmp_path / "none.mp4")])


def test_plain_text_is_not_even_looked_at(tmp_path, monkeypatch):
    for number in range(200):
        (tmp_path / f"{number}.json").touch()
    (tmp_path / "a.mp4").touch()
    asked: list[str] = []
    whole = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        asked.append(path.name)
        return whole(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert names(inputs.find([str(tmp_path)]).videos, tmp_path) == ["a.mp4"]
    assert "a.mp4" in asked
    assert not any(name.endswith(".json") for name in asked)


def test_a_picture_is_one_frame_whatever_its_name(tmp_path):
    """FFmpeg would take `%d` for a number to fill in."""
    path = tmp_path / "50%d.png"
    Image.fromarray(np.full((8, 6, 3), (200, 10, 30), np.uint8)).save(path)
    source = decode.open_source(path)
    (frame,) = source.frames(range(5))
    assert (source.times, source.note) == ([0], "")
    assert (frame.rgb == (200, 10, 30)).all()


def test_a_folder_has_the_id_of_its_content(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            (tmp_path / folder / f"{number}.png").write_bytes(bytes([number]))
    first, second = (predict.video_id(tmp_path / folder) for folder in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "0.png").write_bytes(b"x")
    assert predict.video_id(tmp_path / "b") != first


@pytest.mark.nightly
def test_ten_videos_among_a_hundred_thousand_files_are_found_in_seconds(tmp_path):
    for number in range(100_000):
        os.close(os.open(tmp_path / f"{number}.{('txt', 'json', 'pdf')[number % 3]}", os.O_CREAT))
    wanted = [f"video {number}.mp4" for number in range(10)]
    for name in wanted:
        (tmp_path / name).write_bytes(b"x")
    start = time.process_time()
    given = inputs.find([str(tmp_path)])
    assert names(given.videos, tmp_path) == wanted
    assert sum(map(len, given.left_out.values())) == 100_000
    assert all(len(line) < 1000 for line in given.remarks())
    assert time.process_time() - start < 20  # 2.2 s; opening each would take minutes


def test_a_tilde_before_no_user_of_this_machine_is_a_part_of_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file or folder ~no-such-user\.mp4"):
        inputs.find(["~no-such-user.mp4"])
    (tmp_path / "~no-such-user.mp4").touch()
    assert inputs.find(["~no-such-user.mp4"]).videos == [Path("~no-such-user.mp4")]
