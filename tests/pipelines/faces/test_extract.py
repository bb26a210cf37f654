"""Extraction into a folder: complete, the same rows whatever happens on the way, one bad video costs one video."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.common import tables
from pipelines.faces import detect, files, store, writer
from pipelines.faces import extract as extract_module
from pipelines.faces.extract import ExtractionError, Target, extract, extract_all
from pipelines.faces.plan import Extraction, Standing, notes
from pipelines.faces.recipe import Recipe
from pipelines.faces.store import METADATA, Faces, compacted, read_range
from pipelines.faces.video import VideoReader, VideoRows, content_digest, without_faces
from pipelines.media import sandbox
from tests.pipelines.media.taking import take

RECIPE = Recipe(num_frames=4, size_px=48)
ray_test = pytest.mark.ray


def row(name: str, **changes) -> dict:
    """Return a row of VIDEOS for root/name.mp4."""
    return {
        "dataset": "toy",
        "video_id": f"toy/{name}",
        "label": 0,
        "method": "real",
        "codec": "raw",
        "split": "train",
        "root": "toy",
        "uri": f"{name}.mp4",
        "mask_uri": None,
        "real_id": None,
        "real_uri": None,
        "source_ids": [name],
        "face_rule": "largest",
    } | changes


def table(*rows: dict) -> pa.Table:
    return tables.to_table(rows, tables.VIDEOS)


def contents(folder: Path) -> dict[str, list[dict]]:
    """Return all that a reader can see of the faces, by video_id."""
    faces = Faces(folder)
    return {video_id: faces.video(video_id).to_pylist() for video_id in faces.ledger["video_id"].to_pylist()}


def by_name(**actions):
    """Return a reader factory that does the named action for a video, and else finds no face.

    A closure, so that it is pickled by value: workers need not import this file.
    """

    def factory(roots, recipes, predictor):
        from pipelines.faces.video import without_faces

        def read(video, targets):
            action = actions.get(video["video_id"].removeprefix("toy/"))
            if action is not None:
                action()
            return [without_faces(video, "no_face", "")] * len(targets)

        return read

    return factory


nothing_special = by_name()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_video, portrait) -> Path:
    """Make seven files: two real faces, a forgery with a mask video, and what can go wrong."""
    root = tmp_path_factory.mktemp("corpus")

    def place(rgb, x):
        frame = np.full((288, 400, 3), 90, np.uint8)
        frame[16:272, x : x + 256] = rgb
        return frame

    real = [place(portrait, 40 + 4 * step) for step in range(8)]
    fake, mask = [frame.copy() for frame in real], []
    for frame in fake:
        frame[100:130, 150:190] = np.clip(frame[100:130, 150:190].astype(int) + 70, 0, 255)
        white = np.zeros_like(frame)
        white[100:130, 150:190] = 255
        mask.append(white)
    lossless = {"crf": "0", "pix_fmt": "yuv444p"}
    write_video(root / "real.mp4", real, bf="2", **lossless)
    write_video(root / "fake.mp4", fake, **lossless)
    write_video(root / "mask.mp4", mask)
    write_video(root / "small_real.mp4", [cv2.resize(frame, (200, 144)) for frame in real])
    write_video(root / "other.mp4", real[::-1])
    write_video(root / "empty_room.mp4", [np.full((96, 128, 3), 80, np.uint8)] * 5)
    whole = write_video(root / "cut.mp4", real * 5, crf="1", g="1", container={"movflags": "+faststart"})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "text.mp4").write_text("not a video")
    (root / "empty.mp4").touch()
    (root / "folder.mp4").mkdir()
    return root


@pytest.fixture(scope="module")
def roots(corpus) -> dict[str, str]:
    return {"toy": str(corpus)}


@pytest.fixture(scope="module")
def reader(roots) -> Callable[..., VideoRows]:
    """Return a function that reads a video with `RECIPE`."""
    read = VideoReader(roots, [RECIPE])
    return lambda item: read(item)[0]


@pytest.fixture(scope="module")
def read_once(reader):
    """Return what `reader` does, but read each video once: for tests that do not look at how it is read."""
    known = {}

    def read(item: dict):
        if str(item) not in known:
            known[str(item)] = reader(item)
        return known[str(item)]

    return read


FORGED = {"label": 1, "method": "brighter"}
BAD = [row(name, split="test") for name in ("text", "empty", "folder", "missing", "empty_room")]


def decode_png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


# One video, without Ray


def test_a_video_becomes_one_row_per_face(reader):
    rows, ledger = reader(row("real"))
    assert rows.schema.equals(tables.FACES)
    assert rows["frame_index"].to_pylist() == [1, 3, 5, 7]
    assert rows["time_s"].to_pylist() == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert rows["mask_png"].null_count == 4  # a real face
    image = decode_png(rows["image_png"][0].as_py())
    assert image.shape == (48, 48, 3)
    assert (ledger["status"], ledger["reason"], ledger["num_frames"], ledger["num_faces"]) == ("ok", "", 4, 4)
    tables.to_table([ledger], tables.LEDGER)


def test_the_stored_image_is_the_crop_in_rgb(reader, corpus):
    rows, _ = reader(row("real"))
    frame = take(corpus / "real.mp4", 4).frames[2].rgb
    crop = [int(value) for value in rows["crop_px"][2].as_py().values()]
    shown = cv2.resize(frame[crop[1] : crop[3], crop[0] : crop[2]], (48, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode_png(rows["image_png"][2].as_py())[..., ::-1], shown)


@pytest.mark.parametrize("source", [{"real_uri": "real.mp4"}, {"mask_uri": "mask.mp4"}])
def test_the_mask_of_a_forgery_covers_what_was_changed(reader, source):
    rows, ledger = reader(row("fake", **FORGED, **source))
    assert ledger["reason"] == ""
    for face in rows.to_pylist():
        crop = face["crop_px"]
        scale = 48 / (crop["x1"] - crop["x0"])
        x0, x1 = ((x - crop["x0"]) * scale for x in (150, 190))
        y0, y1 = ((y - crop["y0"]) * scale for y in (100, 130))
        wanted = np.zeros((48, 48), bool)
        wanted[round(y0) : round(y1), round(x0) : round(x1)] = True
        mask = decode_png(face["mask_png"])
        assert set(np.unique(mask)) == {0, 255}
        assert np.mean((mask > 0) != wanted) < 0.03


def test_a_mask_that_cannot_be_known_is_null_and_the_ledger_says_why(reader, roots):
    for source, reason in (
        (
            {"real_uri": "small_real.mp4"},
            "small_real.mp4 lacks the frame, has another size, shows another scene or no change there",
        ),
        ({"real_uri": "fake.mp4"}, "no mask for 4 of 4 faces: fake.mp4"),  # no difference: what was forged is not known
        ({"real_uri": "missing.mp4"}, "no such file"),
        ({}, ""),
    ):
        rows, ledger = reader(row("fake", **FORGED, **source))
        assert rows["mask_png"].null_count == rows.num_rows == 4
        assert ledger["status"] == "ok"
        assert reason in ledger["reason"]
        assert bool(reason) == bool(ledger["reason"])


def test_where_the_difference_says_nothing_the_datasets_mask_is_taken(reader):
    by_dataset, _ = reader(row("fake", **FORGED, mask_uri="mask.mp4"))
    for useless in ("fake.mp4", "small_real.mp4", "missing.mp4"):
        rows, ledger = reader(row("fake", **FORGED, real_uri=useless, mask_uri="mask.mp4"))
        assert rows["mask_png"].to_pylist() == by_dataset["mask_png"].to_pylist()
        assert ledger["reason"] == ""


def test_the_mask_source_can_be_chosen(roots):
    both = row("fake", **FORGED, real_uri="real.mp4", mask_uri="missing.mp4")
    sources = {"auto": 0, "difference": 0, "dataset": 4, "none": 4}
    read = VideoReader(roots, [Recipe(num_frames=4, size_px=48, mask_source=source) for source in sources])
    nulls = [rows["mask_png"].null_count for rows, _ in read(both, range(4))]
    assert dict(zip(sources, nulls, strict=True)) == sources


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("text", "unreadable", "not a video file"),
        ("empty", "unreadable", "empty file"),
        ("folder", "unreadable", "is a folder"),
        ("missing", "unreadable", "no such file"),
        ("empty_room", "no_face", "no face in 4 frames"),
    ],
)
def test_a_video_without_faces_has_one_row_that_says_so(reader, name, status, reason):
    rows, ledger = reader(row(name))
    assert rows.num_rows == 1
    assert rows["status"][0].as_py() == ledger["status"] == status
    assert reason in ledger["reason"]
    assert all(rows[column][0].as_py() is None for column in tables.PER_FACE)
    assert ledger["num_faces"] == 0


def test_a_damaged_video_keeps_what_it_has_and_says_so(reader):
    rows, ledger = reader(row("cut"))
    assert rows.num_rows == 4
    assert ledger["status"] == "ok"
    assert ledger["reason"].startswith("truncated: the header promises 40 frames")


def test_the_content_digest_sees_every_column(reader):
    rows, ledger = reader(row("real"))
    assert content_digest(rows) == ledger["content"]
    for name in rows.column_names:
        swapped = rows[name].to_pylist()
        swapped[0] = {"string": "x", "int8": 9, "int32": 9, "float": 9.0, "binary": b"x"}.get(str(rows[name].type))
        changed = rows.set_column(rows.column_names.index(name), rows.field(name), [pa.array(swapped, rows[name].type)])
        assert content_digest(changed) != ledger["content"], name


# The child process


def boxed(function, **limits) -> sandbox.Sandbox:
    from ray import cloudpickle

    return sandbox.Sandbox(cloudpickle.dumps(lambda: function), **{"timeout_s": 30, "memory_gib": 8} | limits)


def test_a_call_that_dies_is_reported_and_the_next_one_works():
    def twice(number):
        if number < 0:
            os.kill(os.getpid(), -number)
        return 2 * number

    call = boxed(twice)
    assert call(3) == 6
    with pytest.raises(sandbox.Crashed, match="SIGSEGV"):
        call(-signal.SIGSEGV)
    assert call(4) == 8
    call.close()


def test_a_call_that_hangs_or_floods_memory_is_ended():
    def misbehave(how):
        if how == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            time.sleep(60)
        return len(bytearray(3 * 2**30))

    call = boxed(misbehave, timeout_s=2, memory_gib=2)
    start = time.monotonic()
    with pytest.raises(sandbox.Crashed, match="longer than 2 s"):
        call("hang")
    assert time.monotonic() - start < 20
    with pytest.raises(sandbox.Crashed, match="more than 2 GiB"):
        call("flood")
    call.close()


def test_an_exception_comes_through():
    def fail():
        raise KeyError("this one")

    call = boxed(fail)
    with pytest.raises(KeyError, match="this one"):
        call()
    call.close()


def test_a_function_that_cannot_be_made_is_no_crash_of_a_call():
    from ray import cloudpickle

    def no_model():
        raise ValueError("model.dat: no such file")

    with pytest.raises(sandbox.NotStarted, match=r"ValueError: model\.dat: no such file"):
        sandbox.Sandbox(cloudpickle.dumps(no_model), timeout_s=5, memory_gib=4)()


def test_the_child_is_replaced_after_its_calls():
    call = boxed(os.getpid, calls_per_child=2)
    first, second, third = call(), call(), call()
    assert first == second != third
    call.close()


# Pictures, many to a call


def pictures(*names: str, **changes) -> list[dict]:
    return [row(name, uri=f"{name}.png", **changes) for name in names]


def todo(videos: list[dict], targets: list[list[int]] | None = None) -> pa.Table:
    """Return what `to_do` would, if all of them were to be read for these targets."""
    told = pa.table({"targets": pa.array(targets or [[0]] * len(videos), pa.list_(pa.int32()))})
    told = told.append_column("number", pa.array(range(len(videos)), pa.int64()))
    videos = table(*videos)
    for name in told.column_names:
        videos = videos.append_column(name, told[name])
    return videos


def test_videos_and_pictures_are_handed_over_many_at_a_time():
    films = [row(name) for name in ("film 1", "film 2", "film 3")]
    elsewhere = [*pictures("e", root="other"), *pictures("t", split="test"), *pictures("f")]
    videos = todo([*films, *pictures("c", "a", "d", "b"), *elsewhere], [[0]] * 9 + [[0, 1]])
    calls = extract_module.calls(videos, 2, 3)
    names = [["film 1", "film 2"], ["film 3"], ["e"], ["t"], ["a", "b", "c"], ["d"], ["f"]]
    assert [[name.removeprefix("toy/") for name in call["video_id"].to_pylist()] for call in calls] == names
    assert [len(set(call["batch"].to_pylist())) for call in calls] == [2, *[1] * 6]
    assert calls[-1]["targets"].to_pylist() == [[0, 1]]
    assert [call.num_rows for call in extract_module.calls(videos, 1, 1)] == [1] * 10
    assert extract_module.calls(videos.slice(0, 0), 1, 1) == []


def test_a_video_that_several_targets_want_is_read_once():
    asked = [table(*map(row, names)).select(extract_module._NEEDED) for names in ("ab", "cab", "d")]
    wants = [np.array(wanted, bool) for wanted in ([1, 1], [1, 0, 1], [0])]
    rows = extract_module.to_do(asked, wants).select(["video_id", "targets", "number"]).to_pylist()
    assert [list(each.values()) for each in rows] == [["toy/a", [0], 0], ["toy/b", [0, 1], 1], ["toy/c", [1], 2]]


def test_pictures_are_read_alone_when_reading_them_together_fails(tmp_path):
    read = nothing_special({}, (RECIPE,), None)
    calls = []

    def fail(videos, targets):
        calls.append([video["video_id"].removeprefix("toy/") for video in videos])
        if "b" in calls[-1]:
            raise sandbox.Crashed("media process died of SIGSEGV")
        if "d" in calls[-1]:
            raise KeyError("d")
        return [read(video, targets) for video in videos]

    (tmp_path / "parts").mkdir()
    actor = extract_module.ExtractFaces(b"", [str(tmp_path)], timeout_s=2, memory_gib=8)
    actor.read = fail
    done = [
        *actor.extract(pictures(*"abcd"), [0]),
        *actor.extract(pictures("e", "f"), [0]),
    ]
    assert calls == [["a", "b", "c", "d"], ["a"], ["b"], ["c"], ["d"], ["e", "f"]]
    assert [item["status"] for item in done] == ["no_face", "crashed", "no_face", "crashed", "no_face", "no_face"]
    assert sorted(len(names_in(path)) for path in tmp_path.glob("parts/*")) == [2, 4]
    assert parts_of(tmp_path).num_rows == 6


def names_in(path: Path) -> list[str]:
    return [record["ledger"]["video_id"] for record in store.records(path)]


def parts_of(folder: Path) -> pa.Table:
    return store.scan(folder, sorted(folder.glob("parts/*.parquet")))


def ids_in(folder: Path) -> set[str]:
    return set(compacted(folder)["video_id"].to_pylist())


@pytest.mark.nightly
def test_a_picture_that_kills_its_reader_costs_itself_alone(tmp_path):
    """Those that were read with it are read again, and all lie in one part."""
    bad = {"b": lambda: os.kill(os.getpid(), signal.SIGSEGV), "d": lambda: [][1], "e": lambda: time.sleep(60)}
    (tmp_path / "parts").mkdir()
    reader = extract_module.factory(by_name(**bad), {}, (RECIPE,), None)
    actor = extract_module.ExtractFaces(reader, [str(tmp_path)], timeout_s=8, memory_gib=8)
    done = actor.extract(pictures(*"abcdef"), [0])
    actor.read.close()
    wanted = {"b": "media process died of SIGSEGV", "d": "IndexError: list index out of range"}
    wanted["e"] = "took longer than 8 s"
    assert [item["video_id"] for item in done] == [f"toy/{name}" for name in "abcdef"]
    assert [item["reason"] for item in done] == [wanted.get(name, "") for name in "abcdef"]
    assert [item["error"] for item in done] == [""] * 6
    assert len(list(tmp_path.glob("parts/*.parquet"))) == 1
    there = parts_of(tmp_path)
    ledgers = dict(zip(there["video_id"].to_pylist(), there["status"].to_pylist(), strict=True))
    assert ledgers == {f"toy/{name}": "crashed" if name in bad else "no_face" for name in "abcdef"}


def test_pictures_that_were_read_together_become_the_rows_of_each_alone(tmp_path, roots, read_once):
    """Also where an actor was lost after it had written its part, and a picture was read once more."""
    videos = [row("real"), row("text", split="test"), row("other")]
    results = [read_once(item) for item in videos]
    for name in ("together", "alone"):
        (tmp_path / name / "parts").mkdir(parents=True)
    write_parts(tmp_path / "alone", videos, read_once)
    writer.write_part(tmp_path / "together", videos, results)
    writer.write_part(tmp_path / "together", videos[:1], results[:1])
    for name in ("together", "alone"):
        extract(table(*videos), roots, tmp_path / name, RECIPE)
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert not list(tmp_path.glob("*/parts/*"))


@pytest.mark.nightly
@ray_test
def test_pictures_come_through_an_extraction_with_those_that_kill(tmp_path, ray_local, roots):
    """An actor is lost with its pictures, and each is accounted for in the end."""
    names = [f"{number:03d}" for number in range(150)]
    marker = str(tmp_path / "killed once")

    def kill_the_actor_once():
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)

    read = by_name(**{"003": lambda: os.kill(os.getpid(), signal.SIGSEGV), "120": kill_the_actor_once})
    videos = table(*(row(name, uri=f"{name}.png") for name in names), row("film"))
    done = []
    ledger = extract(videos, roots, tmp_path / "out", RECIPE, reader=read, on_video=done.append)
    assert os.path.exists(marker)
    assert ledger["status"].to_pylist() == ["crashed" if name == "003" else "no_face" for name in [*names, "film"]]
    assert sorted(item["num_done"] for item in done) == [*range(1, 152)]


def test_a_picture_counts_as_one_frame_in_estimates(tmp_path):
    films = [row(f"film{number}") for number in range(3)]
    stills = [row(f"a{number}", uri=f"x.tar/a/{number}.jpg") for number in range(200)]
    recipe = Recipe(num_frames=32, size_px=112)
    sizes = {
        len(videos): Extraction(
            dataset="toy", recipe=recipe, folder=tmp_path, videos=table(*videos), roots={"toy": str(tmp_path)}
        ).bytes_needed
        for videos in (films, stills, films + stills)
    }
    assert sizes == {3: 3 * 32 * 15_000, 200: 200 * 15_000, 203: (3 * 32 + 200) * 15_000}


# The whole of it


@pytest.mark.nightly
@ray_test
def test_the_rows_are_those_of_the_videos_with_one_actor_or_two(tmp_path, ray_local, corpus, roots, reader):
    videos = [row("real"), row("other", split="val"), row("fake", **FORGED, real_uri="real.mp4"), *BAD]
    wanted = {item["video_id"]: reader(item) for item in videos}
    progress = []
    for actors in (1, 2):
        folder = tmp_path / str(actors)
        ledger = extract(table(*videos), roots, folder, RECIPE, actors=actors, on_video=progress.append)
        assert ledger["video_id"].to_pylist() == [item["video_id"] for item in videos]
        assert ledger["content"].to_pylist() == [wanted[name][1]["content"] for name in ledger["video_id"].to_pylist()]
        assert contents(folder) == {name: rows.to_pylist() for name, (rows, _) in sorted(wanted.items())}
    assert [item["num_done"] for item in progress] == [*range(1, 9), *range(1, 9)]
    assert {item["num_videos"] for item in progress} == {8}
    faces = Faces(tmp_path / "1")
    assert faces.video("toy/other").schema.equals(tables.FACES)
    assert faces.video("toy/other", ["split", "frame_index"]).to_pylist()[0] == {"split": "val", "frame_index": 1}
    assert faces.summary["num_by_status"] == {"ok": 3, "unreadable": 4, "no_face": 1, "crashed": 0}
    assert faces.ledger["video_id"].to_pylist() == sorted(wanted)
    for path in (tmp_path / "1").glob("faces/*/*.parquet"):
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(number)["video_id"].unique().to_pylist() for number in range(file.num_row_groups)]
        assert all(len(group) == 1 for group in groups)
        assert groups == sorted(groups)
    assert not list((tmp_path / "1" / "parts").iterdir())


@pytest.mark.nightly
@ray_test
def test_several_recipes_in_one_pass_give_the_folders_of_each_alone(tmp_path, ray_local, corpus, roots):
    """Also where one of them was there in part, and where they want different videos."""
    other = Recipe(num_frames=3, size_px=32, margin=1.6)
    alone = {RECIPE: table(row("real"), row("other"), row("text")), other: table(row("real"), row("other"))}
    for recipe, videos in alone.items():
        extract(videos, roots, tmp_path / f"alone{recipe.size_px}", recipe)
    extract(table(row("real")), roots, tmp_path / "48", RECIPE)  # an earlier sweep
    read: list[dict] = []
    targets = [
        Target(folder=tmp_path / str(recipe.size_px), recipe=recipe, videos=videos) for recipe, videos in alone.items()
    ]
    extract_all(targets, roots, on_video=read.append)
    assert sorted(item["video_id"] for item in read) == ["toy/other", "toy/real", "toy/text"]
    assert [item["num_done"] for item in read] == [1, 2, 3]
    for recipe, videos in alone.items():
        folder = tmp_path / str(recipe.size_px)
        assert Faces(folder).ledger["video_id"].to_pylist() == sorted(videos["video_id"].to_pylist())
        assert contents(tmp_path / str(recipe.size_px)) == contents(tmp_path / f"alone{recipe.size_px}")


def test_two_recipes_cannot_share_a_folder(tmp_path, roots):
    with pytest.raises(ValueError, match="a folder has one recipe"):
        extract_all([Target(folder=tmp_path, recipe=RECIPE, videos=table(row("real")))] * 2, roots)


@pytest.mark.nightly
@ray_test
def test_a_folder_grows_by_what_is_missing(tmp_path, ray_local, roots):
    first, second = [row("a"), row("b", split="test")], [row("c"), row("a")]
    extract(table(*first), roots, tmp_path, RECIPE, reader=nothing_special)
    before = {path: path.read_bytes() for path in tmp_path.glob("faces/*/*")}
    read = []
    ledger = extract(table(*second), roots, tmp_path, RECIPE, reader=nothing_special, on_video=read.append)
    assert [(item["video_id"], item["num_done"]) for item in read] == [("toy/c", 2)]
    assert ledger["video_id"].to_pylist() == ["toy/c", "toy/a"]
    assert Faces(tmp_path).ledger["video_id"].to_pylist() == ["toy/a", "toy/b", "toy/c"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.nightly
@ray_test
def test_a_video_that_kills_its_reader_costs_that_video(tmp_path, ray_local, roots):
    evil = {
        "segfault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "media process died of SIGSEGV"),
        "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "media process died of SIGKILL"),
        "hang": (lambda: time.sleep(600), "took longer than 3 s"),
        "memory": (lambda: bytearray(2**40), "needs more than 8 GiB of memory"),
        "error": (lambda: [][1], "IndexError: list index out of range"),
    }
    names = ["good", *evil, "good too"]
    read = by_name(**{name: action for name, (action, _) in evil.items()})
    ledger = extract(table(*map(row, names)), roots, tmp_path, RECIPE, timeout_s=3, reader=read)
    assert ledger["status"].to_pylist() == ["no_face", *["crashed"] * 5, "no_face"]
    assert ledger["reason"].to_pylist() == ["", *(reason for _, reason in evil.values()), ""]
    assert Faces(tmp_path).video("toy/hang")["status"].to_pylist() == ["crashed"]
    assert Faces(tmp_path).summary["num_by_status"]["crashed"] == 5


@pytest.mark.nightly
@ray_test
def test_a_lost_actor_costs_nothing(tmp_path, ray_local, roots):
    marker = str(tmp_path / "killed once")

    def kill_the_actor_once():
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)

    videos = table(row("a"), row("b"), row("c"))
    ledger = extract(videos, roots, tmp_path / "out", RECIPE, actors=1, reader=by_name(b=kill_the_actor_once))
    assert os.path.exists(marker)
    assert ledger["status"].to_pylist() == ["no_face"] * 3


@pytest.mark.nightly
@ray_test
def test_models_that_cannot_be_loaded_stop_the_extraction(tmp_path, ray_local, roots):
    with pytest.raises(ExtractionError, match=r"landmark predictor .*none\.dat: no such file"):
        extract(table(row("a")), roots, tmp_path, RECIPE, predictor=tmp_path / "none.dat")
    assert not list(tmp_path.glob("parts/*"))  # the video is not to blame
    extract(table(row("a")), roots, tmp_path, RECIPE, reader=nothing_special)


@pytest.mark.nightly
@ray_test
def test_a_full_disk_stops_the_extraction_and_is_no_videos_fault(tmp_path, ray_local, roots):
    def fill():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExtractionError, match="No space left on device"):
        extract(table(row("a")), roots, tmp_path, RECIPE, reader=by_name(a=fill))
    assert not list(tmp_path.glob("parts/*"))
    ledger = extract(table(row("a")), roots, tmp_path, RECIPE, reader=nothing_special)
    assert ledger["status"].to_pylist() == ["no_face"]


@ray_test
def test_an_interrupted_extraction_goes_on(tmp_path, ray_local, roots):
    names = "abcdefgh"
    slow = by_name(**dict.fromkeys(names, lambda: time.sleep(0.3)))
    run = partial(extract, table(*map(row, names)), roots, tmp_path, RECIPE, actors=1, reader=slow)

    def stop(item):
        if item["num_done"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_video=stop)
    with pytest.raises(ValueError, match="no finished extraction"):
        Faces(tmp_path)
    read = []
    assert run(on_video=read.append)["video_id"].to_pylist() == [f"toy/{name}" for name in names]
    assert 1 <= len(read) <= 6
    assert [item["num_done"] for item in read] == list(range(9 - len(read), 9))


# States that a killed process leaves: no video is left to read, so Ray is not needed


def write_parts(folder: Path, videos: list[dict], reader) -> None:
    """Write the parts of these videos, as the actors leave them."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for item in videos:
        rows, ledger = reader(item)
        writer.write_part(folder, [item], [(rows, ledger)])


