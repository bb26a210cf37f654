"""Trials on real faces: stages by Ray Train, scores by Ray Data, results."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import run
from pipelines.run import Compute, Trial

pytestmark = pytest.mark.ray


def trial_of(tiny: Any, storage: Path, experiment: Any = None) -> Trial:
    return run.plan(experiment or tiny.experiment, tiny.videos, tiny.ledgers, tiny.faces, storage)


def test_smoke(tiny: Any, tmp_path: Path) -> None:
    trial = trial_of(tiny, tmp_path)
    run.check(trial, Compute())
    run.run(trial, Compute(), lambda phase, done, total: None)
    print(trial.results().to_pandas().to_string())
