"""One launch of a sweep: find the data, plan, extract, train and score, write the table.

Every step asks what is there already, so the same command goes on after any interruption.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

import models
from pipelines import datasets
from pipelines.common import cluster, progress, storage
from pipelines.datasets.sample import corpus
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.sweep import Sweep
from pipelines.faces import sources, store
from pipelines.faces.plan import Extraction, extract_missing, faces_folder
from pipelines.faces.recipe import Recipe
from pipelines.faces.sources import datasets_file
from pipelines.launch.publish import publish
from pipelines.scoring import explain
from pipelines.tracking import runs
from pipelines.training import job, stages
from pipelines.training.sharing import check_accumulates
from pipelines.training.views import REAL_VIEWS, VIEWS
from pipelines.trials import outcome, planner, tune
from pipelines.trials.outcome import RowSeed
from pipelines.trials.trial import Trial

MOST_LOADERS = 8  # of a training worker: each is a process of up to 1 GB
MOST_ACTORS_PER_GPU = 4  # in scoring


@dataclass(frozen=True, kw_only=True)
class Data:
    """The datasets of a sweep and where their faces are."""

    roots: Mapping[str, str]
    is_sample: bool
    videos: Mapping[str, pa.Table]  # VIDEOS by dataset
    extractions: tuple[Extraction, ...]

    @property
    def extracted(self) -> bool:
        return not any(extraction.missing for extraction in self.extractions)

    def faces(self, recipe: Recipe) -> dict[str, Path]:
        """FACES folder by dataset."""
        return {one.dataset: one.folder for one in self.extractions if one.recipe == recipe}

    def name(self, extraction: Extraction) -> str:
        """The dataset's, with the recipe where the sweep's methods cut faces in several ways."""
        several = len({one.recipe for one in self.extractions}) > 1
        recipe = extraction.recipe
        return extraction.dataset + (f", {recipe.margin:g} boxes at {recipe.size_px} px" if several else "")


class Launch:
    def __init__(self, sweep: Sweep, arguments: argparse.Namespace, console: Console) -> None:
        self.sweep, self.arguments, self.console = sweep, arguments, console
        self.config_file = datasets_file(arguments.datasets)
        self.is_sample = self.config_file is None
        self.preset = arguments.preset or ("small" if self.is_sample else "paper")
        changes = {"model.pretrained": False} if arguments.no_pretrained else {}
        num_seeds = arguments.seeds or sweep.seeds[self.preset]
        self.experiments = sweep.experiments(self.preset, num_seeds, changes)

    @cached_property
    def storage(self) -> Path:
        """Made and tried out, unless this is a dry run, which leaves no trace."""
        return storage.check_storage(self.arguments.storage, write=not self.arguments.dry_run)

    def execute(self) -> int:
        """The exit code: 0, or 1 if a row failed. Raises ValueError or OSError for wrong input."""
        roots = self.roots()
        if self.arguments.dry_run or roots is None:
            self.print_plan(None if roots is None else self.data(roots))
            return 0
        data = self.data(roots)
        trials = self.trials(data) if data.extracted else None
        if trials is None or not all(trial.done for trial in trials.values()):
            self.print_plan(data)
            trials = self._work(data)
        return publish(self._outcome(data, trials), self.console)

    @cached_property
    def accumulate(self) -> dict[str, int]:
        """`<paper>.<stage>` -> cuts. Raises ValueError for a stage that the sweep lacks, or that cannot be cut."""
        asked = dict(self.arguments.accumulate or ())
        known = sorted({f"{e.model}.{name}" for e in self.experiments.values() for name in e.config().stages})
        if unknown := sorted(asked.keys() - set(known)):
            raise ValueError(f"--accumulate {', '.join(unknown)}: this sweep trains {', '.join(known)}")
        for name in asked:
            check_accumulates(models.stage(*name.split(".")))
        return asked

    # ------------------------------------------------------------------------------------- data
    def roots(self) -> dict[str, str] | None:
        """None: a dry run that would have to make the sample corpus first."""
        return sources.roots_of(self.config_file, self.storage, self.datasets, self.console, self.arguments.dry_run)

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """Those that the experiments name, in alphabetical order."""
        experiments = self.experiments.values()
        return tuple(sorted({e.train_on for e in experiments}.union(*(e.test_on for e in experiments))))

    def data(self, roots: Mapping[str, str]) -> Data:
        problems, videos = [], {}
        for name in self.datasets:
            try:
                videos[name] = datasets.load(name, roots)
            except datasets.DatasetError as error:
                problems.append(str(error))
        if problems:
            raise datasets.DatasetError("\n\n".join(problems))
        return Data(roots=roots, is_sample=self.is_sample, videos=videos, extractions=self._extractions(videos, roots))

    def _extractions(self, videos: Mapping[str, pa.Table], roots: Mapping[str, str]) -> tuple[Extraction, ...]:
        wanted: dict[tuple[str, Recipe], set[str]] = {}
        for recipe, built in self._protocols(videos):
            for part in (built.train, built.select, *built.test):
                wanted.setdefault((part.dataset, recipe), set()).update(part.video_ids)
        return tuple(
            Extraction(
                dataset=name,
                recipe=recipe,
                folder=faces_folder(self.storage, name, recipe, roots[name] if self.is_sample else None),
                videos=videos[name].filter(pc.is_in(videos[name]["video_id"], pa.array(sorted(ids)))),
            )
            for (name, recipe), ids in wanted.items()
        )

    def _protocols(self, videos: Mapping[str, pa.Table]) -> list[tuple[Recipe, protocol.Protocol]]:
        distinct = {
            (e.recipe(), e.protocol, e.train_on, e.test_on, e.codec, e.manipulations): e
            for e in self.experiments.values()
        }
        return [(key[0], protocol.build(experiment, videos)) for key, experiment in distinct.items()]

    def trials(self, data: Data) -> dict[RowSeed, Trial]:
        plan = {recipe: self.planner(data, recipe) for recipe in {e.recipe() for e in self.experiments.values()}}
        return {key: plan[experiment.recipe()](experiment) for key, experiment in self.experiments.items()}

    def planner(self, data: Data, recipe: Recipe) -> Callable[[Experiment], Trial]:
        """Makes trials of experiments on extracted data; can be sent to another process."""
        faces = data.faces(recipe)
        ledgers = {name: store.ledger(folder) for name, folder in faces.items()}
        return planner.Planner(data.videos, ledgers, faces, self.storage, self.accumulate)

    def _outcome(self, data: Data, trials: Mapping[RowSeed, Trial]) -> outcome.Outcome:
        return outcome.Outcome(
            sweep=self.sweep,
            preset=self.preset,
            config_file=self.config_file,
            storage=self.storage,
            extractions=data.extractions,
            trials=trials,
        )

    # ------------------------------------------------------------------------------------- plan
    def print_plan(self, data: Data | None) -> None:
        """data None: the sample corpus that is not made yet."""
        if data is None:
            made = corpus.summary(names=self.datasets)
            rows = [(name, str(facts["real"] + facts["fake"]), "all") for name, facts in made.items()]
            self._print_sources("made on first use", rows)
            self._print_stages(self._planned(None))
            return
        rows = []
        for one in data.extractions:
            missing = one.missing
            rows.append((data.name(one), str(one.videos.num_rows), str(missing) if missing else "none, all extracted"))
        self._print_sources("sample corpus" if self.is_sample else str(self.config_file), rows)
        self._print_stages(self._planned(data if data.extracted else None))

    def _heading(self, text: str) -> None:
        self.console.print(f"[bold]{text}[/bold]", highlight=False)

    def _print_sources(self, source: str, rows: Sequence[tuple[str, str, str]]) -> None:
        self._heading(self.sweep.title)
        if self.is_sample:
            self.console.print(f"[yellow]{corpus.NOTE}[/yellow]", highlight=False)
        self._heading(f"Videos ({source})")
        table = Table()
        for column in ("dataset", "needed", "to extract"):
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def _planned(self, data: Data | None) -> dict[Path, stages.PlannedStage]:
        """The distinct stages; without extracted data their number is right and none counts as trained."""
        if data:
            planned = [stage for trial in self.trials(data).values() for stage in trial.planned]
        else:
            planned = [
                s
                for e in self.experiments.values()
                for s in stages.plan(e, rows_unseen(e), self.storage, self.accumulate)
            ]
        return {stage.folder: stage for stage in planned}

    def _print_stages(self, planned: Mapping[Path, stages.PlannedStage]) -> None:
        used = sum(len(stages.plan(e, rows_unseen(e), self.storage)) for e in self.experiments.values())
        self._heading(f"Stages ({self.preset} preset, {len(self.experiments)} trials)")
        table = Table()
        for column in ("paper", "stage", "distinct", "to train", "reused", "trained before took"):
            table.add_column(column)
        for paper, name in dict.fromkeys((stage.paper, stage.name) for stage in planned.values()):
            own = [stage for stage in planned.values() if (stage.paper, stage.name) == (paper, name)]
            done = [stage for stage in own if stage.done]
            seconds = [stage.summary()["seconds"] for stage in done]
            mean = f"{sum(seconds) / len(seconds):.0f} s each" if seconds else "–"
            table.add_row(paper, name, str(len(own)), str(len(own) - len(done)), str(len(done)), mean)
        self.console.print(table)
        saved = used - len(planned)
        if saved:
            self.console.print(f"{saved} of {used} stages are shared between rows and trained once", highlight=False)
        if growing := self._grow(planned.values()):
            most = self.arguments.workers[1]
            text = f"With fewer than {most} workers, each takes more GPU memory in {', '.join(growing)}"
            self.console.print(text, highlight=False)
        self.console.print(f"Cost: {self.sweep.cost[self.preset]}", highlight=False)

    def _grow(self, planned: Iterable[stages.PlannedStage]) -> list[str]:
        """The stages whose shares grow when `--workers MIN-MAX` has fewer: see `_sharing.Sharing.cuts`."""
        least, most = self.arguments.workers or (0, 0)
        if least == most:
            return []
        whole = [one for one in planned if models.stage(one.paper, one.name).accumulates != "exactly"]
        return sorted({f"{one.paper}.{one.name}" for one in whole})

    # ------------------------------------------------------------------------------------- work
    def _work(self, data: Data) -> dict[RowSeed, Trial]:
        with cluster.connect(self.arguments.address) as resources:
            compute, concurrent = self.compute(resources, len(self.experiments))
            extract_missing(data.extractions, data.roots, self.console)
            trials = self.trials(data)
            for trial in trials.values():
                planner.check(trial, compute)
            with runs.live(self._outcome(data, trials), self.console) as live:
                self._run_trials(trials, compute, concurrent, live)
        return trials

    def compute(self, resources: cluster.Resources, num_trials: int) -> tuple[job.Compute, int]:
        """What a trial gets, and how many of `num_trials` run at once. Raises ValueError where not even one fits."""
        least, most, gpus = self._asked(resources)
        # Of a range, as many as the cluster has, or can grow to: training begins with fewer and takes in what comes.
        workers = most if most * gpus <= resources.gpus else int(resources.gpus / gpus)
        # Each worker's samples are loaded by at least one actor of one CPU more.
        per_trial = 2 * workers
        if per_trial > resources.cpus:
            raise ValueError(
                f"{workers} workers and their loaders need {per_trial} CPUs, Ray has {resources.cpus}; "
                "choose fewer --workers"
            )
        by_cpu = resources.cpus // max(1, per_trial)
        by_memory = resources.memory_bytes // cluster.TRIAL_BYTES
        by_gpu = int(resources.gpus / (workers * gpus)) if workers * gpus else num_trials
        concurrent = max(1, min(by_cpu, by_memory, by_gpu, num_trials))
        # A GPU waits for one loader; a CPU that trains doesn't, and would rather have the loaders' CPUs.
        spare = resources.cpus // (concurrent * workers) - 1 if workers * gpus else 1
        loaders = max(1, min(MOST_LOADERS, spare))
        # A trial that scores holds no more GPUs than one that trains: another may be waiting to start. Several actors
        # share one of them, since each spends most of its time on decoding.
        sharing = min(MOST_ACTORS_PER_GPU, loaders)
        actors = workers * sharing if gpus else max(1, resources.cpus // concurrent)
        found = job.Compute(
            num_workers=most,
            min_workers=least if least < most else None,
            gpus_per_worker=gpus,
            num_loaders=loaders,
            # One actor would take seconds to start and do what the trial's process can do.
            scoring_actors=actors if workers or actors > 1 else 0,
            gpus_per_actor=gpus / sharing,
            accumulate=self.accumulate,
        )
        return found, concurrent

    def _asked(self, resources: cluster.Resources) -> tuple[int, int, float]:
        """Fewest and most workers of a trial, and the GPUs of each. Raises ValueError for what Ray has not got."""
        default = 0 if self.preset == "small" else 1
        least, most = self.arguments.workers or (default, default)
        gpus = self.arguments.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if most and resources.gpus else 0.0
        if gpus < 0 or least * gpus > resources.gpus:
            raise ValueError(
                f"a trial wants {least} workers with {gpus:g} GPUs each, Ray has {resources.gpus} GPUs; "
                "choose --workers and --gpus-per-worker to fit"
            )
        if least < most and not gpus:
            raise ValueError(
                f"--workers {least}-{most}: a range is for workers with GPUs; without, those of a cluster that has "
                "shrunk would take the CPUs that their own loaders need; choose one number"
            )
        return least, most, gpus

    def _run_trials(
        self,
        trials: Mapping[RowSeed, Trial],
        compute: job.Compute,
        concurrent: int,
        live: runs.Live,
    ) -> None:
        # A trial that was stopped right after its results gets its pictures now.
        todo = {key: trial for key, trial in trials.items() if not (trial.done and explain.made(trial.folder))}
        logged: dict[Path, int] = {}
        with progress.view(self.console, f"Training and scoring: {len(todo)} trials, {concurrent} at once") as view:

            def look() -> None:
                for key, trial in todo.items():
                    if standing := tune.standing(trial):
                        view.update(outcome.name_of(key), *standing)
                    for stage in trial.planned:
                        curve = stage.curve()
                        if len(curve) > logged.get(stage.folder, 0):
                            logged[stage.folder] = len(curve)
                            live.curve(key, stage.name, curve)

            tune.fit(list(todo.values()), compute, concurrent, self.storage / "ray", look)


def rows_unseen(experiment: Experiment) -> dict[str, str]:
    """Stands for the digest of each view before there are faces: other videos to train on, other rows."""
    cut = [f"{name} {value}" for name, value in sorted(experiment.faces_args.items())]
    real = [experiment.train_on, experiment.codec, *cut]
    seen = {view: real if view in REAL_VIEWS else [*real, *experiment.manipulations] for view in VIEWS}
    return {view: f"not extracted yet: {', '.join(names)}" for view, names in seen.items()}
