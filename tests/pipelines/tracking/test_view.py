"""A launch's table as a saved view of MLflow: what its page reads is what was meant, and the page can still read it."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import mlflow
import pytest

from pipelines.tracking import view

METRICS = [f"{name}/video/auc{end}" for name in ("celeb_df", "dfdc") for end in ("", "/published")]
NAMES = ["0.55, seed 0 [123456]", "a row with a long name, seed 0 [abcdef]"]
CURVES = ["finetune/val/auc", "finetune/train/loss"]
STATE = view.state("0" * 32, NAMES, METRICS, curves=CURVES)


def as_page_reads(value: str) -> dict[str, Any]:
    """What the script of MLflow's page does with a tag: an envelope of three fields, whose state is packed."""
    envelope = json.loads(value)
    assert isinstance(envelope["name"], str)
    assert isinstance(envelope["createdAt"], int)
    assert envelope["state"].startswith("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(envelope["state"][len("deflate;") :]))))


@pytest.fixture(scope="module")
def page_script() -> str:
    """The scripts of the pages of the MLflow that is installed."""
    return "".join(path.read_text() for path in Path(mlflow.__file__).parent.glob("server/js/build/static/js/*.js"))


def test_the_table_is_a_view_whose_columns_are_ours_beside_the_papers() -> None:
    shown = as_page_reads(view.tag("small, sample [abc]", STATE))
    metrics = [f"metrics.`{name}`" for name in METRICS]
    assert shown["selectedColumns"][: len(METRICS)] == metrics
    assert shown["columnOrder"][: len(METRICS) + 1] == ["attributes.`Run Name`", *metrics]
    assert shown["searchFilter"] == f"tags.`mlflow.parentRunId` = '{'0' * 32}'"
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("tags.`place`", True)
    widths = shown["columnWidths"]
    assert widths["attributes.`Run Name`"] > 7 * len(NAMES[1])
    assert all(widths[f"metrics.`{name}`"] > 7 * len(name) for name in METRICS)


def test_the_charts_begin_with_the_table_and_the_trainings() -> None:
    sections = [section["name"] for section in STATE["compareRunSections"]]
    charts = [(chart["metricSectionId"], chart["type"], chart["metricKey"]) for chart in STATE["compareRunCharts"]]
    assert charts == [
        *((sections[0], "BAR", metric) for metric in METRICS),
        *((sections[1], "LINE", metric) for metric in CURVES),
    ]
    assert STATE["isAccordionReordered"]  # or the page sorts them


def test_candidates_of_a_search_stand_with_the_best_first() -> None:
    shown = view.state("1", NAMES, ["val/auc"], ["model.lr"], best_by="val/auc")
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("metrics.`val/auc`", False)
    assert shown["selectedColumns"][:2] == ["metrics.`val/auc`", "params.`model.lr`"]


def test_the_page_of_the_installed_mlflow_knows_all_that_a_view_says(page_script: str) -> None:
    """It is no interface that MLflow promises: another version may read another text."""
    charts = {name for chart in STATE["compareRunCharts"] for name in chart}
    words = [view.TAG, "viewStateShareKey", "deflate;", "workflowType", "machine_learning", *STATE, *charts]
    assert [
        word for word in words if not any(form in page_script for form in (f'"{word}"', f"{word}:", f".{word}="))
    ] == []
    kinds = re.search(r'ATTRIBUTES:"(\w+)",PARAMS:"(\w+)",METRICS:"(\w+)",TAGS:"(\w+)"', page_script)
    assert kinds
    assert kinds.groups() == ("attributes", "params", "metrics", "tags")
    assert 'RUN_NAME:"Run Name"' in page_script
    assert 'DURATION:"Duration"' in page_script
    assert '=(e,t)=>e+".`"+t+"`"' in page_script  # how the name of a column is made


def test_a_wide_table_fits_into_a_tag() -> None:
    wide = view.state("0" * 32, NAMES * 50, [f"{'x' * 60}-{n}/video/auc" for n in range(60)], curves=CURVES * 5)
    assert len(view.tag("wide", wide)) < view.MAX_TAG_CHARS


def test_the_address_names_the_view() -> None:
    address = view.address("sqlite:////x/mlflow.db", "7", "k")
    assert address.startswith(f"{view.SERVED_AT}/#/experiments/7/runs?")
    query = parse_qs(urlsplit(urlsplit(address).fragment).query)
    assert query == {"workflowType": ["machine_learning"], "viewStateShareKey": ["k"]}
    assert view.address("http://head:5000/", "7", "k").startswith("http://head:5000/#/experiments/7/runs?")
    assert view.run_address("http://head:5000", "7", "r") == "http://head:5000/#/experiments/7/runs/r"
