"""A launch's table as MLflow's page of runs shows it: our numbers beside the paper's, at the first click.

MLflow keeps what a person has chosen on that page (columns, filter, order, charts) as a saved view: a tag of the
experiment, which an address can name. Its page of an experiment would otherwise open with the traces of a language
model, and its list of runs without a number. Written for MLflow 3.17; one that does not know the view shows its own.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

TAG = "mlflow.sharedViewState."  # of an experiment, followed by the view's key
MAX_TAG_CHARS = 5000  # of an experiment's tag
PLACE = "place"  # tag of a run: in the table of its launch, from 001 on
SECTIONS = ("Table", "Training")  # of the charts
SERVED_AT = "http://127.0.0.1:5000"  # where `mlflow ui` listens, unless it is told
_PACKED = "deflate;"  # begins a text that MLflow's page unpacks
_LETTER_PX, _PADDING_PX = 7.5, 40  # of a column's heading


def state(
    parent: str,
    names: Sequence[str],
    metrics: Sequence[str],
    params: Sequence[str] = (),
    *,
    curves: Sequence[str] = (),
    best_by: str = "",
) -> dict[str, Any]:
    """Return what MLflow's page keeps of a view: the runs of a launch with these metrics and params as columns.

    parent: id of the launch's run; names: of the runs that are shown, so that they can be read whole; curves: metrics
    by step, of which those of validation are columns too. The charts of metrics and curves come before all others. The
    runs stand in the order of their tag `place`, or with the highest metric `best_by` first. (In order of time MLflow
    would show the launch only, closed.)
    """
    name, duration = "attributes.`Run Name`", "attributes.`Duration`"
    seen = [metric for metric in curves if metric.endswith("/val/auc")]  # the first numbers while a launch is running
    shown = [("metrics", metric) for metric in (*metrics, *seen)] + [("params", param) for param in params]
    columns = [f"{kind}.`{key}`" for kind, key in shown]
    widths = [round(_LETTER_PX * len(key)) + _PADDING_PX for _, key in shown]
    of_name = round(_LETTER_PX * max((len(text) for text in names), default=0)) + 2 * _PADDING_PX
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{best_by}`" if best_by else f"tags.`{PLACE}`",
        "orderByAsc": not best_by,
        "selectedColumns": [*columns, duration],
        "columnOrder": [name, *columns, duration],
        "columnWidths": {name: of_name, **dict(zip(columns, widths, strict=True))},
        "hideEmptyCharts": True,
        "compareRunSections": [{"uuid": name, "name": name, "display": True, "isReordered": True} for name in SECTIONS],
        "compareRunCharts": [_chart("BAR", metric, SECTIONS[0]) for metric in metrics]
        + [_chart("LINE", metric, SECTIONS[1]) for metric in curves],
        "isAccordionReordered": True,  # or sections would stand in alphabetical order
    }


def _chart(kind: str, metric: str, section: str) -> dict[str, Any]:
    of_line = {"lineSmoothness": 0, "xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
    return {
        **(of_line if kind == "LINE" else {}),
        "type": kind,
        "uuid": f"{section} {metric}",
        "metricSectionId": section,
        "metricKey": metric,
        "displayName": metric,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
    }


def tag(name: str, shown: Mapping[str, Any]) -> str:
    """Return the value of the tag that holds a view; name: as MLflow's menu of saved views lists it."""
    packed = base64.b64encode(zlib.compress(json.dumps(shown).encode(), 9)).decode()
    now = round(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": _PACKED + packed})


def read(value: str) -> dict[str, Any]:
    """Return what a tag says is shown. Raise ValueError or KeyError if it holds no view of this kind."""
    packed = json.loads(value)["state"]
    return dict(json.loads(zlib.decompress(base64.b64decode(packed.removeprefix(_PACKED)))))


def holds(value: str | None, shown: Mapping[str, Any]) -> bool:
    """Return whether a tag holds this view already."""
    try:
        return value is not None and read(value) == shown
    except (ValueError, KeyError, TypeError, zlib.error):
        return False


def address(uri: str, experiment_id: str, key: str) -> str:
    """Return where a browser finds a view: on the server, or on the one that the command for a database starts."""
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": key})
    return f"{_base(uri)}/#/experiments/{experiment_id}/runs?{query}"


def run_address(uri: str, experiment_id: str, run_id: str) -> str:
    """Return where a browser finds one run."""
    return f"{_base(uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def _base(uri: str) -> str:
    return uri.rstrip("/") if uri.startswith("http") else SERVED_AT
