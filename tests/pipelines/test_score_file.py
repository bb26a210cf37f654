"""Scores from elsewhere, by the command as it is used: from a file to a run, a report, MLflow and a sweep's table."""

import csv
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from rich.console import Console

from pipelines import report
from pipelines.commands.score_file import scored
from pipelines.common.storage import read_json, write_json
from pipelines.experiments.sweep import Column
from pipelines.launch import foreign
from pipelines.reporting.foreign import with_registered
from pipelines.reporting.report import gather
from pipelines.reporting.saved import Line, Planned, Run, differing
from pipelines.reporting.table import cells
from pipelines.score_file import main, parser
from pipelines.scoring.trained import best, by_name

LISTS = {
    "home": """path,label,split,person
a.mp4,real,train,ann
af.mp4,fake,train,ann
b.mp4,real,val,bob
bf.mp4,fake,val,bob
""",
    "away": """path,label,split,person
real/0.mp4,real,test,cid
real/1.mp4,real,test,dan
real/9.mp4,real,train,eve
fake/0.mp4,fake,test,cid
fake/1.mp4,fake,test,dan
""",
    "far": """path,label,split,person
real/0.mp4,real,test,fay
real/1.mp4,real,test,gus
fake/0.mp4,fake,test,fay
fake/1.mp4,fake,test,gus
""",
}
SWEEP = """
from pipelines.sweep import Experiment, Row, Sweep

SWEEP = Sweep(
    name="tiny",
    title="A table",
    base=Experiment(model="plain", train_on="home", test_on=("away", "far")),
    row_name="method",
    headings=("away", "far"),
    rows=(Row("ours", {}), Row("bright", {"model.flip": False})),
)
"""
WELL = {"real/0": 0.1, "real/1": 0.2, "fake/0": 0.7, "fake/1": 0.9}  # AUC 1
FAIR = {"real/0": 0.1, "real/1": 0.6, "fake/0": 0.5, "fake/1": 0.9}  # AUC 3/4: of four pairs one is the wrong way round
TEST_AWAY = ["--test-on", "away", "--train-on", "home"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with lists of videos: these themselves need not be there to be named."""
    for name, text in LISTS.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "datasets.toml").write_text("".join(f'{name} = "{name}.csv"\n' for name in LISTS))
    (tmp_path / "tiny.py").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "CROSSFORGE_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    write("mine.csv", FAIR)
    return tmp_path


def write(file: str, scores: Mapping[str, float], *parts: str) -> None:
    lines = [f"{part}/{name},{score}\n" for part in parts or ("away",) for name, score in scores.items()]
    Path(file).write_text("".join(["video_id,score\n", *lines]))


def written(*switches: str) -> Run:
    """The run that the command makes, without the report and MLflow."""
    made = scored(parser().parse_args(switches), Console(quiet=True))
    assert made
    made[1].write()
    return Run.read(made[1].folder)


def value(run: Run, metric: str, part: str = "away", level: str = "video") -> float:
    (found,) = (
        row["value"]
        for row in run.results.to_pylist()
        if (row["test_dataset"], row["level"], row["metric"]) == (part, level, metric)
    )
    return found


# -------------------------------------------------------------------------------------------------------- a test part
def test_a_file_becomes_a_run_with_the_numbers_worked_out_by_hand(here: Path) -> None:
    run = written("mine.csv", "--name", "My [b]method[/b]", *TEST_AWAY)
    assert value(run, "auc") == 0.75
    assert value(run, "acc_at_0_5") == 0.5  # 0.1 and 0.9 are right; 0.5 counts as real
    rows = run.results.to_pylist()
    assert {row["level"] for row in rows} == {"video"}  # there are no scores of frames
    told = ("model", "train_on", "failed_rule", "n_real", "n_fake", "n_missing")
    assert {tuple(row[name] for name in told) for row in rows} == {("My [b]method[/b]", "home", "exclude", 2, 2, 0)}
    assert differing(run.results, run.made_again(run.tables())) == []
    source = read_json(run.folder / "trial.json")["foreign"]
    assert (source["file"], source["score_is"], source["higher_is"]) == ("mine.csv", "probability", "fake")
    assert read_json(run.folder / "_done.json")["scores"].keys() == {"away"}
    with pytest.raises(ValueError, match=r"no done trial of plain; done trials: none; .*crossforge train plain`"):
        best("plain", here / "crossforge-storage")
    with pytest.raises(ValueError, match=r"scores from elsewhere \(My \[b\]method"):
        by_name(run.folder.name[:8], here / "crossforge-storage")


def test_a_part_that_is_named_twice_counts_once(here: Path) -> None:
    run = written("mine.csv", "--name", "Mine", "--test-on", "away", "away", "--train-on", "home")
    assert [part.name for part in run.origin.parts] == ["away"]


def test_other_scores_are_another_run(here: Path) -> None:
    names = set()
    for scores in (FAIR, WELL, FAIR):
        write("mine.csv", scores)
        names.add(written("mine.csv", "--name", "Mine", *TEST_AWAY).folder.name)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("old", "new", "auc"),
    [
        ("real/1.mp4,real,test,dan\nreal/9.mp4,real,train,eve\nfake/0.mp4,fake", None, 1.0),  # labels put right
        ("fake/1.mp4,fake,test,dan", "fake/1.mp4,fake,test,cid", 0.75),  # another person: another interval
    ],
)
def test_another_list_of_the_same_videos_is_another_run(here: Path, old: str, new: str | None, auc: float) -> None:
    before = written("mine.csv", "--name", "Mine", *TEST_AWAY)
    swapped = old.replace("real,test", "FAKE,test").replace("mp4,fake", "mp4,real").replace("FAKE", "fake")
    Path("away.csv").write_text(LISTS["away"].replace(old, new or swapped))
    after = written("mine.csv", "--name", "Mine", *TEST_AWAY)
    assert (value(before, "auc"), value(after, "auc")) == (0.75, auc)
    assert after.folder != before.folder


def test_scores_of_frames_give_numbers_at_both_levels(here: Path) -> None:
    """Log odds of real, by path; P(fake) of a video is the mean over its frames."""
    logits = {"real/0": (-1, 1), "real/1": (-1, 1), "fake/0": (1, 1), "fake/1": (1, 1)}  # of fake
    rows = [
        {"path": f"{name}.mp4", "frame_index": frame, "raw": -logit}
        for name, values in logits.items()
        for frame, logit in zip((0, 5), values, strict=True)
    ]
    pd.DataFrame(rows).to_parquet("frames.parquet")
    says = ["--score-column", "raw", "--score-is", "logit", "--higher-is", "real"]
    run = written("frames.parquet", "--name", "X", *says, *TEST_AWAY)
    assert value(run, "auc") == 1
    assert value(run, "auc", level="frame") == 0.75  # two of four real frames tie with every fake one
    table = pq.read_table(run.folder / "predictions.parquet")
    assert (table.num_rows, set(table["frame_index"].to_pylist())) == (8, {0, 5})
    assert set(table["logit"].to_pylist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("rule", "auc"), [("exclude", 1.0), ("half", 0.75)])
def test_an_absent_video_failed(rule: str, auc: float, here: Path) -> None:
    """A fake: it is left out, or scores 0.5, which lies below one of two real ones."""
    write("mine.csv", {name: score for name, score in FAIR.items() if name != "fake/0"})
    run = written("mine.csv", "--name", "X", *TEST_AWAY, "--failed-videos", rule)
    assert value(run, "auc") == auc
    (failed,) = run.origin.part("away").failed
    assert (failed.video_id, failed.reason) == ("away/fake/0", "not in the file")
    assert {row["n_missing"] for row in run.results.to_pylist()} == {1}


def test_what_a_method_has_not_seen_is_known_only_of_known_training(here: Path) -> None:
    write("mine.csv", FAIR, "away", "far")
    for training, means in (([], set()), (["--train-on", "home"], {"unseen"})):
        run = written("mine.csv", "--name", "X", "--test-on", "away", "far", *training)
        assert {row["test_dataset"] for row in run.results.to_pylist()} == {"away", "far", *means}
        assert run.origin.train_on == "".join(training[1:])


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ("--name X", "name what is scored: --test-on celeb_df ..., or --sweep sweeps/methods.py"),
        ("--name X --test-on away --beside ours", "--beside names a row of a sweep; add --sweep FILE"),
        ("--name X --sweep tiny.py --train-on home", "--train-on is what the sweep says; leave it out with --sweep"),
        ("--name X --sweep tiny.py --beside theirs", "--beside theirs: tiny runs 'ours', 'bright'"),
        ("--name ours --sweep tiny.py", "--name ours: tiny has a row of that name; choose another"),
        ("--name X --sweep datasets.toml", "datasets.toml is no Python file"),
        ("--name X --test-on far", "an unknown video_id: line 2 'away/real/0'"),
        ("--name X --test-on away far", "mine.csv has no video of far"),
        ("--name X --test-on away --against 12", "--against 12 begins 0 digests of runs in"),
        ("--name X --test-on away --score-column p", "it has video_id, score"),
    ],
)
def test_what_makes_no_sense_is_one_error_and_leaves_no_trace(
    switches: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mine.csv", *switches.split()]) == 2
    assert said in capsys.readouterr().out
    assert not list((here / "crossforge-storage").glob("*"))


def test_a_dry_run_checks_all_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine.csv", "--name", "X", *TEST_AWAY, "--dry-run"]) == 0
    assert "2 real and 2 fake videos to be scored" in capsys.readouterr().out
    with (here / "mine.csv").open("a") as file:
        file.write("away/real/0,0.1\n")
    assert main(["mine.csv", "--name", "X", *TEST_AWAY, "--dry-run"]) == 2
    assert "given twice: write one score of each video: line 6" in capsys.readouterr().out
    assert not (here / "crossforge-storage").exists()


def test_the_worked_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text()
    files = dict(re.findall(r"^`([\w.]+)`\n```\w+\n(.*?)^```", page, re.M | re.S))
    assert files.keys() == {"datasets.toml", "lab.csv", "street.csv", "scores.csv", "my_detector.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^uv run crossforge score-file (.*--test-on.*)", page, re.M)
    run = written(*shlex.split(command))
    assert f"AUC is {value(run, 'auc', 'street')}" in page.replace("\n", " ")
    (failed,) = run.origin.part("street").failed
    assert f"`{failed.video_id.removeprefix('street/')}` has no line" in page
    assert f'("{failed.reason}")' in page


# ---------------------------------------------------------------------------------------------------- beside our rows
def test_a_row_stands_in_the_sweeps_table_as_long_as_it_is_registered(here: Path) -> None:
    storage = here / "crossforge-storage"
    write("well.csv", WELL, "away", "far")
    write("fair.csv", FAIR, "away", "far")
    # What stands for a trained row here: the run of another file.
    ours = written("well.csv", "--name", "stand-in", "--test-on", "away", "far", "--train-on", "home")
    made = scored(parser().parse_args(["fair.csv", "--name", "Mine", "--sweep", "tiny.py"]), Console(quiet=True))
    assert made
    made[1].write()
    registered = foreign.register(*made)
    whole = replace(
        foreign.table(*made),
        name="tiny",
        columns=tuple(Column.of(name, "video", "auc") for name in ("away", "far")),
        rows=(Line(label="ours", published=("90.0", "-"), baseline="ours"),),
        trials=(Planned(row="ours", seed=0, run=ours.folder.name), Planned(row="ours", seed=1, run=ours.folder.name)),
    )
    saved = with_registered(with_registered(whole, storage), storage)  # it stands there once
    assert [(line.label, line.baseline) for line in saved.rows] == [("ours", "ours"), ("Mine †", "ours")]
    assert saved.rows[1].note.startswith("scores from elsewhere: fair.csv, videos (probability, higher means fake)")
    table = cells(saved, gather(saved, storage, again=False))
    mine = {cell.column: cell for cell in table if cell.row == "Mine †"}
    assert [cell.ours for cell in mine.values()] == [0.75, 0.75]
    for cell in mine.values():  # against each seed of the baseline
        assert cell.against
        assert cell.against.by_seed == {0: -0.25, 1: -0.25}

    told = read_json(registered)
    write_json(registered, {**told, "parts": [told["parts"][0], "far test c23 v1 0123456789abcdef"]})
    left = with_registered(saved, storage)
    assert [line.label for line in left.rows] == ["ours"]
    assert left.facts["left out"] == "Mine: scores from elsewhere of other videos than those of this table"
    for change, why in (
        ({"version": 0}, "whose numbers another version made: give the command that scored them again"),
        (
            {"failed_rule": "half"},
            "with another rule for videos without a score (half, here exclude): score them again",
        ),
    ):
        write_json(registered, {**told, **change})
        stale = with_registered(saved, storage)
        assert [line.label for line in stale.rows] == ["ours"]
        assert stale.facts["left out"] == f"Mine: scores from elsewhere {why}"
    write_json(registered, {**told, "is_sample": True})
    assert [line.label for line in with_registered(saved, storage).rows] == ["ours"]
    registered.unlink()
    assert with_registered(left, storage) == whole


@pytest.mark.nightly
def test_the_whole_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run, report, MLflow, and a run of the storage as baseline; then the report made again by its own command."""
    storage = here / "crossforge-storage"
    theirs = written("mine.csv", "--name", "Theirs", *TEST_AWAY).folder.name
    write("well.csv", {name: 1 - score for name, score in WELL.items()})
    for _ in range(2):  # the second time finds all done
        assert main(["well.csv", "--name", "Mine [b]", *TEST_AWAY, "--against", theirs[:6]]) == 0
    assert "Mine [b] †" in capsys.readouterr().out
    (folder,) = (storage / "reports").iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".md", ".csv", ".tex", ".png", ".html", ".json"}
    assert report.main(["scores_mine_b"]) == 0
    with (folder / "scores_mine_b.csv").open() as file:
        lines = {(line["method"], line["metric"]): line for line in csv.DictReader(file)}
    mine, baseline = lines["Mine [b] †", "auc"], f"Theirs † [{theirs[:6]}]"
    assert (mine["ours"], mine["baseline"], mine["baseline_difference"]) == ("0.000000", baseline, "-0.750000")

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("scores_from_elsewhere")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert (logged.info.status, logged.data.metrics["away/video/auc"]) == ("FINISHED", 0.0)
    tags = logged.data.tags
    assert (tags["foreign"], tags["method"], tags["source.file"]) == ("true", "Mine [b]", "well.csv")
    assert tags["source.sha256"] == sha256((here / "well.csv").read_bytes()).hexdigest()
    assert (tags["trained_on"], tags["data"]) == ("home", "real")

    assert main(["mine.csv", "--name", "Mine", "--sweep", "tiny.py", "--test-on", "away"]) == 0
    assert "Row of tiny: " in capsys.readouterr().out
    assert len(list((storage / "foreign" / "tiny").iterdir())) == 1


def test_scores_the_wrong_way_round_are_noticed(here: Path) -> None:
    """Where they are so by more than chance."""
    for number, noticed in ((2, False), (40, True)):
        names = [f"{kind}/{i}" for kind in ("real", "fake") for i in range(number)]
        (here / "many.csv").write_text("path,label\n" + "".join(f"{name}.mp4,{name[:4]}\n" for name in names))
        with (here / "datasets.toml").open("a") as file:
            file.write('many = "many.csv"\n' if number == 2 else "")
        write("wrong.csv", {name: 0.4 if name.startswith("fake") else 0.6 for name in names}, "many")
        made = scored(parser().parse_args(["wrong.csv", "--name", "X", "--test-on", "many"]), Console(quiet=True))
        assert made
        made[1].write()
        said = foreign.warnings(made[1])
        assert bool(said) == noticed
    assert said[0].startswith("many: AUC 0.000, below 0.5 by more than chance: does a high score mean real?")
