"""A sweep's report folder and its runs, read back: all that a report is made of, without a model or Ray.

<storage>/reports/<sweep>-<key>/table.json   what was asked: rows, columns, published values, the run of each trial
<storage>/stages/<paper>/<stage>/<digest>/   spec.json, curves.jsonl, _done.json: of its trainings, while they are kept
<storage>/runs/<digest>/                     trial.json, predictions.parquet, validation.parquet (of trials of ours),
                                             sources.parquet, results.parquet, _done.json
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import storage
from pipelines.common.tables import RESULTS, SOURCES, to_table
from pipelines.experiments.sweep import Column
from pipelines.faces import perturb
from pipelines.metrics import detection, results, significance
from pipelines.metrics.calibration import Fitted
from pipelines.metrics.names import FINAL, FITTED, LOCALIZING, UNSEEN
from pipelines.metrics.resampling import Population
from pipelines.metrics.results import Origin, Predictions, Validated

TABLE = "table.json"
WARNING = "warning"  # fact: why no number means anything
AGAIN = "run its sweep again (only what this version makes otherwise is made anew), then this"
# Columns of RESULTS that count videos.
COUNTS = ("n_real", "n_fake", "n_clusters", "n_padded", "n_missing", "n_excluded")
_SAME = 1e-6  # values made again may differ by it: other machines round sums otherwise

ScoredAt = tuple[str, str, str]  # part, level, perturbation


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table, without what is run for it."""

    label: str
    published: tuple[str, ...]  # in percent, as printed, one for each column; `-`: none
    runs: bool = True  # False: it is published only
    baseline: str = ""  # the row that it is tested against; empty, or its own label: none
    note: str = ""  # what a reader must know of it


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One trial of a table."""

    row: str
    seed: int
    run: str  # digest
    failure: str = ""  # why it has no numbers
    foreign: bool = False  # True: its scores were made elsewhere, and no seed is known


@dataclass(frozen=True, kw_only=True)
class Saved:
    """`table.json`: what was asked, and of what the answer is made. Its texts may hold any character."""

    name: str
    title: str
    row_name: str
    is_sample: bool
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    trials: tuple[Planned, ...]
    facts: Mapping[str, str]
    leaks: tuple[str, ...] = ()
    coverage: tuple[Mapping[str, Any], ...] = ()  # by dataset, split, label, method: videos given, ok, and why not

    @property
    def warning(self) -> str:
        """Why no number means anything; empty where they may mean something."""
        return "; ".join(filter(None, (self.facts["data"] if self.is_sample else "", self.facts.get(WARNING, ""))))

    @property
    def baselines(self) -> frozenset[str]:
        """The labels of the rows that others are tested against."""
        return frozenset(line.baseline for line in self.rows if line.baseline not in ("", line.label))

    def write(self, folder: Path) -> Path:
        """Write `table.json` into the folder; return its path."""
        storage.write_text(folder / TABLE, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")
        return folder / TABLE

    @classmethod
    def read(cls, folder: Path) -> "Saved":
        """Read `table.json` of a folder. Raises ValueError if there is none, or it is of another version."""
        path = folder / TABLE
        if not path.is_file():
            raise ValueError(f"{folder} holds no {TABLE}: {AGAIN}")
        told = storage.read_json(path)
        try:
            columns = tuple(Column(**column) for column in told["columns"])
            trials = tuple(Planned(**planned) for planned in told["trials"])
            rows = tuple(Line(**{**line, "published": tuple(line["published"])}) for line in told["rows"])
            rest = {name: tuple(told[name]) for name in ("leaks", "coverage")}
            return cls(**{**told, "columns": columns, "trials": trials, "rows": rows, **rest})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not what this version writes ({error}): {AGAIN}") from error


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training of a stage, as its folder tells it."""

    stage: str
    digest: str
    curve: tuple[Mapping[str, float], ...]  # a line for each epoch: `epoch`, `train/...`, `val/...`
    best_epoch: int  # whose weights were kept


