"""Video files, and which of their frames are taken.

Every test frame carries its own number as black and white blocks, so an exact index can be read back."""

import gc
import math
import os
import struct
import wave
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.media import decode
from pipelines.media.frames import UnreadableVideo
from pipelines.media.sampling import Sampling, even_indices, indices
from tests.pipelines.media.taking import take

BLOCK = 16


def numbered(count: int, height: int = 64, width: int = 128) -> list[np.ndarray]:
    """Frames whose top row of eight blocks spells the frame number in binary, on a moving background."""
    frames = []
    for number in range(count):
        frame = np.full((height, width, 3), (number * 7) % 200, np.uint8)
        for bit in range(8):
            frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
        frames.append(frame)
    return frames


def number_in(rgb: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if rgb[4:12, bit * BLOCK + 4 : bit * BLOCK + 12].mean() > 127)


def numbers(frames) -> list[tuple[int, int]]:
    return [(frame.frame_index, number_in(frame.rgb)) for frame in frames]


def same(*indices: int) -> list[tuple[int, int]]:
    return [(index, index) for index in indices]


@pytest.mark.parametrize(
    ("total", "n", "expected"),
    [
        (10, 3, [1, 5, 8]),  # the middles of three parts of 3 1/3 frames
        (300, 4, [37, 112, 187, 262]),
        (4, 4, [0, 1, 2, 3]),
        (3, 30, [0, 1, 2]),  # each once
        (7, 1, [3]),
        (0, 5, []),
    ],
)
def test_even_indices(total, n, expected):
    assert even_indices(total, n) == expected


def test_even_indices_never_repeat_and_reach_both_ends():
    for total in range(1, 80):
        for n in range(1, total + 1):
            indices = even_indices(total, n)
            assert len(set(indices)) == n
            assert indices[0] <= total / n
            assert indices[-1] >= total - 1 - total / n


STEADY = [i / 10 for i in range(10)]  # ten frames, ten a second
UNSTEADY = [0, 0.1, 0.2, 1.0, 1.1, 3.0, 3.1, 3.2]


