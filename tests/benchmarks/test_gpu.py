"""The benchmark of a GPU runs through on a CPU, at toy size; figures of a GPU it has none of here."""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SPEC = importlib.util.spec_from_file_location("gpu", FILE)
assert SPEC
assert SPEC.loader
gpu = importlib.util.module_from_spec(SPEC)
sys.modules["gpu"] = gpu  # its dataclasses look for their module
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FILE.parent)  # as of a file that is run: it imports what benchmarks share
    SPEC.loader.exec_module(gpu)

TOY = ("--device", "cpu", "--preset", "tiny", "--methods", "plain", "--steps", "2", "--videos", "2")
ONE = ("--loaders", "1", "--scorers", "1")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict]:
    gpu.main([*TOY, *ONE, *arguments])
    found: dict[str, dict] = {}
    for line in capsys.readouterr().out.splitlines():
        figures = json.loads(line)
        found.setdefault(figures.pop("part"), {}).update(figures)
    return found


def test_figures_are_printed_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "machine", "norm")
    assert found["machine"]["pageable_gb_s"] > 0
    assert found["machine"]["cpu_cores"] == len(os.sched_getaffinity(0))
    assert found["norm"]["ours over workers"]["difference"] < 1e-5


@pytest.mark.nightly
def test_steps_read_nothing_back_and_a_resumed_training_ends_alike(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "steps", "resume")
    assert found["steps"]["plain.detect"]["waits"] == 0
    assert found["steps"]["plain.detect"]["wall_s"] > 0
    assert found["resume"]["difference"] == 0


@pytest.mark.nightly
def test_the_loop_and_its_options_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "loop", "options")
    first, last = (found["loop"]["plain.detect, kept"][f"{which}_validation_s"] for which in ("first", "last"))
    assert first > 0
    assert last > 0
    assert set(found["options"]["plain.detect"]) >= {"prefetch", "no prefetch", "resident", "not fused"}


@pytest.mark.nightly
def test_options_of_one_method_are_those_that_its_network_has(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--methods", "adfd", "delocate", "--parts", "options")["options"]
    assert "SAM in a loop" in found["adfd.detect"]
    assert found["delocate.recover"].keys() >= {"attention written out", "attention without a mask"}
    assert "SAM in a loop" not in found["delocate.recover"]
    assert "attention written out" not in found["adfd.detect"]


@pytest.mark.nightly
def test_processes_load_and_score(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FILE.parent)  # where they find this benchmark's functions
    found = told(capsys, "--parts", "loaders", "scoring")
    assert found["loaders"]["1"] > 0
    assert found["scoring"]["1"] > 0


@pytest.mark.nightly
def test_trainings_run_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FILE.parent)
    assert told(capsys, "--parts", "together")["together"].keys() == {"1", "2"}


def slow_to_warm(folder: Path, number: int) -> Iterator[int]:
    """Take a second longer to get warm in each process, and a second longer to work in each process before."""
    time.sleep(number)
    (folder / f"warm {os.getpid()}").write_text(str(time.monotonic()))
    yield 0
    (folder / f"began {os.getpid()}").write_text(str(time.monotonic()))
    time.sleep(2 - number)
    yield 12


def broken(number: int) -> Iterator[int]:
    if number == 1:
        raise MemoryError("of the device")
    yield 0
    yield 1


@pytest.mark.nightly
def test_processes_begin_together_once_all_are_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (FILE.parent, Path(__file__).parent, Path(__file__).parents[2]):  # of what processes of spawn import
        monkeypatch.syspath_prepend(folder)
    rate = gpu._at_once(2, partial(slow_to_warm, tmp_path))
    warm, began = ([float(p.read_text()) for p in tmp_path.glob(f"{name} *")] for name in ("warm", "began"))
    assert len(began) == 2
    assert min(began) >= max(warm)
    assert 4 < rate <= 12  # of both together, in the two seconds of the slower one
    with pytest.raises(MemoryError, match="of the device"):  # and not that another has waited for it
        gpu._at_once(2, broken)


def test_a_looped_step_of_sam_is_that_of_the_fast_one() -> None:
    ends = []
    for kind in (gpu._sam.SAM, gpu.LoopedSAM):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        optimizer = kind(torch.optim.SGD(net.parameters(), lr=0.1))

        def loss(net: torch.nn.Module = net) -> torch.Tensor:
            net.zero_grad()
            found = net(torch.ones(4, 3)).square().sum()
            found.backward()
            return found

        optimizer.step(loss)
        ends.append(net.weight.detach())
    torch.testing.assert_close(*ends)


def test_what_would_begin_too_late_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert "left out" in told(capsys, "--parts", "machine", "--minutes", "-1")["machine"]


def test_a_part_that_fails_costs_its_own_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: object, folder: Path) -> object:
        yield {"before": 1}
        raise RuntimeError("no memory")

    monkeypatch.setitem(gpu.PARTS, "steps", broken)
    found = told(capsys, "--parts", "steps", "machine")
    assert found["steps"] == {"before": 1, "failed": "RuntimeError: no memory"}
    assert "failed" not in found["machine"]
