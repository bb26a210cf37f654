"""The plan of a launch: a trial for each row and seed, the distinct stages that they train; and how it is printed."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

import models
from pipelines.common import rates
from pipelines.common.text import counted
from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import TINY_NOTE, Experiment
from pipelines.faces import store
from pipelines.faces.plan import notes
from pipelines.faces.recipe import Recipe
from pipelines.launch import cost, duration
from pipelines.launch.cost import rows_unseen
from pipelines.launch.data import FEW, Data, load
from pipelines.launch.request import Request
from pipelines.training import stages
from pipelines.training.stages import PlannedStage
from pipelines.trials.outcome import RowSeed
from pipelines.trials.planner import Planner
from pipelines.trials.trial import Trial


def planner(request: Request, data: Data, recipe: Recipe) -> Callable[[Experiment], Trial]:
    """Return what makes trials of experiments with this recipe; their faces must be extracted.

    It can be sent to another process.
    """
    faces = data.faces(recipe)
    ledgers = {name: store.ledger(folder) for name, folder in faces.items()}
    return Planner(data.videos, ledgers, faces, request.storage, request.options.accumulate)


def trials(request: Request, data: Data) -> dict[RowSeed, Trial]:
    """Return the trial of each row and seed, done or not; the faces must be extracted."""
    plan = {recipe: planner(request, data, recipe) for recipe in {e.recipe() for e in request.experiments.values()}}
    return {key: plan[experiment.recipe()](experiment) for key, experiment in request.experiments.items()}


def growing(planned: Iterable[PlannedStage], workers: tuple[int, int] | None) -> list[str]:
    """Return the stages that take more memory in each worker when fewer than the most of a range train.

    A stage that `--accumulate` cuts exactly is cut into more parts then: see `Sharing.cuts`.
    """
    if workers is None or workers[0] == workers[1]:
        return []
    whole = [stage for stage in planned if models.stage(stage.paper, stage.name).accumulates != "exactly"]
    return sorted({f"{stage.paper}.{stage.name}" for stage in whole})


# --------------------------------------------------------------------------------- on the terminal
def print_plan(request: Request, data: Data | None, console: Console, candidates: int = 0, others: int = 0) -> None:
    """Print which videos are to be extracted, which stages are to be trained, and how long that takes.

    data None: there is no sample corpus yet. candidates: how many a search trains; others: how many of them are not the
    declared setting.
    """
    if data is None:
        with corpus.outlined(request.storage, size=request.corpus_size, names=request.datasets) as roots:
            _print_plan(request, load(request, roots), console, candidates, others, made=False)
    else:
        _print_plan(request, data, console, candidates, others, made=True)


def _print_plan(request: Request, data: Data, console: Console, candidates: int, others: int, made: bool) -> None:
    """Print the plan. made: whether the videos exist; else they are of the sample corpus."""
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    _heading(request.sweep.title, console)
    say(f"Storage: {request.storage}")
    if request.is_sample:
        console.print(f"[yellow]{corpus.NOTE}[/yellow]", highlight=False)
    if request.preset == "tiny":
        console.print(f"[yellow]{TINY_NOTE}[/yellow]", highlight=False)
    own = "sample corpus" if made else "sample corpus, made on first use"
    few = f", {FEW} of each kind" if request.takes_few else ""
    source = own if request.is_sample else f"{request.options.named or request.config_file}{few}"
    videos = [
        (data.name(each), str(each.videos.num_rows), str(each.num_missing or "none, all extracted"))
        for each in data.extractions
    ]
    _heading(f"Videos ({source})", console)
    _print_table(("dataset", "needed", "to extract"), videos, console)
    for note in notes(data.extractions):
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if any(each.standing.changed for each in data.extractions):
        say("What was trained on these counts as to train until then; where their faces come out the same it is kept")
    planned = _print_stages(request, data if data.extracted else None, console)
    if candidates:
        say(f"The search trains {counted(candidates, 'candidate')}; ASHA stops those that fall behind")
    if request.options.address is not None and request.options.dry_run:
        say(f"The cluster at {request.options.address} was not asked: a dry run connects to none")
    kept = rates.kept()
    of_corpus = [] if made else [duration.of_corpus(request.corpus_size, request.datasets, request.storage, kept)]
    faces = duration.of_faces(data.extractions, request.storage, kept)
    training = duration.of_stages([stage for stage in planned if not stage.done], request.storage, kept)
    if others:
        training.append(duration.of_candidates(others, planned, request.storage, kept))
    together = duration.at_once(request.options, request.preset, candidates or len(request.experiments))
    say(duration.told(of_corpus, faces, training, together))
    if request.preset == "paper" and any(each.seconds is None for each in training):
        say(f"All of it, at the size of FaceForensics++: {cost.estimate(request.experiments.values())} ({cost.BASIS})")


def _print_stages(request: Request, data: Data | None, console: Console) -> list[PlannedStage]:
    """Print the distinct stages and return them.

    data None: there are no faces. The number of distinct stages is right even so, and none counts as trained.
    """
    experiments, options = request.experiments.values(), request.options
    unseen = [
        stage
        for experiment in experiments
        for stage in stages.plan(experiment, rows_unseen(experiment), request.storage, options.accumulate)
    ]
    of_trials = [stage for trial in trials(request, data).values() for stage in trial.planned] if data else unseen
    planned: dict[Path, PlannedStage] = {stage.folder: stage for stage in of_trials}

    lines = []
    for paper, name in dict.fromkeys((stage.paper, stage.name) for stage in planned.values()):
        own = [stage for stage in planned.values() if (stage.paper, stage.name) == (paper, name)]
        seconds = [stage.summary()["seconds"] for stage in own if stage.done]
        mean = f"{sum(seconds) / len(seconds):.0f} s each" if seconds else "–"
        counts = (len(own), len(own) - len(seconds), len(seconds))
        lines.append((paper, name, *map(str, counts), mean))
    _heading(f"Stages ({request.preset} preset, {counted(len(experiments), 'trial')})", console)
    _print_table(("paper", "stage", "distinct", "to train", "reused", "trained before took"), lines, console)

    otherwise = Counter(
        (f"{stage.paper} {stage.name}", differences)
        for stage in (planned.values() if data else ())
        if not stage.done and (differences := stages.trained_otherwise(stage))
    )
    for (name, differences), count in otherwise.items():
        text = (
            f"{name}: {count} to train again, trained before with the same settings but other {', '.join(differences)}"
        )
        console.print(text, highlight=False, markup=False)
    if len(planned) < len(unseen):
        text = f"{len(unseen) - len(planned)} of {len(unseen)} stages are shared between rows and trained once"
        console.print(text, highlight=False)
    if options.workers and (names := growing(planned.values(), options.workers)):
        text = f"With fewer than {options.workers[1]} workers, each takes more GPU memory in {', '.join(names)}"
        console.print(text, highlight=False)
    return list(planned.values())


def _heading(text: str, console: Console) -> None:
    console.print(f"[bold]{text}[/bold]", highlight=False)


def _print_table(columns: Sequence[str], lines: Iterable[Sequence[str]], console: Console) -> None:
    table = Table(*columns)
    for line in lines:
        table.add_row(*line)
    console.print(table)
