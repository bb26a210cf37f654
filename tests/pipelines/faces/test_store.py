"""Faces that are read from a bucket: at once, by one download of each file, and then without a request."""

import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipelines.common import bucket_cache, slow, storage, tables
from pipelines.common.bucket import BucketPath
from pipelines.common.lease import NOT_LEASED, Claim, LeaseLost
from pipelines.faces import extract, store, writer
from pipelines.faces.recipe import Recipe
from pipelines.faces.store import Faces
from pipelines.faces.video import without_faces

NAMES = [f"toy/{letter}" for letter in "abcd"]


def write_faces(folder: Path) -> None:
    """Write an extraction of videos of two faces each, every video in a file of its own."""
    (folder / "parts").mkdir(parents=True)
    for name in NAMES:
        video = {"dataset": "toy", "video_id": name, "label": 0, "method": "real", "codec": "raw", "split": "train"}
        rows, ledger = without_faces(video, "no_face", "")
        rows = pa.concat_tables([rows, rows])
        for column, values in {"frame_index": [0, 1], "image_png": [os.urandom(500), os.urandom(900)]}.items():
            place, field = rows.schema.get_field_index(column), tables.FACES.field(column)
            rows = rows.set_column(place, field, pa.array(values, field.type))
        writer.write_part(folder, [video], [(rows, ledger | {"num_faces": 2})])
        writer.gather(folder, [writer.part_path(folder, [video]).name])
    writer.finish(folder, Recipe(), store.compacted(folder))


def test_who_was_taken_over_marks_no_extraction_as_done(tmp_path):
    class Lost(Claim):
        def check(self) -> None:
            raise LeaseLost("taken over")

    write_faces(tmp_path)
    (tmp_path / "_done.json").unlink()
    target, asked = extract.Target(folder=tmp_path, recipe=Recipe(), videos=None), pa.table({"video_id": NAMES})
    with pytest.raises(LeaseLost, match=r"^taken over; run the same command again"):
        extract._complete(target, asked, Lost())
    assert not (tmp_path / "_done.json").exists()
    extract._complete(target, asked, NOT_LEASED)
    assert (tmp_path / "_done.json").exists()


def pictures(faces: Faces) -> list[list[bytes]]:
    return [faces.video(name, ["image_png"])["image_png"].to_pylist() for name in NAMES]


def wait_for_copies() -> None:
    deadline = time.monotonic() + 30
    while bucket_cache._asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def folder(in_bucket, tmp_path) -> SimpleNamespace:
    """The faces in a bucket, and on the disk."""
    write_faces(tmp_path / "faces")
    storage.copy_tree(tmp_path / "faces", in_bucket.path, "_done.json")
    bucket_cache._asked.clear()
    return SimpleNamespace(remote=in_bucket.path, pictures=pictures(Faces(tmp_path / "faces")))


def test_a_face_of_which_there_is_a_copy_takes_no_request_however_many_files_there_are(folder, in_bucket, monkeypatch):
    monkeypatch.setattr(store, "_OPEN", 2)
    asked: list[int] = []
    fits = bucket_cache.fits
    monkeypatch.setattr(bucket_cache, "fits", lambda size: asked.append(size) or fits(size))
    faces = Faces(folder.remote)
    assert pictures(faces) == folder.pictures
    wait_for_copies()
    in_bucket.server.requests.clear()
    for _ in range(3):
        assert pictures(faces) == folder.pictures
    assert in_bucket.server.requests == []
    assert len(asked) == len(NAMES)
    assert pictures(Faces(folder.remote)) == folder.pictures  # whose files may be others under the same names
    assert {method for method, path in in_bucket.server.requests if path.endswith(".parquet")} == {"HEAD"}


def test_faces_of_a_folder_that_is_named_as_slow_are_copied_too(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CROSSFORGE_SLOW_FOLDERS", f"/nowhere:{tmp_path / 'mount'}")
    bucket_cache._asked.clear()
    write_faces(tmp_path / "mount" / "faces")
    faces = Faces(tmp_path / "mount" / "faces")
    expected = pictures(faces)  # from the mount
    wait_for_copies()
    (tmp_path / "mount" / "faces").rename(tmp_path / "mount" / "away")
    assert pictures(faces) == expected
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".arrow"] * 5 + [".parquet"] * 4

    monkeypatch.setenv("CROSSFORGE_SLOW_FOLDERS", "")
    (tmp_path / "mount" / "away").rename(tmp_path / "mount" / "faces")
    shutil.rmtree(tmp_path / "cache")
    assert pictures(Faces(tmp_path / "mount" / "faces")) == expected
    assert not (tmp_path / "cache").exists()


