"""Every stage of every paper through the same loop: killed in the middle of an epoch, it ends with the same weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import models
from pipelines.experiments.experiment import Experiment
from pipelines.scoring import score
from pipelines.training import loop
from pipelines.training.job import Compute, Job
from pipelines.training.train import train_stage
from pipelines.training.workers import Alone
from pipelines.trials import planner, run
from pipelines.trials.trial import Trial

pytestmark = pytest.mark.ray  # the faces are extracted by Ray; training and scoring are in this process

STAGES = [(paper, stage.name) for paper in models.names() for stage in models.stages(paper)]
EACH_DAY = [("delocate", "recover"), ("plain", "detect")]  # the others are nightly
NUM_EPOCHS, STEPS = 3, 2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All stages train for few steps on few faces; sums in one order."""
    for paper, name in STAGES:
        stage = models.stage(paper, name)

        def feed(cfg: Any, feed: Any = stage.feed) -> models.Feed:
            return replace(feed(cfg), num_epochs=NUM_EPOCHS, steps_per_epoch=STEPS, batch_size=4)

        monkeypatch.setattr(stage, "feed", staticmethod(feed))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Killed(Exception):
    pass


class Mortal(Alone):
    """Stops like a killed process before step `at`: nothing is cleaned up."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def batches(self, job: Any, samples: Any, view: Any, steps: range) -> Iterator[Any]:
        for step, batch in zip(steps, super().batches(job, samples, view, steps), strict=True):
            if step == self.at:
                raise Killed
            yield batch


def job_of(tiny: Any, paper: str, stage_name: str, storage: Path) -> tuple[Trial, Job]:
    """The job of a stage; what it starts from is trained before."""
    experiment = Experiment(model=paper, train_on="ffpp", test_on=("celeb_df",), preset="small")
    trial = planner.plan(experiment, tiny.videos, tiny.ledgers, tiny.faces, storage)
    for planned in trial.planned:
        job = replace(run.job_of(trial, planned, Compute()), checkpoint_steps=1)
        if planned.name == stage_name:
            return trial, job
        train_stage(job)
        if any(run.source_of(trial, later) == planned for later in trial.planned):
            finished = score.FinishedStage(planned=planned, config=experiment.config())
            videos = (*trial.train.videos, *trial.select.videos)
            score.derive(finished, videos, trial.faces, run.derived_path(trial, planned), num_actors=0)
    raise AssertionError(f"{paper} has no stage {stage_name}")


@pytest.mark.parametrize(
    ("paper", "stage_name"),
    [pytest.param(*stage, marks=[] if stage in EACH_DAY else pytest.mark.nightly) for stage in STAGES],
)
def test_a_killed_training_goes_on_and_its_stage_scores(paper, stage_name, tiny, short, tmp_path):
    trial, whole = job_of(tiny, paper, stage_name, tmp_path / "whole")
    train_stage(whole)
    killed = replace(whole, planned=replace(whole.planned, folder=tmp_path / "killed" / whole.planned.digest))
    killed.planned.folder.mkdir(parents=True)
    for at in (1, 3, 4):  # in the first epoch, in the second, at the start of the third
        with pytest.raises(Killed):
            loop.loop(killed, Mortal(at))
    train_stage(killed)
    one, other = (safetensors.torch.load_file(j.planned.folder / "weights.safetensors") for j in (whole, killed))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{name} differs after a restart"
    for mine, theirs in zip(whole.planned.curve(), killed.planned.curve(), strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    if not whole.stage.scores:
        return
    part = trial.test[0]
    actor = score.ScoreVideos([score.FinishedStage(planned=whole.planned, config=whole.config)], trial.faces)
    table = actor(score.as_table(part.videos))
    assert set(table["video_id"].to_pylist()) == {video.video_id for video in part.videos}
    scores = np.array(table["score"].to_pylist())
    assert ((scores >= 0) & (scores <= 1)).all()
