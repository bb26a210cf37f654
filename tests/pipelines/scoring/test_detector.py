"""A detector of the user's own: what it is shown, what is refused, and that it scores as a stage of ours does."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

import models
from pipelines import score_detector
from pipelines.common import tables
from pipelines.common.cluster import Resources
from pipelines.common.own_code import OwnCodeError
from pipelines.common.storage import read_json, write_json
from pipelines.experiments.experiment import Experiment
from pipelines.faces import plan
from pipelines.reporting.saved import Run
from pipelines.scoring import detector
from pipelines.scoring.detector import Input, load, score_part
from pipelines.scoring.predictions import read_predictions
from pipelines.scoring.score import FinishedStage, score_parts
from pipelines.trials import planner

BRIGHTNESS = """
import torch

def build():
    return lambda pictures: pictures.flatten(1).mean(1), {"size_px": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}
"""


def written(folder: Path, text: str = BRIGHTNESS, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:build"


# -------------------------------------------------------------------------------------------------- what it is shown
def logits(network: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray, **wants: Any) -> list[float]:
    stage = detector._Faces(network, Input(**{"mean": (0.0,) * 3, "std": (1.0,) * 3, **wants}))
    return stage.score({"image": torch.from_numpy(image)})["logit"].tolist()


def test_pictures_are_normalised_in_the_order_of_colours_that_is_asked_for() -> None:
    image = np.broadcast_to(np.array([0, 51, 255], np.uint8), (2, 16, 16, 3)).copy()  # red 0, green 0.2, blue 1
    seen = []

    def network(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(pictures)
        return pictures[:, 0, 0, 0]

    of_rgb = logits(network, image, mean=(0.5, 0.1, 0.0), std=(0.5, 0.1, 2.0))
    assert of_rgb == [-1, -1]  # (0 - 0.5) / 0.5
    torch.testing.assert_close(seen[0][0, :, 3, 7], torch.tensor([-1.0, 1.0, 0.5]))
    assert logits(network, image, colour="bgr", mean=(0.5, 0.1, 0.0), std=(0.5, 0.1, 2.0)) == [1, 1]  # blue first
    assert seen[0].shape == (2, 3, 16, 16)


def test_a_clip_has_its_frames_after_the_batch_and_calls_are_of_the_size_that_is_asked_for() -> None:
    sizes = []

    def network(clips: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(clips.shape))
        return clips.mean((1, 2, 3, 4))

    image = np.zeros((5, 4, 16, 16, 3), np.uint8)
    image[3] = 255
    assert logits(network, image, clip_frames=4, batch_size=2) == [0, 0, 0, 1, 0]
    assert sizes == [(2, 4, 3, 16, 16), (2, 4, 3, 16, 16), (1, 4, 3, 16, 16)]


@pytest.mark.parametrize(
    ("says", "number", "logit"),
    [
        ({}, 2.0, 2.0),
        ({"higher_is": "real"}, 2.0, -2.0),
        ({"score_is": "probability"}, 0.8, np.log(4)),
        ({"score_is": "probability", "higher_is": "real"}, 0.8, -np.log(4)),
    ],
)
def test_a_number_becomes_the_log_odds_of_fake(says: Any, number: float, logit: float) -> None:
    image = np.zeros((1, 16, 16, 3), np.uint8)
    for shape in ((1,), (1, 1)):
        (found,) = logits(lambda pictures, shape=shape: torch.full(shape, number), image, **says)
        assert found == pytest.approx(logit)


@pytest.mark.parametrize(
    ("output", "says", "told"),
    [
        (torch.zeros(2, 2), {}, "it must return one score of each: a tensor (2,); it returned (2, 2)"),
        (torch.zeros(1, 2), {}, "it must return one score of each: a tensor (2,); it returned (1, 2)"),
        ([0.0, 0.0], {}, "it must return one score of each: a tensor (2,); it returned list"),
        (torch.tensor([0.0, torch.nan]), {}, "it gives no finite number"),
        (torch.tensor([0.0, 1.5]), {"score_is": "probability"}, "it gives numbers outside [0, 1]"),
    ],
)
def test_what_is_no_score_is_refused(output: Any, says: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        logits(lambda pictures: output, np.zeros((2, 16, 16, 3), np.uint8), **says)


# ----------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def build():\n    raise KeyError('weights')", "mine.py:build failed: KeyError: 'weights' (mine.py, line 2)"),
        (
            "def build():\n    return print",
            "mine.py:build must return a network and what it wants, such as (network, {",
        ),
        ("def build():\n    return print, {'size': 3}", "mine.py:build: unknown config keys ['size']; allowed are ['b"),
        ("def build():\n    return print, {'size_px': 3}", "mine.py:build: size_px must be from 16 to 1024, got 3"),
        ("def build():\n    return print, {'margin': 0.5}", "mine.py:build: margin must be at least 1, got 0.5"),
        ("def build():\n    return print, {'std': (1, 0, 1)}", "mine.py:build: std must not be 0"),
        (
            "def build():\n    return print, {'colour': 'grey'}",
            "mine.py:build: colour must be one of 'rgb', 'bgr', got",
        ),
        (
            "def build():\n    return lambda pictures: 1 / 0, {'size_px': 32}",
            "mine.py:build can't score pictures (3, 32, 32) of noise: ZeroDivisionError: division by zero (mine.py, l",
        ),
        (
            "def build():\n    return print, {'margin': 1e9}",
            "mine.py:build: margin must be at most 10, got 1000000000.0",
        ),
        ("def build():\n    return print, {'std': (-1, 1, 1)}", "mine.py:build: std must be positive and finite, got"),
        ("import sys\ndef build():\n    sys.exit(0)", "mine.py:build failed: SystemExit: 0 (mine.py, line 3)"),
        ("import sys\nsys.exit(0)", "mine.py can't be run: SystemExit: 0 (mine.py, line 2)"),
        (
            "import sys\ndef build():\n    return lambda pictures: sys.exit(0), {'size_px': 32}",
            "mine.py:build can't score pictures (3, 32, 32) of noise: SystemExit: 0",
        ),
        ("build = 3", "mine.py:build failed: TypeError: 'int' object is not callable"),
    ],
)
def test_a_factory_that_is_no_use_says_why(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(OwnCodeError, match=re.escape(told)):
        load(written(tmp_path, text), tmp_path)


@pytest.mark.parametrize("named", ["mine.py", "mine.py:", ":build", "mine.py:two words"])
def test_a_detector_is_a_file_and_a_factory(named: str, tmp_path: Path) -> None:
    with pytest.raises(OwnCodeError, match=r"write FILE:FACTORY, such as my_detector\.py:build"):
        load(named, tmp_path)


def test_the_digest_follows_what_can_change_scores(tmp_path: Path) -> None:
    linear = """
