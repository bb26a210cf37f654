"""Which videos a launch needs of the user's datasets: all, and with the preset tiny a few."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipelines import datasets
from pipelines.common.tables import VIDEOS, to_table
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.launch import data
from pipelines.launch.request import Request

METHODS = ("Deepfakes", "FaceSwap")
NUM = 12  # real videos in each part of `ffpp`, and fakes of each method


def row(dataset: str, method: str, split: str, stem: str, *sources: str) -> dict[str, Any]:
    codec = "c23" if dataset == "ffpp" else "unknown"
    return dict.fromkeys(VIDEOS.names) | {
        "dataset": dataset,
        "video_id": f"{dataset}/{method}/{codec}/{split}{stem}",
        "label": int(method != "real"),
        "method": method,
        "codec": codec,
        "split": split,
        "root": dataset,
        "uri": f"{method}/{stem}.mp4",
        "source_ids": list(sources),
        "face_rule": "largest",
    }


def ffpp() -> list[dict[str, Any]]:
    """Deepfakes show the people from the end of the alphabet first, FaceSwap from its middle."""
    rows = []
    for split in ("train", "val", "test"):
        names = [f"ffpp/{split}{i:02}" for i in range(NUM)]
        for i, name in enumerate(names):
            rows.append(row("ffpp", "real", split, f"{i:02}", name))
            targets = zip(METHODS, (names[NUM - 1 - i], names[(i + NUM // 2 - 2) % NUM]), strict=True)
            rows += [row("ffpp", method, split, f"{i:02}", target, name) for method, target in targets]
    return rows


def dfdc() -> list[dict[str, Any]]:
    """Of the first half of the real videos, each shows somebody whom `ffpp` trains on."""
    people = [f"ffpp/train{i:02}" if i < NUM // 2 else f"dfdc/{i}" for i in range(NUM)]
    rows = [row("dfdc", "real", "test", f"{i:02}", name) for i, name in enumerate(people)]
    return rows + [row("dfdc", "swap", "test", f"{i:02}", f"dfdc/{i}") for i in range(NUM)]


@pytest.fixture
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"ffpp": to_table(ffpp(), VIDEOS), "dfdc": to_table(dfdc(), VIDEOS)}
    monkeypatch.setattr(datasets, "load", lambda name, roots: listed[name])


def load(preset: Any, config_file: Path | None, storage: Path) -> tuple[list[Experiment], data.Data]:
    base = Experiment(model="plain", train_on="ffpp", test_on=("ffpp", "dfdc"), preset=preset)
    alone = base.override({"manipulations": ("FaceSwap",), "test_on": ("dfdc",), "faces.margin": 1.7})
    request = Request(
        sweep=SimpleNamespace(),  # type: ignore[arg-type]
        options=SimpleNamespace(storage=str(storage), dry_run=True),  # type: ignore[arg-type]
        config_file=config_file,
        preset=preset,
        experiments={("all", 0): base, ("alone", 0): alone},
    )
    return [base, alone], data.load(request, {"ffpp": str(storage), "dfdc": str(storage)})


def num_of(videos: pa.Table) -> Mapping[tuple[str, str], int]:
    """Return how many there are, by split and method."""
    counted = videos.group_by(["split", "method"]).aggregate([([], "count_all")]).to_pylist()
    return {(each["split"], each["method"]): each["count_all"] for each in counted}


@pytest.mark.usefixtures("_listed")
def test_tiny_takes_a_few_of_each_part_and_kind(tmp_path: Path) -> None:
    experiments, found = load("tiny", tmp_path / "datasets.toml", tmp_path)
    fakes = {(split, method): data.FEW for split in ("train", "val", "test") for method in METHODS}
    real = {(split, "real"): 2 * data.FEW for split in ("train", "val", "test")}
    assert num_of(found.videos["ffpp"]) == fakes | real
    assert num_of(found.videos["dfdc"]) == {("test", "real"): data.FEW, ("test", "swap"): data.FEW}
    # What it takes is a protocol again, in which each fake shows somebody who is there as a real video, too.
    for experiment in experiments:
        built, recipe = protocol.build(experiment, found.videos), experiment.recipe()
        extracted = {
            each.dataset: set(each.videos["video_id"].to_pylist())
            for each in found.extractions
            if each.recipe == recipe
        }
        for part in (built.train, built.select, *built.test):
            assert part.excluded == ()
            assert set(part.video_ids) <= extracted[part.dataset]
            if part.dataset == "ffpp":
                assert {r["source_ids"][0] for r in part.rows if r["label"]} <= {
                    r["source_ids"][0] for r in part.rows if not r["label"]
                }


@pytest.mark.usefixtures("_listed")
@pytest.mark.parametrize(("preset", "own"), [("small", True), ("tiny", False)])
def test_others_take_all(tmp_path: Path, preset: str, own: bool) -> None:
    _, found = load(preset, tmp_path / "datasets.toml" if own else None, tmp_path)
    assert num_of(found.videos["ffpp"])["train", "real"] == NUM
    assert {each.dataset: each.videos.num_rows for each in found.extractions[:2]} == {
        "ffpp": 3 * NUM * (1 + len(METHODS)),
        "dfdc": NUM // 2 + NUM,  # the others show people whom it is trained on
    }
