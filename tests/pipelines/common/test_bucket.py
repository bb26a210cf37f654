"""A bucket in place of a folder: paths, what a server does wrong, copies on the disk, locks."""

import io
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore import exceptions

from pipelines.common import bucket, bucket_cache, bucket_client, lease, progress, storage
from pipelines.common.bucket import BucketPath
from pipelines.common.bucket_client import StorageError
from pipelines.training import stages

ROOT = Path(__file__).parents[3]


@pytest.fixture
def place(in_bucket) -> BucketPath:
    return in_bucket.path


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(bucket, "PATIENCE_S", 1.0)
    monkeypatch.setattr(bucket, "_WAIT_S", (0.05, 0.2))


def first(times: int, fault: str, method: str = "") -> Callable[[str, str], str]:
    """The first requests of a method, or of all, go wrong."""
    left = [times]

    def faulty(of: str, path: str) -> str:
        if (method and of != method) or not left[0]:
            return ""
        left[0] -= 1
        return fault

    return faulty


def in_process(code: str, *args: Any) -> subprocess.Popen[str]:
    imports = "import os, sys, time\nfrom pipelines.common import bucket, lease, storage\n"
    command = [sys.executable, "-c", f"{imports}place = storage.path_of(sys.argv[1])\n{code}", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


# ------------------------------------------------------------------------------------------------------ paths
def test_names_are_those_of_a_path():
    path = storage.path_of("s3://my-bucket/a b/run.d")
    assert str(path) == f"{path}" == "s3://my-bucket/a b/run.d"
    assert str(path / "x" / "y.tar.gz") == "s3://my-bucket/a b/run.d/x/y.tar.gz"
    assert (path.name, path.stem, path.suffix, path.key) == ("run.d", "run", ".d", "a b/run.d")
    assert str(path.parent.parent) == "s3://my-bucket" == str(path.parents[1])
    assert str((path / "x/y").relative_to(path)) == "x/y"
    assert str(path.with_name("other")) == "s3://my-bucket/a b/other"
    assert path == storage.path_of(str(path)) == pickle.loads(pickle.dumps(path))
    assert {path: 1}[storage.path_of(str(path))] == 1
    assert path != Path("my-bucket/a b/run.d")
    assert path.resolve() is path.absolute() is path.expanduser() is path
    assert sorted([path / "b", path / "a"]) == [path / "a", path / "b"]


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///a", "s3://UPPER/a", "s3://my-bucket/../a", "s3://my-bucket/a//b", "s3://my-bucket/a\x1b"]
)
def test_what_a_person_names_is_checked_before_it_becomes_a_path(uri):
    with pytest.raises(StorageError) as error:
        storage.path_of(uri)
    assert "\x1b" not in str(error.value)


PURE = (
    "anchor as_posix drive is_absolute is_relative_to is_reserved joinpath match name parent parents parts parser root "
    "relative_to stem suffix suffixes with_name with_stem with_suffix full_match cwd home from_uri info"
)


def test_no_method_of_a_path_asks_the_disk_about_what_is_in_a_bucket():
    asks = {name for kind in pathlib.Path.__mro__ for name in vars(kind) if not name.startswith("_")} - set(
        PURE.split()
    )
    assert {name for name in asks if getattr(BucketPath, name) is getattr(Path, name)} == set()


def test_a_write_past_the_storage_is_refused(place):
    for write in (place.touch, lambda: place.write_text("a"), lambda: place.open("w"), lambda: place.rename(place)):
        with pytest.raises(io.UnsupportedOperation, match="written through"):
            write()


