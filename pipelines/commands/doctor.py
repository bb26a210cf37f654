"""Examine datasets: what each check found, over all of them too, as a table and as CSV."""

import argparse
import csv
import importlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines import datasets
from pipelines.common import progress
from pipelines.common.bucket import BucketPath
from pipelines.common.storage import check_storage, write_text
from pipelines.common.text import counted, meant, printable
from pipelines.datasets import _checks
from pipelines.datasets._checks import ERROR, OK, WARNING, File, Finding, Row
from pipelines.datasets._lists import PublishedList
from pipelines.datasets.sample import corpus
from pipelines.faces.files import locate
from pipelines.faces.sources import datasets_file, roots_of
from pipelines.media import probe, stills

ALL = "all datasets"
STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How thoroughly to look, and for which extraction."""

    decode: bool = False
    hash: bool = False
    jobs: int = 1
    num_frames: int = 32
    size_px: int = 224


def examine(
    names: Sequence[str],
    roots: Mapping[str, str],
    storage: Path,
    options: Options,
    console: Console,
    *,
    is_sample: bool = False,
) -> dict[str, list[Finding]]:
    """Return what the checks of each dataset came to; what concerns all of them is under `ALL`."""
    findings: dict[str, list[Finding]] = {}
    rows: dict[str, list[Row]] = {}
    published: dict[str, list[PublishedList]] = {}
    notes: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        try:
            videos = datasets.load(name, roots, say=notes[name].append)
            rows[name], published[name] = videos.to_pylist(), datasets.lists(name, roots)
        except datasets.DatasetError as error:
            todo = "correct the folder or the line in datasets.toml"
            findings[name] = [Finding(check="layout", result=ERROR, text=str(error), todo=todo)]
    every = [row for own in rows.values() for row in own]
    missing, unreadable = _look_at_files(every, roots, options, console)
    for name, own in rows.items():
        noted = tuple(_checks.Problem(text=note) for note in notes[name])
        of_layout = Finding(check="layout", result=OK, text="as expected", problems=noted)
        findings[name] = [of_layout, *_of_dataset(name, own, missing, unreadable, is_sample, published[name])]
    findings[ALL] = [_space(every, storage, options)]
    if options.hash:
        findings[ALL].append(_duplicates(every, roots, missing, options, console))
    return {name: findings[name] for name in (*names, ALL)}


def _of_dataset(
    name: str,
    rows: list[Row],
    missing: Mapping[File, str],
    unreadable: Mapping[File, str],
    is_sample: bool,
    published: Sequence[PublishedList] = (),
) -> list[Finding]:
    bad = {**missing, **unreadable}
    absent = "finish the download: a video that is not there counts as failed, and is scored or left out by rule"
    broken = "fetch these files again; what stays unreadable counts as failed, and is scored or left out by rule"
    return [
        _checks.counts(rows, {} if is_sample else _published(name), missing),
        _checks.lists(
            rows,
            [replace(each, as_published=None, num_published=None) for each in published] if is_sample else published,
            missing,
        ),
        _checks.classes(rows, bad),
        _checks.identities(name, rows),
        _checks.counterparts(rows, bad),
        _checks.lost("missing files", rows, missing, absent),
        _checks.lost("unreadable files", rows, unreadable, broken),
    ]


def _look_at_files(
    rows: Iterable[Row], roots: Mapping[str, str], options: Options, console: Console
) -> tuple[dict[File, str], dict[File, str]]:
    """Return what is wrong with each file that is missing, and with each that cannot be read."""
    columns = ("uri", "real_uri", "mask_uri")
    files = {_checks.file_of(row, column) for row in rows for column in columns if row[column] is not None}
    paths = {file: locate(roots, *file) for file in sorted(files)}
    sizes = probe.sizes(paths.values())
    there = [path for path, size in sizes.items() if size is not None]
    how = "every frame" if options.decode else "headers"
    with progress.view(console, f"Reading {how} of {len(there)} files") as view:
        problems = probe.problems(
            there,
            look=probe.EVERY_FRAME if options.decode else probe.HEADER,
            timeout_s=probe.DECODE_S if options.decode else probe.HEADER_S,
            jobs=options.jobs,
            on_done=lambda done, total: view.update("files", f"{done} of {total}", done, total),
        )
    missing = {file: "is not there" for file, path in paths.items() if sizes[path] is None}
    return missing, {file: problems[path] for file, path in paths.items() if path in problems}


def _duplicates(
    rows: Sequence[Row], roots: Mapping[str, str], missing: Mapping[File, str], options: Options, console: Console
) -> Finding:
    """Find videos of the same content. Only files of equal size are read; folders of pictures are not compared."""
    files = {_checks.file_of(row): locate(roots, *_checks.file_of(row)) for row in rows}
    sizes = probe.sizes(path for file, path in files.items() if file not in missing)
    by_size: dict[int, set[str]] = {}
    for path, size in sizes.items():
        if size is not None and size > 0:
            by_size.setdefault(size, set()).add(path)
    alike = sorted(path for paths in by_size.values() if len(paths) > 1 for path in paths)
    with progress.view(console, f"Comparing {len(alike)} files of equal size") as view:
        digests = probe.digests(
            alike,
            jobs=options.jobs,
            on_done=lambda done, total: view.update("files", f"{done} of {total}", done, total),
        )
    finding = _checks.duplicates(rows, {file: digests.get(path) or path for file, path in files.items()})
    num_pictures = sum(size == probe.NOT_A_FILE for size in sizes.values())
    left_out = f"; {num_pictures} videos given as pictures were not compared" if num_pictures else ""
    return replace(finding, text=finding.text + left_out)


def _space(rows: Sequence[Row], storage: Path, options: Options) -> Finding:
    """Hold the room on the disk against what the faces will take: of several compressions, those of the largest."""
    codecs = {row["codec"] for row in rows} - {"unknown"} or {"unknown"}
    most = max(([row for row in rows if row["codec"] in (codec, "unknown")] for codec in codecs), key=len)
    num_pictures = sum(stills.is_picture(row["uri"]) for row in most)
    free = None
    if not isinstance(storage, BucketPath):
        place = next(folder for folder in (storage.absolute(), *storage.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(place).free
    return _checks.space(len(most) - num_pictures, num_pictures, options.num_frames, options.size_px, free)


def _published(name: str) -> Mapping[tuple[str, str], int]:
    if name not in datasets.names():
        return {}  # one's own videos
    return getattr(importlib.import_module(f"pipelines.datasets.{name}"), "PUBLISHED", {})


# ----------------------------------------------------------------------------------------- output
def show(findings: Mapping[str, Sequence[Finding]], console: Console) -> None:
    """Print a line for each dataset, and below it a table of what is wrong; of many problems the first five are named.

    A text of several lines, such as the folders that are expected, stands below the table in its own lines, since a
    cell would break them. It says itself what to do.

    The line of a dataset without fault says how many videos it has, that of all together how much room there is. What
    was noted without being a fault follows it.
    """
    for name, own in findings.items():
        wrong = [finding for finding in own if finding.result != OK]
        counts = Counter(finding.result for finding in own)
        told = [finding.text for finding in own if finding.check in ("counts", "space") and not wrong]
        told += [counted(counts[result], result) for result in (ERROR, WARNING) if counts[result]]
        told += [f"{counts[OK]} of {counted(len(own), 'check')} ok"] if wrong else []
        worst = next((result for result in (ERROR, WARNING) if counts[result]), OK)
        line = Text.assemble(printable(name), ": ", (worst, STYLES[worst]), "; ", "; ".join(told))
        console.print(line, highlight=False, soft_wrap=True)
        for note in (problem.text for finding in own if finding.result == OK for problem in finding.problems):
            console.print(Text(f"    {printable(note)}"), highlight=False, soft_wrap=True)
        table = Table(show_lines=True, expand=True)
        for column, ratio in (("check", None), ("result", None), ("found", 3), ("what to do", 2)):
            table.add_column(column, ratio=ratio, overflow="fold")
        long = [finding.text for finding in wrong if "\n" in finding.text]
        for finding in wrong:
            if finding.text not in long:
                result = Text(finding.result, STYLES[finding.result])
                table.add_row(finding.check, result, Text(printable(finding.text)), Text(printable(finding.todo)))
        if table.row_count:
            console.print(table)
        for told_line in "\n".join(long).splitlines():
            console.print(Text(f"    {printable(told_line)}"), highlight=False, soft_wrap=True)


def to_csv(findings: Mapping[str, Sequence[Finding]]) -> str:
    """Return every problem as a line of CSV; checks that found nothing have none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["dataset", "check", "result", "video_id", "uri", "problem", "what_to_do"])
    for name, own in findings.items():
        for finding in own:
            whole = [] if finding.result == OK else [_checks.Problem(text=finding.text)]
            for problem in finding.problems or whole:
                texts = (problem.video_id, problem.uri, problem.text, finding.todo)
                writer.writerow([name, finding.check, finding.result, *map(printable, texts)])
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------- all of it
def examine_and_show(arguments: argparse.Namespace, console: Console) -> int:
    """Return the exit code, 0 or 1. Raises ValueError or OSError for wrong input."""
    config = datasets_file(arguments.datasets)
    storage = check_storage(arguments.storage, write=config is None)
    if config is None:
        console.print(corpus.NOTE, style="yellow", highlight=False, markup=False)
    roots = roots_of(config, storage, arguments.names or corpus.NAMES, console, dry_run=False) or {}
    if unknown := sorted(set(arguments.names) - roots.keys()):
        guess = meant(unknown[0], roots, f"known are {', '.join(sorted(roots)) or 'none'}")
        raise ValueError(f"no root is known for {', '.join(unknown)}; {guess}")
    options = Options(
        decode=arguments.decode,
        hash=arguments.hash,
        jobs=arguments.jobs,
        num_frames=arguments.frames,
        size_px=arguments.size,
    )
    names = list(dict.fromkeys(arguments.names)) or sorted(roots)
    findings = examine(names, roots, storage, options, console, is_sample=config is None)
    show(findings, console)
    if arguments.report:
        write_text(arguments.report, to_csv(findings))
        console.print(f"Every problem: {arguments.report}", highlight=False, markup=False, soft_wrap=True)
    results = [finding.result for own in findings.values() for finding in own]
    numbers = [counted(results.count(result), result) for result in (ERROR, WARNING)]
    console.print(", ".join(numbers), highlight=False)
    return 1 if ERROR in results else 0
