"""Deep Fake Detection: names of four parts, in the tree of FaceForensics++."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

ACTORS, FORGED = "original_sequences/actors", "manipulated_sequences/DeepFakeDetection"
NAME = "01_02__walking_outside__ABCD1234"


def load(root):
    return {row["video_id"]: row for row in datasets.load("dfd", {"dfd": str(root)}).to_pylist()}


def test_a_fake_points_to_its_target_in_the_same_scene_and_compression(tree):
    fake, mask = f"{FORGED}/c23/videos/{NAME}.mp4", f"{FORGED}/masks/videos/{NAME}.mp4"
    reals = [
        f"{ACTORS}/c23/videos/01__walking_outside.mp4",
        f"{ACTORS}/c40/videos/01__walking_outside.mp4",
        f"{ACTORS}/c23/videos/01__walking.mp4",
        f"{ACTORS}/c23/videos/02__walking_outside.mp4",
    ]
    rows = load(tree("ff", {}, fake, mask, *reals))
    assert len(rows) == 5
    assert rows[f"dfd/DeepFakeDetection/c23/{NAME}"] == {
        "dataset": "dfd",
        "video_id": f"dfd/DeepFakeDetection/c23/{NAME}",
        "label": 1,
        "method": "DeepFakeDetection",
        "codec": "c23",
        "split": "test",
        "root": "dfd",
        "uri": fake,
        "mask_uri": mask,
        "real_id": "dfd/real/c23/01__walking_outside",
        "real_uri": f"{ACTORS}/c23/videos/01__walking_outside.mp4",
        "source_ids": ["dfd/01", "dfd/02"],
        "face_rule": "mask",
    }
    real = rows["dfd/real/c40/01__walking_outside"]
    assert (real["label"], real["split"], real["source_ids"]) == (0, "test", ["dfd/01"])
    assert real["face_rule"] == "largest"


def test_the_youtube_videos_of_the_same_tree_are_another_dataset(tree):
    rows = load(
        tree(
            "ff",
            {},
            "original_sequences/youtube/c23/videos/000.mp4",
            "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4",
            f"{ACTORS}/c0/videos/01__exit.mp4",
        )
    )
    assert list(rows) == ["dfd/real/raw/01__exit"]


def test_other_spellings(tree):
    root = tree("ff", {}, "Original_Sequences/Actors/RAW/01__exit.MP4", f"{FORGED.upper()}/C0/{NAME}.mp4")
    rows = load(root)
    assert rows.keys() == {"dfd/real/raw/01__exit", f"dfd/DeepFakeDetection/raw/{NAME}"}
    assert rows[f"dfd/DeepFakeDetection/raw/{NAME}"]["real_id"] is None  # 01__walking_outside was not fetched


def test_frames_stand_for_videos(tree):
    root = tree(
        "ff", {}, f"{FORGED}/c23/frames/{NAME}/000.png", f"{ACTORS}/c23/videos/01__walking_outside.mp4",
        f"{FORGED}/masks/videos/{NAME}.mp4",
    )  # fmt: skip
    row = load(root)[f"dfd/DeepFakeDetection/c23/{NAME}"]
    assert (row["uri"], row["real_id"]) == (f"{FORGED}/c23/frames/{NAME}", "dfd/real/c23/01__walking_outside")
    assert (row["mask_uri"], row["real_uri"]) == (None, None)  # which frames they are is not known


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{ACTORS}/c23/videos/exit.mp4", r"exit\.mp4 is not named AA__scene"),
        (f"{FORGED}/c23/videos/01_02__exit.mp4", r"01_02__exit\.mp4 is not named TT_SS__scene__ID"),
        (f"{FORGED}/c23/videos/01__exit__ABCD1234.mp4", "is not named TT_SS__scene__ID"),
        ("readme.txt", "no videos found"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, path, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("ff", {}, path))
