"""A question of a paper as one command: its declaration, its switches, and `main`.

A sweep file declares a `Sweep` and calls `main`. The same command again goes on where the last one stopped;
when all is done it only prints the table.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from pipelines import cluster
from pipelines.experiment import PRESETS, Experiment
from pipelines.facestore import ExtractionError

DEFAULT_STORAGE = "crossforge-storage"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question: the base experiment, the rows of the paper's table, and what the paper published."""

    name: str
    title: str  # paper and table
    base: Experiment
    row_name: str  # heading of the first column
    rows: Mapping[str, Mapping[str, Any]]  # row label -> overrides of the base
    published: Mapping[str, Mapping[str, float]]  # row label -> test dataset -> value in [0, 1]; NaN: none
    small: Mapping[str, Any] = field(default_factory=dict)  # overrides in the small preset: all rows in minutes
    level: str = "video"
    metric: str = "auc"
    cost: Mapping[str, str] = field(default_factory=lambda: {"paper": "not measured", "small": "not measured"})
    seeds: Mapping[str, int] = field(default_factory=lambda: {"paper": 3, "small": 1})  # preset -> number of seeds

    def __post_init__(self) -> None:
        if self.rows.keys() != self.published.keys():
            raise ValueError(f"{self.name}: rows {list(self.rows)} but published values for {list(self.published)}")

    def experiments(self, preset: str, num_seeds: int, changes: Mapping[str, Any]) -> dict[tuple[str, int], Experiment]:
        """(row, seed) -> experiment. Raises ValueError on an unknown or bad setting."""
        shorter = self.small if preset == "small" else {}
        return {
            (row, seed): self.base.override({"preset": preset, **shorter, **changes}).override(
                {**overrides, "seed": seed}
            )
            for row, overrides in self.rows.items()
            for seed in range(num_seeds)
        }


def grid(key: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """One row per value of one setting."""
    return {str(value): {key: value} for value in values}


# --------------------------------------------------------------------------------------- switches
def parser(sweep: Sweep, doc: str | None) -> argparse.ArgumentParser:
    """The switches that every sweep has; a test freezes this list."""
    p = argparse.ArgumentParser(
        prog=f"python sweeps/{sweep.name}.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--datasets",
        metavar="FILE",
        help="datasets.toml: dataset name = root folder (default: "
        "$CROSSFORGE_DATASETS, ./datasets.toml, or the made-up sample corpus)",
    )
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
        type=_positive,
        metavar="N",
        help=f"seeds per row (default: {sweep.seeds['paper']} for paper, {sweep.seeds['small']} for small)",
    )
    p.add_argument(
        "--workers",
        type=_not_negative,
        metavar="N",
        help="training workers per trial; 0 trains inside the "
        "trial's process (default: 0 for small, 1 per trial for paper)",
    )
    p.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="X",
        help="GPUs of one worker, may be a fraction (default: 1 where the cluster has GPUs)",
    )
    p.add_argument(
        "--no-pretrained",
        action="store_true",
        help="start from random weights where the paper starts from ImageNet's (for machines that can't download them)",
    )
    p.add_argument("--address", metavar="ADDR", help="an existing Ray cluster: auto, host:port or ray://host:port")
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return p


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _not_negative(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def main(sweep: Sweep, doc: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Runs the sweep and exits: 0 all rows done, 1 a row failed, 2 the input was wrong, 130 interrupted."""
    arguments = parser(sweep, doc).parse_args(argv)
    cluster.prepare_environment(arguments.address)
    from pipelines.launch import Launch  # after the environment is set: Ray reads it when it is imported

    console = Console()
    try:
        code = Launch(sweep, arguments, console).execute()
    except (ValueError, OSError, ExtractionError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here", highlight=False)
        code = 130
    sys.exit(code)
