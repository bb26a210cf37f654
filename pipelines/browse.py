"""Shows what an extraction cut out: uv run crossforge browse DATASET [VIDEO_ID or pattern ...]

A contact sheet with a row for each video: its name, class, status and reason, and some of its faces with their
landmarks (cyan) and the outline of the mask (pink). Only the faces that are shown are read.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import command, tables
from pipelines.common.command import positive
from pipelines.common.storage import DEFAULT_STORAGE

PROG = "python -m pipelines.browse"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument(
        "extraction",
        metavar="DATASET|FOLDER",
        help="a dataset, for the newest extraction of it in the storage, or a folder below <storage>/faces",
    )
    p.add_argument("patterns", metavar="VIDEO_ID", nargs="*", help="or a pattern such as 'ffpp/*/c23/000_*'")
    p.add_argument("--storage", metavar="DIR", default=DEFAULT_STORAGE, help="of the sweeps (default: ./%(default)s)")
    p.add_argument("--out", type=command.path, default="sheet.html", metavar="FILE", help=".png, .html (%(default)s)")
    p.add_argument("--failed", action="store_true", help="only videos without a usable face")
    p.add_argument("--split", choices=tables.SPLITS, default="", help="only this part")
    p.add_argument("--method", metavar="X", default="", help="only this manipulation, or real")
    p.add_argument("--frames", type=positive, metavar="N", default=8, help="faces of each video (default: 8)")
    p.add_argument("--videos", type=positive, metavar="N", default=24, help="videos at most (default: 24)")
    p.add_argument("--size", type=positive, metavar="PX", default=160, help="edge of a shown face (default: 160)")
    return p


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code: 0, 2 for wrong usage, 130 when interrupted."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import browse

        return browse.show(arguments, console)

    return command.main(work)


if __name__ == "__main__":
    sys.exit(main())