# ---------------------------------------------------------------------------------------------------- listings
def test_what_is_there_is_found_as_in_a_folder(place, tmp_path):
    names = ("faces/a/1/_done.json", "faces/a/2/part", "faces/b/1/_done.json", "faces/b/.x.1.tmp", "faces/b/q[1]")
    for folder in (place, tmp_path / "local"):
        for name in names:
            storage.write_bytes(folder / name, b"1")
    for pattern in ("faces/*/*/_done.json", "*", "faces/*", "faces/b/.*.tmp", "faces/b/[!.]*", "faces/?/1", "no/*"):
        here, there = (
            sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))
            for folder in (tmp_path / "local", place)
        )
        assert here == there, pattern
    assert sorted(path.name for path in (place / "faces").iterdir()) == ["a", "b"]
    assert (place / "faces/a").is_dir()
    assert (place / "faces/a").exists()
    assert not (place / "faces/a").is_file()
    assert not (place / "face").exists()  # though keys begin so
    assert (place / "faces/b/q[1]").is_file()
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == sorted(names)
    for missing in (lambda: list((place / "no").iterdir()), (place / "faces").stat, (place / "no").read_bytes):
        with pytest.raises(FileNotFoundError, match=place.bucket):
            missing()
    storage.remove_folder(place / "faces/a")
    assert [path.name for path in place.glob("faces/*")] == ["b"]


@pytest.mark.nightly
def test_more_objects_than_one_request_lists_or_deletes(place, in_bucket):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: (place / f"{number:04d}").put(b""), range(1003)))
    assert len(list(place.iterdir())) == len(list(place.objects())) == 1003
    storage.remove_folder(place)
    assert not place.exists()


# -------------------------------------------------------------------------------------- what a server does wrong
@pytest.mark.parametrize("fault", ["busy", "lost", "slow", "cut"])
def test_one_that_fails_for_a_moment_is_asked_again(fault, place, in_bucket):
    for number, method in enumerate(("", "PUT", "GET", "HEAD", "POST", "DELETE")):
        path = place / f"{number}"
        in_bucket.server.fault = first(2, fault, method)
        storage.write_bytes(path, b"content")
        assert path.read_bytes() == b"content"
        assert path.is_file()
        assert place.exists()
        path.unlink()
        in_bucket.server.fault = lambda *_: ""
        assert not place.exists()


def test_a_conditional_write_of_which_the_answer_got_lost_is_known_as_ones_own(place, in_bucket):
    in_bucket.server.fault = first(1, "lost", "PUT")
    version = place.put_if(b"mine", None)
    assert version
    assert place.put_if(b"another's", None) is None
    in_bucket.server.fault = first(1, "lost", "PUT")
    newer = place.put_if(b"mine again", version)
    assert newer not in (None, version)
    assert place.put_if(b"another's", version) is None
    assert place.read() == (b"mine again", newer)


def test_one_that_is_away_for_long_is_given_up_with_what_to_do(place, in_bucket, impatient, caplog):
    in_bucket.server.fault = lambda *_: "busy"
    with pytest.raises(StorageError, match=f"{place} can't be written for [0-9]+ s: .*503.*AWS_ENDPOINT_URL"):
        storage.write_bytes(place, b"")
    with pytest.raises(StorageError) as error:
        place.read_bytes()
    assert "\n" not in str(error.value)
    assert any("trying for" in record.message for record in caplog.records)


def test_a_server_that_comes_back_is_waited_for(place, in_bucket):
    storage.write_bytes(place / "a", b"1")
    in_bucket.server.stop()
    threading.Timer(1.5, in_bucket.server.start).start()
    assert (place / "a").read_bytes() == b"1"


def test_an_error_says_what_is_wrong(place, in_bucket, monkeypatch):
    with pytest.raises(StorageError, match="there is no bucket no-such-bucket; make it"):
        storage.write_bytes(storage.path_of("s3://no-such-bucket/a"), b"")
    with pytest.raises(StorageError, match="there is no bucket"):
        storage.path_of("s3://no-such-bucket/a").read_bytes()
    bucket_client.store.cache_clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match=r"no credentials found; .*AWS_PROFILE"):
        place.exists()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    bucket_client.store.cache_clear()
    with pytest.raises(StorageError, match="nobody"):
        place.exists()


