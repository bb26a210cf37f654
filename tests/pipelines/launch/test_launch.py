"""A sweep as a person starts it: a script in its own process, on real but tiny videos, with a Ray of its own."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from _faults import FAULTS, Progress, family, kill_at, moments, name_of, numbers
from mlflow.tracking import MlflowClient

from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.sweep import Row
from pipelines.metrics.names import FINAL, UNSEEN
from pipelines.report import main
from pipelines.reporting import cache
from pipelines.reporting.table import in_percent
from pipelines.tracking import logged

ROWS = {"0.5": {"model.recover.mask_ratio": 0.5}, "0.9": {"model.recover.mask_ratio": 0.9}}
PUBLISHED = {"0.5": {"celeb_df": 0.89, "dfdc": 0.805}, "0.9": {"celeb_df": 0.905, "dfdc": 0.81}}
# The second row's first step throws the weights out of the range of floats; its second step meets what is left.
BROKEN = {"0.7": {"model.recover.mask_ratio": 0.7}, "broken": {"model.recover.lr": 1e30}}

SCRIPT = '''"""Sweep of a test."""
from pipelines.sweep import Experiment, Row, Sweep, main

SWEEP = Sweep(
    name="{name}",
    title="Table 0: mask ratio",
    base=Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df", "dfdc"), preset="small").override({base}),
    row_name="mask ratio",
    headings=("celeb_df", "dfdc"),
    rows={rows},
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
'''


class Desk:
    """A folder with sweep scripts and a datasets.toml, and what a person can do there."""

    def __init__(self, folder: Path, experiment: Experiment, roots: Mapping[str, str]) -> None:
        self.folder = folder
        self.base = {f"model.{name}": value for name, value in experiment.model_args.items()}
        self.datasets = self.toml("datasets.toml", {name: roots[name] for name in ("ffpp", "celeb_df", "dfdc")})
        self.script("tiny", ROWS)

    def toml(self, name: str, roots: Mapping[str, str]) -> Path:
        (self.folder / name).write_text("".join(f'{dataset} = "{root}"\n' for dataset, root in roots.items()))
        return self.folder / name

    def script(self, name: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
        published = {
            row: " ".join(f"{100 * value:.1f}" for value in values.values()) for row, values in PUBLISHED.items()
        }
        declared = tuple(Row(label, settings, published.get(label, "")) for label, settings in rows.items())
        text = SCRIPT.format(name=name, base=self.base, rows=declared)
        (self.folder / f"{name}.py").write_text(text)

    def command(self, name: str, storage: str, *switches: str) -> list[str]:
        given = {"--datasets": str(self.datasets), "--preset": "small", "--storage": storage}
        defaults = [part for switch, value in given.items() if switch not in switches for part in (switch, value)]
        return [sys.executable, "-X", "importtime", f"{name}.py", *defaults, *switches]

    def start(self, name: str, storage: str, *switches: str) -> "subprocess.Popen[str]":
        # As in a shell: nothing that the tests' own Ray was told. Left to itself, Ray writes into the home folder.
        told = ("RAY_", "MLFLOW_", "CROSSFORGE_DATASETS", "CROSSFORGE_COMMIT")
        env = {name: value for name, value in os.environ.items() if not name.startswith(told)}
        out, err = (self.folder / f"{re.sub('[:/]+', '_', storage)}.{end}" for end in ("out", "err"))
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                self.command(name, storage, *switches),
                cwd=self.folder,
                env=env | {"RAY_AUTH_MODE": "disabled"},
                stdout=stdout,
                stderr=stderr,
                text=True,
            )
        self.out, self.err = out, err
        return process

    def run(self, name: str, storage: str, *switches: str) -> "Ended":
        started = time.monotonic()
        code = self.start(name, storage, *switches).wait(300)
        return Ended(code, self.out.read_text(), self.err.read_text(), time.monotonic() - started)


class Ended:
    def __init__(self, code: int, out: str, err: str, seconds: float) -> None:
        imports = [line for line in err.splitlines() if line.startswith("import time:")]
        self.code, self.out, self.seconds = code, out, seconds
        self.imported = {line.rsplit("|", 1)[1].strip() for line in imports}
        self.complaints = [line for line in err.splitlines() if not line.startswith("import time:")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Experiment, tiny_roots: Any) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"), tiny_experiment, tiny_roots)


@pytest.fixture(scope="module")
def storage(desk: Desk) -> Path:
    return desk.folder / "whole"


@pytest.fixture(scope="module")
def whole(desk: Desk) -> Ended:
    return desk.run("tiny", "whole")


def results(storage: Path) -> dict[str, list[str]]:
    """Rows of RESULTS by trial, as texts, for NaN equals nothing.

    Without the commit: someone may be committing while the tests run.
    """
    paths = storage.glob("runs/*/results.parquet")
    return {path.parent.name: [*map(str, pq.read_table(path).drop(["commit"]).to_pylist())] for path in paths}


def mtimes(storage: Path) -> dict[Path, int]:
    return {path.relative_to(storage): path.stat().st_mtime_ns for path in storage.glob("stages/**/*")}


def tracked(storage: Path, experiment: str = "tiny") -> tuple[MlflowClient, list[Any], list[Any]]:
    """The parents, and the children by row."""
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = sorted((run for run in runs if run not in parents), key=lambda run: run.data.tags["row"])
    return client, parents, children


# --------------------------------------------------------------------------------------- the table
@pytest.mark.slow
@pytest.mark.ray
def test_the_command_ends_well(whole: Ended, storage: Path) -> None:
    assert whole.code == 0, whole.out
    assert whole.complaints == []
    assert len(results(storage)) == 2
    assert len(list(storage.glob("stages/delocate/*/*/_done.json"))) == 2 * 3


@pytest.mark.slow
@pytest.mark.ray
def test_the_table_shows_published_and_ours(whole: Ended, storage: Path) -> None:
    values = ours(storage)
    lines = whole.out[whole.out.index("published against ours") :].splitlines()
    for row, published in PUBLISHED.items():
        (line,) = [line for line in lines if line.split("│")[1:2] == [f" {row:<10} "]]
        for column, cell in zip(published, line.split("│")[2:4], strict=True):
            theirs, mine = 100 * published[column], 100 * values[row, column]["value"]
            assert cell.split() == [f"{theirs:.1f}", f"{mine:.1f}*", f"{mine - theirs:+.1f}"]
    assert "own datasets" in whole.out
    assert "one seed only" in whole.out
    assert corpus.NOTE not in whole.out


def ours(storage: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(row of the table, test dataset) -> the RESULTS row of its video AUC, found by the trial's own record."""
    values = {}
    _, _, children = tracked(storage)
    for child in children:
        table = pq.read_table(storage / "runs" / child.data.tags["run_key"] / "results.parquet")
        for entry in table.to_pylist():
            is_final = (entry["stage"], entry["level"], entry["metric"]) == (FINAL, "video", "auc")
            if is_final and entry["test_dataset"] != UNSEEN:
                values[child.data.tags["row"], entry["test_dataset"]] = entry
    return values