@pytest.mark.parametrize(
    ("sampling", "times", "expected"),
    [
        ({"kind": "even", "num_frames": 3}, STEADY, [1, 5, 8]),
        ({"kind": "even", "num_frames": 3}, UNSTEADY, [1, 4, 6]),  # by count, not by time
        ({"kind": "even", "num_frames": None}, STEADY, list(range(10))),
        ({"kind": "stride", "stride": 4}, STEADY, [0, 4, 8]),
        ({"kind": "stride", "stride": 1, "num_frames": None}, STEADY, list(range(10))),
        (
            {"kind": "stride", "stride": 2, "num_frames": 2},
            STEADY,
            [2, 6],
        ),  # the 2nd and 4th of 0, 2, 4, 6, 8; not 0, 2
        ({"kind": "fps", "fps": 5}, STEADY, [0, 2, 4, 6, 8]),
        ({"kind": "fps", "fps": 10}, STEADY, list(range(10))),
        ({"kind": "fps", "fps": 99}, STEADY, list(range(10))),  # each once
        ({"kind": "fps", "fps": 4}, STEADY, [0, 2, 5, 7]),  # at 0.25 s the frame of 0.2 s is shown
        ({"kind": "fps", "fps": 1}, UNSTEADY, [0, 3, 4, 5]),  # at 2 s the frame of 1.1 s is shown still
        ({"kind": "fps", "fps": 5}, UNSTEADY, [0, 2, 3, 4, 5, 7]),  # 0.2 is shown until 1.0, 1.1 until 3.0
        ({"kind": "fps", "fps": 1, "num_frames": 2}, UNSTEADY, [3, 5]),
        ({"kind": "fps", "fps": 0.1}, STEADY, [0]),
        ({"kind": "clips", "num_frames": 3, "clip_frames": 3}, STEADY, [3, 4, 5]),
        ({"kind": "clips", "num_frames": 4, "clip_frames": 2}, STEADY, [1, 2, 6, 7]),  # 6 to spare: 1.5, 3, 1.5
        (
            {"kind": "clips", "num_frames": 20, "clip_frames": 4},
            STEADY,
            [0, 1, 2, 3, 5, 6, 7, 8],
        ),  # two without overlap
        ({"kind": "clips", "num_frames": None, "clip_frames": 5}, STEADY, list(range(10))),
        ({"kind": "clips", "num_frames": 16, "clip_frames": 16}, STEADY, list(range(10))),
        *(({"kind": kind, "num_frames": 16}, [], []) for kind in ("even", "stride", "fps", "clips")),
    ],
)
def test_indices(sampling, times, expected):
    assert indices(Sampling(**sampling), times) == expected


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.sampled_from([0.5, 1, 2, 3, 7, 10, 25]))
def test_each_tick_has_the_frame_that_is_shown_then(steps, fps):
    times = [sum(steps[:i]) / 10 for i in range(len(steps))]
    end = times[-1] + (steps[-2] / 10 if len(steps) > 1 else 0.01)
    ticks = [tick / fps for tick in range(math.ceil(end * fps) + 1) if tick / fps < end - 1e-9]
    shown = {max(i for i, time in enumerate(times) if time <= tick + 1e-9) for tick in ticks}
    assert indices(Sampling(kind="fps", fps=fps, num_frames=None), times) == sorted(shown)


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 8))
def test_clips_are_whole_and_share_no_frame(total, clip_frames, count):
    sampling = Sampling(kind="clips", num_frames=count * clip_frames, clip_frames=clip_frames)
    found = indices(sampling, [i / 25 for i in range(total)])
    if total >= clip_frames:
        assert len(found) == min(count, total // clip_frames) * clip_frames
        assert all(b - a == 1 for i, (a, b) in enumerate(pairwise(found), start=1) if i % clip_frames)
    assert found == sorted(set(found))
    assert all(0 <= index < total for index in found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "random"}, "must be one of even, stride, fps, clips; got 'random'"),
        ({"num_frames": 0}, "num_frames, stride and clip_frames must be >= 1; got 0"),
        ({"stride": 0}, ">= 1; got 30, 0, 16"),
        ({"clip_frames": -1}, ">= 1; got 30, 1, -1"),
        ({"fps": 0.0}, "above 0 and finite, got 0.0"),
        ({"fps": float("nan")}, "above 0 and finite, got nan"),
        ({"kind": "clips", "num_frames": 30}, "got 30 and 16, use 16"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


SAMPLINGS = [
    (Sampling(num_frames=3), [6, 20, 33], [4, 14, 23]),
    (Sampling(kind="stride", stride=7), [0, 7, 14, 21, 28, 35], [0, 7, 14, 21]),
    (Sampling(kind="fps", fps=2.0), [0, 5, 10, 15, 20, 25, 30, 35], [0, 5, 10, 15, 19, 20, 21, 22]),
    (Sampling(kind="clips", num_frames=6, clip_frames=3), [8, 9, 10, 28, 29, 30], [5, 6, 7, 19, 20, 21]),
]


@pytest.mark.parametrize(("sampling", "steady", "unsteady"), SAMPLINGS)
def test_every_sampling_is_exact_in_h264_with_b_frames(tmp_path, write_video, sampling, steady, unsteady):
    path = write_video(tmp_path / "v.mp4", numbered(40), bf="3", g="12")
    assert numbers(take(path, sampling).frames) == same(*steady)
    # Twenty frames in two seconds, then half a second each: a frame taken by count is not one taken by time.
    times = [*range(20), *range(20, 60, 5)]
    path = write_video(tmp_path / "slow.mp4", numbered(28), pts=times, bf="3", g="12")
    clip = take(path, sampling)
    assert numbers(clip.frames) == same(*indices(sampling, [time / 10 for time in times]))
    assert [frame.time_s for frame in clip.frames] == pytest.approx([times[i] / 10 for i, _ in numbers(clip.frames)])


def test_a_source_is_indexed_once_and_gives_frames_as_they_are_asked_for(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "v.mp4", numbered(12), bf="2", g="4")
    passes = []
    index = decode._index
    monkeypatch.setattr(decode, "_index", lambda path: passes.append(path) or index(path))
    source = decode.open_source(path)
    assert source.times == pytest.approx([i / 10 for i in range(12)])
    assert numbers(source.frames([7, 2])) == same(2, 7)
    assert numbers(source.frames(range(12))) == same(*range(12))
    assert (source.note, len(passes)) == ("", 1)


def test_no_decoded_frame_outlives_its_turn(tmp_path, write_video):
    """Without the garbage collector: it counts objects, and would let hundreds of megabytes pass."""
    path = write_video(tmp_path / "v.mp4", numbered(30))
    gc.collect()
    gc.disable()
    try:
        for _ in decode.open_source(path).frames(range(30)):
            pass
        assert sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_frames_are_let_go_while_one_is_missing(tmp_path, write_video, monkeypatch):
    """Of 60 frames, those behind a lost one wait for it, but not until the end of the video."""
    path = write_video(tmp_path / "v.mp4", numbered(60), bf="0", g="250")
    decoded = []
    whole, pts = decode._decode, decode._index(path).pts

    def losing(*args):
        for frame, sound in whole(*args):
            decoded.append(frame.pts)
            if frame.pts != pts[1]:
                yield frame, sound

    monkeypatch.setattr(decode, "_decode", losing)
    given = decode.grab(path, range(60))
    assert numbers([next(given), next(given)]) == same(0, 2)
    assert max(decoded) < pts[20]
    assert numbers(given) == same(*range(3, 60))


@pytest.mark.parametrize("keyframe_every", ["5", "250"])
@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_frames_are_exact_with_b_frames_and_any_keyframes(tmp_path, write_video, b_frames, keyframe_every):
    path = write_video(tmp_path / "v.mp4", numbered(40), bf=b_frames, g=keyframe_every)
    assert numbers(take(path, 7).frames) == same(2, 8, 14, 20, 25, 31, 37)
    assert numbers(take(path, 100).frames) == same(*range(40))


def test_open_groups_of_pictures_are_exact(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(40), g="8", bf="3", **{"x264-params": "open-gop=1:scenecut=0"})
    for index in range(40):
        assert numbers(decode.grab(path, [index])) == same(index)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.mp4", "libsvtav1", {"preset": "10"}),  # whose decoder reads only once what it may leave out
        ("v.avi", "libx264", {"bf": "3"}),  # which keeps the order of storing only
        ("v.avi", "mpeg4", {"bf": "2"}),
    ],
)
def test_sampled_frames_are_those_shown(tmp_path, write_video, name, codec, options):
    path = write_video(tmp_path / name, numbered(40), codec=codec, **options)
    clip = take(path, 7)
    assert numbers(clip.frames) == same(2, 8, 14, 20, 25, 31, 37)
    assert [frame.time_s for frame in clip.frames] == pytest.approx([0.2, 0.8, 1.4, 2.0, 2.5, 3.1, 3.7])
    assert clip.note == ""


