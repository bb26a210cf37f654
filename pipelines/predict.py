"""Scores of one's own videos by a trained trial: uv run crossforge predict VIDEO ... --method METHOD (or --run TRIAL)

Faces are cut and scored exactly as for the trial's test datasets; a score is P(fake). Only the masks that LRE draws
are others: by the file's content. A VIDEO is a video file, a picture, or a folder with videos and pictures at any
depth, in which numbered pictures are the frames of a video; what is left out of a folder is listed.
Exit code: 0, 1 if a video has no score, 2 for wrong input.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

import models
from pipelines.common import cluster, command
from pipelines.common.storage import DEFAULT_STORAGE, check_storage
from pipelines.faces.store import ExtractionError

PROG = "python -m pipelines.predict"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("videos", nargs="+", metavar="VIDEO", help="a file, or a folder with videos or pictures")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--run",
        metavar="TRIAL",
        help="folder of a trial or stage, the beginning of a trial's digest, the id of a trial's MLflow run, or an "
        "MLflow model such as models:/crossforge-mask_ratio/1 (of $MLFLOW_TRACKING_URI, or the storage's database)",
    )
    which.add_argument("--method", choices=models.names(), metavar="METHOD", help="its best trial, by validation AUC")
    p.add_argument("--storage", metavar="DIR", default=DEFAULT_STORAGE, help="of the sweeps (default: ./%(default)s)")
    p.add_argument("--json", metavar="FILE", type=command.path, help="write every face's scores there")
    p.add_argument("--picture", metavar="DIR", type=command.path, help="write a picture for each video there")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser(prog).parse_args(argv)
    cluster.prepare_environment(None)

    def work(console: Console) -> int:
        command.check_there(arguments.videos)
        check_storage(arguments.storage, write=False)
        console.print("Loading what reads and scores videos", style="dim", highlight=False)
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import predict

        return predict.execute(arguments, console)

    return command.main(work, errors=(ExtractionError,), stopped="stopped; nothing is kept")


if __name__ == "__main__":
    sys.exit(main())
