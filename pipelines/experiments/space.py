"""What `uv run python sweeps/<question>.py --search N` may choose from: settings of an experiment and their values.

On the command line, one `KEY=VALUES` each:
    model.recover.mask_ratio=0.3..0.9          any number between, ends included; two whole numbers: whole numbers
    model.finetune.base_lr=1e-5..1e-2:log      the same, evenly in the exponent
    model.localize.use_meta=true,false         one of these
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf, prod
from typing import Any

import models
from pipelines.experiments.experiment import Experiment

SEARCHED = "model."  # what a search may vary: other data would make other validation AUCs, which can't be compared
RATES = ("lr", "base_lr")  # what papers' settings call the learning rate of a stage


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`, ends included; whole numbers if both ends are. `log`: even in the exponent."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range goes from a low to a high number (above 0 with log), got {self}")

    def __str__(self) -> str:
        return f"{self.low}..{self.high}{':log' if self.log else ''}"


Values = Range | tuple[Any, ...]
Space = Mapping[str, Values]  # setting, as `Experiment.override` takes it -> values


def parse(settings: Sequence[str]) -> Space:
    """Return the space that `KEY=VALUES` texts name, as above. Raises ValueError that says how to write one."""
    space: dict[str, Values] = {}
    for setting in settings:
        key, _, values = setting.partition("=")
        if not (key and values):
            raise ValueError(f"--space {setting!r}: write KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C")
        space[key] = _range(key, values) if ".." in values else tuple(map(value, values.split(",")))
    return space


def _range(key: str, text: str) -> Range:
    ends, _, kind = text.partition(":")
    low, high = (value(end) for end in ends.split("..", 1))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or kind not in ("", "log"):
        raise ValueError(f"--space {key}={text}: a range is LOW..HIGH or LOW..HIGH:log with two numbers")
    return Range(low, high, log=bool(kind))


def value(text: str) -> Any:
    """Return a number, true, false, null or a list as in JSON; everything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def check(space: Space, base: Experiment) -> None:
    """Raise ValueError for a key that can't be searched, or a value that the paper's settings refuse.

    Both ends of a range are tried. A value between them can still be refused later, which costs that candidate.
    """
    if not space:
        raise ValueError("nothing to search: name what may vary with --space KEY=VALUES ...")
    for key, values in space.items():
        if not key.startswith(SEARCHED):
            raise ValueError(f"{key} can't be searched: only settings of the paper, {SEARCHED}<setting>")
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            base.override({key: value})


def of_rows(base: Experiment, rows: Iterable[Mapping[str, Any]]) -> Space:
    """Return the settings of the paper that rows override, each with all its values, that of the base among them.

    rows: the overrides of each, made to a base of the same model. Left out is a value that is refused when nothing else
    changes, or that asks for other faces, other videos or other stages than the base; and a setting of which one value
    is left.
    """
    values: dict[str, dict[Any, None]] = {}
    for overrides in rows:
        for key, value in overrides.items():
            if key.startswith(SEARCHED):
                values.setdefault(key, {})[tuple(value) if isinstance(value, list) else value] = None
    fitting = {
        key: tuple(value for value in dict.fromkeys((*values[key], value_of(base, key))) if _fits(base, key, value))
        for key in sorted(values)
    }
    return {key: choice for key, choice in fitting.items() if len(choice) > 1}


def rates(base: Experiment) -> Space:
    """Return the learning rates of the stages that an experiment trains, each from a tenth to ten times its own."""
    config = base.config()
    idle = {stage.name for stage in models.stages(base.model)} - {*config.stages}
    space: dict[str, Values] = {}
    for setting in base.flat():
        head, _, path = setting.partition(".")
        if head == "model_config" and path.rpartition(".")[2] in RATES and path.partition(".")[0] not in idle:
            key = f"{SEARCHED}{path}"
            low, high = (float(f"{value_of(base, key) * factor:.3g}") for factor in (0.1, 10))
            space[key] = Range(low, high, log=True)
    return space


def value_of(experiment: Experiment, key: str) -> Any:
    """Return the value of a setting of the paper, `model.<path>`; of a rate that follows a schedule, the schedule's."""
    *parents, name = key.removeprefix(SEARCHED).split(".")
    config = reduce(getattr, parents, experiment.config())
    value = getattr(config, name)
    return config.schedule[name] if value is None and name in RATES else value


def _fits(base: Experiment, key: str, value: Any) -> bool:
    try:
        other = base.override({key: value})
    except ValueError:
        return False
    return all(
        of_other == of_base
        for of_other, of_base in (
            (other.recipe(), base.recipe()),
            (other.own_codecs(), base.own_codecs()),
            (other.config().stages, base.config().stages),
        )
    )


def size(space: Space) -> float:
    """Return how many settings a space has; infinite where a range has numbers between."""
    return prod(_num_values(values) for values in space.values())


def _num_values(values: Values) -> float:
    if not isinstance(values, Range):
        return len(set(values))
    return values.high - values.low + 1 if isinstance(values.low, int) and isinstance(values.high, int) else inf


def contains(values: Values, value: Any) -> bool:
    """Return whether a search may choose this value."""
    return values.low <= value <= values.high if isinstance(values, Range) else value in values
