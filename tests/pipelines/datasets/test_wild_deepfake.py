"""WildDeepfake: sequences of pictures, most of them inside archives that are read once."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipelines import datasets
from pipelines.datasets import DatasetError, _archives
from pipelines.media import decode, fetch
from pipelines.media.frames import UnreadableVideo

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


def flip_checksum(data):
    return data[:-8] + bytes(byte ^ 1 for byte in data[-8:-4]) + data[-4:]


def spoil_second_header(data):
    return data[:1024] + b"x" * 512 + data[1536:]  # a file of 7 bytes takes a block after its header


@pytest.mark.parametrize(
    ("name", "spoil", "why"),
    [
        ("0.tar.gz", cut, "not a tar archive"),
        ("0.tar.gz", lambda data: b"no archive", "not a tar archive"),
        ("0.tar.gz", flip_checksum, "after 5 entries: CRC check failed"),
        ("0.tar", spoil_second_header, "after 1 entries: damaged in the middle"),
        ("0.tar", lambda data: data[:1024], "after 1 entries: cut off"),
    ],
)
def test_a_damaged_archive_costs_that_archive(tree, cache, name, spoil, why):
    """What lies before the damage stays; the archive has one more row, which extraction records with the reason."""
    root = pack(tree("dfw", {}), f"real_train/{name}", PICTURES)
    place = root / "real_train" / name
    place.write_bytes(spoil(place.read_bytes()))
    pack(root, "fake_test/1.tar", ["./1/fake/0/1.png"])
    rows = load(root)
    lost = rows.pop(f"wild_deepfake/real_train/{name}")
    assert (lost["uri"], lost["label"], lost["split"]) == (f"real_train/{name}", 0, "train")
    before = {"flip_checksum": ["0/7", "0/8"]}.get(spoil.__name__, ["0/7"] if "after 1" in why else [])
    assert set(rows) == {"wild_deepfake/fake_test/1/0", *(f"wild_deepfake/real_train/{seq}" for seq in before)}
    with pytest.raises(UnreadableVideo, match=why):
        decode.open_source(place)
    for sequence in before:
        assert why in decode.open_source(f"{place}/0/real/{sequence[2:]}").note
    assert len(list(cache.iterdir())) == 1  # of the sound one


def test_a_damaged_archive_is_never_taken_for_its_top_folder(tree):
    """Pictures that lie in no folder would have the archive's own path, and be read as if nothing were lost."""
    root = pack(tree("dfw", {}), "real_train/0.tar", ["1.png", "2.png"])
    assert {key: row["uri"] for key, row in load(root).items()} == {"wild_deepfake/real_train/0": "real_train/0.tar"}
    place = root / "real_train/0.tar"
    assert len(decode.open_source(place).times) == 2
    place.write_bytes(spoil_second_header(place.read_bytes()))
    assert set(load(root)) == {"wild_deepfake/real_train/0.tar"}
    with pytest.raises(UnreadableVideo, match="damaged in the middle"):
        decode.open_source(place)


def test_a_storage_that_fails_is_an_error_of_the_dataset(tree, monkeypatch):
    """It says nothing about the archive, which may be read the next time."""
    root = pack(tree("dfw", {}), "real_train/0.tar", PICTURES)

    def fail(file):
        raise TimeoutError("timed out")

    monkeypatch.setattr(_archives, "_read_through", fail)
    with pytest.raises(DatasetError, match=r"real_train/0\.tar cannot be read: timed out"):
        load(root)


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


def test_names_that_are_not_utf8_are_read_like_any_other(tree):
    """In a folder, in an archive, and the archive's own."""
    odd = os.fsdecode(b"caf\xe9")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    root = pack(tree("dfw", {}), f"real_train/{odd}.tar", [f"0/{odd}/{odd}.png", "0/8/1.png"], picture.getvalue())
    folder = root / "real_train" / odd
    folder.mkdir()
    (folder / f"{odd}.png").write_bytes(picture.getvalue())
    rows = load(root)
    assert set(rows) == {
        f"wild_deepfake/real_train/{name}" for name in ("caf\\xe9", "caf\\xe9/0/caf\\xe9", "caf\\xe9/0/8")
    }
    for row in rows.values():
        with fetch.local(f"{root}/{row['uri']}") as path:
            assert [frame.rgb.shape for frame in decode.grab(path, [0])] == [(8, 8, 3)]
    (folder / f"{odd}.png").write_bytes(b"no picture")
    source = decode.open_source(folder)
    assert list(source.frames([0])) == []
    assert source.note.startswith("caf\\xe9.png: ")
