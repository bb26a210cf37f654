"""Checks that the papers' `Config`s share. All raise ValueError: what, what it is, what is allowed."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check(valid: bool, message: str) -> None:
    if not valid:
        raise ValueError(message)


def check_positive(cfg: Any, *names: str) -> None:
    for name in names:
        value = getattr(cfg, name)
        check(value > 0, f"{name} must be positive, got {value}")


def check_choices(cfg: Any) -> None:
    """Fields that are annotated as `Literal` have one of its values."""
    for name, hint in get_type_hints(type(cfg)).items():
        value = getattr(cfg, name)
        if get_origin(hint) is Literal:
            check(value in get_args(hint), f"{name} must be one of {get_args(hint)}, got {value!r}")
