"""Every file of sweeps/: a question that can be asked, with the paper's numbers as the paper prints them."""

import ast
import dataclasses
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

import models
from pipelines import datasets
from pipelines.common import tables
from pipelines.datasets import ffpp
from pipelines.experiments import protocol
from pipelines.experiments.experiment import PRESETS, Experiment, Preset
from pipelines.experiments.sweep import Column, Row, Sweep, grid, side_by_side
from pipelines.launch.cost import rows_unseen
from pipelines.launch.options import Options
from pipelines.launch.search import find_best
from pipelines.metrics.names import UNSEEN
from pipelines.sweep import parser
from pipelines.training import stages

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("[!_]*.py"))
SWITCHES = {
    "--help",
    "--datasets",
    "--rows",
    "--test-on",
    "--set",
    "--search",
    "--space",
    "--storage",
    "--preset",
    "--seeds",
    "--workers",
    "--gpus-per-worker",
    "--accumulate",
    "--no-pretrained",
    "--weights",
    "--address",
    "--dry-run",
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sweep(name: str) -> Sweep:
    return importlib.import_module(f"sweeps.{name}").SWEEP


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "sweeps" / f"{name}.py").read_text())) or ""


def python(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Runs python in another folder, as a person does; its stderr is the list of what it imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "CROSSFORGE_"))}
    command = [sys.executable, "-X", "importtime", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def imported(ended: "subprocess.CompletedProcess[str]") -> set[str]:
    return {line.rsplit("|", 1)[1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}


# All sweeps in one process, for the seconds that imports take; one line per sweep: its name and exit code.
ALL = """
import contextlib, importlib, io, pathlib, sys
for name in sys.argv[1].split(","):
    module = importlib.import_module(f"sweeps.{name}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            importlib.import_module("pipelines.sweep").main(module.SWEEP, module.__doc__, sys.argv[2:])
        except SystemExit as ended:
            code = ended.code
    pathlib.Path(f"{name}.out").write_text(out.getvalue())
    print(name, code)
"""


def run_all(*switches: str, cwd: Path) -> tuple[dict[str, str], set[str]]:
    """What every sweep printed, and what was imported for it; all of them must exit with 0."""
    ended = python("-c", ALL, ",".join(NAMES), *switches, cwd=cwd)
    said = {name: (cwd / f"{name}.out").read_text() for name in NAMES if (cwd / f"{name}.out").exists()}
    assert ended.stdout.splitlines() == [f"{name} 0" for name in NAMES], (ended.stderr[-2000:], said)
    return said, imported(ended)


def test_there_are_sweeps() -> None:
    assert "mask_ratio" in NAMES


def test_the_sweep_is_named_like_its_file(name: str, sweep: Sweep) -> None:
    assert sweep.name == name


def test_the_docstring_asks_and_its_commands_can_be_typed(name: str, sweep: Sweep) -> None:
    text = docstring(name)
    question = text.splitlines()[0]
    assert question.endswith("?")
    typed = [line.removeprefix("    uv run ") for line in text.splitlines() if line.startswith("    uv run python ")]
    commands = [shlex.split(line, comments=True) for line in typed]
    assert [name in command[1] for command in commands].count(True) == len(commands) >= 2
    for command in commands:
        assert (ROOT / command[1]).is_file()
        parser(sweep, text).parse_args(command[2:])  # exits if a switch is unknown
    assert any("--dry-run" in command for command in commands)


def test_every_column_can_be_scored(sweep: Sweep) -> None:
    for experiment in (each for preset in PRESETS for each in sweep.experiments(preset, 1, {}).values()):
        assert {name.partition("/")[0] for name in (experiment.train_on, *experiment.test_on)} <= set(datasets.names())
        assert experiment.protocol in protocol.PROTOCOLS
        assert set(experiment.manipulations) <= set(ffpp.METHODS)


def videos_of(name: str, preset: str) -> pa.Table:
    """VIDEOS of one dataset, two of each kind, in the compressions of the sample corpus or of the real thing."""
    several = ("raw", "c23", "c40") if preset == "paper" else ("c23", "c40")
    codecs = {"ffpp": several, "dfd": several[:-1], "deeper_forensics": ("c23",)}.get(name, ("unknown",))
    methods = datasets.manipulations(name) or ("swap",)
    splits = tables.SPLITS if name == "ffpp" else ("train", "test")
    rows = []
    for codec, method, split, number in product(codecs, ("real", *methods), splits, range(2)):
        row = dict.fromkeys(tables.VIDEOS.names, "x") | {"codec": codec, "method": method, "split": split}
        row |= {"dataset": name, "video_id": f"{name}/{method}/{codec}/{split}{number}", "label": int(method != "real")}
        rows.append(row | {"source_ids": [f"{name}/{split}{number}"]})
    return tables.to_table(rows, tables.VIDEOS)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_column_names_a_part_that_the_protocol_scores(sweep: Sweep, preset: str) -> None:
    experiments = sweep.experiments(preset, 1, {})
    needed = {name for experiment in experiments.values() for name in (experiment.train_on, *experiment.test_on)}
    videos = {name: videos_of(name, preset) for name in needed}
    for (row, _), experiment in experiments.items():
        scored = [part.name for part in protocol.build(experiment, videos).test]
        for column in sweep.columns:
            if column.test == UNSEEN:
                assert len(set(scored) - {experiment.train_on}) > 1
            elif column.test or len(scored) != 1:
                assert column.test in scored, f"{row}, {column.name}"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_sweep_expands_into_valid_distinct_experiments(sweep: Sweep, preset: str) -> None:
    experiments = sweep.experiments(preset, num_seeds=2, changes={})
    assert list(experiments) == [(row.label, seed) for row in sweep.running for seed in (0, 1)]
    assert {experiment.preset for experiment in experiments.values()} == {preset}
    assert all(experiment.seed == seed for (_, seed), experiment in experiments.items())
    names = [
        (
            *(stage.digest for stage in stages.plan(experiment, rows_unseen(experiment), Path("storage"))),
            experiment.protocol,
            experiment.test_on,
        )
        for experiment in experiments.values()
    ]
    assert len(set(names)) == len(names), "two rows would be the same training and the same test"


@pytest.mark.slow
def test_the_networks_of_every_row_can_be_built_small(sweep: Sweep) -> None:
    """Settings that fit one by one may not fit together: a decoder and its levels, a loss and its branch."""
    for experiment in sweep.experiments("small", 1, {}).values():
        for planned in stages.plan(experiment, rows_unseen(experiment), Path("storage")):
            models.stage(planned.paper, planned.name)(experiment.config())


def test_the_rows_of_the_mask_ratio_sweep_hide_what_they_say() -> None:
    sweep = importlib.import_module("sweeps.mask_ratio").SWEEP
    for (row, _), experiment in sweep.experiments("paper", 1, {}).items():
        assert experiment.config().recover.mask_ratio == float(row)
        assert experiment.config().stages == ("recover", "finetune", "localize")
        assert (experiment.train_on, experiment.codec, experiment.manipulations) == ("ffpp", "c23", ())


def test_a_video_without_a_face_scores_a_half_in_all_tables_of_bbmg_nrs(sweep: Sweep) -> None:
    """Its paper says so (Sec. 4.1); the others leave such videos out."""
    experiments = [e for preset in PRESETS for e in sweep.experiments(preset, 1, {}).values()]
    assert {e.failed_videos for e in experiments} == {"half" if sweep.name.startswith("adfd_") else "exclude"}


def test_what_makes_the_small_preset_short_leaves_the_paper_alone(sweep: Sweep) -> None:
    dummy = dataclasses.replace(sweep, small={})
    assert sweep.experiments("paper", 1, {}) == dummy.experiments("paper", 1, {})
    assert (sweep.experiments("small", 1, {}) == dummy.experiments("small", 1, {})) == (not sweep.small)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_is_tested_against_one_of_the_same_test_set(sweep: Sweep, preset: str) -> None:
    """Where there is one: else its test would be lost without a word."""

    def tested_on(experiment: Experiment) -> set[str]:
        needed = (experiment.train_on, *(name.partition("/")[0] for name in experiment.test_on))
        parts = protocol.build(experiment, {name: videos_of(name, preset) for name in needed}).test
        # Compressions of one video are other videos; what comes in one only is the same in all rows.
        return {f"{part.name} {part.codec}" for part in parts}

    sets = {row: tested_on(experiment) for (row, _), experiment in sweep.experiments(preset, 1, {}).items()}
    for row in sweep.running:
        own = sets[row.label]
        if any(own & names for label, names in sets.items() if label != row.label):
            assert own & sets[sweep.baseline_of(row)], (row.label, sweep.baseline_of(row))


def test_the_papers_own_setting_is_the_baseline_unless_a_sweep_says_otherwise() -> None:
    def baselines(name: str) -> dict[str, str]:
        sweep = importlib.import_module(f"sweeps.{name}").SWEEP
        return {row.label: sweep.baseline_of(row) for row in sweep.running}

    assert set(baselines("adfd_nrs_threshold").values()) == {"0.5"}
    assert set(baselines("mask_ratio").values()) == {"0.75"}
    assert set(baselines("delocate_components").values()) == {"Delocate"}
    assert baselines("mc_lcr_components")["w/o SSRB, c40"] == "MC-LCR, c40"
    assert baselines("mc_lcr_components")["w/o SSRB, c23"] == "MC-LCR, c23"


# ---------------------------------------------------------------------------------------- columns
@pytest.mark.parametrize(
    ("name", "test", "level", "metric"),
    [
        ("celeb_df", "celeb_df", "video", "auc"),
        ("celeb_df eer", "celeb_df", "video", "eer"),
        ("ffpp/Deepfakes acc_at_0_5", "ffpp/Deepfakes", "video", "acc_at_0_5"),
        ("ap", "", "video", "ap"),
        ("dfdc iou", "dfdc", "frame", "iou"),
    ],
)
def test_a_column_is_read_from_its_heading(name: str, test: str, level: str, metric: str) -> None:
    assert Column.of(name, "video", "auc") == Column(name, test, level, metric)


@pytest.mark.parametrize(
    ("name", "test", "perturbation", "level", "metric"),
    [
        ("celeb_df blur-3", "celeb_df", "blur-3", "video", "auc"),
        ("ffpp/Deepfakes noise ap", "ffpp/Deepfakes", "noise", "video", "ap"),
        ("unseen jpeg-50", "unseen", "jpeg-50", "video", "auc"),
        ("saturation", "", "saturation", "video", "auc"),
        ("blur-5 iou", "", "blur-5", "frame", "iou"),
        ("blur-6", "blur-6", "", "video", "auc"),
    ],
)
def test_a_heading_may_name_a_perturbation(name: str, test: str, perturbation: str, level: str, metric: str) -> None:
    assert Column.of(name, "video", "auc") == Column(name, test, level, metric, perturbation)


def table(column: str, **experiment: Any) -> Sweep:
    base = Experiment(model="plain", **{"train_on": "ffpp", "test_on": ("celeb_df", "dfdc")} | experiment)
    return Sweep(name="t", title="", base=base, row_name="row", headings=(column,), rows=(Row("a", {}),))


@pytest.mark.parametrize(
    ("column", "experiment"),
    [
        ("celeb_df ap", {}),
        ("auc", {"test_on": ("dfdc",)}),
        ("ffpp", {"protocol": "in_dataset"}),
        ("auc", {"protocol": "in_dataset"}),
        ("ffpp/FaceSwap", {"protocol": "cross_manipulation"}),
        ("auc", {"protocol": "per_manipulation"}),
        ("ffpp/FaceSwap", {"protocol": "leave_one_out"}),
        ("dfdc blur-3", {"perturbations": ("blur",)}),
        ("dfdc blur", {"perturbations": [f"blur-{level}" for level in range(1, 6)]}),
        ("unseen", {"perturbations": ("jpeg-50",)}),
        ("unseen ap", {}),
        ("blur ap", {"protocol": "in_dataset", "perturbations": ("blur", "noise")}),
    ],
)
def test_a_column_that_the_protocol_scores_is_taken(column: str, experiment: dict[str, Any]) -> None:
    assert len(table(column, **experiment).experiments("small", 1, {})) == 1


@pytest.mark.parametrize(
    ("column", "experiment"),
    [
        ("celeb_dv", {}),
        ("ffpp", {}),
        ("auc", {}),
        ("celeb_df acc", {}),
        ("celeb_df", {"protocol": "in_dataset"}),
        ("auc", {"protocol": "cross_manipulation"}),
        ("ffpp", {"protocol": "cross_manipulation"}),
        ("dfdc/FaceSwap", {"protocol": "cross_manipulation"}),
        ("dfdc blur-3", {}),
        ("dfdc blur", {"perturbations": ("blur-1", "blur-2", "blur-3", "blur-4")}),
        ("dfdc noise-1", {"perturbations": ("blur",)}),
        ("unseen", {"test_on": ("ffpp", "dfdc")}),
        ("unseen", {"test_on": ("ffpp", "df40/a", "df40/b")}),  # two parts of one dataset
        ("unseen", {"test_on": ("ffpp/FaceShifter", "ffpp", "dfdc"), "perturbations": ("blur",)}),
    ],
)
def test_a_column_that_nothing_scores_is_refused_before_any_training(column: str, experiment: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no number for the column"):
        table(column, **experiment).experiments("small", 1, {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((Row("a", {}, "90.1 80.2"),), "row 'a' has 2 published values, the table 1 columns dfdc; - stands for none"),
        ((Row("a", {}), Row("a", {})), "several rows are called 'a'"),
        ((Row("a", published="90.1"),), "no row has settings"),
        ((Row("a", {}, baseline="b"), Row("b", published="90.1")), "baseline 'b' is none of the rows that run, ['a']"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(rows: tuple[Row, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(table("dfdc"), rows=rows)


@pytest.mark.parametrize("word", ["91,3", "nan", "101", "-1", "–", "9e1", "۰"])
def test_what_no_paper_prints_in_percent_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"row 'a': published {word!r}; write a number from 0 to 100, or -"):
        Row("a", {}, f"90.1 {word}")


def test_a_row_that_is_published_only_has_nothing_to_run() -> None:
    for options in ({"small": {}}, {"baseline": "b"}):
        with pytest.raises(ValueError, match="published only"):
            Row("a", published="90.1", **options)


def test_a_grid_has_a_row_for_each_value() -> None:
    rows = grid("model.lr", {0.1: "90.0", 1: ""})
    assert rows == (Row("0.1", {"model.lr": 0.1}, "90.0"), Row("1", {"model.lr": 1}))


def test_a_line_of_several_groups_becomes_a_row_for_each() -> None:
    groups = {"c23": {"codec": "c23"}, "c40": {"codec": "c40"}}
    lines = (Row("theirs", published="91 92 - 94"), Row("ours", {"model.lr": 1}, small={}, note="slow"), Row("own", {}))
    assert side_by_side(groups, *lines, baseline="own") == (
        Row("theirs, c23", published="91 92"),
        Row("ours, c23", {"codec": "c23", "model.lr": 1}, small={"codec": "c23"}, note="slow", baseline="own, c23"),
        Row("own, c23", {"codec": "c23"}, baseline="own, c23"),
        Row("theirs, c40", published="- 94"),
        Row("ours, c40", {"codec": "c40", "model.lr": 1}, small={"codec": "c40"}, note="slow", baseline="own, c40"),
        Row("own, c40", {"codec": "c40"}, baseline="own, c40"),
    )
    with pytest.raises(ValueError, match="3 published values for 2 groups"):
        side_by_side(groups, Row("theirs", published="91 92 93"))


@pytest.mark.parametrize("wrong", [{"metric": "accuracy"}, {"level": "clip"}])
def test_a_metric_or_level_that_is_none_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metrics"):
        dataclasses.replace(table("dfdc"), **wrong)


# ------------------------------------------------------------------------------------ parts of a sweep
def question(**changes: Any) -> Sweep:
    base = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df", "dfdc"))
    rows = (
        Row("a", {}, "10 20 30 15"),
        Row("theirs", published="11 - 31 16"),
        Row("b", {"model.lr": 0.1}, small={"model.lr": 0.2}),
        Row("c", {"test_on": ("dfdc", "celeb_df")}, "12 22 32 17", baseline="a"),
    )
    columns = ("celeb_df", "celeb_df ap", "dfdc", "unseen")
    options = {"headings": columns, "rows": rows, "baseline": "b"} | changes
    return Sweep(name="t", title="", base=base, row_name="row", **options)


def test_the_whole_is_a_part() -> None:
    assert question().part(None, None) == question()


def test_some_rows_in_the_order_that_was_asked_for_below_those_that_are_published_only() -> None:
    part = question().part(["c", "a"], None)
    assert [row.label for row in part.rows] == ["theirs", "c", "a"]
    assert (part.rows[1].published, part.baseline) == ("12 22 32 17", "")
    assert [part.baseline_of(row) for row in part.running] == ["a", "a"]
    assert question().part(["b"], None).baseline == "b"
    assert question().part(["c"], None).rows[1].baseline == ""


def test_some_datasets_leave_their_columns_and_need_no_others() -> None:
    part = question().part(None, ["celeb_df"])
    assert [column.name for column in part.columns] == ["celeb_df", "celeb_df ap"]
    assert [row.published for row in part.rows] == ["10 20", "11 -", "", "12 22"]
    assert {e.test_on for e in part.experiments("paper", 1, {}).values()} == {("celeb_df",)}


def test_a_mean_over_unseen_datasets_stays_where_all_of_them_do() -> None:
    part = question().part(None, ["dfdc", "celeb_df"])
    assert part == question()
    only = question(headings=("unseen",), rows=(Row("a", {}, "15"),), baseline="")
    with pytest.raises(ValueError, match=re.escape("--test-on dfdc: t has no column of it")):
        only.part(None, ["dfdc"])


@pytest.mark.parametrize(
    ("rows", "test_on", "message"),
    [
        (["d"], None, "--rows d: t has 'a', 'b', 'c'"),
        (["theirs"], None, "--rows theirs: t has 'a', 'b', 'c'"),
        (None, ["dfd"], "--test-on dfd: t has 'celeb_df', 'dfdc'"),
    ],
)
def test_a_part_that_is_none_is_refused(rows: Any, test_on: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        question().part(rows, test_on)


def test_a_row_can_be_another_in_the_small_preset() -> None:
    experiments = {preset: question().experiments(preset, 1, {})["b", 0] for preset in PRESETS}
    assert {preset: experiment.config().lr for preset, experiment in experiments.items()} == {
        "paper": 0.1,
        "small": 0.2,
        "tiny": 0.2,
    }


def test_a_search_varies_what_the_rows_of_the_same_model_differ_in() -> None:
    rows = (Row("a", {"model.lr": 0.1}), Row("b", {"model.lr": 0.2}), Row("c", {"model": "lre"}), Row("d"))
    sweep = question(rows=rows, headings=(), baseline="")
    assert sweep.searched(sweep.base) == {"model.lr": (0.1, 0.2, sweep.base.config().lr)}
    assert question(space={"model.flip": (True, False)}).searched(sweep.base) == {"model.flip": (True, False)}


@pytest.mark.parametrize(
    "preset", ["small", *(pytest.param(name, marks=pytest.mark.nightly) for name in PRESETS if name != "small")]
)
def test_every_sweep_can_be_searched(preset: Preset, tmp_path: Path) -> None:
    """Up to the plan: what is varied is there, and the row that it starts from is one that can run."""
    for name in NAMES:
        sweep = importlib.import_module(f"sweeps.{name}").SWEEP
        told = io.StringIO()
        # The sample corpus has no uncompressed videos, which some papers train on.
        there = {"codec": "c23"} if preset == "paper" and sweep.base.codec == "raw" else {}
        storage = str(tmp_path / "none")
        address = "nohost" if preset == "small" else None
        options = Options(storage=storage, preset=preset, search=2, dry_run=True, settings=there, address=address)
        assert find_best(sweep, options, Console(file=told, width=200)) is None
        declared = sweep.experiments(preset, 1, {})[sweep.declared.label, 0]
        assert declared.model == sweep.base.model
        assert all(key in told.getvalue() for key in sweep.searched(declared))
        assert "The search trains 2 candidates" in told.getvalue()
        assert f"Storage: {storage}" in told.getvalue()
        assert ("The cluster at nohost was not asked" in told.getvalue()) == (preset == "small")
        named = {part.partition("/")[0] for part in (declared.train_on, *declared.test_on)}
        protocol.build(declared, {dataset: videos_of(dataset, preset) for dataset in named})


def test_what_makes_one_model_short_does_not_reach_rows_of_another() -> None:
    rows = (Row("a", {}), Row("b", {"model": "lre"}))
    sweep = question(rows=rows, headings=("dfdc",), baseline="", small={"model.num_epochs": 2, "codec": "c40"})
    a, b = sweep.experiments("small", 1, {"model.pretrained": False}).values()
    assert (a.config().num_epochs, a.codec, a.config().pretrained) == (2, "c40", False)
    assert (b.model, b.codec, b.config().pretrained) == ("lre", "c40", False)


# --------------------------------------------------------------------------------------- switches
def test_the_switches_are_these(sweep: Sweep) -> None:
    """The same for every sweep. What varies an experiment belongs into a sweep file: only a search, whose result
    is one of many, takes it from the command line."""
    options = [option for action in parser(sweep, None)._actions for option in action.option_strings]
    assert {option for option in options if option.startswith("--")} == SWITCHES
    assert set(options) - SWITCHES == {"-h"}


def test_a_sweep_is_a_script(tmp_path: Path) -> None:
    ended = python(str(ROOT / "sweeps" / "mask_ratio.py"), "--help", cwd=tmp_path)
    assert ended.returncode == 0
    assert docstring("mask_ratio").splitlines()[0] in ended.stdout
    assert all(switch in ended.stdout for switch in SWITCHES)
    assert not {"ray", "mlflow", "matplotlib"} & imported(ended)
    assert list(tmp_path.iterdir()) == []


def test_every_sweep_ends_as_a_script_does(name: str) -> None:
    last = ast.parse((ROOT / "sweeps" / f"{name}.py").read_text()).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    main(SWEEP, __doc__)"


@pytest.mark.nightly
def test_a_dry_run_without_data_plans_on_the_sample_corpus_and_makes_nothing(tmp_path: Path) -> None:
    said, names = run_all("--dry-run", "--storage", "empty", cwd=tmp_path)
    for name, text in said.items():
        assert "sample corpus" in text, name
        assert "nothing about the world" in " ".join(text.split())
        assert "to train" in text
    assert not {"ray", "mlflow", "matplotlib"} & names
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"{name}.out" for name in NAMES}
