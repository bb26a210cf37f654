import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

import models

FILE = Path(__file__).parents[2] / "benchmarks" / "real_faces.py"
SPEC = importlib.util.spec_from_file_location("real_faces", FILE)
assert SPEC
assert SPEC.loader
real_faces = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(real_faces)
QUIET = Console(quiet=True)


def video(name: str, label: int, logit: float, perturbation: str = "", method: str = "") -> dict:
    return {
        "dataset": "own",
        "video_id": f"own/{name}",
        "label": label,
        "logit": logit,
        "perturbation": perturbation,
        "method": method or ("swap" if label else "real"),
    }


@pytest.mark.parametrize("epochs", [2, 10, 20])
def test_the_recipes_are_ones_that_the_methods_take(epochs):
    methods = ("adfd", "plain", "laa_net")
    sweep = real_faces.sweep_of(methods, ["faces"], ["faces"], 160, epochs)
    for (method, _), experiment in sweep.experiments("paper", 1, {}).items():
        (stage,) = models.stages(method)
        (network,) = stage.pretrained_networks(experiment.config())
        assert network.partition(".")[0] == real_faces.BACKBONE
        feed = stage.feed(experiment.config())
        assert (feed.num_epochs, experiment.config().stored_px >= 160) == (epochs, True)


def test_a_fake_is_compared_with_its_own_original():
    videos = [
        video("a", 0, 1.0),
        video("b", 0, -3.0),
        video("fake-a", 1, 0.5),  # below its original, above the other real one
        video("fake-b", 1, -1.0),
        video("fake-b", 1, -9.0, "jpeg-50"),
        video("alone", 1, 5.0),
    ]
    originals = {"own/fake-a": "own/a", "own/fake-b": "own/b", "own/alone": None}
    rows = pa.table({"video_id": list(originals), "real_id": pa.array(list(originals.values()), pa.string())})
    (found,) = real_faces.paired(videos, SimpleNamespace(videos={"own": rows}), QUIET)
    assert (found["method"], found["value"], found["pairs"]) == ("swap", 0.5, 2)


def test_wear_is_told_of_real_faces_alone():
    videos = [video("a", 0, -1.0), video("b", 0, 1.0), video("fake", 1, 9.0)]
    videos += [
        video(name, label, logit, wear)
        for wear in real_faces.WEAR
        for name, label, logit in (("a", 0, 1.0), ("b", 0, 4.0), ("fake", 1, 9.0))
    ]
    clean, *worn = real_faces.worn(videos, QUIET)
    assert (clean["wear"], clean["called_fake"], clean["median_shift"], clean["videos"]) == ("none", 0.5, 0.0, 2)
    assert {(row["called_fake"], row["median_shift"], row["median_logit"]) for row in worn} == {(1.0, 2.5, 2.5)}
