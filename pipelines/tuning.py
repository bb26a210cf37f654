"""Trials through Ray Tune, several at once. The only file that imports ray.tune."""

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from pipelines import progress, run, stages
from pipelines.experiment import digest

POLL_SECONDS = 1.0
RETRIES = 1  # of a trial that fails
FAILURE = "failure.txt"


def fit(
    trials: Sequence[run.Trial], compute: run.Compute, concurrent: int, folder: Path, look: Callable[[], None]
) -> None:
    """Runs the trials, `concurrent` at once, and calls `look` every second. A trial that fails leaves its reason.

    folder: for Ray Tune's own files.
    """
    from ray import tune  # here: whoever only asks how a trial stands needs no Ray

    for trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
        for old in (progress.FILE, FAILURE):
            (trial.folder / old).unlink(missing_ok=True)
    # A trial's driver holds no CPU: its training or its Ray Data jobs do. So Ray can't run out for a trial
    # that waits for what a trial holds.
    function = tune.with_resources(
        tune.with_parameters(_trial, trials=list(trials), compute=compute), {"memory": 1_000_000}
    )
    tuner = tune.Tuner(
        function,
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
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


def failure_of(trial: run.Trial) -> str:
    """Why a trial has no result, in one line."""
    path = trial.folder / FAILURE
    return path.read_text().splitlines()[0] if path.exists() else "its process died; run again to retry"


def _trial(config: Mapping[str, int], trials: Sequence[run.Trial], compute: run.Compute) -> None:
    """Body of a Tune trial."""
    import torch
    from ray import tune

    trial = trials[config["number"]]
    if compute.num_workers == 0:
        torch.set_num_threads(1)  # trials share the CPUs; and sums in a fixed order give the same numbers again
    try:
        run.run(trial, compute, lambda phase, done, total: progress.note(trial.folder, phase, done, total))
    except Exception as error:  # every failure of one row is written down; the other rows go on
        text = f"{type(error).__name__}: {error}".splitlines()[0] + "\n\n" + traceback.format_exc()
        stages.write_atomic(trial.folder / FAILURE, text.encode())
        raise
    tune.report({"done": 1})


def standing(trial: run.Trial) -> tuple[str, float, float] | None:
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
