"""The write side of the model registry: which trial of a sweep wins, and the model that holds it.

In   the outcome of a sweep and its MLflow runs
Out  a version of the registered model `crossforge-<sweep>`, with an alias

What wins: of the done trials the one with the highest AUC on the validation part of the training dataset
(`Trial.validation_auc`, as a search chooses); no test number has a say. Of equals, the first in the table. A trial
without such an AUC can't win. Rows that are validated on different videos can't be compared: then none wins.

The model holds what `scoring.trained` reads (settings as JSON, weights as safetensors), no pickle and no code. It runs
where this package is installed; another version of the paper's model refuses it. `lookup` reads it back.
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
from pipelines.common.storage import on_this_machine, read_json
from pipelines.scoring import trained
from pipelines.scoring.trained import TRIAL
from pipelines.tracking.client import Tracker, environment
from pipelines.tracking.lookup import PACKAGE, SCHEME
from pipelines.tracking.runs import Runs, warned
from pipelines.trials.outcome import Outcome, RowSeed
from pipelines.trials.trial import Trial

# What a model's code imports when MLflow loads it. A model that was written when this had another name loads no more.
LOADER = "pipelines.tracking.pyfunc.VideoScores"
# Aliases of the newest winner: by its data, and of the preset tiny, which is none on any data.
CHAMPION, SAMPLE_CHAMPION, TINY_CHAMPION = "champion", "sample-champion", "tiny-champion"
_MODEL_FILE = '''"""A trained trial of Crossforge, commit {commit}; settings and weights are this model's artifacts."""

from mlflow.models import set_model

try:
    from {module} import {loader}
except ImportError as error:
    raise ImportError(
        "this model runs where Crossforge is installed: check out its commit {commit} and run `uv sync`"
    ) from error

