"""A bucket whose server is away for long, or who works in it: what is waited for, and what holds meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from obstore import exceptions

from pipelines.common import bucket, bucket_client, storage
from pipelines.common.bucket_client import StorageError
from pipelines.media import fetch

ROOT = Path(__file__).parents[3]


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
            mine.claim.check()
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


# --------------------------------------------------------------------------------- several that train one stage
# Trains stages on made-up faces: with the loop of every training, and without Ray.
TRAIN = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from pipelines.common import lease, storage
from pipelines.training import loop
from tests.pipelines.training import test_golden as golden

_, _, place, paper, stage, role = sys.argv
lease.LEASE_S, lease._LOOK_S = 2.0, 0.2
end_epoch = loop.end_epoch

def stops(job, learner, *rest):
    if role == "sleeps" and not learner.state.curve:
        print("within its first epoch", flush=True)
        sys.stdin.readline()
    end_epoch(job, learner, *rest)

loop.end_epoch = stops
with golden.made_up():
    golden.trained(golden.Case(paper=paper, stage=stage), storage.path_of(place))
"""


def training(place: Path, stage: str, role: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TRAIN, str(ROOT), str(place), *stage.split("."), role]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def left(place: Path) -> dict[str, bytes]:
    """What lies in the folders of stages, but for locks and notes of progress."""
    paths = [path for path in (place / "stages").rglob("*") if path.name not in (".lock", "progress.json")]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.nightly
@pytest.mark.slow
def test_who_sleeps_for_longer_than_its_lease_leaves_what_its_heir_made(in_bucket):
    sleeper = training(in_bucket.path, "plain.detect", "sleeps")
    assert sleeper.stdout.readline() == "within its first epoch\n"
    sleeper.send_signal(signal.SIGSTOP)
    heir = training(in_bucket.path, "plain.detect")
    assert heir.wait() == 0
    made = left(in_bucket.path)
    assert sorted(Path(name).name for name in made) == [
        "_done.json",
        "curves.jsonl",
        "spec.json",
        "weights.safetensors",
    ]
    in_bucket.server.written.clear()
    sleeper.send_signal(signal.SIGCONT)
    sleeper.communicate("\n")
    assert sleeper.returncode == 0  # it takes what the other has made
    assert left(in_bucket.path) == made
    assert {path.rpartition("/")[2] for path in in_bucket.server.written} <= {".lock", "progress.json"}


@pytest.mark.nightly
@pytest.mark.slow
def test_two_that_train_the_same_stage_train_it_once(in_bucket, tmp_path):
    both = [training(in_bucket.path, "plain.detect") for _ in range(2)]
    alone = training(tmp_path, "plain.detect")
    assert [process.wait() for process in (*both, alone)] == [0, 0, 0]
    here, there = left(tmp_path), left(in_bucket.path)
    assert there.keys() == here.keys()
    puts = Counter(path for method, path in in_bucket.server.requests if method == "PUT")
    assert {name: puts[f"/{in_bucket.path.bucket}/{in_bucket.path.key}/{name}"] for name in here} == {
        name: 2 if name.endswith("curves.jsonl") else 1  # of two epochs
        for name in here
    }
    same = [name for name in here if name.endswith((".safetensors", "spec.json"))]
    assert len(same) == 2
    assert [name for name in same if there[name] != here[name]] == []