def test_without_credentials_for_google_the_error_says_where_they_are_looked_for(impatient, monkeypatch):
    """Without a file of them, the machine's service account is asked, on a server that no other machine has."""

    def ask(store: Any) -> None:
        raise exceptions.GenericError("Generic GCS error: Error performing token request: Error performing GET ...")

    monkeypatch.setattr(bucket, "_REFUSED_S", 0.2)
    monkeypatch.setattr(bucket_client, "store", lambda scheme, name: None)
    with pytest.raises(StorageError, match=r"^gs:// can't be used: no credentials found; .*gcloud auth"):
        storage.path_of("gs://my-bucket/a")._ask("read", ask)


def test_a_folder_of_a_process_that_is_killed_before_its_end_is_none(place):
    storage.put_folder(place, "best", 1, {"a": b"1"})
    code = """
put = bucket.BucketPath.put
bucket.BucketPath.put = lambda self, data: os.kill(os.getpid(), 9) if self.name == sys.argv[2] else put(self, data)
storage.put_folder(place, "best", 2, {"a": b"2", "b": b"2"})
"""
    for last in ("b", storage._WHOLE):
        assert in_process(code, place, last).wait() == -signal.SIGKILL
        assert [storage.number_of(path) for path in storage.folders(place, "best")] == [1]
    storage.put_folder(place, "best", 2, {"a": b"new"})
    assert (storage.folders(place, "best")[-1] / "a").read_bytes() == b"new"
    for number in (3, 4):
        storage.put_folder(place, "best", number, {"a": b""})
    assert len(list(place.iterdir())) == 2  # also the halves are gone
    storage.remove_folders(place, "best")
    assert not place.exists()


# -------------------------------------------------------------------------------------------- parts of a file
def test_of_a_table_no_more_is_fetched_than_asked_for(place, in_bucket):
    table = pa.table({"face": [os.urandom(100_000) for _ in range(40)]})
    with storage.writing(place / "t.parquet") as temporary:
        pq.write_table(table, temporary, row_group_size=1)
    before = len(in_bucket.server.requests)
    file = pq.ParquetFile(storage.ranged(place / "t.parquet"))
    assert file.read_row_group(7).equals(table.slice(7, 1))
    assert len(in_bucket.server.requests) - before <= 5
    assert not (bucket_cache.folder()).exists()
    ranged = storage.ranged(place / "t.parquet")
    storage.write_bytes(place / "t.parquet", os.urandom(5_000_000))
    with pytest.raises(FileNotFoundError, match="replaced while it was read"):
        ranged.read()


def test_to_look_how_a_training_stands_takes_a_request_for_each_file(place, in_bucket):
    stage = stages.PlannedStage(paper="plain", name="detect", folder=place, spec={}, needs=())
    assert (progress.noted(place), stage.curve()) == (None, [])
    progress.note(place, "detect", 1, 2)
    storage.write_text(place / "curves.jsonl", '{"epoch": 1}\n')
    in_bucket.server.requests.clear()
    assert progress.noted(place) == {"phase": "detect", "done": 1, "total": 2}
    assert stage.curve() == [{"epoch": 1}]
    assert [method for method, _ in in_bucket.server.requests] == ["GET", "GET"]
    assert progress.look_seconds(place) >= 10 > progress.look_seconds(Path("folder"))


# ------------------------------------------------------------------------------------------------------ copies
def test_what_is_read_again_is_copied_once_until_it_is_written_anew(place, in_bucket):
    for content in (b"first", b"second"):
        storage.write_bytes(place / "w.safetensors", content)
        copies = {storage.local(place / "w.safetensors") for _ in range(3)}
        assert [path.read_bytes() for path in copies] == [content]
        with open(place / "w.safetensors", "rb") as file, (place / "w.safetensors").open("rb") as same:
            assert file.read() == same.read() == content
    assert sum(method == "GET" and path.endswith("safetensors") for method, path in in_bucket.server.requests) == 2
    assert copies.pop().suffix == ".safetensors"
    assert storage.local(Path("own")) == Path("own")