@pytest.mark.parametrize("second_starts", [0, 36_000])  # in tenths of a second: the clock is set back, or ten hours on
def test_the_clock_of_joined_transport_streams_may_jump(tmp_path, write_video, second_starts):
    halves = (
        write_video(tmp_path / f"{start}.ts", numbered(40)[first : first + 20], bf="0", pts=range(start, start + 20))
        for first, start in ((0, 100), (20, second_starts))
    )
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    clip = take(path, 40)
    assert numbers(clip.frames) == same(*range(40))
    assert [frame.time_s for frame in clip.frames] == pytest.approx([i / 10 for i in range(40)], abs=0.11)


def test_grab_gives_the_frames_that_exist_in_order(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(12), bf="2", g="4")
    assert numbers(decode.grab(path, [11, 3, 3, 0, 12, 99, -1])) == same(0, 3, 11)


def test_a_variable_frame_rate_moves_times_not_indices(tmp_path, write_video):
    times = [0, 1, 2, 10, 11, 30, 31, 32]  # tenths of a second
    path = write_video(tmp_path / "v.mp4", numbered(8), pts=times, bf="2")
    frames = take(path, 8).frames
    assert numbers(frames) == same(*range(8))
    assert [frame.time_s for frame in frames] == pytest.approx([time / 10 for time in times])


def test_times_count_from_the_first_frame(tmp_path, write_video):
    path = write_video(tmp_path / "v.mkv", numbered(4), pts=[50, 51, 52, 53])
    assert [frame.time_s for frame in take(path, 4).frames] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_stream_without_timestamps_is_counted(tmp_path, write_video):
    path = write_video(tmp_path / "v.h264", numbered(20), bf="3")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
        assert not any(packet.pts for packet in container.demux(video=0))
    assert numbers(take(path, 4).frames) == same(2, 7, 12, 17)
    assert numbers(decode.grab(path, [19, 1])) == same(1, 19)


def test_a_false_frame_count_in_the_header_is_not_believed(tmp_path, write_video):
    path = write_video(tmp_path / "v.avi", numbered(12), codec="mpeg4", g="4")
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    data[length : length + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    clip = take(path, 3)
    assert numbers(clip.frames) == same(2, 6, 10)
    assert clip.num_frames == 12


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda rgb: np.rot90(rgb, -1)),  # a quarter clockwise: a phone held upright
        ((-1, 0, 0, -1), lambda rgb: np.rot90(rgb, 2)),
        ((0, -1, 1, 0), lambda rgb: np.rot90(rgb, 1)),
        ((-1, 0, 0, 1), lambda rgb: rgb[:, ::-1]),  # a mirrored front camera
    ],
)
def test_the_display_matrix_is_applied(tmp_path, write_video, portrait, matrix, expected):
    rgb = portrait[:, :192]
    path = write_video(tmp_path / "v.mp4", [rgb] * 3, crf="1", pix_fmt="yuv444p")
    data = bytearray(path.read_bytes())
    place = (
        data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 4 * 2
    )  # version 0: times, ids, duration; reserved; layer ... volume
    assert data[place : place + 4] == struct.pack(">i", 1 << 16)
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = take(path, 1).frames[0].rgb
    wanted = expected(rgb)
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("v.mp4", "libx264", "yuv420p10le"),
        ("v.mp4", "libx264", "gray"),
        ("v.mkv", "ffv1", "bgra"),
        ("v.mkv", "ffv1", "gray16le"),
    ],
)
def test_ten_bit_gray_and_alpha_become_rgb(tmp_path, write_video, name, codec, pix_fmt):
    frame = take(write_video(tmp_path / name, numbered(6), codec=codec, pix_fmt=pix_fmt), 1).frames[0]
    assert frame.rgb.dtype == np.uint8
    assert frame.rgb.shape == (64, 128, 3)
    assert number_in(frame.rgb) == frame.frame_index == 3


