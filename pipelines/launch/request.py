"""What one launch is asked for: a sweep and its switches, resolved to experiments, data and a storage folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

import models
from models._weights import architecture
from pipelines.common.storage import check_storage
from pipelines.common.text import meant
from pipelines.experiments.experiment import Experiment, Preset
from pipelines.experiments.sweep import Sweep
from pipelines.faces import sources
from pipelines.launch.options import Options
from pipelines.training import pretrained
from pipelines.training.sharing import check_accumulates
from pipelines.trials.outcome import RowSeed


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sweep as it was asked for."""

    sweep: Sweep
    options: Options
    config_file: Path | None  # datasets.toml; None: the sample corpus
    preset: Preset
    experiments: Mapping[RowSeed, Experiment]

    @classmethod
    def of(cls, sweep: Sweep, options: Options) -> "Request":
        """Return the request that a sweep and its switches make. Raises ValueError for what the sweep has not got."""
        config_file = sources.datasets_file(options.datasets)
        preset = options.preset or ("paper" if config_file else "small")
        changes = dict(options.settings) if options.pretrained else {**options.settings, "model.pretrained": False}
        _check_settings(options.settings, sweep)
        experiments = sweep.experiments(preset, options.seeds or sweep.seeds[preset], changes)
        _check_accumulate(options.accumulate, experiments)
        if options.weights:
            experiments = _with_weights(experiments, options)
        return cls(sweep=sweep, options=options, config_file=config_file, preset=preset, experiments=experiments)

    @property
    def is_sample(self) -> bool:
        return self.config_file is None

    @property
    def takes_few(self) -> bool:
        """Whether a few videos of each kind are enough: preset tiny, whose own corpus has no more anyway."""
        return self.preset == "tiny" and not self.is_sample

    @cached_property
    def storage(self) -> Path:
        """The storage folder: made and tried out, unless this is a dry run, which leaves no trace."""
        return check_storage(self.options.storage, write=not self.options.dry_run)

    @property
    def corpus_size(self) -> str:
        """How large the sample corpus is, where that is used."""
        return sources.corpus_size(self.preset)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that the experiments name, in alphabetical order."""
        names = {name for e in self.experiments.values() for name in (e.train_on, *e.test_on)}
        return tuple(sorted({name.partition("/")[0] for name in names}))

    def roots(self, console: Console) -> dict[str, str] | None:
        """Return dataset -> root; the sample corpus is made if need be. None: a dry run would have to make it."""
        return sources.roots_of(
            self.config_file, self.storage, self.datasets, console, self.options.dry_run, size=self.corpus_size
        )


def _check_settings(settings: Mapping[str, Any], sweep: Sweep) -> None:
    """Raise ValueError for a setting that has its own switch, or that all rows decide themselves."""
    for key in settings:
        if key in ("preset", "seed", "weights"):
            raise ValueError(f"--set {key}: use --{'seeds' if key == 'seed' else key}")
        if all(key in (row.settings or {}) for row in sweep.running):
            raise ValueError(f"--set {key}: each row of {sweep.name} has its own; leave it out, or choose --rows")


def _with_weights(experiments: Mapping[RowSeed, Experiment], options: Options) -> dict[RowSeed, Experiment]:
    """Return the experiments with the weights of `--weights`, which the storage has afterwards, save in a dry run."""
    networks = {key: _networks(experiment) for key, experiment in experiments.items()}
    storage = None if options.dry_run else check_storage(options.storage)
    taken = pretrained.take(options.weights, {name for names in networks.values() for name in names}, storage)
    return {
        key: experiment.override({"weights": {name: taken[name] for name in networks[key] if name in taken}})
        for key, experiment in experiments.items()
    }


def _networks(experiment: Experiment) -> set[str]:
    """Return the names, without tags, of timm's networks that an experiment starts from."""
    config = experiment.config()
    of_stages = (stage for stage in models.stages(experiment.model) if stage.name in config.stages)
    return {architecture(name) for stage in of_stages for name in stage.pretrained_networks(config)}


def _check_accumulate(accumulate: Mapping[str, int], experiments: Mapping[RowSeed, Experiment]) -> None:
    """Raise ValueError for a stage that is to be cut and that no experiment trains, or that cannot be cut."""
    known = sorted({f"{e.model}.{name}" for e in experiments.values() for name in e.config().stages})
    if unknown := sorted(accumulate.keys() - set(known)):
        guess = meant(unknown[0], known, f"this sweep trains {', '.join(known)}")
        raise ValueError(f"--accumulate {', '.join(unknown)}: {guess}")
    for name in accumulate:
        check_accumulates(models.stage(*name.split(".")))
