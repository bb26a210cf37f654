"""DF40: eight layouts of frames, a real class from two other datasets, and splits that only FaceForensics++ knows."""

import json

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

LISTS = {
    "FaceForensics++/train.json": json.dumps([["000", "003"]]),
    "FaceForensics++/val.json": json.dumps([["001", "002"]]),
    "FaceForensics++/test.json": json.dumps([["071", "054"]]),
    "Celeb-DF-v2/List_of_testing_videos.txt": "1 Celeb-real/id0_0001.mp4\n1 YouTube-real/00170.mp4\n",
}
FF = tuple(f"FaceForensics++/original_sequences/youtube/c23/frames/{id_}/000.png" for id_ in ("000", "001", "071"))
CDF = tuple(f"Celeb-DF-v2/{path}/000.png" for path in ("Celeb-real/frames/id0_0001", "YouTube-real/frames/00170"))
FAKES = {  # picture -> (video_id, its uri)
    "DF40/simswap/ff/frames/071_054/000.png": ("simswap/ff/071_054", "DF40/simswap/ff/frames/071_054"),
    "DF40/simswap/cdf/frames/id0_id1_0001/000.png": (
        "simswap/cdf/id0_id1_0001", "DF40/simswap/cdf/frames/id0_id1_0001",
    ),
    "DF40/StyleGAN3/cdf/Fake_from_YouTube-real/00170/1.png": (
        "StyleGAN3/cdf/00170", "DF40/StyleGAN3/cdf/Fake_from_YouTube-real/00170",
    ),
    "DF40/SiT/ff/071/seed1.png": ("SiT/ff/071", "DF40/SiT/ff/071"),
    "DF40_train/blendface/blendface/frames/000_003/000.png": (
        "blendface/ff/000_003", "DF40_train/blendface/blendface/frames/000_003",
    ),
    "DF40_train/ddim/001/seed1.png": ("ddim/ff/001", "DF40_train/ddim/001"),
    "DF40/heygen_new/fake/frames/7/000.png": ("heygen/fake/7", "DF40/heygen_new/fake/frames/7"),
    "DF40/heygen_new/real/7/000.png": ("heygen/real/7", "DF40/heygen_new/real/7"),
    "DF40/stargan/fake/fake/12.jpg": ("stargan/fake/12", "DF40/stargan/fake/fake/12.jpg"),
    "DF40/stargan/real/real/12.jpg": ("stargan/real/12", "DF40/stargan/real/real/12.jpg"),
}  # fmt: skip
BESIDE = ("DF40/simswap/ff/landmarks/071_054/000.npy", "DF40/simswap/readme.txt")


def load(root, domain=None, said=None):
    config = datasets.Config({"df40": str(root)}, {"df40": {"domain": domain}} if domain else {})
    say = (said if said is not None else []).append
    return {row["video_id"].removeprefix("df40/"): row for row in datasets.load("df40", config, say=say).to_pylist()}


@pytest.fixture
def root(tree):
    return tree("df40", LISTS, *FF, *CDF, *FAKES, *BESIDE)


def test_every_layout_gives_its_videos(root):
    rows = load(root)
    uris = {key: row["uri"] for key, row in rows.items()}
    reals = {f"real/ff/{path.split('/')[-2]}": path.rpartition("/")[0] for path in FF}
    reals |= {f"real/cdf/{path.split('/')[-2]}": path.rpartition("/")[0] for path in CDF}
    assert uris == dict(FAKES.values()) | reals
    assert {row["face_rule"] for row in rows.values()} == {"whole"}
    assert {row["method"] for row in rows.values() if row["label"]} == {
        "simswap", "StyleGAN3", "SiT", "blendface", "ddim", "heygen", "stargan",
    }  # fmt: skip
    assert {key for key, row in rows.items() if "/real" in key and row["label"]} == set()


