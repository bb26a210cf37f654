"""A root on any storage: listed once, read by name in any case, and clear when it cannot be."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError, Root

LIST = "List_of_testing_videos.txt"
FILES = {
    LIST: b"1 Celeb-real/id0_0001.mp4\n",
    "celeb-real/videos/id0_0001.mp4": b"one",
    "celeb-real/videos/id0_0002.MP4": b"two!",
    "celeb-real/videos/notes.txt": b"",
    "Celeb-synthesis/id0_id1_0001.mp4": b"three",
}
BUCKET = "faces"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def local(tmp_path):
    for path, data in FILES.items():
        (tmp_path / "cdf" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cdf" / path).write_bytes(data)
    return str(tmp_path / "cdf")


@pytest.fixture
def web(local):
    """A web server that lists folders, and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(Path(local).parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/cdf"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for path, data in FILES.items():
        system.pipe_file(f"/cdf/{path}", data)
    yield "memory://cdf"
    system.rm("/cdf", recursive=True)


@pytest.fixture(scope="module")
def server():
    """The address of a server that speaks S3."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    for name, value in {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir(BUCKET)
    system.pipe_file(f"{BUCKET}/cdf/", b"")  # a console leaves such objects where a folder was made
    for path, data in FILES.items():
        system.pipe_file(f"{BUCKET}/cdf/{path}", data)
    yield f"s3://{BUCKET}/cdf"
    system.rm(BUCKET, recursive=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


STORAGES = ("local", "web", "memory", "s3")


@pytest.fixture(params=STORAGES)
def uri(request):
    return request.getfixturevalue(request.param)


def test_a_dataset_is_the_same_on_every_storage(uri):
    rows = {row["video_id"]: row for row in datasets.load("celeb_df", {"celeb_df": uri}).to_pylist()}
    assert {key: (row["uri"], row["split"], row["real_uri"]) for key, row in rows.items()} == {
        "celeb_df/Celeb-real/id0_0001": ("celeb-real/videos/id0_0001.mp4", "test", None),
        "celeb_df/Celeb-real/id0_0002": ("celeb-real/videos/id0_0002.MP4", "train", None),
        "celeb_df/Celeb-synthesis/id0_id1_0001": (
            "Celeb-synthesis/id0_id1_0001.mp4",
            "train",
            "celeb-real/videos/id0_0001.mp4",
        ),
    }


def test_files_can_be_read_where_the_rows_say(uri):
    root = Root("celeb_df", uri, "")
    with root.open("celeb-real/videos/id0_0002.MP4") as file:
        assert file.read() == b"two!"
    assert root.text(LIST.upper()) == "1 Celeb-real/id0_0001.mp4\n"
    assert root.entries() == {"Celeb-synthesis": True, LIST: False, "celeb-real": True}
    assert root.find("CELEB-REAL", "videos/ID0_0001.mp4") == "celeb-real/videos/id0_0001.mp4"
    assert root.find("celeb-real", "nowhere", "x") is None


def test_a_file_that_is_not_there_is_named(uri):
    with pytest.raises(DatasetError, match=r"celeb_df: .*/cdf/nowhere\.mp4 does not exist"):
        Root("celeb_df", uri, "").open("nowhere.mp4").read()


def test_a_root_that_is_not_there(uri):
    with pytest.raises(DatasetError, match=r"root of celeb_df: .*/cdf/gone does not exist.*\n +List_of_testing"):
        datasets.load("celeb_df", {"celeb_df": f"{uri}/gone"})


@pytest.mark.parametrize("storage", ["local", "memory", "s3"])  # a web server does not tell files from empty folders
def test_a_root_that_is_a_file(request, storage):
    with pytest.raises(DatasetError, match=rf"/cdf/{LIST} is a file"):
        datasets.load("celeb_df", {"celeb_df": f"{request.getfixturevalue(storage)}/{LIST}"})


def test_a_file_that_was_added_later_is_seen_by_the_next_root(memory):
    Root("celeb_df", memory, "").entries()
    fsspec.filesystem("memory").pipe_file("/cdf/new.txt", b"")
    assert "new.txt" in Root("celeb_df", memory, "").entries()


def test_a_folder_of_a_bucket_is_listed_again_by_the_next_root(s3):
    Root("celeb_df", s3, "").entries()
    other = type(fsspec.filesystem("s3"))(skip_instance_cache=True)  # as another machine would write
    other.pipe_file(f"{BUCKET}/cdf/new.txt", b"")
    assert "new.txt" in Root("celeb_df", s3, "").entries()


def test_a_bucket_that_refuses_says_where_credentials_come_from(s3):
    system = fsspec.filesystem("s3")
    with pytest.raises(DatasetError, match=r"root of celeb_df: s3://nobodys does not exist.*AWS_ACCESS_KEY_ID"):
        datasets.load("celeb_df", {"celeb_df": "s3://nobodys"})
    original = system._lsdir

    async def no(*args: object, **rest: object) -> None:
        raise PermissionError("Access Denied")

    system._lsdir = no
    try:
        with pytest.raises(DatasetError, match=r"s3://faces/cdf may not be read: Access Denied; .*AWS_ACCESS_KEY_ID"):
            datasets.load("celeb_df", {"celeb_df": s3})
    finally:
        system._lsdir = original


def test_without_credentials(server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "FSSPEC_S3_ANON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DatasetError, match=r"cannot be read: Unable to locate credentials; .*FSSPEC_S3_ANON=true"):
        datasets.load("celeb_df", {"celeb_df": "s3://faces/cdf"})
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_server_that_is_not_there():
    with pytest.raises(DatasetError, match=r"http://127\.0\.0\.1:9/cdf cannot be read: .*; the server must be reach"):
        datasets.load("celeb_df", {"celeb_df": "http://127.0.0.1:9/cdf"})


def test_a_storage_without_its_package_says_how_to_get_it(monkeypatch):
    def absent(*args: object, **rest: object) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(DatasetError, match=r"gs://b/cdf needs a package .*install gcsfs.*`uv sync --extra gcs`"):
        datasets.load("celeb_df", {"celeb_df": "gs://b/cdf"})


def test_a_storage_that_nobody_knows():
    with pytest.raises(DatasetError, match=r"nfs5://b/cdf cannot be read: Protocol not known: nfs5"):
        datasets.load("celeb_df", {"celeb_df": "nfs5://b/cdf"})


def test_names_on_a_web_server_may_hold_spaces(local, web):
    path = Path(local, "real train", "100% sure?.mp4")
    path.parent.mkdir()
    path.write_bytes(b"x")
    root = Root("x", web, "")
    assert root.videos("real train") == {"100% sure?": "real train/100% sure?.mp4"}
    with root.open("real train/100% sure?.mp4") as file:
        assert file.read() == b"x"


def test_pages_of_a_web_server_hold_other_links_too(local, web):
    """Links that sort the columns, up, out, and to the names in any of the ways in which servers write them."""
    links = ("?C=N;O=D", "../", "/", "http://elsewhere/x.mp4", "a%20b.mp4", "./c.mp4", f"{web}/page/d.mp4", "e/")
    Path(local, "page").mkdir()
    Path(local, "page", "index.html").write_text("".join(f'<a href="{link}">link</a>' for link in links))
    assert Root("x", web, "").entries("page") == {"a b.mp4": False, "c.mp4": False, "d.mp4": False, "e": True}


def test_each_folder_is_listed_once(local, monkeypatch):
    root, asked = Root("celeb_df", local, ""), []
    original = root._list_local
    monkeypatch.setattr(root, "_list_local", lambda folder: asked.append(folder) or original(folder))
    for _ in range(3):
        root.videos("Celeb-real")
        root.find("celeb-synthesis", "id0_id1_0001.mp4")
    assert sorted(asked) == ["", "Celeb-synthesis", "celeb-real", "celeb-real/videos"]


def test_the_state_of_a_file_changes_with_it(local):
    root, path = Root("celeb_df", local, ""), Path(local, LIST)
    before = root.state(LIST)
    assert root.state(LIST) == before
    path.write_bytes(path.read_bytes() + b"\n")
    assert root.state(LIST) != before


def test_what_macos_adds_to_archives_is_left_out_and_said(tree):
    """Also in a dataset of folders, where each would pass for a video."""
    litter = ("real_train/__MACOSX/0/._1.png", "__MACOSX/._real_train")
    root = tree("dfw", {}, "real_train/0/real/7/1.png", *litter)
    said: list[str] = []
    videos = datasets.load("wild_deepfake", {"wild_deepfake": str(root)}, say=said.append)
    assert videos["uri"].to_pylist() == ["real_train/0/real/7"]
    assert said == [f"wild_deepfake at {root}: left out __MACOSX, real_train/__MACOSX, which macOS adds to archives"]


def test_what_was_left_out_is_logged_where_nobody_asks(tree, caplog):
    root = tree("dfw", {}, "real_train/0/real/7/1.png", "__MACOSX/._real_train")
    datasets.load("wild_deepfake", {"wild_deepfake": str(root)})
    assert [record.getMessage() for record in caplog.records] == [
        f"wild_deepfake at {root}: left out __MACOSX, which macOS adds to archives"
    ]
