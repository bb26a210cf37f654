"""The best setting of a paper by validation AUC: `python sweeps/<question>.py --search N`.

Optuna proposes settings, ASHA stops those that fall behind, and what is compared is the AUC on the validation part of
the training dataset. The test parts are scored once, at the end, of two rows: the sweep's own setting, and the best
one found. Every candidate lies in

    <storage>/searches/<digest>/<candidate>.json    settings, state, AUC

so the same command goes on after any interruption, and a larger N adds to what is known.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import models
from pipelines.common import cluster, progress, provenance, storage
from pipelines.common.storage import digest
from pipelines.experiments import space
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.space import Range, Space
from pipelines.experiments.sweep import Sweep
from pipelines.faces.plan import extract_missing
from pipelines.launch.launch import Data, Launch
from pipelines.tracking.client import Tracker, TrackingError, default_uri
from pipelines.training import job
from pipelines.trials import planner, tune
from pipelines.trials.trial import Trial
from pipelines.trials.tune import Candidate

BASE, FOUND = "as declared", "found"  # the rows of the table


@dataclass(frozen=True, kw_only=True)
class Log:
    """What is known of the candidates, on disk."""

    folder: Path

    def note(self, candidate: Candidate) -> None:
        storage.write_json(self.folder / f"{digest(candidate.settings)}.json", asdict(candidate))

    def candidates(self) -> list[Candidate]:
        """The best first; those without an AUC last."""
        found = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        return sorted(found, key=lambda one: -math.inf if one.auc is None else one.auc, reverse=True)

    def best(self) -> Candidate | None:
        """Of those that were trained to the end."""
        return next((one for one in self.candidates() if one.state == "finished"), None)


def _read(path: Path) -> Candidate:
    told = storage.read_json(path)
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in told["settings"].items()}
    return Candidate(**told | {"settings": settings})


def find(sweep: Sweep, arguments: argparse.Namespace, console: Console) -> Sweep | None:
    """The sweep of two rows that is left to run, after the search; None for a dry run.

    Raises ValueError for a space that can't be searched, or where no candidate was trained to the end.
    """
    base = replace(sweep, rows={BASE: {}}, published={BASE: _published(sweep)})
    launch = Launch(base, argparse.Namespace(**{**vars(arguments), "seeds": 1}), console)
    declared = launch.experiments[BASE, 0]
    chosen = space.parse(arguments.space or ()) or sweep.space or space.of_rows(sweep.rows)
    space.check(chosen, declared)
    _print_space(chosen, arguments.search, console)
    roots = launch.roots()
    if arguments.dry_run or roots is None:
        launch.print_plan(None if roots is None else launch.data(roots))
        return None
    data = launch.data(roots)
    with cluster.connect(arguments.address, dashboard=True) as resources:
        compute, concurrent = launch.compute(resources, arguments.search)
        extract_missing(data.extractions, data.roots, console)
        log = _search(launch, data, declared, chosen, compute, concurrent)
    best = log.best()
    _print_candidates(log, chosen, console)
    try:
        _track(launch, log, launch.planner(data, declared.recipe()), declared)
    except TrackingError as error:  # the same command logs them as soon as it can
        console.print(f"NOT LOGGED  {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    if best is None:
        raise ValueError(f"no candidate was trained to the end; the reasons are in {log.folder}")
    rows: dict[str, Mapping[str, Any]] = {BASE: {}}
    published = dict(base.published)
    if declared.override(best.settings).config() != declared.config():
        rows[FOUND] = best.settings
        published[FOUND] = dict.fromkeys(published[BASE], math.nan)
    else:
        console.print("No setting did better than the one that the sweep declares.", highlight=False)
    title = f"{sweep.title}: the best of {len(log.candidates())} settings by validation AUC"
    return replace(sweep, name=f"{sweep.name}_search", title=title, row_name="setting", rows=rows, published=published)


def _published(sweep: Sweep) -> Mapping[str, float]:
    """Of the row that changes nothing of the base, if there is one: the paper's own setting."""
    none = dict.fromkeys(next(iter(sweep.published.values())), math.nan)
    own = [row for row, overrides in sweep.rows.items() if sweep.base.override(overrides) == sweep.base.override({})]
    return sweep.published[own[0]] if own else none


