"""Videos -> faces, as the papers cut them, before any sweep needs them.

    uv run crossforge preprocess [DATASET ...] [--methods lre delocate] [--splits train val test] [--codec c23]

A sweep extracts what it needs by itself; this command does it ahead, for instance over night on CPU machines.
Each method's crop is a recipe of its own; a video is decoded once for all of them. Without `--datasets` the
made-up sample corpus is used. The same command again continues, and does nothing when all is there.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

import models
from pipelines.common import cluster, command, tables
from pipelines.common.storage import DEFAULT_STORAGE, check_storage
from pipelines.experiments.experiment import PRESETS
from pipelines.faces.store import ExtractionError
from pipelines.launch import switches

PROG = "python -m pipelines.preprocess"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("dataset", nargs="*", metavar="DATASET", help="which datasets (default: all in datasets.toml)")
    p.add_argument("--methods", nargs="+", choices=models.names(), default=list(models.names()), metavar="METHOD")
    p.add_argument("--preset", choices=PRESETS, help="whose crops (default: paper; small on the sample corpus)")
    settings = "name=value, e.g. num_frames=64 margin=1.5 detector=retinaface; a folder of its own"
    p.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"change the recipes: {settings}")
    p.add_argument("--splits", nargs="+", choices=tables.SPLITS, default=list(tables.SPLITS))
    p.add_argument("--codec", nargs="+", default=["c23"], help="of datasets in several compressions (default: c23)")
    p.add_argument("--datasets", metavar="FILE", help="datasets.toml (default: as for the sweeps)")
    p.add_argument(
        "--storage", metavar="DIR", default=DEFAULT_STORAGE, help="as for the sweeps (default: ./%(default)s)"
    )
    p.add_argument("--predictor", metavar="FILE", type=command.path, help="a dlib landmark predictor of your own")
    p.add_argument("--retry-failed", action="store_true", help="read unreadable and crashed videos again")
    p.add_argument(
        "--same-files",
        action="store_true",
        help="extract nothing, but take files of the same size for those that the storage's faces were cut from, by "
        "whatever recipe: the videos were copied without their times",
    )
    switches.add_address(p)
    p.add_argument("--dry-run", action="store_true", help="print what would be extracted and stop")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code: 0 all videos accounted for, 2 the input was wrong, 130 interrupted."""
    arguments = parser(prog).parse_args(argv)
    cluster.prepare_environment(arguments.address)

    def work(console: Console) -> int:
        command.check_there(filter(None, [arguments.predictor]))
        check_storage(arguments.storage, write=False)
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import preprocess

        return preprocess.execute(arguments, console)

    return command.main(work, errors=(ExtractionError,), stopped="stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
