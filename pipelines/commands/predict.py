"""Score videos of one's own by a trained trial, print and write what came out."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.common.storage import check_storage, write_bytes, write_json
from pipelines.common.text import printable
from pipelines.reporting import evidence
from pipelines.scoring import inputs
from pipelines.scoring.predict import Scored, as_json, predict
from pipelines.scoring.trained import Trained, best, told_done
from pipelines.tracking import lookup

_NAME_BYTES = 80  # of a video's name, in that of its picture


# -------------------------------------------------------------------------------------------- output
def table_of(scored: Sequence[Scored]) -> Table:
    """Return the table that is printed: a line for each video."""
    table = Table()
    table.add_column("video", overflow="fold")
    for name in ("P(fake)", "faces", "frames", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for video in scored:
        score = "–" if video.score is None else f"{video.score:.4f}"
        remark = video.reason if video.status == "ok" else ": ".join(filter(None, [video.status, video.reason]))
        counts = (str(video.num_faces), str(video.num_frames), f"{video.seconds:.1f}")
        table.add_row(Text(printable(str(video.path))), score, *counts, Text(printable(remark)))
    return table


def write_pictures(trained: Trained, scored: Sequence[Scored], folder: Path) -> list[Path]:
    """Write a PNG for each video that has a score; return their paths."""
    paths = []
    for video in scored:
        if video.score is not None:
            stem = "".join(c if c.isprintable() else "_" for c in video.path.stem)
            stem = stem.encode()[:_NAME_BYTES].decode(errors="ignore")
            name = f"{stem}-{sha256(os.fsencode(video.path.absolute())).hexdigest()[:8]}.png"
            title = f"{printable(video.path.name)}: P(fake) = {video.score:.3f}"
            by = f"{trained.experiment.model}, trained on {trained.experiment.train_on}, run {trained.folder.name}"
            data = evidence.picture(title, by, video.score, video.faces, "\n".join(trained.warnings))
            write_bytes(folder / name, data)
            paths.append(folder / name)
    return paths


def execute(arguments: argparse.Namespace, console: Console) -> int:
    """Score, print and write; return the exit code, 0 or 1. Raises ValueError or OSError for wrong input."""
    storage = check_storage(arguments.storage, write=False)
    named, method = arguments.run, arguments.method
    if not (named or method):
        raise ValueError(f"say what scores, --method METHOD or --run TRIAL; {told_done(storage)}")
    given = inputs.find(arguments.videos)
    for folder in (arguments.json and arguments.json.parent, arguments.picture):
        if folder:  # what can't be written is said before the work, not after it
            folder.mkdir(parents=True, exist_ok=True)
    trained, why = best(method, storage) if method else (lookup.by_name(named, storage), "")
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    used = " + ".join(planned.name for planned in trained.planned)
    say(f"Run {trained.folder.name}: {trained.experiment.model} ({used}), trained on {trained.experiment.train_on}")
    if settings := ", ".join(f"{name} {value}" for name, value in trained.experiment.model_args.items()):
        say(f"Settings: {printable(settings)}")
    if why:
        say(f"Chosen: {why}")
    for warning in trained.warnings:
        say(warning, style="yellow")
    for remark in given.remarks():
        say(remark)
    scored = predict(trained, given.videos, console, pictures=arguments.picture is not None)
    console.print(table_of(scored))
    if arguments.json:
        write_json(arguments.json, as_json(trained, scored, given.left_out))
        say(f"Scores: {arguments.json}")
    if arguments.picture:
        written = write_pictures(trained, scored, arguments.picture)
        say(f"Pictures: {len(written)} in {arguments.picture}")
    for warning in trained.warnings:
        say(warning, style="yellow")  # again: the table may be the only thing that is looked at
    return 0 if all(video.score is not None for video in scored) else 1