import torch
def build():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1))
    torch.nn.init.constant_(network[1].weight, torch.load("weight.pt"))
    return network, {"size_px": 32}
"""
    digests = []
    for weight in (0.5, 0.5, 0.25):
        torch.save(weight, tmp_path / "weight.pt")
        text = linear.replace("weight.pt", str(tmp_path / "weight.pt")).replace(
            "return", "torch.nn.init.zeros_(network[1].bias); return"
        )
        made = load(written(tmp_path, text), tmp_path)
        assert made.knows_weights
        digests.append(made.planned.digest)
    assert digests[0] == digests[1] != digests[2]
    assert load(written(tmp_path), tmp_path).planned.digest not in digests
    assert not load(written(tmp_path), tmp_path).knows_weights


HOLDS = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        HELD
    def forward(self, pictures):
        return pictures.flatten(1).mean(1)
def build():
    return Net(), {"size_px": 32}
"""


@pytest.mark.parametrize(
    "held",
    [
        "self.weight = torch.nn.Parameter(torch.tensor(VALUE))",
        "self.weight = torch.tensor(VALUE)",
        "self.weight = torch.tensor(VALUE).numpy()",
        "self.register_buffer('weight', torch.tensor(VALUE), persistent=False)",
        "self.get_extra_state = lambda: {'weight': VALUE}",
    ],
)
def test_all_that_a_network_holds_is_in_the_digest(held: str, tmp_path: Path) -> None:
    """Where it comes from the same file: another's numbers in a file of weights."""
    weights = []
    for value in ("1.0", "2.0", "1.0"):
        text = HOLDS.replace("HELD", held.replace("VALUE", value))
        if "extra" in held:
            text = text.replace("self." + "get_extra_state = lambda", "type(self).get_extra_state = lambda self")
        made = load(written(tmp_path, text), tmp_path)
        assert made.knows_weights
        weights.append(made.planned.spec["weights"])
    assert weights[0] == weights[2] != weights[1]


@pytest.mark.parametrize("held", ["self.session = object()", "type(self).get_extra_state = lambda self: open('/')"])
def test_of_a_network_that_holds_no_tensors_the_weights_are_not_known(held: str, tmp_path: Path) -> None:
    assert not load(written(tmp_path, HOLDS.replace("HELD", held)), tmp_path).knows_weights