def test_a_slow_folder_is_known_by_links_and_by_relative_paths_and_one_that_is_not_there_is_said_once(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "mount").mkdir()
    (tmp_path / "link").symlink_to("mount")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mount" / "a.parquet"
    for named in ("link", str(tmp_path / "link"), "../" + tmp_path.name + "/mount", "~no-such-user:link"):
        monkeypatch.setenv("CROSSFORGE_SLOW_FOLDERS", named)
        slow._folders.cache_clear()
        caplog.clear()
        for path in (file, tmp_path / "link" / "a.parquet", Path("link/a.parquet")):
            assert slow.is_slow(path), (named, path)
            assert not slow.is_slow(tmp_path / "other" / path.name)
        warned = [record.getMessage() for record in caplog.records]
        assert len(warned) == named.count("~")
        assert all("~no-such-user, and there is no such" in each for each in warned)
    slow._folders.cache_clear()


def test_a_file_of_a_slow_folder_is_read_as_it_was_opened_and_closed_when_its_copy_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CROSSFORGE_SLOW_FOLDERS", str(tmp_path))
    monkeypatch.setattr(bucket_cache, "fits", lambda size: size == 4)  # others get no copy
    bucket_cache._asked.clear()
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"before")
    second.write_bytes(b"copy")
    at = first.stat()
    opened, copied = storage.opened(first, at), storage.opened(second, second.stat())
    new = tmp_path / "new"
    new.write_bytes(b"after!")  # of the same size
    os.utime(new, (1, 1))
    new.replace(first)
    assert opened.pread(6, 0) == b"before"
    with pytest.raises(FileNotFoundError, match="first was written anew"):
        storage.opened(first, at)

    def is_open() -> bool:
        links = (path for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return str(second.resolve()) in {os.path.realpath(path) for path in links}

    assert is_open()
    assert copied.pread(4, 0) == b"copy"
    deadline = time.monotonic() + 30
    while is_open() and time.monotonic() < deadline:
        time.sleep(0.01)
        assert copied.pread(4, 0) == b"copy"
    assert not is_open()
    bucket_cache._asked.clear()


def test_faces_are_read_while_their_files_are_copied_one_after_the_other(folder, monkeypatch):
    go, at_work, most = threading.Event(), [], []
    download = BucketPath.download

    def slow(self: BucketPath, *args, **kwargs) -> None:
        if self.suffix == ".parquet":
            at_work.append(self)
            most.append(len(at_work))
            assert go.wait(30)
            at_work.remove(self)
        download(self, *args, **kwargs)

    monkeypatch.setattr(BucketPath, "download", slow)
    faces = Faces(folder.remote)
    for _ in range(2):
        assert pictures(faces) == folder.pictures
    assert not list(bucket_cache.folder().glob("[!.]*.parquet"))
    go.set()
    wait_for_copies()
    assert most == [1] * len(NAMES)
    assert len(list(bucket_cache.folder().glob("[!.]*.parquet"))) == len(NAMES)
    monkeypatch.setattr(BucketPath, "read_range", None)
    assert pictures(faces) == folder.pictures


def test_a_file_that_does_not_fit_on_the_disk_is_read_from_the_bucket(folder, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(bucket_cache, "fits", lambda size: asked.append(size) or False)
    faces = Faces(folder.remote)
    for _ in range(3):
        assert pictures(faces) == folder.pictures
    bucket_cache.get_later("last", "1", 1, lambda file: None)
    while 1 not in asked:
        time.sleep(0.01)
    assert len(asked) == len(NAMES) + 1
    assert not list(bucket_cache.folder().glob("*.parquet"))


def test_a_file_that_is_written_anew_under_its_name_is_not_taken_for_the_one_before(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_cache, "fits", lambda size: False)
    faces = Faces(folder.remote)
    assert pictures(faces) == folder.pictures
    write_faces(tmp_path / "anew")
    storage.copy_tree(tmp_path / "anew", folder.remote, "_done.json")
    with pytest.raises(FileNotFoundError, match="replaced while it was read"):
        pictures(faces)
    assert pictures(Faces(folder.remote)) == pictures(Faces(tmp_path / "anew")) != folder.pictures
