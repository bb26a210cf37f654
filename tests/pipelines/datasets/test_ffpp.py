"""FaceForensics++: pairs, splits, codecs, masks."""

import json
from collections import defaultdict

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

SPLITS = {
    "train.json": json.dumps([["000", "003"]]),
    "val.json": json.dumps([["001", "002"]]),
    "test.json": json.dumps([["071", "054"]]),
}
YOUTUBE = "original_sequences/youtube"
FORGED = "manipulated_sequences"


def load(root):
    return {row["video_id"]: row for row in datasets.load("ffpp", {"ffpp": str(root)}).to_pylist()}


def test_a_fake_points_to_its_target_in_the_same_compression(tree):
    fake = f"{FORGED}/Deepfakes/c23/videos/071_054.mp4"
    mask = f"{FORGED}/Deepfakes/masks/videos/071_054.mp4"
    reals = [f"{YOUTUBE}/{codec}/videos/{id_}.mp4" for codec in ("c23", "c40") for id_ in ("071", "054")]
    assert load(tree("ff", SPLITS, fake, mask, *reals))["ffpp/Deepfakes/c23/071_054"] == {
        "dataset": "ffpp",
        "video_id": "ffpp/Deepfakes/c23/071_054",
        "label": 1,
        "method": "Deepfakes",
        "codec": "c23",
        "split": "test",
        "root": "ffpp",
        "uri": fake,
        "mask_uri": mask,
        "real_id": "ffpp/real/c23/071",
        "real_uri": f"{YOUTUBE}/c23/videos/071.mp4",
        "source_ids": ["ffpp/071", "ffpp/054"],
        "face_rule": "largest",
    }


def test_one_stem_in_three_manipulations_and_two_codecs_is_six_videos(tree):
    paths = [
        f"{FORGED}/{method}/{codec}/videos/000_003.mp4"
        for method in ("Face2Face", "FaceSwap", "FaceShifter")
        for codec in ("c23", "c40")
    ]
    rows = load(tree("ff", SPLITS, *paths))
    assert sorted(row["uri"] for row in rows.values()) == sorted(paths)


def test_no_source_is_in_two_splits(tree):
    ids = ("000", "003", "001", "002", "071", "054")
    fakes = ("000_003", "003_000", "001_002", "054_071")
    rows = load(
        tree(
            "ff",
            SPLITS,
            *(f"{YOUTUBE}/c23/videos/{i}.mp4" for i in ids),
            *(f"{FORGED}/FaceSwap/c23/{f}.mp4" for f in fakes),
        )
    )
    splits = defaultdict(set)
    for row in rows.values():
        for source in row["source_ids"]:
            splits[source].add(row["split"])
    assert len(rows) == 10
    assert splits == {
        "ffpp/000": {"train"}, "ffpp/003": {"train"}, "ffpp/001": {"val"},
        "ffpp/002": {"val"}, "ffpp/071": {"test"}, "ffpp/054": {"test"},
    }  # fmt: skip


def test_other_spellings(tree):
    texts = {f"Splits/{name.upper()}": text for name, text in SPLITS.items()}
    rows = load(
        tree(
            "ff",
            texts,
            "Original_Sequences/YouTube/c0/000.mp4",  # c0 is raw; no videos/ level
            "manipulated_sequences/DEEPFAKES/C23/Videos/000_003.MP4",
            "manipulated_sequences/DEEPFAKES/C23/Videos/._000_003.mp4",  # resource fork of a Mac
            "manipulated_sequences/DEEPFAKES/C23/Videos/readme.txt",
        )
    )
    assert {key: row["uri"] for key, row in rows.items()} == {
        "ffpp/Deepfakes/c23/000_003": "manipulated_sequences/DEEPFAKES/C23/Videos/000_003.MP4",
        "ffpp/real/raw/000": "Original_Sequences/YouTube/c0/000.mp4",
    }


def test_a_counterpart_that_was_not_downloaded_is_not_named(tree):
    (row,) = load(tree("ff", SPLITS, f"{FORGED}/NeuralTextures/c40/videos/000_003.mp4")).values()
    assert (row["real_id"], row["real_uri"], row["mask_uri"]) == (None, None, None)


def test_deepfakedetection_in_the_same_tree_is_another_dataset(tree):
    rows = load(
        tree(
            "ff",
            SPLITS,
            f"{YOUTUBE}/c23/videos/000.mp4",
            "original_sequences/actors/c23/videos/01__exit.mp4",
            f"{FORGED}/DeepFakeDetection/c23/videos/01_02__exit__ABCDEFGH.mp4",
        )
    )
    assert list(rows) == ["ffpp/real/c23/000"]


