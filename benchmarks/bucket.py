"""A sweep in a bucket, killed again and again, on a server that fails at times: does it end with the folder's numbers?

    uv run python benchmarks/bucket.py [--preset small] [--kills 5] [--seed 0] [--folder DIR]

Runs `sweeps/mask_ratio.py` on the made-up corpus into a folder, then into a bucket of a local server that speaks S3
(moto). There one request in 50 is refused, done without an answer, answered in half, or slow; at half of the way the
server is away for a minute; and processes of the sweep are killed at random moments of its progress, each followed by
the same command where it has ended. Prints

    kills      what was killed, and how much was done by then
    numbers    how many tables, faces and weights both have, and which differ; the AUCs of both
    requests   of the run in the bucket, by kind

and exits with 1 where anything differs. --folder: keeps both runs' logs and the run in the folder, which then is not
made again.
"""

import argparse
import csv
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _faults import FAULTS, Bucket, Progress, kill_at, moments, numbers
from rich.console import Console
from rich.table import Table

from pipelines.common import storage

SWEEP = Path(__file__).parents[1] / "sweeps" / "mask_ratio.py"
TRIES = 3  # of the last command: a trial that was killed more often than it is retried fails its row, once


class Runs:
    """The command, started in a folder of its own."""

    def __init__(self, folder: Path, switches: Sequence[str]) -> None:
        self.folder, self.switches = folder, switches
        told = ("RAY_", "MLFLOW_", "CROSSFORGE_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(told)}

    def start(self, where: str, env: Mapping[str, str] = {}) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(SWEEP), *self.switches, "--storage", where]
        with (self.folder / f"{where.partition(':')[0]}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env={**self.env, **env}, stdout=log, stderr=log)

    def finish(self, where: str, env: Mapping[str, str] = {}) -> None:
        """Run the command until it ends well. Raise RuntimeError where it does not."""
        codes = []
        while len(codes) < TRIES:
            codes.append(self.start(where, env).wait())
            if codes[-1] == 0:
                return
        raise RuntimeError(f"{where}: it ended with {codes}; see {self.folder}")


def in_bucket(runs: Runs, server: Bucket, place: str, options: Any) -> list[tuple[str, float]]:
    """Run the sweep in the bucket, with all that goes wrong; return what was killed, and at which progress."""
    progress, faults = Progress(server, runs.folder / "folder"), random.Random(options.seed)
    server.fault = lambda *_: faults.choice(FAULTS) if faults.random() < options.faults else ""
    env = {**server.environment, "CROSSFORGE_CACHE": str(runs.folder / "cache")}
    del env["AWS_MAX_ATTEMPTS"]  # by which botocore, with which the corpus is listed, would make each only once

    def go_away() -> None:
        while progress() < 0.5:
            time.sleep(0.2)
        server.stop()
        time.sleep(options.away)
        server.start()

    away = threading.Thread(target=go_away, daemon=True)
    away.start()
    killed = kill_at(moments(options.kills, options.seed), progress, lambda: runs.start(place, env), seed=options.seed)
    runs.finish(place, env)
    away.join()
    server.fault = lambda *_: ""
    return killed


def aucs(place: Path) -> dict[tuple[str, str], str]:
    """Return the AUC as it is written, by row and test dataset."""
    with next(path for path in place.glob("reports/*/mask_ratio.csv")).open() as file:
        return {(line["mask ratio"], line["test_dataset"]): line["ours"] for line in csv.DictReader(file)}


def kind_of(method: str, path: str, place: str) -> tuple[str, str]:
    """Return the method, LIST for a listing, and what kind of object it is about."""
    below = path.partition(place)[2].strip("/")
    if not below:
        return ("LIST" if method == "GET" else method), ""
    parts = [re.sub(r"[0-9a-f]{12,}|[0-9]{8}", "*", part) for part in below.split("/")]
    return method, f"{parts[0]}/.../{parts[-1]}" if parts[0] != "sample-corpus" else parts[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("small", "tiny"), default="small")
    parser.add_argument("--rows", nargs="*", help="of the table; all unless told")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of faults, and of when and what is killed")
    parser.add_argument("--faults", type=float, default=0.02, help="share of requests that go wrong")
    parser.add_argument("--away", type=float, default=60.0, metavar="SECONDS", help="that the server is away")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # a line for each request
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return run(folder, options, Console(width=110))


def run(folder: Path, options: Any, console: Console) -> int:
    """Run both, print the comparison, return the exit code."""
    switches = ["--preset", options.preset, *(["--rows", *options.rows] if options.rows else [])]
    runs, began = Runs(folder, switches), time.monotonic()
    runs.finish("folder")
    folder_s, server, began = time.monotonic() - began, Bucket("storage"), time.monotonic()
    place = f"s3://{server.name}/runs/mask_ratio"
    killed = in_bucket(runs, server, place, options)
    took = f"folder {folder_s:.0f} s, bucket {time.monotonic() - began:.0f} s, of which away {options.away:.0f} s"
    requests = Counter(kind_of(*request, "runs/mask_ratio") for request in list(server.requests))

    console.print(f"{took}\nkilled: " + ", ".join(f"{name} at {share:.2f}" for name, share in killed))
    os.environ.update(server.environment)
    os.environ["CROSSFORGE_CACHE"] = str(folder / "cache")
    here, there = folder / "folder", storage.path_of(place)
    ours, theirs = numbers(there), numbers(here)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    rows = sum(map(len, theirs.values()))
    console.print(
        f"{len(theirs)} tables, faces and weights with {rows} rows; differing: {', '.join(differing) or 'none'}"
    )
    table, both = Table("mask ratio", "test dataset", "folder", "bucket", title="AUC"), (aucs(here), aucs(there))
    for row in both[0]:
        table.add_row(*row, both[0][row], both[1].get(row, ""))
    console.print(table)
    table = Table("", "requests", "about", title="Requests")
    for method in sorted({method for method, _ in requests}):
        of_method = Counter({what: number for (own, what), number in requests.items() if own == method})
        most = ", ".join(f"{number} {what}" for what, number in of_method.most_common(6) if what)
        table.add_row(method, str(sum(of_method.values())), most)
    console.print(table)
    server.remove()
    return int(bool(differing) or len(killed) < options.kills)


if __name__ == "__main__":
    sys.exit(main())