def as_asked(videos: pa.Table, roots: dict[str, str]) -> dict[str, dict]:
    """Return video_id -> its row, as an actor gets it."""
    return {row["video_id"]: row for row in extract_module.checked(videos, roots).to_pylist()}


def wanted(folder: Path, videos: pa.Table, roots: dict[str, str], **options) -> list[str]:
    """Return the ids of those that an extraction would read."""
    there = writer.tidy(folder)
    mask = extract_module.lacking(
        extract_module.checked(videos, roots), there, accepted=files.accepted(folder), **options
    )
    return videos["video_id"].filter(mask).to_pylist()


def forget(folder: Path, *video_ids: str) -> None:
    there = store.scan(folder, [*folder.glob("faces/*/*.parquet"), *folder.glob("parts/*.parquet")])
    writer.forget(folder, there, pa.array(video_ids))


@pytest.mark.parametrize(
    "stop_at", ["parts", "one faces file", "faces", "ledger", "leftover parts", "torn temporary files"]
)
def test_killed_between_any_two_steps_the_rows_are_the_same(tmp_path, roots, read_once, monkeypatch, stop_at):
    monkeypatch.setattr(writer, "VIDEOS_PER_FILE", 2)
    videos = [row("real"), row("other"), row("empty_room"), row("text", split="test")]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write_parts(folder, videos, read_once)
    extract(table(*videos), roots, whole, RECIPE)
    kept = {path.name: path.read_bytes() for path in broken.glob("parts/*")}
    if stop_at != "parts":
        extract(table(*videos), roots, broken, RECIPE)
        (broken / "_done.json").unlink()
    if stop_at in ("one faces file", "faces"):
        (broken / "ledger.parquet").unlink()
    if stop_at == "one faces file":
        max(broken.glob("faces/split=train/*"), key=lambda path: path.stat().st_size).unlink()
    if stop_at in ("one faces file", "leftover parts"):
        for name, data in kept.items():
            (broken / "parts" / name).write_bytes(data)
    if stop_at == "torn temporary files":
        for place in ("parts/.x.parquet.1.tmp", "faces/split=train/.y.parquet.2.tmp", ".ledger.parquet.3.tmp"):
            (broken / place).write_bytes(b"PAR1 torn")
    extract(table(*videos), roots, broken, RECIPE)
    assert contents(broken) == contents(whole)
    left = {path.relative_to(broken).as_posix() for path in broken.rglob("*") if path.is_file()}
    assert left == {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}