set_model({loader}())
'''


# ------------------------------------------------------------------------------------------ who wins
@dataclass(frozen=True, kw_only=True)
class Winner:
    """The best trial of a sweep."""

    key: RowSeed
    trial: Trial
    auc: float  # on the validation part


def winner(outcome: Outcome) -> Winner | str:
    """Return the best trial, or a text that says why there is none."""
    candidates = []
    for key, trial in outcome.trials.items():
        if trial.done:
            try:
                auc = trial.validation_auc()
            except (KeyError, ZeroDivisionError):  # a stage that scores has none
                auc = math.nan
            if math.isfinite(auc):
                candidates.append(Winner(key=key, trial=trial, auc=auc))
    if not candidates:
        return "no done trial has a validation AUC"
    parts = [candidate.trial.select for candidate in candidates]
    if len({(part.codec, *part.video_ids) for part in parts}) > 1:
        return "the rows are validated on different videos, so none is the best of all"
    return max(candidates, key=lambda candidate: candidate.auc)  # the first of equals


# ------------------------------------------------------------------------------------ the registration
def model_name(sweep: str) -> str:
    """Return the name of a sweep's registered model. Raise ValueError if it can't stand in a `models:/` URI."""
    name = f"{PACKAGE}-{sweep}"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", name):
        raise ValueError(f"{sweep!r} can't name a registered model; letters, digits, _ and - can")
    return name


def register(outcome: Outcome, runs: Runs) -> str:
    """Register the best trial if it is not registered yet; return the line to print. Raise TrackingError."""
    best = winner(outcome)
    if isinstance(best, str):
        return f"none registered: {best}"
    name, tracker = model_name(outcome.sweep.name), runs.tracker
    with tracker.locked(models=True):  # not that of the runs: an upload takes its time
        number = tracker.call(partial(_version, tracker, name, best.trial)) or _add(outcome, runs, name, best)
        alias = TINY_CHAMPION if outcome.warning else SAMPLE_CHAMPION if outcome.is_sample else CHAMPION
        tracker.call(partial(tracker.client.set_registered_model_alias, name, alias, number))
    row, seed = best.key
    auc = f"{100 * best.auc:.1f} %{trained.averaged(best.trial.scoring_stages)}"
    return f"{SCHEME}{name}/{number} ({row}, seed {seed}: the best validation AUC, {auc})"


def _version(tracker: Tracker, name: str, trial: Trial) -> str | None:
    """Return the number of the newest version that holds this trial and can still be loaded, if any does."""
    versions = tracker.client.search_model_versions(f"name = '{name}'")
    wanted = {"trial": trial.digest, "loader": LOADER}.items()
    numbers = [
        int(one.version) for one in versions if wanted <= one.tags.items() and _is_there(tracker, one.source or "")
    ]
    return str(max(numbers)) if numbers else None


def _add(outcome: Outcome, runs: Runs, name: str, best: Winner) -> str:
    """Write the model and register it; return the number of the new version."""
    from mlflow.entities import LoggedModelOutput

    tracker, source_run, trial = runs.tracker, runs.children[best.key], best.trial
    client, tags = tracker.client, _tags(outcome, best)
    logged = tracker.call(partial(_logged, tracker, name, trial))
    if logged is None:
        logged = tracker.call(
            partial(client.create_logged_model, tracker.experiment_id, name, source_run, tags=tags, model_type=PACKAGE)
        )
        with tempfile.TemporaryDirectory(dir=on_this_machine(outcome.storage), prefix=".model-") as folder:
            save(trial, Path(folder), model_id=logged.model_id, run_id=source_run)
            tracker.call(partial(client.log_model_artifacts, logged.model_id, str(Path(folder) / "model")))
        tracker.call(partial(client.finalize_logged_model, logged.model_id, "READY"))
        tracker.call(partial(client.log_outputs, source_run, [LoggedModelOutput(logged.model_id, step=0)]))

    def add_version() -> str:
        _ensure_model(tracker, name, outcome)
        if known := _version(tracker, name, trial):  # made by a call whose answer was lost
            return known
        # Its location: a `models:/` URI would be looked up at MLflow's global tracking URI.
        source, text = logged.artifact_location, _description(outcome, best)
        version = client.create_model_version(
            name, source, source_run, tags=tags, description=text, model_id=logged.model_id
        )
        return str(version.version)

    return tracker.call(add_version)


def _logged(tracker: Tracker, name: str, trial: Trial) -> Any:
    """Return the model of this trial that an earlier launch has written but not registered, if there is one."""
    wanted = f"tags.trial = '{trial.digest}' AND tags.loader = '{LOADER}'"
    models = tracker.client.search_logged_models([tracker.experiment_id], wanted)
    ready = (model for model in models if model.name == name and model.status == "READY")
    return next((model for model in ready if _is_there(tracker, model.artifact_location)), None)


def _is_there(tracker: Tracker, location: str) -> bool:
    """Return whether the files of a model are still there, as far as this can be told here."""
    folder = tracker.in_storage(location)
    return folder is None or folder.is_dir()


def _ensure_model(tracker: Tracker, name: str, outcome: Outcome) -> None:
    """Make the registered model if there is none: versions need one."""
    from mlflow.exceptions import MlflowException

    try:
        text = f"{outcome.sweep.title}: the best row by validation AUC. Input: paths of videos; output: P(fake)."
        tracker.client.create_registered_model(name, {"sweep": outcome.sweep.name}, text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(outcome: Outcome, best: Winner) -> dict[str, str]:
    row, seed = best.key
    return warned(outcome.warning) | {
        "trial": best.trial.digest,
        "loader": LOADER,
        "val_auc": f"{best.auc:.6f}",
        "data": "sample" if outcome.is_sample else "real",
        "preset": outcome.preset,
        "commit": _commit(best.trial),
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
    warning += f" {outcome.warning}." if outcome.warning else ""
    return (
        f"{experiment.model}, {outcome.sweep.row_name} {row}, seed {seed}, trained on {experiment.train_on} "
        f"({experiment.codec}); validation AUC {best.auc:.4f}"
        f"{trained.averaged(best.trial.scoring_stages)}. Needs Crossforge.{warning}"
    )


def _commit(trial: Trial) -> str:
    """Return the commit of the code that trained the trial."""
    return str(read_json(trial.folder / TRIAL)["commit"])


# ----------------------------------------------------------------------------------------- the model
def save(trial: Trial, folder: Path, model_id: str | None = None, run_id: str | None = None) -> None:
    """Write the MLflow model of a done trial to `<folder>/model`, which must not be there.

    model_id, run_id: of the logged model that it becomes, and of the trial's run.
    """
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
    commit = _commit(trial)
    module, _, loader = LOADER.rpartition(".")
    code.write_text(_MODEL_FILE.format(commit=commit, module=module, loader=loader))
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
    """Remove from an MLmodel file where on this machine the model's files came from: loading needs their names only."""
    from mlflow.models import Model

    saved = Model.load(str(file))
    flavor = saved.flavors["python_function"]
    flavor["model_code_path"] = code
    flavor["artifacts"][artifact]["uri"] = flavor["artifacts"][artifact]["path"]
    saved.save(str(file))


def files_of(trial: Trial) -> list[Path]:
    """Return what it takes to score with a trial: its record, and the spec and weights of each stage that scores."""
    of_stage = ("spec.json", "weights.safetensors", "_done.json")
    record = [trial.folder / name for name in (TRIAL, "_done.json")]
    return record + [stage.folder / name for stage in trial.scoring_stages for name in of_stage]


def requirements() -> list[str]:
    """Return what this package requires, at the versions in use. Not the package itself: it is on no index."""
    try:
        wanted = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = ["mlflow"]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in sorted(names)]