def test_the_digest_follows_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net_beside.py").write_text("SIGN = 1")
    text = "from net_beside import SIGN\n" + HOLDS.replace("HELD", "self.weight = torch.ones(1) * SIGN")
    before = load(written(tmp_path, text), tmp_path)
    assert before.planned.spec["beside"].keys() == {"net_beside.py"}
    (tmp_path / "net_beside.py").write_text("SIGN = 1  # and another forward")
    assert load(written(tmp_path, text), tmp_path).planned.digest != before.planned.digest


# ------------------------------------------------------------------------------------------------------ over our faces
PLAIN = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df",), preset="small").override(
    {"model.video_frames": 4, "model.input_px": 64}
)
SAME = """
import safetensors.torch

from models import plain

def build():
    stage = plain.Detect(plain.Config(backbone="test_resnet", input_px=64, pretrained=False))
    stage.load_state_dict(safetensors.torch.load_file("WEIGHTS"))
    wants = {"size_px": 64, "mean": stage.mean.flatten().tolist(), "std": stage.std.flatten().tolist()}
    return stage.network, wants
"""


@pytest.fixture(scope="module")
def stage(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The trial of a plain classifier on extracted faces, whose stage looks trained."""
    storage = tmp_path_factory.mktemp("storage")
    trial = planner.plan(PLAIN, tiny.videos, tiny.ledgers, tiny.faces, storage)
    (planned,) = trial.planned
    torch.manual_seed(7)
    module = models.stage("plain", "detect")(PLAIN.config())
    planned.folder.mkdir(parents=True)
    safetensors.torch.save_file(module.state_dict(), planned.folder / "weights.safetensors")
    write_json(planned.folder / "_done.json", {"seconds": 0})
    return trial


def test_the_network_of_a_stage_gets_the_scores_of_the_stage(stage: Any, tmp_path: Path) -> None:
    (planned,), (part,) = stage.planned, stage.test
    finished = FinishedStage(planned=planned, config=PLAIN.config())
    score_parts([finished], {part.digest: part.videos}, stage.faces, num_actors=0)
    ours = read_predictions(planned, part.digest)
    mine = load(written(tmp_path, SAME.replace("WEIGHTS", str(planned.folder / "weights.safetensors"))), tmp_path)
    scored = score_part(mine, part.digest, part.videos, stage.faces)
    assert scored.failed == {}
    assert scored.predictions.num_rows == ours.num_rows > 0
    assert scored.predictions.schema.equals(tables.PREDICTIONS)
    for name in set(tables.PREDICTIONS.names) - {"stage", "logit", "score"}:
        assert scored.predictions[name].equals(ours[name]), name
    np.testing.assert_allclose(scored.predictions["logit"], ours["logit"], atol=1e-5)
    assert np.std(ours["logit"]) > 1e-3  # else a mix-up would not be seen


FAILS_ONCE = """
import torch
calls = []
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
    def forward(self, pictures):
        calls.append(len(pictures))
        if len(calls) == NUMBER:
            raise ArithmeticError("too dark")
        return pictures.flatten(1).mean(1) * self.weight

def build():
    return Net(), {"size_px": 32}
"""


def test_a_video_on_which_it_fails_costs_itself_and_nothing_is_scored_twice(stage: Any, tmp_path: Path) -> None:
    (part,) = stage.test
    mine = load(written(tmp_path, FAILS_ONCE.replace("NUMBER", "3")), tmp_path)  # the first call was of noise
    seen: list[tuple[int, int]] = []
    scored = score_part(mine, part.digest, part.videos, stage.faces, on_video=lambda *at: seen.append(at))
    second = part.videos[1].video_id
    assert scored.failed == {second: "ArithmeticError: too dark (mine.py, line 11)"}
    assert {*scored.predictions["video_id"].to_pylist()} == {v.video_id for v in part.videos} - {second}
    assert seen == [(i, len(part.videos)) for i in range(1, len(part.videos) + 1)]
    seen.clear()
    again = score_part(mine, part.digest, part.videos, stage.faces, on_video=lambda *at: seen.append(at))
    assert seen == [(1, 1)]  # that one
    assert again.failed == {}
    assert {*again.predictions["video_id"].to_pylist()} == {v.video_id for v in part.videos}
    third = score_part(mine, part.digest, part.videos, stage.faces, on_video=lambda *at: pytest.fail("scored again"))
    assert third.predictions.equals(again.predictions)
    assert third.made_with["device"]


@pytest.mark.parametrize(("text", "tried"), [(FAILS_ONCE, [["a", "b"], ["b"], []]), (BRIGHTNESS, [["a", "b"]] * 3)])
def test_what_is_scored_again(
    text: str, tried: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video that failed, and all where the weights are not known."""
    calls: list[list[str]] = []

    def apply(actor: type, args: Any, videos: Any, *rest: Any) -> Iterator[pa.Table]:
        calls.append([video.video_id for video in videos])
        for name in calls[-1]:
            row = dict.fromkeys(tables.PREDICTIONS.names) | {
                **dict.fromkeys(("stage", "dataset", "method", "perturbation"), "x"),
                **dict.fromkeys(("frame_index", "face_index", "label", "num_repeated"), 0),
                **dict.fromkeys(("logit", "score", "face_area_px"), 0.5),
                "video_id": name,
            }
            table = tables.to_table([row], tables.PREDICTIONS)
            sink = pa.BufferOutputStream()
            table = table.replace_schema_metadata({"made_with": f'{{"device": "{len(calls)}"}}'})
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            problem = "no memory" if (name, len(calls)) == ("b", 1) else ""
            told = {"video_id": name, "problem": problem, "predictions": sink.getvalue().to_pybytes()}
            yield pa.Table.from_pylist([told], schema=detector._EACH)

    monkeypatch.setattr(detector, "apply_actor", apply)
    mine = load(written(tmp_path, text.replace("NUMBER", "0")), tmp_path)
    videos: Any = [SimpleNamespace(video_id=name) for name in "ab"]
    scored = [score_part(mine, "part", videos, {}) for _ in range(3)]
    assert calls == [names for names in tried if names]
    assert [one.failed for one in scored] == [{"b": "no memory"}, {}, {}]
    assert [one.predictions["video_id"].to_pylist() for one in scored] == [["a"], ["a", "b"], ["a", "b"]]
    assert scored[2].made_with == {"device": "1, 2" if mine.knows_weights else "3"}


def test_where_it_fails_on_every_video_it_is_said(stage: Any, tmp_path: Path) -> None:
    (part,) = stage.test
    text = FAILS_ONCE.replace("== NUMBER", "> 1")
    with pytest.raises(ValueError, match=rf"mine\.py scored none of {len(part.videos)} videos, e\.g\. .*: Arithmetic"):
        score_part(load(written(tmp_path, text), tmp_path), part.digest, part.videos, stage.faces)
    assert not list(tmp_path.glob("detectors/*/predictions/*"))


@pytest.mark.nightly
def test_clips_through_ray_score_as_here(stage: Any, tmp_path: Path) -> None:
    (part,) = stage.test
    text = """
def build():
    return lambda clips: clips.flatten(1).mean(1), {"size_px": 32, "clip_frames": 3}
"""
    mine = load(written(tmp_path, text), tmp_path / "here")
    here = score_part(mine, part.digest, part.videos, stage.faces).predictions
    there = load(written(tmp_path, text), tmp_path / "there")
    by_ray = score_part(there, part.digest, part.videos, stage.faces, num_actors=1).predictions
    assert by_ray.equals(here)
    assert here.num_rows == 4 * len(part.videos)  # of each frame one, though frames 1 and 2 are in two clips


@pytest.mark.nightly
def test_the_whole_command(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From videos to a run; the second time nothing is extracted or scored."""

    @contextmanager
    def ray_of_the_tests(address: str | None) -> Iterator[Resources]:
        yield Resources(cpus=4, gpus=0, memory_bytes=2**30)

    monkeypatch.setattr(score_detector.cluster, "connect", ray_of_the_tests)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.toml").write_text("".join(f'{name} = "{root}"\n' for name, root in tiny.roots.items()))
    named = written(tmp_path)
    switches = [named, "--test-on", "celeb_df", "--set", "num_frames=4"]
    assert score_detector.main([*switches, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Faces: 4 frames of a video, crops of 1.3 boxes at 32 px; 5 videos are to be extracted" in said
    assert "The network is no torch.nn.Module" in said
    assert score_detector.main(switches) == 0
    assert "mine †" in capsys.readouterr().out
    (folder,) = (tmp_path / "crossforge-storage" / "runs").iterdir()
    run = Run.read(folder)
    assert {row["level"] for row in run.results.to_pylist()} == {"frame", "video"}
    assert {row["n_real"] + row["n_fake"] + row["n_missing"] for row in run.results.to_pylist()} == {5}
    assert read_json(folder / "trial.json")["foreign"]["input"]["size_px"] == 32
    monkeypatch.setattr(plan, "extract_missing", lambda *args: pytest.fail("nothing is missing"))
    assert score_detector.main(switches) == 0
    assert "all are extracted" in capsys.readouterr().out
