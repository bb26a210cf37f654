"""A report that is there already: not made again, unless something that goes into it or came out of it is different."""

import dataclasses
import json
import math
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.common import cluster
from pipelines.launch import publish
from pipelines.metrics.significance import Comparison
from pipelines.reporting import cache, plot
from pipelines.reporting import report as report_module
from pipelines.reporting.cache import MADE, Shown
from pipelines.reporting.report import gather
from pipelines.reporting.saved import Saved
from pipelines.reporting.table import Cell
from pipelines.trials.outcome import Outcome
from tests.pipelines.reporting.test_page import made_up, make_run

AGAINST = Comparison(
    baseline="plain", difference=0.1, low=-0.1, high=0.2, p=0.3, by_seed={0: 0.05, 2: 0.15}, num_videos=9
)
CELLS = (
    Cell(row="a", column="dfdc", published=math.nan, ours=0.8, low=0.7, high=0.9, seeds=(0, 2), against=AGAINST),
    Cell(row='b | "é"', column="dfdc", published=0.9, failure="out of memory"),
)


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    for name in ("a.md", "a.png"):
        (tmp_path / name).write_text(f"whole {name}")
    return Shown(cells=CELLS, lines=["one", "two"], paths=[tmp_path / "a.md", tmp_path / "a.png"])


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path, shown: Shown) -> None:
    cache.write(tmp_path, "abc", shown)
    back = cache.read(tmp_path, "abc")
    assert back
    assert repr(back.cells) == repr(shown.cells)  # NaN is not equal to itself
    assert (back.lines, back.paths) == (shown.lines, shown.paths)
    assert "NaN" not in (tmp_path / MADE).read_text()
    assert cache.read(tmp_path, "abd") is None


@pytest.mark.parametrize("harm", ["missing", "half", "changed", "no marker", "half a marker", "another version"])
def test_a_report_that_is_not_whole_is_none(tmp_path: Path, shown: Shown, harm: str) -> None:
    cache.write(tmp_path, "abc", shown)
    picture, marker = shown.paths[1], tmp_path / MADE
    told = json.loads(marker.read_text())
    if harm == "missing":
        picture.unlink()
    elif harm == "half":
        picture.write_text(picture.read_text()[:5])
    elif harm == "changed":
        picture.write_text(picture.read_text().upper())
    elif harm == "no marker":
        marker.unlink()
    elif harm == "half a marker":
        marker.write_text(marker.read_text()[:-40])
    else:
        marker.write_text(json.dumps(told | {"cells": [{"row": "a", "unknown": 1}]}))
    assert cache.read(tmp_path, "abc") is None


def test_everything_that_goes_in_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, videos = tmp_path / "results.parquet", pa.table({"video_id": ["a", "b"], "label": [0, 1]})
    path.write_text("abc")
    saved = dataclasses.asdict(made_up())

    def of(told: Any = saved, table: pa.Table = videos) -> str:
        return cache.inputs(told, [path], [table])

    first = of()
    assert of() == first
    assert of(table=pa.concat_tables([videos.slice(0, 1), videos.slice(1)])) == first  # the same in other pieces
    different = [
        of(saved | {"title": "another"}),
        of(saved | {"facts": {**saved["facts"], "commit": "def"}}),
        of(saved | {"published": {**saved["published"], "plain": {"dfdc": 0.91, "ffpp eer": math.nan}}}),
        of(table=videos.slice(0, 1)),
    ]
    for name in ("code", "pyarrow"):
        versions = cluster.versions() | {name: "another"}
        with monkeypatch.context() as changed:
            changed.setattr(cluster, "versions", partial(dict, versions))
            different.append(of())
    path.write_text("abcd")
    different.append(of())
    os.utime(path, ns=(1, 1))
    different.append(of())
    assert len({first, *different}) == 1 + len(different)


# ---------------------------------------------------------------------------------------- a sweep's end
@pytest.fixture
def times_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    own = gather
    monkeypatch.setattr(report_module, "gather", lambda *args, **kwargs: (made.append(1), own(*args, **kwargs))[1])
    return made


def outcome(storage: Path, saved: Saved) -> Any:
    """With trials whose runs lie in the storage."""
    trials: Any = {
        (one.row, one.seed): SimpleNamespace(done=not one.failure, folder=storage / "runs" / one.run)
        for one in saved.trials
    }
    sweep: Any = None
    return Outcome(sweep=sweep, preset="small", config_file=None, storage=storage, extractions=(), trials=trials)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_sweep_makes_its_report_once_and_mends_it(tmp_path: Path, times_made: list[int]) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    make_run(tmp_path, "b0", 0.5, 0)
    saved = made_up(trials=tuple(one for one in made_up().trials if one.seed == 0), leaks=(), coverage=())
    folder = tmp_path / "reports" / "question-1"
    end = outcome(tmp_path, saved)
    first = publish._report(end, folder, saved)
    before = files(folder)
    assert before.keys() == {path.name for path in first.paths} | {MADE}
    again = publish._report(end, folder, saved)
    assert len(times_made) == 1
    assert (repr(tuple(again.cells)), again.lines, again.paths) == (repr(tuple(first.cells)), first.lines, first.paths)
    (folder / "question.html").write_text("<html>")
    publish._report(end, folder, saved)
    assert (len(times_made), files(folder)) == (2, before)
    results = tmp_path / "runs" / "b0" / "results.parquet"
    pq.write_table(pq.read_table(results), results)
    publish._report(end, folder, saved)
    assert len(times_made) == 3


def test_a_report_whose_making_was_stopped_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_made: list[int]
) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    saved = made_up(trials=made_up().trials[:1], leaks=(), coverage=())
    other = dataclasses.replace(saved, title="another")
    folder = tmp_path / "reports" / "question-1"
    end = outcome(tmp_path, saved)
    publish._report(end, folder, saved)
    before = files(folder)
    with monkeypatch.context() as stopped:
        stopped.setattr(plot, "plot", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish._report(end, folder, other)
    assert files(folder) != before
    publish._report(end, folder, saved)
    assert (len(times_made), files(folder)) == (3, before)


def test_the_terminal_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """`[red]` is no colour, a line break no line."""
    end: Any = outcome(Path(), made_up(trials=()))
    names: Any = SimpleNamespace(title="Table [red]1[/red]", row_name="[bold]row")
    cells = [dataclasses.replace(CELLS[0], row="[0, 1]\n", column="[/x]")]
    publish._print_table(dataclasses.replace(end, sweep=names), cells, ["[dim]note"], Console(width=100))
    said = capsys.readouterr().out
    for text in ("Table [red]1[/red]: published", "[bold]row", "[0, 1]\\n", "[/x]", "[dim]note"):
        assert text in said
