"""A run of scores from elsewhere: what names it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import Pooling
from pipelines.experiments.protocol import Part
from pipelines.scoring.from_file import Meaning
from pipelines.trials.foreign import ForeignTrial, of_file, usable

ROWS = tuple(
    {
        "video_id": f"dfdc/{name}",
        "label": label,
        "method": method,
        "source_ids": [f"dfdc/{name}"],
        "face_rule": "largest",
    }
    for name, label, method in (("a", 0, "real"), ("b", 1, "swap"))
)
PART = Part(name="dfdc", dataset="dfdc", split="test", codec="unknown", rows=ROWS)


def trial(fake: float = 0.9, part: Part = PART) -> ForeignTrial:
    scores = of_file(part, {"dfdc/a": {0: 0.2}, "dfdc/b": {0: fake}}, Meaning(score_is="probability", higher_is="fake"))
    return ForeignTrial(
        name="Their method",
        source={"kind": "file"},
        train_on="ffpp",
        failed_rule="exclude",
        levels=("video",),
        is_sample=False,
        parts=(usable(part, scores, {}),),
        predictions={"dfdc": scores},
        storage=Path("storage"),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Another"},
        {"train_on": ""},
        {"failed_rule": "half"},
        {"pooling": Pooling(frames="mean_logit")},
        {"levels": ("frame", "video")},
        {"is_sample": True},  # the run, MLflow's tag and the report say whether its videos are made up
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_reported_of_a_run_is_in_its_digest(change: dict[str, Any]) -> None:
    assert replace(trial(), **change).digest != trial().digest


def test_scores_and_videos_are_in_its_digest() -> None:
    other = replace(PART, rows=tuple(row | {"source_ids": ["dfdc/actor"]} for row in ROWS))
    assert len({trial().digest, trial(fake=0.8).digest, trial(part=other).digest}) == 3
    assert trial().digest == trial().digest
