"""A bucket whose server is away for long: what is waited for, and what holds meanwhile."""

import os
import threading
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from obstore import exceptions

from pipelines.common import bucket, bucket_client, storage
from pipelines.common.bucket_client import StorageError
from pipelines.media import fetch


@pytest.mark.parametrize("away_s", [60, 280, 400])
def test_each_request_is_made_again_for_five_minutes(away_s, monkeypatch, caplog):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(bucket, "time", clock)
    monkeypatch.setattr(bucket_client, "store", lambda *_: None)
    asked_s: list[float] = []

    def request(_: Any) -> str:
        asked_s.append(clock.now)
        clock.now += 0.5  # until it fails
        if clock.now < away_s:
            raise exceptions.GenericError("503 Service Unavailable")
        return "answer"

    path = storage.path_of("s3://my-bucket/a")
    if away_s < bucket.PATIENCE_S:
        assert path._ask("write", request) == "answer"
        assert clock.now < away_s + 12
    else:
        with pytest.raises(StorageError, match=r"can't be written for (29[0-9]|300) s: 503"):
            path._ask("write", request)
    waits = [later - earlier for earlier, later in pairwise(asked_s)]
    assert max(waits) <= 10.5
    assert len(asked_s) < 80
    assert [record.message for record in caplog.records if "trying for" in record.message][1:] == []


@pytest.mark.nightly
def test_a_minute_without_the_server_costs_a_minute(in_bucket):
    """While a lock is held and waited for, files are written, read and listed, and a video of a dataset is fetched."""
    place, done = in_bucket.path, list[str]()
    storage.write_bytes(place / "data/v.mp4", os.urandom(100_000))

    def hold() -> None:
        with storage.locked(place / "lock") as mine:
            for number, pause_s in enumerate((20, 15)):
                storage.put_folder(place / "stage", "best", number, {"w": bytes([number])})
                time.sleep(pause_s)
            mine.check()
            done.append("held")

    def wait() -> None:
        time.sleep(2)
        with storage.locked(place / "lock"):
            done.append("waited")

    def read() -> None:
        time.sleep(6)
        assert (place / "data/v.mp4").local().read_bytes() == in_bucket.server.get((place / "data/v.mp4").key)
        done.append("read")

    def fetched() -> None:
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of other servers
        time.sleep(6)
        with fetch.local(str(place / "data/v.mp4")) as copy:
            assert copy.stat().st_size == 100_000
        done.append("fetched")

    def listed() -> None:
        time.sleep(6)
        assert [path.name for path in (place / "data").iterdir()] == ["v.mp4"]
        done.append("listed")

    threads = [threading.Thread(target=work) for work in (hold, wait, read, fetched, listed)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    in_bucket.server.stop()
    time.sleep(60)
    assert done == []
    in_bucket.server.start()
    for thread in threads:
        thread.join()
    assert sorted(done[:3]) == ["fetched", "listed", "read"]
    assert done[3:] == ["held", "waited"]
    assert [(path / "w").read_bytes() for path in storage.folders(place / "stage", "best")] == [b"\0", b"\1"]