@dataclass(frozen=True, kw_only=True)
class Run:
    """The folder of a trial that is done."""

    folder: Path
    origin: Origin
    # Part, stage, rows: whose rows follow each other in PREDICTIONS, of test parts and of the validation part.
    blocks: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read what a folder is. Raises ValueError if it is not there, not done, or of another version."""
        if not (folder / "_done.json").is_file():
            raise ValueError(f"{folder} holds no finished run; name its storage by --storage, or run its sweep again")
        done, trial = storage.read_json(folder / "_done.json"), folder / "trial.json"
        told = storage.read_json(trial) if trial.is_file() else {}
        if "predictions" not in done or "origin" not in told:
            raise ValueError(f"{folder} was made before runs kept what their numbers need: {AGAIN}")
        try:
            origin = Origin.of_json(told["origin"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"{trial} is not what this version writes ({error}): {AGAIN}") from error
        validation = tuple(done.get("validation", ()))
        return cls(folder=folder, origin=origin, blocks=tuple(done["predictions"]), validation=validation)

    @cached_property
    def results(self) -> pa.Table:
        """RESULTS as they are stored."""
        return pq.read_table(self.folder / "results.parquet")

    @cached_property
    def sources(self) -> pa.Table:
        """SOURCES of the videos of its parts."""
        return pq.read_table(self.folder / "sources.parquet")

    @cached_property
    def trainings(self) -> tuple[Trained, ...]:
        """Its stages that were trained and are still kept, each after those that it needs; none of a foreign run."""
        told = storage.read_json(self.folder / "trial.json")
        paper, stages = told.get("experiment", {}).get("model", ""), told.get("stages", {})
        folders = {name: self.folder.parents[1] / "stages" / paper / name / stages[name] for name in sorted(stages)}
        kept = {name: folder for name, folder in folders.items() if (folder / "_done.json").is_file()}
        needs = {name: storage.read_json(folder / "spec.json").get("needs", {}) for name, folder in kept.items()}
        return tuple(
            Trained(
                stage=name,
                digest=kept[name].name,
                curve=tuple(map(json.loads, (kept[name] / "curves.jsonl").read_text().splitlines())),
                best_epoch=storage.read_json(kept[name] / "_done.json")["best_epoch"],
            )
            for name in TopologicalSorter(needs).static_order()
            if name in kept
        )

    @cached_property
    def validated(self) -> Validated:
        """What the scores of each stage on the validation part say."""
        return results.validated(self.origin, self._read("validation.parquet", self.validation))

    def tables(self) -> list[Predictions]:
        """Read each block of test parts with its PREDICTIONS, without the predicted masks themselves.

        They may still be large. Raises ValueError if the file has other rows than the run says.
        """
        return self._read("predictions.parquet", self.blocks)

    def _read(self, name: str, blocks: Sequence[Mapping[str, Any]]) -> list[Predictions]:
        if not blocks:
            return []
        columns = [column for column in pq.read_schema(self.folder / name).names if column != "mask_png"]
        table = pq.read_table(self.folder / name, columns=columns)
        read, first = [], 0
        for block in blocks:
            read.append((block, table.slice(first, block["rows"])))
            first += block["rows"]
        if first != table.num_rows:
            raise ValueError(f"{self.folder}: {name} has {table.num_rows} rows, _done.json says {first}")
        return read

    def made_again(self, tables: Sequence[Predictions]) -> pa.Table:
        """Return RESULTS made from what `tables` returned, by today's code; `commit` is that of the stored ones."""
        validation = self._read("validation.parquet", self.validation)
        rows = results.every_row(self.origin, tables, self.results["commit"][0].as_py(), self.sources, validation)
        return to_table(rows, RESULTS)


def where(table: pa.Table, values: Mapping[str, str]) -> pa.Table:
    """Return the rows of RESULTS that have these values; column -> value."""
    for name, value in values.items():
        table = table.filter(pc.equal(table[name], value))
    return table