def test_odd_sizes(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(4, 67, 131), pix_fmt="yuv444p")
    assert take(path, 1).frames[0].rgb.shape == (67, 131, 3)
    assert numbers(take(path, 4).frames) == same(*range(4))


def test_one_frame(tmp_path, write_video):
    assert numbers(take(write_video(tmp_path / "v.mp4", numbered(1)), 30).frames) == same(0)


def test_only_the_group_around_a_wanted_frame_is_decoded(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(100), g="10", sc_threshold="0", bf="0")
    index = decode._index(path)
    frames = decode._decode(path, [index.pts[52]], index.keyframes)
    assert [index.rank[next(frames)[0].pts] for _ in range(3)] == [50, 51, 52]


def test_a_file_cut_off_in_the_middle_gives_the_frames_it_still_has(tmp_path, write_video):
    whole = write_video(tmp_path / "whole.mp4", numbered(60), container={"movflags": "+faststart"}, g="10", crf="1")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    clip = take(cut, 5)
    assert 10 < clip.num_frames < 60
    assert numbers(clip.frames) == same(*even_indices(clip.num_frames, 5))
    assert clip.note == f"truncated: the header promises 60 frames, the file holds {clip.num_frames}"
    assert take(whole, 5).note == ""


@pytest.mark.parametrize(
    ("name", "container", "note"),
    [
        ("v.mkv", {}, "truncated: the header promises 6.0 s, the frames end at"),
        ("v.mp4", {"movflags": "frag_keyframe+empty_moov"}, "truncated: its last part ("),
    ],
)
def test_a_file_without_a_count_of_frames_says_that_it_is_cut_off(tmp_path, write_video, name, container, note):
    whole = write_video(tmp_path / name, numbered(60), container=container, g="10", crf="1")
    assert take(whole, 5).note == ""
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    clip = take(cut, 5)
    assert 10 < clip.num_frames < 60
    assert numbers(clip.frames) == same(*even_indices(clip.num_frames, 5))
    assert clip.note.startswith(note)


def test_frames_between_damage_and_the_next_keyframe_are_doubted(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(60), g="20", bf="0", crf="10", sc_threshold="0")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    place, size = packets[30]
    content = bytearray(path.read_bytes())
    content[place + 8 : place + size] = bytes(size - 8)
    path.write_bytes(content)
    source = decode.open_source(path)
    given = {frame.frame_index for frame in source.frames(range(60))}
    doubted = len(given & set(range(30, 40)))
    assert given >= {*range(30), *range(31, 60)}
    assert source.note == f"damaged: {doubted} of the frames taken may show what was lost wrongly"
    sound = decode.open_source(path)
    assert numbers(sound.frames([5, 25, 45])) == same(5, 25, 45)
    assert sound.note == ""


def _text(path):
    path.write_text("this is not a video\n" * 50)


def _sound(path):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(8000)
        out.writeframes(bytes(1600))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "empty file"),
        (_text, "not a video file"),
        (_sound, "no video stream"),
    ],
)
def test_what_is_no_video_is_refused_with_one_line_that_says_why(tmp_path, make, reason):
    path = tmp_path / "bad.mp4"
    make(path)
    for read in (lambda: take(path, 3).frames, lambda: list(decode.grab(path, [0]))):
        with pytest.raises(UnreadableVideo, match=reason) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_cut_off_before_its_index_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableVideo, match="cut off before its index"):
        take(path, 3)


def test_a_stream_of_no_frames_is_refused(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "bgra"
        out.start_encoding()
    with pytest.raises(UnreadableVideo):
        take(path, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", numbered(2))
    path.chmod(0)
    with pytest.raises(UnreadableVideo, match="no permission"):
        take(path, 1)
