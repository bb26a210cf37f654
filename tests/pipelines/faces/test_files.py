"""What a video's faces were cut from: what is another file since then, and what is only gone."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipelines.common import tables
from pipelines.faces import files

SCHEMA = pa.schema([tables.VIDEOS.field(name) for name in files.NEEDED])


def video(**changes) -> dict:
    """Return the columns of VIDEOS that count of toy/fake.mp4, which has a mask and a real counterpart."""
    return {
        "video_id": "toy/fake",
        "root": "toy",
        "label": 1,
        "method": "swap",
        "codec": "raw",
        "split": "test",
        "face_rule": "largest",
        "uri": "fake.mp4",
        "mask_uri": "mask.mp4",
        "real_uri": "real.mp4",
    } | changes


NAMES = ("fake.mp4", "mask.mp4", "real.mp4")


def write(root: str, name: str, data: bytes, time_s: int = 1_000_000_000) -> None:
    """Write a file of the dataset with a time of its own."""
    with fsspec.open(f"{root}/{name}", "wb") as file:
        file.write(data)
    if "://" not in root:
        os.utime(Path(root) / name, (time_s, time_s))


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> Iterator[str]:
    """Return a folder or URI that holds the three files."""
    place = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    for name in NAMES:
        write(place, name, b"12345")
    yield place
    fsspec.filesystem("memory").store.clear()


def sources(rows: list[dict], root: str) -> list[dict]:
    return files.sources(pa.Table.from_pylist(rows, schema=SCHEMA), {"toy": root}).to_pylist()


def source(root: str, **changes) -> dict:
    return sources([video(**changes)], root)[0]


def test_nothing_has_changed_when_nothing_has(root):
    before = source(root)
    assert None not in before.values()
    assert not files.differs(source(root), before)


@pytest.mark.parametrize("name", NAMES)
def test_without_times_a_file_of_another_size_is_another(root, name):
    before = source(root)
    write(root, name, b"54321", time_s=1_000_000_001)
    assert not files.differs(source(root), before, times=False)
    write(root, name, b"1234", time_s=1_000_000_001)
    assert files.differs(source(root), before, times=False)


def test_without_times_an_object_of_the_same_size_and_no_folder_is_the_same():
    now = dict.fromkeys((*files.TOLD, *files.FILES, *files.FILES.values())) | {
        "uri": "a",
        "state": "10 2026-01-02 00:00",
    }
    assert not files.differs(now, now | {"state": "10 2026-01-01 00:00"}, times=False)
    assert files.differs(now, now | {"state": "11 2026-01-02 00:00"}, times=False)
    assert files.differs(now | {"state": "7"}, now | {"state": "8"}, times=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_size_or_time_is_another(root, name):
    before = source(root)
    write(root, name, b"1234567")
    assert files.differs(source(root), before)
    before = source(root)
    write(root, name, b"7654321", time_s=1_000_000_005)  # replaced by one of the same size
    assert files.differs(source(root), before)


@pytest.mark.parametrize("column", ["mask_uri", "real_uri"])
def test_a_counterpart_that_comes_later_is_a_change_and_one_that_goes_is_none(root, column):
    """Masks come from these files: where there were none there may be some now. Those that were taken stay right."""
    with_it, without_it = source(root), source(root, **{column: None})
    assert files.differs(with_it, without_it)
    assert not files.differs(without_it, with_it)
    fsspec.open(f"{root}/{video()[column]}").fs.rm(fsspec.url_to_fs(f"{root}/{video()[column]}")[1])
    assert not files.differs(source(root), with_it)
    assert not files.differs(source(root), without_it)  # promised, but not there


def test_a_video_that_is_gone_is_not_read_again_and_one_that_comes_is(root):
    there, missing = source(root), source(root, uri="later.mp4")
    assert (missing["state"], files.differs(missing, there)) == (files.GONE, False)
    write(root, "later.mp4", b"1")
    assert files.differs(source(root, uri="later.mp4"), missing)
    assert files.differs(source(root, uri="later.mp4"), there)  # another file


@pytest.mark.parametrize(
    "told", [{"label": 0}, {"method": "other"}, {"codec": "c40"}, {"split": "val"}, {"face_rule": "all"}]
)
def test_a_video_that_is_described_otherwise_is_read_again(root, told):
    assert files.differs(source(root, **told), source(root))


def test_what_was_not_recorded_is_not_known_to_differ(root):
    """Records of before hold what FACES copies of VIDEOS, and no files."""
    copied = {"dataset": "toy", "video_id": "toy/fake", "label": 1, "method": "swap", "codec": "raw", "split": "test"}
    assert not files.differs(source(root), copied)
    assert files.differs(source(root), copied | {"split": "val"})


def test_what_a_web_server_holds_is_not_known():
    states = source("http://127.0.0.1:9/data")
    assert [states[name] for name in files.FILES.values()] == [None] * 3
    assert not files.differs(states, source("http://127.0.0.1:9/data"))
    assert files.differs(source("http://127.0.0.1:9/data", uri="other.mp4"), states)


def test_pictures_in_a_folder_or_an_archive_have_a_state_too(tmp_path):
    write(str(tmp_path), "clips.tar.gz", b"packed")
    (tmp_path / "frames").mkdir()
    os.utime(tmp_path / "frames", (5, 5))
    rows = [video(video_id=f"toy/{uri}", uri=uri) for uri in ("clips.tar.gz/clips/7", "clips.tar.gz/clips/8", "frames")]
    states = [row["state"] for row in sources(rows, str(tmp_path))]
    assert states == ["6 1000000000", "6 1000000000", "5"]


def test_a_root_that_nobody_named_is_refused():
    with pytest.raises(ValueError, match="root 'toy' is not known; roots are other"):
        files.sources(pa.Table.from_pylist([video()], schema=SCHEMA), {"other": "/data"})
