"""WildDeepfake: sequences of pictures, most of them inside archives that are read once."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError, _archives

PICTURES = ("./0/real/7/12.png", "./0/real/7/9.png", "./0/real/8/1.png", "./0/real/8/._1.png", "./0/readme.txt")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crossforge" / "archives"


def pack(root, path, names, data=b"picture"):
    place = Path(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w:gz" if path.endswith("gz") else "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return root


def load(root):
    return {row["video_id"]: row for row in datasets.load("wild_deepfake", {"wild_deepfake": str(root)}).to_pylist()}


def test_the_sequences_of_an_archive_are_videos(tree):
    root = pack(tree("dfw", {}), "deepfake_in_the_wild/real_train/0.tar.gz", PICTURES)
    pack(root, "deepfake_in_the_wild/fake_test/0.tar.gz", ["./0/fake/7/1.png"])
    rows = load(root)
    assert {key: (row["uri"], row["label"], row["method"], row["split"]) for key, row in rows.items()} == {
        "wild_deepfake/fake_test/0/7": (
            "deepfake_in_the_wild/fake_test/0.tar.gz/0/fake/7", 1, "wild_deepfake", "test",
        ),
        "wild_deepfake/real_train/0/7": ("deepfake_in_the_wild/real_train/0.tar.gz/0/real/7", 0, "real", "train"),
        "wild_deepfake/real_train/0/8": ("deepfake_in_the_wild/real_train/0.tar.gz/0/real/8", 0, "real", "train"),
    }  # fmt: skip
    assert {row["face_rule"] for row in rows.values()} == {"whole"}
    assert len({row["source_ids"][0] for row in rows.values()}) == 3  # one number in two archives is two sequences


@pytest.mark.parametrize(
    ("place", "uri", "video_id"),
    [
        ("real train/3.tar.gz", "real train/3.tar.gz/0/real/7", "real_train/3/0/7"),
        ("Real_Test/0.TGZ", "Real_Test/0.TGZ/0/real/7", "real_test/0/7"),
    ],
)
def test_other_spellings_of_archives(tree, place, uri, video_id):
    rows = load(pack(tree("dfw", {}), place, PICTURES[:1]))
    assert {key: row["uri"] for key, row in rows.items()} == {f"wild_deepfake/{video_id}": uri}


@pytest.mark.parametrize(
    ("path", "video_id"),
    [
        ("real_train/0/real/7", "real_train/0/7"),
        ("real train/frames/0/REAL/7", "real_train/0/7"),
        ("test/frames/fake_test/7", "fake_test/7"),
        ("train/frames/real_train/7", "real_train/7"),
        ("deepfake_in_the_wild/fake_test/frames/7", "fake_test/7"),
    ],
)
def test_unpacked_copies(tree, path, video_id):
    rows = load(tree("dfw", {}, f"{path}/1.png", f"{path}/2.png"))
    assert {key: row["uri"] for key, row in rows.items()} == {f"wild_deepfake/{video_id}": path}


def test_an_archive_is_read_once_until_it_changes(tree, cache, monkeypatch):
    root = pack(tree("dfw", {}), "real_train/0.tar.gz", PICTURES)
    first, read = load(root), []
    original = _archives._read_through
    monkeypatch.setattr(_archives, "_read_through", lambda file: read.append(1) or original(file))
    assert load(root) == first
    assert not read
    pack(root, "real_train/0.tar.gz", [*PICTURES, "./0/real/9/1.png"])
    assert len(load(root)) == 3
    assert len(read) == 1


def test_a_spoiled_listing_is_made_again(tree, cache):
    root = pack(tree("dfw", {}), "real_train/0.tar.gz", PICTURES)
    first = load(root)
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == ["0/real/7", "0/real/8"]
    for text in ("", '{"a": 1}', "[1]"):
        kept.write_text(text)
        assert load(root) == first
    assert [file.name for file in cache.iterdir()] == [kept.name]  # nothing partial is left


def test_a_cache_that_cannot_be_written_is_no_error(tree, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert len(load(pack(tree("dfw", {}), "real_train/0.tar.gz", PICTURES))) == 2


def cut(data):
    return data[: len(data) // 2]


def spoil_second_header(data):
    return data[:1024] + b"x" * 512 + data[1536:]  # a file of 7 bytes takes a block after its header


@pytest.mark.parametrize(
    ("name", "spoil"), [("0.tar.gz", cut), ("0.tar.gz", lambda data: b"no archive"), ("0.tar", spoil_second_header)]
)
def test_a_damaged_archive_is_an_error_not_a_loss(tree, cache, name, spoil):
    root = pack(tree("dfw", {}), f"real_train/{name}", PICTURES)
    place = root / "real_train" / name
    place.write_bytes(spoil(place.read_bytes()))
    with pytest.raises(DatasetError, match=rf"real_train/{name} cannot be read through \(.*\); fetch it again"):
        load(root)
    assert not cache.exists()


def test_a_label_that_contradicts_its_folder(tree):
    with pytest.raises(DatasetError, match=r"fake_train/0\.tar\.gz/0/real/7 says real, but lies in fake_train"):
        load(pack(tree("dfw", {}), "fake_train/0.tar.gz", PICTURES))


def test_packed_and_unpacked_side_by_side(tree):
    root = tree("dfw", {}, "real_train/0/real/7/9.png")
    with pytest.raises(DatasetError, match="found more than once: wild_deepfake/real_train/0/7; keep one copy"):
        load(pack(root, "real_train/0.tar.gz", PICTURES))


def test_a_folder_without_parts(tree):
    with pytest.raises(DatasetError, match="no videos found"):
        load(tree("dfw", {}, "readme.txt"))
