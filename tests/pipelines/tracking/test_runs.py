"""What a trial is called in MLflow, what it can be filtered by, and which data it says it read. No MLflow."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.protocol import Part
from pipelines.experiments.sweep import Sweep, grid
from pipelines.launch import publish
from pipelines.tracking import runs
from pipelines.training import stages
from pipelines.training.views import VIEWS, Video
from pipelines.trials.outcome import Outcome
from pipelines.trials.trial import Trial, UsablePart

BASE = Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df", "dfdc"), preset="small")
SWEEP = Sweep(
    name="ratio",
    title="Delocate, Table 5: mask ratio",
    base=BASE,
    row_name="mask ratio",
    headings=("celeb_df", "dfdc"),
    rows=grid("model.recover.mask_ratio", {0.5: "50.0 50.0", 0.9: "50.0 50.0"}),
)


TRAINED_ON = tuple(
    Video(f"ffpp/{method}/c23/{number}", int(method != "real"), method, f"ffpp/{number}")
    for method in ("real", "FaceSwap", "Deepfakes")
    for number in (1, 2)
)


def usable(name: str, split: str, *contents: str, failed: Mapping[str, str] | None = None) -> UsablePart:
    part = Part(name=name, dataset=name.partition("/")[0], split=split, codec="c23", rows=(), excluded=("x/1",))
    return UsablePart(part=part, videos=(), failed=failed or {}, contents=tuple((name, name) for name in contents))


def trial(experiment: Experiment, storage: Path) -> Trial:
    planned = stages.plan(experiment, dict.fromkeys(VIEWS, "rows"), storage)
    name = f"{len(str(experiment.flat())):04d}{experiment.seed}".ljust(16, "a")
    return Trial(
        experiment=experiment,
        planned=planned,
        train=replace(usable("ffpp", "train", "a"), videos=TRAINED_ON),
        select=usable("ffpp", "val", "b"),
        test=(usable("celeb_df", "test", "c"), usable("dfdc", "test", "d", failed={"e": "no_face"})),
        faces={},
        folder=storage / "runs" / name,
    )


@pytest.fixture
def launched(tmp_path: Path) -> Outcome:
    trials = {key: trial(experiment, tmp_path) for key, experiment in SWEEP.experiments("small", 1, {}).items()}
    return Outcome(sweep=SWEEP, preset="small", config_file=None, storage=tmp_path, extractions=(), trials=trials)


@pytest.mark.parametrize(
    ("title", "parts"),
    [
        ("LRE, Table V: against its backbone", ("LRE", "Table V", "against its backbone")),
        ("BBMG + NRS, Sec. 4.1: threshold of NRS", ("BBMG + NRS", "Sec. 4.1", "threshold of NRS")),
        ("Table 0: mask ratio", ("", "Table 0", "mask ratio")),
        ("All methods, trained on FF++", ("", "", "All methods, trained on FF++")),
    ],
)
def test_a_title_says_paper_and_table(title: str, parts: tuple[str, str, str]) -> None:
    assert runs.parts_of(title) == parts


def test_a_trial_can_be_found_by_every_fact_of_it(launched: Outcome) -> None:
    tags = runs.common_tags(launched) | runs.trial_tags(launched.trials["0.5", 0])
    expected = {
        "paper": "Delocate",
        "table": "Table 5",
        "question": "mask ratio",
        "method": "delocate",
        "trained_on": "ffpp",
        "tested_on": "celeb_df, dfdc",
        "part": "test",
        "compression": "c23",
        "preset": "small",
        "seed": "0",
        "data": "sample",
    }
    assert {name: tags[name] for name in expected} == expected
    assert tags["parts"] == ", ".join(launched.trials["0.5", 0].citations)
    assert tags["parts"].startswith(f"ffpp train c23 v{protocol.VERSION} ")
    assert tags["commit"] == tags["mlflow.source.git.commit"]
    own = replace(launched, config_file=Path("datasets.toml"))
    assert runs.common_tags(own)["data"] == "real"


def test_no_setting_is_logged_twice(launched: Outcome) -> None:
    """The params and the tags together name every setting of the experiment once."""
    first = launched.trials["0.5", 0]
    params = runs.params(first)
    assert params["model_config.recover.mask_ratio"] == 0.5
    assert params["manipulations"] == "Deepfakes, FaceSwap"  # those that "all" were
    assert not set(runs.IN_TAGS) & params.keys()
    left_out = first.experiment.flat().keys() - params.keys()
    assert left_out == {*runs.IN_TAGS, "model_config.video_frames", "model_config.crop_margin"}
    assert all(str(value) != "" for value in params.values())


def test_a_setting_that_the_extraction_overrides_is_logged(launched: Outcome, tmp_path: Path) -> None:
    other = trial(BASE.override({"faces.margin": 2.0}), tmp_path)
    params = runs.params(other)
    assert (params["faces.margin"], params["model_config.crop_margin"]) == (2.0, BASE.config().crop_margin)


def test_names_tell_launches_and_trials_apart(launched: Outcome, tmp_path: Path) -> None:
    names = {runs.trial_name(key, first) for key, first in launched.trials.items()}
    assert len(names) == 2
    first = launched.trials["0.5", 0]
    assert runs.trial_name(("0.5", 0), first) == f"0.5, seed 0 [{first.digest[:6]}]"
    other = replace(launched, trials={("0.5", 0): first})
    assert runs.launch_name(launched) != runs.launch_name(other)
    assert runs.launch_name(launched).startswith("small, sample [")


def test_the_data_say_part_counts_and_no_path(launched: Outcome) -> None:
    read = runs.inputs(launched.trials["0.5", 0])
    assert [(dataset.name, dataset.context) for dataset in read] == [
        ("ffpp train c23", "training"),
        ("ffpp val c23", "validation"),
        ("celeb_df test c23", "testing"),
        ("dfdc test c23", "testing"),
    ]
    assert read[3].source == {"dataset": "dfdc", "part": "test", "compression": "c23"}
    assert read[3].profile == {"num_rows": 0, "num_real": 0, "num_fake": 0, "num_failed": 1, "num_excluded": 1}
    assert {"name": "video_id", "type": "string", "required": True} in read[0].schema
    assert len({dataset.digest for dataset in read}) == 4


def test_the_digest_of_data_is_that_of_its_contents(launched: Outcome) -> None:
    same, more = usable("ffpp", "train", "a"), usable("ffpp", "train", "a", failed={"e": "no_face"})
    first = runs.as_dataset(same, "training").digest
    assert first == runs.as_dataset(usable("ffpp", "train", "a"), "validation").digest
    assert first != runs.as_dataset(usable("ffpp", "train", "b"), "training").digest
    assert first != runs.as_dataset(more, "training").digest


# ------------------------------------------------------------------------------------ an absent server
@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No one listens there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    for name in ("START_PATIENCE_S", "LIVE_PATIENCE_S", "PATIENCE_S"):
        monkeypatch.setattr(runs, name, 0.0)


def test_trials_run_without_mlflow_and_one_line_says_so(launched: Outcome, absent: None) -> None:
    out = io.StringIO()
    with runs.live(launched, Console(file=out, width=200)) as live:
        for _ in range(3):
            live.curve(("0.5", 0), "recover", [{"epoch": 1, "step": 1, "loss": 1.0}])
    (line,) = out.getvalue().splitlines()
    assert "the launch goes on without it" in line
    assert "***@127.0.0.1:9" in line
    assert "secret" not in line


def test_results_that_can_not_be_logged_say_how_to_log_them(launched: Outcome, absent: None) -> None:
    out = io.StringIO()
    assert not publish._log(launched, [], Console(file=out, width=200))
    assert out.getvalue().startswith("NOT LOGGED  MLflow at http://***@127.0.0.1:9: ")
    assert "the same command logs them" in out.getvalue()
    assert "secret" not in out.getvalue()
