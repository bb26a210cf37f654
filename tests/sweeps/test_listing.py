"""`python -m sweeps`: which questions there are, and how much of them is done, counted by hand."""

import importlib
from pathlib import Path

import pytest

from pipelines.common.storage import write_json
from pipelines.experiments.experiment import Experiment
from pipelines.launch import cost
from pipelines.training import stages
from pipelines.training.views import VIEWS
from sweeps import __main__ as listing


@pytest.fixture(autouse=True)
def _estimated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates are of `test_work`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(cost, "estimate", lambda experiments: f"{len(list(experiments))} trainings")


def stage(storage: Path, experiment: Experiment, rows: str, *, done: bool = True) -> None:
    """Leaves in the storage what the training of an experiment on these rows leaves."""
    views = dict.fromkeys(VIEWS, rows)
    for planned in stages.plan(experiment, views, storage):
        write_json(planned.folder / "spec.json", planned.spec)
        if done:
            write_json(planned.folder / "_done.json", {})


def first_row(name: str) -> Experiment:
    return next(iter(importlib.import_module(f"sweeps.{name}").SWEEP.experiments("small", 1, {}).values()))


def entry_of(name: str, storage: Path) -> str:
    """Return what an entry says of rows and stages, in a line."""
    lines = listing.entry(name, "an estimate", "small", storage, listing.trained(storage))
    assert lines[-2] == "    at the paper's size: an estimate"
    return f"{lines[-3].strip()}; {lines[-1].strip().removeprefix('small preset, 1 seed: ')}"


def asked(lines: list[str]) -> list[str]:
    return [line.split("/")[1].removesuffix(".py") for line in lines if line.startswith("uv run python sweeps/")]


def test_every_question_is_a_line_within_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing.main(["--storage", str(tmp_path)])
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines[:-3]] == list(listing.names())
    assert max(map(len, lines[:-3])) <= 80
    assert "mask_ratio                 Delocate, Table 5: mask ratio" in lines
    assert lines[-2] == f"{len(listing.names())} questions"
    assert told.err == ""  # nothing is estimated
    assert list(tmp_path.iterdir()) == []


def test_every_question_is_told_of_within_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing.main(["--long", "--storage", str(tmp_path), "--preset", "small"])
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert asked(lines) == list(listing.names())
    assert max(map(len, lines[:-1])) <= 80
    assert "    Delocate, Table 5: mask ratio" in lines
    assert list(tmp_path.iterdir()) == []
    assert told.err.startswith(f"Estimating {len(listing.names())} questions")


def test_an_estimate_is_of_the_paper_s_size_and_default_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = importlib.import_module("sweeps.lre_gate").SWEEP
    for said in ("Estimating 1 question,", ""):  # the second time it is known
        listing.main(["lre_gate", "--long"])
        told = capsys.readouterr()
        assert f"    at the paper's size: {len(sweep.running) * sweep.seeds['paper']} trainings\n" in told.out
        assert told.err.startswith(said)
        assert bool(told.err) == bool(said)


def test_a_word_of_name_title_or_question_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing.main(["mask_ratio", "--long", "--storage", str(tmp_path)])
    assert asked(capsys.readouterr().out.splitlines()) == ["lre_mask_ratio", "mask_ratio"]
    assert "mask_ratio" in listing.chosen(["delocate"])  # by its title
    assert listing.chosen(["table iv"]) == ["lre_cross_dataset"]
    assert listing.chosen(["noise"]) == ["adfd_components", "adfd_nrs_threshold"]  # by their questions
    assert listing.chosen(["mc-lcr", "steadiness"]) == [n for n in listing.names() if n[:2] == "mc" or n[:4] == "prep"]
    assert listing.chosen(["ratio"]) == ["adfd_blending", "lre_mask_ratio", "mask_ratio"]
    assert listing.chosen(["_ratio"]) == ["lre_mask_ratio", "mask_ratio"]
    assert listing.chosen(["m.sk", "[", "(", "("]) == listing.chosen(["("])  # characters, no patterns
    assert listing.chosen(["orgeries"]) == []  # a word is meant from its beginning


