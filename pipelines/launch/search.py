"""The best setting of a paper by validation AUC: `uv run python sweeps/<question>.py --search N`.

Optuna proposes settings, ASHA stops those that fall behind, and what is compared is the AUC on the validation part of
the training dataset. The test parts are scored once, at the end, of two rows: the sweep's own setting, and the best
one found. Every candidate lies in

    <storage>/searches/<digest>/<candidate>.json    settings, state, AUC

so the same command goes on after any interruption, and a larger N adds to what is known.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import models
from pipelines.common import cluster, progress, provenance, storage
from pipelines.common.storage import digest
from pipelines.common.text import counted
from pipelines.experiments import space
from pipelines.experiments.experiment import TINY_NOTE, Experiment
from pipelines.experiments.space import Range, Space
from pipelines.experiments.sweep import Row, Sweep
from pipelines.faces.plan import extract_missing
from pipelines.launch import duration, plan, resources
from pipelines.launch.data import load
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.tracking import view
from pipelines.tracking.client import Tracker, TrackingError, default_uri, shown_by
from pipelines.tracking.runs import curves, warned
from pipelines.training.job import Compute
from pipelines.trials import planner, tune
from pipelines.trials.trial import Trial
from pipelines.trials.tune import Candidate

BASE, FOUND = "as declared", "found"  # the rows of the table


@dataclass(frozen=True, kw_only=True)
class Log:
    """What is known of the candidates of one search: a JSON file for each."""

    folder: Path

    def note(self, candidate: Candidate) -> None:
        """Write down what is known of a candidate now."""
        storage.write_json(self.folder / f"{digest(candidate.settings)}.json", asdict(candidate))

    def candidates(self) -> list[Candidate]:
        """Return all candidates: the best AUC first, those without one last."""
        candidates = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        return sorted(
            candidates, key=lambda candidate: -math.inf if candidate.auc is None else candidate.auc, reverse=True
        )

    def best(self) -> Candidate | None:
        """Return the best of those that were trained to the end; None if there are none."""
        return next((candidate for candidate in self.candidates() if candidate.state == "finished"), None)


def _read(path: Path) -> Candidate:
    fields = storage.read_json(path)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in fields["settings"].items()}
    return Candidate(**fields | {"settings": settings})


def find_best(sweep: Sweep, options: Options, console: Console) -> Sweep | None:
    """Search, then return the sweep of two rows that is left to run: as declared, and the best setting found.

    None: a dry run, which prints the plan only. Raises ValueError for a space that can't be searched, or where no
    candidate was trained to the end.
    """
    assert options.search is not None
    own = replace(sweep.declared, label=BASE, baseline="", note="")
    base = replace(sweep, rows=(own,), baseline="")
    request = Request.of(base, replace(options, seeds=1))
    declared = request.experiments[BASE, 0]
    chosen = space.parse(options.space) or sweep.searched(declared)
    space.check(chosen, declared)
    _print_space(chosen, options.search, len(sweep.running), console)
    roots = request.roots(console)
    data = None if roots is None else load(request, roots)
    if options.dry_run or data is None:
        known: list[Candidate] = []
        if data is not None and data.extracted:
            trial = plan.planner(request, data, declared.recipe())(declared)
            known = _log(request, trial, chosen).candidates()
        left = max(0, options.search - len(_tried(known)))
        base_setting = own_setting(declared, chosen)  # which is trained anyway, at the latest for the table
        others = left - sum(settings in base_setting for settings in _first(known, declared, chosen)[:left])
        plan.print_plan(request, data, console, candidates=left, others=others)
        return None

    with cluster.connect(options.address, dashboard=True) as there:
        compute, concurrent = resources.divide(options, request.preset, there, options.search)
        due = duration.due(data.extractions)
        extract_missing(data.extractions, data.roots, console)
        planned = plan.planner(request, data, declared.recipe())
        untrained = duration.untrained([planned(declared)])
        log = _search(request, planned, declared, chosen, compute, concurrent, console)
    duration.keep(request, due, untrained)
    best, candidates = log.best(), log.candidates()
    _print_candidates(log, chosen, console)
    try:
        lines = _track(request, log, planned, declared)
        console.print(lines, highlight=False, markup=False, soft_wrap=True)
    except TrackingError as error:  # the same command logs them as soon as it can
        console.print(f"NOT LOGGED  {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    if best is None:
        raise ValueError(f"no candidate was trained to the end; the reasons are in {log.folder}")

    rows = base.rows
    if declared.override(best.settings).config() != declared.config():
        rows = (own, Row(FOUND, {**own.settings_in(request.preset), **best.settings}))
    else:
        console.print("No setting did better than the one that the sweep declares.", highlight=False)
    title = f"{sweep.title}: the best of {len(candidates)} settings by validation AUC"
    return replace(base, name=f"{sweep.name}_search", title=title, row_name="setting", rows=rows)


def _log(request: Request, declared: Trial, chosen: Space) -> Log:
    """Return the log of the search that starts from this trial."""
    varied = {key: str(values) for key, values in chosen.items()}
    rows = {stage.name: stage.spec["rows"] for stage in declared.planned}
    return Log(folder=request.storage / "searches" / digest([models.named(declared.experiment), varied, rows]))


def _tried(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates whose training has ended, this way or that."""
    return [candidate for candidate in candidates if candidate.state != "running"]


