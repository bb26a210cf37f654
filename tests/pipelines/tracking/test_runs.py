"""What a trial is called in MLflow, what it can be filtered by, and which data it says it read. No MLflow."""

import io
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from pipelines.common.storage import digest, write_json, write_text
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.protocol import Part
from pipelines.experiments.sweep import Sweep, grid
from pipelines.launch import publish
from pipelines.tracking import runs
from pipelines.training import stages
from pipelines.training.views import VIEWS, Video
from pipelines.trials.outcome import Outcome
from pipelines.trials.trial import TIMES, Trial, UsablePart

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
    return Trial(
        experiment=experiment,
        planned=planned,
        train=replace(usable("ffpp", "train", "a"), videos=TRAINED_ON),
        select=usable("ffpp", "val", "b"),
        test=(usable("celeb_df", "test", "c"), usable("dfdc", "test", "d", failed={"e": "no_face"})),
        faces={},
        folder=storage / "runs" / digest(experiment),
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


# -------------------------------------------------------------------------------------------- times
BEGAN = datetime(2026, 3, 1, 9, tzinfo=UTC)


def test_a_trial_that_goes_on_began_before_and_ends_once(launched: Outcome) -> None:
    first = launched.trials["0.5", 0]
    assert first.times == {}
    write_json(first.folder / TIMES, {"began": BEGAN.isoformat()})  # as a process that was killed leaves it
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with first.timed():
        assert first.times == {"began": BEGAN}
    assert first.times["began"] == BEGAN
    ended = first.times["ended"]
    assert before <= ended <= datetime.now(UTC)
    with pytest.raises(ValueError, match="no memory"):
        _failing(first)
    assert first.times["began"] == BEGAN
    assert first.times["ended"] >= ended


def _failing(first: Trial) -> None:
    with first.timed():
        assert "ended" not in first.times
        raise ValueError("no memory")


def test_the_report_says_when_the_trials_ran(launched: Outcome) -> None:
    assert publish._when(launched.trials.values()) == ""
    for hours, each in enumerate(launched.trials.values()):
        times = {"began": BEGAN + timedelta(hours=hours), "ended": BEGAN + timedelta(hours=hours, minutes=30)}
        write_json(each.folder / TIMES, {event: at.isoformat() for event, at in times.items()})
    assert publish._when(launched.trials.values()) == "2026-03-01 09:00 to 10:30 UTC"


def test_a_run_begins_and_ends_with_its_trial(launched: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all is logged afterwards; the launch begins with its first trial."""
    tracker = Mock()
    tracker.open_run.side_effect = lambda key, *_, **__: key
    tracker.is_finished.side_effect = lambda run_id: run_id == launched.key
    monkeypatch.setattr(runs, "Tracker", lambda *_: tracker)
    first, second = launched.trials.values()
    for hours, each in enumerate((first, second)):
        times = {"began": BEGAN + timedelta(hours=hours), "ended": BEGAN + timedelta(hours=hours + 1)}
        write_json(each.folder / TIMES, {event: at.isoformat() for event, at in times.items()})
    runs.log(launched, {}, [])  # neither is done
    began = {call.args[0]: call.kwargs["began"] for call in tracker.open_run.call_args_list}
    assert began == {launched.key: BEGAN, first.digest: BEGAN, second.digest: BEGAN + timedelta(hours=1)}
    ended = [call.args for call in tracker.end.call_args_list]
    assert ended == [(trial.digest, "FAILED", trial.times["ended"]) for trial in (first, second)]


def test_a_trial_has_no_run_before_it_begins(launched: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Mock(uri="sqlite:////x/mlflow.db")
    tracker.open_run.side_effect = lambda key, *_, **__: key
    tracker.monitored.side_effect = lambda _: nullcontext()
    tracker.keep_view.return_value = "http://127.0.0.1:5000/#/x"
    monkeypatch.setattr(runs, "Tracker", lambda *_: tracker)
    key, other = launched.trials
    stages_of = launched.trials[key].planned
    out = io.StringIO()
    with runs.live(launched, Console(file=out, width=200)) as live:
        assert [call.args[0] for call in tracker.open_run.call_args_list] == [launched.key]
        for lines in (1, 1, 2):
            curve = [{"epoch": n, "step": n, "seconds": 2.0, "train/loss": 1 / n} for n in range(1, lines + 1)]
            write_text(stages_of[0].folder / "curves.jsonl", "".join(json.dumps(line) + "\n" for line in curve))
            live.look(key)
        write_text(stages_of[1].folder / "curves.jsonl", json.dumps({"epoch": 1, "step": 1}) + "\n")
        live.look(key)
    assert [call.args[0] for call in tracker.open_run.call_args_list] == [launched.key, launched.trials[key].digest]
    logged = [(call.args[1], len(call.args[2]), call.kwargs) for call in tracker.log_curve.call_args_list]
    first, second = (stage.name for stage in stages_of[:2])
    assert logged == [(first, 1, {"after_s": 0.0}), (first, 2, {"after_s": 0.0}), (second, 1, {"after_s": 4.0})]
    assert "then open http://127.0.0.1:5000/#/x" in out.getvalue()
    assert other not in live.runs.children  # type: ignore[union-attr]


def test_the_table_in_mlflow_has_the_papers_number_behind_ours(launched: Outcome) -> None:
    expected = [f"{name}/video/auc{end}" for name in ("celeb_df", "dfdc") for end in ("", "/published")]
    assert runs.table_metrics(launched) == expected
    assert runs.published(launched, ("0.5", 0)) == dict.fromkeys(expected[1::2], 0.5)
    without = replace(SWEEP, rows=grid("model.recover.mask_ratio", {0.5: "- 50.0", 0.9: "- -"}))
    assert runs.table_metrics(replace(launched, sweep=without)) == [expected[0], *expected[2:]]


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
            live.look(("0.5", 0))
    (line,) = out.getvalue().splitlines()
    assert "the launch goes on without it" in line
    assert "***@127.0.0.1:9" in line
    assert "secret" not in line


def test_results_that_can_not_be_logged_say_how_to_log_them(launched: Outcome, absent: None) -> None:
    out = io.StringIO()
    assert publish._log(launched, [], Console(file=out, width=200)) == ([], [])
    assert out.getvalue().startswith("NOT LOGGED  MLflow at http://***@127.0.0.1:9: ")
    assert "the same command logs them" in out.getvalue()
    assert "secret" not in out.getvalue()
