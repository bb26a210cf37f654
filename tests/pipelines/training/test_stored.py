"""What an earlier commit trained or extracted is found again: its names, as that commit gave them.

`stored.json` holds them. A change that is meant to move them (a new `VERSION`, another default of a paper) changes the
file with it, and says so in the changelog: what was trained before is then trained anew. The file is made by

    uv run python tests/pipelines/training/test_stored.py
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

import models
from pipelines.common.storage import digest, write_json
from pipelines.experiments.experiment import PRESETS, Experiment
from pipelines.faces.plan import faces_folder
from pipelines.training import stages
from pipelines.training.views import VIEWS

FILE = Path(__file__).with_name("stored.json")
STORED: dict[str, Any] = json.loads(FILE.read_text())
ROWS = {view: f"rows of {view}" for view in VIEWS}
ALL = [(model, preset) for model in models.names() for preset in PRESETS]


def experiment_of(model: str, preset: Any) -> Experiment:
    return Experiment(model=model, train_on="ffpp", test_on=("celeb_df",), preset=preset, seed=1)


def plan(experiment: Experiment, storage: Path) -> tuple[stages.PlannedStage, ...]:
    cuts = {f"{experiment.model}.{name}": 2 for name in experiment.config().stages}
    return stages.plan(experiment, ROWS, storage, cuts)


def test_every_paper_and_preset_is_stored() -> None:
    assert set(STORED["digests"]) == {f"{model} {preset}" for model, preset in ALL}


def names(model: str, preset: str, storage: Path) -> dict[str, Any]:
    """Return the digests of an experiment, of what names its search, of its stages and its faces."""
    experiment = experiment_of(model, preset)
    recipe = experiment.recipe()
    return {
        "experiment": digest(experiment),
        "of a search": digest(models.named(experiment)),
        "stages": {stage.name: stage.digest for stage in plan(experiment, storage)},
        "faces": faces_folder(storage, "ffpp", recipe, None).name,
        "faces of the sample corpus": faces_folder(storage, "ffpp", recipe, "/x/sample-corpus-v3/ffpp").name,
    }


@pytest.mark.parametrize(("model", "preset"), ALL)
def test_the_names_are_those_of_the_stored_commit(model: str, preset: str, tmp_path: Path) -> None:
    assert names(model, preset, tmp_path) == STORED["digests"][f"{model} {preset}"]


def test_a_stage_that_was_trained_before_is_not_trained_again(tmp_path: Path) -> None:
    """As its folder lies in a storage: `spec.json`, and `_done.json` last."""
    specs = STORED["specs"]["delocate small"]
    for name, spec in specs.items():
        folder = tmp_path / "stages" / "delocate" / name / digest(spec)
        write_json(folder / "spec.json", spec)
        write_json(folder / "_done.json", {"seconds": 1.0})
    planned = plan(experiment_of("delocate", "small"), tmp_path)
    assert {stage.name for stage in planned if stage.done} == set(specs)
    for stage in planned:
        assert json.loads(json.dumps(stage.spec)) == specs[stage.name]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        digests = {f"{model} {preset}": names(model, preset, Path(folder)) for model, preset in ALL}
        specs = {stage.name: stage.spec for stage in plan(experiment_of("delocate", "small"), Path(folder))}
    FILE.write_text(
        json.dumps({"digests": digests, "specs": {"delocate small": specs}}, indent=1, sort_keys=True) + "\n"
    )
