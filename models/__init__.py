"""The papers, one file each, found by file name. Files that begin with `_` are shared code.

A paper's file has `STAGES` (its stages in order) and `VERSION` (raised when its numbers change). Its settings are in
`_<paper>_config`: `Config` (a frozen dataclass; its defaults are the paper's, `stored_px` is the side of the face crops
that it wants) and `SMALL` (a `Config` for seconds on a CPU). They import no torch, nor does this file before a stage is
asked for: a sweep is declared and checked, and tells its switches, without the seconds that torch takes.

Most papers share `_feed` and `_stage` (the contract with the pipeline), `_config` (what settings share), `_layers`,
`_schedule` and `_distributed`. The other files belong to one paper or two, whose docstrings say which part of the
method they hold.
"""

import importlib
import math
import pkgutil
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models._config import named, newer
from models._feed import BadSample, Feed, Mode, Pooling, Sample

if TYPE_CHECKING:
    from models._stage import Batch, CamLayer, Stage

__all__ = [
    "PRESETS",
    "BadSample",
    "Batch",
    "CamLayer",
    "Feed",
    "Mode",
    "Pooling",
    "Sample",
    "Stage",
    "config",
    "module",
    "named",
    "names",
    "newer",
    "override",
    "stage",
    "stages",
    "version",
]

T = TypeVar("T")

PRESETS = ("paper", "small", "tiny")
_OF_TORCH = ("Batch", "CamLayer", "Stage")  # names of `_stage`, imported when they are first used


def __getattr__(name: str) -> Any:
    if name in _OF_TORCH:
        return getattr(importlib.import_module("models._stage"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def names() -> tuple[str, ...]:
    """Return the names of the papers, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def config(name: str, preset: str = "paper") -> Any:
    """Return the paper's `Config` at the size of a preset. Raises ValueError for an unknown paper or preset."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    settings = _import(name, "models._{}_config")
    return {"paper": settings.Config(), "small": settings.SMALL, "tiny": settings.TINY}[preset]


def stages(name: str) -> "tuple[type[Stage], ...]":
    """Return all stages of a paper, in order. Raises ValueError for an unknown paper."""
    return module(name).STAGES


def stage(name: str, stage_name: str) -> "type[Stage]":
    """Return the stage of that name. Raises ValueError for an unknown paper or stage."""
    for candidate in stages(name):
        if candidate.name == stage_name:
            return candidate
    raise ValueError(f"{name} has no stage {stage_name!r}; it has {[known.name for known in stages(name)]}")


def version(name: str) -> int:
    """Return the paper's `VERSION`. Raises ValueError for an unknown paper."""
    return module(name).VERSION


def module(name: str) -> types.ModuleType:
    """Import the paper's file and return it. Raises ValueError for an unknown paper."""
    return _import(name, "models.{}")


def _import(name: str, file: str) -> types.ModuleType:
    if name not in names():
        raise ValueError(f"no paper {name!r} in models/; there are {names()}")
    return importlib.import_module(file.format(name))


def override(cfg: T, changes: Mapping[str, Any]) -> T:
    """Return `cfg` with other values, e.g. `{"recover.mask_ratio": 0.5}`: keys are paths into nested dataclasses.

    A whole number may stand for a float and a list for a tuple. Raises ValueError for an unknown key
    (listing those that exist), a wrong type, or a value that the config itself refuses.
    """
    unknown = changes.keys() - set(paths(cfg))
    if unknown:
        raise ValueError(f"unknown config keys {sorted(unknown)}; allowed are {sorted(paths(cfg))}")
    return _replaced(cfg, changes, prefix="")


def _replaced(cfg: T, changes: Mapping[str, Any], prefix: str) -> T:
    hints = get_type_hints(type(cfg))
    values = {}
    for field in fields(cfg):  # type: ignore[arg-type]
        nested = f"{field.name}."
        below = {key.removeprefix(nested): value for key, value in changes.items() if key.startswith(nested)}
        if below:
            values[field.name] = _replaced(getattr(cfg, field.name), below, prefix + nested)
        elif field.name in changes:
            values[field.name] = _typed(changes[field.name], hints[field.name], prefix + field.name)
    return replace(cfg, **values)  # type: ignore[type-var]  # all at once: checks see the final combination


def paths(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Yield all keys that `override` takes, each after the prefix."""
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        if is_dataclass(value):
            yield from paths(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _typed(value: Any, hint: Any, path: str) -> Any:
    """Return `value` as the annotation `hint` wants it. Raises ValueError, naming `path`, where that cannot be."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for choice in choices:
            try:
                return _typed(value, choice, path)
            except ValueError:
                continue
    elif origin is Literal and value in choices:
        return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = choices[:1] * len(value) if choices[1:] == (...,) else choices
        if len(inner) == len(value):
            return tuple(_typed(item, item_hint, path) for item, item_hint in zip(value, inner, strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    if origin is Literal:
        wanted = f"one of {', '.join(map(repr, choices))}"
    else:
        wanted = "a finite float" if hint is float else hint if origin else hint.__name__
    raise ValueError(f"{path} must be {wanted}, got {value!r}")
