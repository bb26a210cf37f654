"""Which datasets are read in one pass, and what of them is there."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.common import tables
from pipelines.common.storage import write_json, write_parquet
from pipelines.faces import extract, plan
from pipelines.faces.recipe import Recipe


def extraction(folder: Path, dataset: str, number: int, recipe: Recipe) -> plan.Extraction:
    videos = pa.table({"video_id": [f"{dataset}/{i}" for i in range(number)]})
    name = f"{dataset}-{recipe.size_px}"
    return plan.Extraction(dataset=dataset, recipe=recipe, folder=folder / name, videos=videos, roots={})


def test_small_datasets_are_read_in_one_pass_and_large_ones_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes: list[list[str]] = []

    def extract_all(targets: Any, roots: Any, **options: Any) -> None:
        passes.append([target.folder.name for target in targets])

    monkeypatch.setattr(extract, "extract_all", extract_all)
    small, large = Recipe(size_px=64), Recipe(size_px=128)
    few, many = plan._FEW, plan._FEW + 1
    wanted = [("a", few, small), ("a", few, large), ("b", many, small), ("c", 1, small), ("d", many, small)]
    plan.extract_missing([extraction(tmp_path, *each) for each in wanted], {}, Console(width=200))
    assert passes == [["a-64", "a-128", "c-64"], ["b-64"], ["d-64"]]
    assert "Extracting faces: a (2 crops), c\n" in capsys.readouterr().out


def test_what_is_missing_and_whether_some_of_it_may_have_been_read(tmp_path: Path) -> None:
    wanted = extraction(tmp_path, "a", 3, Recipe())
    folder = wanted.folder
    assert (wanted.missing["video_id"].to_pylist(), wanted.interrupted) == (["a/0", "a/1", "a/2"], False)
    write_json(folder / "recipe.json", {})
    assert wanted.interrupted
    numbers = {"num_frames": 1, "num_faces": 1, "seconds": 1.0}
    row = {"video_id": "a/1", "status": "ok", "reason": "", "content": "", "source": None} | numbers
    write_parquet(folder / "ledger.parquet", tables.to_table([row], tables.LEDGER))
    write_json(folder / "_done.json", {})
    assert (wanted.missing["video_id"].to_pylist(), wanted.interrupted) == (["a/0", "a/2"], False)
    write_parquet(folder / "parts" / "0.parquet", pa.table({}))
    assert wanted.interrupted
