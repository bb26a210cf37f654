"""The report at the end of a launch: made once, made again when something of it is different, and printed."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.experiments.experiment import Experiment
from pipelines.launch import publish
from pipelines.reporting import plot
from pipelines.reporting import report as report_module
from pipelines.reporting.cache import MADE, Shown
from pipelines.reporting.foreign import Registered, register
from pipelines.reporting.report import gather
from pipelines.reporting.saved import Saved
from pipelines.reporting.table import Cell
from pipelines.trials.outcome import Outcome
from tests.pipelines.reporting.test_page import made_up, make_run


@pytest.fixture
def times_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that a report was made."""
    made: list[int] = []
    monkeypatch.setattr(report_module, "gather", lambda *args, **kwargs: (made.append(1), gather(*args, **kwargs))[1])
    return made


def outcome(storage: Path, saved: Saved) -> Any:
    """With trials whose runs lie in the storage."""
    trials: Any = {
        (trial.row, trial.seed): SimpleNamespace(done=not trial.failure, folder=storage / "runs" / trial.run)
        for trial in saved.trials
    }
    sweep: Any = SimpleNamespace(title="Table [red]1[/red]", row_name="[bold]row")
    return Outcome(sweep=sweep, preset="small", config_file=None, storage=storage, extractions=(), trials=trials)


def written(end: Outcome, folder: Path, saved: Saved) -> Shown:
    """The report of an outcome of which this is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "_saved", lambda _: saved)
        return publish._write_report(end, folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_sweep_makes_its_report_once_and_mends_it(tmp_path: Path, times_made: list[int]) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    make_run(tmp_path, "b0", 0.5, 0)
    saved = made_up(trials=tuple(trial for trial in made_up().trials if trial.seed == 0), leaks=(), coverage=())
    folder = tmp_path / "reports" / "question-1"
    end = outcome(tmp_path, saved)
    first = written(end, folder, saved)
    before = files(folder)
    assert before.keys() == {path.name for path in first.paths} | {MADE}
    again = written(end, folder, saved)
    assert len(times_made) == 1
    assert (repr(tuple(again.cells)), again.lines, again.paths) == (repr(tuple(first.cells)), first.lines, first.paths)
    (folder / "question.html").write_text("<html>")
    written(end, folder, saved)
    assert (len(times_made), files(folder)) == (2, before)
    results = tmp_path / "runs" / "b0" / "results.parquet"
    pq.write_table(pq.read_table(results), results)
    row = Registered(label="Mine", run="b0", baseline="plain", note="", is_sample=True, parts=["of other videos"])
    register(row, saved.name, tmp_path)
    shown = written(end, folder, saved)
    assert len(times_made) == 3
    assert "left out: Mine: scores from elsewhere of other videos than those of this table" in shown.lines


def test_a_report_whose_making_was_stopped_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_made: list[int]
) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    saved = made_up(trials=made_up().trials[:1], leaks=(), coverage=())
    other = dataclasses.replace(saved, title="another")
    folder = tmp_path / "reports" / "question-1"
    end = outcome(tmp_path, saved)
    written(end, folder, saved)
    before = files(folder)
    with monkeypatch.context() as stopped:
        stopped.setattr(plot, "plot", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            written(end, folder, other)
    assert files(folder) != before
    written(end, folder, saved)
    assert (len(times_made), files(folder)) == (3, before)


def test_the_terminal_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """`[red]` is no colour, a line break no line."""
    cell = Cell(row="[0, 1]\n", column="[/x]", published=0.9, ours=0.8, low=0.7, high=0.9, seeds=(0,))
    publish.print_table("Table [red]1[/red]", "[bold]row", [cell], ["[dim]note"], Console(width=100))
    said = capsys.readouterr().out
    for text in ("Table [red]1[/red]", "[bold]row", "[0, 1]\\n", "[/x]", "[dim]note"):
        assert text in said


def test_notes_below_a_table_are_set_off_from_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """What does not fit into a line goes on further in; a word longer than a line stays whole, to be copied."""
    lines = ["one " * 20, "two", "x" * 80]
    publish.print_table("T", "row", [Cell(row="a", column="c", published=0.5)], lines, Console(width=50))
    shown = capsys.readouterr().out.splitlines()
    notes = shown[shown.index(next(line for line in shown if line.startswith("  one"))) :]
    assert [len(line) - len(line.lstrip()) for line in notes] == [2, 4, 2, 2]
    assert max(map(len, notes[:-1])) <= 50
    assert notes[-1].strip() == "x" * 80


def test_what_was_trained_on_is_told_with_the_manipulations_that_an_experiment_names() -> None:
    whole = Experiment(model="plain", train_on="ffpp", test_on=("dfdc",))
    assert publish._trained_on(whole) == "ffpp (c23)"
    assert publish._trained_on(dataclasses.replace(whole, manipulations=("FaceSwap",))) == "ffpp (c23, FaceSwap)"