def test_a_copy_that_came_in_parts_is_the_object(place, monkeypatch):
    content = os.urandom(5001)
    storage.write_bytes(place, content)
    monkeypatch.setattr(bucket, "CHUNK", 1000)
    assert place.local().read_bytes() == content


def fill(name: str, size: int) -> Path:
    return bucket_cache.get(name, "1", size, lambda file: file.write(bytes(size)))


@pytest.fixture
def small_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CROSSFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CROSSFORGE_CACHE_GB", "0.00001")  # 10,000 bytes
    monkeypatch.setattr(bucket_cache, "_IN_HAND", 2)
    return tmp_path / "cache"


def test_copies_take_no_more_than_they_may_and_the_one_not_used_for_longest_goes_first(small_cache):
    paths = []
    for number in range(8):
        paths.append(fill(f"{number}", 3000))
        fill("0", 3000)  # used all the time
        time.sleep(0.01)
        assert sum(path.stat().st_size for path in small_cache.iterdir()) <= 10_000
    assert [path.exists() for path in paths] == [True, *[False] * 5, True, True]
    assert fill("large", 30_000).stat().st_size == 30_000  # what is asked for is given all the same


def test_a_copy_that_another_process_has_in_hand_stays(small_cache):
    code = """
from pipelines.common import bucket_cache
path = bucket_cache.get("theirs", "1", 3000, lambda file: file.write(bytes(3000)))
print(path, flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    theirs = Path(other.stdout.readline().strip())
    for number in range(8):
        fill(f"{number}", 3000)
    assert theirs.exists()
    other.communicate("\n")
    for number in range(8, 12):
        fill(f"{number}", 3000)
    assert not theirs.exists()


def test_a_download_that_fails_leaves_nothing_and_one_of_a_killed_process_is_deleted(small_cache):
    def fails(file: Any) -> None:
        file.write(b"half")
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        bucket_cache.get("a", "1", 8, fails)
    with pytest.raises(OSError, match="4 of 8 bytes"):
        bucket_cache.get("a", "1", 8, lambda file: file.write(b"half"))
    assert list(small_cache.iterdir()) == []
    (small_cache / ".left.tmp").write_bytes(bytes(9000))
    fill("a", 3000)
    assert not (small_cache / ".left.tmp").exists()


FETCH = """
import sys, time
from pathlib import Path
from pipelines.common import bucket_cache
def download(file):
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    time.sleep(float(sys.argv[1]))
    file.write(b"half")
