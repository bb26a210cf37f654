"""The winner of a sweep as a registered MLflow model, and registered models as trials again.

What wins: of the done trials the one with the highest AUC on the validation part of the training dataset
(`run.validation_auc`, as a search chooses); no test number has a say. Of equals, the first in the table. A trial
without such an AUC can't win, and rows that are validated on different videos can't be compared: then none wins.

The model holds what `_trained` reads (settings as JSON, weights as safetensors), no pickle and no code. It runs where
this package is installed; another version of the paper's model refuses it.
"""

import importlib.metadata
import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.common import tables
from pipelines.common.storage import read_json
from pipelines.scoring import trained
from pipelines.tracking.client import (
    Tracker,
    environment,
)
from pipelines.tracking.lookup import PACKAGE, SCHEME
from pipelines.tracking.runs import Runs
from pipelines.trials.outcome import Outcome, RowSeed
from pipelines.trials.trial import Trial, scoring, validation_auc

CHAMPION, SAMPLE_CHAMPION = "champion", "sample-champion"  # aliases of the newest winner, by its data
_MODEL_FILE = '''"""A trained trial of Crossforge, commit {commit}; settings and weights are this model's artifacts."""

from mlflow.models import set_model

try:
    from pipelines.tracking.pyfunc import VideoScores
except ImportError as error:
    raise ImportError(
        "this model runs where Crossforge is installed: check out its commit {commit} and run `uv sync`"
    ) from error

set_model(VideoScores())
'''


@dataclass(frozen=True, kw_only=True)
class Winner:
    key: RowSeed
    trial: Trial
    auc: float  # on val


def winner(outcome: Outcome) -> Winner | str:
    """Or why there is none."""
    done = {key: trial for key, trial in outcome.trials.items() if trial.done}
    found = [Winner(key=key, trial=trial, auc=_auc(trial)) for key, trial in done.items()]
    found = [one for one in found if math.isfinite(one.auc)]
    if not found:
        return "no done trial has a validation AUC"
    if len({(one.trial.select.part.codec, *one.trial.select.part.video_ids) for one in found}) > 1:
        return "the rows are validated on different videos, so none is the best of all"
    return max(found, key=lambda one: one.auc)  # the first of equals


def _auc(trial: Trial) -> float:
    """NaN where a stage that scores has none."""
    try:
        return validation_auc(trial)
    except (KeyError, ZeroDivisionError):
        return math.nan


def model_name(sweep: str) -> str:
    """Raises ValueError for what can't stand in a `models:/` URI."""
    name = f"{PACKAGE}-{sweep}"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", name):
        raise ValueError(f"{sweep!r} can't name a registered model; letters, digits, _ and - can")
    return name


def register(outcome: Outcome, runs: Runs) -> str:
    """What a person reads of it. Registers the winner, unless it is. Raises TrackingError."""
    best = winner(outcome)
    if isinstance(best, str):
        return f"none registered: {best}"
    name, tracker = model_name(outcome.sweep.name), runs.tracker
    with tracker.locked(tracker.models_lock):  # not that of the runs: an upload takes its time
        number = tracker.call(partial(_version, tracker, name, best.trial)) or _add(outcome, runs, name, best)
        alias = SAMPLE_CHAMPION if outcome.is_sample else CHAMPION
        tracker.call(partial(tracker.client.set_registered_model_alias, name, alias, number))
    row, seed = best.key
    return f"{SCHEME}{name}/{number} ({row}, seed {seed}: the best validation AUC, {100 * best.auc:.1f})"


def _version(tracker: Tracker, name: str, trial: Trial) -> str | None:
    """The one that holds this trial."""
    found = tracker.client.search_model_versions(f"name = '{name}'")
    own = [int(one.version) for one in found if one.tags.get("trial") == trial.digest]
    return str(max(own)) if own else None


def _add(outcome: Outcome, runs: Runs, name: str, best: Winner) -> str:
    """Number of the new version."""
    from mlflow.entities import LoggedModelOutput

    tracker, source_run, trial = runs.tracker, runs.children[best.key], best.trial
    client, tags = tracker.client, _tags(outcome, best)
    logged = tracker.call(partial(_logged, tracker, name, trial))
    if logged is None:
        logged = tracker.call(
            partial(client.create_logged_model, tracker.experiment_id, name, source_run, tags=tags, model_type=PACKAGE)
        )
        with tempfile.TemporaryDirectory(dir=outcome.storage, prefix=".model-") as folder:
            save(trial, Path(folder), model_id=logged.model_id, run_id=source_run)
            tracker.call(partial(client.log_model_artifacts, logged.model_id, str(Path(folder) / "model")))
        tracker.call(partial(client.finalize_logged_model, logged.model_id, "READY"))
        tracker.call(partial(client.log_outputs, source_run, [LoggedModelOutput(logged.model_id, step=0)]))

    def version() -> str:
        _ensure_model(tracker, name, outcome)
        if known := _version(tracker, name, trial):  # made by a call whose answer was lost
            return known
        # Its location: a `models:/` URI would be looked up at MLflow's global tracking URI.
        source, text = logged.artifact_location, _description(outcome, best)
        made = client.create_model_version(
            name, source, source_run, tags=tags, description=text, model_id=logged.model_id
        )
        return str(made.version)

    return tracker.call(version)


