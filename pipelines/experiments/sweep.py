"""A table of a paper as a value: the base experiment, its rows and columns, and what the paper printed."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

from pipelines.experiments.experiment import Experiment
from pipelines.experiments.space import Space, of_rows, rates
from pipelines.faces import perturb
from pipelines.metrics.names import LEVELS, LOCALIZING, MACRO, METRICS, UNSEEN

NO_VALUE = "-"  # in place of a value that the paper does not have
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


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
        level = {MACRO: "video", **dict.fromkeys(LOCALIZING, "frame")}.get(metric, level)
        return cls(name=name, test=" ".join(words), level=level, metric=metric, perturbation=perturbation)


@dataclass(frozen=True)
class Row:
    """A row of the table: what is run for it, and what the paper printed. Published only where nothing is run.

    Raises ValueError for a printed value that is no number in percent, or settings that nothing would use.
    """

    label: str
    settings: Mapping[str, Any] | None = None  # changes to the base experiment; None: published only
    published: str = ""  # in percent, as printed: a word for each column, `-` for no value; empty: no value at all
    small: Mapping[str, Any] | None = None  # in place of `settings` in the presets small and tiny
    baseline: str = ""  # label of the row that this one is tested against; empty: the sweep's
    note: str = ""  # what a reader must know of the row; stands below the table

    def __post_init__(self) -> None:
        for word in self.words:
            if word != NO_VALUE and not (_NUMBER.fullmatch(word) and percent(word) <= 100):
                raise ValueError(f"row {self.label!r}: published {word!r}; write a number from 0 to 100, or {NO_VALUE}")
        if self.settings is None and (self.small is not None or self.baseline):
            raise ValueError(f"row {self.label!r} has no settings: it is published only, without `small` or `baseline`")

    @property
    def runs(self) -> bool:
        """Whether it is trained and scored, not published only."""
        return self.settings is not None

    def settings_in(self, preset: str) -> Mapping[str, Any]:
        """Return the changes to the base experiment in a preset; none where nothing is run."""
        return self.small if preset != "paper" and self.small is not None else self.settings or {}

    @property
    def words(self) -> tuple[str, ...]:
        """The printed values; empty where there is none."""
        return tuple(self.published.split())


def percent(word: str) -> float:
    """Return a printed value, in percent; NaN for `-`."""
    return math.nan if word == NO_VALUE else float(word)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question of a paper: the base experiment, the table's headings and its rows.

    Raises ValueError where rows, columns or settings do not fit together.
    """

    name: str
    title: str  # paper and table
    base: Experiment
    row_name: str  # heading of the first column
    headings: tuple[str, ...]  # of the other columns, see `Column.of`
    rows: tuple[Row, ...]
    # Overrides in the small preset: all rows in minutes. Those of the base's model do not reach rows of another, nor
    # the preset tiny, which is shorter still.
    small: Mapping[str, Any] = field(default_factory=dict)
    level: str = "video"
    metric: str = "auc"  # of the columns that name none
    baseline: str = (
        ""  # label of the row that the others are tested against; empty: `own_row`, else the first that runs
    )
    space: Space = field(default_factory=dict)  # what `--search` varies; empty: see `searched`
    # preset -> number of seeds
    seeds: Mapping[str, int] = field(default_factory=lambda: {"paper": 3, "small": 1, "tiny": 1})

    def __post_init__(self) -> None:
        if self.level not in LEVELS or self.metric not in METRICS:
            raise ValueError(f"{self.name}: {self.level} {self.metric}; levels are {LEVELS}, metrics {METRICS}")
        labels = [row.label for row in self.rows]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{self.name}: several rows are called {', '.join(map(repr, twice))}")
        if not self.running:
            raise ValueError(f"{self.name}: no row has settings ({{}}: the base experiment itself), so nothing runs")
        for row in self.rows:
            if len(row.words) not in (0, len(self.headings)):
                raise ValueError(
                    f"{self.name}: row {row.label!r} has {len(row.words)} published values, the table "
                    f"{len(self.headings)} columns {', '.join(self.headings)}; {NO_VALUE} stands for none"
                )
        running = [row.label for row in self.running]
        for label in (self.baseline, *(row.baseline for row in self.rows)):
            if label and label not in running:
                raise ValueError(f"{self.name}: baseline {label!r} is none of the rows that run, {running}")

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns, from their headings."""
        return tuple(Column.of(name, self.level, self.metric) for name in self.headings)

    @property
    def running(self) -> tuple[Row, ...]:
        """The rows that are trained and scored."""
        return tuple(row for row in self.rows if row.runs)

    @cached_property
    def own_row(self) -> Row | None:
        """The row that changes nothing of the base experiment: the paper's own setting. None: there is none."""
        base = self.base.flat()
        return next((row for row in self.running if self.base.override(row.settings or {}).flat() == base), None)

    def baseline_of(self, row: Row) -> str:
        """Return the label of the row that this one is tested against; its own where that is the row itself."""
        return row.baseline or self.baseline or (self.own_row or self.running[0]).label

    @property
    def declared(self) -> Row:
        """The row that a search starts from: the paper's own, else the baseline, else the first of the base's model."""
        named = (row for row in self.running if row.label == self.baseline)
        of_model = (row for row in self.running if "model" not in (row.settings or {}))
        return self.own_row or next(chain(named, of_model, self.running))

    def searched(self, base: Experiment) -> Space:
        """Return what `--search` varies of an experiment.

        That is `space`, or else the settings in which the rows of its model differ, or else its learning rates.
        """
        made = [row.settings_in(base.preset) for row in self.running]
        own = [settings for settings in made if settings.get("model", self.base.model) == base.model]
        return self.space or of_rows(base, own) or rates(base)

    def published(self, row: Row) -> tuple[str, ...]:
        """Return the printed values of a row, one for each column."""
        return row.words or (NO_VALUE,) * len(self.headings)

    def experiments(self, preset: str, num_seeds: int, changes: Mapping[str, Any]) -> dict[tuple[str, int], Experiment]:
        """Return (row, seed) -> experiment; changes: overrides of the base, which the rows' own settings come after.

        Raises ValueError on a bad setting, or a column for which a row scores nothing.
        """
        experiments = {}
        for row in self.running:
            settings = row.settings_in(preset)
            own = self._overrides(preset, of_base=settings.get("model", self.base.model) == self.base.model)
            base = self.base.override({"preset": preset, **own, **changes})
            for seed in range(num_seeds):
                experiments[row.label, seed] = base.override({**settings, "seed": seed})
        self._check_columns(experiments)
        return experiments

    def _overrides(self, preset: str, of_base: bool) -> dict[str, Any]:
        """Return what `small` changes in a preset. of_base: of a row of the base's model."""
        if preset == "paper":
            return {}
        of_model = of_base and preset == "small"
        return {key: value for key, value in self.small.items() if of_model or not key.startswith("model.")}

    def part(self, rows: Sequence[str] | None, test_on: Sequence[str] | None) -> "Sweep":
        """Return the question for some of the rows that run, or for some test datasets; None: all.

        Published-only rows stay: before the others, where rows are named. A mean over unseen datasets stays only where
        all of these do. Raises ValueError that names the rows and datasets there are.
        """
        running = {row.label: row for row in self.running}
        named = (column.test.partition("/")[0] for column in self.columns if column.test != UNSEEN)
        there = (name.partition("/")[0] for name in self.base.test_on)
        datasets = [name for name in dict.fromkeys((*named, *there)) if name]
        for switch, names, known in (("--rows", rows or (), running), ("--test-on", test_on or (), datasets)):
            if unknown := [name for name in names if name not in known]:
                choice = ", ".join(map(repr, known)) or "none to choose from"
                raise ValueError(f"{switch} {', '.join(unknown)}: {self.name} has {choice}")
        part = self._tested_on(test_on) if test_on else self
        if not rows:
            return part
        others = [row for row in part.rows if not row.runs]
        kept = [next(row for row in part.rows if row.label == label) for label in dict.fromkeys(rows)]
        return replace(
            part,
            rows=(*others, *(row if row.baseline in rows else replace(row, baseline="") for row in kept)),
            baseline=self.baseline if self.baseline in rows else "",
        )

    def _tested_on(self, datasets: Sequence[str]) -> "Sweep":
        """Return the question with the columns of these test datasets only."""
        whole = {name.partition("/")[0] for name in self.base.test_on} <= {*datasets}
        kept = {*datasets, UNSEEN} if whole else {*datasets}
        at = [i for i, column in enumerate(self.columns) if column.test.partition("/")[0] in kept]
        if not at:
            raise ValueError(f"--test-on {', '.join(datasets)}: {self.name} has no column of it, but {self.headings}")

        def narrowed(overrides: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            if overrides is None or "test_on" not in overrides:
                return overrides
            names = tuple(name for name in overrides["test_on"] if name.partition("/")[0] in kept)
            return {**overrides, "test_on": names}

        rows = [
            replace(
                row,
                settings=narrowed(row.settings),
                small=narrowed(row.small),
                published=" ".join(row.words[i] for i in at if row.words),
            )
            for row in self.rows
        ]
        base = self.base.override(narrowed({"test_on": self.base.test_on}) or {})
        return replace(self, base=base, headings=tuple(self.headings[i] for i in at), rows=tuple(rows))

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
            return len({name.partition("/")[0] for name in experiment.test_on} - {experiment.train_on}) > 1
        return test in experiment.test_on or (not test and len(experiment.test_on) == 1)
    if experiment.protocol == "in_dataset":
        return not test or test.partition("/")[0] == experiment.train_on  # or one of its manipulations
    dataset, _, manipulation = test.partition("/")
    return (dataset == experiment.train_on and bool(manipulation)) or (
        not test and experiment.protocol != "cross_manipulation"
    )


def _perturbs(experiment: Experiment, name: str) -> bool:
    """Return whether an experiment scores faces under this perturbation, or under all levels of this family."""
    wanted = perturb.levels([name]) if name else ()
    return set(wanted) <= set(perturb.levels(experiment.perturbations))


def grid(key: str, published: Mapping[Any, str]) -> tuple[Row, ...]:
    """Return a row for each value of one setting; published: value -> what the paper printed for it."""
    return tuple(Row(str(value), {key: value}, words) for value, words in published.items())


def side_by_side(groups: Mapping[str, Mapping[str, Any]], *lines: Row, baseline: str = "") -> tuple[Row, ...]:
    """Return the rows of a table that prints groups of columns side by side, group by group.

    groups: name -> settings, in the order of the columns. lines: as the paper prints them; of each becomes a row
    `<label>, <group>` for every group, with the settings of both. baseline: label of the line whose row of the same
    group the others are tested against. Raises ValueError where values can't be shared out evenly.
    """
    rows = []
    for i, (group, settings) in enumerate(groups.items()):
        for line in lines:
            width, rest = divmod(len(line.words), len(groups))
            if rest:
                raise ValueError(f"row {line.label!r}: {len(line.words)} published values for {len(groups)} groups")
            rows.append(
                replace(
                    line,
                    label=f"{line.label}, {group}",
                    settings=None if line.settings is None else {**settings, **line.settings},
                    small=None if line.small is None else {**settings, **line.small},
                    published=" ".join(line.words[i * width : (i + 1) * width]),
                    baseline=f"{baseline}, {group}" if baseline and line.runs else "",
                )
            )
    return tuple(rows)