class Killed(BaseException):
    """What is raised where a process is killed."""


def kill_before(monkeypatch, step: int) -> None:
    """Make the process die before it renames or removes a file for the `step`-th time."""
    left = iter([*[False] * step, True])
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def change(self, *arguments, real=real, **options):
            if next(left, False):
                raise Killed
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, name, change)


def parts_without_faces(folder: Path, *groups: str) -> list[str]:
    """Write a part for each group of videos, of which a capital letter is of the test split; return their names."""
    names = []
    for group in groups:
        videos = [row(name, split="test" if name.isupper() else "train") for name in group]
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        writer.write_part(folder, videos, [without_faces(video, "no_face", "") for video in videos])
        names.append(writer.part_path(folder, videos).name)
    return names


def finished_rows(folder: Path) -> list[dict]:
    """Do what an extraction does at its end; return all rows of the faces files, as any reader sees them."""
    extract(table(), {}, folder, RECIPE)
    assert not list(folder.glob("parts/*"))
    assert Faces(folder).ledger["video_id"].to_pylist() == sorted(ids_in(folder))
    rows = pq.read_table(folder / "faces").sort_by("video_id").to_pylist()
    assert rows == [found for rows in contents(folder).values() for found in rows]
    return rows


@pytest.mark.parametrize("again", [True, False], ids=["called again", "left to the next extraction"])
def test_gathering_may_be_killed_anywhere(tmp_path, monkeypatch, again):
    """The process that gathers may be lost and the call made again, or the whole extraction may be gone."""
    groups = ("a", "b", "cDe", "F", "b")  # pictures of two splits that were read together, a video read twice
    parts_without_faces(tmp_path / "whole", *groups)
    whole = finished_rows(tmp_path / "whole")
    assert [found["video_id"] for found in whole] == [f"toy/{name}" for name in "DFabce"]
    for step in range(20):
        folder = tmp_path / str(step)
        names = parts_without_faces(folder, *groups)
        with monkeypatch.context() as patched:
            kill_before(patched, step)
            try:
                writer.gather(folder, names)
                break
            except Killed:
                pass
        if again:
            writer.gather(folder, names)
            assert not list(folder.glob("parts/*"))
        assert finished_rows(folder) == whole
    assert 6 <= step < 19  # two files, with their indexes, and four parts


