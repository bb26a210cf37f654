"""What is trained on, what selects the checkpoint, what is scored, and what is refused.

    cross_dataset       train on all manipulations (or those named), score the test part of each `test_on`
    in_dataset          the same training, scored on the test part of the training dataset
    cross_manipulation  train on one manipulation, score each manipulation of the same dataset by itself
    leave_one_out       train on all manipulations but the one left out, score that one
    per_manipulation    train on one manipulation, score the same one

"All" are those that papers mean by the dataset's name (`datasets.manipulations`: four of FaceForensics++), whatever
else a copy holds, and those that `manipulations` names. Of `test_on`, `ffpp` is these, `ffpp/FaceShifter` one
manipulation, `ffpp/all` everything in the copy; always against all real test videos.

The checkpoint is always chosen on the validation part of the training dataset. A protocol is built from VIDEOS rows,
before anything is decoded. Refused with `ProtocolError`: a source identity on two sides within the training dataset, a
compression that the data does not have, a part without both classes. A test video of another dataset that shares a
source with training is not scored, and is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import combinations
from typing import Any

import pyarrow as pa

from pipelines import datasets
from pipelines.common import tables
from pipelines.experiments.experiment import Experiment

Row = dict[str, Any]

VERSION = 2  # of the rules that make parts: raise it when the same videos would be parted otherwise
EVERYTHING = "all"  # in place of a manipulation: all that a copy holds
PROTOCOLS = ("cross_dataset", "in_dataset", "cross_manipulation", "leave_one_out", "per_manipulation")


class ProtocolError(ValueError):
    """The data on disk can't answer the question honestly; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The VIDEOS rows that one side of a protocol takes: training, selection, or one test."""

    name: str  # dataset, or dataset/manipulation: the name that results carry
    dataset: str
    split: str
    codec: str
    rows: tuple[Row, ...]
    excluded: tuple[str, ...] = ()  # video_ids that share a source with training

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The ids of the videos, in the order of the rows."""
        return tuple(str(row["video_id"]) for row in self.rows)

    @property
    def ids_digest(self) -> str:
        """Names the videos, whatever became of them: 16 hex digits of the SHA-256 of the sorted ids, one on a line."""
        return sha256("\n".join(sorted(self.video_ids)).encode()).hexdigest()[:16]

    @property
    def citation(self) -> str:
        """What to cite it by: name, split, compression, version, videos; e.g. `ffpp test c23 v2 0123456789abcdef`."""
        return f"{self.name} {self.split} {self.codec} v{VERSION} {self.ids_digest}"

    @property
    def every_face(self) -> frozenset[str]:
        """The ids of the videos in which every face counts, so that a frame's score is the highest of its faces."""
        return frozenset(str(row["video_id"]) for row in self.rows if row["face_rule"] == "all")

    @property
    def sources(self) -> set[str]:
        """The identities that the videos were made from."""
        return {source for row in self.rows for source in row["source_ids"]}

    def count(self, label: int) -> int:
        """Return the number of videos with this label."""
        return sum(row["label"] == label for row in self.rows)

    def without(self, sources: set[str]) -> "Part":
        """Return the part without the videos that were made from one of these identities; `excluded` lists them."""
        clash = tuple(str(row["video_id"]) for row in self.rows if sources & set(row["source_ids"]))
        left_out = frozenset(clash)
        return replace(self, rows=tuple(row for row in self.rows if row["video_id"] not in left_out), excluded=clash)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The parts that train, that select a checkpoint, and that are scored. Raises ProtocolError where they may not."""

    train: Part
    select: Part
    test: tuple[Part, ...] = ()
    # Stage -> real videos that train it and select its checkpoint, for stages with a compression of their own.
    own: Mapping[str, tuple[Part, Part]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.select.dataset, self.select.split) != (self.train.dataset, "val"):
            raise ProtocolError(
                f"a checkpoint is chosen on the val part of {self.train.dataset}, "
                f"not on {self.select.dataset}/{self.select.split}"
            )
        if self.train.split != "train" or any(part.split != "test" for part in self.test):
            raise ProtocolError(
                f"training is on a train part and scoring on test parts, not on {self.train.split} and "
                f"{[part.split for part in self.test]}"
            )
        for part in (self.train, self.select, *self.test):
            _refuse_one_class(part)
        sides = [self.train, self.select, *(part for part in self.test if part.dataset == self.train.dataset)]
        sides += [part for pair in self.own.values() for part in pair]
        for side, other in combinations(sides, 2):
            if side.split != other.split:
                _refuse_shared_sources(side, other)


def _refuse_one_class(part: Part, of_dataset: Sequence[Row] = ()) -> None:
    """Raise ProtocolError where a part lacks real or fake videos. of_dataset: all rows, which tell more of why."""
    num_real, num_fake = part.count(tables.REAL), part.count(tables.FAKE)
    if not num_real or not num_fake:
        why = f"; {len(part.excluded)} more share a source with training" if part.excluded else ""
        codec = "" if {row["codec"] for row in of_dataset} == {"unknown"} else f" ({part.codec})"
        splits = {str(row["split"]) for row in of_dataset}
        only = f". All of its {len(of_dataset)} videos are in {splits.pop()}" if len(splits) == 1 else ""
        if only and part.dataset not in datasets.names():
            only += "; a list says in a column `split` which are train, val and test, and without one all are test"
        raise ProtocolError(
            f"the {part.split} part of {part.name}{codec} has {num_real} real and {num_fake} fake videos{why}; "
            f"both classes are needed{only}"
        )


def _refuse_shared_sources(side: Part, other: Part) -> None:
    if shared := sorted(side.sources & other.sources):
        raise ProtocolError(
            f"{side.name}/{side.split} and {other.name}/{other.split} share {len(shared)} source identities, "
            f"e.g. {', '.join(shared[:3])}: the split lists overlap"
        )


def build(experiment: Experiment, videos: Mapping[str, pa.Table]) -> Protocol:
    """Return the protocol of an experiment; videos: dataset -> VIDEOS, of each dataset that it names.

    Raises ProtocolError (see above), and ValueError for an unknown protocol.
    """
    if experiment.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {experiment.protocol!r}")
    rows = {name: table.to_pylist() for name, table in videos.items()}
    home, named = experiment.train_on, experiment.manipulations
    there = {name: _manipulations(own) for name, own in rows.items()}
    usual = {name: _usual(name, own) for name, own in there.items()}
    trained = named or usual[home]
    usual[home] = tuple(sorted({*usual[home], *named}))

    def part(dataset: str, split: str, manipulations: tuple[str, ...], name: str = "") -> Part:
        return _part(rows[dataset], name or dataset, dataset, split, experiment.codec, manipulations)

    def scored(name: str) -> Part:
        dataset = name.partition("/")[0]
        return part(dataset, "test", _named(name, usual[dataset], there[dataset]), name)

    train, select = part(home, "train", trained), part(home, "val", trained)
    own = {
        stage: (_real(rows[home], home, "train", codec), _real(rows[home], home, "val", codec))
        for stage, codec in experiment.own_codecs().items()
    }
    trained_on = (train, select, *(of_stage for pair in own.values() for of_stage in pair))
    seen = {source for side in trained_on for source in side.sources}
    if experiment.protocol == "in_dataset":
        tested = [part(home, "test", trained)]
    else:
        tested = [scored(name) for name in _test_names(experiment, usual[home], trained)]
    test = tuple(p.without(seen) if p.dataset != home else p for p in tested)
    for side in (train, select, *test):
        _refuse_one_class(side, rows[side.dataset])
    return Protocol(train=train, select=select, test=test, own=own)


def test_part(name: str, videos: Mapping[str, pa.Table], codec: str) -> Part:
    """Return a test part by itself, as for a method of whose training nothing is known: no video is left out.

    name: as in `test_on`. videos: as `build` takes them. Raises ProtocolError for a part without both classes.
    """
    dataset = name.partition("/")[0]
    rows = videos[dataset].to_pylist()
    there = _manipulations(rows)
    part = _part(rows, name, dataset, "test", codec, _named(name, _usual(dataset, there), there))
    _refuse_one_class(part, rows)
    return part


def _usual(dataset: str, there: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the manipulations of a copy that papers mean by the dataset's name."""
    return tuple(name for name in there if name in (datasets.manipulations(dataset) or there))