@pytest.mark.parametrize("name", ["images", "frames", "Frames"])
def test_where_there_are_no_videos_frames_stand_for_them(tree, name):
    fake, mask = f"{FORGED}/Deepfakes/c23/{name}/071_054", f"{FORGED}/Deepfakes/masks/{name}/071_054"
    rows = load(
        tree(
            "ff", SPLITS, f"{fake}/0001.png", f"{mask}/0001.png", f"{YOUTUBE}/c23/{name}/071/0001.png",
            f"{YOUTUBE}/c40/videos/071.mp4", f"{YOUTUBE}/c40/{name}/071/0001.png",
        )
    )  # fmt: skip
    row = rows["ffpp/Deepfakes/c23/071_054"]
    assert (row["uri"], row["mask_uri"], row["split"]) == (fake, mask, "test")
    assert (row["real_id"], row["real_uri"]) == ("ffpp/real/c23/071", None)  # they may be other frames
    assert rows["ffpp/real/c23/071"]["uri"] == f"{YOUTUBE}/c23/{name}/071"
    assert rows["ffpp/real/c40/071"]["uri"] == f"{YOUTUBE}/c40/videos/071.mp4"


def test_one_video_does_not_hide_the_frames_of_others(tree):
    part = f"{YOUTUBE}/c23"
    root = tree(
        "ff", SPLITS, f"{part}/videos/000.mp4", *(f"{part}/frames/{id_}/1.png" for id_ in ("000", "003", "001"))
    )
    said: list[str] = []
    uris = datasets.load("ffpp", {"ffpp": str(root)}, say=said.append)["uri"].to_pylist()
    assert sorted(uris) == [f"{part}/frames/001", f"{part}/frames/003", f"{part}/videos/000.mp4"]
    assert said == [f"ffpp at {root}: {part}: 2 of 3 videos are there as pictures only, and read from these"]


def test_masks_of_all_frames_do_not_fit_some_frames(tree):
    paths = [f"{FORGED}/Deepfakes/c23/frames/071_054/0001.png", f"{FORGED}/Deepfakes/masks/videos/071_054.mp4"]
    assert load(tree("ff", SPLITS, *paths))["ffpp/Deepfakes/c23/071_054"]["mask_uri"] is None


REAL, FAKE = f"{YOUTUBE}/c23/videos/000.mp4", f"{FORGED}/Deepfakes/c23/videos"


@pytest.mark.parametrize(
    ("texts", "paths", "message"),
    [
        ({"test.json": ""}, [REAL], "test.json is not JSON"),
        ({"test.json": '["071", "054"]'}, [REAL], "test.json must be a list of pairs"),
        ({"test.json": "[[71, 54]]"}, [REAL], "test.json must be a list of pairs of strings"),
        ({"test.json": '[["071", "003"]]'}, [REAL], "id 003 is in train.json and in test.json"),
        ({}, [f"{YOUTUBE}/c23/videos/500.mp4"], r"500\.mp4: id 500 is in none of train\.json"),
        ({}, [f"{FAKE}/000_500.mp4"], r"000_500\.mp4: id 500 is in none"),
        ({}, [f"{FAKE}/000_071.mp4"], r"000_071\.mp4 mixes ids of test and train"),
        ({}, [f"{FAKE}/000.mp4"], "is not named TTT_SSS"),
        ({}, [f"{YOUTUBE}/c0/videos/000.mp4", f"{YOUTUBE}/raw/videos/000.mp4"], "are the same video"),
        ({}, [f"{YOUTUBE}/c23/{name}/000/1.png" for name in ("images", "frames")], "the same frames in images and in"),
        ({}, [f"{FAKE}/000_003.mp4/frame.png"], r"000_003\.mp4 is a folder where a video file should be"),
        ({}, [f"{YOUTUBE}/c23"], "original_sequences/youtube/c23 is a file where a folder should be"),
        ({}, ["original_sequences/readme.txt"], "no videos found"),
    ],
)
def test_what_does_not_fit_is_an_error_not_a_loss(tree, texts, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("ff", SPLITS | texts, *paths))


def test_a_missing_split_list_shows_what_was_expected_and_found(tree):
    root = tree("ff", {name: text for name, text in SPLITS.items() if name != "val.json"}, REAL)
    with pytest.raises(DatasetError, match=r"val\.json or splits/val\.json is missing") as error:
        load(root)
    assert "original_sequences/youtube/{raw,c23,c40}/videos/NNN.mp4" in str(error.value)
    assert f"Found in {root}: original_sequences/, test.json, train.json" in str(error.value)


def test_a_folder_where_a_list_should_be(tree):
    texts = {name: text for name, text in SPLITS.items() if name != "val.json"}
    with pytest.raises(DatasetError, match=r"val\.json is a folder where a file should be"):
        load(tree("ff", texts, "val.json/x", REAL))