def test_splits_and_people_are_those_of_the_datasets_it_was_made_from(root):
    rows = load(root)
    assert {key: (row["split"], row["source_ids"]) for key, row in rows.items() if "/ff/" in key} == {
        "simswap/ff/071_054": ("test", ["ffpp/071", "ffpp/054"]),
        "SiT/ff/071": ("test", ["ffpp/071"]),
        "blendface/ff/000_003": ("train", ["ffpp/000", "ffpp/003"]),
        "ddim/ff/001": ("val", ["ffpp/001"]),
        "real/ff/000": ("train", ["ffpp/000"]),
        "real/ff/001": ("val", ["ffpp/001"]),
        "real/ff/071": ("test", ["ffpp/071"]),
    }
    assert {row["split"] for key, row in rows.items() if "/ff/" not in key} == {"test"}
    assert rows["simswap/cdf/id0_id1_0001"]["source_ids"] == ["celeb_df/id0", "celeb_df/id1"]
    assert rows["StyleGAN3/cdf/00170"]["source_ids"] == rows["real/cdf/00170"]["source_ids"]
    assert rows["real/cdf/id0_0001"]["source_ids"] == ["celeb_df/id0"]


@pytest.mark.parametrize(("domain", "number"), [("ff", 7), ("cdf", 4), ("own", 4)])
def test_a_domain_alone_needs_only_its_own_real_class(tree, domain, number):
    """4 fakes and 3 reals of ff, 2 and 2 of cdf, 2 and 2 of methods with reals of their own."""
    reals = {"ff": FF, "cdf": CDF, "own": ()}[domain]
    assert len(load(tree("df40", LISTS, *reals, *FAKES), domain)) == number


def test_methods_may_lie_in_the_root(tree):
    paths = [path.partition("/")[2] for path in FAKES]
    said: list[str] = []
    root = tree("df40", LISTS, *FF, *CDF, *paths, "dataset_json/simswap_ff.json")
    assert len(load(root, said=said)) == len(FAKES) + len(FF) + len(CDF)
    assert said == [f"df40 at {root}: left out dataset_json, which is none of DF40's methods"]


def test_what_both_parts_have_is_taken_once_and_said(tree):
    path = "simswap/ff/frames/071_054/000.png"
    said: list[str] = []
    root = tree("df40", LISTS, *FF, f"DF40/{path}", f"DF40_train/{path}")
    assert load(root, said=said)["simswap/ff/071_054"]["uri"] == "DF40/simswap/ff/frames/071_054"
    assert said == [f"df40 at {root}: fakes that are in both DF40 and DF40_train are taken from DF40: 1"]


SWAP = "DF40/simswap/ff/frames"


@pytest.mark.parametrize(
    ("texts", "paths", "message"),
    [
        (LISTS, ["readme.txt"], "no folder of a method holds frames"),
        (LISTS, ["DF40/newswap/ff/frames/071_054/1.png"], "DF40/newswap is none of DF40's methods: fsgan"),
        (
            LISTS,
            [f"{SWAP}/some/1.png", *FF],
            r"frames/some is not named after videos of FaceForensics\+\+, such as 071",
        ),
        (LISTS, [f"{SWAP}/071_000/1.png", *FF], "frames/071_000 mixes ids of test and train"),
        (LISTS, [f"{SWAP}/071_500/1.png", *FF], "frames/071_500: id 500 is in none of train.json"),
        (LISTS, [f"{SWAP}/071_054/1.png"], r"c23, the real class of DF40/simswap/ff/frames/071_054, has no frames"),
        ({}, [f"{SWAP}/071_054/1.png"], r"FaceForensics\+\+, the real class of what was made from it, is missing"),
        ({}, [f"{SWAP}/071_054/1.png", *FF], r"train\.json or splits/train\.json is missing"),
        (LISTS, ["DF40/stargan/fake/1.jpg", "DF40/stargan/fake/1.png"], r"1\.png and .*1\.jpg are the same video"),
    ],
)
def test_what_does_not_fit_is_an_error(tree, texts, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("df40", texts, *paths))
