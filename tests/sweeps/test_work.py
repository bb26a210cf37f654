"""The work of each sweep's trainings, which `python -m sweeps` tells without computing it: `sweeps/_work.py`.

`python -m tests.sweeps.test_work` writes that file anew.
"""

import importlib
import re
from pathlib import Path

import pytest

from pipelines.common.storage import write_text
from pipelines.experiments.experiment import Experiment
from pipelines.launch import cost
from sweeps import names
from sweeps._work import TRAININGS

ROOT = Path(__file__).parents[2]
PLAIN = Experiment(model="plain", train_on="ffpp", test_on=())
HEAD = '''"""The trainings of each sweep at the paper's sizes with one seed: how many, and their operations.

Computed: `python -m tests.sweeps.test_work`; `pipelines/launch/cost.py` says how.
"""

TRAININGS = {
'''


def computed(name: str) -> tuple[int, float]:
    sweep = importlib.import_module(f"sweeps.{name}").SWEEP
    number, operations = cost.work(sweep.experiments("paper", 1, {}).values())
    return number, float(f"{operations:.3e}")


@pytest.mark.parametrize("name", names())
def test_the_work_that_is_told_is_that_of_the_sweep(name: str) -> None:
    assert TRAININGS[name] == computed(name), "python -m tests.sweeps.test_work"


def test_nothing_else_is_told() -> None:
    assert list(TRAININGS) == list(names())


def test_work_by_hand() -> None:
    """2 x 4 x 720 videos (each fake beside a real one), 8 frames of each, 15 epochs, 50 GFLOP each."""
    number, operations = cost.work([PLAIN, PLAIN, PLAIN.override({"test_on": ("celeb_df",)})])
    assert number == 1  # the three train the same
    assert operations == pytest.approx(2 * 4 * 720 * 8 * 15 * 50e9)
    number, operations = cost.work([PLAIN, PLAIN.override({"manipulations": ("FaceSwap",), "seed": 1})])
    assert (number, operations) == (2, pytest.approx(2 * (4 + 1) * 720 * 8 * 15 * 50e9))
    assert cost.told(number, operations) == "2 trainings, some 0.4 hours of an A100 at a tenth of its peak (estimated)"
    assert (
        cost.told(1, 100 * 3600 * 31.2e12) == "1 training, some 100 hours of an A100 at a tenth of its peak (estimated)"
    )


def test_a_network_whose_work_was_not_counted_is_named() -> None:
    with pytest.raises(KeyError, match=r"plain\.detect resnet18"):
        cost.work([PLAIN.override({"model.backbone": "resnet18"})])


def test_the_works_of_a_sample_are_those_of_the_docs() -> None:
    """Its table is what `benchmarks/memory.py` counted."""
    found = re.findall(r"^\| (\w+) `(\w+)`(, [\w-]+)? \| ([\d,]+) GFLOP \|", (ROOT / "docs/scale.md").read_text(), re.M)
    backbones = {", Xception": " legacy_xception.tf_in1k", ", EfficientNet-B4": " tf_efficientnet_b4.ap_in1k", "": ""}
    told = {f"{paper}.{stage}{backbones[note]}": float(n.replace(",", "")) for paper, stage, note, n in found}
    assert told == cost.WORK


if __name__ == "__main__":
    lines = [f'    "{name}": {computed(name)},\n' for name in names()]
    write_text(ROOT / "sweeps" / "_work.py", HEAD + "".join(lines) + "}\n")
