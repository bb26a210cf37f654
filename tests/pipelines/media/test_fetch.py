"""Remote videos: a copy that is whole and goes away, or a reason why not."""

import errno
import functools
import http.server
import io
import os
import sys
import tarfile
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import aiohttp
import fsspec
import numpy as np
import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError
from google.auth.exceptions import TransportError
from PIL import Image
from s3fs.errors import translate_boto_error

from pipelines.media import fetch
from pipelines.media.frames import UnreadableVideo
from tests.pipelines.media.taking import take


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch, tmp_path):
    """And temporary files where a test can look for them."""
    monkeypatch.setattr(fetch, "WAIT_S", 0)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(fetch.tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def left(tmp_path):
    return lambda: list((tmp_path / "temporary").iterdir())


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    for name in system.ls("/", detail=False):
        system.rm(name, recursive=True)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """`cut-N-name` is sent up to its N-th byte only, `busy-name` every second time."""
        name = self.path.rsplit("/", 1)[-1]
        if name.startswith("busy-"):
            self.server.asked += 1
            if self.server.asked % 2:
                self.send_error(503)
                return
        if name.startswith("cut-"):
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: int(name.split("-")[1])])
            return
        super().do_GET()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the URL under which a server gives it."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    server.asked = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def grays(count: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(count)]


