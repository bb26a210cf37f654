"""An experiment as a frozen value: which paper, with which settings, on which data, from which seed.

`override` is the only way to vary one, so a typo in a sweep is an error before any job starts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import models
from pipelines.common.numerics import PRECISIONS, Numerics, Precision
from pipelines.common.text import meant
from pipelines.faces import perturb
from pipelines.faces.recipe import Recipe

T = TypeVar("T")
Preset = Literal["paper", "small", "tiny"]
PRESETS: tuple[Preset, ...] = ("paper", "small", "tiny")
TINY_NOTE = "preset tiny: trained for a few steps, so these numbers mean nothing but that all of it ran"
FAILED_RULES = ("exclude", "half")
# Settings of a paper's Config that are the default of one of the extraction; only the first two must be there.
IN_RECIPE = {
    "video_frames": "num_frames",
    "crop_margin": "margin",
    "constant_box": "constant_box",
    "max_faces": "max_faces",
    "detector": "detector",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One training of a paper's method and its tests. Raises ValueError on a bad setting, whichever it is."""

    model: str  # a file of models/
    train_on: str  # also the only dataset that a checkpoint is chosen on (its val part)
    test_on: tuple[str, ...]  # datasets, or dataset/manipulation: see `protocol`
    protocol: str = "cross_dataset"  # one of `protocol.PROTOCOLS`
    codec: str = "c23"  # for the datasets that exist in several compressions
    manipulations: tuple[str, ...] = ()  # trained on; empty: those that papers mean by the dataset's name
    perturbations: tuple[str, ...] = ()  # besides clean, test parts are scored under these: pipelines/faces/perturb.py
    failed_videos: str = "exclude"  # a video without a usable face: not scored ("exclude"), or score 0.5 ("half")
    min_frames: int = 1  # of a video, with a face; one with fewer counts as failed: a clip would repeat its last frame
    preset: Preset = "paper"
    seed: int = 0
    precision: Precision = "auto"  # of training and scoring; auto: bf16 on GPUs that have it, else fp32
    deterministic: bool = False  # True: on GPUs too the same weights each time, at the cost of speed
    model_args: Mapping[str, Any] = field(default_factory=dict)  # dotted path in the paper's Config -> value
    faces_args: Mapping[str, Any] = field(default_factory=dict)  # setting of `pipelines.faces.recipe.Recipe` -> value
    # Network of timm -> SHA-256 of the own weights that it starts from.
    weights: Mapping[str, str] = models.newer(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("model", self.model, models.names())
        _one_of("preset", self.preset, PRESETS)
        _one_of("failed_videos", self.failed_videos, FAILED_RULES)
        _one_of("precision", self.precision, PRECISIONS)
        for name in ("test_on", "manipulations", "perturbations"):
            if isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} must be a list of names, got the text {value!r}")
        perturb.levels(self.perturbations)  # raises on an unknown name
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed must be a whole number, 0 or more, got {self.seed!r}")
        if not isinstance(self.min_frames, int) or isinstance(self.min_frames, bool) or self.min_frames < 1:
            raise ValueError(f"min_frames must be a whole number, 1 or more, got {self.min_frames!r}")
        if not isinstance(self.deterministic, bool):
            raise ValueError(f"deterministic must be true or false, got {self.deterministic!r}")
        if not isinstance(self.weights, Mapping):
            raise ValueError(f"weights must give a SHA-256 for each network, got {self.weights!r}")
        self.recipe()  # raises on an unknown or bad argument, of the model or of the extraction

    def config(self) -> Any:
        """Return the paper's `Config`: the preset's, with `model_args` applied."""
        return _changed("model", models.config(self.model, self.preset), self.model_args)

    @property
    def numerics(self) -> Numerics:
        """How networks compute."""
        return Numerics(precision=self.precision, deterministic=self.deterministic)

    def own_codecs(self) -> dict[str, str]:
        """Return stage -> compression of the real videos that it trains on, where that is not the experiment's."""
        config = self.config()
        wanted = {stage.name: stage.codec_of(config) for stage in models.stages(self.model)}
        return {
            name: codec for name, codec in wanted.items() if name in config.stages and codec and codec != self.codec
        }

    def recipe(self) -> Recipe:
        """Return how faces are cut, in training and test datasets alike.

        These are the paper's settings named in `IN_RECIPE`, at the largest size that one of its stages asks for
        (`stored_px`), with `faces_args` applied.
        """
        config = self.config()
        settings = {there: getattr(config, own) for own, there in IN_RECIPE.items() if hasattr(config, own)}
        of_paper = Recipe(size_px=config.stored_px, **settings)
        try:
            return _changed("faces", of_paper, self.faces_args)
        except ValueError as error:
            raise ValueError(f"faces: {error}") from error

    def override(self, changes: Mapping[str, Any]) -> "Experiment":
        """Return a copy with other values.

        Keys are `seed`, `train_on`, ..., `model.<path in the paper's Config>`, or `faces.<setting of the extraction>`.
        Raises ValueError naming the allowed keys when one is unknown, or saying what is wrong with a value.
        """
        own = {f.name for f in dataclasses.fields(self)} - {"model_args", "faces_args"}
        plain: dict[str, Any] = {}
        dotted = {"model": dict(self.model_args), "faces": dict(self.faces_args)}
        for key, value in changes.items():
            head, _, path = key.partition(".")
            if path and head in dotted:
                dotted[head][path] = value
            elif key in own:
                plain[key] = value
            else:
                below = {"model": self.config(), "faces": self.recipe()}
                known = [*own, *(path for head, cfg in below.items() for path in models.paths(cfg, f"{head}."))]
                all_known = f"{sorted(own)}, model.<setting of the paper>, faces.<setting of the extraction>"
                raise ValueError(f"unknown key {key!r}; {meant(key, known, f'allowed: {all_known}')}")
        return dataclasses.replace(self, **plain, model_args=dotted["model"], faces_args=dotted["faces"])

    def flat(self) -> dict[str, str | int | float | bool]:
        """Return every setting under its dotted name, for tables and MLflow parameters; a list becomes `a, b`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["model_args"], values["faces_args"]  # `config` and `recipe` have them applied
        values["model_config"] = dataclasses.asdict(self.config())
        values["faces"] = dataclasses.asdict(self.recipe())
        return dict(_flatten(values))


def _changed(head: str, settings: T, changes: Mapping[str, Any]) -> T:
    """Return the settings with other values; see `models.override`. head: what stands before the dot in their keys."""
    known = list(models.paths(settings, f"{head}."))
    for key in (f"{head}.{path}" for path in changes):
        if key not in known and (guess := meant(key, known, "")):
            raise ValueError(f"unknown key {key!r}; {guess}")
    return models.override(settings, changes)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, tuple | list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", value
