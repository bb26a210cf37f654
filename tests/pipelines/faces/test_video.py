"""One video under several recipes, and which of its faces count; pictures are made from a public-domain portrait."""

import functools
import http.server
import os
import re
import resource
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import dlib
import fsspec
import numpy as np
import pytest

from pipelines.common import tables
from pipelines.faces import video
from pipelines.faces.detect import Landmarks
from pipelines.faces.recipe import Recipe
from pipelines.media.frames import Frame
from pipelines.media.spool import Chosen, Spool

LOSSLESS = {"crf": "0", "pix_fmt": "yuv444p"}


def row(uri: str, **changes) -> dict:
    """Return a row of VIDEOS for a file below the root."""
    nothing = dict.fromkeys(("mask_uri", "real_id", "real_uri"))
    usual = {"dataset": "toy", "video_id": f"toy/{uri}", "label": 0, "method": "real", "codec": "raw", "split": "test"}
    return usual | nothing | {"root": "toy", "uri": uri, "source_ids": [uri], "face_rule": "largest"} | changes


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_video, portrait) -> Path:
    """Make two.mp4: a large face on the left, a small one on the right, whose lower half is white in mask.mp4."""
    root = tmp_path_factory.mktemp("videos")
    two, mask = [], []
    for step in range(12):
        frame = np.full((300, 520, 3), 90, np.uint8)
        frame[20:276, 2 * step : 2 * step + 256] = portrait
        frame[60:240, 330:510] = cv2.resize(portrait, (180, 180), interpolation=cv2.INTER_AREA)
        two.append(frame)
        white = np.zeros_like(frame)
        white[100:180, 380:460] = 255
        mask.append(white)
    write_video(root / "two.mp4", two, bf="2", **LOSSLESS)
    write_video(root / "mask.mp4", mask, **LOSSLESS)
    write_video(root / "black.mp4", [np.zeros_like(frame) for frame in mask], **LOSSLESS)
    folder = root / "crops"
    folder.mkdir()
    for number in (1, 2, 10):  # natural order: 1, 2, 10
        face = cv2.cvtColor(portrait[20:200, 50:230], cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number}.png"), face if number != 2 else np.full_like(face, number))
    return root


@pytest.fixture(scope="module")
def read(root) -> Callable[..., list[video.VideoRows]]:
    def run(item: dict, *recipes: Recipe) -> list[video.VideoRows]:
        return video.VideoReader({"toy": str(root)}, recipes)(item, range(len(recipes)))

    return run


def middle(face: dict) -> float:
    return (face["box_px"]["x0"] + face["box_px"]["x1"]) / 2


def test_recipes_asked_for_together_give_the_rows_of_each_alone(read):
    """Other frames, other crops, more faces, other masks: nothing of one shows in another."""
    recipes = [
        Recipe(num_frames=4, size_px=48),
        Recipe(num_frames=4, size_px=64, margin=1.8, constant_box=False),
        Recipe(num_frames=3, size_px=48, max_faces=2, mask_source="none"),
        Recipe(num_frames=6, sampling="clips", clip_frames=3, size_px=32),
    ]
    item = row("two.mp4", label=1, method="made", mask_uri="mask.mp4")
    together = read(item, *recipes)
    assert [ledger["num_faces"] for _, ledger in together] == [4, 4, 6, 6]
    for recipe, (rows, ledger) in zip(recipes, together, strict=True):
        ((alone, alone_ledger),) = read(item, recipe)
        assert rows.equals(alone)
        assert ledger["content"] == alone_ledger["content"]
        assert ledger["reason"] == alone_ledger["reason"]


