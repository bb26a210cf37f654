"""DFDC: labels from metadata.json and labels.csv, never from names."""

import json

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

PART_0 = {
    "aaa.mp4": {"label": "REAL", "split": "train"},
    "bbb.mp4": {"label": "FAKE", "split": "train", "original": "aaa.mp4"},
}
TEXTS = {
    "dfdc_train_part_0/metadata.json": json.dumps(PART_0),
    "labels.csv": "filename,label\nccc.mp4,0\nddd.mp4,1\n",
}
TRAIN = ["dfdc_train_part_0/aaa.mp4", "dfdc_train_part_0/bbb.mp4"]
TEST = ["test/ccc.mp4", "test/ddd.mp4"]


def load(root):
    return {row["video_id"]: row for row in datasets.load("dfdc", {"dfdc": str(root)}).to_pylist()}


def test_labels_splits_and_originals(tree):
    rows = load(tree("dfdc", TEXTS, *TRAIN, *TEST))
    assert {
        key: (row["label"], row["method"], row["split"], row["real_id"], row["real_uri"], row["source_ids"])
        for key, row in rows.items()
    } == {
        "dfdc/test/ccc": (0, "real", "test", None, None, ["dfdc/test/ccc.mp4"]),
        "dfdc/test/ddd": (1, "dfdc", "test", None, None, ["dfdc/test/ddd.mp4"]),
        "dfdc/train/aaa": (0, "real", "train", None, None, ["dfdc/aaa.mp4"]),
        "dfdc/train/bbb": (1, "dfdc", "train", "dfdc/train/aaa", "dfdc_train_part_0/aaa.mp4", ["dfdc/aaa.mp4"]),
    }


@pytest.mark.parametrize("place", ["test", "test/videos", "videos", "TEST"])
def test_where_test_videos_may_lie(tree, place):
    rows = load(tree("dfdc", {"labels.csv": TEXTS["labels.csv"]}, f"{place}/ccc.mp4", f"{place}/ddd.mp4"))
    assert [row["uri"] for row in rows.values()] == [f"{place}/ccc.mp4", f"{place}/ddd.mp4"]


def test_parts_may_lie_in_train_and_labels_in_test(tree):
    texts = {"train/dfdc_train_part_00/metadata.json": json.dumps(PART_0), "test/labels.csv": TEXTS["labels.csv"]}
    rows = load(tree("dfdc", texts, *(f"train/{p.replace('_0/', '_00/')}" for p in TRAIN), *TEST))
    assert rows["dfdc/train/bbb"]["real_uri"] == "train/dfdc_train_part_00/aaa.mp4"
    assert len(rows) == 4


def test_a_video_that_a_list_names_keeps_its_row(tree):
    rows = load(tree("dfdc", TEXTS, TRAIN[0], TEST[0]))
    assert rows["dfdc/train/bbb"]["uri"] == TRAIN[1]
    assert rows["dfdc/test/ddd"]["uri"] == TEST[1]


def test_a_part_without_the_original_names_no_counterpart(tree):
    metadata = {"bbb.mp4": PART_0["bbb.mp4"]}
    (row,) = load(tree("dfdc", {"dfdc_train_part_0/metadata.json": json.dumps(metadata)}, TRAIN[1])).values()
    assert (row["real_id"], row["source_ids"]) == (None, ["dfdc/aaa.mp4"])


@pytest.mark.parametrize(
    ("texts", "paths", "message"),
    [
        (
            {},
            [*TRAIN, "dfdc_train_part_0/zzz.mp4"],
            r"dfdc_train_part_0/metadata.json does not name dfdc_train_part_0/zzz.mp4",
        ),
        ({}, [*TEST, "test/zzz.mp4"], "labels.csv does not name test/zzz.mp4"),
        ({}, ["dfdc_train_part_1/zzz.mp4"], r"dfdc_train_part_1/metadata.json is missing"),
        ({"dfdc_train_part_1/metadata.json": json.dumps(PART_0)}, TRAIN, "aaa.mp4 is in two train parts"),
        ({"dfdc_train_part_0/metadata.json": "{"}, TRAIN, "metadata.json is not JSON"),
        (
            {"dfdc_train_part_0/metadata.json": '{"aaa.mp4": {"label": "fake"}}'},
            TRAIN,
            'aaa.mp4 must have "label" REAL',
        ),
        ({"labels.csv": "ccc.mp4,0\n"}, TEST, "labels.csv must have the columns filename and label"),
        ({"labels.csv": "filename,label\nccc.mp4,2\n"}, TEST, "labels.csv, line 2: label must be 0"),
        ({"labels.csv": "filename,label\nccc.mp4,0\nccc.mp4,1\n"}, TEST, "line 3: ccc.mp4 is listed twice"),
        ({}, TRAIN, "labels.csv names 2 test videos, but test/, test/videos/ and videos/ hold none"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, texts, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("dfdc", TEXTS | texts, *paths))


def test_test_videos_need_their_labels(tree):
    with pytest.raises(DatasetError, match=r"labels\.csv or test/labels\.csv is missing"):
        load(tree("dfdc", {}, *TEST))


FIVE = {"labels.csv": "filename,label\nccc.mp4,0\nddd.mp4,1\neee.mp4,1\nfff.mp4,0\nggg.mp4,1\n"}


def listed(tree, text: str) -> list[tuple[str, str]]:
    """Return video_id and uri of the test videos that a list of this text chooses; fff is not on disk."""
    root = tree("dfdc", FIVE | {"../names.csv": text}, *(f"test/{name}.mp4" for name in ("ccc", "ddd", "eee", "ggg")))
    config = datasets.Config({"dfdc": str(root)}, {"dfdc": {"list": str(root.parent / "names.csv")}})
    return [(row["video_id"], row["uri"]) for row in datasets.load("dfdc", config).to_pylist()]


@pytest.mark.parametrize(
    "text",
    [
        "ddd\nfff\nccc\n",
        "\nddd.mp4\n\nfff.mp4\ntest/ccc.mp4",
        "filename,label\nccc.mp4,0\nfff.mp4,REAL\nddd.mp4,1\n",
        "number,filename\n1,fff.mp4\n2,ddd.mp4\n3,ccc\n",
    ],
)
def test_a_list_of_ones_own_chooses_test_videos_whether_or_not_they_are_on_disk(tree, text):
    assert listed(tree, text) == [(f"dfdc/test/{name}", f"test/{name}.mp4") for name in ("ccc", "ddd", "fff")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ccc\nhhh\niii\n", r"names\.csv: 2 of its 3 videos are not in labels\.csv: hhh\.mp4, iii\.mp4"),
        ("filename,label\nccc,0\nddd,0\n", r"names\.csv: 1 of its 2 labels are not those of labels\.csv: ddd\.mp4"),
        ("\n", r"names\.csv names no videos"),
    ],
)
def test_a_list_that_labels_csv_contradicts_is_refused(tree, text, message):
    with pytest.raises(DatasetError, match=message):
        listed(tree, text)