def test_two_that_gather_the_same_parts_lose_and_double_nothing(tmp_path):
    """As when a node that was taken for lost goes on: the same call twice, and other parts put together."""
    for number in range(8):
        folder = tmp_path / str(number)
        names = parts_without_faces(folder, *"abcdefgh")
        calls = [names[:5], names[:5], names[3:], names[2:7]]
        with ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(writer.gather, [folder] * len(calls), calls))
        assert [found["video_id"] for found in finished_rows(folder)] == [f"toy/{name}" for name in "abcdefgh"]


def test_a_part_that_a_call_did_not_see_is_not_removed_by_the_next(tmp_path, monkeypatch):
    """Network file systems may show what another node wrote some time later."""
    names = parts_without_faces(tmp_path, "a", "b", "c")
    real = Path.exists
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", lambda self: self.name != names[1] and real(self))
        writer.gather(tmp_path, names)
    assert ids_in(tmp_path) == {"toy/a", "toy/c"}
    writer.gather(tmp_path, names)
    assert [found["video_id"] for found in finished_rows(tmp_path)] == ["toy/a", "toy/b", "toy/c"]


@pytest.mark.nightly
@ray_test
def test_parts_are_gathered_while_others_are_written(tmp_path, ray_local, roots, monkeypatch):
    monkeypatch.setattr(writer, "VIDEOS_PER_FILE", 4)
    monkeypatch.setattr(extract_module, "_AT_ONCE", 20)
    names = [f"{number:02d}" for number in range(24)]
    look = partial(tmp_path.glob, "out/faces/split=*/*.parquet")

    def on_video(item):
        deadline = time.monotonic() + 100
        while item["num_done"] == 20 and not list(look()):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    videos = table(*map(row, names))
    ledger = extract(videos, roots, tmp_path / "out", RECIPE, reader=nothing_special, on_video=on_video)
    assert ledger["video_id"].equals(videos["video_id"])
    assert len(list(look())) == 6
    assert {len(names_in(path)) for path in look()} == {4}


