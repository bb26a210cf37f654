"""Which videos train which stage, and which stages are shared."""

from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.common.tables import SPLITS, VIDEOS, to_table
from pipelines.experiments.experiment import Experiment
from pipelines.trials import planner
from pipelines.trials.trial import Trial

CODECS = ("c23", "c40")


def videos() -> pa.Table:
    rows = []
    for codec, method, split, number in product(CODECS, ("real", "Deepfakes"), SPLITS, range(2)):
        row: dict[str, Any] = dict.fromkeys(VIDEOS.names, "x") | {"codec": codec, "method": method, "split": split}
        row |= {"dataset": "ffpp", "video_id": f"ffpp/{method}/{codec}/{split}{number}", "label": int(method != "real")}
        rows.append(row | {"source_ids": [f"ffpp/{split}{number}"]})
    return to_table(rows, VIDEOS)


def plan(codec: str, **settings: Any) -> Trial:
    experiment = Experiment(
        model="lre", train_on="ffpp", test_on=(), protocol="in_dataset", codec=codec, preset="small"
    ).override({f"model.{name}": value for name, value in settings.items()})
    table = videos()
    ledger = {name: {"status": "ok", "reason": "", "content": name} for name in table["video_id"].to_pylist()}
    return planner.plan(experiment, {"ffpp": table}, {"ffpp": ledger}, {"ffpp": Path("faces")}, Path("storage"))


def digests(trial: Trial) -> dict[str, str]:
    return {stage.name: stage.digest for stage in trial.planned}


def test_a_stage_with_a_compression_of_its_own_is_the_one_of_that_compression() -> None:
    """LRE's autoencoder of c23 is trained once, for c23 and for c40; the detectors differ."""
    light, heavy, mixed = plan("c23"), plan("c40"), plan("c40", **{"reconstruct.codec": "c23"})
    assert digests(mixed)["reconstruct"] == digests(light)["reconstruct"] != digests(heavy)["reconstruct"]
    assert len({digests(trial)["detect"] for trial in (light, heavy, mixed)}) == 3
    assert digests(plan("c23", **{"reconstruct.codec": "c23"})) == digests(light)
    train, select = mixed.parts_of("reconstruct")
    assert [video.video_id for video in train.videos] == ["ffpp/real/c23/train0", "ffpp/real/c23/train1"]
    assert [video.video_id for video in select.videos] == ["ffpp/real/c23/val0", "ffpp/real/c23/val1"]
    assert mixed.parts_of("detect") == (mixed.train, mixed.select)
    assert mixed.train.codec == "c40"
