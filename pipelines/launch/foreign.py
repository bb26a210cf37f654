"""Scores from elsewhere, from the question to the report: which videos they must be of, and what becomes of them.

`uv run crossforge score-file` and `uv run crossforge score-detector` differ only in where the scores come from.
Either a sweep says what is scored (the test parts of one of its rows), or the names of test datasets do.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from pipelines import datasets
from pipelines.common import own_code, provenance
from pipelines.common.storage import check_storage, expanded, read_json
from pipelines.common.text import first, meant
from pipelines.datasets.sample import corpus
from pipelines.experiments import protocol
from pipelines.experiments.experiment import FAILED_RULES, Experiment, Preset
from pipelines.experiments.protocol import Part
from pipelines.experiments.sweep import NO_VALUE, Column, Sweep
from pipelines.faces import sources
from pipelines.faces.recipe import Recipe
from pipelines.launch.options import Options
from pipelines.launch.publish import print_table
from pipelines.launch.request import Request
from pipelines.launch.switches import CODEC
from pipelines.metrics import results
from pipelines.metrics.names import DETECTING
from pipelines.reporting import foreign as rows
from pipelines.reporting.report import Report, gather
from pipelines.reporting.saved import Line, Planned, Saved
from pipelines.scoring.trained import FOREIGN, TRIAL
from pipelines.tracking import foreign as tracking
from pipelines.tracking.client import TrackingError
from pipelines.trials.foreign import ForeignTrial

SHOWN = ("auc", "ap", "eer", "acc_at_0_5")  # columns of the table; RESULTS have all metrics
assert set(SHOWN) <= set(DETECTING)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the switches say that both commands have."""

    name: str  # of the method
    datasets: str | None
    storage: str
    test_on: tuple[str, ...]  # empty: all that the row of the sweep has
    train_on: str  # empty: not known, or the sweep says it
    codec: str
    failed_videos: str
    sweep: str  # file; empty: none
    beside: str  # row of the sweep; empty: its own default
    against: tuple[str, ...]  # beginnings of digests of runs
    preset: Preset | None
    dry_run: bool


