"""Trials through Ray Tune, several at once. The only file that imports ray.tune."""

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.common import cluster, progress, storage
from pipelines.common.storage import digest
from pipelines.experiments.space import Range, Space
from pipelines.training import job
from pipelines.trials import run
from pipelines.trials.trial import Trial, scoring, validation_auc

POLL_SECONDS = 1.0
RETRIES = 1  # of a trial that fails
FAILURE = "failure.txt"


def fit(trials: Sequence[Trial], compute: job.Compute, concurrent: int, folder: Path, look: Callable[[], None]) -> None:
    """Runs the trials, `concurrent` at once, and calls `look` every second. A trial that fails leaves its reason.

    folder: for Ray Tune's own files.
    """
    from ray import tune  # here: whoever only asks how a trial stands needs no Ray

    for trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
        for old in (progress.FILE, FAILURE):
            (trial.folder / old).unlink(missing_ok=True)
    function = _placed(tune.with_parameters(_trial, trials=list(trials), compute=compute), compute)
    tuner = tune.Tuner(
        function,
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a new process would import everything anew
        ),
        run_config=tune.RunConfig(
            name=digest(sorted(trial.digest for trial in trials)),
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    background = _Background(tuner.fit)
    while not background.wait(POLL_SECONDS):
        look()
    look()
    background.result()


def _placed(function: Any, compute: job.Compute) -> Any:
    """Says where a trial's process runs: on the head, which is no spot instance, unless it trains by itself.

    It holds no CPU: its training or its Ray Data jobs do. So Ray can't run out for a trial that waits for what a trial
    holds.
    """
    from ray import tune

    role = cluster.selector(cluster.HEAD if compute.num_workers else cluster.VIDEO)
    where: dict[str, Any] = {"bundle_label_selector": [role]} if role else {}
    return tune.with_resources(function, tune.PlacementGroupFactory([{"memory": 1_000_000}], **where))


class _Background:
    """A call in a daemon thread: the main thread stays free to show progress and to hear Ctrl-C."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self.future.set_result(function())
        except BaseException as error:  # noqa: BLE001  handed to whoever asks for the result
            self.future.set_exception(error)

    def wait(self, seconds: float) -> bool:
        """Whether the call has ended, after at most so long."""
        return bool(wait([self.future], timeout=seconds).done)

    def result(self) -> Any:
        return self.future.result()


def failure_of(trial: Trial) -> str:
    """Why a trial has no result, in one line."""
    path = trial.folder / FAILURE
    return path.read_text().splitlines()[0] if path.exists() else "its process died; run again to retry"


def _trial(config: Mapping[str, int], trials: Sequence[Trial], compute: job.Compute) -> None:
    """Body of a Tune trial."""
    from ray import tune

    trial = trials[config["number"]]
    with _noted_failure(trial, compute):
        run.run_trial(trial, compute, partial(progress.note, trial.folder))
    tune.report({"done": 1})


@contextmanager
def _noted_failure(trial: Trial, compute: job.Compute) -> Iterator[None]:
    import torch

    if compute.num_workers == 0:
        torch.set_num_threads(1)  # trials share the CPUs; and sums in a fixed order give the same numbers again
    try:
        yield
    except Exception as error:  # every failure of one row is written down; the other rows go on
        text = f"{type(error).__name__}: {error}".splitlines()[0] + "\n\n" + traceback.format_exc()
        storage.write_bytes(trial.folder / FAILURE, text.encode())
        raise


def standing(trial: Trial) -> tuple[str, float, float] | None:
    """Phase as text, how much of the trial is done, out of how much; None before it has begun."""
    noted = progress.noted(trial.folder)
    if noted is None and not trial.done:
        return None
    names = [stage.name for stage in trial.planned]
    total = float(len(names) + 1)
    if trial.done:
        return "done", total, total
    phase = str(noted["phase"]) if noted else "waiting"
    if phase not in names:
        done = (
            len(names) + noted["done"] / max(1, noted["total"])
            if phase == "score" and noted
            else names.index(phase.rsplit(" ", 1)[-1]) + 1.0
        )
        return phase, done, total
    stage = trial.planned[names.index(phase)]
    step = progress.noted(stage.folder) if not stage.done else None
    share = step["done"] / max(1, step["total"]) if step else float(stage.done)
    curve = stage.curve()
    last = curve[-1] if curve else {}
    shown = [f"{name} {last[name]:.3f}" for name in ("train/loss", "val/loss", "val/auc") if name in last]
    text = f"{phase} epoch {last['epoch']}: {', '.join(shown)}" if last else phase
    return text, names.index(phase) + share, total


# ------------------------------------------------------------------------------------------- search
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting that a search has tried, or is trying."""

    settings: Mapping[str, Any]
    state: str  # running, finished, stopped (early, by ASHA), failed
    auc: float | None = None  # on val: the best so far; of a finished one `run.validation_auc`
    epochs: int = 0  # with a validation AUC
    reason: str = ""  # of a failed one


def search(
    space: Space,
    known: Sequence[Candidate],
    first: Sequence[Mapping[str, Any]],
    num: int,
    plan: Callable[[Mapping[str, Any]], Trial],
    compute: job.Compute,
    concurrent: int,
    folder: Path,
    *,
    most_epochs: int,
    seed: int,
    note: Callable[[Candidate], None],
    look: Callable[[], None],
) -> None:
    """Trains `num` more candidates, those of `first` before what Optuna proposes, and stops the hopeless by ASHA.

    known: what it learns from without training it again. note(candidate) is called whenever one changes its state.
    ASHA looks after a ninth and a third of `most_epochs` and lets the best third go on.
    """
    import optuna  # here, and Ray: whoever only asks how a trial stands needs neither
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    proposes = OptunaSearch(
        {key: _distribution(values) for key, values in space.items()},
        metric=_AUC,
        mode="max",
        points_to_evaluate=[dict(settings) for settings in first],
        # While others run, their settings count as bad: no two get nearly the same.
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    )
    for one in known:
        if one.auc is not None:
            proposes.add_evaluated_point(dict(one.settings), one.auc)
    function = _placed(tune.with_parameters(_candidate, plan=plan, compute=compute), compute)
    grace = max(1, most_epochs // _REDUCTION**2)
    stops = ASHAScheduler(
        max_t=most_epochs + 2, grace_period=grace, reduction_factor=_REDUCTION, metric=_AUC, mode="max"
    )
    tuner = tune.Tuner(
        function,
        tune_config=tune.TuneConfig(
            num_samples=num, search_alg=proposes, scheduler=stops, max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[_noting(note)],
        ),
    )
    background = _Background(tuner.fit)
    while not background.wait(POLL_SECONDS):
        look()
    look()
    background.result()


_AUC = "auc"
_REDUCTION = 3  # one in so many goes on from rung to rung


def _distribution(values: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _noting(note: Callable[[Candidate], None]) -> Any:
    from ray import tune

    class Noting(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            note(Candidate(settings=trial.config, state="running"))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            last = trial.last_result
            state = "finished" if last.get("finished") else "stopped"
            epochs = last["training_iteration"] - (state == "finished")
            note(Candidate(settings=trial.config, state=state, auc=last[_AUC], epochs=epochs))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            told = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
            note(Candidate(settings=trial.config, state="failed", reason=told[-1] if told else "its process died"))

    return Noting()


def _candidate(config: Mapping[str, Any], plan: Callable[[Mapping[str, Any]], Trial], compute: job.Compute) -> None:
    """Body of a Tune trial of a search: trains, and reports the validation AUC of every epoch that has one."""
    from ray import tune

    trial = plan(config)
    with _noted_failure(trial, compute):
        training = _Background(lambda: run.train_stages(trial, compute, partial(progress.note, trial.folder)))
        told = 0
        while not training.wait(POLL_SECONDS):
            told = _tell(trial, told)
        training.result()
        _tell(trial, told)
        tune.report({_AUC: validation_auc(trial), "finished": True})


def _tell(trial: Trial, told: int) -> int:
    """Reports what came after the first `told` epochs, as the best so far of its stage. How many there are now."""
    from ray import tune

    best = [
        max(line["val/auc"] for line in curve[: place + 1])
        for stage in scoring(trial)
        if (curve := stage.curve())
        for place in range(len(curve))
    ]
    for value in best[told:]:
        tune.report({_AUC: value})
    return len(best)
