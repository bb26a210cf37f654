"""A question of a paper as one command: its declaration, its switches, and `main`.

A sweep file declares a `Sweep` and calls `main`. The same command again goes on where the last one stopped;
when all is done it only prints the table.
"""

import argparse
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rich.console import Console

from pipelines._results import UNSEEN
from pipelines.common import cluster
from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.experiments.experiment import PRESETS, Experiment
from pipelines.faces import perturb
from pipelines.faces.store import ExtractionError
from pipelines.space import Space

LEVELS = ("video", "frame")
LOCALIZING = ("iou", "pbca")  # counted in pixels of faces: there is no video level
METRICS = ("auc", "ap", "eer", "acc_at_0_5", *LOCALIZING)


@dataclass(frozen=True)
class Column:
    """Which number of a trial stands in a column of the table."""

    name: str  # the heading
    test: str  # a test dataset or dataset/manipulation; `unseen`: mean over those that were not trained on;
    # empty: the only part that the row's trial scores
    level: str
    metric: str
    perturbation: str = ""  # of the faces; a family (`blur`) for the mean over its levels; empty: none

    @classmethod
    def of(cls, name: str, level: str, metric: str) -> "Column":
        """From its heading: part, perturbation, metric, each left out where it is plain.

        `celeb_df`, `ffpp/Deepfakes`, `celeb_df ap`, `celeb_df blur-3`, `unseen jpeg-50 ap`; `ap` or `blur` alone where
        a row scores one part.
        """
        words = name.split(" ")
        found = words.pop() if words[-1] in METRICS else metric
        perturbation = words.pop() if words and words[-1] in perturb.names() else ""
        own_level = "frame" if found in LOCALIZING else level
        return cls(name=name, test=" ".join(words), level=own_level, metric=found, perturbation=perturbation)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question: the base experiment, the rows of the paper's table, and what the paper published."""

    name: str
    title: str  # paper and table
    base: Experiment
    row_name: str  # heading of the first column
    rows: Mapping[str, Mapping[str, Any]]  # row label -> overrides of the base
    published: Mapping[str, Mapping[str, float]]  # row label -> column (see `Column.of`) -> in [0, 1]; NaN: none
    small: Mapping[str, Any] = field(default_factory=dict)  # overrides in the small preset: all rows in minutes
    small_rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # for single rows, in place of `rows`
    level: str = "video"
    metric: str = "auc"  # of the columns that name none
    baseline: str | None = None  # the row that the others are tested against; None: the first
    cost: Mapping[str, str] = field(default_factory=lambda: {"paper": "not measured", "small": "not measured"})
    space: Space = field(default_factory=dict)  # what `--search` varies; empty: the settings in which the rows differ
    seeds: Mapping[str, int] = field(default_factory=lambda: {"paper": 3, "small": 1})  # preset -> number of seeds

    def __post_init__(self) -> None:
        if self.rows.keys() != self.published.keys():
            raise ValueError(f"{self.name}: rows {list(self.rows)} but published values for {list(self.published)}")
        if self.level not in LEVELS or self.metric not in METRICS:
            raise ValueError(f"{self.name}: {self.level} {self.metric}; levels are {LEVELS}, metrics {METRICS}")
        if self.baseline is not None and self.baseline not in self.rows:
            raise ValueError(f"{self.name}: baseline {self.baseline!r} is none of the rows {list(self.rows)}")
        if unknown := self.small_rows.keys() - self.rows.keys():
            raise ValueError(
                f"{self.name}: small_rows has {sorted(unknown)}, which is none of the rows {list(self.rows)}"
            )
        headings = {row: list(values) for row, values in self.published.items()}
        for row, names in headings.items():
            if names != (first := next(iter(headings.values()))):
                raise ValueError(
                    f"{self.name}: {row} has the columns {names}, the first row {first}; NaN stands for none"
                )

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        first: Mapping[str, float] = next(iter(self.published.values()), {})
        return tuple(Column.of(name, self.level, self.metric) for name in first)

    def experiments(self, preset: str, num_seeds: int, changes: Mapping[str, Any]) -> dict[tuple[str, int], Experiment]:
        """(row, seed) -> experiment. Raises ValueError on a bad setting, or a column that nothing scores."""
        shorter, instead = (self.small, self.small_rows) if preset == "small" else ({}, {})
        found = {
            (row, seed): self.base.override({"preset": preset, **shorter, **changes}).override(
                {**instead.get(row, overrides), "seed": seed}
            )
            for row, overrides in self.rows.items()
            for seed in range(num_seeds)
        }
        self._check_columns(found)
        return found

    def part(self, rows: Sequence[str] | None, test_on: Sequence[str] | None) -> "Sweep":
        """The same question, for some of its rows or test datasets. Raises ValueError naming those that there are."""
        kept = list(rows or self.rows)
        datasets = list(dict.fromkeys(column.test.partition("/")[0] for column in self.columns))
        for switch, names, known in (("--rows", kept, self.rows), ("--test-on", test_on or (), datasets)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{switch} {', '.join(unknown)}: {self.name} has {', '.join(map(repr, known))}")
        tested = set(test_on or datasets)
        columns = [column.name for column in self.columns if column.test.partition("/")[0] in tested]
        left = {"test_on": tuple(name for name in self.base.test_on if name in tested)} if test_on else {}
        return replace(
            self,
            base=self.base.override(left),
            rows={row: _tested(self.rows[row], tested) for row in kept},
            published={row: {name: self.published[row][name] for name in columns} for row in kept},
            small_rows={row: _tested(values, tested) for row, values in self.small_rows.items() if row in kept},
            baseline=self.baseline if self.baseline in kept else None,
        )

    def _check_columns(self, experiments: Mapping[tuple[str, int], Experiment]) -> None:
        """A misspelt column would come out after the training."""
        for (row, _), experiment in experiments.items():
            for column in self.columns:
                if not _scores(experiment, column.test) or not _perturbs(experiment, column.perturbation):
                    raise ValueError(
                        f"{self.name}: row {row!r} ({experiment.protocol}: train on {experiment.train_on}, test on "
                        f"{', '.join(experiment.test_on) or 'the same'}; perturbations "
                        f"{', '.join(experiment.perturbations) or 'none'}) has no number for the column {column.name!r}"
                    )


def _scores(experiment: Experiment, test: str) -> bool:
    """Whether one part that an experiment scores has this name; empty: whether it scores one part only."""
    if experiment.protocol == "cross_dataset":
        if test == UNSEEN:
            return bool(experiment.perturbations) and len({*experiment.test_on} - {experiment.train_on}) > 1
        return test in experiment.test_on or (not test and len(experiment.test_on) == 1)
    if experiment.protocol == "in_dataset":
        return test in ("", experiment.train_on)
    dataset, _, manipulation = test.partition("/")
    return (dataset == experiment.train_on and bool(manipulation)) or (
        not test and experiment.protocol != "cross_manipulation"
    )


def _tested(overrides: Mapping[str, Any], tested: Container[str]) -> Mapping[str, Any]:
    names = tuple(name for name in overrides.get("test_on", ()) if name in tested)
    return {**overrides, "test_on": names} if "test_on" in overrides else overrides


def _perturbs(experiment: Experiment, name: str) -> bool:
    """Whether faces are scored under this perturbation, or under all levels of this family."""
    wanted = perturb.levels([name]) if name else ()
    return set(wanted) <= set(perturb.levels(experiment.perturbations))


def grid(key: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """One row per value of one setting."""
    return {str(value): {key: value} for value in values}


def printed(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """`Sweep.published` of a table in percent, as papers print it: columns, then row label -> its values."""
    return {
        row: {name: value / 100 for name, value in zip(columns, values, strict=True)} for row, values in rows.items()
    }


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
        type=_positive,
        metavar="N",
        help=f"seeds per row (default: {sweep.seeds['paper']} for paper, {sweep.seeds['small']} for small)",
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
        type=_positive,
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


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _workers(text: str) -> tuple[int, int]:
    """Least and most: `4` or `1-4`."""
    least, dash, most = text.partition("-")
    if not (least and dash):
        return (value := _not_negative(text)), value
    found = _positive(least), _positive(most)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"the first number must not be above the second, got {text!r}")
    return found


def _cuts(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name.count(".") != 1:
        raise argparse.ArgumentTypeError(f"must be <paper>.<stage>=N, such as delocate.finetune=4; got {text!r}")
    return name, _positive(number)


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
    from pipelines import search  # after the environment is set: Ray reads it when it is imported
    from pipelines.launch import Launch

    console = Console()
    try:
        if arguments.space and not arguments.search:
            raise ValueError("--space says what --search varies; add --search N")
        asked = sweep.part(arguments.rows, arguments.test_on)
        chosen = search.find(asked, arguments, console) if arguments.search else asked
        code = Launch(chosen, arguments, console).execute() if chosen else 0
    except (ValueError, OSError, ExtractionError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here", highlight=False)
        code = 130
    sys.exit(code)