def asked(arguments: argparse.Namespace, name: str) -> Asked:
    """Return what the switches say. name: of the method. Raises ValueError for switches that don't fit together."""
    if not name.strip():
        raise ValueError("--name must name the method, such as --name 'My method'")
    if arguments.sweep:
        for switch in ("train_on", "codec", "failed_videos", "against"):
            if getattr(arguments, switch):
                raise ValueError(f"--{switch.replace('_', '-')} is what the sweep says; leave it out with --sweep")
    elif not arguments.test_on:
        raise ValueError("name what is scored: --test-on celeb_df ..., or --sweep sweeps/methods.py")
    elif arguments.beside:
        raise ValueError("--beside names a row of a sweep; add --sweep FILE")
    return Asked(
        name=name.strip(),
        datasets=arguments.datasets,
        storage=arguments.storage,
        test_on=tuple(dict.fromkeys(arguments.test_on)),
        train_on=arguments.train_on,
        codec=arguments.codec or CODEC,
        failed_videos=arguments.failed_videos or FAILED_RULES[0],
        sweep=arguments.sweep,
        beside=arguments.beside,
        against=tuple(arguments.against),
        preset=arguments.preset,
        dry_run=arguments.dry_run,
    )


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The videos that must be scored, and by which rules."""

    asked: Asked
    storage: Path
    config_file: Path | None  # None: the sample corpus
    roots: Mapping[str, str]
    videos: Mapping[str, pa.Table]  # dataset -> VIDEOS, of all tested datasets
    parts: tuple[Part, ...]
    train_on: str  # empty: not known
    failed_rule: str
    recipe: Recipe  # how our methods would cut the faces
    against: Mapping[str, Path]  # label -> folder of a run that the scores are compared with
    sweep: Sweep | None = None
    beside: str = ""  # row of the sweep

    @property
    def is_sample(self) -> bool:
        return self.config_file is None

    @classmethod
    def of(cls, asked: Asked, console: Console) -> "Scope | None":
        """Resolve what is asked; None: a dry run would have to make the sample corpus first.

        Raises ValueError or OSError for unknown datasets, rows and parts, and ProtocolError for what can't be scored.
        """
        sweep = _sweep(asked) if asked.sweep else None
        beside, experiment = "", None
        storage = check_storage(asked.storage, write=not asked.dry_run)
        if sweep:
            beside = asked.beside or (sweep.own_row or sweep.running[0]).label
            options = Options(datasets=asked.datasets, storage=asked.storage, preset=asked.preset, seeds=1)
            request = Request.of(sweep.part([beside], asked.test_on or None), options)
            experiment = request.experiments[beside, 0]
            config_file, names = request.config_file, request.datasets
        else:
            config_file = sources.datasets_file(asked.datasets)
            names = tuple(sorted({name.partition("/")[0] for name in (*asked.test_on, asked.train_on) if name}))
            if asked.train_on:  # of a protocol, the method is of no importance
                experiment = Experiment(
                    model="plain",
                    train_on=asked.train_on,
                    test_on=asked.test_on,
                    codec=asked.codec,
                    failed_videos=asked.failed_videos,
                )
        size = sources.corpus_size(asked.preset)
        roots = sources.roots_of(config_file, storage, names, console, asked.dry_run, size=size)
        if roots is None:
            return None
        videos = {name: datasets.load(name, roots) for name in names}
        if experiment:
            parts = protocol.build(experiment, videos).test
        else:
            parts = tuple(protocol.test_part(name, videos, asked.codec) for name in asked.test_on)
        tested = {part.dataset for part in parts}
        return cls(
            asked=asked,
            storage=storage,
            config_file=config_file,
            roots=roots,
            videos={name: table for name, table in videos.items() if name in tested},
            parts=parts,
            train_on=experiment.train_on if experiment else "",
            failed_rule=experiment.failed_videos if experiment else asked.failed_videos,
            recipe=experiment.recipe() if experiment and sweep else Recipe(),
            against={_label(folder): folder for folder in (_run(storage, begun) for begun in asked.against)},
            sweep=sweep,
            beside=beside,
        )

    def rows(self) -> list[protocol.Row]:
        """Return all rows of VIDEOS of the tested datasets, scored or not."""
        return [row for table in self.videos.values() for row in table.to_pylist()]

    def print_plan(self, console: Console) -> None:
        """Print which videos are to be scored."""
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        if self.is_sample:
            say(corpus.NOTE, style="yellow")
        if self.sweep:
            say(f"Row {self.asked.name!r} of {self.sweep.name}, beside {self.beside!r}")
        for part in self.parts:
            left_out = f", {len(part.excluded)} left out (share a source with training)" if part.excluded else ""
            counts = f"{part.count(0)} real and {part.count(1)} fake videos"
            say(f"{part.name}, {part.split}, {part.codec}: {counts} to be scored{left_out}")


def _sweep(asked: Asked) -> Sweep:
    sweep = own_code.load(expanded(asked.sweep), "SWEEP")
    if not isinstance(sweep, Sweep):
        raise ValueError(f"{asked.sweep}: SWEEP must be a Sweep, got {type(sweep).__name__}")
    labels = [row.label for row in sweep.running]
    if asked.beside and asked.beside not in labels:
        guess = meant(asked.beside, labels, f"{sweep.name} runs {', '.join(map(repr, labels))}")
        raise ValueError(f"--beside {asked.beside}: {guess}")
    if asked.name in [row.label for row in sweep.rows]:
        raise ValueError(f"--name {asked.name}: {sweep.name} has a row of that name; choose another")
    return sweep


# ------------------------------------------------------------------------------------------------------------- the end
def publish(scope: Scope, trial: ForeignTrial, note: str, console: Console) -> int:
    """Write the run and its report, register the row, log to MLflow, and print all; return the exit code.

    note: where the scores come from, in a few words. 0, or 1 if MLflow could not be reached.
    """
    trial.write()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    saved = table(scope, trial, note)
    made = Report.of(saved, gather(saved, scope.storage, again=False))
    folder = scope.storage / "reports" / f"{saved.name}-{trial.digest}"
    paths = made.write(folder)
    print_table(saved.title, saved.row_name, made.cells, made.lines, console)
    for line in warnings(trial):
        say(line, style="yellow")
    say(f"Run: {trial.folder}")
    say(f"Report: {folder}")
    if scope.sweep:
        say(f"Row of {scope.sweep.name}: {register(scope, trial, note)} (delete it to take the row out)")
        say(f"  uv run python {scope.asked.sweep}, or uv run crossforge report {scope.sweep.name}, shows it")
    try:
        where = tracking.log(trial, scope.sweep.name if scope.sweep else "", paths)
    except TrackingError as error:
        say(f"NOT LOGGED  {error}", style="red")
        say("The results are kept in the storage; the same command logs them as soon as MLflow can be reached.")
        return 1
    say(where)
    return 0


def register(scope: Scope, trial: ForeignTrial, note: str) -> Path:
    """Make a run a row of the sweep's table from now on; return the file that says so. note: as in `publish`."""
    assert scope.sweep
    beside = next(row for row in scope.sweep.running if row.label == scope.beside)
    row = rows.Registered(
        label=trial.name,
        run=trial.digest,
        baseline=scope.sweep.baseline_of(beside),
        note=note,
        is_sample=trial.is_sample,
        parts=trial.citations,
        failed_rule=trial.failed_rule,
        version=results.VERSION,
    )
    return rows.register(row, scope.sweep.name, scope.storage)