def _first(candidates: Sequence[Candidate], declared: Experiment, chosen: Space) -> list[dict[str, Any]]:
    """Return the settings that a search tries first: those it was stopped at, or of a new one the sweep's own."""
    begun = [dict(candidate.settings) for candidate in candidates if candidate.state == "running"]
    return begun or ([] if candidates else own_setting(declared, chosen))


def _search(
    request: Request,
    planned: Callable[[Experiment], Trial],
    declared: Experiment,
    chosen: Space,
    compute: Compute,
    concurrent: int,
    console: Console,
) -> Log:
    """Train as many candidates as are left of the wanted number, and return the log of all."""
    trial = planned(declared)
    planner.check(trial, compute)
    log = _log(request, trial, chosen)
    candidates = log.candidates()
    known = _tried(candidates)
    wanted = request.options.search or 0
    left = wanted - len(known)
    if left <= 0:
        return log
    trial_of = cache(lambda settings: planned(declared.override(dict(settings))))

    title = f"Search: {left} of {wanted} candidates to train, {concurrent} at once"
    with progress.view(console, title) as view:

        def look() -> None:
            for candidate in log.candidates():
                if candidate.state != "running":
                    view.update(_short(candidate.settings), f"{candidate.state}{_auc_text(candidate)}", 1, 1)
                elif standing := tune.standing(trial_of(tuple(sorted(candidate.settings.items())))):
                    view.update(_short(candidate.settings), *standing)

        tune.search(
            tune.Search(
                space=chosen,
                known=known,
                first=_first(candidates, declared, chosen)[:left],
                num=left,
                most_epochs=_scoring_epochs(declared),
                seed=declared.seed + len(known),
            ),
            partial(_candidate_trial, planned, declared),
            compute,
            concurrent,
            request.storage / "ray",
            note=log.note,
            look=look,
        )
    return log


def _candidate_trial(
    planned: Callable[[Experiment], Trial], declared: Experiment, settings: Mapping[str, Any]
) -> Trial:
    return planned(declared.override(settings))


def own_setting(declared: Experiment, chosen: Space) -> list[dict[str, Any]]:
    """Return the sweep's own setting where the space has it, else nothing: a search should end no worse."""
    own = {key: space.value_of(declared, key) for key in chosen}
    return [own] if all(space.contains(chosen[key], value) for key, value in own.items()) else []


def _scoring_epochs(declared: Experiment) -> int:
    """Return how many epochs end with a validation AUC: those of the stages that score."""
    config = declared.config()
    return sum(stage.feed(config).num_epochs for stage in models.stages(declared.model) if stage.scores)


