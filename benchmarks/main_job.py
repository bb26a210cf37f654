"""How long does the main job take on the sample corpus, and how much memory?

    uv run python benchmarks/main_job.py [--storage DIR]

Runs in turn, from an empty storage folder: `--dry-run`, the job itself, the same command again. Prints seconds,
and the peak memory of the whole process tree, Ray's processes included. Memory is the sum of the proportional
set sizes (shared pages counted once), sampled every second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ROOT / "sweeps" / "mask_ratio.py"


def tree_bytes(root: psutil.Process) -> int:
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # ended between the listing and the look
    return total


def measure(*arguments: str) -> tuple[float, int, int]:
    """Seconds, peak bytes and exit code of one run of the sweep."""
    start, peak = time.monotonic(), 0
    child = subprocess.Popen([sys.executable, str(SWEEP), *arguments], stdout=subprocess.DEVNULL)
    process = psutil.Process(child.pid)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1.0):
            try:
                peak = max(peak, tree_bytes(process))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    done.set()
    watcher.join()
    return time.monotonic() - start, peak, code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", help="an empty folder (default: a temporary one)")
    storage = parser.parse_args().storage or tempfile.mkdtemp(prefix="crossforge-benchmark-")
    print(f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB, load {os.getloadavg()[0]:.1f}")
    for name, arguments in (("dry run", ("--dry-run",)), ("main job", ()), ("the same again", ())):
        seconds, peak, code = measure("--storage", storage, *arguments)
        print(f"{name:16} {seconds:7.1f} s   {peak / 2**30:5.2f} GiB   exit code {code}")


if __name__ == "__main__":
    main()
