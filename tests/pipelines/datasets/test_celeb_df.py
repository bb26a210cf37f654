"""Celeb-DF v2: the list without a header, its inverted label, test videos that must not vanish."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

LIST = "List_of_testing_videos.txt"
TESTED = "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id16_0001.mp4\n1 Celeb-real/id0_0001.mp4\n"
FILES = (
    "Celeb-real/id0_0001.mp4",
    "Celeb-real/id2_0000.mp4",
    "YouTube-real/00170.mp4",
    "YouTube-real/00171.mp4",
    "Celeb-synthesis/id0_id16_0001.mp4",
    "Celeb-synthesis/id2_id3_0000.mp4",
)


def load(root):
    return {row["video_id"]: row for row in datasets.load("celeb_df", {"celeb_df": str(root)}).to_pylist()}


def test_labels_and_splits(tree):
    """The first line of the list counts, and its 1 is our 0."""
    rows = load(tree("cdf", {LIST: TESTED}, *FILES))
    assert {key: (row["label"], row["split"]) for key, row in rows.items()} == {
        "celeb_df/Celeb-real/id0_0001": (0, "test"),
        "celeb_df/Celeb-real/id2_0000": (0, "train"),
        "celeb_df/Celeb-synthesis/id0_id16_0001": (1, "test"),
        "celeb_df/Celeb-synthesis/id2_id3_0000": (1, "train"),
        "celeb_df/YouTube-real/00170": (0, "test"),
        "celeb_df/YouTube-real/00171": (0, "train"),
    }


def test_a_fake_points_to_the_video_it_was_made_from(tree):
    rows = load(tree("cdf", {LIST: TESTED}, *FILES))
    fake = rows["celeb_df/Celeb-synthesis/id0_id16_0001"]
    assert (fake["real_id"], fake["real_uri"]) == ("celeb_df/Celeb-real/id0_0001", "Celeb-real/id0_0001.mp4")
    assert fake["source_ids"] == ["celeb_df/id0", "celeb_df/id16"]
    assert rows["celeb_df/Celeb-real/id0_0001"]["source_ids"] == ["celeb_df/id0"]
    assert rows["celeb_df/YouTube-real/00170"]["source_ids"] == ["celeb_df/YouTube-real/00170"]


def test_a_listed_video_that_is_missing_keeps_its_row(tree):
    rows = load(tree("cdf", {LIST: TESTED}, "Celeb-synthesis/id0_id16_0001.mp4"))
    assert {key: row["uri"] for key, row in rows.items() if row["label"] == 0} == {
        "celeb_df/Celeb-real/id0_0001": "Celeb-real/id0_0001.mp4",
        "celeb_df/YouTube-real/00170": "YouTube-real/00170.mp4",
    }


def test_other_spellings(tree):
    text = TESTED.replace("YouTube-real/", "youtube-real/videos/")
    rows = load(tree("cdf", {LIST.lower(): text}, *(f.replace("/", "/videos/") for f in FILES)))
    assert len(rows) == 6
    assert rows["celeb_df/YouTube-real/00170"]["split"] == "test"
    assert rows["celeb_df/YouTube-real/00170"]["uri"] == "YouTube-real/videos/00170.mp4"


@pytest.mark.parametrize(
    ("text", "paths", "message"),
    [
        (TESTED.replace("0 Celeb", "1 Celeb"), FILES, "line 2: .*in this list 1 means real and 0 means fake"),
        (TESTED.replace("1 Celeb", "0 Celeb"), FILES, "line 3: .*in this list 1 means real"),
        ("label path\n" + TESTED, FILES, "line 1: 'label path', expected such as '1 YouTube-real/00170.mp4'"),
        ("1 Other/00170.mp4", FILES, "line 1: '1 Other/00170.mp4', expected"),
        ("\n", FILES, "List_of_testing_videos.txt is empty"),
        (TESTED, ["Celeb-real/readme.txt"], "none of Celeb-real, YouTube-real, Celeb-synthesis holds a video"),
        (TESTED, ["Celeb-synthesis/id0_0001.mp4"], "id0_0001.mp4 is not named like the videos of Celeb-synthesis"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, text, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("cdf", {LIST: text}, *paths))


def test_without_the_list_there_is_no_split(tree):
    with pytest.raises(DatasetError, match=r"List_of_testing_videos\.txt is missing"):
        load(tree("cdf", {}, *FILES))
