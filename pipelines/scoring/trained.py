"""A trained trial as the storage holds it: found by folder, digest or method, ready to score.

In   <storage>/runs/<digest>/trial.json, _done.json   written by `run`
     <storage>/stages/<paper>/<stage>/<digest>/       its stages
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import models
from pipelines.common.storage import StorageError, digest, read_json
from pipelines.common.text import first, printable
from pipelines.experiments.experiment import Experiment
from pipelines.faces.recipe import Recipe
from pipelines.scoring import score
from pipelines.training import stages


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Stages that score, and what their numbers depend on."""

    folder: Path  # of the trial
    experiment: Experiment
    told: Mapping[str, Any]  # trial.json
    planned: tuple[stages.PlannedStage, ...]  # those that score, in the paper's order

    @cached_property
    def finished(self) -> list[score.Finished]:
        config = self.experiment.config()
        return [score.Finished(planned=planned, config=config) for planned in self.planned]

    @property
    def recipe(self) -> Recipe:
        return self.experiment.recipe()

    @property
    def pooling(self) -> models.Pooling:
        """As `run.pooling_of`: of the last stage that scores."""
        return models.stage(self.planned[-1].paper, self.planned[-1].name).pooling

    @property
    def on_sample(self) -> bool:
        """Whether it was trained on the made-up videos: the name of a faces folder says where its videos are from."""
        faces = self.told["faces"]
        own = [faces.get("schema_version"), faces.get("faces_version"), faces.get("recipe"), "own"]
        return bool(faces["folder"] != digest(own))

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores must know."""
        found = []
        if self.on_sample:
            found.append("trained on the sample corpus (made-up videos): the scores mean nothing")
        wanted = asdict(self.recipe)
        if any(wanted.get(name, value) != value for name, value in self.told["faces"].get("recipe", {}).items()):
            found.append("the trial was trained on faces cut otherwise than its paper's settings say")
        return found

    def description(self) -> dict[str, Any]:
        """For a JSON report."""
        experiment = self.experiment
        return {
            "run": self.folder.name,
            "method": experiment.model,
            "preset": experiment.preset,
            "seed": experiment.seed,
            "stages": {planned.name: planned.digest for planned in self.planned},
            "commit": self.told["commit"],
            "trained_on": {
                "dataset": experiment.train_on,
                "codec": experiment.codec,
                "manipulations": list(experiment.manipulations),
                "protocol": experiment.protocol,
                "num_real": self.told["num_real"],
                "num_fake": self.told["num_fake"],
                "sample_corpus": self.on_sample,
            },
            "pooling": str(self.pooling),
            "warnings": self.warnings,
        }


def by_name(name: str, storage: Path) -> Trained:
    """Return the trial that `name` means: its folder, the folder of one of its stages, or the beginning of its digest.

    Raises ValueError if there is none, or several.
    """
    folder = Path(name).expanduser()
    if (folder / "spec.json").is_file():
        return _by_stage(folder.resolve())
    if folder.is_dir():
        return read(folder.resolve())
    known = _trials(storage)
    found = [path for path in sorted(storage.glob("runs/*")) if path.name.startswith(name)]
    if len(found) == 1:
        return read(found[0])
    those = first([path.name for path in found] or map(_brief, known), 10) or "none"
    what = "begins several trials" if found else "is no folder and begins no trial's digest"
    raise ValueError(f"--run {printable(name)} {what} in {storage / 'runs'}: {those}")


def newest(method: str, storage: Path) -> Trained:
    """The trial of a method that was done last. Raises ValueError if there is none."""
    done = [path for path in _trials(storage) if (path / "_done.json").is_file()]
    own = [path for path in done if _told(path)["experiment"].get("model") == method]
    if not own:
        those = first(map(_brief, done), 10) or "none"
        raise ValueError(f"{storage / 'runs'} has no done trial of {method}; done trials: {those}")
    return read(max(own, key=lambda path: (path / "_done.json").stat().st_mtime_ns))


def _trials(storage: Path) -> list[Path]:
    return sorted(path.parent for path in storage.glob(f"runs/*/{TRIAL}"))


def _brief(folder: Path) -> str:
    experiment = _told(folder)["experiment"]
    return f"{folder.name} ({experiment.get('model')} on {experiment.get('train_on')})"


def _told(folder: Path) -> Mapping[str, Any]:
    path = folder / TRIAL
    if not path.is_file():
        if (folder / "_done.json").is_file() and (folder / "predictions.parquet").is_file():
            raise ValueError(
                f"{folder} was made before trials kept their settings; delete {folder / '_done.json'} and run "
                "the sweep again: nothing is trained or scored anew"
            )
        raise ValueError(f"{folder} is neither a trial's folder (no {TRIAL}) nor a stage's (no spec.json)")
    told = read_json(path)
    if not isinstance(told, dict) or not {"experiment", "stages", "faces", "commit"} <= told.keys():
        raise StorageError(f"{path} is not what this code writes; delete {folder} and run the sweep again")
    return told


def _by_stage(folder: Path) -> Trained:
    """The stage alone, with the settings of a trial that it belongs to; they agree in all that it depends on."""
    for path in _trials(folder.parents[3] if len(folder.parents) > 3 else folder):
        named = _told(path)["stages"]
        if named.get(folder.parent.name) == folder.name:
            return read(path, only=folder.parent.name)
    raise ValueError(
        f"no trial below {folder.parents[min(3, len(folder.parents) - 1)] / 'runs'} has the stage {folder}"
    )


def read(folder: Path, *, only: str | None = None) -> Trained:
    """Return the trial of a folder, which must be done; or one of its stages alone, which need not wait for the others.

    Raises ValueError for a folder that holds no such trial, or one that this version does not know.
    """
    told = _told(folder)
    if only is None and not (folder / "_done.json").is_file():
        raise ValueError(f"{folder} is not done; run its sweep again to go on with it, or name one of its stages")
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told["experiment"].items()}
        experiment = Experiment(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / TRIAL} holds settings that this version does not know: {error}") from error
    names = [only] if only else [name for name in told["stages"] if models.stage(experiment.model, name).scores]
    if only and not models.stage(experiment.model, only).scores:
        raise ValueError(f"stage {only} of {experiment.model} gives no score; name the trial, {folder}")
    storage = folder.parents[1]
    planned = tuple(_stage(storage, experiment.model, name, told["stages"][name]) for name in names)
    return Trained(folder=folder, experiment=experiment, told=told, planned=planned)


def _stage(storage: Path, paper: str, name: str, named: str) -> stages.PlannedStage:
    folder = storage / "stages" / paper / name / named
    if not (folder / "_done.json").is_file():
        raise ValueError(f"{folder} holds no finished stage; run the sweep again")
    spec = read_json(folder / "spec.json")
    if spec["version"] != models.version(paper):
        raise ValueError(
            f"{folder} was trained by version {spec['version']} of models/{paper}.py, this is version "
            f"{models.version(paper)}: its scores would not be those of the trial; check out its commit or train anew"
        )
    return stages.PlannedStage(paper=paper, name=name, folder=folder, spec=spec)


TRIAL = "trial.json"  # what it takes to use the trained stages without the sweep that trained them
