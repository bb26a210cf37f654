"""A question of a paper as one command: all that a sweep file takes, the switches, and `main`.

A sweep file declares a `Sweep` and calls `main`. The same command again goes on where the last one stopped;
when all is done it only prints the table.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from pipelines.common import cluster, command
from pipelines.common.command import not_negative, positive
from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.experiments import space
from pipelines.experiments.experiment import PRESETS, Experiment
from pipelines.experiments.sweep import Row, Sweep, grid, side_by_side
from pipelines.faces.store import ExtractionError
from pipelines.launch.options import Options

__all__ = ["Experiment", "Row", "Sweep", "grid", "main", "side_by_side"]  # for sweep files


# --------------------------------------------------------------------------------------- switches
def parser(sweep: Sweep, doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of the switches, which are the same for every sweep; a test freezes their list."""
    p = command.parser(f"python sweeps/{sweep.name}.py", doc)
    p.add_argument(
        "--datasets",
        metavar="FILE",
        help="datasets.toml: dataset name = root folder (default: "
        "$CROSSFORGE_DATASETS, ./datasets.toml, or the made-up sample corpus)",
    )
    p.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows of the table")
    p.add_argument("--test-on", nargs="+", metavar="DATASET", help="only these columns, for want of other datasets")
    p.add_argument(
        "--storage",
        metavar="DIR",
        default=DEFAULT_STORAGE,
        help="where faces, stages, runs and the MLflow database are kept (default: ./%(default)s)",
    )
    p.add_argument(
        "--preset",
        choices=PRESETS,
        help="paper: the paper's sizes; small: the same code, minutes on a CPU "
        "(default: paper with datasets of your own, small on the sample corpus)",
    )
    p.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help=f"seeds per row (default: {sweep.seeds['paper']} for paper, {sweep.seeds['small']} for small)",
    )
    p.add_argument(
        "--set",
        nargs="+",
        type=_setting,
        metavar="KEY=VALUE",
        help="change settings of all rows, where a row does not say otherwise, e.g. precision=fp32 deterministic=true "
        'faces.margin=1.5 model.finetune.base_lr=1e-3 manipulations=["FaceSwap"]; a wrong KEY lists those there are',
    )
    p.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="training workers per trial, which share each step's samples; 0 trains inside the trial's process "
        "(default: 0 for small, 1 per trial for paper); 1-4 begins with as many as there is room for, and goes on with "
        "fewer when a node is lost, which takes more GPU memory in each, save in stages that --accumulate cuts exactly",
    )
    p.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="X",
        help="GPUs of one worker, may be a fraction (default: 1 where the cluster has GPUs)",
    )
    p.add_argument(
        "--accumulate",
        nargs="+",
        type=_cuts,
        metavar="PAPER.STAGE=N",
        help="cut each worker's share of a step into N, one after the other through the network, where the paper's "
        "batch does not fit into memory, e.g. delocate.finetune=4",
    )
    p.add_argument(
        "--no-pretrained",
        action="store_true",
        help="start from random weights where the paper starts from ImageNet's (for machines that can't download them)",
    )
    p.add_argument("--address", metavar="ADDR", help="an existing Ray cluster, run on a node of it: auto, or host:port")
    p.add_argument(
        "--search",
        type=positive,
        metavar="N",
        help="try N settings instead of the rows (Optuna, ASHA), and score the one with the best validation AUC",
    )
    p.add_argument(
        "--space",
        nargs="+",
        metavar="KEY=VALUES",
        help="what --search varies, e.g. model.finetune.lr=1e-5..1e-2:log model.recover.mask_ratio=0.3..0.9 "
        "model.localize.use_meta=true,false (default: the settings in which the rows differ)",
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return p


def _setting(text: str) -> tuple[str, Any]:
    """Return the key and its value: `<key>=<value>`, a value in JSON or a word."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, such as precision=fp32; got {text!r}")
    told = space.value(value)
    return key, tuple(told) if isinstance(told, list) else told


def _workers(text: str) -> tuple[int, int]:
    """Return the fewest and the most: `4` or `1-4`."""
    least, dash, most = text.partition("-")
    if not (least and dash):
        return (value := not_negative(text)), value
    bounds = positive(least), positive(most)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"the first number must not be above the second, got {text!r}")
    return bounds


def _cuts(text: str) -> tuple[str, int]:
    """Return the stage and the number: `<paper>.<stage>=N`."""
    name, _, number = text.partition("=")
    if name.count(".") != 1:
        raise argparse.ArgumentTypeError(f"must be <paper>.<stage>=N, such as delocate.finetune=4; got {text!r}")
    return name, positive(number)


def options(arguments: argparse.Namespace) -> Options:
    """Return what the switches say, save which rows and columns are wanted. Raises ValueError for a useless one."""
    if arguments.space and not arguments.search:
        raise ValueError("--space says what --search varies; add --search N")
    return Options(
        datasets=arguments.datasets,
        storage=arguments.storage,
        preset=arguments.preset,
        seeds=arguments.seeds,
        settings=dict(arguments.set or ()),
        pretrained=not arguments.no_pretrained,
        workers=arguments.workers,
        gpus_per_worker=arguments.gpus_per_worker,
        accumulate=dict(arguments.accumulate or ()),
        address=arguments.address,
        search=arguments.search,
        space=tuple(arguments.space or ()),
        dry_run=arguments.dry_run,
    )


# ------------------------------------------------------------------------------------ the command
def main(sweep: Sweep, doc: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Run the sweep and exit.

    0: all rows done; 1: a row failed or MLflow could not be reached; 2: the input was wrong; 130: interrupted.
    """
    arguments = parser(sweep, doc).parse_args(argv)

    def work(console: Console) -> int:
        asked = options(arguments)
        cluster.prepare_environment(asked.address)
        # Here: what trains takes seconds to import, which `--help` does without.
        from pipelines.launch.launch import launch
        from pipelines.launch.search import find_best

        part = sweep.part(arguments.rows, arguments.test_on)
        wanted = find_best(part, asked, console) if asked.search else part
        return launch(wanted, asked, console) if wanted else 0

    sys.exit(command.main(work, errors=(ExtractionError,), stopped="stopped; the same command goes on from here"))