@pytest.mark.parametrize("killed", [False, True])
def test_what_failed_can_be_read_again_and_nothing_else_is(tmp_path, roots, read_once, killed):
    videos = [row("real"), row("text"), row("empty_room"), row("missing", split="test")]
    write_parts(tmp_path, videos, read_once)
    extract(table(*videos), roots, tmp_path, RECIPE)
    before = contents(tmp_path)
    old = {path: path.read_bytes() for path in tmp_path.glob("faces/split=*/*.parquet")}
    failed = ["toy/text", "toy/missing"]
    assert wanted(tmp_path, table(*videos), roots) == []
    assert wanted(tmp_path, table(*videos), roots, retry_failed=True) == failed
    forget(tmp_path, *failed)
    if killed:  # before the old file was removed: the same again
        for path, data in old.items():
            path.write_bytes(data)
        forget(tmp_path, *failed)
    with pytest.raises(ValueError, match="no finished extraction"):
        Faces(tmp_path)
    assert ids_in(tmp_path) == {"toy/real", "toy/empty_room"}
    assert len(list(tmp_path.glob("faces/split=*/*.parquet"))) == 1
    for item in (row("text"), row("missing", split="test")):  # as an actor leaves them
        rows, ledger = read_once(item)
        writer.write_part(tmp_path, [item], [(rows, ledger)])
    extract(table(*videos), roots, tmp_path, RECIPE)
    assert contents(tmp_path) == before


