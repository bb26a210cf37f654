"""KoDF: lists with Korean names, files in any folder, and a release without lists."""

import unicodedata

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

REALS = "영상ID,UUID,인물성별,촬영장소\n{}.mp4,{},여,실내\n"
FAKES = "영상ID,타겟영상,타겟UUID,소스UUID,변조모델,인물성별\n{},{}.mp4,{},{},{},여\n"
LISTS = {
    "label/원본영상_training_메타데이터.csv": REALS.format("200715_aaa_1", "aaa"),
    "label/변조영상_training_메타데이터.csv": FAKES.format("aaa_bbb_1_0007.mp4", "200715_aaa_1", "aaa", "bbb", "dfl"),
    "label/원본영상_validation_메타데이터.csv": REALS.format("200715_ccc_1", "ccc"),
    "label/변조영상_validation_메타데이터.csv": FAKES.format(
        "ccc_ccc_4_0001.mp4", "200715_ccc_1", "ccc", "", "Audio-Driven"
    ),
}
FILES = ("원본/aaa/200715_aaa_1.mp4", "dfl/aaa/aaa_bbb_1_0007.mp4", "x/200715_ccc_1.mp4", "y/ccc_ccc_4_0001.MP4")


def load(root, said=None):
    say = (said if said is not None else []).append
    return {row["video_id"]: row for row in datasets.load("kodf", {"kodf": str(root)}, say=say).to_pylist()}


def test_the_lists_tell_labels_methods_people_and_counterparts(tree):
    rows = load(tree("kodf", LISTS, *FILES))
    assert {
        key: (row["label"], row["split"], row["source_ids"], row["real_id"], row["uri"]) for key, row in rows.items()
    } == {
        "kodf/real/200715_aaa_1": (0, "train", ["kodf/aaa"], None, FILES[0]),
        "kodf/dfl/aaa_bbb_1_0007": (1, "train", ["kodf/aaa", "kodf/bbb"], "kodf/real/200715_aaa_1", FILES[1]),
        "kodf/real/200715_ccc_1": (0, "test", ["kodf/ccc"], None, FILES[2]),
        "kodf/audio-driven/ccc_ccc_4_0001": (1, "test", ["kodf/ccc"], "kodf/real/200715_ccc_1", FILES[3]),
    }
    assert {row["real_uri"] for row in rows.values()} == {None}


def test_names_in_pieces_are_the_same_names(tree):
    """An archive from macOS holds each Korean syllable as two or three characters."""
    texts = {unicodedata.normalize("NFD", name): text for name, text in LISTS.items()}
    assert texts.keys() != LISTS.keys()
    assert len(load(tree("kodf", texts, *FILES))) == 4


def test_a_part_that_was_not_fetched_has_no_rows_and_names_no_counterpart(tree):
    (row,) = load(tree("kodf", LISTS, FILES[1])).values()
    assert (row["video_id"], row["real_id"]) == ("kodf/dfl/aaa_bbb_1_0007", None)


def test_validation_is_val_where_there_is_a_list_of_tests(tree):
    texts = LISTS | {"label/원본영상_test_메타데이터.csv": REALS.format("200715_ddd_1", "ddd")}
    rows = load(tree("kodf", texts, *FILES, "z/200715_ddd_1.mp4"))
    assert rows["kodf/real/200715_ccc_1"]["split"] == "val"
    assert rows["kodf/real/200715_ddd_1"]["split"] == "test"


def test_without_lists_folders_tell_labels_and_methods(tree):
    real, fake = "original_videos/aaa/1.mp4", "synthesized_videos/fsgan/x/aaa_bbb_2_0003.mp4"
    rows = load(tree("kodf", {}, f"kodf_release/{real}", f"kodf_release/{fake}"))
    assert {key: (row["label"], row["split"], row["source_ids"]) for key, row in rows.items()} == {
        "kodf/real/1": (0, "test", ["kodf/aaa"]),
        "kodf/fsgan/aaa_bbb_2_0003": (1, "test", ["kodf/aaa", "kodf/bbb"]),
    }


def test_adversarial_fakes_are_left_out_and_said(tree):
    said: list[str] = []
    root = tree("kodf", LISTS, *FILES, "train_탐지방해/변조영상/aaa_bbb_1_0007.mp4")
    assert load(root, said)["kodf/dfl/aaa_bbb_1_0007"]["uri"] == FILES[1]
    assert said == [f"kodf at {root}: left out videos with adversarial noise: 1"]


def test_the_lists_promise_their_videos(tree):
    own = {each.name: each.labels for each in datasets.lists("kodf", {"kodf": str(tree("kodf", LISTS, FILES[0]))})}
    assert len(own) == 4
    assert own["변조영상_training_메타데이터.csv"] == {"kodf/dfl/aaa_bbb_1_0007": 1}
    assert own["원본영상_training_메타데이터.csv"] == {"kodf/real/200715_aaa_1": 0}


TRAIN = "label/원본영상_training_메타데이터.csv"


@pytest.mark.parametrize(
    ("texts", "paths", "message"),
    [
        (LISTS, ["원본/1.zip"], "no video file; archives must be unpacked"),
        (LISTS, [*FILES, "new/zzz.mp4"], r"메타데이터\.csv do not name new/zzz\.mp4"),
        (LISTS, [*FILES, "new/200715_aaa_1.mp4"], "have one name; keep one"),
        (LISTS | {TRAIN: "id,UUID\n1,2\n"}, FILES, r"training_메타데이터\.csv, line 2: must have 영상ID, UUID, got"),
        (LISTS | {TRAIN: REALS.format("200715_ccc_1", "c")}, FILES, "line 2: 200715_ccc_1 is listed twice"),
        ({}, ["somewhere/1.mp4"], "lies neither in original_videos nor in a folder of synthesized_videos"),
        ({}, ["synthesized_videos/1.mp4"], "lies neither in original_videos nor"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, texts, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("kodf", texts, *paths))
