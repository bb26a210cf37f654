"""One launch of a sweep: find the data, plan, extract, train and score, publish.

Every step asks what is there already, so the same command goes on after any interruption.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from rich.console import Console

from pipelines.common import cluster, progress
from pipelines.common.text import counted
from pipelines.experiments.sweep import Sweep
from pipelines.faces.plan import extract_missing
from pipelines.launch import duration, plan, resources
from pipelines.launch.data import Data, load
from pipelines.launch.options import Options
from pipelines.launch.publish import publish
from pipelines.launch.request import Request
from pipelines.reporting import page
from pipelines.tracking import runs
from pipelines.trials import outcome, planner, tune
from pipelines.trials.outcome import Outcome, RowSeed
from pipelines.trials.trial import Trial


def launch(sweep: Sweep, options: Options, console: Console) -> int:
    """Do what is left of a sweep and return the exit code: 0, or 1 if a row failed or MLflow could not be reached.

    A dry run prints the plan only. Raises ValueError or OSError for wrong input.
    """
    request = Request.of(sweep, options)
    roots = request.roots(console)
    data = None if roots is None else load(request, roots)
    if options.dry_run or data is None:
        plan.print_plan(request, data, console)
        return 0
    trials = plan.trials(request, data) if data.extracted else None
    if trials is None or not all(trial.complete for trial in trials.values()):
        plan.print_plan(request, data, console)
        trials = _work(request, data, console)
    return publish(_outcome(request, data, trials), console)


def _work(request: Request, data: Data, console: Console) -> dict[RowSeed, Trial]:
    """Extract, train and score what is missing, and log it to MLflow meanwhile; return the trials, failed or done."""
    with cluster.connect(request.options.address) as there:
        compute, concurrent = resources.divide(request.options, request.preset, there, len(request.experiments))
        due = duration.due(data.extractions)
        extract_missing(data.extractions, data.roots, console)
        trials = plan.trials(request, data)
        for trial in trials.values():
            planner.check(trial, compute)
        todo = {key: trial for key, trial in trials.items() if not trial.complete}
        untrained = duration.untrained(todo.values())
        undrawn = set({row: (row, seed) for row, seed in reversed(trials)}.values())  # the first seed of each row
        title = f"Training and scoring: {counted(len(todo), 'trial')}, {concurrent} at once"
        with (
            runs.live(_outcome(request, data, trials), console) as live,
            progress.view(console, title) as view,
            _drawing() as drawing,  # what the report shows of a trial that has its pictures
        ):
            left = dict(todo)

            def look() -> None:
                for key, trial in list(left.items()):
                    complete = trial.complete  # before the last look at it
                    if standing := tune.standing(trial):
                        view.update(outcome.name_of(key), *standing)
                        live.look(key)
                    if complete:
                        del left[key]
                        if key in undrawn:
                            undrawn.remove(key)
                            drawing.submit(page.example_pictures, trial.folder, *key)

            tune.fit(list(todo.values()), compute, concurrent, request.storage / "ray", look)
    duration.keep(request, due, untrained)
    return trials


@contextmanager
def _drawing() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread. In the end it is waited for, as matplotlib is not for two; what it has not begun is dropped."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(request: Request, data: Data, trials: Mapping[RowSeed, Trial]) -> Outcome:
    return Outcome(
        sweep=request.sweep,
        preset=request.preset,
        config_file=request.config_file,
        storage=request.storage,
        extractions=data.extractions,
        trials=trials,
    )
