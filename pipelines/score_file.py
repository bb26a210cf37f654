"""Scores of any method, made elsewhere, in our tables: python -m pipelines.score_file SCORES --name METHOD ...

    python -m pipelines.score_file scores.csv --name "My method" --test-on celeb_df --train-on ffpp
    python -m pipelines.score_file scores.csv --name "My method" --sweep sweeps/methods.py

SCORES is a .csv or .parquet file with a line for each video, or for each frame of a video:
    video_id     as our tables have it, e.g. celeb_df/Celeb-real/id0_0000; or
    path         of the video: the end of its path in the dataset is enough, with or without the file's extension
    frame_index  if it has scores of frames: 0, 1, ... A video's score is the mean over its frames
    score        a number; --score-is and --higher-is say what it means

The videos are those of a test part. A line that names none of them, or one that has a line already, stops the command:
it says which lines, and what is probably wrong. A video without a line counts as one that failed. Out come the same
numbers, intervals, tests, report and MLflow run as for our methods.
Exit code: 0, 1 if MLflow can't be reached, 2 for wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console

from pipelines.common import command
from pipelines.common.text import first
from pipelines.launch import foreign
from pipelines.launch.foreign import Scope
from pipelines.scoring import from_file
from pipelines.scoring.from_file import Joined, Meaning, Scale, ScoreFile, Side
from pipelines.trials.foreign import ForeignTrial, of_file, usable

ABSENT = "not in the file"  # why a video has no score


def parser() -> argparse.ArgumentParser:
    p = command.parser("python -m pipelines.score_file", __doc__)
    p.add_argument("scores", metavar="SCORES", type=Path, help="the file: .csv or .parquet")
    p.add_argument("--name", required=True, metavar="METHOD", help="what the method is called in tables")
    p.add_argument("--score-column", metavar="NAME", default="score", help="of the scores (default: %(default)s)")
    p.add_argument(
        "--score-is",
        choices=get_args(Scale),
        default="probability",
        help="probability: in [0, 1]; logit: log odds, 0 between real and fake (default: %(default)s)",
    )
    p.add_argument(
        "--higher-is",
        choices=get_args(Side),
        default="fake",
        help="what a high score means (default: %(default)s)",
    )
    p.add_argument(
        "--ignore-others",
        action="store_true",
        help="leave out lines of other videos of the datasets (split, compression, manipulation), else an error",
    )
    foreign.add_switches(p)
    return p


def scored(arguments: argparse.Namespace, console: Console) -> tuple[Scope, ForeignTrial, str] | None:
    """Return what is asked, the scores as a trial, and where they come from; None in a dry run, after the checks.

    Nothing is written. Raises ValueError or OSError for wrong input.
    """
    asked = foreign.asked(arguments, arguments.name)
    meaning = Meaning(score_is=arguments.score_is, higher_is=arguments.higher_is)
    file = from_file.read(arguments.scores, arguments.score_column, meaning)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    unit = "frames" if file.by_frame else "videos"
    say(f"{file.path.name}: {len(file.lines)} scores of {unit}, named by {file.named_by}; {meaning}")
    scope = Scope.of(asked, console)
    if scope is None:
        say("The sample corpus would be made first; run without --dry-run, or name --datasets")
        return None
    wanted = {video_id for part in scope.parts for video_id in part.video_ids}
    idle = {video_id for part in scope.parts for video_id in part.excluded} - wanted
    joined = from_file.join(file, scope.rows(), wanted, idle=idle, others=arguments.ignore_others)
    scope.print_plan(console)
    say(f"{len(joined.scores)} videos have scores; {joined.num_left_out} lines are left out")
    if joined.absent:
        say(f"{len(joined.absent)} videos are {ABSENT}, e.g. {first(joined.absent, 3)}", style="yellow")
    trial = trial_of(scope, file, joined, meaning)
    note = f"{file.path.name}, {unit} ({meaning}), sha256 {file.sha256[:12]}"
    return None if asked.dry_run else (scope, trial, note)


def trial_of(scope: Scope, file: ScoreFile, joined: Joined, meaning: Meaning) -> ForeignTrial:
    """Return the scores as a trial. Raises ValueError for a part of which the file has no video."""
    tables = {part.name: of_file(part, joined.scores, meaning) for part in scope.parts}
    if empty := [name for name, table in tables.items() if not table.num_rows]:
        raise ValueError(f"{file.path} has no video of {', '.join(empty)}; leave the part out, or add its scores")
    return ForeignTrial(
        name=scope.asked.name,
        source={
            "kind": "file",
            "file": file.path.name,
            "sha256": file.sha256,
            "score_is": meaning.score_is,
            "higher_is": meaning.higher_is,
            "scores_of": "frames" if file.by_frame else "videos",
        },
        train_on=scope.train_on,
        failed_rule=scope.failed_rule,
        levels=("frame", "video") if file.by_frame else ("video",),
        is_sample=scope.is_sample,
        parts=tuple(usable(part, tables[part.name], {}, ABSENT) for part in scope.parts),
        predictions=tables,
        storage=scope.storage,
    )


def execute(arguments: argparse.Namespace, console: Console) -> int:
    """Read, check, write, print; return the exit code. Raises ValueError or OSError for wrong input."""
    made = scored(arguments, console)
    return foreign.publish(*made, console) if made else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser().parse_args(argv)
    return command.main(partial(execute, arguments))


if __name__ == "__main__":
    sys.exit(main())