def test_what_is_there_is_a_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(tmp_path, first_row("mask_ratio"), "some videos")
    listing.main(["mask_ratio", "--trained", "--preset", "small", "--storage", str(tmp_path)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"mask_ratio 3 of 15 0 of 5", "lre_mask_ratio 0 of 8 0 of 4"} <= set(lines)
    assert lines[-1].endswith(f"--storage {tmp_path}")
    listing.main(["lre_gate", "--trained", "--preset", "small", "--storage", str(tmp_path / "none")])
    assert capsys.readouterr().out.endswith(f"--storage {tmp_path}/none, which is not there yet\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maks"], "no question has maks in its name or text; did you mean 'masks'?"),
        (["zzz"], "zzz in its name or text; `uv run crossforge sweeps` lists all"),
        (["--storage", "s3://b"], "s3://b"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        listing.main(arguments)
    assert message in capsys.readouterr().err


def test_a_home_folder_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSFORGE_DATASETS", "~nobody-here/datasets.toml")
    with pytest.raises(SystemExit) as stopped:
        listing.main(["--trained", "--storage", str(tmp_path)])
    assert stopped.value.code == 2
    assert "~nobody-here/datasets.toml: there is no home folder ~nobody-here;" in capsys.readouterr().err


def test_stages_are_distinct(tmp_path: Path) -> None:
    # five ratios: each its own recover, finetune and localize
    assert entry_of("mask_ratio", tmp_path) == "5 rows; 0 of 15 stages trained"
    # one autoencoder for four detectors, and four EfficientNets
    assert entry_of("lre_cross_manipulation", tmp_path) == "8 rows and 8 published only; 0 of 9 stages trained"
    # three detectors, of which two share the autoencoder of c23
    assert entry_of("lre_in_dataset", tmp_path) == "3 rows and 20 published only; 0 of 5 stages trained"


def test_a_stage_counts_when_it_is_finished(tmp_path: Path) -> None:
    stage(tmp_path, first_row("mask_ratio"), "some videos", done=False)
    assert entry_of("mask_ratio", tmp_path).endswith(" 0 of 15 stages trained")
    stage(tmp_path, first_row("mask_ratio"), "some videos")
    assert entry_of("mask_ratio", tmp_path).endswith(" 3 of 15 stages trained")


def test_rows_that_differ_in_their_videos_alone_count_one_by_one(tmp_path: Path) -> None:
    """All four detectors have the same settings: as many count as were trained on videos of their own."""
    sweep = importlib.import_module("sweeps.lre_cross_manipulation").SWEEP
    detector = sweep.experiments("small", 1, {})["LRE, Deepfakes", 0]
    for number, expected in enumerate(("2", "3"), start=1):
        stage(tmp_path, detector, f"videos {number}")
        assert entry_of("lre_cross_manipulation", tmp_path).endswith(f"; {expected} of 9 stages trained")


def test_other_settings_or_seeds_do_not_count(tmp_path: Path) -> None:
    stage(tmp_path, first_row("mask_ratio").override({"model.recover.lr": 1e-4}), "some videos")
    stage(tmp_path, first_row("mask_ratio").override({"seed": 1}), "some videos")
    assert entry_of("mask_ratio", tmp_path).endswith(" 0 of 15 stages trained")


def test_rows_with_a_number_are_counted_in_the_newest_report(tmp_path: Path) -> None:
    text = "mask ratio,test_dataset,published,ours\n0.55,dfdc,0.8,{}\n0.55,celeb_df,0.8,0.7\n0.65,dfdc,0.8,\n"
    reports = {"mask_ratio-0123456789abcdef": "0.7", "mask_ratio-of-mine": "0.7"}
    for folder, value in reports.items():
        path = tmp_path / "reports" / folder / "mask_ratio.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text.format(value))
    assert listing.rows_reported("mask_ratio", tmp_path) == 1
    assert listing.rows_reported("methods", tmp_path) is None
    assert entry_of("mask_ratio", tmp_path).startswith("5 rows; newest report: 1 of 5 rows;")
