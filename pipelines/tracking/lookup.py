"""What MLflow knows by name: the trial of a run, and registered models as trials again."""

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
    default_uri,
    patiently,
    registry_uri,
    shown,
)

SCHEME = "models:/"
PACKAGE = "crossforge"  # registered models are named `<package>-<sweep>`


def by_name(name: str, storage: Path) -> Trained:
    """Return the trial that `name` means: an MLflow model (`models:/<name>/<version>`), the id of a trial's MLflow run,
    or what `scoring.trained.by_name` knows.

    Raises ValueError if there is none, or several; OSError if MLflow can't be asked.
    """
    if name.startswith(SCHEME):
        return _of_model(name, storage)
    if is_run_id(name):
        return trained.read(trial_of_run(name, storage))
    return trained.by_name(name, storage)


def _of_model(uri: str, storage: Path) -> Trained:
    """Its files are kept for as long as the result is in use."""
    folder = Path(tempfile.mkdtemp(prefix="crossforge-"))
    try:
        found = trained.read(fetch(uri, storage, folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


SCHEME = "models:/"


# -------------------------------------------------------------------------------------------- reading
def fetch(uri: str, storage: Path, folder: Path) -> Path:
    """The trial's folder, below `folder`, of a registered or logged model (`models:/...`).

    Raises TrackingError if MLflow has no such model, ValueError if it holds no trial of ours.
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
    """Where the files are. MLflow's own look-up of a `models:/` URI would ask its global tracking URI."""
    name = uri.removeprefix(SCHEME).lstrip("/")
    if re.fullmatch(r"m-[0-9a-f]{32}", name):
        return str(client.get_logged_model(name).artifact_location)
    if found := re.fullmatch(r"([^/@]+)@([^/@]+)", name):
        name, version = found[1], client.get_model_version_by_alias(found[1], found[2]).version
    elif found := re.fullmatch(r"([^/@]+)/(\d+)", name):
        name, version = found[1], found[2]
    else:
        raise ValueError(f"{printable(uri)} names no model; models:/<name>/<version> and models:/<name>@<alias> do")
    return str(client.get_model_version_download_uri(name, version))


def is_run_id(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


def trial_of_run(run_id: str, storage: Path) -> Path:
    """Folder of the trial that an MLflow run is about. Raises TrackingError, or ValueError if it is not there."""
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
    """To ask a SQLite file that is not there would make it."""
    uri = default_uri(storage)
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():
        raise TrackingError(f"there is no MLflow database {shown(path)} to look up {printable(name)} in")