def _logged(tracker: Tracker, name: str, trial: Trial) -> Any:
    """One that an earlier launch has written, but not registered."""
    found = tracker.client.search_logged_models([tracker.experiment_id], f"tags.trial = '{trial.digest}'")
    return next((one for one in found if one.name == name and one.status == "READY"), None)


def _ensure_model(tracker: Tracker, name: str, outcome: Outcome) -> None:
    from mlflow.exceptions import MlflowException

    try:
        text = f"{outcome.sweep.title}: the best row by validation AUC. Input: paths of videos; output: P(fake)."
        tracker.client.create_registered_model(name, {"sweep": outcome.sweep.name}, text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(outcome: Outcome, best: Winner) -> dict[str, str]:
    row, seed = best.key
    return {
        "trial": best.trial.digest,
        "val_auc": f"{best.auc:.6f}",
        "data": "sample" if outcome.is_sample else "real",
        "preset": outcome.preset,
        "commit": str(_told(best.trial)["commit"]),
        "method": best.trial.experiment.model,
        "trained_on": best.trial.experiment.train_on,
        "compression": best.trial.experiment.codec,
        "row": row,
        "seed": str(seed),
    }


def _description(outcome: Outcome, best: Winner) -> str:
    row, seed = best.key
    experiment = best.trial.experiment
    warning = " Trained on made-up videos: its scores mean nothing." if outcome.is_sample else ""
    return (
        f"{experiment.model}, {outcome.sweep.row_name} {row}, seed {seed}, trained on {experiment.train_on} "
        f"({experiment.codec}); validation AUC {best.auc:.4f}. Needs Crossforge.{warning}"
    )


def _told(trial: Trial) -> Any:
    return read_json(trial.folder / trained.TRIAL)


# ----------------------------------------------------------------------------------------- the model
def save(trial: Trial, folder: Path, model_id: str | None = None, run_id: str | None = None) -> None:
    """`<folder>/model`: the MLflow model of a done trial; of which logged model and run, where it becomes one."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    from pipelines.tracking import pyfunc

    storage = folder / "storage"
    for path in files_of(trial):
        target = storage / path.relative_to(trial.folder.parents[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    code = folder / "crossforge_model.py"
    commit = _told(trial)["commit"]
    code.write_text(_MODEL_FILE.format(commit=commit))
    with environment():
        mlflow.pyfunc.save_model(
            str(folder / "model"),
            python_model=str(code),
            artifacts={pyfunc.ARTIFACT: str(storage)},
            signature=pyfunc.SIGNATURE,
            input_example=pd.DataFrame({"video": ["clip.mp4"]}),
            pip_requirements=requirements(),
            metadata={"trial": trial.digest, "commit": commit, "schema": tables.VERSION},
            mlflow_model=Model(model_id=model_id, run_id=run_id),
        )
    _forget_paths(folder / "model" / "MLmodel", pyfunc.ARTIFACT, code.name)


def _forget_paths(file: Path, artifact: str, code: str) -> None:
    """MLflow notes where on this machine the files came from; loading asks for their names only."""
    from mlflow.models import Model

    saved = Model.load(str(file))
    flavor = saved.flavors["python_function"]
    flavor["model_code_path"] = code
    flavor["artifacts"][artifact]["uri"] = flavor["artifacts"][artifact]["path"]
    saved.save(str(file))


def files_of(trial: Trial) -> list[Path]:
    """What it takes to score with a trial: its record, and of each stage that scores the spec and the weights."""
    own = [trial.folder / name for name in (trained.TRIAL, "_done.json")]
    names = ("spec.json", "weights.safetensors", "_done.json")
    return own + [stage.folder / name for stage in scoring(trial) for name in names]


def requirements() -> list[str]:
    """Of this package, at the versions in use. Not the package itself: it is on no index."""
    try:
        wanted = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = ["mlflow"]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in sorted(names)]
