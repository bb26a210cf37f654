"""Frames of every codec and container that people send, against all that ffmpeg itself decodes of the same file.

`pytest -m nightly -v` on this file prints the matrix, a line for each file.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipelines.media import decode
from pipelines.media.sampling import even_indices

pytestmark = pytest.mark.nightly

WIDTH, HEIGHT, COUNT = 176, 144, 100  # a size that H.263 knows
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
B_FRAMES = (*H264, "-bf", "3", "-g", "30", "-x264-params", "b-adapt=0:b-pyramid=normal")
OPEN = (*H264, "-bf", "3", "-g", "20", "-x264-params", "open-gop=1:b-adapt=0")
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
FINE = ("-q:v", "3")
BACK = (*FINE, "-bf", "2")

# File -> how ffmpeg encodes it.
FILES: dict[str, Sequence[str]] = {
    **{f"h264.{ending}": B_FRAMES for ending in ("mp4", "mov", "m4v", "3gp", "mkv", "avi", "ts", "flv")},
    "h264_stream.h264": (*B_FRAMES, "-f", "h264"),
    "h264_fragments.mp4": (*B_FRAMES, "-movflags", "frag_keyframe+empty_moov"),
    "h264_open_groups.mp4": OPEN,
    "h264_open_groups.ts": OPEN,
    "h264_gradual_refresh.mp4": (*H264, "-g", "30", "-x264-params", "intra-refresh=1"),
    "h264_interlaced.mp4": (*H264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"),
    "hevc.mp4": (*HEVC, "bframes=4:keyint=30:log-level=none"),
    "hevc.ts": (*HEVC, "bframes=4:keyint=30:log-level=none"),
    "hevc_open_groups.mkv": (*HEVC, "bframes=4:open-gop=1:keyint=20:log-level=none"),
    "hevc_kvazaar.mp4": ("-c:v", "libkvazaar"),
    "av1_svt.mp4": ("-c:v", "libsvtav1", "-preset", "10"),
    "av1_svt.webm": ("-c:v", "libsvtav1", "-preset", "8", "-g", "32"),
    "av1_aom.mp4": ("-c:v", "libaom-av1", "-cpu-used", "8", "-g", "50"),
    "av1_aom.mkv": ("-c:v", "libaom-av1", "-cpu-used", "8", "-lag-in-frames", "19"),
    "av1_rav1e.mp4": ("-c:v", "librav1e", "-speed", "10"),
    "vp8.webm": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "500k"),
    "vp8.ivf": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.mp4": ("-c:v", "libvpx-vp9", "-cpu-used", "8"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", *BACK),
    **{f"mpeg2.{ending}": ("-c:v", "mpeg2video", *BACK) for ending in ("mpg", "vob", "ts", "mkv", "avi")},
    **{f"mpeg4.{ending}": ("-c:v", "mpeg4", *BACK) for ending in ("mp4", "mkv", "avi")},
    "xvid.avi": ("-c:v", "libxvid", *FINE),
    "xvid_b_frames.avi": ("-c:v", "libxvid", *BACK),
    "xvid_b_frames.mp4": ("-c:v", "libxvid", *BACK),
    "wmv1.wmv": ("-c:v", "wmv1", *FINE),
    "wmv2.wmv": ("-c:v", "wmv2", *FINE),
    "msmpeg4.avi": ("-c:v", "msmpeg4", *FINE),
    "h263.3gp": ("-c:v", "h263", *FINE),
    "sorenson.flv": ("-c:v", "flv1", *FINE),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "8"),
    "mjpeg.avi": ("-c:v", "mjpeg", *FINE),
    "mjpeg.mov": ("-c:v", "mjpeg", *FINE),
    "prores.mov": ("-c:v", "prores_ks"),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "huffyuv.avi": ("-c:v", "huffyuv"),
    "raw.avi": ("-c:v", "rawvideo"),
    "moving.gif": ("-c:v", "gif"),
}


def ffmpeg(*arguments: str | Path, given: bytes | None = None) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout


@pytest.fixture(scope="module")
def raw() -> bytes:
    """RGB frames that spell their number in eight blocks, above a texture that stays for ten of them."""
    frames = np.empty((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:60] = number * 7 % 200
        frame[60:] = np.random.default_rng(number // 10).integers(60, 180, (HEIGHT - 60, WIDTH, 1))
        for bit in range(8):
            frame[:32, 8 + 20 * bit : 28 + 20 * bit] = 255 * (number >> bit & 1)
    return frames.tobytes()


def number_in(rgb: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if rgb[8:24, 12 + 20 * bit : 24 + 20 * bit].mean() > 127)


def write(path: Path, raw: bytes, how: Sequence[str]) -> Path:
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-", *how, path, given=raw
    )
    return path


def shown_by_ffmpeg(path: Path) -> list[int]:
    out = ffmpeg("-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return [number_in(rgb) for rgb in np.frombuffer(out, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)]


def check(path: Path, shown: list[int]) -> None:
    """All frames, 10 and 30 evenly spaced and single ones are those that ffmpeg shows at their places."""
    source = decode.open_source(path)
    assert len(source.times) == len(shown)
    assert list(source.times) == sorted(source.times)
    spread = [even_indices(len(shown), count) for count in (10, 30)]
    for wanted in ([*range(len(shown))], *spread, [len(shown) - 1], [41]):
        assert [(frame.frame_index, number_in(frame.rgb)) for frame in source.frames(wanted)] == [
            (place, shown[place]) for place in wanted
        ]


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_one_that_ffmpeg_shows(tmp_path, raw, name):
    path = write(tmp_path / name, raw, FILES[name])
    shown = shown_by_ffmpeg(path)
    assert len(shown) >= COUNT - 2  # XviD leaves out two of its own frames
    check(path, shown)
    assert decode.open_source(path).note == "" or name.startswith("xvid_b")


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mov", "h264.mkv", "hevc.mp4", "mpeg4.mp4"])
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, raw, name):
    whole = write(tmp_path / name, raw, FILES[name])
    cut = tmp_path / f"cut_{name}"
    ffmpeg("-ss", "1.72", "-i", whole, "-c", "copy", cut)
    check(cut, shown_by_ffmpeg(cut))
    assert decode.open_source(cut).note == ""


def test_a_second_stream_or_a_cover_is_not_the_film(tmp_path, raw):
    film = write(tmp_path / "film.mp4", raw, B_FRAMES)
    preview = write(tmp_path / "preview.mp4", raw[: len(raw) // 2], (*H264, "-vf", "scale=88:72"))
    cover = tmp_path / "cover.png"
    ffmpeg("-i", preview, "-frames:v", "1", cover)
    both, covered = tmp_path / "both.mkv", tmp_path / "covered.mp4"
    ffmpeg("-i", preview, "-i", film, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "0", both)
    ffmpeg("-i", cover, "-i", film, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic", covered)
    for path in (both, covered):
        check(path, [*range(COUNT)])
