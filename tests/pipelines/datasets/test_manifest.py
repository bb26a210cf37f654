"""One's own videos: what is left out has a default, what cannot be meant is an error with file and line."""

import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import datasets
from pipelines.common import tables
from pipelines.datasets import DatasetError
from pipelines.faces.files import locate

FULL = """\
path,label,split,method,codec,person,mask,real,face_rule,camera
real/a.mp4,real,train,,c23,ann; bob,,,,Canon
fake/b.MOV, FAKE ,val,faceswap,RAW,cid,masks/b.mp4,real/a.mp4,mask,
fake/c.mp4,1,train,,,,,real/a.mp4,,
"frames/clip.07, take 2",0,,,,,,,whole,
clips.tar.gz/clips/7,fake,,,,,,,,
"""


def load(tmp_path, text, name="list.csv"):
    (tmp_path / name).write_text(text)
    return {row["video_id"]: row for row in datasets.load("ours", {"ours": str(tmp_path / name)}).to_pylist()}


def test_all_columns_and_their_defaults(tmp_path):
    rows = load(tmp_path, FULL)
    columns = ("label", "split", "method", "codec", "source_ids", "mask_uri", "real_id", "real_uri", "face_rule")
    assert {(key, row["uri"]): tuple(row[column] for column in columns) for key, row in rows.items()} == {
        ("ours/real/a", "real/a.mp4"):
            (0, "train", "real", "c23", ["ours/ann", "ours/bob"], None, None, None, "largest"),
        ("ours/fake/b", "fake/b.MOV"):
            (1, "val", "faceswap", "raw", ["ours/cid"], "masks/b.mp4", "ours/real/a", "real/a.mp4", "mask"),
        ("ours/fake/c", "fake/c.mp4"):  # made from real/a, and so from the same people
            (1, "train", "ours", "unknown", ["ours/ann", "ours/bob"], None, "ours/real/a", "real/a.mp4", "largest"),
        ("ours/frames/clip.07, take 2", "frames/clip.07, take 2"):
            (0, "test", "real", "unknown", ["ours/frames/clip.07, take 2"], None, None, None, "whole"),
        ("ours/clips.tar.gz/clips/7", "clips.tar.gz/clips/7"):
            (1, "test", "ours", "unknown", ["ours/clips.tar.gz/clips/7"], None, None, None, "largest"),
    }  # fmt: skip
    assert {(row["dataset"], row["root"]) for row in rows.values()} == {("ours", "ours")}


def test_it_is_a_table_of_videos(tmp_path):
    (tmp_path / "list.csv").write_text(FULL)
    table = datasets.load("ours", {"ours": str(tmp_path / "list.csv")})
    assert table.schema.equals(tables.VIDEOS, check_metadata=True)
    assert table["video_id"].to_pylist() == sorted(table["video_id"].to_pylist())


def test_parquet_says_the_same(tmp_path):
    table = pa.table({"path": ["a.mp4", "b.mp4"], "label": [0, 1], "real": [None, "a.mp4"], "person": ["ann", None]})
    pq.write_table(table, tmp_path / "list.parquet")
    rows = datasets.load("ours", {"ours": str(tmp_path / "list.parquet")}).to_pylist()
    assert [(row["label"], row["real_id"], row["source_ids"]) for row in rows] == [
        (0, None, ["ours/ann"]),
        (1, "ours/a", ["ours/ann"]),
    ]