def test_each_recipe_decides_which_frames_are_sampled(read):
    indices = {
        "even": [1, 4, 7, 10],  # middles of four parts of 12
        "stride": [0, 5, 10],
        "fps": [0, 5, 10],  # of 10 frames a second, two
        "clips": [2, 3, 8, 9],  # 8 frames to spare: 2.7 before, between and after
    }
    recipes = {
        "even": Recipe(num_frames=4, size_px=32),
        "stride": Recipe(num_frames=4, sampling="stride", stride=5, size_px=32),
        "fps": Recipe(num_frames=4, sampling="fps", fps=2, size_px=32),
        "clips": Recipe(num_frames=4, sampling="clips", clip_frames=2, size_px=32),
    }
    results = read(row("two.mp4"), *recipes.values())
    sampled = {name: rows["frame_index"].to_pylist() for name, (rows, _) in zip(recipes, results, strict=True)}
    assert {name: sampled[name] for name in ("even", "stride", "fps")} == {
        n: indices[n] for n in ("even", "stride", "fps")
    }
    clips = sampled["clips"]
    assert (clips[1] - clips[0], clips[3] - clips[2]) == (1, 1)
    assert clips[2] > clips[1] + 1


def test_the_largest_face_counts_unless_the_row_says_otherwise(read):
    recipe = Recipe(num_frames=3, size_px=32)
    for rule, mask, expected in (
        ("largest", "mask.mp4", [(0, True)] * 3),
        ("mask", "mask.mp4", [(0, False)] * 3),
        ("mask", None, [(0, True)] * 3),  # a real video has no mask
        ("all", "mask.mp4", [(0, False)] * 3 + [(1, True)] * 3),
        ("all", None, [(0, True)] * 3 + [(1, False)] * 3),
    ):
        item = row("two.mp4", label=1, method="made", mask_uri=mask, face_rule=rule)
        ((rows, ledger),) = read(item, recipe)
        assert [(face["face_index"], middle(face) < 300) for face in rows.to_pylist()] == expected, rule
        # The mask lies on the small face: it says nothing about the large one.
        known = [face["mask_png"] is not None for face in rows.to_pylist()]
        assert known == [mask is not None and not left for _, left in expected], rule
        assert ("no mask for 3 of" in ledger["reason"]) == (mask is not None and not all(known))


@pytest.mark.parametrize(("mask", "why"), [("black.mp4", "covers none"), ("gone.mp4", "cannot be read")])
def test_a_mask_that_cannot_tell_the_face_is_said(read, mask, why):
    item = row("two.mp4", label=1, method="made", mask_uri=mask, face_rule="mask")
    ((rows, ledger),) = read(item, Recipe(num_frames=2, size_px=32))
    assert [middle(face) < 300 for face in rows.to_pylist()] == [True, True]
    assert "the largest face is taken" in ledger["reason"]
    assert why in ledger["reason"]


def test_a_picture_that_is_a_face_crop_is_taken_whole(read):
    ((rows, ledger),) = read(row("crops", face_rule="whole"), Recipe(num_frames=8, size_px=90))
    faces = rows.to_pylist()
    assert [face["frame_index"] for face in faces] == [0, 1, 2]
    assert all(face["crop_px"] == {"x0": 0, "y0": 0, "x1": 180, "y1": 180} for face in faces)
    assert [face["face_score"] > 0 for face in faces] == [True, False, True]  # in 2.png there is nothing to see
    assert all(len(face["landmarks_px"]) == 136 for face in faces)
    assert (ledger["status"], ledger["num_faces"]) == ("ok", 3)


def test_frames_beyond_the_memory_allowed_come_back_from_the_file(read, monkeypatch):
    recipe = Recipe(num_frames=5, size_px=48)
    ((rows, _),) = read(row("two.mp4"), recipe)
    monkeypatch.setattr(video, "_FRAME_BYTES", 2 * 300 * 520 * 3)
    ((spilled, _),) = read(row("two.mp4"), recipe)
    assert rows.equals(spilled)


def test_a_spool_holds_no_more_than_it_may():
    frames = [Frame(10 * i, i / 2, np.full((4, 5, 3), i, np.uint8)) for i in range(5)]
    spool = Spool(memory_bytes=130)  # two frames of 60 bytes
    for frame in frames:
        spool.append(frame)
    assert sum(isinstance(held, Frame) for held in spool._frames) == 2
    for _ in range(2):
        for held, frame in zip(spool, frames, strict=True):
            assert (held.frame_index, held.time_s) == (frame.frame_index, frame.time_s)
            np.testing.assert_array_equal(held.rgb, frame.rgb)
    assert [frame.frame_index for frame in Chosen(spool, [4, 0, 3])[1:]] == [0, 30]