def _track(request: Request, log: Log, planned: Callable[[Experiment], Trial], declared: Experiment) -> str:
    """Log a run for each candidate, below one for the search; return the lines that say where to see them.

    Raises TrackingError.
    """
    tracker = Tracker(default_uri(request.storage), f"{request.sweep.name}_search", request.storage)
    common = warned(TINY_NOTE if request.preset == "tiny" else "") | {
        "data": "sample" if request.is_sample else "real",
        "preset": request.preset,
        "commit": provenance.commit(),
    }
    parent = tracker.open_run(log.folder.name, f"search ({request.preset}, {common['data']})", tags=common)
    candidates = log.candidates()
    names = [_short(candidate.settings) for candidate in candidates]
    settings = dict.fromkeys(key for candidate in candidates for key in candidate.settings)
    state = view.state(parent, names, ["val/auc"], list(settings), best_by="val/auc")
    address = tracker.keep_view(log.folder.name, "Candidates", state)
    for candidate in candidates:
        trial = planned(declared.override(candidate.settings))
        tags = common | {"method": declared.model, "state": candidate.state, "candidate": trial.digest}
        params = {key: _number(value) for key, value in candidate.settings.items()}
        key = f"{log.folder.name}-{trial.digest}"
        began, ended = (trial.times.get(event) for event in ("began", "ended"))
        name = _short(candidate.settings)
        child = tracker.open_run(key, name, parent=parent, params=params, tags=tags, began=began)
        for stage, curve, after_s in curves(trial):
            tracker.log_curve(child, stage, curve, after_s=after_s)
        if candidate.auc is not None:
            tracker.log_values(child, {"val/auc": candidate.auc, "val/epochs": candidate.epochs})
        tracker.end(child, "FAILED" if candidate.state == "failed" else "FINISHED", ended)
    tracker.end(parent)
    return shown_by(tracker.uri, address)


# ------------------------------------------------------------------------------------ on the terminal
def _short(settings: Mapping[str, Any]) -> str:
    """Return settings in a few words, e.g. `mask_ratio 0.55, lr 0.00013`."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {_number(value)}" for key, value in settings.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _auc_text(candidate: Candidate) -> str:
    return "" if candidate.auc is None else f", val/auc {candidate.auc:.3f}"


def _print_space(chosen: Space, number: int, num_rows: int, console: Console) -> None:
    """Print what is searched, and whether the table's own rows would say as much. num_rows: how many these are."""
    table = Table(title=f"Search of {number} settings, the first is the sweep's own where it lies within")
    for column in ("setting", "values"):
        table.add_column(column)
    for key, values in chosen.items():
        table.add_row(key, str(values) if isinstance(values, Range) else ", ".join(map(_number, values)))
    console.print(table)
    if (size := space.size(chosen)) <= max(number, num_rows):
        no_more = "are to be tried" if size <= number else "the table has rows"
        text = f"The space has {counted(int(size), 'setting')}, no more than {no_more}: --space KEY=LOW..HIGH also"
        console.print(f"{text} looks between the values of a number", highlight=False, markup=False, soft_wrap=True)


def _print_candidates(log: Log, chosen: Space, console: Console, most: int = 10) -> None:
    candidates = log.candidates()
    shown = candidates[:most]
    table = Table(title=f"Candidates, the best {len(shown)} of {len(candidates)} by validation AUC")
    for column in (*(key.removeprefix(space.SEARCHED) for key in chosen), "val AUC", "epochs", ""):
        table.add_column(column)
    for candidate in shown:
        auc = "–" if candidate.auc is None else f"{100 * candidate.auc:.1f}"
        why = f": {candidate.reason}" if candidate.reason else ""
        settings = (_number(candidate.settings[key]) for key in chosen)
        table.add_row(*settings, auc, str(candidate.epochs), candidate.state + why)
    console.print(table)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say("stopped: by ASHA, early; its AUC is the best so far. The choice is among those that finished.")
    say(f"All candidates: {log.folder}")