def warnings(trial: ForeignTrial) -> list[str]:
    """Return what makes numbers look wrong, a line each."""
    lines = []
    for row in trial.results().to_pylist():
        if (row["level"], row["metric"]) == ("video", "auc") and row["high"] < 0.5:
            text = "below 0.5 by more than chance: does a high score mean real? Then say --higher-is real"
            lines.append(f"{row['test_dataset']}: AUC {row['value']:.3f}, {text}")
    return lines


def table(scope: Scope, trial: ForeignTrial, note: str) -> Saved:
    """Return the table of the run by itself, and of those that it is compared with."""
    own = f"{trial.name} {rows.MARK}"
    runs = {label: folder.name for label, folder in scope.against.items()} | {own: trial.digest}
    baseline = next(iter(runs))
    columns = [
        Column.of(" ".join(filter(None, (part.name, metric if metric != "auc" else ""))), level, "auc")
        for level in reversed(trial.levels)
        for part in trial.parts
        for metric in (SHOWN if level == "video" else ("auc",))
    ]
    facts = {
        "data": f"own datasets, {scope.config_file.name}" if scope.config_file else corpus.NOTE,
        "parts": "; ".join(trial.citations),
        "trained on": trial.train_on or "not known, so that no test video is left out",
        "videos without a score": trial.failed_rule,
        "commit": provenance.commit(),
    }
    several = len({column.level for column in columns}) > 1
    columns = [Column(**{**vars(c), "name": f"{c.name} ({c.level})"}) for c in columns] if several else columns
    nothing = (NO_VALUE,) * len(columns)
    return Saved(
        name=f"scores_{re.sub(r'[^a-z0-9]+', '_', trial.name.lower()).strip('_') or 'unnamed'}",
        title=f"{trial.name}: scores from elsewhere",
        row_name="method",
        is_sample=trial.is_sample,
        columns=tuple(columns),
        rows=tuple(
            Line(
                label=label,
                published=nothing,
                baseline=baseline if len(runs) > 1 else "",
                note=f"scores from elsewhere: {note}" if run == trial.digest else "",
            )
            for label, run in runs.items()
        ),
        trials=tuple(Planned(row=label, seed=0, run=run) for label, run in runs.items()),
        facts=facts,
    )


def _run(storage: Path, begun: str) -> Path:
    """Return the folder of the run whose digest begins so. Raises ValueError where there is none, or several."""
    known = sorted(path.parent for path in storage.glob("runs/*/_done.json"))
    named = [path for path in known if begun and path.name.startswith(begun)]
    if len(named) != 1:
        choice = first([f"{path.name} ({_label(path)})" for path in named or known], 10) or "none"
        raise ValueError(f"--against {begun} begins {len(named)} digests of runs in {storage / 'runs'}: {choice}")
    return named[0]


def _label(folder: Path) -> str:
    """Return what a run is called beside another."""
    told = read_json(folder / TRIAL)
    if FOREIGN in told:
        return f"{told[FOREIGN]['name']} {rows.MARK} [{folder.name[:6]}]"
    experiment = told["experiment"]
    return f"{experiment['model']} on {experiment['train_on']}, seed {experiment['seed']} [{folder.name[:6]}]"
