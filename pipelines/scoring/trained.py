"""A finished trial, read back from the storage: found by folder, digest or method, ready to score.

In   <storage>/runs/<digest>/trial.json, _done.json   written by `trials.run`
     <storage>/stages/<paper>/<stage>/<digest>/       its stages
Out  `Trained`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import models
from pipelines.common.storage import StorageError, digest, path_of, read_json
from pipelines.common.text import counted, first, printable
from pipelines.experiments.experiment import TINY_NOTE, Experiment
from pipelines.faces.recipe import Recipe
from pipelines.scoring.score import FinishedStage
from pipelines.training import stages

FOREIGN = "foreign"  # in trial.json: the scores were made elsewhere, and this says where
TRIAL = "trial.json"  # what it takes to use the trained stages without the sweep that trained them


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished trial, or one of its stages alone: what scores, and what its scores depend on."""

    folder: Path  # of the trial
    experiment: Experiment
    record: Mapping[str, Any]  # trial.json
    planned: tuple[stages.PlannedStage, ...]  # those that score, in the paper's order

    @cached_property
    def finished(self) -> list[FinishedStage]:
        """The stages that score, ready to be loaded."""
        config = self.experiment.config()
        return [FinishedStage(planned=planned, config=config) for planned in self.planned]

    @property
    def recipe(self) -> Recipe:
        """How faces are cut for it."""
        return self.experiment.recipe()

    @property
    def pooling(self) -> models.Pooling:
        """How the scores of faces become that of a video: the rule of the last stage that scores."""
        last = self.planned[-1]
        return models.stage(last.paper, last.name).pooling(self.experiment.config())

    @cached_property
    def validation_auc(self) -> float:
        """The trial's `validation_auc`; NaN where it has none."""
        try:
            return validation_auc(self.planned)
        except (KeyError, ZeroDivisionError):
            return math.nan

    @property
    def on_sample(self) -> bool:
        """Whether it was trained on the sample corpus: the name of a faces folder says where its videos are from."""
        faces = self.record["faces"]
        of_own_videos = [faces.get("schema_version"), faces.get("faces_version"), faces.get("recipe"), "own"]
        return bool(faces["folder"] != digest(of_own_videos))

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores must know, a line each."""
        lines = []
        if self.on_sample:
            lines.append("trained on the sample corpus (made-up videos): the scores mean nothing")
        if self.experiment.preset == "tiny":
            lines.append(TINY_NOTE)
        wanted = asdict(self.recipe)
        if any(wanted.get(name, value) != value for name, value in self.record["faces"].get("recipe", {}).items()):
            lines.append("the trial was trained on faces cut otherwise than its paper's settings say")
        return lines

    def description(self) -> dict[str, Any]:
        """Return what scores, and what it was trained on, as JSON values."""
        experiment = self.experiment
        return {
            "run": self.folder.name,
            "method": experiment.model,
            "preset": experiment.preset,
            "seed": experiment.seed,
            "stages": {planned.name: planned.digest for planned in self.planned},
            "commit": self.record["commit"],
            "trained_on": {
                "dataset": experiment.train_on,
                "codec": experiment.codec,
                "manipulations": list(experiment.manipulations),
                "protocol": experiment.protocol,
                "num_real": self.record["num_real"],
                "num_fake": self.record["num_fake"],
                "sample_corpus": self.on_sample,
            },
            "pooling": str(self.pooling),
            "warnings": self.warnings,
        }


def validation_auc(scoring: Sequence[stages.PlannedStage]) -> float:
    """Return the AUC on the validation part, in [0, 1], of the kept epochs: the mean over the stages that score.

    It stands for the trial where one is chosen among several. (The AUC of the mean score would need another scoring.)
    NaN where a stage's is NaN. Raise KeyError or ZeroDivisionError where there is none.
    """
    aucs = _validation_aucs(scoring)
    return sum(aucs.values()) / len(aucs)


def _validation_aucs(scoring: Sequence[stages.PlannedStage]) -> dict[str, float]:
    """Return the AUC on the validation part of the kept epoch, by the name of the stage."""
    aucs = {}
    for stage in scoring:
        kept = stage.summary()["best_epoch"]
        for line in stage.curve():
            if line["epoch"] == kept:
                aucs[stage.name] = line["val/auc"]
    return aucs


def averaged(scoring: Sequence[stages.PlannedStage]) -> str:
    """Return of what `validation_auc` is the mean, to be said behind it; nothing where it is that of one stage.

    E.g. `, mean of finetune 50.2 and localize 99.6`.
    """
    each = [f"{name} {100 * auc:.1f}" for name, auc in _validation_aucs(scoring).items()]
    return f", mean of {', '.join(each[:-1])} and {each[-1]}" if len(each) > 1 else ""


def by_name(name: str, storage: Path) -> Trained:
    """Return the trial that `name` means: its folder, the folder of one of its stages, or the beginning of its digest.

    Raise ValueError if there is none, or several.
    """
    folder = path_of(name)
    if (folder / "spec.json").is_file():
        return _by_stage(folder.resolve())
    if folder.is_dir():
        return read(folder.resolve())
    begun = [path for path in sorted(storage.glob("runs/*")) if path.name.startswith(name)]
    if len(begun) == 1:
        return read(begun[0])
    known = first([path.name for path in begun] or map(_named, _trials(storage)), 10) or "none"
    what = "begins several trials" if begun else "is no folder and begins no trial's digest"
    raise ValueError(f"--run {printable(name)} {what} in {storage / 'runs'}: {known}")


def best(method: str, storage: Path) -> tuple[Trained, str]:
    """Return the best trial of a method, and a text that says among which.

    It is the one with the highest validation AUC of those that were validated on the same videos as the one that was
    done last. One of the preset tiny is chosen only where there is no other. Raise ValueError if there is none.
    """
    done = _done(method, storage)
    done = [path for path in done if _record(path)["experiment"].get("preset") != "tiny"] or done
    videos = _validated_on(done[-1])
    trials = [read(path) for path in reversed(done) if _validated_on(path) == videos]
    found = max(trials, key=lambda trial: -math.inf if math.isnan(trial.validation_auc) else trial.validation_auc)
    if math.isnan(found.validation_auc):
        return found, "the last that was done"
    auc = f"validation AUC {100 * found.validation_auc:.1f} %{averaged(found.planned)}"
    return found, f"{auc}, the best of {counted(len(trials), 'trial')}"


def _validated_on(folder: Path) -> Any:
    """Return what names the videos that chose a trial's checkpoints; of an old trial, the trial itself."""
    return (_record(folder).get("origin") or {}).get("validation", str(folder))


