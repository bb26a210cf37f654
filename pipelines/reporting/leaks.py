"""Leaks: signs that the label can be guessed from what extraction made of the videos.

Rule, within each split of a dataset, all fakes and each manipulation against the real videos:
    failed           share of videos without a usable face; Fisher's exact test p < 0.01 and a difference of
                     2 percentage points or more
    faces per frame  mean over the videos that have faces; Mann-Whitney U test p < 0.01 and a difference of 0.05
                     or more
Flags are not corrected for the number of tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.common import tables
from pipelines.faces.plan import Extraction

MAX_P = 0.01
MIN_SHARE = 0.02  # of videos
MIN_FACES = 0.05  # per frame
ALL_FAKES = "all fakes"
PENDING = "pending"  # given, but not in the ledger
KEY = ("dataset", "split", "label", "method")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leak:
    """Something about extraction from which the label can be guessed."""

    dataset: str
    split: str
    method: str  # the fakes that were compared with the real videos
    kind: str  # "failed" or "faces per frame"
    real: float
    fake: float
    p: float
    num_real: int
    num_fake: int

    def __str__(self) -> str:
        name = f"{self.dataset} {self.split}, {self.method} against real, {self.kind}"
        form = ".1%" if self.kind == "failed" else ".2f"
        real, fake = format(self.real, form), format(self.fake, form)
        return f"{name}: {fake} of {self.num_fake} videos against {real} of {self.num_real}, p = {self.p:.2g}"


def find_leaks(videos: pa.Table, ledger: pa.Table) -> list[Leak]:
    """Return what the rule above flags, in the order of dataset and split; videos and ledger: as for `joined`."""
    rows = [row for row in joined(videos, ledger) if row["status"] != PENDING]
    leaks = []
    for dataset, split in sorted({(row["dataset"], row["split"]) for row in rows}, key=order):
        own = [row for row in rows if (row["dataset"], row["split"]) == (dataset, split)]
        real = [row for row in own if row["label"] == tables.REAL]
        fake = [row for row in own if row["label"] == tables.FAKE]
        methods = sorted({row["method"] for row in fake})
        groups = {ALL_FAKES: fake} if len(methods) > 1 else {}
        groups |= {method: [row for row in fake if row["method"] == method] for method in methods}
        for method, group in groups.items():
            for kind, compare in (("failed", _failed), ("faces per frame", _faces_per_frame)):
                if (values := compare(real, group)) is not None:
                    leaks.append(Leak(dataset, split, method, kind, *values, len(real), len(group)))
    return leaks


def leak_texts(extractions: Sequence[Extraction]) -> list[str]:
    """Return a text for each leak of some extractions, none of them twice."""
    leaks = [leak for extraction in extractions for leak in find_leaks(extraction.videos, extraction.ledger_table())]
    return list(dict.fromkeys(map(str, leaks)))


def _failed(real: Sequence[Row], fake: Sequence[Row]) -> tuple[float, float, float] | None:
    """Return the shares of failed videos among real and fake, and p; None where they do not differ."""
    from scipy import stats  # here: half a second of import that a table of counts does not need

    if not real or not fake:
        return None
    failed = [sum(row["status"] != "ok" for row in rows) for rows in (real, fake)]
    shares = failed[0] / len(real), failed[1] / len(fake)
    if round(abs(shares[0] - shares[1]), 9) < MIN_SHARE:
        return None
    p = float(stats.fisher_exact([[failed[0], len(real) - failed[0]], [failed[1], len(fake) - failed[1]]]).pvalue)
    return (*shares, p) if p < MAX_P else None


def _faces_per_frame(real: Sequence[Row], fake: Sequence[Row]) -> tuple[float, float, float] | None:
    """Return the mean numbers of faces in a frame among real and fake, and p; None where they do not differ."""
    from scipy import stats

    per_frame = [
        [row["num_faces"] / row["num_frames"] for row in rows if row["status"] == "ok" and row["num_frames"]]
        for rows in (real, fake)
    ]
    if not all(per_frame):
        return None
    means = [sum(values) / len(values) for values in per_frame]
    if round(abs(means[0] - means[1]), 9) < MIN_FACES:
        return None
    p = float(stats.mannwhitneyu(*per_frame).pvalue)
    return (means[0], means[1], p) if p < MAX_P else None


def joined(videos: pa.Table, ledger: pa.Table) -> list[dict[str, Any]]:
    """Return for each video its columns `KEY` and its row of LEDGER, or one that says it is pending.

    videos: at least the columns of VIDEOS that FACES copies; ledger: rows of other videos are left out.
    """
    entries = {row["video_id"]: row for row in ledger.drop_columns("content").to_pylist()}
    pending = {"status": PENDING, "reason": "", "num_frames": 0, "num_faces": 0, "seconds": 0.0}
    rows = videos.select(["video_id", *KEY]).to_pylist()
    return [row | entries.get(row["video_id"], pending) for row in rows]


def order(key: Sequence[Any]) -> tuple[Any, ...]:
    """Return what keys that begin with dataset and split are sorted by: train before val before test, real first."""
    dataset, split, *rest = key
    return (dataset, tables.SPLITS.index(split), *rest)
