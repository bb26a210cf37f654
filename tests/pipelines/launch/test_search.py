"""The search's bookkeeping and its scheduler, on stages that are trained already; whole searches are in test_launch."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.common import storage
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.space import Range
from pipelines.launch import search
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.launch.search import Log
from pipelines.train import sweep_of
from pipelines.training import job, stages
from pipelines.trials import trial, tune
from pipelines.trials.tune import Candidate

NINE = list(range(1, 10))  # epochs
GOOD = [0.6, 0.9, *[0.95] * 7]
BAD = [0.5] * 9


def candidate(lr: float, state: str = "finished", auc: float | None = 0.5) -> Candidate:
    return Candidate(settings={"model.lr": lr}, state=state, auc=auc)


def test_the_log_keeps_the_last_word_on_each_candidate(tmp_path: Path) -> None:
    log = Log(folder=tmp_path)
    assert log.candidates() == []
    log.note(candidate(0.1, "running", None))
    log.note(candidate(0.1, "finished", 0.7))
    log.note(candidate(0.2, "failed", None))
    log.note(candidate(0.3, "stopped", 0.8))
    assert [(candidate.settings["model.lr"], candidate.state) for candidate in log.candidates()] == [
        (0.3, "stopped"),
        (0.1, "finished"),
        (0.2, "failed"),
    ]


def test_the_best_is_one_that_was_trained_to_the_end(tmp_path: Path) -> None:
    log = Log(folder=tmp_path)
    assert log.best() is None
    for known in (candidate(0.1, "finished", 0.7), candidate(0.2, "stopped", 0.9), candidate(0.3, "finished", 0.6)):
        log.note(known)
    best = log.best()
    assert best is not None
    assert best.settings == {"model.lr": 0.1}


def test_a_list_of_settings_comes_back_as_it_went(tmp_path: Path) -> None:
    log = Log(folder=tmp_path)
    log.note(Candidate(settings={"model.stages": ("a", "b")}, state="running"))
    (kept,) = log.candidates()
    assert kept.settings == {"model.stages": ("a", "b")}  # else Optuna would not know its own choice


@pytest.mark.parametrize(("space", "start"), [(Range(1e-5, 1e-1), 1), (Range(0.5, 0.9), 0), ((1e-3, 2e-4), 0)])
def test_the_sweeps_own_setting_is_tried_first_where_the_space_has_it(space, start) -> None:
    declared = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df",)).override({"model.lr": 0.01})
    assert search.own_setting(declared, {"model.lr": space}) == [{"model.lr": 0.01}] * start


def test_what_a_search_was_stopped_at_comes_first() -> None:
    declared = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df",)).override({"model.lr": 0.01})
    chosen, own = {"model.lr": Range(1e-5, 1e-1)}, {"model.lr": 0.01}
    assert search._first([], declared, chosen) == [own]
    assert search._first([candidate(0.01)], declared, chosen) == []
    assert search._first([candidate(0.01), candidate(0.02, "running", None)], declared, chosen) == [{"model.lr": 0.02}]


@pytest.mark.parametrize(("space", "others"), [("model.num_epochs=1..50", 2), ("model.num_epochs=900..1000", 3)])
def test_the_declared_setting_counts_once_in_a_plan(
    space: str, others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}
    monkeypatch.setattr(search.plan, "print_plan", lambda *args, **numbers: told.update(numbers))
    monkeypatch.setattr(Request, "roots", lambda request, console: None)
    options = Options(preset="small", storage=str(tmp_path), search=3, space=(space,), dry_run=True)
    assert search.find_best(sweep_of("plain", "ffpp", []), options, Console()) is None
    assert told == {"candidates": 3, "others": others}


@pytest.mark.parametrize(
    ("space", "number", "num_rows", "told"),
    [
        ((0.1, 0.2, 0.4), 3, 1, "The space has 3 settings, no more than are to be tried: --space KEY=LOW..HIGH"),
        ((0.1, 0.2, 0.4), 2, 3, "The space has 3 settings, no more than the table has rows: --space KEY=LOW..HIGH"),
        ((0.1, 0.2, 0.4), 2, 2, ""),
        (Range(1, 3), 3, 1, "The space has 3 settings"),
        (Range(0.1, 0.4), 100, 5, ""),
    ],
)
def test_a_space_that_holds_no_more_than_the_table_is_said_to_be_small(space, number, num_rows, told) -> None:
    console = Console(file=io.StringIO(), width=200)
    search._print_space({"model.lr": space}, number, num_rows, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert told in text
    assert bool(told) == ("The space has" in text)


# ------------------------------------------------------------------------------------------ Ray Tune
def trained(folder: Path, aucs: list[float], kept: int) -> trial.Trial:
    """A trial of one stage that is trained already, with these AUCs after its epochs."""
    experiment = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df",), preset="small")
    (planned,) = stages.plan(experiment, {"frames": "none"}, folder)
    planned = stages.PlannedStage(paper="plain", name="detect", folder=folder / "stage", spec=planned.spec)
    lines = [{"epoch": epoch, "step": epoch, "val/auc": auc} for epoch, auc in zip(NINE, aucs, strict=True)]
    storage.write_bytes(planned.folder / "curves.jsonl", "".join(json.dumps(x) + "\n" for x in lines).encode())
    storage.write_json(planned.folder / "_done.json", {"best_epoch": kept})
    empty = protocol.Part(name="ffpp", dataset="ffpp", split="train", codec="c23", rows=())
    nothing = trial.UsablePart(part=empty, videos=(), failed={}, contents=())
    return trial.Trial(
        experiment=experiment,
        planned=(planned,),
        train=nothing,
        select=nothing,
        test=(),
        faces={},
        folder=folder / "trial",
    )


def test_the_validation_auc_is_that_of_the_kept_epoch(tmp_path: Path) -> None:
    assert trained(tmp_path, GOOD, kept=2).validation_auc() == 0.9


class _Plan:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, settings: dict[str, float]) -> trial.Trial:
        good = settings["model.lr"] > 0.5
        if settings["model.lr"] == 0.75:
            raise ValueError("this one can't be planned")
        return trained(self.folder / str(settings["model.lr"]), GOOD if good else BAD, kept=9)


def go(folder: Path, known: list[Candidate], first: list[float], num: int) -> list[Candidate]:
    noted: list[Candidate] = []
    tune.search(
        tune.Search(
            space={"model.lr": Range(0.0, 1.0)},
            known=known,
            first=[{"model.lr": value} for value in first],
            num=num,
            most_epochs=9,
            seed=0,
        ),
        _Plan(folder),
        job.Compute(),
        1,
        folder / "tune",
        note=noted.append,
        look=lambda: None,
    )
    return noted


@pytest.mark.nightly
@pytest.mark.ray
def test_asha_stops_what_falls_behind_and_a_failure_costs_itself(ray_local: None, tmp_path: Path) -> None:
    noted = go(tmp_path, [], [0.9, 0.1, 0.75], 3)
    ended = {each.settings["model.lr"]: each for each in noted if each.state != "running"}
    assert [each.state for each in noted].count("running") >= 3
    assert (ended[0.9].state, ended[0.9].auc, ended[0.9].epochs) == ("finished", 0.95, 9)
    assert (ended[0.1].state, ended[0.1].auc) == ("stopped", 0.5)
    assert ended[0.1].epochs < 9
    assert ended[0.75].state == "failed"
    assert "this one can't be planned" in ended[0.75].reason


@pytest.mark.nightly
@pytest.mark.ray
def test_what_is_known_is_learnt_from_and_not_trained_again(ray_local: None, tmp_path: Path) -> None:
    """Two dozen known values say where it is good; the next proposals lie there."""
    known = [candidate(x / 24, "finished", 0.95 if x > 12 else 0.5) for x in range(24)]
    proposed = [each.settings["model.lr"] for each in go(tmp_path, known, [], 2) if each.state == "running"]
    assert len(proposed) == 2
    assert all(value > 0.5 for value in proposed)
    assert not {x / 24 for x in range(24)} & set(proposed)
