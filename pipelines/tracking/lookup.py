"""The read side of MLflow: run ids and `models:/` names to trained trials.

In   an MLflow run id, or models:/<name>/<version>, models:/<name>@<alias>, models:/<id of a logged model>
Out  `scoring.trained.Trained`
"""

import re
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from pipelines.common.text import printable
from pipelines.scoring import trained
from pipelines.scoring.trained import Trained
from pipelines.tracking.client import (
    PATIENCE_S,
    TrackingError,
    database_file,
    default_uri,
    patiently,
    registry_uri,
)

SCHEME = "models:/"
PACKAGE = "crossforge"  # registered models are named `<package>-<sweep>`


def by_name(name: str, storage: Path) -> Trained:
    """Return the trial that `name` means: an MLflow model (`models:/<name>/<version>`), the id of a trial's MLflow run,
    or what `scoring.trained.by_name` knows.

    Raise ValueError if there is none, or several; TrackingError, an OSError, if MLflow can't be asked. The files of a
    model are fetched, and kept for as long as the result is in use.
    """
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return trained.read(_trial_of_run(name, storage))
    if not name.startswith(SCHEME):
        return trained.by_name(name, storage)
    folder = Path(tempfile.mkdtemp(prefix="crossforge-"))
    try:
        trial = trained.read(_fetch(name, storage, folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(trial, shutil.rmtree, folder, ignore_errors=True)
    return trial


def _fetch(uri: str, storage: Path, folder: Path) -> Path:
    """Fetch a registered or logged model (`models:/...`) to `folder`; return the trial's folder in it.

    Raise TrackingError if MLflow has no such model, ValueError if it holds no trial of ours.
    """
    _check_database(storage, uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient

    tracking = default_uri(storage)

    def get() -> Path:
        location = _location(MlflowClient(tracking, registry_uri(tracking)), uri)
        return Path(download_artifacts(artifact_uri=location, dst_path=str(folder), tracking_uri=tracking))

    path = patiently(get, tracking, PATIENCE_S)
    trials = list(path.glob("artifacts/storage/runs/*"))
    if len(trials) != 1:
        raise ValueError(f"{printable(uri)} is no model that a sweep registered; those are named {PACKAGE}-<sweep>")
    return trials[0]


def _location(client: Any, uri: str) -> str:
    """Return where a model's files are. MLflow's own look-up of a `models:/` URI would ask its global tracking URI."""
    name = uri.removeprefix(SCHEME).lstrip("/")
    if re.fullmatch(r"m-[0-9a-f]{32}", name):
        return str(client.get_logged_model(name).artifact_location)
    if match := re.fullmatch(r"([^/@]+)@([^/@]+)", name):
        name, version = match[1], client.get_model_version_by_alias(match[1], match[2]).version
    elif match := re.fullmatch(r"([^/@]+)/(\d+)", name):
        name, version = match[1], match[2]
    else:
        raise ValueError(f"{printable(uri)} names no model; models:/<name>/<version> and models:/<name>@<alias> do")
    return str(client.get_model_version_download_uri(name, version))


def _trial_of_run(run_id: str, storage: Path) -> Path:
    """Return the folder of the trial that an MLflow run is about. Raise ValueError if the storage does not hold it."""
    _check_database(storage, run_id)
    from mlflow.tracking import MlflowClient

    uri = default_uri(storage)
    tags = patiently(lambda: MlflowClient(uri).get_run(run_id), uri, PATIENCE_S).data.tags
    if "mlflow.parentRunId" not in tags or "run_key" not in tags:
        raise ValueError(f"MLflow run {run_id} is no trial; name one of the runs below a launch")
    folder = storage / "runs" / tags["run_key"]
    if not folder.is_dir():
        raise ValueError(
            f"MLflow run {run_id} is of the trial {tags['run_key']}, which {storage / 'runs'} does not hold; "
            f"name its storage by --storage, or a registered model ({SCHEME}...)"
        )
    return folder


def _check_database(storage: Path, name: str) -> None:
    """Raise TrackingError if the SQLite file is not there: to ask it would make it."""
    uri = default_uri(storage)
    path = database_file(uri)
    if path and not path.exists():
        raise TrackingError(f"there is no MLflow database {path} to look up {printable(name)} in")
