"""What tests and benchmarks do to a sweep: that each kill meets a living process, and that other numbers are seen."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from _faults import DRIVER, Progress, kill_at, moments, numbers

from pipelines.common.storage import write_bytes, write_parquet

STEPS = 40
# It goes on where it was; it fails when the process that works for it is killed.
COMMAND = """
import pathlib, subprocess, sys, time
steps = pathlib.Path(sys.argv[1])
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(10)", "_trial"])
while len(steps.read_text()) < int(sys.argv[2]):
    with steps.open("a") as file:
        file.write(".")
    time.sleep(0.05)
    if worker.poll() is not None:
        sys.exit(1)
worker.kill()
"""


def test_each_kill_meets_a_living_process_before_the_end(tmp_path: Path) -> None:
    steps, started = tmp_path / "steps", list[subprocess.Popen[bytes]]()
    steps.touch()

    def start() -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-S", "-c", COMMAND, str(steps), str(STEPS)]))
        return started[-1]

    def progress() -> float:
        return len(steps.read_text()) / STEPS

    asked = moments(4, seed=0)
    killed = kill_at(asked, progress, start, seed=3, within_s=0.1)
    assert {name for name, _ in killed} == {DRIVER, "_trial"}
    assert all(moment <= share < 1 for moment, (_, share) in zip(asked, killed, strict=True))
    assert [process.returncode for process in started] == [-9 if name == DRIVER else 1 for name, _ in killed]
    steps.write_text("." * STEPS)
    with pytest.raises(RuntimeError, match=r"ended with 0 at 1\.00"):
        kill_at([1.1], progress, start, seed=0)


def test_progress_is_what_was_put_of_what_there_will_be(tmp_path: Path) -> None:
    write_parquet(tmp_path / "faces/ffpp/0a/ledger.parquet", pa.table({"video_id": ["1", "2"]}))
    for name in ("faces/ffpp/0a/_done.json", "stages/plain/detect/1b/_done.json", "runs/2c/predictions.parquet"):
        write_bytes(tmp_path / name, b"")
    write_bytes(tmp_path / "mlartifacts/plain/3d/artifacts/predictions.parquet", b"")
    server = SimpleNamespace(written={"/bucket/place/faces/ffpp/0a/parts/4e.parquet"})
    progress = Progress(server, tmp_path)
    assert progress() == 1 / 4
    server.written |= {"/bucket/place/stages/plain/detect/1b/_done.json", "/bucket/place/stages/plain/detect/1b/curves"}
    assert progress() == 1 / 4 + 1 / 6


def test_a_number_that_differs_is_seen(tmp_path: Path) -> None:
    def made(where: str, score: float, commit: str) -> Path:
        table = pa.table({"video_id": ["1", "2"], "score": [score, float("nan")], "commit": [commit] * 2})
        write_parquet(tmp_path / where / "runs/2c/predictions.parquet", table)
        write_bytes(tmp_path / where / "stages/plain/detect/1b/weights.safetensors", b"w")
        write_bytes(tmp_path / where / "reports/plain/coverage.csv", f"ok,seconds\n1,{len(where)}\n".encode())
        return tmp_path / where

    first = numbers(made("first", 0.5, "a"))
    assert len(first) == 3
    assert first == numbers(made("second", 0.5, "b"))
    assert first != numbers(made("third", 0.5000000000000001, "a"))