def test_a_recipe_whose_frames_are_lost_says_so_whatever_other_recipes_found(tmp_path, root):
    """Of four pictures the third cannot be read: the only one that the first recipe samples."""
    crops = sorted((root / "crops").iterdir())
    for number in range(4):
        shutil.copy(crops[0], tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    recipes = [Recipe(num_frames=1, size_px=32), Recipe(num_frames=4, size_px=32)]
    item = row(tmp_path.name, face_rule="whole")
    reader = video.VideoReader({"toy": str(tmp_path.parent)}, recipes)
    (together, ledger), (_, other) = reader(item, [0, 1])
    ((alone, alone_ledger),) = reader(item, [0])
    assert ledger["status"] == alone_ledger["status"] == "unreadable"
    assert together.equals(alone)
    assert (other["status"], other["num_faces"]) == ("ok", 3)
    assert "1 of 4 sampled frames cannot be decoded" in other["reason"]


def test_pictures_none_of_which_can_be_read_are_an_unreadable_video(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    reader = video.VideoReader({"toy": str(tmp_path.parent)}, [Recipe(num_frames=3, size_px=32)])
    ((_, ledger),) = reader(row(tmp_path.name, face_rule="whole"), [0])
    assert ledger["status"] == "unreadable"
    assert str(tmp_path) in ledger["reason"]


def test_a_mask_of_another_size_does_not_tell_the_face(read, root, write_video):
    white = np.zeros((150, 260, 3), np.uint8)
    white[10:140, 5:125] = 255  # would lie on the large face
    write_video(root / "small_mask.mp4", [white] * 12, **LOSSLESS)
    item = row("two.mp4", label=1, method="made", mask_uri="small_mask.mp4", face_rule="mask")
    ((_, ledger),) = read(item, Recipe(num_frames=2, size_px=32))
    assert "the largest face is taken, for the mask covers none, or has another size" in ledger["reason"]


@pytest.fixture(scope="module")
def predictor_81(tmp_path_factory, portrait) -> Path:
    """Train a predictor of 81 points on one face."""
    box = dlib.rectangle(90, 60, 180, 150)
    points = [dlib.point(90 + 10 * (i % 9), 60 + 10 * (i // 9)) for i in range(81)]
    shape = dlib.full_object_detection(box, dlib.points(points))
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.num_trees_per_cascade_level, options.tree_depth = 1, 2, 2
    options.oversampling_amount, options.num_test_splits = 2, 2
    path = tmp_path_factory.mktemp("predictor") / "81.dat"
    predictor = dlib.train_shape_predictor([portrait, portrait], [[shape], [shape]], options)
    predictor.save(str(path))
    return path


def test_81_landmarks_come_from_a_predictor_of_ones_own(root, predictor_81):
    recipe = Recipe(num_frames=2, size_px=48, landmarks=81)
    ((rows, _),) = video.VideoReader({"toy": str(root)}, [recipe], predictor_81)(row("two.mp4"))
    assert [len(points) for points in rows["landmarks_px"].to_pylist()] == [162, 162]
    tables.to_table(rows.to_pylist(), tables.FACES)


def test_a_predictor_of_another_number_of_points_is_refused(predictor_81):
    with pytest.raises(ValueError, match="finds 81 points, 68 are asked for"):
        Landmarks(predictor_81)
    with pytest.raises(ValueError, match="81 landmarks need a predictor of your own"):
        Landmarks(number=81)


# Files elsewhere

# Of a film, its mask, a folder of pictures and one in an archive; in a URL the first four would mean something else.
NAMES = {
    "web": ("real test/50% of 2 #1?.mp4", "masks+/1 & 2%20.mp4", "crops #1/a?b", "fake train/0#.tar/0/50% ?#"),
    "bucket": ("real test/50% of 2.mp4", "masks+/1 & 2%20.mp4", "crops 1/a+b", "fake train/0.tar/0/50% 7"),
}


@pytest.fixture(scope="module")
def odd_names(root, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("odd")
    for film, mask, crops, archived in NAMES.values():
        archive, inside = archived.split("/0/")
        for name in (film, mask, crops, archive):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "two.mp4", home / film)
        shutil.copy(root / "mask.mp4", home / mask)
        shutil.copytree(root / "crops", home / crops)
        with tarfile.open(home / archive, "w") as tar:
            tar.add(root / "crops", f"0/{inside}")
    return home


@pytest.fixture(scope="module")
def web(odd_names) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(odd_names))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def bucket(odd_names) -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    access = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "x"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (access | {"DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(f"AWS_{name}", value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        system = fsspec.filesystem("s3")
        system.mkdir("faces")
        for path in odd_names.rglob("*.*"):
            if path.is_file():
                system.pipe_file(f"faces/odd/{path.relative_to(odd_names)}", path.read_bytes())
        yield "s3://faces/odd/"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        ("film", "web"),
        ("archive", "bucket"),
        *(
            pytest.param(*pair, marks=pytest.mark.nightly)
            for pair in (("film", "bucket"), ("pictures", "web"), ("pictures", "bucket"), ("archive", "web"))
        ),
    ],
)
def test_a_video_gives_the_same_rows_from_a_server_as_from_disk(odd_names, storage, kind, request):
    film, mask, crops, archived = NAMES[storage]
    item = {
        "film": row(film, label=1, method="made", mask_uri=mask, face_rule="mask"),
        "pictures": row(crops, face_rule="whole"),
        "archive": row(archived, face_rule="whole"),
    }[kind]
    recipe = Recipe(num_frames=3, size_px=32)
    roots = {"toy": str(odd_names)}, {"toy": request.getfixturevalue(storage)}
    (rows, ledger), (fetched, remote) = (video.VideoReader(root, [recipe])(item)[0] for root in roots)
    assert (ledger["status"], ledger["num_faces"]) == ("ok", 3)
    assert fetched.equals(rows)
    assert (remote["content"], remote["reason"]) == (ledger["content"], ledger["reason"])


PICTURES = ("crops/1.png", "packed.tar.gz/crops/10.png", "missing.png", "packed.tar.gz/crops/3.png", "text.png")


@pytest.fixture(scope="module")
def pictures(root, tmp_path_factory) -> Path:
    """Make a folder with pictures, the same in an archive, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copytree(root / "crops", folder / "crops")
    with tarfile.open(folder / "packed.tar.gz", "w:gz") as archive:
        archive.add(folder / "crops", "crops")
    (folder / "text.png").write_text("no picture")
    return folder


def test_pictures_that_are_read_together_give_what_each_alone_gives(pictures):
    """Also a folder of pictures among them, and with two recipes."""
    read = video.VideoReader({"toy": str(pictures)}, [Recipe(num_frames=3, size_px=32), Recipe(size_px=48)])
    items = [row(uri, face_rule=rule) for uri in (*PICTURES, "crops") for rule in ("whole", "largest")]
    together = read.pictures(items, (0, 1))
    alone = [read(item, (0, 1)) for item in items]
    statuses = [[ledger["status"] for _, ledger in results] for results in alone]
    assert statuses == [["ok"] * 2] * 4 + [["unreadable"] * 2] * 6 + [["ok"] * 2] * 2
    assert [len(rows) for ((rows, _), _) in alone] == [1] * 10 + [3, 2]
    assert alone[9][0][1]["reason"].endswith("text.png: text.png: not a picture of a known kind, or damaged")
    for ours, theirs in zip(together, alone, strict=True):
        for (rows, ledger), (wanted, expected) in zip(ours, theirs, strict=True):
            assert rows.equals(wanted)
            assert ledger | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.nightly
def test_pictures_come_from_a_bucket_as_from_disk(odd_names, bucket):
    uris = [NAMES["bucket"][2] + "/1.png", NAMES["bucket"][3] + "/2.png", "none.png"]
    items = [row(uri, face_rule="whole") for uri in uris]
    there, here = (
        video.VideoReader({"toy": root}, [Recipe(num_frames=3, size_px=32)]).pictures(items)
        for root in (bucket, str(odd_names))
    )
    assert [ledger["status"] for ((_, ledger),) in here] == ["ok", "ok", "unreadable"]
    assert [ledger["content"] for ((_, ledger),) in there] == [ledger["content"] for ((_, ledger),) in here]


def test_only_what_a_web_server_is_asked_for_is_quoted():
    roots = {"disk": "/data/x y", "web": "https://host/x%20y/", "s3": "s3://bucket/x y", "own": "http://host/v.csv"}
    wanted = {
        "disk": "/data/x y/a #1/b.mp4",
        "web": "https://host/x%20y/a%20%231/b.mp4",
        "s3": "s3://bucket/x y/a #1/b.mp4",
        "own": "http://host/a%20%231/b.mp4",
    }
    assert {name: video.locate(roots, name, "a #1/b.mp4") for name in roots} == wanted
    assert video.locate(roots, "web", "a b.tar.gz/1/c d") == "https://host/x%20y/a%20b.tar.gz/1/c d"


def test_the_reason_of_a_file_whose_name_is_not_utf8_can_be_kept(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"no video")
    ((_, ledger),) = video.VideoReader({"toy": str(tmp_path)}, [Recipe(num_frames=3, size_px=32)])(row("caf\\xe9.mp4"))
    assert ledger["status"] == "unreadable"
    assert ledger["reason"] == f"{tmp_path}/caf\\xe9.mp4: not a video file, or cut off before its index"
    ledger["reason"].encode()


def test_a_damaged_archive_is_an_unreadable_video(odd_names, tmp_path):
    """The whole archive is the video, as `datasets.wild_deepfake` lists it."""
    whole = (odd_names / "fake train/0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 2])
    reader = video.VideoReader({"toy": str(tmp_path)}, [Recipe(num_frames=3, size_px=32)])
    ((rows, ledger),) = reader(row("0.tar", face_rule="whole"))
    assert rows["status"].to_pylist() == [ledger["status"]] == ["unreadable"]
    assert re.search(r"0\.tar: reading the archive stops after \d entries", ledger["reason"])


@pytest.mark.nightly
def test_pictures_of_a_few_pixels_are_all_accounted_for(tmp_path):
    rng = np.random.default_rng(0)
    uris = [f"{number}.png" for number in range(300)]
    for number, uri in enumerate(uris):
        shape = (1 + number % 16, 1 + number % 13, 3)
        cv2.imwrite(str(tmp_path / uri), rng.integers(0, 255, shape, np.uint8))
    read = video.VideoReader({"toy": str(tmp_path)}, [Recipe(size_px=32), Recipe(size_px=32, detector="retinaface")])
    for rule, status in (("largest", "no_face"), ("whole", "ok")):
        results = read.pictures([row(uri, face_rule=rule) for uri in uris], (0, 1))
        assert {ledger["status"] for pair in results for _, ledger in pair} == {status}
        assert [ledger["video_id"] for _, (_, ledger) in results] == [f"toy/{uri}" for uri in uris]


@pytest.mark.nightly
def test_a_video_of_two_hours_takes_no_more_memory_for_its_length(tmp_path, write_video, portrait):
    """Each of its frames is 1 s long, which is all that a long video is for a reader that does not decode it."""
    frame = np.full((288, 400, 3), 90, np.uint8)
    frame[16:272, 70:326] = portrait
    short = write_video(tmp_path / "short.mp4", [frame] * 60, g="10", bf="0")
    with av.open(str(short)) as given:
        stream = given.streams.video[0]
        packets = [(bytes(packet), packet.is_keyframe) for packet in given.demux(stream) if packet.size]
        with av.open(str(tmp_path / "long.mp4"), "w") as out:
            copy = out.add_stream_from_template(stream)
            for number in range(200_000):
                data, is_keyframe = packets[number % 60]
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts = packet.dts = number * 512
                packet.is_keyframe = is_keyframe
                out.mux(packet)
    read = video.VideoReader({"toy": str(tmp_path)}, [Recipe(num_frames=32, size_px=32)])
    read(row("short.mp4"))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    ((rows, ledger),) = read(row("long.mp4"))
    assert (ledger["status"], ledger["reason"], rows.num_rows) == ("ok", "", 32)
    assert rows["frame_index"].to_pylist()[-1] > 190_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB
    assert time.process_time() - start < 30  # 3.5 s
