"""The stage store: a stage is trained once, named by the digest of all that can change its weights.

<storage>/stages/<paper>/<stage>/<digest>/
    spec.json              what the digest covers
    curves.jsonl           one line per epoch
    checkpoint-<step>/     weights.safetensors, optimizer.pt, state.json
    best-<epoch>/          best epoch on val at a checkpoint: weights.safetensors; in a bucket, both names go on
    weights.safetensors    the best epoch's, when training has ended
    derived/               what later stages read (only where one does): a Parquet file for each set of videos
    predictions/           one Parquet file per scored part
    _done.json             last; a folder without it is resumed, never read
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import models
from models._weights import architecture
from pipelines.common.lease import Claim
from pipelines.common.numerics import Numerics
from pipelines.common.storage import (
    StorageError,
    claim_of,
    digest,
    folders,
    locked,
    make_folder,
    number_of,
    read_json,
    remove_folders,
    write_bytes,
    write_json,
)
from pipelines.experiments.experiment import Experiment
from pipelines.training import pretrained, samples, views

MOST_TOLD = 60  # letters of two values that are shown
# Of the files that train, beside `VERSION` of the paper's. Raise one when its file makes something else of the same
# settings, as a test (`test_golden`) then asks for: all stages are trained anew.
VERSIONS = {"views": 1, "samples": 1, "loop": 2}


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of one experiment, and where it lives."""

    paper: str
    name: str
    folder: Path
    spec: Mapping[str, Any]
    needs: tuple[str, ...] = ()  # names of earlier stages of the same experiment that must be done first
    weights: Mapping[str, Path] = field(default_factory=dict)  # network -> those of one's own that it starts from

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        return (self.folder / "_done.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether a training of the stage has begun, done or not."""
        return (self.folder / "spec.json").is_file()

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Names of the weights that it starts from: timm's, or a network's name with the SHA-256 of one's own."""
        return tuple(self.spec.get("pretrained", ()))

    @property
    def numerics(self) -> Numerics:
        """How its network computes, in training and in scoring."""
        return Numerics(**{name: self.spec[name] for name in ("precision", "deterministic") if name in self.spec})

    def finish(self, best_epoch: int, summary: Mapping[str, Any], best: bytes | None = None) -> None:
        """Mark the stage as trained: its weights are the best epoch's, by default those that lie in its folder."""
        if best is None:
            kept = {number_of(folder): folder for folder in folders(self.folder, "best")}
            best = (kept.get(best_epoch, self.folder / f"best-{best_epoch:08d}") / "weights.safetensors").read_bytes()
        write_bytes(self.folder / "weights.safetensors", best)
        write_json(self.folder / "_done.json", summary)
        for prefix in ("checkpoint", "best"):
            remove_folders(self.folder, prefix)
        for half_written_file in self.folder.glob(".*.tmp"):  # weights of GBs, of a process that was killed
            half_written_file.unlink(missing_ok=True)

    def summary(self) -> Mapping[str, Any]:
        """Return what the training said of itself. Raises StorageError if the stage is not trained."""
        if not self.done:
            raise StorageError(f"{self.folder} is not finished; run the sweep again to go on with it")
        return read_json(self.folder / "_done.json")

    def curve(self) -> list[dict[str, Any]]:
        """Return an entry for each finished epoch: `epoch`, `step`, `lr`, `seconds`, `train/...`, `val/...`."""
        try:
            lines = (self.folder / "curves.jsonl").read_text().splitlines()
        except FileNotFoundError:  # not asked before: in a bucket that is a request
            return []
        return [json.loads(line) for line in lines]

    @contextmanager
    def lock(self) -> Iterator[Claim]:
        """Hold the stage while it is trained: no two trials, of this sweep or another, train the same stage at once.

        The lock belongs to the process and goes with it, so a killed trial leaves none behind: see `storage.locked`.
        Yields what shows that it is still held.
        """
        make_folder(self.folder)
        with locked(self.folder / ".lock") as held:
            yield claim_of(held)


def plan(
    experiment: Experiment, rows: Mapping[str, str], storage: Path, accumulate: Mapping[str, int] = {}
) -> tuple[PlannedStage, ...]:
    """Return the experiment's stages in order. Raises ValueError where one lacks a stage that it needs.

    `rows` maps a view to the digest of the rows (ids and contents) that training and selection see through it, and of
    the videos in which selection counts every face; so does the name of a stage that has videos of its own.
    `accumulate`: as in `job.Compute`; it counts where it changes the weights.
    """
    config = experiment.config()
    planned: dict[str, PlannedStage] = {}
    for stage in models.stages(experiment.model):
        if stage.name not in config.stages:
            continue
        wanted = {name for name in (stage.starts_from, stage.reads_of(config)) if name}
        needs = tuple(name for name in planned if name in wanted)
        if missing := sorted(wanted - planned.keys()):
            raise ValueError(f"{experiment.model}: {stage.name} needs {', '.join(missing)}, not in {config.stages}")
        networks = stage.pretrained_networks(config)
        own = {name: experiment.weights.get(architecture(name), "") for name in networks}
        spec = {
            "paper": experiment.model,
            "stage": stage.name,
            "versions": versions(experiment.model),
            "settings": stage.settings(config),
            "feed": _feed(stage, config),
            "selection": _selection(stage, config),
            "pretrained": tuple(f"{architecture(name)} sha256:{own[name]}" if own[name] else name for name in networks),
            "precision": experiment.precision,
            "deterministic": experiment.deterministic,
            "rows": rows.get(stage.name, rows[stage.view]),
            "needs": {name: planned[name].digest for name in needs},
            "seed": experiment.seed,
        }
        cuts = accumulate.get(f"{experiment.model}.{stage.name}", 1)
        if cuts > 1 and stage.accumulates != "exactly":
            spec["accumulate"] = cuts
        folder = storage / "stages" / experiment.model / stage.name / digest(spec)
        planned[stage.name] = PlannedStage(
            paper=experiment.model,
            name=stage.name,
            folder=folder,
            spec=spec,
            needs=needs,
            weights={architecture(name): pretrained.path_of(storage, sha256) for name, sha256 in own.items() if sha256},
        )
    if not any(models.stage(experiment.model, name).scores for name in planned):
        raise ValueError(f"{experiment.model}: none of the stages {config.stages} gives a score")
    return tuple(planned.values())


def trained_otherwise(planned: PlannedStage) -> tuple[str, ...]:
    """Return in what the most similar trained stage differs, of those with the same settings and seed; empty: none is.

    Each is a key of `spec`, with the values there and here where they are short: `versions.views 1 -> 2`.
    """
    here = json.loads(json.dumps(planned.spec))
    nearest: tuple[str, ...] = ()
    for marker in sorted(planned.folder.parent.glob("*/_done.json")):
        there = read_json(marker.with_name("spec.json"))
        if marker.parent == planned.folder or any(there.get(key) != here[key] for key in ("settings", "seed")):
            continue
        differences = tuple(_differences(there, here))
        if not nearest or len(differences) < len(nearest):
            nearest = differences
    return nearest


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            told = f" {old} -> {new}"
            yield f"{prefix}{key}{told if key in there and key in here and len(told) < MOST_TOLD else ''}"


def versions(paper: str) -> dict[str, int]:
    """Return the version of each part of the code that decides a stage's weights."""
    return {paper: models.version(paper), **VERSIONS}


def _feed(stage: type[models.Stage], config: Any) -> dict[str, Any]:
    """Return what decides which samples a stage sees in which step, besides the rows and the seed."""
    feed = stage.feed(config)
    decided: dict[str, Any] = models.named(feed) | {
        "view": stage.view,
        "tries_per_video": views.TRIES_PER_VIDEO,
        "most_tries": views.MOST_TRIES,
    }
    if stage.view == "domain_frames":
        decided["meta_train_share"] = views.META_TRAIN_SHARE
    if feed.donors:
        decided["most_donors"] = samples.MOST_DONORS
    return decided


def _selection(stage: type[models.Stage], config: Any) -> dict[str, Any]:
    """Return what decides which epoch is kept, and its numbers on validation, besides the rows."""
    decided: dict[str, Any] = {"by": stage.selects_by, "balances_loss": stage.balances_val_loss}
    if stage.scores:  # its scores of faces become that of a video as in tests
        decided["pooling"] = asdict(stage.pooling(config))
    return decided if stage.view in views.CLIP_VIEWS else decided | {"frames_per_video": samples.VAL_FRAMES}
