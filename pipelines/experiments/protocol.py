"""What is trained on, what selects the checkpoint, what is scored, and what is refused.

    cross_dataset       train on all manipulations (or those named), score the test part of each `test_on`
    in_dataset          the same training, scored on the test part of the training dataset
    cross_manipulation  train on one manipulation, score each manipulation of the same dataset by itself
    leave_one_out       train on all manipulations but the one left out, score that one
    per_manipulation    train on one manipulation, score the same one

The checkpoint is always chosen on the validation part of the training dataset. A protocol is built from
VIDEOS rows, before anything is decoded. Refused with `ProtocolError`: a source identity on two sides
within the training dataset, a compression that the data does not have, a part without both classes.
A test video of another dataset that shares a source with training is not scored, and is counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.common import tables
from pipelines.experiments.experiment import Experiment

Row = dict[str, Any]


class ProtocolError(ValueError):
    """The data on disk can't answer the question honestly; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The VIDEOS rows of one side."""

    name: str  # dataset, or dataset/manipulation: the name that results carry
    dataset: str
    split: str
    codec: str
    rows: tuple[Row, ...]
    excluded: tuple[str, ...] = ()  # video_ids that share a source with training

    @property
    def video_ids(self) -> tuple[str, ...]:
        return tuple(str(row["video_id"]) for row in self.rows)

    @property
    def every_face(self) -> frozenset[str]:
        """video_ids of those in which every face counts, so that a frame's score is the highest of its faces."""
        return frozenset(str(row["video_id"]) for row in self.rows if row["face_rule"] == "all")

    def count(self, label: int) -> int:
        return sum(row["label"] == label for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    train: Part
    select: Part
    test: tuple[Part, ...] = field(default=())

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
        for i, one in enumerate(sides):
            for other in sides[i + 1 :]:
                if one.split != other.split:
                    _refuse_shared_sources(one, other)


def names() -> tuple[str, ...]:
    return tuple(_PROTOCOLS)


def build(experiment: Experiment, videos: Mapping[str, pa.Table]) -> Protocol:
    """The protocol of an experiment; `videos` holds the VIDEOS table of each dataset that it names.

    Raises ProtocolError (see above) and ValueError for an unknown protocol.
    """
    if experiment.protocol not in _PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(_PROTOCOLS)}; got {experiment.protocol!r}")
    rows = {name: table.to_pylist() for name, table in videos.items()}
    home = experiment.train_on
    known = tuple(sorted({str(row["method"]) for row in rows[home] if row["label"] == tables.FAKE}))
    trained = experiment.manipulations or known
    if unknown := sorted(set(trained) - set(known)):
        raise ProtocolError(f"{home} has no manipulation {', '.join(unknown)}; found: {', '.join(known) or 'none'}")

    def part(dataset: str, split: str, methods: tuple[str, ...] = (), name: str = "") -> Part:
        return _part(rows[dataset], name or dataset, dataset, split, experiment.codec, methods)

    train, select = part(home, "train", trained), part(home, "val", trained)
    seen = _sources(train) | _sources(select)
    test = tuple(
        _without(p, seen) if p.dataset != home else p
        for p in _PROTOCOLS[experiment.protocol](experiment, part, known, trained)
    )
    return Protocol(train=train, select=select, test=test)


_MakePart = Callable[..., Part]


def _cross_dataset(exp: Experiment, part: _MakePart, known: tuple[str, ...], trained: tuple[str, ...]) -> list[Part]:
    return [part(name, "test") for name in exp.test_on]


def _in_dataset(exp: Experiment, part: _MakePart, known: tuple[str, ...], trained: tuple[str, ...]) -> list[Part]:
    return [part(exp.train_on, "test", trained)]


def _each_of(exp: Experiment, part: _MakePart, methods: tuple[str, ...]) -> list[Part]:
    return [part(exp.train_on, "test", (method,), f"{exp.train_on}/{method}") for method in methods]


def _cross_manipulation(exp: Experiment, part: _MakePart, known: tuple[str, ...], trained: tuple[str, ...]):
    _need_one("cross_manipulation", trained)
    return _each_of(exp, part, known)


def _per_manipulation(exp: Experiment, part: _MakePart, known: tuple[str, ...], trained: tuple[str, ...]):
    _need_one("per_manipulation", trained)
    return _each_of(exp, part, trained)


def _leave_one_out(exp: Experiment, part: _MakePart, known: tuple[str, ...], trained: tuple[str, ...]):
    left_out = tuple(method for method in known if method not in trained)
    if len(left_out) != 1:
        raise ProtocolError(f"leave_one_out leaves out exactly one manipulation, here {left_out or 'none'}")
    return _each_of(exp, part, left_out)


_PROTOCOLS: dict[str, Callable[..., list[Part]]] = {
    "cross_dataset": _cross_dataset,
    "in_dataset": _in_dataset,
    "cross_manipulation": _cross_manipulation,
    "leave_one_out": _leave_one_out,
    "per_manipulation": _per_manipulation,
}


def _need_one(protocol: str, trained: tuple[str, ...]) -> None:
    if len(trained) != 1:
        raise ProtocolError(f"{protocol} trains on exactly one manipulation, got {', '.join(trained)}")


def _part(rows: list[Row], name: str, dataset: str, split: str, codec: str, methods: tuple[str, ...]) -> Part:
    """`unknown` is the codec of datasets that come in one compression only: such rows always qualify."""
    codecs = sorted({str(row["codec"]) for row in rows})
    if codecs and not {codec, "unknown"} & set(codecs):
        raise ProtocolError(f"{dataset} has no videos in {codec}; found: {', '.join(codecs)}")
    kept = tuple(
        row
        for row in rows
        if row["split"] == split
        and row["codec"] in (codec, "unknown")
        and (row["label"] == tables.REAL or not methods or row["method"] in methods)
    )
    return Part(name=name, dataset=dataset, split=split, codec=codec, rows=kept)


def _sources(part: Part) -> set[str]:
    return {source for row in part.rows for source in row["source_ids"]}


def _without(part: Part, sources: set[str]) -> Part:
    clash = tuple(str(row["video_id"]) for row in part.rows if sources & set(row["source_ids"]))
    left_out = frozenset(clash)
    kept = tuple(row for row in part.rows if row["video_id"] not in left_out)
    return Part(name=part.name, dataset=part.dataset, split=part.split, codec=part.codec, rows=kept, excluded=clash)


def _refuse_one_class(part: Part) -> None:
    num_real, num_fake = part.count(tables.REAL), part.count(tables.FAKE)
    if not num_real or not num_fake:
        why = f"; {len(part.excluded)} more share a source with training" if part.excluded else ""
        raise ProtocolError(
            f"the {part.split} part of {part.name} ({part.codec}) has {num_real} real and {num_fake} fake videos{why}; "
            "both classes are needed"
        )


def _refuse_shared_sources(one: Part, other: Part) -> None:
    if shared := sorted(_sources(one) & _sources(other)):
        raise ProtocolError(
            f"{one.name}/{one.split} and {other.name}/{other.split} share {len(shared)} source identities, "
            f"e.g. {', '.join(shared[:3])}: the split lists overlap"
        )
