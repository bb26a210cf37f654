"""What settings share: which of them stand in a name, and checks of the papers' `Config`s.

Each check raises ValueError: which field, its value, what is allowed.
"""

from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def newer(**default: Any) -> Any:
    """Return a dataclass's field that is newer than things that were made, and named by a digest, without it.

    default: `default` or `default_factory`, as of `dataclasses.field`.
    """
    return field(**default, metadata={"newer": True})


def named(settings: Any) -> dict[str, Any]:
    """Return a dataclass as a dictionary for names and digests, without fields that are `newer` and at their default.

    So what was made before there was the field keeps its name. What the dataclass holds may be dataclasses likewise.
    """
    values = asdict(settings)
    for each in fields(settings):
        value = getattr(settings, each.name)
        if "newer" in each.metadata and value == _default(each):
            del values[each.name]
        elif is_dataclass(value):
            values[each.name] = named(value)
    return values


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def check(valid: bool, message: str) -> None:
    """Raise ValueError with the message unless `valid`."""
    if not valid:
        raise ValueError(message)


def check_positive(cfg: Any, *names: str) -> None:
    """Raise ValueError unless each of the named fields is above 0."""
    for name in names:
        value = getattr(cfg, name)
        check(value > 0, f"{name} must be positive, got {value}")


def check_not_negative(cfg: Any, *names: str) -> None:
    """Raise ValueError unless each of the named fields is at least 0."""
    for name in names:
        value = getattr(cfg, name)
        check(value >= 0, f"{name} must not be negative, got {value}")


def check_range(cfg: Any, low: float, high: float, *names: str) -> None:
    """Raise ValueError unless each of the named fields lies in [low, high]."""
    for name in names:
        value = getattr(cfg, name)
        check(low <= value <= high, f"{name} must be in [{low:g}, {high:g}], got {value}")


def check_choices(cfg: Any) -> None:
    """Raise ValueError unless each field that is annotated as `Literal` has one of its values."""
    for name, hint in get_type_hints(type(cfg)).items():
        value = getattr(cfg, name)
        if get_origin(hint) is Literal:
            check(value in get_args(hint), f"{name} must be one of {get_args(hint)}, got {value!r}")