def png(rgb: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    return data.getvalue()


def shades(path: Path) -> list[int]:
    return [round(frame.rgb.mean() / 20) for frame in take(path, 100).frames]


def archive(count: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for number, rgb in enumerate(grays(count)):
            member = tarfile.TarInfo(f"./7/real/0/{number}.png")
            content = png(rgb)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_path_stays_what_it_is(tmp_path, left, prefix):
    for path in (tmp_path / "v.mp4", tmp_path / "a.tar.gz/1/real/0"):
        with fetch.local(f"{prefix}{path}") as found:
            assert found == path
            assert left() == []


def test_a_remote_file_is_there_while_it_is_read(tmp_path, write_video, memory, left):
    memory.pipe("/set/v.MP4", write_video(tmp_path / "v.mp4", grays(6), bf="2").read_bytes())
    with fetch.local("memory://set/v.MP4") as path:
        assert path.suffix == ".mp4"
        assert shades(path) == list(range(6))
    assert left() == []


def test_a_remote_file_without_a_suffix(tmp_path, write_video, memory):
    memory.pipe("/set/v", write_video(tmp_path / "v.mp4", grays(3)).read_bytes())
    with fetch.local("memory://set/v") as path:
        assert shades(path) == [0, 1, 2]


@pytest.mark.parametrize("name", ["frames", "v1.0"])
def test_of_a_remote_folder_the_pictures_come(memory, left, name):
    for number, rgb in enumerate(grays(3)):
        memory.pipe(f"/set/{name}/{number}.png", png(rgb))
    memory.pipe(f"/set/{name}/notes.txt", b"no picture")
    memory.pipe(f"/set/{name}/deeper/9.png", png(grays(5)[4]))
    with fetch.local(f"memory://set/{name}") as path:
        assert sorted(file.name for file in path.iterdir()) == ["0.png", "1.png", "2.png"]
        assert shades(path) == [0, 1, 2]
    assert left() == []


def test_a_path_into_a_remote_archive_brings_the_archive(memory, left):
    memory.pipe("/set/7.tar.gz", archive(4))
    with fetch.local("memory://set/7.tar.gz/7/real/0") as path:
        assert shades(path) == [0, 1, 2, 3]
    assert left() == []


def test_http(tmp_path, served, write_video, left):
    folder, url = served
    write_video(folder / "v.mp4", grays(5), bf="2")
    (folder / "7.tar.gz").write_bytes(archive(2))
    (folder / "000_003").mkdir()
    for number, rgb in enumerate(grays(3)):
        (folder / f"000_003/{number:04}.png").write_bytes(png(rgb))
    for uri, count in (("v.mp4", 5), ("v.mp4?version=2", 5), ("7.tar.gz/7/real/0", 2), ("000_003", 3)):
        with fetch.local(f"{url}/{uri}") as path:
            assert shades(path) == list(range(count))
    assert left() == []


def test_what_fails_for_a_moment_is_asked_for_again(served, write_video):
    folder, url = served
    write_video(folder / "busy-v.mp4", grays(2))
    with fetch.local(f"{url}/busy-v.mp4") as path:
        assert shades(path) == [0, 1]


def test_a_transfer_that_breaks_off_is_no_video(served, write_video, left):
    folder, url = served
    write_video(folder / "cut-700-v.mp4", grays(5))
    with (
        pytest.raises(UnreadableVideo, match=r"cut-700-v.mp4: cannot be downloaded: .*") as caught,
        fetch.local(f"{url}/cut-700-v.mp4"),
    ):
        pytest.fail("a part was given as the whole")
    assert "\n" not in str(caught.value)
    assert left() == []


def test_a_backend_that_hides_the_break_is_found_out(memory, monkeypatch, left):
    memory.pipe("/set/v.mp4", bytes(1000))
    monkeypatch.setattr(type(memory), "get_file", lambda self, source, target: Path(target).write_bytes(bytes(400)))
    with pytest.raises(UnreadableVideo, match="400 of 1000 bytes came"), fetch.local("memory://set/v.mp4"):
        pytest.fail("a part was given as the whole")
    assert left() == []


@pytest.mark.parametrize("name", ["v.mp4", "frames", "7.tar.gz/7/real/0"])
def test_what_is_not_there_is_named(memory, served, name):
    memory.pipe("/set/other.mp4", b"x")
    for base in ("memory://set", served[1]):
        with (
            pytest.raises(UnreadableVideo, match=f"^{base}/{name}: no such file$"),
            fetch.local(f"{base}/{name}"),
        ):
            pytest.fail("nothing was given as something")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_no_fault_of_the_video(memory, monkeypatch, number):
    memory.pipe("/set/v.mp4", bytes(10))

    def full(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(memory), "get_file", full)
    with pytest.raises(OSError, match=os.strerror(number)), fetch.local("memory://set/v.mp4"):
        pytest.fail("nothing was given as something")


def test_messages_name_the_uri_and_not_the_copy(memory, left):
    memory.pipe("/set/v.mp4", b"this is no video" * 10)
    with (
        pytest.raises(UnreadableVideo, match=r"^memory://set/v.mp4: not a video"),
        fetch.local("memory://set/v.mp4") as path,
    ):
        take(path, 3)
    assert left() == []


@pytest.fixture
def clock(monkeypatch):
    """The clock of the module, which moves by sleep alone; `asked` counts what `ask` was called for."""
    monkeypatch.setattr(fetch, "WAIT_S", 1.0)
    clock = SimpleNamespace(now=0.0, asked=0, monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(fetch, "time", clock)

    def ask(protocol: str | tuple[str, ...], error: Exception, away_s: float = 1e9) -> str:
        clock.now, clock.asked = 0.0, 0

        def transfer() -> str:
            clock.asked += 1
            if clock.now < away_s:
                raise error
            return "video"

        return fetch._retry(SimpleNamespace(protocol=protocol), transfer)

    clock.ask = ask
    return clock


@pytest.fixture
def google(monkeypatch) -> SimpleNamespace:
    """The errors of gcsfs, which the tests do without: by their names and bases."""

    class HttpError(Exception):
        def __init__(self, response: dict) -> None:
            super().__init__(f"{response['message']}, {response['code']}")
            self.code = response["code"]

    class ChecksumError(Exception):
        pass

    retry = ModuleType("gcsfs.retry")
    retry.HttpError, retry.ChecksumError = HttpError, ChecksumError
    monkeypatch.setitem(sys.modules, "gcsfs", ModuleType("gcsfs"))
    monkeypatch.setitem(sys.modules, "gcsfs.retry", retry)
    return SimpleNamespace(refused=lambda code: HttpError({"message": "no", "code": code}), checksum=ChecksumError("x"))


def answered(status: int, code: str) -> OSError:
    """Return what s3fs raises for an answer of a server."""
    told = {"Error": {"Code": code, "Message": "told"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(told, "GetObject"))


def test_a_bucket_that_is_away_or_busy_is_waited_for(clock, google):
    """In buckets alone: of a list of addresses in the web, many may be dead."""
    s3, gs = ("s3", "s3a"), ("gs", "gcs")
    for protocol, error in (
        ("s3", EndpointConnectionError(endpoint_url="here")),
        (s3, answered(503, "SlowDown")),
        (s3, OSError(errno.EBUSY, "SlowDown")),  # without what it came from, as from `info`
        (s3, answered(500, "InternalError")),
        (s3, answered(502, "502")),
        (s3, answered(429, "TooManyRequests")),
        (s3, answered(400, "RequestTimeout")),
        (s3, ConnectionResetError()),
        *((gs, google.refused(code)) for code in (500, 503, "503", 429, 408)),
        (gs, TransportError("no answer")),
        (gs, requests.exceptions.ProxyError()),
        (gs, aiohttp.ServerDisconnectedError()),
    ):
        assert clock.ask(protocol, error, away_s=60) == "video", error
        assert 60 <= clock.now <= 70, error
        with pytest.raises((OSError, aiohttp.ClientError)):
            clock.ask(protocol, error)
        assert 285 <= clock.now <= 300, error
        assert clock.asked < 50
        with pytest.raises(type(error)):
            clock.ask("https", error)
        assert clock.asked <= fetch.ATTEMPTS


def test_a_refusal_of_a_bucket_is_not_waited_for(clock, google):
    once, few = 1, fetch.ATTEMPTS
    for protocol, error, times in (
        ("s3", answered(400, "InvalidRequest"), few),
        ("s3", EOFError("4 of 10 bytes came"), few),
        ("gs", OSError("Forbidden: b/v.mp4"), few),
        ("gs", google.checksum, few),
        ("gs", google.refused(400), once),
        ("gs", google.refused(401), once),
        ("s3", OSError(errno.ENOSPC, "No space left on device"), once),
        ("s3", OSError(errno.EDQUOT, "Disk quota exceeded"), once),
        ("gs", OSError(errno.EROFS, "Read-only file system"), once),
        ("s3", PermissionError(), once),
    ):
        with pytest.raises((OSError, EOFError)):
            clock.ask(protocol, error)
        assert clock.asked == times, error


def test_without_the_extra_for_google_its_errors_are_not_looked_for(clock, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs.retry", None)
    assert clock.ask("gs", ConnectionResetError(), away_s=60) == "video"
