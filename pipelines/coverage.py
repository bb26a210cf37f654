"""What an extraction made of its videos, by class and manipulation: uv run crossforge coverage [DATASET ...]

A video that gives no face is scored by a rule, not by a model. Where such videos are more often fake than real,
or the other way round, the rule tells the label, and a number that looks like detection is partly bookkeeping.

Rule, within each split of a dataset, all fakes and each manipulation against the real videos:
    failed           share of videos without a usable face; Fisher's exact test p < 0.01 and a difference of
                     2 percentage points or more
    faces per frame  mean over the videos that have faces; Mann-Whitney U test p < 0.01 and a difference of 0.05
                     or more
Flags are not corrected for the number of tests.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import DEFAULT_STORAGE

PROG = "python -m pipelines.coverage"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument(
        "extractions",
        metavar="DATASET|FOLDER",
        nargs="*",
        help="a dataset, for all extractions of it, or a folder below <storage>/faces (default: all of the storage)",
    )
    p.add_argument("--storage", metavar="DIR", default=DEFAULT_STORAGE, help="of the sweeps (default: ./%(default)s)")
    p.add_argument("--out", metavar="DIR", type=command.path, help="write Markdown, CSV and a plot there")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code: 0, 2 for a folder that cannot be read, 130 when interrupted."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import coverage

        return coverage.show(arguments, console)

    return command.main(work)


if __name__ == "__main__":
    sys.exit(main())
