"""What goes wrong, for tests and benchmarks: a server that speaks S3 and fails at times, processes that are killed.

And what is left of a sweep then: how far it is, and all its numbers.
"""

import csv
import hashlib
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

FAULTS = ("busy", "lost", "cut", "slow")


class Bucket:
    """On a server that speaks S3, by HTTP. A test can take the server away for a while: it comes back as it was.

    `fault`, which a test may replace, says of each request by its method and path what goes wrong with it: `busy`, it
    is refused with 503; `lost`, it is done and the connection closed without an answer; `cut`, half of the answer
    comes; `slow`, it takes a while; nothing where it is empty. `requests` holds all methods and paths, `written` the
    paths that were put.
    """

    fault: Callable[[str, str], str]

    def __init__(self, name: str) -> None:
        import boto3

        self.name, self._port = name, 0
        self.fault, self.requests = lambda method, path: "", list[tuple[str, str]]()
        self.written: set[str] = set()
        self.start()
        keys = boto3.Session("me", "x", region_name="us-east-1")
        self._objects = keys.client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])
        self._objects.create_bucket(Bucket=name)

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process that may use it, and fails at once where it is away."""
        keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        return keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}", "AWS_MAX_ATTEMPTS": "1"}

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        self._answer, self._server._server.app = self._server._server.app, self._faulty

    def _faulty(self, environ: Any, start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if method == "PUT":
            self.written.add(path)
        match self.fault(method, path):
            case "busy":
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Length", "0")])
                return []
            case "slow":
                time.sleep(0.3)
            case "lost":
                b"".join(self._answer(environ, lambda *_: None))
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return []
            case "cut":
                whole = b"".join(self._answer(environ, start_response))
                return [whole[: len(whole) // 2]]
        return self._answer(environ, start_response)

    def stop(self) -> None:
        self._server.stop()

    def keys(self, prefix: str) -> list[str]:
        pages = self._objects.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [str(one["Key"]) for page in pages for one in page.get("Contents", ())]

    def get(self, key: str) -> bytes:
        return bytes(self._objects.get_object(Bucket=self.name, Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self._objects.put_object(Bucket=self.name, Key=key, Body=content)

    def remove(self) -> None:
        """What the server keeps, it keeps for all tests of this process."""
        self.stop()
        self.start()  # a failed test may have left it away
        for key in self.keys(""):
            self._objects.delete_object(Bucket=self.name, Key=key)
        self._objects.delete_bucket(Bucket=self.name)
        self.stop()


# ------------------------------------------------------------------------------------------------ processes
# In the names of processes that work for a launch: readers of videos, trials, what decodes a video.
WORK = ("ExtractFaces", "_trial", "ImplicitFunc", "pipelines.media.sandbox")
DRIVER = "driver"


def family(driver: psutil.Process) -> list[psutil.Process]:
    """Return the processes that a process has started, and those that these have; none where it has ended."""
    try:
        return driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process) -> str:
    """Return what part of `WORK` a process does; empty: none."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    return next((name for name in WORK if name in command), "")


def kill_at(
    moments: Sequence[float],
    progress: Callable[[], float],
    start: Callable[[], subprocess.Popen[Any]],
    *,
    seed: int,
    within_s: float = 1.0,
) -> list[tuple[str, float]]:
    """Start a command and kill one of its processes at each moment of its progress; start it again when it has ended.

    Return the name and the progress of each that was killed; each lived until then. The last command has ended. Raise
    RuntimeError where the command ended well before it was killed so often, or badly though nothing of it was killed.

    moments: in the order of progress, which is what `progress()` returns.
    within_s: how long after its moment a kill may come.
    """
    rng, killed = random.Random(seed), list[tuple[str, float]]()
    while len(killed) < len(moments):
        process, before = start(), len(killed)
        while len(killed) < len(moments) and process.poll() is None:
            if progress() >= moments[len(killed)]:
                time.sleep(within_s * rng.random())
                if name := _kill_one(process, rng):
                    killed.append((name, progress()))
            time.sleep(0.02)
        code = process.wait()
        if len(killed) < len(moments) and (code == 0 or len(killed) == before):
            raise RuntimeError(f"it ended with {code} at {progress():.2f}, after {killed} of {moments}")
    return killed


