"""Trials by Ray Tune, several at once: the rows of a sweep (`fit`), or the candidates of a search (`search`).

No other file imports ray.tune. `standing` and `failure_of` say from the trials' folders how they stand, without Ray.
"""

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
from pipelines.common.storage import digest, make_folder
from pipelines.experiments.space import Range, Space
from pipelines.training import job
from pipelines.trials import pictures, run
from pipelines.trials.trial import Trial

RETRIES = 1  # of a trial that fails
FAILURE = "failure.txt"
PICTURES = "pictures"  # a phase of a trial that has its numbers


def fit(trials: Sequence[Trial], compute: job.Compute, concurrent: int, folder: Path, look: Callable[[], None]) -> None:
    """Run the trials, `concurrent` at once, and call `look` now and then. A trial that fails leaves its reason.

    folder: of the storage, for Ray Tune's own files. Without trials it does nothing.
    """
    if not trials:
        return
    from ray import tune  # here: whoever only asks how a trial stands needs no Ray

    for trial in trials:
        make_folder(trial.folder)
        progress.forget(trial.folder)
        (trial.folder / FAILURE).unlink(missing_ok=True)
    tuner = tune.Tuner(
        _placed(tune.with_parameters(_run_one, trials=list(trials), compute=compute, concurrent=concurrent), compute),
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # a new process would import everything anew
        ),
        run_config=tune.RunConfig(
            name=digest(sorted(trial.digest for trial in trials)),
            storage_path=str(storage.on_this_machine(folder)),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    _fit(tuner, look, progress.look_seconds(folder))
    _show_rest(trials, compute)


def _show_rest(trials: Sequence[Trial], compute: job.Compute) -> None:
    """Make the pictures that are missing: a last trial that failed, or whose process died, has made none of others."""
    import ray

    where: dict[str, Any] = {"label_selector": cluster.selector(cluster.VIDEO)}
    make: Any = ray.remote(num_cpus=1, **where)(pictures.write_missing)
    ray.get([make.remote(trial, compute) for trial in trials if trial.done and not trial.complete])


def _run_one(config: Mapping[str, int], trials: Sequence[Trial], compute: job.Compute, concurrent: int) -> None:
    """Body of a Tune trial of `fit`."""
    from ray import tune

    trial = trials[config["number"]]
    with _noted_failure(trial, compute):
        run.make_numbers(trial, compute, partial(progress.note, trial.folder))
    for each in _to_show(trial, trials, compute, concurrent):
        progress.note(each.folder, PICTURES, 0, 1)
        pictures.write_missing(each, compute)
    tune.report({"done": 1})


def _to_show(trial: Trial, trials: Sequence[Trial], compute: job.Compute, concurrent: int) -> Iterator[Trial]:
    """Yield the trials whose pictures a trial's process makes when it has its numbers, the trial itself first.

    A process that trains by itself leaves pictures for later while a trial waits for it. One for which none waits any
    more makes those of all, and so has work while the last trials train.
    """
    if compute.num_workers:
        yield trial
        return
    ended = sum(each.done or (each.folder / FAILURE).exists() for each in trials)
    begun = sum(each.done or progress.noted(each.folder) is not None for each in trials)
    # Ray Tune starts the next trial whenever one ends: in place of all that have ended, save this one, others run.
    if max(begun, ended - 1 + concurrent) >= len(trials):
        yield from (each for each in (trial, *trials) if each.done and not _shown(each))


def _shown(trial: Trial) -> bool:
    """Return whether a trial's pictures are made, or another process is at it."""
    noted = progress.noted(trial.folder)
    return trial.complete or (noted is not None and noted["phase"] == PICTURES)


# ----------------------------------------------------------------------------- what both have in common
def _placed(function: Any, compute: job.Compute) -> Any:
    """Say where a trial's process runs: on the head, which is no spot instance, unless it trains by itself.

    The process holds no CPU; its training and its Ray Data jobs do. So none waits for CPUs that a waiting trial holds.
    """
    from ray import tune

    role = cluster.selector(cluster.HEAD if compute.num_workers else cluster.VIDEO)
    where: dict[str, Any] = {"bundle_label_selector": [role]} if role else {}
    return tune.with_resources(function, tune.PlacementGroupFactory([{"memory": 1_000_000}], **where))


class _Background:
    """A call in a daemon thread, so that the main thread is free to show progress and to hear Ctrl-C."""

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
        """Return whether the call has ended, after at most so long."""
        return bool(wait([self.future], timeout=seconds).done)

    def result(self) -> Any:
        return self.future.result()


def _fit(tuner: Any, look: Callable[[], None], every_s: float) -> None:
    """Run the tuner, and call `look` every so many seconds and at the end."""
    background = _Background(tuner.fit)
    while not background.wait(every_s):
        look()
    look()
    background.result()


@contextmanager
def _noted_failure(trial: Trial, compute: job.Compute) -> Iterator[None]:
    """Write down in the trial's folder why what is within fails; a trial that trains here computes with one thread."""
    import torch

    if compute.num_workers == 0:
        torch.set_num_threads(1)  # trials share the CPUs; and sums in a fixed order give the same numbers again
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0] + "\n\n" + traceback.format_exc()
        storage.write_text(trial.folder / FAILURE, text)
        raise


# ---------------------------------------------------------------------------------- how a trial stands
def failure_of(trial: Trial) -> str:
    """Return why a trial has no result, in one line."""
    path = trial.folder / FAILURE
    return path.read_text().splitlines()[0] if path.exists() else "its process died; run again to retry"


