"""What a sweep costs beside training and the model's forward pass; how many stages it saves.

    uv run python benchmarks/sweep_overhead.py [--methods lre plain] [--trials 3] [--videos 4]

On a tiny sample corpus that it makes in a temporary folder:
    stages    every sweep's number of stages, of distinct ones, and how many need not be trained for that
    trial     wall seconds of each of several trials through Ray Tune, one after the other, beside the seconds that the
              training loop itself took (epochs with their validation) and that scoring its test videos takes bare
    scoring   faces per second through `evaluate` (read, decode, prepare, score, table) beside the bare forward pass on
              the same prepared batches, one CPU thread each, at the papers' sizes with random weights
"""

import argparse
import importlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

import models
from pipelines import datasets
from pipelines.common import cluster, device, storage
from pipelines.datasets.sample.corpus import make
from pipelines.experiments.experiment import Experiment
from pipelines.faces import store
from pipelines.faces.recipe import Recipe
from pipelines.launch.cost import rows_unseen
from pipelines.scoring import score
from pipelines.training import job, stages
from pipelines.training.samples import Samples
from pipelines.trials import planner, tune
from pipelines.trials.trial import Trial

SHORT = {"model.num_epochs": 2, "model.samples_per_video": 1}


def count_stages() -> Table:
    table = Table("sweep", "trials", "stages used", "distinct", "saved", title="Stages, small preset, one seed")
    for path in sorted((Path(__file__).parents[1] / "sweeps").glob("[!_]*.py")):
        sweep = importlib.import_module(f"sweeps.{path.stem}").SWEEP
        experiments = sweep.experiments("small", 1, {}).values()
        used = [stage.digest for one in experiments for stage in stages.plan(one, rows_unseen(one), Path())]
        distinct = len(set(used))
        if distinct < len(used):
            table.add_row(path.stem, *map(str, (len(experiments), len(used), distinct, len(used) - distinct)))
    return table


class Corpus:
    """Faces of a tiny corpus, cut once for everything here."""

    def __init__(self, folder: Path) -> None:
        from pipelines.faces.extract import extract

        self.folder = folder
        self.roots = make(folder, size="tiny", names=("ffpp",))
        everything = datasets.load("ffpp", self.roots)
        c23 = [codec == "c23" for codec in everything["codec"].to_pylist()]
        self.videos = {"ffpp": everything.filter(pa.array(c23))}
        self.faces = {"ffpp": folder / "faces"}
        extract(self.videos["ffpp"], self.roots, self.faces["ffpp"], Recipe(num_frames=8, size_px=380))

    def trial(self, experiment: Experiment) -> Trial:
        ledgers = {"ffpp": store.ledger(self.faces["ffpp"])}
        return planner.plan(experiment, self.videos, ledgers, self.faces, self.folder)


# -------------------------------------------------------------------------------------------- trials
def time_trials(corpus: Corpus, number: int) -> Table:
    base = Experiment(model="plain", train_on="ffpp", test_on=("ffpp",), preset="small").override(SHORT)
    trials = [corpus.trial(base.override({"seed": seed})) for seed in range(number)]
    compute = job.Compute(scoring_actors=0)
    tune.fit([corpus.trial(base.override({"seed": number}))], compute, 1, corpus.folder / "ray", lambda: None)  # warm
    started = time.monotonic()
    tune.fit(trials, compute, 1, corpus.folder / "ray", lambda: None)
    wall = (time.monotonic() - started) / number
    assert all(trial.done for trial in trials), tune.failure_of(trials[0])
    loop = sum(trial.planned[0].summary()["seconds"] for trial in trials) / number
    scored = time_scoring_of(trials[0])
    table = Table("trial", "training loop", "bare scoring", "beside both", title=f"Seconds per trial, of {number}")
    table.add_row(*(f"{seconds:.1f}" for seconds in (wall, loop, scored, wall - loop - scored)))
    return table


def time_scoring_of(trial: Trial) -> float:
    finished = [score.FinishedStage(planned=stage, config=trial.experiment.config()) for stage in trial.scoring_stages]
    scorer = score.ScoreVideos(finished, trial.faces)
    videos = [video for part in trial.test for video in part.videos]
    started = time.monotonic()
    scorer(score.as_table(videos))
    return time.monotonic() - started


# ------------------------------------------------------------------------------------------- scoring
def untrained(trial: Trial, stage: stages.PlannedStage) -> score.FinishedStage:
    """The stage with random weights, as if it were trained."""
    config = trial.experiment.config()
    module = models.stage(stage.paper, stage.name)(config)
    stage.folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(module.state_dict(), stage.folder / "weights.safetensors")
    storage.write_json(stage.folder / "_done.json", {})
    return score.FinishedStage(planned=stage, config=config)


def scoring_speed(corpus: Corpus, method: str, num_videos: int) -> Mapping[str, tuple[float, float]]:
    """Stage -> faces per second through `evaluate`, and of the forward pass."""
    experiment = Experiment(model=method, train_on="ffpp", test_on=("ffpp",), model_args={"pretrained": False})
    trial = corpus.trial(experiment)
    videos = trial.test[0].videos[:num_videos]
    found = {}
    for stage in trial.scoring_stages:
        one = untrained(trial, stage)
        scorer = score.ScoreVideos([one], trial.faces)
        table = score.as_table(videos)
        scorer(score.as_table(videos[:1]))  # warm
        started = time.monotonic()
        faces = scorer(table).num_rows
        whole = time.monotonic() - started
        found[f"{method}, {stage.name}"] = (faces / whole, faces / forward_seconds(one, trial, videos))
    return found


@torch.no_grad()
def forward_seconds(one: score.FinishedStage, trial: Trial, videos: tuple) -> float:
    on = device.best()
    module = one.load(on)
    samples = Samples(models.stage(one.planned.paper, one.planned.name), one.config, trial.faces)
    arrays = [sample for video in videos for _, sample in samples.scoring_samples(video, seed=0)]
    chunks = [arrays[first : first + score.BATCH_SAMPLES] for first in range(0, len(arrays), score.BATCH_SAMPLES)]
    batches = [score.as_batch(chunk, on) for chunk in chunks]
    started = time.monotonic()
    for batch in batches:
        with device.autocast(one.planned.numerics, on):
            out = module.score(batch)
        out["logit"].cpu()
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=models.names(), default=list(models.names()))
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--videos", type=int, default=4, help="of 8 frames, that are scored at the paper's size")
    arguments = parser.parse_args()
    cluster.prepare_environment(None)
    torch.set_num_threads(1)
    console = Console(width=110)
    console.print(count_stages())
    with tempfile.TemporaryDirectory() as folder, cluster.connect(None):
        corpus = Corpus(Path(folder))
        console.print(time_trials(corpus, arguments.trials))
        table = Table("stage", "faces/s", "forward alone", "ratio", title="Scoring at the papers' sizes")
        for method in arguments.methods:
            for name, (whole, bare) in scoring_speed(corpus, method, arguments.videos).items():
                table.add_row(name, f"{whole:.2f}", f"{bare:.2f}", f"{whole / bare:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
