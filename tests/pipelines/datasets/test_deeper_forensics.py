"""DeeperForensics-1.0: its real class lives in FaceForensics++."""

import json

import pytest

from pipelines import datasets
from pipelines.common.tables import FAKE, REAL
from pipelines.datasets import DatasetError
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment

FF_SPLITS = {"train.json": '[["000", "001"]]', "val.json": "[]", "test.json": json.dumps([["003", "004"]])}
LISTS = {
    "lists/splits/train.txt": "000_W101.mp4\n",
    "lists/splits/val.txt": "",
    "lists/splits/test.txt": "003_M102.mp4\n004_M102.mp4\n",
}
FAKES = ["manipulated_videos/end_to_end/000_W101.mp4", "manipulated_videos/end_to_end/003_M102.mp4"]


@pytest.fixture
def ffpp(tree):
    reals = [f"original_sequences/youtube/{c}/videos/{i}.mp4" for c in ("c23", "c40") for i in ("000", "003")]
    return tree("ff", FF_SPLITS, *reals, "manipulated_sequences/Deepfakes/c23/videos/003_004.mp4")


def load(ffpp, root):
    table = datasets.load("deeper_forensics", {"ffpp": str(ffpp), "deeper_forensics": str(root)})
    return {row["video_id"]: row for row in table.to_pylist()}


def test_the_real_class_is_ffpp_c23(tree, ffpp):
    rows = load(ffpp, tree("dfo", LISTS, *FAKES, "source_videos/W101/cam.mp4"))
    assert {key: row for key, row in rows.items() if row["label"] == 0}.keys() == {
        "deeper_forensics/real/c23/000",
        "deeper_forensics/real/c23/003",
    }
    real = rows["deeper_forensics/real/c23/003"]
    assert (real["root"], real["uri"]) == ("ffpp", "original_sequences/youtube/c23/videos/003.mp4")
    assert (real["dataset"], real["codec"], real["split"]) == ("deeper_forensics", "c23", "test")
    assert real["source_ids"] == ["ffpp/003"]


def test_a_fake_names_its_target_and_its_actor(tree, ffpp):
    fake = load(ffpp, tree("dfo", LISTS, *FAKES))["deeper_forensics/end_to_end/003_M102"]
    assert (fake["root"], fake["uri"]) == ("deeper_forensics", FAKES[1])
    assert (fake["method"], fake["split"], fake["label"]) == ("end_to_end", "test", 1)
    assert (fake["real_id"], fake["real_uri"]) == ("deeper_forensics/real/c23/003", None)
    assert fake["source_ids"] == ["ffpp/003", "deeper_forensics/M102"]


def test_a_listed_test_video_that_is_missing_keeps_its_row(tree, ffpp):
    fakes = {k: r["real_id"] for k, r in load(ffpp, tree("dfo", LISTS, *FAKES)).items() if r["label"]}
    assert fakes == {
        "deeper_forensics/end_to_end/000_W101": "deeper_forensics/real/c23/000",
        "deeper_forensics/end_to_end/003_M102": "deeper_forensics/real/c23/003",
        "deeper_forensics/end_to_end/004_M102": None,  # 004 itself is not in the FF++ folder
    }


def test_a_fake_is_in_the_part_of_its_target_whatever_the_owners_list_says(tree, ffpp):
    """The owners drew their lists apart from FF++'s: 000 is trained on there, 003 and 004 are test targets."""
    lists = {
        "lists/splits/train.txt": "003_M102.mp4\n",
        "lists/splits/val.txt": "004_M102.mp4\n",
        "lists/splits/test.txt": "000_W101.mp4\n",
    }
    root = tree("dfo", lists, *FAKES)
    by_target = {key: row["split"] for key, row in load(ffpp, root).items() if row["label"]}
    assert by_target == {
        "deeper_forensics/end_to_end/000_W101": "train",
        "deeper_forensics/end_to_end/003_M102": "test",
        "deeper_forensics/end_to_end/004_M102": "test",  # not on disk
    }
    roots = {"ffpp": str(ffpp), "deeper_forensics": str(root)}
    owners = datasets.load("deeper_forensics", datasets.Config(roots, {"deeper_forensics": {"split": "owners"}}))
    assert {row["video_id"]: row["split"] for row in owners.to_pylist() if row["label"]} == {
        "deeper_forensics/end_to_end/000_W101": "test",
        "deeper_forensics/end_to_end/003_M102": "train",
    }