print("ready", flush=True)
sys.stdin.readline()
assert bucket_cache.get("theirs", "1", 8, download).read_bytes() == b"halfhalf"
"""


def fetching(seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, f"{seconds}"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_processes_that_want_a_copy_one_downloads_it_and_if_it_is_killed_another(small_cache):
    killed, processes = fetching(1000), [fetching(0.5) for _ in range(7)]
    killed.stdin.write("\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "begun\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    time.sleep(0.3)  # most wait by now
    killed.kill()
    killed.communicate()
    assert sorted(process.communicate()[0] for process in processes) == [*[""] * 6, "begun\n"]
    assert [process.returncode for process in processes] == [0] * 7
    assert len(list(small_cache.iterdir())) == 1


def test_of_threads_that_want_a_copy_one_downloads_it_and_if_it_fails_another(small_cache):
    begun: list[int] = []

    def download(file: Any) -> None:
        begun.append(1)
        time.sleep(0.1)
        if len(begun) == 1:
            raise OSError("away")
        file.write(b"whole")

    with ThreadPoolExecutor(8) as pool:
        got = [pool.submit(bucket_cache.get, "a", "1", 5, download) for _ in range(8)]
    assert len(begun) == 2
    assert sum(one.exception() is None and one.result().read_bytes() == b"whole" for one in got) == 7


def test_the_room_for_copies_is_known_before_there_are_any(small_cache, monkeypatch):
    monkeypatch.delenv("CROSSFORGE_CACHE_GB")
    monkeypatch.setenv("CROSSFORGE_CACHE", str(small_cache / "deeper"))
    assert 0 < bucket_cache.limit_bytes() < 2**63
    assert bucket_cache.fits(1)


def test_the_size_of_the_cache_is_checked(small_cache, monkeypatch):
    monkeypatch.setenv("CROSSFORGE_CACHE_GB", "much")
    with pytest.raises(ValueError, match="CROSSFORGE_CACHE_GB=much"):
        fill("a", 1)


# ------------------------------------------------------------------------------------------------------- locks
@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    monkeypatch.setattr(lease, "_LOOK_S", 0.1)


HOLD = """
with storage.locked(place):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def holder(place) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock."""
    other = in_process(HOLD, place)
    assert other.stdout.readline() == "held\n"
    yield other
    other.kill()


def test_only_one_has_a_lock_and_then_the_next(place, quick):
    held: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with storage.locked(place):
            held.append(number)
            most.append(len(held))
            time.sleep(0.05)
            held.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert json.loads(place.read_bytes())["free"]


def test_a_lock_is_kept_for_as_long_as_it_is_renewed(place, quick):
    with storage.locked(place):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="held by another process"), storage.locked(place, 3.0):
            pass
        assert time.monotonic() - began >= 3.0


def test_the_lock_of_a_process_of_this_machine_that_was_killed_is_free_at_once(place, holder):
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with storage.locked(place):
        assert time.monotonic() - began < lease.LEASE_S / 3


def test_the_lock_of_another_machine_that_was_lost_is_free_after_its_time(place, holder, quick, monkeypatch):
    monkeypatch.setattr(lease, "machine", lambda: "another")
    os.kill(holder.pid, signal.SIGSTOP)
    began = time.monotonic()
    with storage.locked(place) as taken:
        assert time.monotonic() - began >= 1.0
        time.sleep(0.5)
        assert taken.held


def test_who_has_lost_a_lock_learns_of_it_and_does_not_free_that_of_another(place, quick):
    with storage.locked(place) as mine:
        mine.claim.check()
        claim = pickle.loads(pickle.dumps(mine.claim))  # as a process gets it that works for this one
        claim.check()
        place.put(b'{"token": "another"}')
        with pytest.raises(lease.LeaseLost, match=r"another process has taken over$"):
            claim.check()  # before the next renewal notices
        deadline = time.monotonic() + 20
        while mine.held and time.monotonic() < deadline:
            time.sleep(0.05)
    assert place.read_bytes() == b'{"token": "another"}'


def test_a_lock_outlives_a_server_that_is_away_for_longer_than_its_time(place, in_bucket, quick, monkeypatch):
    monkeypatch.setattr(bucket, "_WAIT_S", (0.05, 0.2))

    def wait_in_vain() -> None:
        with pytest.raises(TimeoutError), storage.locked(place, 6.0):
            pass

    with storage.locked(place) as mine:
        waiter = threading.Thread(target=wait_in_vain)
        waiter.start()
        time.sleep(0.5)
        in_bucket.server.fault = lambda *_: "busy"
        time.sleep(3)
        in_bucket.server.fault = lambda *_: ""
        waiter.join()
        assert mine.held
        mine.claim.check()


def test_a_renewal_that_was_given_up_and_had_arrived_is_known_as_ones_own(place, quick):
    with storage.locked(place) as mine:
        place.put(mine._content())
        time.sleep(1.0)
        mine.claim.check()
        place.put(b"another's")


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_a_lock_is_taken_and_given_back_whatever_gets_lost(fault, place, in_bucket):
    for _ in range(3):
        in_bucket.server.fault = first(2, fault, "PUT")
        with storage.locked(place, 20.0) as mine:
            assert mine.held
            in_bucket.server.fault = first(1, fault)
