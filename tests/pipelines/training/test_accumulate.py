"""A step cut in parts is the step: same gradients where a stage says so, refused where its method would be another."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models import Feed
from pipelines.experiments.experiment import Experiment
from pipelines.training import sharing, stages
from pipelines.training.job import Compute
from pipelines.training.views import VIEWS, Video, View

SCRIPT = Path(__file__).with_name("accumulating.py")
TOLERANCE = 1e-9  # of the largest gradient of the stage; computed in 64 bits
STAGES = {(paper, stage.name): stage for paper in models.names() for stage in models.stages(paper)}
EXACT = [name for name, stage in STAGES.items() if stage.accumulates == "exactly"]
REFUSED = [name for name, stage in STAGES.items() if stage.accumulates == "no"]
WITHOUT_BATCH_NORM = ("plain", "detect")  # as the script configures it


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the gradients of all stages: one worker, steps in 1, 2 and 4 parts; two workers, 1 and 2."""
    folder = tmp_path_factory.mktemp("accumulating")
    runs = [("0", "1", "1", "2", "4"), ("0", "2", "1", "2"), ("1", "2", "1", "2")]
    started = [
        subprocess.Popen([sys.executable, str(SCRIPT), rank, size, str(folder), *cuts], stderr=subprocess.PIPE)
        for rank, size, *cuts in runs
    ]
    errors = [process.communicate(timeout=500)[1].decode() for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(errors)
    return folder


def found(trained: Path, name: tuple[str, str], workers: int, cuts: int, rank: int = 0) -> dict[str, Any]:
    return torch.load(trained / f"{'-'.join(name)}.{workers}.{cuts}.{rank}")


def off(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of a gradient in any step, in units of the step's largest gradient."""
    worst = 0.0
    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert a.keys() == b.keys()
        scale = max(float(gradient.abs().max()) for gradient in a.values())
        assert scale > 0
        worst = max(worst, *(float((a[name] - b[name]).abs().max()) / scale for name in a))
    return worst


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*EXACT, WITHOUT_BATCH_NORM])
@pytest.mark.parametrize(("workers", "cuts"), [(1, 2), (1, 4), (2, 1), (2, 2)])
def test_gradients_and_losses_are_those_of_the_whole_step(name, workers, cuts, trained):
    whole, cut = found(trained, name, 1, 1), found(trained, name, workers, cuts)
    assert off(whole, cut) < TOLERANCE
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-9)
    assert cut["summary"]["accumulate"] == [[0, cuts]]


@pytest.mark.nightly
def test_workers_share_gradients_of_all_parts(trained):
    for name in EXACT:
        assert off(found(trained, name, 2, 2, rank=0), found(trained, name, 2, 2, rank=1)) == 0


@pytest.mark.nightly
def test_batch_norm_sees_one_part_at_a_time(trained):
    """So its stage says that other weights come out."""
    assert STAGES["lre", "detect"].accumulates == "but_batch_norm"
    assert off(found(trained, ("lre", "detect"), 1, 1), found(trained, ("lre", "detect"), 1, 2)) > 1e-3


def digests(paper: str, cuts: dict[str, int]) -> dict[str, str]:
    experiment = Experiment(model=paper, train_on="ffpp", test_on=(), preset="small")
    return {s.name: s.digest for s in stages.plan(experiment, dict.fromkeys(VIEWS, "rows"), Path("/storage"), cuts)}


def test_only_what_changes_weights_changes_the_digest():
    assert digests("delocate", {"delocate.finetune": 4, "delocate.recover": 2}) == digests("delocate", {})
    before, after = digests("lre", {}), digests("lre", {"lre.detect": 2, "lre.reconstruct": 2})
    assert after["reconstruct"] == before["reconstruct"]
    assert after["detect"] != before["detect"]
    assert digests("lre", {"lre.detect": 1, "plain.detect": 2}) == before


def test_methods_that_need_a_whole_step_refuse():
    assert {".".join(name) for name in REFUSED} == {
        "adfd.detect",
        "delocate.localize",
        "laa_net.detect",
        "mc_lcr.detect",
    }
    for paper, name in REFUSED:
        with pytest.raises(ValueError, match=rf"{paper}\.{name} can't be cut.*--workers"):
            sharing.check_accumulates(STAGES[paper, name])


def test_a_stage_that_says_nothing_refuses():
    assert models.Stage.accumulates == "no"


def view(name: str, batch_size: int) -> View:
    videos = [
        Video(f"ffpp/{label}/{i}", label, "m" if label else "real", f"ffpp/{i}") for i in (0, 1) for label in (0, 1)
    ]
    return View(name, videos, Feed(input_px=8, batch_size=batch_size), seed=0)


def test_parts_are_equal_and_hold_as_many_real_as_fake():
    finetune, recover = STAGES["delocate", "finetune"], STAGES["delocate", "recover"]
    sharing.check_cuts(finetune, view("clips", 8), num_workers=2, cuts=2)  # 2 workers x 2 parts x (1 real + 1 fake)
    sharing.check_cuts(recover, view("real_clips", 8), num_workers=2, cuts=4)
    with pytest.raises(ValueError, match=r"delocate\.finetune: the 4 samples .* 4 equal parts; allowed: 2$"):
        sharing.check_cuts(finetune, view("clips", 8), num_workers=2, cuts=4)
    with pytest.raises(ValueError, match=r"8 samples .* 3 equal parts; allowed: 2, 4, 8$"):
        sharing.check_cuts(recover, view("real_clips", 8), num_workers=1, cuts=3)


def test_a_trial_gets_the_parts_of_its_stages():
    planned = stages.PlannedStage(paper="delocate", name="finetune", folder=Path("any"), spec={})
    assert Compute(accumulate={"delocate.finetune": 4}).cuts(planned) == 4
    assert Compute(accumulate={"delocate.recover": 4}).cuts(planned) == 1
