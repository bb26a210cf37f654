"""What the trainings of a question take, as `python -m sweeps` tells it; and that it is computed once."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pipelines.common import user_cache
from pipelines.experiments.experiment import Experiment
from pipelines.launch import cost
from sweeps import names
from sweeps.__main__ import of_paper

ROOT = Path(__file__).parents[2]
PLAIN = Experiment(model="plain", train_on="ffpp", test_on=())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("name", names())
def test_every_question_has_an_estimate(name: str) -> None:
    assert re.fullmatch(r"\d+ trainings?, some [\d.]+ GPU hours", cost.estimate(of_paper(name)))


def test_work_by_hand() -> None:
    """2 x 4 x 720 videos (each fake beside a real one), 8 frames of each, 15 epochs, 50 GFLOP each."""
    number, operations = cost.work([PLAIN, PLAIN, PLAIN.override({"test_on": ("celeb_df",)})])
    assert number == 1  # the three train the same
    assert operations == pytest.approx(2 * 4 * 720 * 8 * 15 * 50e9)
    number, operations = cost.work([PLAIN, PLAIN.override({"manipulations": ("FaceSwap",), "seed": 1})])
    assert (number, operations) == (2, pytest.approx(2 * (4 + 1) * 720 * 8 * 15 * 50e9))
    assert cost.told(number, operations) == "2 trainings, some 0.4 GPU hours"
    assert cost.told(1, 100 * 3600 * 31.2e12) == "1 training, some 100 GPU hours"


def test_a_network_whose_work_was_not_counted_is_named() -> None:
    with pytest.raises(KeyError, match=r"plain\.detect resnet18"):
        cost.work([PLAIN.override({"model.backbone": "resnet18"})])


def test_the_works_of_a_sample_are_those_of_the_docs() -> None:
    """Its table is what `benchmarks/memory.py` counted."""
    found = re.findall(r"^\| (\w+) `(\w+)`(, [\w-]+)? \| ([\d,]+) GFLOP \|", (ROOT / "docs/scale.md").read_text(), re.M)
    backbones = {", Xception": " legacy_xception.tf_in1k", ", EfficientNet-B4": " tf_efficientnet_b4.ap_in1k", "": ""}
    told = {f"{paper}.{stage}{backbones[note]}": float(n.replace(",", "")) for paper, stage, note, n in found}
    assert told == cost.WORK


# ------------------------------------------------------------------------------------------------------ computed once
class Asked:
    """Questions of one name each, and which of them were computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.said: list[int] = []

    def _question(self, name: str) -> Callable[[], Iterable[Experiment]]:
        def experiments() -> Iterable[Experiment]:
            self.computed.append(name)
            return [PLAIN]

        return experiments

    def kept(self, *asked: str) -> dict[str, str]:
        return cost.kept({name: self._question(name) for name in asked}, self.said.append)


def test_an_estimate_is_computed_once() -> None:
    asked = Asked()
    first = asked.kept("a", "b")
    assert first == dict.fromkeys(("a", "b"), cost.estimate([PLAIN]))
    assert asked.kept("b", "c", "a") == dict.fromkeys(("b", "c", "a"), cost.estimate([PLAIN]))
    assert asked.kept("c") == {"c": cost.estimate([PLAIN])}
    assert (asked.computed, asked.said) == (["a", "b", "c"], [2, 1])


def test_changed_code_is_estimated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    asked.kept("a", "b")
    monkeypatch.setattr(cost, "_digest_of_code", lambda: "another")
    asked.kept("a")
    assert asked.computed == ["a", "b", "a"]
    assert list(json.loads((user_cache.folder() / "estimates.json").read_text())["estimates"]) == ["a"]


def test_the_digest_of_the_code_covers_models_settings_and_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = cost._digest_of_code(), Path.read_bytes
    for changed in ("models/_adfd_config.py", "pipelines/launch/cost.py", "sweeps/_lre.py", "sweeps/mask_ratio.py"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, own=ROOT / changed: read(path) + b"#" * (path == own))
            assert cost._digest_of_code() != before, changed
    assert cost._digest_of_code() == before


@pytest.mark.parametrize("spoiled", ["", "[]", '{"code": 1}', '{"code": "CODE", "estimates": 3}'])
def test_a_spoiled_cache_is_made_again(spoiled: str) -> None:
    place = user_cache.folder() / "estimates.json"
    place.parent.mkdir()
    place.write_text(spoiled.replace("CODE", cost._digest_of_code()))
    asked = Asked()
    assert asked.kept("a") == asked.kept("a") == {"a": cost.estimate([PLAIN])}
    assert asked.computed == ["a"]


def test_without_a_cache_folder_it_is_computed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    asked = Asked()
    assert asked.kept("a") == asked.kept("a") == {"a": cost.estimate([PLAIN])}
    assert asked.computed == ["a", "a"]
