"""What Crossforge's own bookkeeping costs when there is much of everything; no video is decoded, nothing is trained.

    uv run python benchmarks/scale.py manifest [--rows 10000 100000 1000000]
    uv run python benchmarks/scale.py parts    [--videos 1000 10000 100000] [--folder DIR]
    uv run python benchmarks/scale.py ends     [--videos 100000 1000000]
    uv run python benchmarks/scale.py blocks   [--videos 1000 10000]
    uv run python benchmarks/scale.py whole    [--videos 1000 10000]
    uv run python benchmarks/scale.py bytes    [--faces 100]
    uv run python benchmarks/scale.py plans    [--trials 10 100 1000]
    uv run python benchmarks/scale.py mlflow   [--trials 10 100 300]
    uv run python benchmarks/scale.py tune     [--trials 100 300]

Every size runs in a process of its own. Of each step: CPU seconds of that process, and its peak resident memory after
the step. With `tune`, in which other processes work and one waits for them: wall seconds.

manifest  a list of one's own videos, CSV and Parquet: written, read by the adapter, looked at as by the doctor (without
          opening files), cut into parts by the protocol; an extraction of it planned when nothing is done yet
parts     as many parts as extraction leaves, one row each: written, found, gathered into files, read again
ends      what the head does with so many videos when an extraction begins and when it ends: files found, compared with
          the list, ledger and index written; and what a loader does then. The files hold no rows but all that footers
          say of videos; the footer of a whole file is looked at apart
blocks    Ray Data over so many videos, as extraction has it, with an actor that does nothing
whole     extraction of so many videos of which none shows a face and no time is spent on reading: all that is done
          besides, with two actors that write parts and processes that gather them meanwhile
bytes     single faces, 299 px of noise, read at random as loaders do: bytes that come from the disk for each, where no
          page of the file is in memory
plans     trials of one experiment with as many seeds on 5,000 videos: planned, pickled for Ray
mlflow    as many finished runs into a SQLite database: 60 params, 20 numbers and a curve of 50 epochs each; then the
          search by key that begins every run, and the same again, as a repeated command has it
tune      Ray Tune's grid over trials that do nothing, as `pipelines.trials.tune` starts them
"""

import argparse
import csv
import gc
import multiprocessing
import os
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.experiments.experiment import Experiment

COLUMNS = ("path", "label", "split", "method", "person", "real")
EPOCHS, PARAMS, NUMBERS = 50, 60, 20
FFPP_IDS = 1000  # 5,000 videos: every clip and its four manipulations
Step = tuple[str, float, int]  # what is done, seconds, peak bytes


class Steps:
    """What a process did, step by step. `now` is the clock: CPU seconds unless others do the work."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.done: list[Step] = []
        self.now = now

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        started = self.now()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        self.done.append((name, self.now() - started, peak))


# ------------------------------------------------------------------------------------------ manifest
def lines(number: int) -> Iterator[tuple[str, ...]]:
    """Yield rows of `COLUMNS`: a real video and four fakes of it for each person; a tenth of them test, a tenth val."""
    methods = ("real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
    for i in range(number):
        person, kind = divmod(i, len(methods))
        split = {0: "test", 1: "val"}.get(person % 10, "train")
        real = f"real/{person:07d}.mp4" if kind else ""
        path = f"{methods[kind]}/{person:07d}.mp4"
        yield path, "fake" if kind else "real", split, methods[kind], f"p{person}", real


def write_list(file: Path, number: int) -> None:
    """Write a list of one's own videos as CSV."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        writer.writerows(lines(number))