def test_killed_while_failed_videos_are_taken_out_no_row_is_there_twice(tmp_path, roots, read_once):
    """A file without them was written, the one with them is not gone yet."""
    videos = [row("real"), row("text"), row("other")]
    write_parts(tmp_path, videos, read_once)
    extract(table(*videos), roots, tmp_path, RECIPE)
    before = contents(tmp_path)
    (path,) = tmp_path.glob("faces/*/*.parquet")
    data = path.read_bytes()
    forget(tmp_path, "toy/text")
    path.write_bytes(data)
    assert len(list(tmp_path.glob("faces/*/*.parquet"))) == 2
    extract(table(*videos), roots, tmp_path, RECIPE)
    assert contents(tmp_path) == before
    assert pq.read_table(tmp_path / "faces")["video_id"].to_pylist().count("toy/real") == 4


def test_two_processes_take_turns(tmp_path, roots, read_once, caplog):
    write_parts(tmp_path, [row("text")], read_once)
    results = []
    with filelock.FileLock(tmp_path / ".lock"):
        other = threading.Thread(target=lambda: results.append(extract(table(row("text")), roots, tmp_path, RECIPE)))
        other.start()
        other.join(1)
        assert other.is_alive()
        assert "another process is extracting" in caplog.text
    other.join(20)
    assert results[0].num_rows == 1
    assert filelock.FileLock(tmp_path / ".lock").acquire(timeout=0)  # and leaves it free


def test_a_finished_folder_keeps_its_recipe(tmp_path, roots, read_once):
    write_parts(tmp_path, [row("text")], read_once)
    extract(table(row("text")), roots, tmp_path, RECIPE)
    with pytest.raises(ValueError, match=r"margin 1\.3 -> 2, size_px 48 -> 64.*new folder"):
        extract(table(row("text")), roots, tmp_path, Recipe(num_frames=4, margin=2, size_px=64))


def test_a_finished_folder_keeps_its_predictor(tmp_path, roots, read_once):
    """It decides what the rows look like, and a folder with two sorts of rows would not tell."""
    write_parts(tmp_path, [row("text")], read_once)
    extract(table(row("text")), roots, tmp_path, RECIPE)
    predictor = tmp_path / "own.dat"
    predictor.write_bytes(b"another predictor")
    with pytest.raises(ValueError, match=r"was extracted otherwise .predictor '[0-9a-f]{16}' -> '[0-9a-f]{16}'"):
        extract(table(row("text")), roots, tmp_path, RECIPE, predictor=predictor)


def test_the_packaged_predictor_has_a_name_by_its_content(tmp_path, roots, read_once):
    """A package of another version may hold another one."""
    write_parts(tmp_path, [row("text")], read_once)
    extract(table(row("text")), roots, tmp_path, RECIPE)
    written = json.loads((tmp_path / "recipe.json").read_text())
    content = detect._packaged(detect._PREDICTOR).read_bytes()
    assert written["predictor"] == hashlib.sha256(content).hexdigest()[:16]
    assert detect.predictor_digest(tmp_path / "none.dat") == "missing"


# What has changed since it was extracted


@pytest.fixture
def extracted(tmp_path, corpus, read_once) -> Callable[..., Extraction]:
    """Extract a copy of the corpus: a fake without mask, its original to come; `extracted()` looks at it again."""
    root, folder = tmp_path / "data", tmp_path / "faces"
    shutil.copytree(corpus, root)
    roots = {"toy": str(root)}

    def look(**changes) -> Extraction:
        videos = table(row("real"), row("fake", **FORGED | changes), row("text", split="test"))
        return Extraction(dataset="toy", recipe=RECIPE, folder=folder, videos=videos, roots=roots)

    before = look().videos
    write_parts(folder, list(as_asked(before, roots).values()), read_once)
    extract(before, roots, folder, RECIPE)
    return look


def asked_again(extraction: Extraction) -> list[str]:
    """Return the names of the videos that an extraction would read, which must be as many as its plan says."""
    todo = wanted(extraction.folder, extraction.videos, extraction.roots)
    assert len(todo) == extraction.num_missing == extraction.standing.changed
    return [name.removeprefix("toy/") for name in todo]


def test_what_has_not_changed_is_not_read_again(extracted):
    assert asked_again(extracted()) == []
    assert extracted().standing == Standing(absent=0, changed=0, touched=0, unrecorded=0)
    assert notes([extracted()]) == []


def test_a_file_that_was_replaced_is_read_again(extracted, tmp_path):
    (tmp_path / "data" / "text.mp4").write_bytes((tmp_path / "data" / "other.mp4").read_bytes())
    assert asked_again(extracted()) == ["text"]
    assert notes([extracted()]) == ["1 of 3 videos of toy changed since they were extracted"]


def test_copies_without_their_times_keep_their_faces_where_one_says_so(extracted, tmp_path):
    def copy(name: str, time_s: int) -> None:
        os.utime(tmp_path / "data" / name, (time_s, time_s))

    for name in ("real.mp4", "fake.mp4"):
        copy(name, 1_000_000_000)
    (tmp_path / "data" / "text.mp4").write_bytes(b"of another size")
    assert sorted(asked_again(extracted())) == ["fake", "real", "text"]
    assert notes([extracted()]) == [
        "3 of 3 videos of toy changed since they were extracted, 2 of them with files of the same size: if these are "
        "copies, `uv run crossforge preprocess toy --same-files` keeps the faces"
    ]
    extracted().accept_touched()
    assert asked_again(extracted()) == ["text"]
    copy("fake.mp4", 1_000_000_001)
    assert sorted(asked_again(extracted())) == ["fake", "text"]
    extracted().accept_touched()
    assert asked_again(extracted()) == ["text"]
    forget(extracted().folder, "toy/real")  # to be read anew: what was accepted is no longer true of it
    assert files.accepted(extracted().folder)["video_id"].to_pylist() == ["toy/fake"]
    assert wanted(extracted().folder, extracted().videos, extracted().roots) == ["toy/real", "toy/text"]