def _search(
    launch: Launch, data: Data, declared: Experiment, chosen: Space, compute: job.Compute, concurrent: int
) -> Log:
    plan = launch.planner(data, declared.recipe())
    trial = plan(declared)
    planner.check(trial, compute)
    varied = {key: str(values) for key, values in chosen.items()}
    rows = {stage.name: stage.spec["rows"] for stage in trial.planned}
    log = Log(folder=launch.storage / "searches" / digest([declared, varied, rows]))
    known = [one for one in log.candidates() if one.state != "running"]
    begun = [one.settings for one in log.candidates() if one.state == "running"]
    left = launch.arguments.search - len(known)
    if left <= 0:
        return log
    title = f"Search: {left} of {launch.arguments.search} candidates to train, {concurrent} at once"
    with progress.view(launch.console, title) as view:
        shown = cache(lambda key: plan(declared.override(dict(key))))

        def look() -> None:
            for one in log.candidates():
                trial = shown(tuple(sorted(one.settings.items())))
                if one.state != "running":
                    view.update(_short(one.settings), f"{one.state}{_auc_text(one)}", 1, 1)
                elif standing := tune.standing(trial):
                    view.update(_short(one.settings), *standing)

        tune.search(
            chosen,
            known,
            (begun or ([] if known else _start(declared, chosen)))[:left],
            left,
            partial(_planned, plan, declared),
            compute,
            concurrent,
            launch.storage / "ray",
            most_epochs=_epochs(declared),
            seed=declared.seed + len(known),
            note=log.note,
            look=look,
        )
    return log


def _planned(plan: Callable[[Experiment], Trial], declared: Experiment, settings: Mapping[str, Any]) -> Trial:
    return plan(declared.override(settings))


def _start(declared: Experiment, chosen: Space) -> list[dict[str, Any]]:
    """The sweep's own setting, where the space has it: the search should end no worse."""
    config = declared.config()
    own = {key: reduce(getattr, key.removeprefix(space.SEARCHED).split("."), config) for key in chosen}
    return [own] if all(space.contains(chosen[key], value) for key, value in own.items()) else []


def _epochs(declared: Experiment) -> int:
    """With a validation AUC: those of the stages that score."""
    config = declared.config()
    return sum(stage.feed(config).num_epochs for stage in models.stages(declared.model) if stage.scores)


def _track(launch: Launch, log: Log, plan: Callable[[Experiment], Trial], declared: Experiment) -> None:
    """A run for each candidate, below one for the search: MLflow's charts show the AUC over the settings."""
    name = f"{launch.sweep.name}_search"
    tracker = Tracker(default_uri(launch.storage), name, launch.storage)
    common = {"data": "sample" if launch.is_sample else "real", "preset": launch.preset, "commit": provenance.commit()}
    parent = tracker.run(log.folder.name, f"search ({launch.preset}, {common['data']})", tags=common)
    for one in log.candidates():
        trial = plan(declared.override(one.settings))
        tags = common | {"method": declared.model, "state": one.state, "candidate": trial.digest}
        params = {key: _number(value) for key, value in one.settings.items()}
        key = f"{log.folder.name}-{trial.digest}"
        child = tracker.run(key, _short(one.settings), parent=parent, params=params, tags=tags)
        for stage in trial.planned:
            tracker.curve(child, stage.name, stage.curve())
        if one.auc is not None:
            tracker.values(child, {"val/auc": one.auc, "val/epochs": one.epochs})
        tracker.end(child, "FAILED" if one.state == "failed" else "FINISHED")
    tracker.end(parent)


# --------------------------------------------------------------------------------------- what is shown
def _short(settings: Mapping[str, Any]) -> str:
    """e.g. `mask_ratio 0.55, lr 0.00013`."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {_number(value)}" for key, value in settings.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _auc_text(one: Candidate) -> str:
    return "" if one.auc is None else f", val/auc {one.auc:.3f}"


def _print_space(chosen: Space, number: int, console: Console) -> None:
    table = Table(title=f"Search of {number} settings, the first is the sweep's own where it lies within")
    for column in ("setting", "values"):
        table.add_column(column)
    for key, values in chosen.items():
        table.add_row(key, str(values) if isinstance(values, Range) else ", ".join(map(_number, values)))
    console.print(table)


def _print_candidates(log: Log, chosen: Space, console: Console, most: int = 10) -> None:
    found = log.candidates()
    table = Table(title=f"Candidates, the best {min(most, len(found))} of {len(found)} by validation AUC")
    for column in (*(key.removeprefix(space.SEARCHED) for key in chosen), "val AUC", "epochs", ""):
        table.add_column(column)
    for one in found[:most]:
        auc = "–" if one.auc is None else f"{100 * one.auc:.1f}"
        why = f": {one.reason}" if one.reason else ""
        table.add_row(*(_number(one.settings[key]) for key in chosen), auc, str(one.epochs), one.state + why)
    console.print(table)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say("stopped: by ASHA, early; its AUC is the best so far. The choice is among those that finished.")
    say(f"All candidates: {log.folder}")