def _named(test: str, usual: tuple[str, ...], there: tuple[str, ...]) -> tuple[str, ...]:
    """Return the manipulations that the name of a test part means."""
    manipulation = test.partition("/")[2]
    return {"": usual, EVERYTHING: there}.get(manipulation, (manipulation,))


def _part(rows: list[Row], name: str, dataset: str, split: str, codec: str, manipulations: tuple[str, ...]) -> Part:
    """Return a split's rows: all real ones, and the fakes of these manipulations.

    Rows of the codec `unknown`, of datasets that come in one compression only, always qualify.
    """
    if unknown := sorted(set(manipulations) - set(_manipulations(rows))):
        found = ", ".join(_manipulations(rows)) or "none"
        raise ProtocolError(f"{dataset} has no manipulation {', '.join(unknown)}; found: {found}")
    codecs = sorted({str(row["codec"]) for row in rows})
    if codecs and not {codec, "unknown"} & set(codecs):
        raise ProtocolError(f"{dataset} has no videos in {codec}; found: {', '.join(codecs)}")
    kept = tuple(
        row
        for row in rows
        if row["split"] == split
        and row["codec"] in (codec, "unknown")
        and (row["label"] == tables.REAL or row["method"] in manipulations)
    )
    return Part(name=name, dataset=dataset, split=split, codec=codec, rows=kept)


def _real(rows: list[Row], dataset: str, split: str, codec: str) -> Part:
    """Return the real videos of a split."""
    part = _part(rows, dataset, dataset, split, codec, ())
    return replace(part, rows=tuple(row for row in part.rows if row["label"] == tables.REAL))


def _manipulations(rows: list[Row]) -> tuple[str, ...]:
    return tuple(sorted({str(row["method"]) for row in rows if row["label"] == tables.FAKE}))


def _test_names(experiment: Experiment, usual: tuple[str, ...], trained: tuple[str, ...]) -> list[str]:
    """Return the names of the parts to score. usual: the manipulations that stand for the training dataset."""
    if experiment.protocol == "cross_dataset":
        return list(experiment.test_on)
    if experiment.protocol == "leave_one_out":
        scored = tuple(manipulation for manipulation in usual if manipulation not in trained)
        if len(scored) != 1:
            raise ProtocolError(f"leave_one_out leaves out exactly one manipulation, here {scored or 'none'}")
    else:
        if len(trained) != 1:
            raise ProtocolError(f"{experiment.protocol} trains on exactly one manipulation, got {', '.join(trained)}")
        scored = usual if experiment.protocol == "cross_manipulation" else trained
    return [f"{experiment.train_on}/{manipulation}" for manipulation in scored]
