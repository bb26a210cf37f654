"""A question of a paper as one command: all that a sweep file takes, the switches, and `main`.

A sweep file declares a `Sweep` and calls `main`. The same command again goes on where the last one stopped;
when all is done it only prints the table.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import cluster, command
from pipelines.common.storage import check_storage
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.sweep import Row, Sweep, grid, side_by_side
from pipelines.faces.store import ExtractionError
from pipelines.launch import switches

__all__ = ["Experiment", "Row", "Sweep", "grid", "main", "side_by_side"]  # for sweep files


# --------------------------------------------------------------------------------------- switches
def parser(sweep: Sweep, doc: str | None, prog: str = "") -> argparse.ArgumentParser:
    """Return the parser of the switches, which are the same for every sweep; a test freezes their list.

    prog: how the command is called; empty: by its file.
    """
    p = command.parser(prog or f"python sweeps/{sweep.name}.py", doc)
    p.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows of the table")
    p.add_argument("--test-on", nargs="+", metavar="DATASET", help="only these columns, for want of other datasets")
    switches.add_launch(p, sweep.seeds)
    return p


# ------------------------------------------------------------------------------------ the command
def main(sweep: Sweep, doc: str | None = None, argv: Sequence[str] | None = None, prog: str = "") -> None:
    """Run the sweep and exit.

    0: all rows done; 1: a row failed or MLflow could not be reached; 2: the input was wrong; 130: interrupted.
    """
    arguments = parser(sweep, doc, prog).parse_args(argv)

    def work(console: Console) -> int:
        asked = switches.options(arguments)
        cluster.prepare_environment(asked.address)
        check_storage(asked.storage, write=False)
        # Here: what trains takes seconds to import, which `--help` does without.
        from pipelines.commands.sweep import run

        return run(sweep.part(arguments.rows, arguments.test_on), asked, console)

    sys.exit(command.main(work, errors=(ExtractionError,), stopped="stopped; the same command goes on from here"))
