"""Celeb-DF v1: the layout of v2 under a name of its own."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

LIST = "List_of_testing_videos.txt"
TESTED = "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0001.mp4\n"
FILES = ("Celeb-real/id0_0001.mp4", "YouTube-real/00170.mp4", "Celeb-synthesis/id0_id1_0001.mp4")


def load(root):
    return {row["video_id"]: row for row in datasets.load("celeb_df_v1", {"celeb_df_v1": str(root)}).to_pylist()}


def test_rows_are_of_v1_whatever_v2_is_called(tree):
    rows = load(tree("cdf", {LIST: TESTED}, *FILES))
    assert {key: (row["label"], row["split"], row["source_ids"]) for key, row in rows.items()} == {
        "celeb_df_v1/Celeb-real/id0_0001": (0, "train", ["celeb_df_v1/id0"]),
        "celeb_df_v1/YouTube-real/00170": (0, "test", ["celeb_df_v1/YouTube-real/00170"]),
        "celeb_df_v1/Celeb-synthesis/id0_id1_0001": (1, "test", ["celeb_df_v1/id0", "celeb_df_v1/id1"]),
    }
    assert {row["dataset"] for row in rows.values()} == {row["root"] for row in rows.values()} == {"celeb_df_v1"}
    fake = rows["celeb_df_v1/Celeb-synthesis/id0_id1_0001"]
    assert (fake["real_id"], fake["real_uri"]) == ("celeb_df_v1/Celeb-real/id0_0001", FILES[0])


def test_its_list_promises_videos_of_v1(tree):
    (own,) = datasets.lists("celeb_df_v1", {"celeb_df_v1": str(tree("cdf", {LIST: TESTED}, *FILES))})
    assert own.labels == {"celeb_df_v1/YouTube-real/00170": 0, "celeb_df_v1/Celeb-synthesis/id0_id1_0001": 1}
    assert own.as_published is None  # the digest known is that of v2's list


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, r"celeb_df_v1 at .*: List_of_testing_videos\.txt is missing"),
        ({LIST: "0 YouTube-real/00170.mp4"}, "line 1: .*in this list 1 means real and 0 means fake"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, texts, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("cdf", texts, *FILES))