def _done(method: str, storage: Path) -> list[Path]:
    """Return the done trials of a method, the last that was done at the end. Raise ValueError if there is none."""
    done = _all_done(storage)
    of_method = [path for path in done if _record(path)["experiment"].get("model") == method]
    if not of_method:
        raise ValueError(f"{storage / 'runs'} has no done trial of {method}; {told_done(storage, method)}")
    return sorted(of_method, key=lambda path: (path / "_done.json").stat().st_mtime_ns)


def told_done(storage: Path, method: str = "delocate") -> str:
    """Return which trials of a storage are done, and what to do where the wanted one of a method is not among them."""
    known = first(map(_named, _all_done(storage)), 10) or "none"
    todo = f"name another storage with --storage, or train one: `uv run crossforge train {method}`"
    return f"done trials: {known}; {todo}"


def _all_done(storage: Path) -> list[Path]:
    return [path for path in _trials(storage) if (path / "_done.json").is_file()]


def _trials(storage: Path) -> list[Path]:
    """Return the folders of the storage's trials, done or not; scores from elsewhere are none."""
    return sorted(path.parent for path in storage.glob(f"runs/*/{TRIAL}") if FOREIGN not in read_json(path))


def _named(folder: Path) -> str:
    experiment = _record(folder)["experiment"]
    return f"{folder.name} ({experiment.get('model')} on {experiment.get('train_on')})"


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / TRIAL
    if not path.is_file():
        raise ValueError(f"{folder} is neither a trial's folder (no {TRIAL}) nor a stage's (no spec.json)")
    record = read_json(path)
    if FOREIGN in record:
        raise ValueError(f"{folder} holds scores from elsewhere ({record[FOREIGN]['name']}): nothing here made them")
    if not isinstance(record, dict) or not {"experiment", "stages", "faces", "commit"} <= record.keys():
        raise StorageError(f"{path} is not what this code writes; delete {folder} and run the sweep again")
    return record


def _by_stage(folder: Path) -> Trained:
    """Return the stage alone, with the settings of any trial that has it: they agree in all that it depends on."""
    storage = folder.parents[min(3, len(folder.parents) - 1)]
    for path in _trials(storage):
        if _record(path)["stages"].get(folder.parent.name) == folder.name:
            return read(path, only=folder.parent.name)
    raise ValueError(f"no trial below {storage / 'runs'} has the stage {folder}")


def read(folder: Path, *, only: str | None = None) -> Trained:
    """Return the trial of a folder, which must be done; or one of its stages alone, which need not wait for the others.

    Raise ValueError for a folder that holds no such trial, or one that this version does not know.
    """
    record = _record(folder)
    if only is None and not (folder / "_done.json").is_file():
        raise ValueError(f"{folder} is not done; run its sweep again to go on with it, or name one of its stages")
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["experiment"].items()}
        experiment = Experiment(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / TRIAL} holds settings that this version does not know: {error}") from error
    names = [only] if only else [name for name in record["stages"] if models.stage(experiment.model, name).scores]
    if only and not models.stage(experiment.model, only).scores:
        raise ValueError(f"stage {only} of {experiment.model} gives no score; name the trial, {folder}")
    storage = folder.parents[1]
    planned = tuple(_stage(storage, experiment.model, name, record["stages"][name]) for name in names)
    return Trained(folder=folder, experiment=experiment, record=record, planned=planned)


def _stage(storage: Path, paper: str, name: str, stage_digest: str) -> stages.PlannedStage:
    folder = storage / "stages" / paper / name / stage_digest
    if not (folder / "_done.json").is_file():
        raise ValueError(f"{folder} holds no finished stage; run the sweep again")
    spec = read_json(folder / "spec.json")
    then, now = spec.get("versions", {}), stages.versions(paper)
    for part, file in ((paper, f"models/{paper}.py"), ("samples", "pipelines/training/samples.py")):
        if then.get(part) != now[part]:
            raise ValueError(
                f"{folder} was trained by version {then.get(part, 'none')} of {file}, this is version {now[part]}: its "
                "scores would not be those of the trial; check out its commit or train anew"
            )
    return stages.PlannedStage(paper=paper, name=name, folder=folder, spec=spec)
