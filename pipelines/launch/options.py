"""How a sweep is launched: what `switches` say, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.experiments.experiment import Preset


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where data and results are, how large the experiments are, and what each trial may use."""

    datasets: str | None = None  # a datasets.toml; None: see `faces.sources.datasets_file`
    named: str = ""  # what a plan says in place of `datasets`, of one that was made from what the user has named
    storage: str = DEFAULT_STORAGE
    preset: Preset | None = None  # None: paper with datasets of one's own, small on the sample corpus
    seeds: int | None = None  # of each row; None: as many as the sweep says for the preset
    settings: Mapping[str, Any] = field(default_factory=dict)  # of all rows, where they say nothing themselves
    pretrained: bool = True  # False: random weights where the paper starts from ImageNet's
    # Network of timm, or empty for all not named -> file or installed package with the weights it starts from.
    weights: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[int, int] | None = None  # fewest and most of a trial, 0: none; None: see `resources.asked`
    gpus_per_worker: float | None = None  # None: 1 where there are GPUs
    accumulate: Mapping[str, int] = field(default_factory=dict)  # `<paper>.<stage>` -> cuts of a worker's share
    address: str | None = None  # of a Ray cluster; None: one on this machine alone
    search: int | None = None  # how many settings to try; None: the rows of the sweep instead
    space: tuple[str, ...] = ()  # what a search varies, `<key>=<values>`; empty: what the sweep says
    dry_run: bool = False  # print the plan and touch nothing