def standing(trial: Trial) -> tuple[str, float, float] | None:
    """Return the phase as text, how much of the trial is done, and out of how much; None before it has begun.

    Each stage counts 1, and scoring 1.
    """
    names = [stage.name for stage in trial.planned]
    total = float(len(names) + 1)
    if trial.done:
        return "done", total, total
    noted = progress.noted(trial.folder)
    if noted is None:
        return None
    phase = str(noted["phase"])
    if phase == "score":
        return phase, len(names) + noted["done"] / max(1, noted["total"]), total
    if phase not in names:  # derive from <stage>
        return phase, names.index(phase.rsplit(" ", 1)[-1]) + 1.0, total
    stage = trial.planned[names.index(phase)]
    step = progress.noted(stage.folder) if not stage.done else None
    share = step["done"] / max(1, step["total"]) if step else float(stage.done)
    curve = stage.curve()
    last = curve[-1] if curve else {}
    shown = [f"{name} {last[name]:.3f}" for name in ("train/loss", "val/loss", "val/auc") if name in last]
    text = f"{phase} epoch {last['epoch']}: {', '.join(shown)}" if last else phase
    return text, names.index(phase) + share, total


# ------------------------------------------------------------------------------------------- search
_AUC = "auc"
_REDUCTION = 3  # one in so many goes on from rung to rung


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting that a search has tried, or is trying."""

    settings: Mapping[str, Any]
    state: str  # running, finished, stopped (early, by ASHA), failed
    auc: float | None = None  # on val: the best so far; of a finished one `Trial.validation_auc`
    epochs: int = 0  # with a validation AUC
    reason: str = ""  # of a failed one


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to search for, and from what to go on."""

    space: Space
    known: Sequence[Candidate]  # learnt from, and not trained again
    first: Sequence[Mapping[str, Any]]  # settings to try before those that Optuna proposes
    num: int  # more candidates to train, those of `first` among them
    most_epochs: int  # with a validation AUC, of a candidate that is trained to its end
    seed: int  # of what Optuna draws


def search(
    wanted: Search,
    plan: Callable[[Mapping[str, Any]], Trial],
    compute: job.Compute,
    concurrent: int,
    folder: Path,
    *,
    note: Callable[[Candidate], None],
    look: Callable[[], None],
) -> None:
    """Train candidates, `concurrent` at once. Optuna proposes their settings, ASHA stops those that fall behind.

    plan(settings) gives the trial of a candidate. folder: as in `fit`. note(candidate) is called whenever one changes
    its state, `look` now and then. ASHA looks after a ninth and a third of `most_epochs` and lets the best
    third go on.
    """
    import optuna  # here, and Ray: whoever only asks how a trial stands needs neither
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    proposes = OptunaSearch(
        {key: _distribution(values) for key, values in wanted.space.items()},
        metric=_AUC,
        mode="max",
        points_to_evaluate=[dict(settings) for settings in wanted.first],
        # While others run, their settings count as bad: no two get nearly the same.
        sampler=optuna.samplers.TPESampler(seed=wanted.seed, constant_liar=True),
    )
    for candidate in wanted.known:
        if candidate.auc is not None:
            proposes.add_evaluated_point(dict(candidate.settings), candidate.auc)
    stops = ASHAScheduler(
        max_t=wanted.most_epochs + 2,
        grace_period=max(1, wanted.most_epochs // _REDUCTION**2),
        reduction_factor=_REDUCTION,
        metric=_AUC,
        mode="max",
    )
    tuner = tune.Tuner(
        _placed(tune.with_parameters(_train_candidate, plan=plan, compute=compute), compute),
        tune_config=tune.TuneConfig(
            num_samples=wanted.num, search_alg=proposes, scheduler=stops, max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            storage_path=str(storage.on_this_machine(folder)),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[_noting(note)],
        ),
    )
    _fit(tuner, look, progress.look_seconds(folder))


def _distribution(values: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _noting(note: Callable[[Candidate], None]) -> Any:
    """Return a callback for Ray Tune that notes the state of each candidate."""
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
            lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
            note(Candidate(settings=trial.config, state="failed", reason=lines[-1] if lines else "its process died"))

    return Noting()


def _train_candidate(
    config: Mapping[str, Any], plan: Callable[[Mapping[str, Any]], Trial], compute: job.Compute
) -> None:
    """Body of a Tune trial of `search`: train, and report the validation AUC of every epoch that has one."""
    from ray import tune

    trial = plan(config)
    with _noted_failure(trial, compute), trial.timed():
        training = _Background(lambda: run.train_stages(trial, compute, partial(progress.note, trial.folder)))
        reported = 0
        while not training.wait(progress.look_seconds(trial.folder)):
            reported = _report_epochs(trial, reported)
        training.result()
        _report_epochs(trial, reported)
        tune.report({_AUC: trial.validation_auc(), "finished": True})


def _report_epochs(trial: Trial, reported: int) -> int:
    """Report each epoch after the first `reported` as the best AUC of its stage so far; return how many there are."""
    from ray import tune

    best = [
        max(line["val/auc"] for line in curve[: place + 1])
        for stage in trial.scoring_stages
        if (curve := stage.curve())
        for place in range(len(curve))
    ]
    for auc in best[reported:]:
        tune.report({_AUC: auc})
    return len(best)
