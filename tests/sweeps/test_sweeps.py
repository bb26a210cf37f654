"""Every file of sweeps/: a question that can be asked, with the paper's numbers as the paper prints them."""

import ast
import dataclasses
import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from math import isnan, nan
from pathlib import Path

import pytest

from pipelines import datasets, ingest, stages
from pipelines.experiment import PRESETS
from pipelines.sweep import Sweep, parser

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("[!_]*.py"))
SWITCHES = {
    "--help",
    "--datasets",
    "--storage",
    "--preset",
    "--seeds",
    "--workers",
    "--gpus-per-worker",
    "--no-pretrained",
    "--address",
    "--dry-run",
}

# Typed from the papers, in %: sweep -> the columns, then row -> values.
PRINTED: Mapping[str, tuple[tuple[str, ...], Mapping[str, tuple[float, ...]]]] = {
    "mask_ratio": (  # Delocate, Table 5
        ("celeb_df", "deeper_forensics", "dfdc"),
        {
            "0.55": (89.0, 94.2, 80.8),
            "0.65": (90.6, 92.6, 81.8),
            "0.75": (91.3, 99.1, 84.0),
            "0.85": (90.3, 92.8, 81.9),
            "0.95": (89.9, 92.7, 81.0),
        },
    ),
    "methods": (  # Delocate, Table 1; BBMG + NRS, Table 8; LAA-Net, Table 1
        ("ffpp", "celeb_df", "deeper_forensics", "dfdc"),
        {
            "plain": (nan, nan, nan, nan),
            "lre": (nan, nan, nan, nan),
            "mc_lcr": (nan, nan, nan, nan),
            "delocate": (nan, 91.3, 99.1, 84.0),
            "adfd": (nan, 91.37, nan, 72.98),
            "laa_net": (nan, 95.4, nan, nan),
        },
    ),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sweep(name: str) -> Sweep:
    return importlib.import_module(f"sweeps.{name}").SWEEP


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "sweeps" / f"{name}.py").read_text())) or ""


def script(name: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a sweep file as a person does, from another folder; its stderr is the list of what it imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "CROSSFORGE_"))}
    command = [sys.executable, "-X", "importtime", str(ROOT / "sweeps" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def imported(ended: "subprocess.CompletedProcess[str]") -> set[str]:
    return {line.rsplit("|", 1)[1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}


def test_there_are_sweeps() -> None:
    assert "mask_ratio" in NAMES


def test_the_sweep_is_named_like_its_file(name: str, sweep: Sweep) -> None:
    assert sweep.name == name


def test_the_docstring_asks_and_its_commands_can_be_typed(name: str, sweep: Sweep) -> None:
    text = docstring(name)
    question = text.splitlines()[0]
    assert question.endswith("?")
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    python ")]
    assert [name in command[1] for command in commands].count(True) == len(commands) >= 2
    for command in commands:
        assert (ROOT / command[1]).is_file()
        parser(sweep, text).parse_args(command[2:])  # exits if a switch is unknown
    assert any("--dry-run" in command for command in commands)


def test_the_published_values_are_those_of_the_paper(name: str, sweep: Sweep) -> None:
    columns, rows = PRINTED[name]
    assert list(sweep.rows) == list(sweep.published) == list(rows)
    for row, values in rows.items():
        assert tuple(sweep.published[row]) == columns
        assert all(0 <= value <= 1 or isnan(value) for value in sweep.published[row].values())
        assert [round(100 * value, 6) for value in sweep.published[row].values()] == pytest.approx(values, nan_ok=True)


def test_every_column_is_scored(sweep: Sweep) -> None:
    for published in sweep.published.values():
        assert {column.split("/")[0] for column in published} <= {*sweep.base.test_on, sweep.base.train_on}
    assert {sweep.base.train_on, *sweep.base.test_on} <= set(datasets.names())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_sweep_expands_into_valid_distinct_experiments(sweep: Sweep, preset: str) -> None:
    experiments = sweep.experiments(preset, num_seeds=2, changes={})
    assert list(experiments) == [(row, seed) for row in sweep.rows for seed in (0, 1)]
    assert {experiment.preset for experiment in experiments.values()} == {preset}
    assert all(experiment.seed == seed for (_, seed), experiment in experiments.items())
    rows = dict.fromkeys(ingest.VIEWS, "rows")
    names = [
        tuple(stage.digest for stage in stages.plan(experiment, rows, Path("storage")))
        for experiment in experiments.values()
    ]
    assert len(set(names)) == len(names), "two rows would be the same training"


def test_the_rows_of_the_mask_ratio_sweep_hide_what_they_say() -> None:
    sweep = importlib.import_module("sweeps.mask_ratio").SWEEP
    for (row, _), experiment in sweep.experiments("paper", 1, {}).items():
        assert experiment.config().recover.mask_ratio == float(row)
        assert experiment.config().stages == ("recover", "finetune", "localize")
        assert (experiment.train_on, experiment.codec, experiment.manipulations) == ("ffpp", "c23", ())


def test_what_makes_the_small_preset_short_leaves_the_paper_alone(sweep: Sweep) -> None:
    dummy = dataclasses.replace(sweep, small={})
    assert sweep.experiments("paper", 1, {}) == dummy.experiments("paper", 1, {})
    assert (sweep.experiments("small", 1, {}) == dummy.experiments("small", 1, {})) == (not sweep.small)


def test_a_sweep_whose_rows_and_published_values_differ_is_refused(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match="published values for"):
        dataclasses.replace(sweep, published={"another row": {}})


# --------------------------------------------------------------------------------------- switches
def test_the_switches_are_these(sweep: Sweep) -> None:
    """The same for every sweep. What varies an experiment belongs into a sweep file, not onto the command line."""
    options = [option for action in parser(sweep, None)._actions for option in action.option_strings]
    assert {option for option in options if option.startswith("--")} == SWITCHES
    assert set(options) - SWITCHES == {"-h"}


def test_help_works_in_a_fresh_process(name: str, tmp_path: Path) -> None:
    ended = script(name, "--help", cwd=tmp_path)
    assert ended.returncode == 0
    assert docstring(name).splitlines()[0] in ended.stdout
    assert all(switch in ended.stdout for switch in SWITCHES)
    assert not {"ray", "mlflow", "matplotlib"} & imported(ended)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_data_plans_on_the_sample_corpus_and_makes_nothing(name: str, tmp_path: Path) -> None:
    ended = script(name, "--dry-run", "--storage", "empty", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "sample corpus" in ended.stdout
    assert "nothing about the world" in " ".join(ended.stdout.split())
    assert "to train" in ended.stdout
    assert not {"ray", "mlflow", "matplotlib"} & imported(ended)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
