"""UADFV: pairs told by the name of the fake, as files or as frames."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

FILES = ("real/0000.mp4", "real/0047.mp4", "fake/0000_fake.mp4")


def load(root):
    return {row["video_id"]: row for row in datasets.load("uadfv", {"uadfv": str(root)}).to_pylist()}


def test_a_fake_points_to_the_video_it_was_made_from(tree):
    rows = load(tree("uadfv", {}, *FILES))
    assert {key: (row["label"], row["method"], row["split"], row["real_id"], row["real_uri"], row["source_ids"])
            for key, row in rows.items()} == {
        "uadfv/real/0000": (0, "real", "test", None, None, ["uadfv/0000"]),
        "uadfv/real/0047": (0, "real", "test", None, None, ["uadfv/0047"]),
        "uadfv/fake/0000_fake": (1, "FakeApp", "test", "uadfv/real/0000", "real/0000.mp4", ["uadfv/0000"]),
    }  # fmt: skip


@pytest.mark.parametrize("place", ["Real/videos/0000.MP4 Fake/videos/0000_fake.MP4", FILES[0] + " " + FILES[2]])
def test_other_spellings(tree, place):
    real, fake = place.split()
    rows = load(tree("uadfv", {}, real, fake))
    assert {key: row["uri"] for key, row in rows.items()} == {"uadfv/real/0000": real, "uadfv/fake/0000_fake": fake}
    assert rows["uadfv/fake/0000_fake"]["real_uri"] == real


def test_frames_are_not_compared_with_each_other(tree):
    rows = load(tree("uadfv", {}, "real/frames/0000/000.png", "fake/frames/0000_fake/000.png"))
    fake = rows["uadfv/fake/0000_fake"]
    assert (fake["uri"], fake["real_id"], fake["real_uri"]) == ("fake/frames/0000_fake", "uadfv/real/0000", None)


def test_a_fake_without_its_original(tree):
    (row,) = load(tree("uadfv", {}, FILES[2])).values()
    assert (row["real_id"], row["real_uri"], row["source_ids"]) == (None, None, ["uadfv/0000"])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["0000.mp4"], "neither real nor fake holds a video"),
        (["real/0000_fake.mp4"], r"real/0000_fake\.mp4 is not named NNNN, as the real videos are"),
        (["fake/0000.mp4"], r"fake/0000\.mp4 is not named NNNN_fake, as the fakes are"),
        (["real"], "real is a file where a folder should be"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("uadfv", {}, *paths))