def test_a_file_that_changes_while_it_is_read_is_read_again(extracted, read_once, tmp_path):
    """What is recorded is its state before: rows may be of both."""
    now = extracted(uri="other.mp4")
    asked = as_asked(now.videos, now.roots)["toy/fake"]
    forget(now.folder, "toy/fake")
    rows, ledger = read_once(asked)
    with (tmp_path / "data" / "other.mp4").open("ab") as file:
        file.write(b"more")
    writer.write_part(now.folder, [asked], [(rows, ledger)])
    assert wanted(now.folder, now.videos, now.roots) == ["toy/fake"]


def test_an_original_that_came_later_becomes_masks(extracted, read_once, tmp_path):
    now = extracted(real_uri="real.mp4")
    assert asked_again(now) == ["fake"]
    assert Faces(now.folder).video("toy/fake")["mask_png"].null_count == 4
    forget(now.folder, "toy/fake")
    assert ids_in(now.folder) == {"toy/real", "toy/text"}
    asked = as_asked(now.videos, now.roots)["toy/fake"]  # as an actor reads it
    writer.write_part(now.folder, [asked], [read_once(asked)])
    extract(now.videos, now.roots, now.folder, RECIPE)
    assert Faces(now.folder).video("toy/fake")["mask_png"].null_count == 0
    assert asked_again(now) == []


@pytest.mark.parametrize("told", [{"label": 0, "method": "real"}, {"split": "val"}, {"face_rule": "all"}])
def test_a_video_that_its_dataset_describes_otherwise_is_read_again(extracted, told):
    assert asked_again(extracted(**told)) == ["fake"]


def test_a_video_that_was_deleted_keeps_its_faces(extracted, tmp_path):
    for name in ("real.mp4", "fake.mp4"):
        (tmp_path / "data" / name).unlink()
    assert asked_again(extracted()) == []


def test_faces_from_before_sources_were_recorded_are_kept_and_one_line_says_so(extracted):
    """Ledgers and faces files of before lack `source`."""
    now = extracted()
    for path in [now.folder / "ledger.parquet", *now.folder.glob("faces/*/*.parquet")]:
        old = pq.read_table(path, partitioning=None)
        metadata = old.schema.metadata
        if METADATA in metadata:
            records = json.loads(metadata[METADATA])
            for record in records:
                del record["ledger"]["source"]
            metadata = metadata | {METADATA: json.dumps(records).encode()}
        names = [name for name in old.column_names if name != "source"]
        with pq.ParquetWriter(path, old.select(names).schema.with_metadata(metadata)) as file:
            file.write_table(old.select(names).replace_schema_metadata(metadata))
    assert extracted().standing == Standing(absent=0, changed=0, touched=0, unrecorded=3)
    assert asked_again(extracted()) == []
    (note,) = notes([extracted()])
    assert note == (
        "3 of 3 videos of toy were extracted before it was recorded what from: taken as unchanged; "
        f"remove {now.folder} to extract them again"
    )
    assert {row["source"] for row in now.ledger_table().to_pylist()} == {None}
    assert len(extract(now.videos, now.roots, now.folder, RECIPE)) == 3


@pytest.mark.nightly
@ray_test
def test_only_what_has_changed_is_read_again(extracted, ray_local, tmp_path):
    (tmp_path / "data" / "text.mp4").write_bytes((tmp_path / "data" / "other.mp4").read_bytes())
    now, read = extracted(real_uri="real.mp4"), []
    before = ids_in(now.folder)
    ledger = extract(now.videos, now.roots, now.folder, RECIPE, on_video=read.append)
    assert sorted(item["video_id"] for item in read) == ["toy/fake", "toy/text"]
    assert ledger["status"].to_pylist() == ["ok"] * 3
    assert Faces(now.folder).video("toy/fake")["mask_png"].null_count == 0
    assert ids_in(now.folder) == before
    assert asked_again(extracted(real_uri="real.mp4")) == []


def test_what_cannot_be_extracted_is_refused_before_anything_is_done(tmp_path, roots):
    (tmp_path / "file").touch()
    for videos, known, folder, reason in (
        (table(row("a"), row("a")), roots, "out", "more than once: toy/a"),
        (table(row("a", root="elsewhere")), roots, "out", r"roots \['elsewhere'\]; known are \['toy'\]"),
        (table(row("a")).drop_columns("uri"), roots, "out", r"lacks the columns \['uri'\]"),
        (table(row("a")), roots, "file", "cannot be written"),
        (table(row("a")), roots, "file/below", "cannot be written"),
    ):
        with pytest.raises(ValueError, match=reason):
            extract(videos, known, tmp_path / folder, RECIPE)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, roots):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        extract(table(row("a")), roots, tmp_path / "out", RECIPE)


def test_no_videos_is_an_empty_extraction(tmp_path, roots):
    assert extract(table(), roots, tmp_path, RECIPE).num_rows == 0
    assert Faces(tmp_path).ledger.num_rows == 0
    with pytest.raises(ValueError, match="no video 'toy/a'; its ledger names the 0 it has"):
        Faces(tmp_path).video("toy/a")


@pytest.fixture
def long_rows(tmp_path, roots, read_once) -> tuple[Path, pa.Table]:
    """Make a folder with a real video of 4 faces and one of 40 beside it; return it and the rows of the long one."""
    rows, ledger = read_once(row("other"))
    many = pa.concat_tables([rows] * 10)
    indices = pa.array(range(40), pa.int32())
    many = many.set_column(many.schema.get_field_index("frame_index"), tables.FACES.field("frame_index"), indices)
    long = {"toy/long": (many.set_column(1, tables.FACES.field("video_id"), pa.array(["toy/long"] * 40)), 40)}
    (tmp_path / "parts").mkdir()
    for name, (faces, count) in {**long, "toy/real": (read_once(row("real"))[0], 4)}.items():
        item = row(name.removeprefix("toy/"))
        writer.write_part(tmp_path, [item], [(faces, ledger | {"video_id": name, "num_faces": count})])
    extract(table(row("real"), row("long")), roots, tmp_path, RECIPE)
    return tmp_path, long["toy/long"][0]


