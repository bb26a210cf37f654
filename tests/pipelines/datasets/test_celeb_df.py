"""Celeb-DF v2 and Celeb-DF++: the list without a header, its inverted label, test videos that must not vanish."""

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


def test_frames_stand_for_videos_that_are_not_there(tree):
    """Which frames they are is not known, so that no video is compared with them."""
    frames = "Celeb-real/frames/id0_0001"
    rows = load(tree("cdf", {LIST: TESTED}, f"{frames}/000.png", f"{frames}/010.png", *FILES[1:]))
    assert rows["celeb_df/Celeb-real/id0_0001"]["uri"] == frames
    fake = rows["celeb_df/Celeb-synthesis/id0_id16_0001"]
    assert (fake["uri"], fake["real_id"], fake["real_uri"]) == (FILES[4], "celeb_df/Celeb-real/id0_0001", None)


PLUS = "0 Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0001.mp4\n0 Celeb-synthesis/FaceSwap/Celeb-DF/id0_id16_0001.mp4\n"


def test_the_methods_of_celeb_df_plus_plus(tree):
    root = tree(
        "cdf",
        {LIST: TESTED.replace("0 Celeb-synthesis/id0_id16_0001.mp4\n", PLUS)},
        *FILES[:4],
        "Celeb-synthesis/FaceSwap/Celeb-DF/id0_id16_0001.mp4",
        "Celeb-synthesis/FaceSwap/BlendFace/videos/id0_id1_0001.mp4",
        "Celeb-synthesis/FaceSwap/SimSwap/id0_id1_0001.mp4",
        "Celeb-synthesis/FaceReenact/LIA/id0_id1_0001.mp4",
        "Celeb-synthesis/TalkingFace/IP_LAP/anything.mp4",
    )
    rows = {key: row for key, row in load(root).items() if row["label"]}
    real, start = "celeb_df/Celeb-real/id0_0001", "celeb_df/Celeb-synthesis"
    assert {key: (row["method"], row["split"], row["real_id"]) for key, row in rows.items()} == {
        f"{start}/id0_id16_0001": ("Celeb-synthesis", "test", real),  # as in v2
        f"{start}/BlendFace/id0_id1_0001": ("BlendFace", "test", real),
        f"{start}/SimSwap/id0_id1_0001": ("SimSwap", "train", real),
        f"{start}/LIA/id0_id1_0001": ("LIA", "train", None),
        f"{start}/IP_LAP/anything": ("IP_LAP", "train", None),
    }


def test_the_list_of_celeb_df_plus_plus_finds_the_fakes_of_v2_where_v2_keeps_them(tree):
    rows = load(tree("cdf", {LIST: PLUS}, "Celeb-synthesis/id0_id16_0001.mp4"))
    assert {key: row["uri"] for key, row in rows.items()} == {
        "celeb_df/Celeb-synthesis/id0_id16_0001": "Celeb-synthesis/id0_id16_0001.mp4",
        "celeb_df/Celeb-synthesis/BlendFace/id0_id1_0001": "Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0001.mp4",
    }


@pytest.mark.parametrize(
    ("text", "paths", "message"),
    [
        (TESTED.replace("0 Celeb", "1 Celeb"), FILES, "line 2: .*in this list 1 means real and 0 means fake"),
        (TESTED.replace("1 Celeb", "0 Celeb"), FILES, "line 3: .*in this list 1 means real"),
        ("label path\n" + TESTED, FILES, "line 1: 'label path', expected such as '1 YouTube-real/00170.mp4'"),
        ("1 Other/00170.mp4", FILES, "line 1: '1 Other/00170.mp4', expected"),
        (TESTED + "1 00170.mp4", FILES, "line 4: '1 00170.mp4', expected such as '1 YouTube-real/00170.mp4'"),
        (
            TESTED + r"1 YouTube-real\00170.mp4",
            FILES,
            r"testing_videos\.txt, line 4: .*YouTube-real.*, expected such as",
        ),
        ("0 Celeb-synthesis/Other/X/id0_id1_0001.mp4", FILES, "line 1: .*expected such as"),
        (
            PLUS,
            ["Celeb-synthesis/id0_id1_0001.mp4", "Celeb-synthesis/FaceSwap/Celeb-DF/id0_id1_0001.mp4"],
            "same video",
        ),
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
