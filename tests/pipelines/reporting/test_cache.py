"""A report that is there already: not made again, unless something that goes into it or came out of it is different."""

import dataclasses
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.common import cluster
from pipelines.metrics.significance import Comparison
from pipelines.reporting import cache
from pipelines.reporting.cache import MADE, Shown
from pipelines.reporting.table import Cell
from tests.pipelines.reporting.test_page import made_up

AGAINST = Comparison(
    baseline="plain",
    difference=0.1,
    low=-0.1,
    high=0.2,
    p=0.3,
    by_seed={0: 0.05, 2: 0.15},
    num_videos=9,
    num_clusters=7,
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
        return cache.inputs_digest(told, [path], [table])

    first = of()
    assert of() == first
    assert of(table=pa.concat_tables([videos.slice(0, 1), videos.slice(1)])) == first  # the same in other pieces
    different = [
        of(saved | {"title": "another"}),
        of(saved | {"facts": {**saved["facts"], "commit": "def"}}),
        of(saved | {"rows": (*saved["rows"][:-1], saved["rows"][-1] | {"published": ("91.0", "-")})}),
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
