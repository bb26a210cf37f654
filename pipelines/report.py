"""The table of a sweep beside the paper's, as Markdown, CSV, PNG and HTML: uv run crossforge report [SWEEP ...]

    uv run crossforge report                              every report of the storage
    uv run crossforge report mask_ratio                   those of one sweep
    uv run crossforge report /data/crossforge/reports/X   one folder, beside its runs

A sweep writes its report when it ends. This command makes it again from the PREDICTIONS of the runs: their RESULTS
by the code of now (and says where the stored ones differ), then everything that follows. It needs no model, no GPU,
no Ray and no dataset. Exit code: 0, or 1 where a number differs, or 2 for wrong input.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import DEFAULT_STORAGE

PROG = "python -m pipelines.report"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("report", nargs="*", metavar="SWEEP|FOLDER", help="default: every report of the storage")
    p.add_argument(
        "--storage",
        metavar="DIR",
        help=f"where the runs are (default: that of the FOLDER, or ./{DEFAULT_STORAGE})",
    )
    p.add_argument("--no-html", action="store_true", help="Markdown, CSV and plot only")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import report

        return report.make_all_again(arguments, console)

    return command.main(work)


if __name__ == "__main__":
    sys.exit(main())