def test_a_part_of_a_video_is_read_without_the_rest(long_rows, monkeypatch):
    folder, many = long_rows
    faces = Faces(folder)
    assert faces.video("toy/long").num_rows == 40
    for rows in (range(0, 1), range(15, 17), range(20, 30), range(39, 40), range(30, 60)):
        part = faces.video("toy/long", ["frame_index", "image_png"], rows)
        assert part["frame_index"].to_pylist() == [index for index in rows if index < 40]
        assert part["image_png"].to_pylist() == many["image_png"].to_pylist()[rows.start : rows.stop]
    read: list[int] = []
    monkeypatch.setattr(store, "read_range", lambda file, *span: read.append(span[1]) or read_range(file, *span))
    monkeypatch.setattr(pq, "ParquetFile", None)
    sizes = [len(data) for data in many["image_png"].to_pylist()]
    faces = Faces(folder)
    for rows, wanted in (
        (range(5, 6), [sizes[5]]),
        (range(2, 5), [sum(sizes[2:5]) + 2 * 4]),  # side by side, with their lengths between them
        (range(15, 17), [sizes[15], sizes[16]]),  # of two row groups
    ):
        faces.video("toy/long", ["image_png", "mask_png", "frame_index"], rows)
        assert read == wanted
        read.clear()
    faces.video("toy/long", store.LIGHT)
    assert read == []


@pytest.mark.parametrize("lost", [["index.arrow"], ["index.arrow", "index"]])
def test_a_folder_without_its_index_is_read_all_the_same_and_gets_one(long_rows, roots, lost):
    """As folders of before are; it is made by the next extraction, of whatever."""
    folder, _ = long_rows
    before = contents(folder)
    written = {path: path.read_bytes() for path in folder.glob("**/*.arrow")}
    assert len(written) == 2
    for name in lost:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    assert contents(folder) == before
    videos = table(row("real"), row("long"))
    due = Extraction(dataset="toy", recipe=RECIPE, folder=folder, videos=videos, roots=roots)
    assert (due.num_missing, due.is_due()) == (0, True)
    extract(videos, roots, folder, RECIPE)
    assert {path: path.read_bytes() for path in written} == written
    assert not due.is_due()


def test_a_file_that_other_code_wrote_is_not_indexed(tmp_path):
    """Pictures would be looked for in the wrong place."""
    pictures = [bytes([i]) * 1000 for i in range(40)]
    rows = dict.fromkeys(store.LIGHT, [None] * 40) | {"mask_png": [None] * 40, "image_png": pictures}
    rows |= {"video_id": ["a"] * 16 + ["b"] * 24}
    faces = pa.table({name: pa.array(rows[name], tables.FACES.field(name).type) for name in tables.FACES.names})
    path = tmp_path / "split=train" / "x.parquet"
    path.parent.mkdir()
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(faces.drop_columns("split"), path, **plain)
    of_videos = store.rows_of(path)
    assert [batch.num_rows for batch in of_videos] == [16, 24]
    places = [at for batch in of_videos for at in batch["image_png_at"].to_pylist()]
    assert [path.read_bytes()[at : at + 1000] for at in places] == pictures
    for options in ({"data_page_size": 1000, "write_batch_size": 4}, {"compression": "zstd"}, {"use_dictionary": True}):
        pq.write_table(faces.drop_columns("split"), path, **plain | options)
        with pytest.raises(ValueError, match="stored image_png otherwise than this code reads it"):
            store.rows_of(path)


def test_any_parquet_reader_can_skip_what_it_does_not_want(long_rows):
    """Statistics in each row group; nothing spent on compressing PNG again."""
    folder, _ = long_rows
    (path,) = folder.glob("faces/split=train/*.parquet")
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == 4
    columns = {metadata.row_group(0).column(i).path_in_schema: i for i in range(metadata.num_columns)}
    for group in range(4):
        for name in ("video_id", "method", "frame_index"):
            assert metadata.row_group(group).column(columns[name]).statistics.has_min_max
        assert metadata.row_group(group).column(columns["image_png"]).compression == "UNCOMPRESSED"
        assert metadata.row_group(group).column(columns["video_id"]).compression == "ZSTD"
    import pyarrow.dataset as ds

    wanted = (ds.field("video_id") == "toy/long") & (ds.field("frame_index") >= 32)
    fragments = list(ds.dataset(folder / "faces", partitioning="hive").get_fragments(filter=wanted))
    groups = [group.id for fragment in fragments for group in fragment.split_by_row_group(filter=wanted)[0].row_groups]
    assert len(groups) == 1


def test_readers_refuse_an_unfinished_folder_another_schema_and_an_unknown_video(tmp_path, roots, read_once):
    write_parts(tmp_path, [row("text")], read_once)
    with pytest.raises(ValueError, match="no finished extraction"):
        Faces(tmp_path)
    extract(table(row("text")), roots, tmp_path, RECIPE)
    with pytest.raises(ValueError, match="no video 'toy/other'"):
        Faces(tmp_path).video("toy/other")
    done = json.loads((tmp_path / "_done.json").read_text())
    (tmp_path / "_done.json").write_text(json.dumps(done | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        Faces(tmp_path)


def test_a_reader_can_be_sent_to_a_worker(tmp_path, roots, read_once):
    import pickle

    write_parts(tmp_path, [row("real")], read_once)
    extract(table(row("real")), roots, tmp_path, RECIPE)
    faces = Faces(tmp_path)
    rows = faces.video("toy/real")
    assert pickle.loads(pickle.dumps(faces)).video("toy/real").equals(rows)


DRIVER = """
import os, signal, sys, time
import pyarrow.parquet as pq, ray
from pathlib import Path
from pipelines.faces.extract import extract
from pipelines.faces.recipe import Recipe

if __name__ == "__main__":
    videos, root, folder, kill_at = sys.argv[1:]
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)

    def on_video(row):
        if row["num_done"] == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    extract(pq.read_table(videos), {"toy": root}, Path(folder), Recipe(num_frames=4, size_px=48), on_video=on_video)
"""


@pytest.mark.nightly
@ray_test
@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_the_rows_are_the_same(tmp_path, corpus, reader):
    videos = [row("real"), row("other"), row("fake", **FORGED, real_uri="real.mp4"), row("cut"), *BAD]
    pq.write_table(table(*videos), tmp_path / "videos.parquet")
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "videos.parquet"), str(corpus)]
    start = partial(subprocess.run, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=120, check=False)
    assert start([*command, str(tmp_path / "out"), "3"]).returncode == -signal.SIGKILL
    done = len(list(tmp_path.glob("out/parts/*.parquet")))
    assert 3 <= done < len(videos)
    assert start([*command, str(tmp_path / "out"), "-1"]).returncode == 0
    assert contents(tmp_path / "out") == {
        item["video_id"]: reader(item)[0].to_pylist() for item in sorted(videos, key=lambda item: item["video_id"])
    }
