"""Extract faces ahead of the sweeps: plan, print, do it, say what became of the videos."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from pipelines import datasets
from pipelines.common import cluster
from pipelines.common.storage import check_storage
from pipelines.common.text import counted
from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import Experiment, Preset
from pipelines.faces.plan import Extraction, existing, extract_missing, faces_folder, notes
from pipelines.faces.recipe import Recipe, changed
from pipelines.faces.sources import corpus_size, datasets_file, roots_of
from pipelines.reporting.coverage import write_by_recipe
from pipelines.reporting.leaks import leak_texts


def plan(arguments: argparse.Namespace, roots: Mapping[str, str], storage: Path, is_sample: bool) -> list[Extraction]:
    """Return an extraction for each dataset and distinct recipe.

    A dataset without videos of these splits and codecs is left out. Raises ValueError where it was named, or where all
    are left out.
    """
    preset: Preset = arguments.preset or ("small" if is_sample else "paper")
    names = arguments.dataset or sorted(roots)
    methods_of: dict[Recipe, list[str]] = {}
    for method in arguments.methods:
        experiment = Experiment(model=method, train_on="ffpp", test_on=(), preset=preset)
        methods_of.setdefault(changed(experiment.recipe(), arguments.set), []).append(method)
    extractions = []
    for name in names:
        videos = datasets.load(name, roots)
        kept = pc.and_(
            pc.is_in(videos["split"], pa.array(arguments.splits)),
            pc.is_in(videos["codec"], pa.array([*arguments.codec, "unknown"])),
        )
        videos = videos.filter(kept)
        if not videos.num_rows:
            if arguments.dataset:
                raise ValueError(f"{name} has no videos in {arguments.splits} and {arguments.codec}")
            continue
        for recipe, methods in methods_of.items():
            folder = faces_folder(storage, name, recipe, roots[name] if is_sample else None)
            extractions.append(
                Extraction(
                    dataset=name, recipe=recipe, folder=folder, videos=videos, roots=roots, methods=tuple(methods)
                )
            )
    if not extractions:
        raise ValueError(f"{', '.join(names)} have no videos in {arguments.splits} and {arguments.codec}")
    return extractions


def _print_plan(extractions: Sequence[Extraction], console: Console) -> None:
    table = Table(title="Faces to extract", title_justify="left")
    for column in ("dataset", "for", "frames", "crop", "videos", "to extract", "about"):
        table.add_column(column, justify="left" if column in ("dataset", "for", "crop") else "right")
    for extraction in extractions:
        recipe = extraction.recipe
        table.add_row(
            extraction.dataset,
            ", ".join(extraction.methods),
            str(recipe.num_frames),
            f"{recipe.margin:g} boxes at {recipe.size_px} px",
            str(extraction.videos.num_rows),
            str(extraction.num_missing),
            f"{extraction.bytes_needed / 1e9:.2f} GB" if extraction.num_missing else "–",
        )
    console.print(table)
    for note in notes(extractions):
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _report(extractions: Sequence[Extraction], storage: Path, console: Console) -> None:
    """Write what became of every video, and print it in short with the folders of the faces."""
    for leak in leak_texts(extractions):
        console.print(f"LEAK {leak}", style="bold red", highlight=False, markup=False)
    paths = write_by_recipe(storage / "reports" / "coverage", extractions)
    for name in dict.fromkeys(extraction.dataset for extraction in extractions):
        own = [extraction for extraction in extractions if extraction.dataset == name]
        statuses = Counter(entry["status"] for entry in own[0].ledger.values())
        text = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        console.print(f"{name}: {text}", highlight=False)
        for extraction in own:
            text = f"  {', '.join(extraction.methods)}: {extraction.folder}"
            console.print(text, highlight=False, soft_wrap=True)
    for path in paths:
        if path.suffix == ".md":
            console.print(f"Report: {path}", highlight=False, soft_wrap=True)


def _accept_copies(
    arguments: argparse.Namespace,
    roots: Mapping[str, str],
    storage: Path,
    is_sample: bool,
    say: Callable[..., None],
) -> None:
    """Take files of the same size for those of before, for all faces of the datasets that the storage has."""
    for name in arguments.dataset or sorted(roots):
        of_dataset = existing(storage, name, datasets.load(name, roots), roots, roots[name] if is_sample else None)
        for extraction in of_dataset:
            if touched := extraction.standing.touched:
                if not arguments.dry_run:
                    extraction.accept_touched()
                taken = "would be taken" if arguments.dry_run else "taken"
                say(f"{extraction.folder}: {counted(touched, 'video')} {taken} for the files of before")
        if not any(extraction.standing.changed for extraction in of_dataset):
            say(f"{name}: {counted(len(of_dataset), 'extraction')}, nothing to extract again")


def execute(arguments: argparse.Namespace, console: Console) -> int:
    """Extract what is missing; return the exit code. Raises ValueError, OSError or ExtractionError."""
    config_file = datasets_file(arguments.datasets)
    storage = check_storage(arguments.storage, write=not arguments.dry_run)
    names = arguments.dataset or corpus.NAMES
    roots = roots_of(config_file, storage, names, console, arguments.dry_run, size=corpus_size(arguments.preset))
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"Storage: {storage}")
    if config_file is None:
        say(corpus.NOTE, style="yellow")
    if arguments.dry_run and arguments.address is not None:
        say(f"The cluster at {arguments.address} was not asked: a dry run connects to none")
    if roots is None:
        say("What is missing of the corpus is made on first use")
        with corpus.outlined(storage, size=corpus_size(arguments.preset), names=names) as outline:
            _print_plan(plan(arguments, outline, storage, is_sample=True), console)
        return 0
    if arguments.same_files:
        _accept_copies(arguments, roots, storage, config_file is None, say)
        return 0
    extractions = plan(arguments, roots, storage, is_sample=config_file is None)
    _print_plan(extractions, console)
    if arguments.dry_run:
        return 0
    if any(each.is_due(arguments.retry_failed) for each in extractions):
        with cluster.connect(arguments.address):
            extract_missing(extractions, roots, console, arguments.predictor, arguments.retry_failed)
    _report(extractions, storage, console)
    return 0