def test_it_may_lie_anywhere(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe_file("/box/list.csv", b"\xef\xbb\xbfpath,label\r\na.mp4,real\r\n")  # as Excel writes it
    root = "memory://box/list.csv"
    (row,) = datasets.load("ours", {"ours": root}).to_pylist()
    assert f"{datasets.folder_of(root)}/{row['uri']}" == "memory://box/a.mp4"
    system.rm("/box", recursive=True)


def test_a_list_on_this_machine_may_name_whole_paths(tmp_path):
    text = "path,label,real,mask\n//data/x/a.mp4,real,,\n/data/y/b.mp4,fake,/data/x/a.mp4,/masks/b.mp4\nc.mp4,real,,\n"
    rows = load(tmp_path, text)
    assert list(rows) == ["ours/c", "ours/data/x/a", "ours/data/y/b"]
    fake = rows["ours/data/y/b"]
    assert (fake["real_id"], fake["real_uri"]) == ("ours/data/x/a", "/data/x/a.mp4")
    roots = {"ours": str(tmp_path / "list.csv")}
    places = [locate(roots, "ours", uri) for uri in (fake["uri"], fake["mask_uri"], rows["ours/c"]["uri"])]
    assert places == ["/data/y/b.mp4", "/masks/b.mp4", str(tmp_path / "c.mp4")]


def test_a_list_elsewhere_names_nothing_on_this_machine(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe_file("/box/list.csv", b"path,label\n/etc/passwd,real\n")
    roots = {"ours": "memory://box/list.csv"}
    with pytest.raises(DatasetError, match="path must be a path below the folder of this file"):
        datasets.load("ours", roots)
    assert locate(roots, "ours", "/etc/passwd") == "memory://box/etc/passwd"
    system.rm("/box", recursive=True)


def test_a_videos_own_name_is_not_that_of_an_adapter(tmp_path):
    (tmp_path / "list.csv").write_text(FULL)
    with pytest.raises(DatasetError, match=r"ffpp is a known dataset, .*list\.csv is a list: give it another name"):
        datasets.load("ffpp", {"ffpp": str(tmp_path / "list.csv")})


def test_the_example_of_the_documentation(tmp_path):
    text = (Path(datasets.__file__).parents[2] / "docs" / "adding.md").read_text(encoding="utf-8")
    rows = load(tmp_path, text.partition("```csv\n")[2].partition("```")[0])
    assert rows["ours/fake/0001"]["source_ids"] == ["ours/ann", "ours/bob"]
    assert rows["ours/fake/0001"]["real_id"] == "ours/real/0001"


HEAD = "path,label,split,method,codec,person,mask,real,face_rule\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4,true", "label must be one of real, 0, fake, 1; got 'true'"),
        ("a.mp4,", "label must be one of .*; got ''"),
        ("a.mp4,real,dev", "split must be one of train, val, test; got 'dev'"),
        ("a.mp4,real,,,c32", "codec must be one of raw, c23, c40, unknown; got 'c32'"),
        ("a.mp4,real,,,,,,,biggest", "face_rule must be one of largest, mask, all, whole; got 'biggest'"),
        ("a.mp4,real,,swap", "method of a real video is 'swap'"),
        ("a.mp4,fake,,real", "method of a fake video is 'real'"),
        (",real", "path must be a path below the folder of this file.*got ''"),
        ("/../a.mp4,real", "path must be a path below .*got '/../a.mp4'"),
        ("/,real", "path must be a path below"),
        ("../a.mp4,real", "path must be a path below"),
        ("b/../../a.mp4,real", "path must be a path below"),
        ("s3://b/a.mp4,real", "path must be a path below .*a list of files in a bucket must lie in that bucket"),
        ("C:\\a.mp4,real", "path must be a path below"),
        (".,real", "path must be a path below"),
        ("a.mp4,fake,,,,,../m.mp4", "mask must be a path below"),
        ("a.mp4,real,,,,,m.mp4", "a real video has no 'mask'"),
        ("a.mp4,real,,,,,,ok.mp4", "a real video has no 'real'"),
        ("a.mp4,fake,,,,,,b.mp4", "real must be the path of a real video of this file, got 'b.mp4'; there is no such"),
        ("a.mp4,fake,,,,,,a.mp4", ".*got 'a.mp4'; that one is a fake"),
        ("./ok.mp4,fake", "ok.mp4 is listed twice"),
        ("ok.avi,real", "ok.avi and ok.mp4 differ in their suffix only"),
        ("/ok.mp4,real", "/ok.mp4 and ok.mp4 differ in their first / only"),
        ('a.mp4,real,,,,,,,,"ann, bob",x', "has more fields than the first line"),
    ],
)
def test_what_cannot_be_meant_is_an_error(tmp_path, line, message):
    where = re.escape(str(tmp_path / "list.csv"))
    with pytest.raises(DatasetError, match=f"{where}, line 3:? {message}"):
        load(tmp_path, f"{HEAD}ok.mp4,real\n{line}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no videos"),
        ("path,label\n", "lists no videos"),
        ("path;label\na.mp4;real\n", r"must have the columns.*lacks \['path', 'label'\], found \['path;label'\]"),
        ("Path,Label\na.mp4,real\n", r"found \['Path', 'Label'\]: in small letters"),
        ('path,label\n"a.mp4,real\n', "is not CSV after line 1: unexpected end"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path, text, message):
    with pytest.raises(DatasetError, match=rf"list\.csv.*{message}"):
        load(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DatasetError, match=r"ours: .*gone\.csv does not exist"):
        datasets.load("ours", {"ours": str(tmp_path / "gone.csv")})
    (tmp_path / "list.parquet").write_text("path,label")
    with pytest.raises(DatasetError, match=r"list\.parquet is not a Parquet file"):
        datasets.load("ours", {"ours": str(tmp_path / "list.parquet")})
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff.mp4,real\n")
    with pytest.raises(DatasetError, match=r"list\.csv is not UTF-8 text"):
        datasets.load("ours", {"ours": str(tmp_path / "list.csv")})
