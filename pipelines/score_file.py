"""Scores of any method, made elsewhere, in our tables: uv run crossforge score-file SCORES --name METHOD ...

    uv run crossforge score-file scores.csv --name "My method" --test-on celeb_df --train-on ffpp
    uv run crossforge score-file scores.csv --name "My method" --sweep sweeps/methods.py

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
from typing import get_args

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import check_storage
from pipelines.launch import switches
from pipelines.scoring.from_file import Scale, Side

PROG = "python -m pipelines.score_file"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("scores", metavar="SCORES", type=command.path, help="the file: .csv or .parquet")
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
    switches.add_foreign(p)
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        command.check_there(filter(None, [arguments.scores, arguments.sweep]))
        check_storage(arguments.storage, write=False)
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import score_file

        return score_file.execute(arguments, console)

    return command.main(work)


if __name__ == "__main__":
    sys.exit(main())
