"""Experiments to trials: which videos train, select and are scored, which stages it takes, which digests name them.

In   experiments; VIDEOS, LEDGER and FACES folder of each dataset
Out  `Trial`s; no file is written

`check` says whether a trial can run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

import models
from pipelines.common.storage import digest
from pipelines.common.tables import FAKE, REAL
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics import results
from pipelines.scoring import predictions
from pipelines.training import stages
from pipelines.training.job import Compute
from pipelines.training.views import REAL_VIEWS, VIEWS, View
from pipelines.trials.trial import Trial, UsablePart


def plan(
    experiment: Experiment,
    videos: Mapping[str, pa.Table],
    ledgers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    faces: Mapping[str, Path],
    storage: Path,
    accumulate: Mapping[str, int] = {},
) -> Trial:
    """Return the trial of an experiment on extracted data.

    videos: dataset -> VIDEOS. ledgers: dataset -> video_id -> LEDGER row. faces: dataset -> FACES folder. accumulate:
    as in `Compute`. Raise ProtocolError if the data can't answer the experiment's question.
    """
    return Planner(videos, ledgers, faces, storage, accumulate)(experiment)


@dataclass(frozen=True)
class _Parts:
    """What experiments with the same protocol on the same data share: a million rows are looked at once for all."""

    train: UsablePart
    select: UsablePart
    test: tuple[UsablePart, ...]
    own: Mapping[str, tuple[UsablePart, UsablePart]]
    rows: Mapping[str, str]  # view, or stage with parts of its own -> digest of what it sees
    targets: str  # digest of whose face each video of `train` shows
    scored: Mapping[str, list[Any]]  # test part, or `validation` -> what decides its numbers


class Planner:
    """Plan many experiments on the same data. Their trials share its parts, in memory and pickled.

    The arguments are those of `plan`.
    """

    def __init__(
        self,
        videos: Mapping[str, pa.Table],
        ledgers: Mapping[str, Mapping[str, Mapping[str, Any]]],
        faces: Mapping[str, Path],
        storage: Path,
        accumulate: Mapping[str, int] = {},
    ) -> None:
        self.videos, self.ledgers, self.faces = videos, ledgers, faces
        self.storage, self.accumulate = storage, accumulate
        self._known: dict[tuple[Any, ...], _Parts] = {}

    def __call__(self, experiment: Experiment) -> Trial:
        """Return the trial of an experiment. Raise ProtocolError if the data can't answer its question."""
        parts = self._parts(experiment)
        rows = _with_targets(experiment, parts)
        planned = stages.plan(experiment, rows, self.storage, self.accumulate)
        levels = perturb.levels(experiment.perturbations)
        trial = Trial(
            experiment=experiment,
            planned=planned,
            train=parts.train,
            select=parts.select,
            test=parts.test,
            own=parts.own,
            faces=self.faces,
            folder=self.storage / "runs",
        )
        name = digest(
            {
                "stages": {stage.name: stage.digest for stage in planned},
                "scored": parts.scored,
                "versions": {"score": predictions.VERSION, "results": results.VERSION},
                "pooling": trial.pooling,
                "failed_videos": experiment.failed_videos,
                "perturbations": [perturb.VERSION, *levels] if levels else [],
            }
        )
        return replace(trial, folder=trial.folder / name)

    def _parts(self, e: Experiment) -> _Parts:
        own_codecs = e.own_codecs()
        key = (
            e.protocol,
            e.train_on,
            e.test_on,
            e.codec,
            e.manipulations,
            e.min_frames,
            e.model if own_codecs else "",
            *own_codecs.items(),
        )
        if key not in self._known:
            built = protocol.build(e, self.videos)

            def usable(part: protocol.Part) -> UsablePart:
                return UsablePart.of(part, self.ledgers[part.dataset], e.min_frames)

            train, select, *test = map(usable, (built.train, built.select, *built.test))
            own = {stage: (usable(of_train), usable(of_select)) for stage, (of_train, of_select) in built.own.items()}
            rows = {view: _rows_digest(view, train, select) for view in VIEWS}
            rows |= {stage: _rows_digest(models.stage(e.model, stage).view, *pair) for stage, pair in own.items()}
            targets = digest([(video.video_id, video.target) for video in train.videos])
            scored = {"validation": select.deciding, **{part.name: part.deciding for part in test}}
            self._known[key] = _Parts(train, select, tuple(test), own, rows, targets, scored)
        return self._known[key]


def _rows_digest(view: str, train: UsablePart, select: UsablePart) -> str:
    """Return the digest of what a view sees of two parts. Of a view of real clips it does not change with the fakes.

    Label and manipulation are among the contents. Targets count here only where one manipulation is cut into domains,
    and elsewhere for stages that pair fakes with reals (`_with_targets`). Whether every face counts matters only in
    selection: what is trained on is a video's first face.
    """
    seen: list[list[tuple[str, ...]]] = []
    for part, every_face in ((train, frozenset[str]()), (select, select.every_face)):
        by_target = view == "domain_frames" and len({video.method for video in part.videos if video.label == FAKE}) == 1
        seen.append(
            [
                (
                    *content,
                    *([video.target] if by_target else []),
                    *(["every face"] if video.video_id in every_face else []),
                )
                for video, content in zip(part.videos, part.contents, strict=True)
                if view not in REAL_VIEWS or video.label != FAKE
            ]
        )
    return digest(seen)


def _with_targets(experiment: Experiment, parts: _Parts) -> dict[str, str]:
    """Return `rows` with an entry for each stage that pairs fakes with reals: of its view's rows and their targets."""
    config = experiment.config()
    in_pairs = [
        stage
        for stage in models.stages(experiment.model)
        if stage.name in config.stages and stage.view not in REAL_VIEWS and stage.feed(config).pairs
    ]
    of_stages = {stage.name: digest([parts.rows[stage.view], parts.targets]) for stage in in_pairs}
    return {**parts.rows, **of_stages}


def check(trial: Trial, compute: Compute) -> None:
    """Raise ValueError for what would come out only later: too few videos, or steps that the workers can't share."""
    for part in (trial.train, trial.select):
        labels = [video.label for video in part.videos]
        if len(set(labels)) < 2:
            raise ValueError(
                f"{part.name}/{part.split}: extraction left {labels.count(REAL)} real and "
                f"{labels.count(FAKE)} fake videos with a face; both classes are needed"
            )
    for part in trial.test:
        if not part.videos:
            example = next(iter(part.failed.items()), ("", "no videos"))
            raise ValueError(
                f"{part.name}/{part.split}: none of {len(part.failed)} videos has a usable face, "
                f"e.g. {': '.join(example)}; leave this dataset out, or give readable videos"
            )
    for planned in trial.planned:
        stage = models.stage(planned.paper, planned.name)
        train, _ = trial.parts_of(planned.name)
        view = View(stage.view, train.videos, stage.feed(trial.config), trial.experiment.seed)
        compute.sharing(planned, stage, view).check()
