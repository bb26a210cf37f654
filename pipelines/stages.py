"""The stage store: a stage is trained once, named by the digest of all that can change its weights.

<storage>/stages/<paper>/<stage>/<digest>/
    spec.json              what the digest covers
    curves.jsonl           one line per epoch
    checkpoint-<step>/     weights.safetensors, optimizer.pt, state.json
    best-<epoch>/          best epoch on val so far: weights.safetensors
    weights.safetensors    the best epoch's, when training has ended
    derived.parquet        what later stages read (only where one does)
    predictions/           one Parquet file per scored part
    _done.json             last; a folder without it is resumed, never read
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

import models
from pipelines.experiment import Experiment, digest


class StorageError(ValueError):
    """The storage folder can't be used; the text says what to do."""


def write_atomic(path: Path, data: bytes) -> None:
    """`path` holds either its old content or all of `data`, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # not the pid: nodes share the folder
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not readable JSON ({error}); delete {path.parent} and run again") from error


def put_folder(parent: Path, prefix: str, number: int, files: Mapping[str, bytes]) -> None:
    """Adds `<prefix>-<number>` with these files, whole or not at all, and drops all but the two newest.

    One that exists already stays: it was written at the same point of the same training, maybe at this moment by a
    worker on a node that was given up for lost and is still there.
    """
    path, fresh = parent / f"{prefix}-{number:08d}", parent / f".{prefix}-{uuid.uuid4().hex}.new"
    if not path.exists():
        fresh.mkdir(parents=True)
        try:
            for name, data in files.items():
                with (fresh / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            fresh.rename(path)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not path.exists():
                raise
    for outdated in folders(parent, prefix)[:-2]:
        shutil.rmtree(outdated, ignore_errors=True)


def folders(parent: Path, prefix: str) -> list[Path]:
    """What `put_folder` wrote, oldest first."""
    return sorted(path for path in parent.glob(f"{prefix}-*") if path.is_dir())


def check_storage(uri: str, *, write: bool = True) -> Path:
    """The storage folder, made if missing where `write`. Raises StorageError if it can't be written."""
    if "://" in uri:
        raise StorageError(f"--storage {uri}: only folders are supported so far; mount the bucket and name the folder")
    path = Path(uri).expanduser().resolve()
    if not write:
        return path
    try:
        write_atomic(path / ".writable", b"")
        (path / ".writable").unlink()
    except OSError as error:
        raise StorageError(
            f"--storage {path} can't be written ({error.strerror}); name a folder that can, with some GB free"
        ) from error
    return path


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of one experiment, and where it lives."""

    paper: str
    name: str
    folder: Path
    spec: Mapping[str, Any]
    needs: tuple[str, ...] = ()  # names of earlier stages of the same experiment that must be done first

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        return (self.folder / "_done.json").exists()

    def finish(self, best_epoch: int, summary: Mapping[str, Any]) -> None:
        """Marks the stage as trained: its weights are the best epoch's."""
        best = self.folder / f"best-{best_epoch:08d}" / "weights.safetensors"
        write_atomic(self.folder / "weights.safetensors", best.read_bytes())
        write_json(self.folder / "_done.json", summary)
        half_written = self.folder.glob(".*.new")
        for leftover in (*folders(self.folder, "checkpoint"), *folders(self.folder, "best"), *half_written):
            shutil.rmtree(leftover, ignore_errors=True)

    def summary(self) -> Mapping[str, Any]:
        if not self.done:
            raise StorageError(f"{self.folder} is not finished; run the sweep again to go on with it")
        return read_json(self.folder / "_done.json")

    def curve(self) -> list[dict[str, Any]]:
        """One entry per finished epoch."""
        path = self.folder / "curves.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training: no two trials, of this sweep or another, train the same stage at once.

        The lock belongs to the process and goes with it, so a killed trial leaves none behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            yield


def plan(
    experiment: Experiment, rows: Mapping[str, str], storage: Path, accumulate: Mapping[str, int] = {}
) -> tuple[PlannedStage, ...]:
    """The experiment's stages in order.

    `rows` maps a view to the digest of the rows (ids and contents) that training and selection see through it.
    `accumulate`: as in `run.Compute`; it counts where it changes the weights.
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
        spec = {
            "paper": experiment.model,
            "stage": stage.name,
            "version": models.version(experiment.model),
            "settings": stage.settings(config),
            "rows": rows[stage.view],
            "needs": {name: planned[name].digest for name in needs},
            "seed": experiment.seed,
        }
        cuts = accumulate.get(f"{experiment.model}.{stage.name}", 1)
        if cuts > 1 and stage.accumulates != "exactly":
            spec["accumulate"] = cuts
        folder = storage / "stages" / experiment.model / stage.name / digest(spec)
        planned[stage.name] = PlannedStage(
            paper=experiment.model, name=stage.name, folder=folder, spec=spec, needs=needs
        )
    if not any(models.stage(experiment.model, name).scores for name in planned):
        raise ValueError(f"{experiment.model}: none of the stages {config.stages} gives a score")
    return tuple(planned.values())
