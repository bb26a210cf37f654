"""Examines datasets before anything is spent on them: uv run crossforge doctor [DATASET ...]

Looks at every dataset of datasets.toml, or at those named; without a datasets.toml at the sample corpus, as a
sweep would. Per dataset: layout, number of videos against the published one, its owners' lists (what the copy has of
each, lacks, has besides or labels otherwise), both classes in each split, people or clips in two splits, real
counterparts and masks, files that are missing, files that cannot be read. Over all of them: room for the faces and,
with --hash, the same content twice.

Exit code: 0, 1 if something would spoil an experiment, 2 for wrong usage.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import command
from pipelines.common.command import positive
from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.media.sandbox import NotStarted

PROG = "python -m pipelines.doctor"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("names", metavar="DATASET", nargs="*", help="names in datasets.toml (default: all of them)")
    p.add_argument("--datasets", metavar="FILE", help="datasets.toml, as for a sweep (default: as for a sweep)")
    p.add_argument("--decode", action="store_true", help="decode every frame instead of reading headers; takes hours")
    p.add_argument("--hash", action="store_true", help="look for the same content twice; reads files of equal size")
    p.add_argument(
        "--jobs", type=positive, metavar="N", default=os.cpu_count() or 1, help="files at once (default: %(default)s)"
    )
    p.add_argument(
        "--storage", metavar="DIR", default=DEFAULT_STORAGE, help="where faces will be kept (default: ./%(default)s)"
    )
    p.add_argument("--frames", type=positive, metavar="N", default=32, help="frames of each video (default: 32)")
    p.add_argument("--size", type=positive, metavar="PX", default=224, help="edge of a face's picture (default: 224)")
    p.add_argument("--report", metavar="FILE.csv", type=command.path, help="write every problem there, one line each")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code: 0, 1 if something would spoil an experiment, 2 for wrong usage, 130 when interrupted."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        # Here: what works takes its time to import, which `--help` does without.
        from pipelines.commands import doctor

        return doctor.examine_and_show(arguments, console)

    return command.main(work, errors=(NotStarted,))


if __name__ == "__main__":
    sys.exit(main())