def differing(stored: pa.Table, again: pa.Table) -> list[str]:
    """Return what of RESULTS is not the same when made again, a line for each number."""
    compared = ("value", "low", "high", *COUNTS)
    key_names = [name for name in RESULTS.names if name not in (*compared, "note", "commit")]

    def by_key(table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {tuple(row[name] for name in key_names): row for row in table.to_pylist()}

    old, new = by_key(stored), by_key(again)
    lines = [f"{_name(row)}: stored, but not made again" for key, row in old.items() if key not in new]
    lines += [f"{_name(row)}: made again, but not stored" for key, row in new.items() if key not in old]
    for key in old.keys() & new.keys():
        for name in compared:
            a, b = old[key][name], new[key][name]
            if not (a == b or math.isclose(a, b, abs_tol=_SAME) or (math.isnan(a) and math.isnan(b))):
                lines.append(f"{_name(old[key])} {name}: stored {a:g}, now {b:g}")
    return sorted(lines)


def _name(row: Mapping[str, Any]) -> str:
    words = (row[name] for name in ("run_id", "stage", "test_dataset", "perturbation", "level", "metric"))
    return " ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report needs of one run: its numbers, and small tables of its final scores."""

    row: str
    seed: int
    run: Run
    results: pa.Table
    scores: Mapping[ScoredAt, pa.Table]  # as `results.scores_at` returns them
    masks: Mapping[tuple[str, str], pa.Table]  # part, perturbation -> rows that `detection.masked` takes

    @classmethod
    def of(cls, planned: Planned, run: Run, columns: Sequence[Column], *, again: bool) -> "Material":
        """Read a run for a table with these columns. again: RESULTS are made again from PREDICTIONS.

        Raises ValueError if PREDICTIONS are not whole.
        """
        tables = run.tables()
        wanted = {"", *(name for column in columns for name in _perturbations(column))}
        levels = {"video", *(column.level for column in columns if column.metric not in LOCALIZING)}
        scores, masks = {}, {}
        for block, predictions in tables:
            perturbation = block.get("perturbation", "")
            if block["stage"] == FINAL and perturbation in wanted:
                part = run.origin.part(block["part"])
                for level in levels:
                    scores[part.name, level, perturbation] = results.scores_at(level, run.origin, part, predictions)
                if (faces := detection.with_masks(predictions)).num_rows:
                    names = ("video_id", "label", "mask_tp", "mask_fp", "mask_fn", "mask_tn")
                    masks[part.name, perturbation] = faces.select(names)
        return cls(
            row=planned.row,
            seed=planned.seed,
            run=run,
            results=run.made_again(tables) if again else run.results,
            scores=scores,
            masks=masks,
        )

    def terms(self, column: Column) -> significance.Terms:
        """Return what the column's number is the mean of; empty where the run lacks some of it."""
        fitted = self.run.validated.get((FINAL, column.level)) if column.metric in FITTED else None
        if column.metric in FITTED and not isinstance(fitted, Fitted):
            return ()
        groups: dict[str, list[pa.Table]] = {}
        for name, manipulation in self._parts(column.test):
            for perturbation in _perturbations(column):
                if column.metric in LOCALIZING:
                    table = self.masks.get((name, perturbation))
                else:
                    table = self.scores.get((name, column.level, perturbation))
                if table is None:
                    return ()
                table = detection.of_method(table, manipulation) if manipulation else table
                table = fitted.applied(column.metric, table) if isinstance(fitted, Fitted) else table
                groups.setdefault(self.run.origin.part(name).dataset, []).append(table)
        return list(groups.values())

    def _parts(self, test: str) -> list[tuple[str, str]]:
        """Return the parts of which a column is the mean, each with the one manipulation that counts, or none."""
        origin = self.run.origin
        if test == UNSEEN:
            unseen = [part for part in origin.parts if origin.train_on and part.dataset != origin.train_on]
            return [(part.name, "") for part in unseen] if len({part.dataset for part in unseen}) > 1 else []
        if not test:
            return [(part.name, "") for part in origin.parts]
        names = {part.name for part in origin.parts}
        whole, _, manipulation = test.rpartition("/")
        return [(test, "")] if test in names else [(whole, manipulation)] if whole in names else []


def sources(materials: Sequence[Material]) -> pa.Table:
    """Return SOURCES of the videos of several runs; a video has one row."""
    table = pa.concat_tables([SOURCES.empty_table(), *(material.run.sources for material in materials)])
    ids = table["video_id"].combine_chunks()
    return table.take(pc.index_in(ids.unique(), ids))


def population(materials: Sequence[Material]) -> Population:
    """Return all videos that several runs scored: whatever is compared or averaged of them is resampled together."""
    at_video = (table for m in materials for (_, level, _), table in m.scores.items() if level == "video")
    return Population.of(at_video, sources(materials))


def _perturbations(column: Column) -> tuple[str, ...]:
    """Return those whose mean the column is, or the empty name for clean faces."""
    return perturb.levels([column.perturbation]) if column.perturbation else ("",)
