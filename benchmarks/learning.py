"""Does every method learn? Trains each at a preset on the sample corpus and prints in- and cross-dataset AUCs.

    uv run python benchmarks/learning.py [--methods lre plain] [--seeds 3] [--storage DIR]

For each method and test dataset: video-level AUC, mean over the seeds (lowest to highest). Beside them stand what a
constant score gets and the plain classifier, which is one of the methods. FF++ is also shown by manipulation.
The sample corpus says that the machinery works, nothing about the world.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

import models
from pipelines import datasets
from pipelines.common import cluster, progress
from pipelines.datasets.sample import corpus
from pipelines.experiments import protocol
from pipelines.experiments.experiment import PRESETS, Experiment
from pipelines.faces import store
from pipelines.faces.plan import faces_folder
from pipelines.metrics import detection
from pipelines.metrics.names import FINAL
from pipelines.training import job
from pipelines.trials import planner, run
from pipelines.trials.trial import Trial

TEST_ON = ("ffpp", "celeb_df", "deeper_forensics", "dfdc")
Scores = dict[str, float]  # column -> AUC


def extracted(
    experiment: Experiment, storage: Path, roots: dict[str, str]
) -> tuple[dict[str, pa.Table], dict[str, Path]]:
    """VIDEOS and FACES folder of each dataset, as this experiment needs them."""
    from pipelines.faces.extract import extract

    videos = {name: datasets.load(name, roots) for name in TEST_ON}
    built = protocol.build(experiment, videos)
    wanted = pa.array(sorted({i for part in (built.train, built.select, *built.test) for i in part.video_ids}))
    recipe = experiment.recipe()
    faces = {name: faces_folder(storage, name, recipe, roots[name]) for name in videos}
    for name, table in videos.items():
        needed = table.filter(pc.is_in(table["video_id"], wanted))
        if set(store.ledger(faces[name])) < set(needed["video_id"].to_pylist()):
            extract(needed, roots, faces[name], recipe)
    return videos, faces


def learn(experiment: Experiment, storage: Path, roots: dict[str, str], console: Console) -> tuple[Scores, float]:
    """Trains and scores; AUC by test dataset and FF++ manipulation, and the seconds that training took."""
    videos, faces = extracted(experiment, storage, roots)
    ledgers = {name: store.ledger(folder) for name, folder in faces.items()}
    trial = planner.plan(experiment, videos, ledgers, faces, storage)
    planner.check(trial, job.Compute())
    with progress.view(console, f"{experiment.model}, seed {experiment.seed}"):
        run.run_trial(trial, job.Compute(), lambda phase, done, total: None)
    table = pq.read_table(trial.folder / "predictions.parquet")
    final = table.filter(pc.equal(table["stage"], FINAL))
    scores = {}
    for name in TEST_ON:
        scores[name] = _auc(final.filter(pc.equal(final["dataset"], name)), trial)
    home = final.filter(pc.equal(final["dataset"], "ffpp"))
    for method in sorted(set(home["method"].to_pylist()) - {"real"}):
        scores[method] = _auc(home.filter(pc.is_in(home["method"], pa.array(["real", method]))), trial)
    return scores, sum(stage.summary()["seconds"] for stage in trial.planned)


def _auc(predictions: pa.Table, trial: Trial) -> float:
    videos = detection.by_video(predictions, trial.pooling)
    return detection.auc(videos["label"], videos["score"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=models.names(), default=list(models.names()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--storage", type=Path, default=Path("crossforge-storage"))
    arguments = parser.parse_args()
    cluster.prepare_environment(None)
    console = Console(width=max(160, Console().width))  # wide enough for the table, also in a file
    storage = arguments.storage.resolve()
    roots = corpus.make(storage, names=TEST_ON)
    table = Table(title=f"Video AUC in %, {arguments.preset} preset, sample corpus, {arguments.seeds} seeds")
    columns: list[str] = []
    lines = []
    with cluster.connect(None):
        for method in arguments.methods:
            base = Experiment(model=method, train_on="ffpp", test_on=TEST_ON, preset=arguments.preset)
            started = time.monotonic()
            found = [learn(base.override({"seed": s}), storage, roots, console) for s in range(arguments.seeds)]
            columns = list(found[0][0])
            cells = [_spread([scores[column] for scores, _ in found]) for column in columns]
            lines.append((method, *cells, f"{np.mean([seconds for _, seconds in found]):.0f}"))
            console.print(f"{method}: {time.monotonic() - started:.0f} s", dict(zip(columns, cells, strict=True)))
    for column in ("method", *columns, "training s"):
        table.add_column(column, justify="right")
    table.add_row("constant score", *["50.0"] * len(columns), "")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _spread(values: list[float]) -> str:
    low, mean, high = (100 * f(values) for f in (min, np.mean, max))
    return f"{mean:.1f} ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    main()