def _kill_one(process: subprocess.Popen[Any], rng: random.Random) -> str:
    """Kill the driver, or one of those that work for it; return its name, empty where it had ended by itself."""
    driver = psutil.Process(process.pid)
    workers = [worker for worker in family(driver) if name_of(worker)] if rng.random() < 0.7 else []
    if not workers:
        process.kill()
        return DRIVER if process.wait() < 0 else ""  # it had ended: then it says with what
    worker = rng.choice(workers)
    try:
        name = name_of(worker)
        if not name or worker.status() == psutil.STATUS_ZOMBIE:
            return ""
        worker.kill()
    except psutil.NoSuchProcess:
        return ""
    return name


# ------------------------------------------------------------------------------------------------- a sweep
_PART = re.compile(r"/faces/\w+/\w+/parts/[^/]+$")
_LASTS = re.compile(
    r"/(faces/\w+/\w+/_done\.json|stages/\w+/\w+/\w+/(_done\.json|predictions/[^/]+\.parquet)"
    r"|runs/\w+/(_done\.json|predictions\.parquet))$"
)


class Progress:
    """How far a sweep in a bucket is, from 0 to 1, by what the same sweep has left in a folder, where it has ended.

    One half is the videos that were read, the other what was made of them: stages, predictions, results.
    """

    def __init__(self, server: Bucket, ended: Path) -> None:
        self.written = server.written
        self.videos = sum(pq.read_metadata(path).num_rows for path in ended.glob("faces/*/*/ledger.parquet"))
        self.made = _count(_LASTS, map(str, ended.rglob("*")))

    def __call__(self) -> float:
        written = list(self.written)
        read, made = _count(_PART, written) / self.videos, _count(_LASTS, written) / self.made
        return (min(1.0, read) + min(1.0, made)) / 2


def _count(pattern: re.Pattern[str], paths: Iterable[str]) -> int:
    return sum(bool(pattern.search(path)) for path in paths)


def moments(number: int, seed: int, last: float = 0.95) -> list[float]:
    """Return moments of a progress at random, in order: one in each of so many equal parts of what is before `last`."""
    rng = random.Random(seed)
    return [(part + rng.random()) * last / number for part in range(number)]


def numbers(storage: Path) -> dict[str, list[str]]:
    """Return the rows of all tables of a storage, by file; digests of the faces' rows, by folder, and of weights.

    Rows are texts, for NaN equals nothing. Times and commits, which no two runs share, are left out.
    """
    found = {}
    for pattern in ("runs/*/*.parquet", "stages/*/*/*/predictions/*.parquet", "faces/*/*/ledger.parquet"):
        for path in storage.glob(pattern):
            found[str(path.relative_to(storage))] = [*_rows(path)]
    for folder in storage.glob("faces/*/*"):
        rows = (row for path in folder.glob("faces/*/*.parquet") for row in _rows(path))
        found[str(folder.relative_to(storage))] = sorted(hashlib.sha256(row.encode()).hexdigest() for row in rows)
    for path in storage.glob("stages/*/*/*/weights.safetensors"):
        found[str(path.relative_to(storage))] = [hashlib.sha256(path.read_bytes()).hexdigest()]
    for path in storage.glob("reports/*/*.csv"):
        lines = csv.DictReader(path.read_text().splitlines())
        found[str(path.relative_to(storage))] = [str({**line, "seconds": None}) for line in lines]
    return found


def _rows(path: Path) -> Iterator[str]:
    table = pq.read_table(path, partitioning=None)
    table = table.drop_columns([name for name in ("commit", "seconds", "source") if name in table.column_names])
    yield from (str(row) for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist())