def test_trained_on_ffpp_the_fake_of_every_test_target_is_scored(tree):
    """Of the owners' three test fakes two are made from videos that were trained on."""
    splits = {"train.json": '[["000", "001"]]', "val.json": '[["002", "003"]]', "test.json": '[["004", "005"]]'}
    reals = [f"original_sequences/youtube/c23/videos/{number:03d}.mp4" for number in range(6)]
    fakes = [f"manipulated_sequences/Deepfakes/c23/videos/{stem}.mp4" for stem in ("000_001", "002_003", "004_005")]
    stems = [f"{number:03d}_W101" for number in range(6)]
    lists = {"train": stems[2:4], "val": stems[5:], "test": [stems[0], stems[1], stems[4]]}
    texts = {f"lists/splits/{split}.txt": "\n".join(own) for split, own in lists.items()}
    root = tree("dfo", texts, *(f"manipulated_videos/end_to_end/{stem}.mp4" for stem in stems))
    roots = {"ffpp": str(tree("ff", splits, *reals, *fakes)), "deeper_forensics": str(root)}
    experiment = Experiment(model="plain", train_on="ffpp", test_on=("deeper_forensics",))

    def scored(config):
        videos = {name: datasets.load(name, config) for name in roots}
        (part,) = protocol.build(experiment, videos).test
        fakes = {row["video_id"].rpartition("/")[2] for row in part.rows if row["label"] == FAKE}
        return fakes, part.count(REAL), len(part.excluded)

    assert scored(roots) == ({"004_W101", "005_W101"}, 2, 0)
    assert scored(datasets.Config(roots, {"deeper_forensics": {"split": "owners"}})) == ({"004_W101"}, 2, 2)


def test_each_folder_is_a_method_and_other_spellings_are_read(tree, ffpp):
    root = tree(
        "dfo",
        {path.replace("lists/splits", "Lists/Splits"): text for path, text in LISTS.items()},
        "Manipulated_Videos/end_to_end/videos/000_W101.MP4",
        "Manipulated_Videos/end_to_end_level_1/000_W101.mp4",
        "Manipulated_Videos/empty/readme.txt",
    )
    train = {(r["method"], r["uri"]) for r in load(ffpp, root).values() if r["label"] and r["split"] == "train"}
    assert train == {
        ("end_to_end", "Manipulated_Videos/end_to_end/videos/000_W101.MP4"),
        ("end_to_end_level_1", "Manipulated_Videos/end_to_end_level_1/000_W101.mp4"),
    }


@pytest.mark.parametrize(
    ("lists", "paths", "message"),
    [
        ({}, ["manipulated_videos/end_to_end/001_W101.mp4"], r"001_W101\.mp4 is in none of lists/splits"),
        ({"lists/splits/val.txt": "003_M102.mp4"}, FAKES, r"003_M102 is in val\.txt and in test\.txt"),
        ({"lists/splits/val.txt": "003.mp4"}, FAKES, r"val\.txt: '003\.mp4' is not named"),
        ({}, ["manipulated_videos/end_to_end/notes.txt"], "manipulated_videos has no folder with videos"),
        ({}, ["videos/x.mp4"], "manipulated_videos is missing"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, ffpp, lists, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(ffpp, tree("dfo", LISTS | lists, *paths))


def test_a_missing_list_is_an_error(tree, ffpp):
    lists = {path: text for path, text in LISTS.items() if "test" not in path}
    with pytest.raises(DatasetError, match=r"lists/splits/test\.txt or splits/test\.txt is missing"):
        load(ffpp, tree("dfo", lists, *FAKES))


def test_ffpp_without_c23_has_no_real_class(tree):
    other = tree("ff40", FF_SPLITS, "original_sequences/youtube/c40/videos/000.mp4")
    with pytest.raises(DatasetError, match=r"ffpp at .*c23, the real class of deeper_forensics, has no videos"):
        load(other, tree("dfo", LISTS, *FAKES))