def manifest(number: int, folder: Path) -> list[Step]:
    """Read and plan a list of so many videos."""
    from pipelines import datasets
    from pipelines.commands import doctor
    from pipelines.experiments import protocol
    from pipelines.faces import extract, store

    steps = Steps()
    csv_file, parquet_file = folder / "own.csv", folder / "own.parquet"
    write_list(csv_file, number)
    pq.write_table(pa.csv.read_csv(csv_file), parquet_file)
    with steps.step(f"Parquet ({parquet_file.stat().st_size / 1e6:.0f} MB): read"):
        datasets.load("own", {"own": str(parquet_file)})
    with steps.step(f"CSV ({csv_file.stat().st_size / 1e6:.0f} MB): read"):
        videos = datasets.load("own", {"own": str(csv_file)})
    assert videos.num_rows == number
    with steps.step("checks of the doctor on rows"):
        doctor._of_dataset("own", videos.to_pylist(), {}, {}, is_sample=False)
    experiment = Experiment(model="plain", train_on="own", test_on=("own",), protocol="in_dataset", codec="raw")
    with steps.step("protocol"):
        built = protocol.build(experiment, {"own": videos})
    assert len(built.train.rows) == sum(split == "train" for split in videos["split"].to_pylist())
    with steps.step("extraction: what is to be done"):
        asked = extract.checked(videos, {"own": str(folder)})
        todo = extract.to_do([asked], [extract.lacking(asked, store.VIDEOS.empty_table())])
    assert len(todo) == number
    with steps.step("extraction: calls of actors"):
        assert sum(call.num_rows for call in extract.calls(todo, 16, 64)) == number
    return steps.done


