"""DFDC preview: everything is told by dataset.json, wherever a copy keeps the files."""

import json

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

REAL = "original_videos/643049/643049_A_001.mp4"
FAKE_A = "method_A/1260311/1260311_C/1255229_1260311_C_001.mp4"
FAKE_B = "method_B/1260311/1260311_C/1255229_1260311_C_001.mp4"  # the same name as FAKE_A
LISTED = {
    REAL: {"label": "real", "set": "train", "target_id": 643049, "swapped_id": None, "augmentations": []},
    FAKE_A: {"label": "fake", "set": "test", "target_id": 1260311, "swapped_id": 1255229, "augmentations": []},
    FAKE_B: {"label": "fake", "set": "train", "target_id": 1260311, "swapped_id": 1255229, "augmentations": []},
}
TEXT = {"dataset.json": json.dumps(LISTED)}


def load(root):
    return {row["video_id"]: row for row in datasets.load("dfdcp", {"dfdcp": str(root)}).to_pylist()}


def key(path):
    return f"dfdcp/{path.removesuffix('.mp4')}"


def test_labels_methods_splits_and_people(tree):
    rows = load(tree("dfdcp", TEXT, *LISTED))
    assert {
        name: (row["label"], row["method"], row["split"], row["source_ids"], row["uri"]) for name, row in rows.items()
    } == {
        key(REAL): (0, "real", "train", ["dfdcp/643049"], REAL),
        key(FAKE_A): (1, "method_A", "test", ["dfdcp/1260311", "dfdcp/1255229"], FAKE_A),
        key(FAKE_B): (1, "method_B", "train", ["dfdcp/1260311", "dfdcp/1255229"], FAKE_B),
    }


@pytest.mark.parametrize(
    "place",
    [
        lambda path: f"dfdc_preview_set/{path}",
        lambda path: "/".join((*path.split("/")[:-1], "videos", path.split("/")[-1])),
        lambda path: path.replace("/", "/Videos/", 1),
        lambda path: "/".join((path.split("/")[0], "videos", path.split("/")[-1])),
        lambda path: path.upper().replace(".MP4", ".mp4"),
    ],
)
def test_other_spellings(tree, place):
    """The ids stay as they are, and two files of one name in two methods are two videos."""
    nested = place("") == "dfdc_preview_set/"
    rows = load(tree("dfdcp", {"dfdc_preview_set/dataset.json" if nested else "DATASET.json": TEXT["dataset.json"]},
                     *map(place, LISTED)))  # fmt: skip
    assert {name: row["uri"] for name, row in rows.items()} == {key(path): place(path) for path in LISTED}


@pytest.mark.parametrize("above", ["", "dfdc_preview_set/"])
def test_a_listed_video_that_is_missing_keeps_its_row(tree, above):
    rows = load(tree("dfdcp", {f"{above}dataset.json": TEXT["dataset.json"]}, above + REAL))
    assert rows[key(FAKE_A)]["uri"] == above + FAKE_A
    assert len(rows) == 3


def changed(**entry):
    return {"dataset.json": json.dumps(LISTED | {FAKE_A: LISTED[FAKE_A] | entry})}


TWINS = {f"method_A/{number}/x/1_2_C_001.mp4": LISTED[FAKE_A] for number in (1, 2)}


def test_names_that_come_twice_are_told_apart_by_their_folders(tree):
    paths = {name: name.replace("/x/", "/videos/x/") for name in TWINS}
    rows = load(tree("dfdcp", {"dataset.json": json.dumps(TWINS)}, *paths.values()))
    assert {name: row["uri"] for name, row in rows.items()} == {key(name): path for name, path in paths.items()}


@pytest.mark.parametrize(
    ("texts", "paths", "message"),
    [
        (TEXT, [*LISTED, "method_A/9/9_A/1_9_A_001.mp4"], r"dataset\.json does not name method_A/9/9_A/1_9_A_001\.mp4"),
        (TEXT, [*LISTED, "method_A/videos/1255229_1260311_C_001.mp4"], "are the same video; keep one"),
        (TEXT, ["readme.txt"], "none of original_videos, method_A, method_B holds a video"),
        ({"dataset.json": "{"}, LISTED, "is not JSON"),
        ({"dataset.json": "[]"}, LISTED, "must map paths of videos to entries"),
        (changed(label="FAKED"), LISTED, 'must have "label" real or fake'),
        (changed(set="val"), LISTED, '"set" train or test'),
        ({"dataset.json": json.dumps({"a.mp4": {}})}, LISTED, r"'a\.mp4' is no path such as method_A"),
        (
            {"dataset.json": json.dumps(TWINS)},
            ["method_A/videos/1_2_C_001.mp4"],
            "may be any of method_A/1.*method_A/2",
        ),
        ({"dataset.json": json.dumps({REAL: {"label": "real", "set": "test"}})}, [REAL], 'must have "target_id"'),
    ],
)
def test_what_does_not_fit_is_an_error(tree, texts, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("dfdcp", texts, *paths))


def test_without_the_list_nothing_is_known(tree):
    with pytest.raises(DatasetError, match=r"dataset\.json or dfdc_preview_set/dataset\.json is missing"):
        load(tree("dfdcp", {}, *LISTED))
