"""Two workers with half a batch each learn what one learns from all of it: every stage of every paper."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models

STAGES = [(paper, stage.name) for paper in models.names() for stage in models.stages(paper)]
SCRIPT = Path(__file__).with_name("two_workers.py")
TOLERANCE = 1e-8  # of the largest gradient of the stage; computed in 64 bits


@pytest.fixture(scope="module")
def traced(tmp_path_factory, prepared) -> Path:
    """Return a folder with the traces of one worker and of two, for all stages: three processes in all."""
    folder = tmp_path_factory.mktemp("workers")
    for paper, stage_name in STAGES:
        torch.save(prepared(paper, stage_name, "train", 8)[2], folder / f"{paper}-{stage_name}.batch")
    started = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(size), str(folder)], stderr=subprocess.PIPE)
        for rank, size in ((0, 1), (0, 2), (1, 2))
    ]
    errors = [process.communicate(timeout=600)[1].decode() for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(errors)
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize(("paper", "stage_name"), STAGES)
def test_two_workers_learn_what_one_learns(paper, stage_name, traced):
    alone, first, second = (torch.load(traced / f"{paper}-{stage_name}.{name}") for name in ("1.0", "2.0", "2.1"))
    for whole, left, right in zip(alone, first, second, strict=True):
        for loss, left_loss, right_loss in zip(whole["losses"], left["losses"], right["losses"], strict=True):
            assert (left_loss + right_loss) / 2 == pytest.approx(loss, rel=1e-9)
        assert whole["gradients"].keys() == left["gradients"].keys()
        scale = max(gradient.abs().max().item() for gradient in whole["gradients"].values())
        assert scale > 0
        for name, gradient in whole["gradients"].items():
            assert torch.equal(left["gradients"][name], right["gradients"][name]), f"{name} differs between workers"
            worst = (gradient - left["gradients"][name]).abs().max().item()
            assert worst <= TOLERANCE * scale, f"gradient of {name} is off by {worst / scale:.1e} of the largest"
        for name, value in whole["buffers"].items():
            torch.testing.assert_close(left["buffers"][name], value, rtol=1e-8, atol=1e-9, msg=name)
            assert torch.equal(left["buffers"][name], right["buffers"][name]), f"{name} differs between workers"