# --------------------------------------------------------------------------------------------- parts
def parts(number: int, folder: Path) -> list[Step]:
    """Write, compact and read the faces of so many videos."""
    from pipelines.faces import writer
    from pipelines.faces.recipe import Recipe
    from pipelines.faces.store import Faces
    from pipelines.faces.video import without_faces

    steps, rows = Steps(), []
    for path, label, split, method, person, _ in lines(number):
        kept = {"dataset": "own", "video_id": f"own/{path}", "label": int(label == "fake"), "method": method}
        rows.append({**kept, "codec": "unknown", "split": split, "person": person, "face_rule": "largest"})
    faces = folder / "faces-of-own"
    with steps.step("written, one file each: by actors"):
        for row in rows:
            writer.write_part(faces, [row], [without_faces(row, "no_face", "no face in 32 frames", 32)])
    with steps.step("parts found, footers read"):
        names: dict[str, list[str]] = {}
        for split, part, _ in writer.parts(faces, writer.tidy(faces)):
            names.setdefault(split, []).append(part)
    with steps.step("gathered: by processes of Ray"):
        for of_split in names.values():
            for start in range(0, len(of_split), writer.VIDEOS_PER_FILE):
                writer.gather(faces, of_split[start : start + writer.VIDEOS_PER_FILE])
    with steps.step("files found, footers read"):
        known = writer.tidy(faces)
    assert len(known) == number
    with steps.step("ledger, index and marker"):
        writer.finish(faces, Recipe(num_frames=32, size_px=224), known)
    del known
    started = time.monotonic()
    with steps.step("open, as every loader does"):
        store = Faces(faces)
    opened = time.monotonic() - started
    with steps.step(f"1,000 videos read (opened in {1000 * opened:.0f} ms of wall time)"):
        for row in rows[:: max(1, number // 1000)]:
            store.video(row["video_id"], ["status"])
    return steps.done


def ends(number: int, folder: Path) -> list[Step]:
    """Find, compare and finish an extraction of so many videos."""
    from pipelines.common import tables
    from pipelines.faces import extract, store, writer
    from pipelines.faces.recipe import Recipe
    from pipelines.faces.video import without_faces

    faces, steps = folder / "faces", Steps()
    (folder / "own").mkdir()
    videos = tables.to_table(rows_of_videos(number), tables.VIDEOS)
    empty, ledger = without_faces(videos.slice(0, 1).to_pylist()[0], "no_face", "no face in 32 frames", 32)
    with steps.step("the list compared with the disk"):
        asked = extract.checked(videos, {"own": str(folder / "own")})
    for start in range(0, number, writer.VIDEOS_PER_FILE):
        rows = asked.slice(start, writer.VIDEOS_PER_FILE).to_pylist()
        path = faces / "faces" / "split=train" / f"{start:08d}.parquet"
        all_records = [
            {
                "copied": {name: row[name] for name in tables.COPIED},
                "ledger": ledger | {"video_id": row["video_id"], "num_faces": 32, "source": row["source"]},
            }
            for row in rows
        ]
        for file in (path, store.rows_path(faces, f"faces/split=train/{path.name}")):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        writer._write_faces(path, [empty.drop_columns("split")], all_records)
    del videos, rows, all_records
    with steps.step("files found, footers read"):
        there = writer.tidy(faces)
    with steps.step("compared with the list"):
        assert not extract.lacking(asked, there).any()
    with steps.step("ledger, index and marker"):
        writer.finish(faces, Recipe(), there)
    del asked, there
    with steps.step("opened, as by every loader"):
        reader = store.Faces(faces)
    ids = [f"own/{path}" for path, *_ in lines(number)][:: max(1, number // 1000)]
    with steps.step("the places of 1,000 videos"):
        for video_id in ids:
            reader.place(video_id)
    whole = folder / "whole.parquet"
    two = [pa.concat_tables([empty.drop_columns("split")] * store.ROWS_PER_GROUP)] * (2 * writer.VIDEOS_PER_FILE)
    writer._write_faces(whole, two, [])
    with steps.step("a hundred footers of whole files, besides"):
        for _ in range(100):
            pq.read_schema(whole)
    started = time.monotonic()
    store.Faces(faces)
    steps.done.append(("... a loader opens it in, wall time", time.monotonic() - started, steps.done[-1][2]))
    return steps.done


# -------------------------------------------------------------------------------------------- blocks
class Idle:
    """Stands in for the actor that extracts, and does nothing."""

    def __init__(self, **arguments: Any) -> None:
        pass

    def __call__(self, call: pa.Table) -> pa.Table:
        return call.select(["number", "video_id"])


def rows_of_videos(number: int) -> list[dict[str, Any]]:
    """Return rows of VIDEOS of a list of one's own."""
    told = {"dataset": "own", "codec": "unknown", "root": "own", "mask_uri": None, "real_id": None, "real_uri": None}
    return [
        told
        | {"video_id": f"own/{path}", "uri": path, "label": int(label == "fake"), "split": split, "method": method}
        | {"source_ids": [person], "face_rule": "largest"}
        for path, label, split, method, person, _ in lines(number)
    ]


def blocks(number: int, folder: Path) -> list[Step]:
    """Run extraction's Ray Data pass over so many videos."""
    import numpy as np
    from ray import cloudpickle

    from pipelines.common import cluster, tables
    from pipelines.faces import extract

    steps = Steps()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which Ray's processes cannot import
    with cluster.connect(None):
        extract.ExtractFaces = Idle  # type: ignore[assignment, misc]
        asked = extract.checked(tables.to_table(rows_of_videos(number), tables.VIDEOS), {"own": str(folder)})
        todo = extract.to_do([asked], [np.ones(number, bool)])
        for name in ("with Ray's own start", "again"):
            started, several = time.monotonic(), extract._VIDEOS
            with steps.step(f"{name}, {several} in a call"):
                assert sum(done.num_rows for done in extract.read_videos(todo, {"timeout_s": 900}, 2)) == number
            steps.done.append(("... wall time", time.monotonic() - started, steps.done[-1][2]))
    return steps.done


def no_reader(*arguments: Any) -> Callable[..., Any]:
    """Make what finds no face in any video, without looking."""
    from pipelines.faces.video import without_faces

    return lambda video, targets: [without_faces(video, "no_face", "no face in 32 frames", 32)] * len(targets)


def whole(number: int, folder: Path) -> list[Step]:
    """Extract so many videos without reading any."""
    from ray import cloudpickle

    from pipelines.common import cluster, tables
    from pipelines.faces import extract
    from pipelines.faces.recipe import Recipe

    steps, most = Steps(), 0
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    videos = tables.to_table(rows_of_videos(number), tables.VIDEOS)
    (folder / "own").mkdir()

    def on_video(row: dict[str, Any]) -> None:
        nonlocal most
        if row["num_done"] % 500 == 0:
            most = max(most, len(os.listdir(folder / "faces" / "parts")))

    with cluster.connect(None, num_cpus=2):
        started = time.monotonic()
        with steps.step("extraction, the head's part"):
            done = extract.extract(
                videos, {"own": str(folder / "own")}, folder / "faces", Recipe(), reader=no_reader, on_video=on_video
            )
        assert done["video_id"].equals(videos["video_id"])
        peak = steps.done[-1][2]
        steps.done.append(("... wall time", time.monotonic() - started, peak))
    files = len(list(folder.glob("faces/faces/*/*.parquet")))
    assert not os.listdir(folder / "faces" / "parts")
    steps.done.append((f"{files} files; at most {most} parts at once", 0.0, peak))
    return steps.done


def bytes_read(number: int, folder: Path) -> list[Step]:
    """Read so many single faces at random, from a file of videos of 32 faces."""
    import numpy as np
    import pyarrow.compute as pc

    from pipelines.common import tables
    from pipelines.faces import writer
    from pipelines.faces.recipe import Recipe
    from pipelines.faces.store import LIGHT, PICTURES, Faces
    from pipelines.faces.video import without_faces

    rng, faces = np.random.default_rng(0), folder / "faces"
    for row in rows_of_videos(40):
        _, ledger = without_faces(row, "ok", "")
        copied = {name: row[name] for name in tables.COPIED} | dict.fromkeys(tables.PER_FACE) | {"status": "ok"}
        box = dict.fromkeys(("x0", "y0", "x1", "y1"), 0.0)
        copied |= {"face_index": 0, "time_s": 0.0, "box_px": box, "crop_px": box, "face_score": 1.0}
        found = [
            copied | {"frame_index": i, "image_png": rng.bytes(106_000), "landmarks_px": rng.random(136).tolist()}
            for i in range(32)
        ]
        writer.write_part(faces, [row], [(tables.to_table(found, tables.FACES), ledger | {"num_faces": 32})])
    writer.gather(faces, [part for _, part, _ in writer.parts(faces, writer.tidy(faces))])
    writer.finish(faces, Recipe(), writer.tidy(faces))
    names = pc.unique(writer.tidy(faces)["video_id"]).to_pylist()
    files = [*faces.glob("faces/*/*.parquet"), *faces.glob("index/*/*.arrow"), faces / "index.arrow"]
    steps = Steps()
    for what, columns in (("a picture", PICTURES), ("all else of a video", LIGHT)):
        read, store = 0, None
        with steps.step(what):
            for _ in range(number):
                store = None  # maps files, whose pages would stay
                gc.collect()
                for path in files:
                    with path.open("rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                place = int(rng.integers(32))
                rows = range(place, place + 1) if columns == PICTURES else None
                store = Faces(faces)
                before = from_disk()
                store.video(str(rng.choice(names)), columns, rows)
                read += from_disk() - before
        steps.done.append((f"... {read / number / 1000:.0f} kB from the disk for each", 0.0, steps.done[-1][2]))
    return steps.done


def from_disk() -> int:
    """Return how many bytes this process has had read from disks, also by looking at memory that maps a file."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


# -------------------------------------------------------------------------------------------- trials
def plans(number: int, folder: Path) -> list[Step]:
    """Plan so many trials, and pickle them."""
    from ray import cloudpickle

    from pipelines import datasets
    from pipelines.trials import planner

    steps = Steps()
    file = folder / "own.csv"
    write_list(file, 5 * FFPP_IDS)
    videos = {"own": datasets.load("own", {"own": str(file)})}
    ids = videos["own"]["video_id"].to_pylist()
    entry = {"status": "ok", "reason": "", "num_frames": 32, "num_faces": 32, "seconds": 1.5}
    ledgers = {"own": {name: entry | {"video_id": name, "content": f"{i:064x}"} for i, name in enumerate(ids)}}
    base = Experiment(model="plain", train_on="own", test_on=("own",), protocol="in_dataset", codec="raw")
    with steps.step("plan"):
        plan = planner.Planner(videos, ledgers, {"own": folder}, folder)
        trials = [plan(base.override({"seed": seed})) for seed in range(number)]
    assert len({trial.digest for trial in trials}) == number
    with steps.step("pickle, as for Ray"):
        size = len(cloudpickle.dumps(trials))
    with steps.step(f"unpickle ({size / 1e6:.1f} MB), as every trial's process does"):
        pickle.loads(cloudpickle.dumps(trials))
    return steps.done


def mlflow(number: int, folder: Path) -> list[Step]:
    """Log so many runs to MLflow, and look for each by its key."""
    from pipelines.tracking import client

    steps = Steps()
    with steps.step("MLflow starts, makes the database"):
        tracker = client.Tracker(f"sqlite:///{folder / 'mlflow.db'}", "scale", folder)
        parent = tracker.open_run("parent", "launch")
    curve = [
        {"step": 10 * e, "epoch": e, "seconds": 1.0, "lr": 0.1, "train/loss": 1 / e, "val/loss": 1 / e, "val/auc": 0.9}
        for e in range(1, EPOCHS + 1)
    ]

    def log(i: int) -> str:
        params = {f"model.setting_{j}": i * j for j in range(PARAMS)}
        run_id = tracker.open_run(f"key-{i}", f"trial {i}", parent=parent, params=params)
        tracker.log_curve(run_id, "detect", curve)
        tracker.log_values(run_id, {f"celeb_df/video/metric_{j}": 0.5 for j in range(NUMBERS)})
        tracker.end(run_id)
        return run_id

    with steps.step("runs logged"):
        for i in range(number):
            log(i)
    with steps.step("found again, by key"):
        for i in range(number):
            tracker.open_run(f"key-{i}", f"trial {i}", parent=parent)
    size = sum(path.stat().st_size for path in folder.glob("mlflow.db*"))
    steps.done.append((f"database of {size / 1e6:.1f} MB", 0.0, steps.done[-1][2]))
    return steps.done


def nothing(config: dict[str, Any]) -> None:
    """Stand in for a trial."""
    from ray import tune

    tune.report({"done": 1})


def tune(number: int, folder: Path) -> list[Step]:
    """Run so many trials that do nothing."""
    from ray import cloudpickle
    from ray import tune as ray_tune

    from pipelines.common import cluster

    steps = Steps(time.monotonic)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which Ray's processes cannot import
    with cluster.connect(None):
        for count in (2, number):  # the first has the start of Ray's own processes
            function = ray_tune.with_resources(nothing, {"memory": 1_000_000})
            tuner = ray_tune.Tuner(
                function,
                param_space={"number": ray_tune.grid_search(list(range(count)))},
                tune_config=ray_tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
                run_config=ray_tune.RunConfig(name=f"grid-{count}", storage_path=str(folder), verbose=0),
            )
            with steps.step(f"{count} trials"):
                tuner.fit()
    size = sum(path.stat().st_size for path in (folder / f"grid-{number}").rglob("*") if path.is_file())
    steps.done.append((f"{size / 1e6:.1f} MB of Tune's files", 0.0, steps.done[-1][2]))
    return steps.done


# --------------------------------------------------------------------------------------------- output
SIMULATIONS: dict[str, tuple[Callable[[int, Path], list[Step]], str, tuple[int, ...]]] = {
    "manifest": (manifest, "rows", (10_000, 100_000, 1_000_000)),
    "parts": (parts, "videos", (1_000, 10_000, 100_000)),
    "ends": (ends, "videos", (100_000, 1_000_000)),
    "blocks": (blocks, "videos", (1_000, 10_000)),
    "whole": (whole, "videos", (1_000, 10_000)),
    "bytes": (bytes_read, "faces", (100,)),
    "plans": (plans, "trials", (10, 100, 1_000)),
    "mlflow": (mlflow, "trials", (10, 100, 300)),
    "tune": (tune, "trials", (100, 300)),
}


def in_a_process(simulate: Callable[[int, Path], list[Step]], number: int, folder: str | None) -> list[Step]:
    """Simulate in a fresh process, so that the peak of its memory is its own."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as work,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        return pool.apply(simulate, (number, Path(work)))


def show(name: str, unit: str, results: dict[int, list[Step]], console: Console) -> None:
    """Print a table with a column for each size."""
    table = Table("step", *(f"{number:,} {unit}" for number in results), title=name, title_justify="left")
    for i in range(len(next(iter(results.values())))):
        cells = [f"{steps[i][1]:.2f} s, {steps[i][2] / 1e9:.2f} GB" for steps in results.values()]
        table.add_row(list(results.values())[-1][i][0], *cells)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = p.add_subparsers(dest="name", required=True)
    for name, (_, unit, sizes) in SIMULATIONS.items():
        own = kinds.add_parser(name)
        own.add_argument(f"--{unit}", dest="sizes", type=int, nargs="+", default=list(sizes), metavar="N")
        own.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    arguments = p.parse_args(argv)
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    simulate, unit, _ = SIMULATIONS[arguments.name]
    results = {number: in_a_process(simulate, number, arguments.folder) for number in arguments.sizes}
    show(arguments.name, unit, results, Console(width=140))


if __name__ == "__main__":
    main()
