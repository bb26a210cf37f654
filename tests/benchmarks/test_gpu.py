"""The benchmark of a GPU runs through on a CPU, at toy size; figures of a GPU it has none of here."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
SPEC = importlib.util.spec_from_file_location("gpu", FILE)
assert SPEC
assert SPEC.loader
gpu = importlib.util.module_from_spec(SPEC)
sys.modules["gpu"] = gpu  # its dataclasses look for their module
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FILE.parent)  # as of a file that is run: it imports what benchmarks share
    SPEC.loader.exec_module(gpu)

TOY = ("--device", "cpu", "--preset", "tiny", "--methods", "plain", "--steps", "2", "--videos", "2", "--loaders", "1")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict]:
    gpu.main([*TOY, *arguments])
    found: dict[str, dict] = {}
    for line in capsys.readouterr().out.splitlines():
        figures = json.loads(line)
        found.setdefault(figures.pop("part"), {}).update(figures)
    return found


def test_figures_are_printed_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "machine", "norm")
    assert found["machine"]["pageable_gb_s"] > 0
    assert found["norm"]["ours over workers"]["difference"] < 1e-5


@pytest.mark.nightly
def test_steps_read_nothing_back_and_a_resumed_training_ends_alike(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "steps", "resume")
    assert found["steps"]["plain.detect"]["reads"] == 0
    assert found["steps"]["plain.detect"]["wall_s"] > 0
    assert found["resume"]["difference"] == 0


@pytest.mark.nightly
def test_the_loop_and_its_options_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--parts", "loop", "options")
    first, last = (found["loop"]["plain.detect, kept"][f"{which}_validation_s"] for which in ("first", "last"))
    assert first > 0
    assert last > 0
    assert set(found["options"]["plain.detect"]) >= {"prefetch", "no prefetch", "resident", "not fused"}


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