@pytest.mark.slow
@pytest.mark.ray
def test_the_files_agree_with_the_results(whole: Ended, storage: Path) -> None:
    (folder,) = (storage / "reports").iterdir()
    assert f"Report: {folder}" in whole.out
    files = sorted(path.name for path in folder.iterdir())
    assert [name for name in files if name.startswith("tiny")] == [
        f"tiny.{ending}" for ending in ("csv", "html", "md", "png", "tex")
    ]
    assert {Path(name).suffix for name in files if name.startswith("coverage-")} == {".csv", ".md", ".png"}
    values = ours(storage)
    with (folder / "tiny.csv").open() as file:
        lines = {(line["mask ratio"], line["test_dataset"]): line for line in csv.DictReader(file)}
    assert lines.keys() == values.keys() == {(row, column) for row in PUBLISHED for column in PUBLISHED[row]}
    table = [line.split(" | ") for line in (folder / "tiny.md").read_text().splitlines() if line.startswith("| 0.")]
    shown = {cells[0].strip("| "): [cell.strip("| ") for cell in cells[1:]] for cells in table}
    for (row, column), value in values.items():
        line, published = lines[row, column], PUBLISHED[row][column]
        assert float(line["published"]) == published
        for name in ("low", "high", "n_real", "n_fake", "n_missing", "n_excluded"):
            assert float(line[name]) == pytest.approx(value[name], abs=1e-6)
        assert float(line["ours"]) == pytest.approx(value["value"], abs=1e-6)
        assert (line["seeds"], line["failure"], line["spread"]) == ("0", "", "")
        first = 3 * list(PUBLISHED[row]).index(column)
        percent = [in_percent(value[name]) for name in ("value", "low", "high")]
        assert shown[row][first] == in_percent(published)
        assert shown[row][first + 1].rstrip(" ↑↓") == "{}* [{}, {}]".format(*percent)
    assert (folder / "tiny.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.ray
def test_the_report_can_be_made_again_from_predictions(whole: Ended, storage: Path) -> None:
    (folder,) = (storage / "reports").iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main([str(folder)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.ray
def test_mlflow_has_the_launch_and_its_trials(whole: Ended, storage: Path, tiny_experiment: Experiment) -> None:
    client, parents, children = tracked(storage)
    (parent,) = parents
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert [child.data.tags["row"] for child in children] == list(ROWS)
    values = ours(storage)
    for child in children:
        row, tags, metrics = child.data.tags["row"], child.data.tags, child.data.metrics
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        times = json.loads((storage / "runs" / tags["run_key"] / "times.json").read_text())
        began, ended = (round(1000 * datetime.fromisoformat(times[name]).timestamp()) for name in ("began", "ended"))
        assert (child.info.start_time, child.info.end_time) == (began, ended)
        assert parent.info.start_time <= began < ended <= parent.info.end_time
        assert (tags["seed"], tags["data"], tags["preset"], tags["method"]) == ("0", "real", "small", "delocate")
        assert tags["commit"]
        assert (tags["torch"], tags["device"], tags["precision"]) == (torch.__version__, "cpu", "fp32")
        for column, published in PUBLISHED[row].items():
            value = values[row, column]
            name = f"{column}/video/auc"
            for end, of_value in (("", "value"), ("/low", "low"), ("/high", "high")):
                assert metrics[name + end] == pytest.approx(value[of_value], abs=1e-6)
            assert metrics[f"{name}/published"] == published
            told = "{n_real} real, {n_fake} fake, {n_missing} failed, {n_excluded} excluded".format_map(value)
            assert child.data.params[f"videos.{column}"].startswith(told)
            assert {f"finetune/{name}", f"localize/{name}"} <= metrics.keys()
        both = [values[row, column]["value"] for column in PUBLISHED[row]]
        assert metrics["unseen/video/auc"] == pytest.approx(sum(both) / 2, abs=1e-6)
        params = child.data.params
        assert params["model_config.recover.mask_ratio"] == row
        assert params["model_config.vit.width"] == str(tiny_experiment.config().vit.width)
        artifacts = {entry.path for entry in client.list_artifacts(child.info.run_id)}
        tables = {f"{name}.parquet" for name in ("results", "predictions", "validation", "sources")}
        assert artifacts == {"trial.json", *tables}
        history = client.get_metric_history(child.info.run_id, "recover/train/loss")
        assert [point.step for point in history] == [1, 2]  # two epochs of one step
    artifacts = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    written = {path.name for path in (storage / "reports").glob("*/*")} - {cache.MADE, logged.LOGGED}
    assert artifacts == written > {"tiny.md", "tiny.csv", "tiny.png"}
    assert parent.data.tags["mlflow.note.content"].startswith("# Table 0: mask ratio")
    assert f"--backend-store-uri sqlite:///{storage}/mlflow.db" in whole.out


# ------------------------------------------------------------------------------------------ again
@pytest.mark.slow
@pytest.mark.ray
def test_the_same_command_again_only_prints_the_table(whole: Ended, desk: Desk, storage: Path) -> None:
    before, tracked_before = mtimes(storage), tracked(storage)
    again = desk.run("tiny", "whole")
    assert again.code == 0
    assert mtimes(storage) == before
    assert again.out.endswith(whole.out[whole.out.index("Table 0: mask ratio: published against ours") :])
    assert "pipelines.launch.launch" in again.imported
    assert not {"ray", "torch._dynamo", "mlflow"} & again.imported
    assert again.seconds < 60
    _, parents, children = tracked(storage)
    for old, new in zip([*tracked_before[1], *tracked_before[2]], [*parents, *children], strict=True):
        assert (new.info.run_id, new.info.end_time) == (old.info.run_id, old.info.end_time)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_dry_run_prints_the_plan_and_starts_nothing(desk: Desk, whole: Ended, storage: Path) -> None:
    for name, to_train, reused in (("dry", "2", "0"), ("whole", "0", "2")):
        dry = desk.run("tiny", name, "--dry-run")
        assert (dry.code, dry.complaints) == (0, [])
        rows = [line.replace("│", " ").split() for line in dry.out.splitlines() if "│ delocate" in line]
        assert [row[:5] for row in rows] == [
            ["delocate", stage, "2", to_train, reused] for stage in ("recover", "finetune", "localize")
        ]
        assert not {"ray", "mlflow"} & dry.imported
    assert not (desk.folder / "dry" / "stages").exists()
    other = desk.run("tiny", "whole", "--dry-run", "--set", "precision=fp32")
    why = "2 to train again, trained before with the same settings but other precision auto -> fp32"
    assert f"delocate recover: {why}" in " ".join(other.out.split())


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_sweep_goes_on_and_ends_with_the_same_numbers(whole: Ended, desk: Desk, storage: Path) -> None:
    broken = desk.folder / "broken-off"
    shutil.copytree(storage / "faces", broken / "faces")
    process = desk.start("tiny", "broken-off")
    until(lambda: list(broken.glob("stages/delocate/*/*/_done.json")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = {path: path.stat().st_mtime_ns for path in broken.glob("stages/delocate/*/*/_done.json")}
    assert 0 < len(survived) < 6
    assert not list(broken.glob("runs/*/_done.json"))

    assert desk.run("tiny", "broken-off").code == 0
    assert {path: path.stat().st_mtime_ns for path in survived} == survived
    for digest, table in results(storage).items():
        assert results(broken)[digest] == table, digest
    assert results(broken).keys() == results(storage).keys()
    client, parents, children = tracked(broken)
    assert [run.info.status for run in (*parents, *children)] == ["FINISHED"] * 3
    for child in children:
        history = client.get_metric_history(child.info.run_id, "recover/train/loss")
        assert [point.step for point in history] == [1, 2]


KILLS = 10  # each costs half a minute and more


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240 + 90 * KILLS)
def test_killed_anywhere_again_and_again_it_ends_with_the_same_numbers(whole: Ended, desk: Desk, storage: Path) -> None:
    """The driver, a trial, a reader of videos or its child, at any moment; the same command goes on."""
    rng = random.Random(0)
    for home, kills in (("from-faces", KILLS - KILLS // 2), ("from-videos", KILLS // 2)):
        folder, killed = desk.folder / home, list[str]()
        if not kills:
            continue
        if home == "from-faces":
            shutil.copytree(storage / "faces", folder / "faces")
        while len(killed) < kills and not list(folder.glob("reports/*/tiny.csv")):
            killed += kill_some(desk.start("tiny", home), rng, kills - len(killed))
        codes = [desk.run("tiny", home).code]
        if codes[0] == 1:  # a row whose trial was killed more often than it is retried
            codes.append(desk.run("tiny", home).code)
        assert codes[-1] == 0, (killed, desk.out.read_text())
        again = results(folder)
        assert again.keys() == results(storage).keys()
        for digest, table in results(storage).items():
            assert again[digest] == table, (digest, killed)
        ledgers = [pq.read_table(path) for path in folder.glob("faces/*/*/ledger.parquet")]
        assert {status for table in ledgers for status in table["status"].to_pylist()} == {"ok"}
        print(f"killed {home}:", ", ".join(killed))  # noqa: T201  shown with -s


IN_BUCKET_KILLS = 5


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240 + 90 * KILLS)
def test_in_a_bucket_it_ends_with_the_same_numbers_whatever_is_killed_or_goes_wrong_on_the_way(
    whole: Ended, desk: Desk, storage: Path, in_bucket: Any, tmp_path: Path
) -> None:
    """From the videos on; meanwhile one request in 50 is refused, done without an answer, answered in half, or slow."""
    kept, progress, faults = in_bucket.path, Progress(in_bucket.server, storage), random.Random(1)
    in_bucket.server.fault = lambda *_: faults.choice(FAULTS) if faults.random() < 0.02 else ""
    killed = kill_at(moments(IN_BUCKET_KILLS, seed=0), progress, lambda: desk.start("tiny", str(kept)), seed=0)
    assert len(killed) == IN_BUCKET_KILLS  # each of a process that lived, while the command ran
    codes = [desk.run("tiny", str(kept)).code]
    if codes[0] == 1:  # a row whose trial was killed more often than it is retried
        codes.append(desk.run("tiny", str(kept)).code)
    assert codes[-1] == 0, (killed, desk.out.read_text(), desk.err.read_text()[-5000:])
    in_bucket.server.fault = lambda *_: ""
    here, there = numbers(storage), numbers(kept)
    assert there.keys() == here.keys()
    assert [name for name, rows in here.items() if there[name] != rows] == [], killed
    for pattern in ("stages/*/*/*/_done.json", "faces/*/*/_done.json", "reports/*/*", "runs/*/*"):
        ours, theirs = ({str(path.relative_to(root)) for path in root.glob(pattern)} for root in (kept, storage))
        assert {name for name in ours ^ theirs if "logged.json" not in name and "/." not in name} == set(), pattern
    ledgers = [pq.read_table(path) for path in kept.glob("faces/*/*/ledger.parquet")]
    assert {status for table in ledgers for status in table["status"].to_pylist()} == {"ok"}
    assert not list((desk.folder / "crossforge-storage").glob("[!.m]*"))  # but for MLflow nothing lies on the disk
    print("killed in a bucket:", killed)  # noqa: T201  shown with -s


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_two_launches_at_once_in_a_bucket_train_each_stage_once(
    whole: Ended, desk: Desk, storage: Path, in_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Ray and a cache each, as on two machines."""
    kept, both = in_bucket.path, list["subprocess.Popen[str]"]()
    for place in (str(kept), f"{kept}/"):
        monkeypatch.setenv("CROSSFORGE_CACHE", str(tmp_path / f"cache{len(both)}"))
        both.append(desk.start("tiny", place))
    assert [process.wait(500) for process in both] == [0, 0], desk.out.read_text()
    assert numbers(kept) == numbers(storage)
    puts = Counter(path for method, path in in_bucket.server.requests if method == "PUT")
    stages = {path: number for path, number in puts.items() if re.search(r"/stages/\w+/\w+/\w+/_done\.json$", path)}
    assert len(stages) == 2 * 3
    assert set(stages.values()) == {1}


def kill_some(process: "subprocess.Popen[str]", rng: random.Random, most: int) -> list[str]:
    """Kills the sweep's processes until the driver is dead or has ended. The names of the victims."""
    driver, killed = psutil.Process(process.pid), list[str]()
    while len(killed) < most and process.poll() is None:
        of_ray, least = rng.random() < 0.7, time.monotonic() + rng.uniform(0, 8)
        while process.poll() is None:
            time.sleep(0.05)
            victims = [process for process in family(driver) if name_of(process)] if of_ray else [driver]
            if victims and time.monotonic() > least:
                victim = rng.choice(victims)
                killed.append(name_of(victim) if of_ray else "driver")
                victim.kill()
                break
    process.wait()
    return killed


def until(ready: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------- failures
@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_row_that_fails_says_why_and_the_others_go_on(whole: Ended, desk: Desk, storage: Path) -> None:
    desk.script("failing", BROKEN)
    failing = desk.run("failing", "whole")
    assert failing.code == 1, failing.out
    (line,) = [line for line in failing.out.splitlines() if "FAILED" in line]
    assert "FAILED broken on celeb_df, dfdc: NonFiniteLoss: the loss is not finite at step" in line
    assert "Traceback" not in failing.out
    assert failing.complaints == []
    _, (parent,), children = tracked(storage, "failing")
    assert {child.data.tags["row"]: child.info.status for child in children} == {"0.7": "FINISHED", "broken": "FAILED"}
    assert parent.info.status == "FAILED"
    (folder,) = storage.glob("reports/failing-*")
    with (folder / "failing.csv").open() as file:
        lines = {(line["mask ratio"], line["test_dataset"]): line for line in csv.DictReader(file)}
    for column in ("celeb_df", "dfdc"):
        assert 0 <= float(lines["0.7", column]["ours"]) <= 1
        assert lines["broken", column]["ours"] == ""
        assert "NonFiniteLoss" in lines["broken", column]["failure"]


def unknown_dataset(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--datasets", str(desk.toml("unknown.toml", roots | {"celebdf": "/data"}))]


def missing_root(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--datasets", str(desk.toml("missing.toml", {**roots, "celeb_df": "/data/nowhere"}))]


def no_root(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--datasets", str(desk.toml("less.toml", {"ffpp": roots["ffpp"], "dfdc": roots["dfdc"]}))]


def no_file(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--datasets", "nowhere.toml"]


def unwritable(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--storage", "/proc/x"]


def bucket(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--storage", "s3://bucket/storage"]


def unknown_switch(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--epochs", "3"]


def bad_number(desk: Desk, roots: Mapping[str, str]) -> list[str]:
    return ["--seeds", "0"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(unknown_dataset, "unknown dataset 'celebdf'; did you mean 'celeb_df'?", marks=pytest.mark.nightly),
        (missing_root, "root of celeb_df: /data/nowhere does not exist"),
        pytest.param(no_root, "no root for celeb_df; add a line to datasets.toml", marks=pytest.mark.nightly),
        pytest.param(no_file, "nowhere.toml cannot be read", marks=pytest.mark.nightly),
        pytest.param(unwritable, "--storage /proc/x can't be written", marks=pytest.mark.nightly),
        pytest.param(bucket, "s3:// can't be used: no credentials found", marks=pytest.mark.nightly),
        (unknown_switch, "unrecognized arguments: --epochs"),
        pytest.param(bad_number, "--seeds: must be 1 or more", marks=pytest.mark.nightly),
    ],
)
def test_wrong_input_is_one_message(desk: Desk, tiny_roots: Any, wrong: Any, message: str) -> None:
    ended = desk.run("tiny", "wrong", *wrong(desk, tiny_roots))
    refused(ended, message)


@pytest.mark.nightly
def test_a_wrong_row_is_one_message(desk: Desk) -> None:
    desk.script("wrong_row", {"1.5": {"model.recover.mask_ratio": 1.5}})
    refused(desk.run("wrong_row", "wrong"), "mask_ratio must be in (0, 1], got 1.5")
    desk.script("wrong_name", {"0.5": {"model.recover.maskratio": 0.5}})
    refused(desk.run("wrong_name", "wrong"), "maskratio")


def refused(ended: Ended, message: str) -> None:
    said = ended.out + "\n".join(ended.complaints)
    assert ended.code == 2, said
    assert message in said
    assert "Traceback" not in said
    assert said.count("error:") == 1
    assert "ray" not in ended.imported


# ---------------------------------------------------------------------------------------- the search
@pytest.fixture(scope="module")
def searched(whole: Ended, desk: Desk, storage: Path) -> Ended:
    """On a copy of a finished sweep: its faces and stages are there."""
    shutil.copytree(storage, desk.folder / "searched")
    return desk.run("tiny", "searched", "--search", "3", "--space", "model.localize.lr=0.001..0.01:log")


def candidates(storage: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(storage.glob("searches/*/*.json"))]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_search_ends_with_the_best_setting_beside_the_declared_one(searched: Ended, desk: Desk) -> None:
    assert searched.code == 0, searched.out
    storage = desk.folder / "searched"
    tried = candidates(storage)
    assert len(tried) == 3
    assert all(0.001 <= candidate["settings"]["model.localize.lr"] <= 0.01 for candidate in tried)
    best = max(
        (candidate for candidate in tried if candidate["state"] == "finished"), key=lambda candidate: candidate["auc"]
    )
    (report,) = storage.glob("reports/tiny_search-*/tiny_search.csv")
    rows = list(csv.DictReader(report.open()))
    declared = {"model.localize.lr": desk.base["model.localize.lr"]}
    expected = ["as declared"] * 2 + ["found"] * 2 * (best["settings"] != declared)
    assert [row["setting"] for row in rows] == expected
    assert all(row["ours"] for row in rows)
    trials = [json.loads(path.read_text()) for path in storage.glob("runs/*/trial.json")]
    rates = [trial["experiment"]["model_args"]["localize.lr"] for trial in trials]
    assert best["settings"]["model.localize.lr"] in rates


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_search_scores_no_test_video_of_a_candidate_that_was_not_chosen(searched: Ended, desk: Desk) -> None:
    storage = desk.folder / "searched"
    scored = {path.parent.name for path in storage.glob("runs/*/results.parquet")}
    before = {path.parent.name for path in (desk.folder / "whole").glob("runs/*/results.parquet")}
    (report,) = storage.glob("reports/tiny_search-*/tiny_search.csv")
    settings = {row["setting"] for row in csv.DictReader(report.open())}
    assert len(scored - before) == len(settings - {"as declared"})  # which is a row that was scored before
    localized = list(storage.glob("stages/delocate/localize/*/_done.json"))
    predicted = list(storage.glob("stages/delocate/localize/*/predictions"))
    assert len(localized) > len(predicted)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_larger_search_adds_to_a_smaller_one(searched: Ended, desk: Desk) -> None:
    storage = desk.folder / "searched"
    before = {candidate["settings"]["model.localize.lr"] for candidate in candidates(storage)}
    again = desk.run("tiny", "searched", "--search", "4", "--space", "model.localize.lr=0.001..0.01:log")
    assert again.code == 0, again.out
    assert "1 of 4 candidates to train" in again.out
    after = {candidate["settings"]["model.localize.lr"] for candidate in candidates(storage)}
    assert len(after) == 4
    assert before < after


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_the_space_of_a_search_that_is_none_is_refused(desk: Desk) -> None:
    ended = desk.run("tiny", "whole", "--space", "model.localize.lr=0.1..0.2")
    assert ended.code == 2
    assert "--search" in ended.out
