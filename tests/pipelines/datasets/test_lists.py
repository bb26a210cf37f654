"""What the lists of each dataset promise of a copy."""

import json

import pytest

from pipelines import datasets
from pipelines.datasets import _lists

YOUTUBE, FORGED = "original_sequences/youtube", "manipulated_sequences"


def of(name: str, **roots) -> dict[str, _lists.PublishedList]:
    options = roots.pop("options", {})
    config = datasets.Config({key: str(root) for key, root in roots.items()}, {name: options})
    return {own.name: own for own in datasets.lists(name, config)}


def besides(name: str, own: _lists.PublishedList, root) -> set[str]:
    """Return the videos of the part that the list does not name."""
    rows = datasets.load(name, {name: str(root)}).to_pylist()
    return {row["video_id"] for row in rows if own.covers(row)} - own.labels.keys()


def test_a_digest_is_that_of_the_sorted_lines():
    """`sort list | head -c -1 | sha256sum`, of which 16 digits are kept."""
    assert _lists.digest(["b", "a"]) == _lists.digest(["a", "b"]) == "7e18f737311b2dc3"


def test_ffpp_promises_two_fakes_of_each_pair_and_manipulation(tree):
    splits = {"train.json": '[["000", "003"]]', "val.json": "[]", "test.json": '[["071", "054"]]'}
    extra = f"{FORGED}/Deepfakes/c23/videos/000_000.mp4"  # in its split, but of no pair
    shifted = f"{FORGED}/FaceShifter/c23/videos/000_003.mp4"
    root = tree("ff", splits, f"{YOUTUBE}/c23/videos/000.mp4", extra, shifted)
    own = of("ffpp", ffpp=root)
    assert list(own) == ["train.json, c23", "val.json, c23", "test.json, c23"]
    train = own["train.json, c23"]
    assert {key for key, label in train.labels.items() if label == 0} == {"ffpp/real/c23/000", "ffpp/real/c23/003"}
    assert len(train.labels) == 2 + 4 * 2
    assert train.labels["ffpp/NeuralTextures/c23/003_000"] == 1
    assert besides("ffpp", train, root) == {"ffpp/Deepfakes/c23/000_000"}
    assert {each.as_published for each in own.values()} == {False}


def test_celeb_df_promises_its_list(tree):
    texts = {"List_of_testing_videos.txt": "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id1_id0_0007.mp4\n"}
    (own,) = of("celeb_df", celeb_df=tree("cdf", texts, "YouTube-real/00170.mp4")).values()
    assert own.labels == {"celeb_df/YouTube-real/00170": 0, "celeb_df/Celeb-synthesis/id1_id0_0007": 1}
    assert own.as_published is False


def test_dfdc_has_labels_twice_and_a_list_of_ones_own(tree):
    texts = {
        "labels.csv": "filename,label\nccc.mp4,0\nddd.mp4,1\n",
        "test/metadata.json": json.dumps({"ccc.mp4": {"is_fake": 1}, "ddd.mp4": {"is_fake": 1}}),
        "../some.txt": "ddd\n",
    }
    root = tree("dfdc", texts, "test/ccc.mp4", "test/ddd.mp4")
    own = of("dfdc", dfdc=root)
    assert {name: each.labels for name, each in own.items()} == {
        "labels.csv": {"dfdc/test/ccc": 0, "dfdc/test/ddd": 1},
        "test/metadata.json": {"dfdc/test/ccc": 1, "dfdc/test/ddd": 1},  # which the doctor calls an error
    }
    chosen = of("dfdc", dfdc=root, options={"list": str(root.parent / "some.txt")})
    assert {name: each.labels for name, each in chosen.items()} == {
        "list: some.txt": {"dfdc/test/ddd": 1},
        "test/metadata.json": {"dfdc/test/ddd": 1},
    }
    assert (own["labels.csv"].as_published, chosen["list: some.txt"].as_published) == (False, None)


def test_labels_of_the_dfdc_preview_are_told_by_folders_too(tree):
    entry = {"label": "real", "set": "test", "target_id": "1", "swapped_id": "2", "augmentations": []}
    listed = {"original_videos/1/a.mp4": entry, "method_A/1/1_2/b.mp4": entry}
    own = of("dfdcp", dfdcp=tree("dfdcp", {"dataset.json": json.dumps(listed)}, *listed))
    assert own["dataset.json, test"].labels == {"dfdcp/original_videos/1/a": 0, "dfdcp/method_A/1/1_2/b": 1}
    assert own["dataset.json, train"].labels == {}


def test_deeper_forensics_promises_a_fake_of_each_test_target(tree):
    splits = {"train.json": '[["000", "001"]]', "val.json": "[]", "test.json": '[["003", "004"]]'}
    texts = {f"lists/splits/{split}.txt": "" for split in ("train", "val")}
    texts["lists/splits/test.txt"] = "000_W101.mp4\n003_M102.mp4\n"
    roots = {
        "ffpp": tree("ff", splits, f"{YOUTUBE}/c23/videos/003.mp4"),
        "deeper_forensics": tree("dfo", texts, "manipulated_videos/end_to_end/000_W101.mp4"),
    }
    own = of("deeper_forensics", **roots)
    assert own["lists/splits/test.txt"].labels.keys() == {
        "deeper_forensics/end_to_end/000_W101",
        "deeper_forensics/end_to_end/003_M102",
    }
    by_target = own["the test targets of FaceForensics++"]
    assert by_target.labels == {
        "deeper_forensics/end_to_end/003_M102": 1,
        "deeper_forensics/real/c23/003": 0,
        "deeper_forensics/real/c23/004": 0,
    }
    assert {each.as_published for each in own.values()} == {None}  # of its lists only the lengths are known
    assert {each.num_published for each in own.values()} == {703, 96, 201, 280}


def test_labels_are_told_apart_where_a_copy_tells_them_twice(tree):
    texts = {"labels.csv": "filename,label\nccc.mp4,0\n", "metadata.json": json.dumps({"ccc.mp4": {"is_fake": 1}})}
    own = of("dfdc", dfdc=tree("dfdc", texts, "test/ccc.mp4"))
    assert {name: each.tells_labels for name, each in own.items()} == {"labels.csv": False, "metadata.json": True}


@pytest.mark.parametrize("name", ["ffiw", "wild_deepfake", "dfd", "ours"])
def test_a_dataset_without_lists_promises_nothing(name):
    assert datasets.lists(name, {name: "/nowhere"}) == []
