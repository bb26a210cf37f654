"""A table of a paper as a value: the base experiment, its rows and columns, and what the paper published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipelines.experiments.experiment import Experiment
from pipelines.experiments.space import Space
from pipelines.faces import perturb
from pipelines.metrics.names import LEVELS, LOCALIZING, METRICS, UNSEEN


@dataclass(frozen=True)
class Column:
    """Which number of a trial stands in a column of the table."""

    name: str  # the heading
    # A test dataset or dataset/manipulation; `unseen`: the mean over those that were not trained on; empty: the only
    # part that the row's trial scores.
    test: str
    level: str
    metric: str
    perturbation: str = ""  # of the faces; a family (`blur`) for the mean over its levels; empty: none

    @classmethod
    def of(cls, name: str, level: str, metric: str) -> "Column":
        """Read a heading: part, perturbation and metric, each left out where it is plain.

        `celeb_df`, `ffpp/Deepfakes`, `celeb_df ap`, `celeb_df blur-3`, `unseen jpeg-50 ap`; `ap` or `blur` alone where
        a row scores one part. level and metric: of a heading that names no metric.
        """
        words = name.split(" ")
        if words[-1] in METRICS:
            metric = words.pop()
        perturbation = words.pop() if words and words[-1] in perturb.names() else ""
        if metric in LOCALIZING:
            level = "frame"
        return cls(name=name, test=" ".join(words), level=level, metric=metric, perturbation=perturbation)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question of a paper: the base experiment, the rows of its table, and what was published.

    Raises ValueError where rows, columns or settings do not fit together.
    """

    name: str
    title: str  # paper and table
    base: Experiment
    row_name: str  # heading of the first column
    rows: Mapping[str, Mapping[str, Any]]  # row label -> overrides of the base
    published: Mapping[str, Mapping[str, float]]  # row label -> heading (see `Column.of`) -> in [0, 1]; NaN: none
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
        """The columns, from the headings of the published values."""
        first: Mapping[str, float] = next(iter(self.published.values()), {})
        return tuple(Column.of(name, self.level, self.metric) for name in first)

    def experiments(self, preset: str, num_seeds: int, changes: Mapping[str, Any]) -> dict[tuple[str, int], Experiment]:
        """Return (row, seed) -> experiment; changes: overrides of the base, which the rows' own overrides come after.

        Raises ValueError on a bad setting, or a column for which a row scores nothing.
        """
        shorter, instead = (self.small, self.small_rows) if preset == "small" else ({}, {})
        experiments = {}
        for row, overrides in self.rows.items():
            for seed in range(num_seeds):
                base = self.base.override({"preset": preset, **shorter, **changes})
                experiments[row, seed] = base.override({**instead.get(row, overrides), "seed": seed})
        self._check_columns(experiments)
        return experiments

    def part(self, rows: Sequence[str] | None, test_on: Sequence[str] | None) -> "Sweep":
        """Return the question for some of its rows or test datasets; None: all.

        Raises ValueError that names those there are.
        """
        kept = list(rows or self.rows)
        datasets = list(dict.fromkeys(column.test.partition("/")[0] for column in self.columns))
        for switch, names, known in (("--rows", kept, self.rows), ("--test-on", test_on or (), datasets)):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{switch} {', '.join(unknown)}: {self.name} has {', '.join(map(repr, known))}")
        tested = set(test_on or datasets)

        def narrowed(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
            names = tuple(name for name in overrides.get("test_on", ()) if name.partition("/")[0] in tested)
            return {**overrides, "test_on": names} if "test_on" in overrides else overrides

        columns = [column.name for column in self.columns if column.test.partition("/")[0] in tested]
        return replace(
            self,
            base=self.base.override(narrowed({"test_on": self.base.test_on}) if test_on else {}),
            rows={row: narrowed(self.rows[row]) for row in kept},
            published={row: {name: self.published[row][name] for name in columns} for row in kept},
            small_rows={row: narrowed(overrides) for row, overrides in self.small_rows.items() if row in kept},
            baseline=self.baseline if self.baseline in kept else None,
        )

    def _check_columns(self, experiments: Mapping[tuple[str, int], Experiment]) -> None:
        """Raise ValueError for a column that a row has no number for: a misspelt one would show only after training."""
        for (row, _), experiment in experiments.items():
            for column in self.columns:
                if not _scores(experiment, column.test) or not _perturbs(experiment, column.perturbation):
                    raise ValueError(
                        f"{self.name}: row {row!r} ({experiment.protocol}: train on {experiment.train_on}, test on "
                        f"{', '.join(experiment.test_on) or 'the same'}; perturbations "
                        f"{', '.join(experiment.perturbations) or 'none'}) has no number for the column {column.name!r}"
                    )


def _scores(experiment: Experiment, test: str) -> bool:
    """Return whether one part that an experiment scores has this name; empty: whether it scores one part only."""
    if experiment.protocol == "cross_dataset":
        if test == UNSEEN:
            return (
                bool(experiment.perturbations)
                and len({n for n in experiment.test_on if n.partition("/")[0] != experiment.train_on}) > 1
            )
        return test in experiment.test_on or (not test and len(experiment.test_on) == 1)
    if experiment.protocol == "in_dataset":
        return test in ("", experiment.train_on)
    dataset, _, manipulation = test.partition("/")
    return (dataset == experiment.train_on and bool(manipulation)) or (
        not test and experiment.protocol != "cross_manipulation"
    )


def _perturbs(experiment: Experiment, name: str) -> bool:
    """Return whether an experiment scores faces under this perturbation, or under all levels of this family."""
    wanted = perturb.levels([name]) if name else ()
    return set(wanted) <= set(perturb.levels(experiment.perturbations))


def grid(key: str, values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return `Sweep.rows` with a row for each value of one setting."""
    return {str(value): {key: value} for value in values}


def printed(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return `Sweep.published` of a table as papers print it: its columns, then row label -> values in percent."""
    return {
        row: {name: value / 100 for name, value in zip(columns, values, strict=True)} for row, values in rows.items()
    }
