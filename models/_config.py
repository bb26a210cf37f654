"""Checks that the papers' `Config`s share. Each raises ValueError: which field, its value, what is allowed."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


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
