"""FFIW-10K: pairs of one name, masks of another, a part called val that is the test."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

FILES = (
    "source/val/val_00000000.mp4",
    "target/val/val_00000000.mp4",
    "target_mask/val/val_00000000_mask.mp4",
    "source/train/train_00000001.mp4",
    "target/train/train_00000001.mp4",
)


def load(root):
    return {row["video_id"]: row for row in datasets.load("ffiw", {"ffiw": str(root)}).to_pylist()}


def test_pairs_masks_and_the_rule_for_several_faces(tree):
    rows = load(tree("ffiw", {}, *FILES))
    assert {
        key: (row["label"], row["split"], row["real_id"], row["real_uri"], row["mask_uri"]) for key, row in rows.items()
    } == {
        "ffiw/source/val/val_00000000": (0, "test", None, None, None),
        "ffiw/target/val/val_00000000": (1, "test", "ffiw/source/val/val_00000000", FILES[0], FILES[2]),
        "ffiw/source/train/train_00000001": (0, "train", None, None, None),
        "ffiw/target/train/train_00000001": (1, "train", "ffiw/source/train/train_00000001", FILES[3], None),
    }
    assert {row["face_rule"] for row in rows.values()} == {"all"}
    assert {row["method"] for row in rows.values()} == {"real", "ffiw"}
    assert rows["ffiw/target/val/val_00000000"]["source_ids"] == ["ffiw/val/val_00000000"]


def test_val_is_val_where_there_is_a_test_part(tree):
    rows = load(tree("ffiw", {}, *FILES, "source/test/test_00000000.mp4"))
    assert {row["split"] for key, row in rows.items() if "/val/" in key} == {"val"}
    assert rows["ffiw/source/test/test_00000000"]["split"] == "test"


@pytest.mark.parametrize("release", ["FFIW10K-v1-release", "FFIW10K-v1-release-test"])
def test_other_spellings(tree, release):
    paths = [f"{release}/Source/Val/videos/0.mp4", f"{release}/Target/Val/videos/0.mp4"]
    rows = load(tree("ffiw", {}, *paths))
    assert {key: row["uri"] for key, row in rows.items()} == {
        "ffiw/source/val/0": paths[0],
        "ffiw/target/val/0": paths[1],
    }


def test_releases_side_by_side_are_all_taken(tree):
    """A name that both have is one row, whose fake and mask are of the same release as its source."""
    first, second = "FFIW10K-v1-release", "FFIW10K-v1-release-test"
    root = tree("ffiw", {}, *(f"{first}/{path}" for path in FILES), *(f"{second}/{path}" for path in FILES[:2]),
                f"{second}/source/test/1.mp4")  # fmt: skip
    said: list[str] = []
    rows = {row["video_id"]: row for row in datasets.load("ffiw", {"ffiw": str(root)}, say=said.append).to_pylist()}
    assert len(rows) == 5
    assert rows["ffiw/source/test/1"]["uri"] == f"{second}/source/test/1.mp4"
    fake = rows["ffiw/target/val/val_00000000"]
    assert (fake["uri"], fake["real_uri"], fake["split"]) == (f"{first}/{FILES[1]}", f"{first}/{FILES[0]}", "val")
    names = f"{first}, {second}: all of these releases are taken; 2 names that several have are taken from the first"
    assert said == [f"ffiw at {root}: {names}"]


def test_a_fake_without_its_source(tree):
    (row,) = load(tree("ffiw", {}, FILES[1])).values()
    assert (row["real_id"], row["real_uri"]) == (None, None)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["source/0.mp4"], r"source/0\.mp4 is in none of train, val, test"),
        ([*FILES, "target/extra/0.mp4"], "target/extra is in none of train, val, test"),
        (["readme.txt"], "found neither source nor target"),
        (["source/readme.txt"], "no videos found"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("ffiw", {}, *paths))
