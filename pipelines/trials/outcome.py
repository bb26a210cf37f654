"""One launch of a sweep, as data: what was asked, and the trials that answer it. Reports and MLflow read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.storage import digest
from pipelines.experiments.experiment import TINY_NOTE
from pipelines.experiments.sweep import Sweep
from pipelines.faces.plan import Extraction
from pipelines.trials.trial import Trial

RowSeed = tuple[str, int]  # row of the table, seed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One launch of a sweep: its trials, done or not, and on which data."""

    sweep: Sweep
    preset: str
    config_file: Path | None  # datasets.toml; None: the sample corpus
    storage: Path
    extractions: tuple[Extraction, ...]
    trials: Mapping[RowSeed, Trial]

    @property
    def is_sample(self) -> bool:
        """Whether the data are the sample corpus, so that no number means anything."""
        return self.config_file is None

    @property
    def warning(self) -> str:
        """Why no number means anything, whatever the data are; empty where they may mean something."""
        return TINY_NOTE if self.preset == "tiny" else ""

    @property
    def key(self) -> str:
        """Names the launch: the same for the same rows on the same data."""
        return digest([self.sweep.name, sorted(trial.digest for trial in self.trials.values())])


def name_of(key: RowSeed) -> str:
    """Return how a trial is called while it runs, e.g. `ours seed 0`."""
    row, seed = key
    return f"{row} seed {seed}"
