"""What a column's number is the mean of, against the number in RESULTS."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from models import Pooling
from pipelines.common.tables import PREDICTIONS, RESULTS, SOURCES, to_table
from pipelines.experiments.sweep import Column
from pipelines.metrics import results, significance
from pipelines.metrics.names import FINAL, UNSEEN
from pipelines.metrics.results import Origin, ScoredPart
from pipelines.reporting.saved import Material, Run, population, where

PARTS = ("ffpp", "celeb_df/a", "celeb_df/b", "dfdc")


def predictions(part: str, seed: int) -> pa.Table:
    """Twenty real videos of a dataset, the same in all parts of it, and twenty fakes of the part, a face each."""
    dataset, _, method = part.partition("/")
    rng = np.random.default_rng([seed, *part.encode()])
    ids = [f"{dataset}/real/{i:02}" for i in range(20)] + [f"{part}/fake/{i:02}" for i in range(20)]
    labels = np.repeat([0, 1], 20)
    scored = zip(ids, labels.tolist(), (rng.normal(size=40) + labels).tolist(), strict=True)
    common = dict.fromkeys(PREDICTIONS.names) | {"stage": FINAL, "perturbation": "", "dataset": dataset}
    common |= {"frame_index": 0, "face_index": 0, "num_repeated": 0, "face_area_px": 1.0}
    rows = [
        common
        | {"video_id": i, "label": label, "method": method if label else "real", "logit": z, "score": float(expit(z))}
        for i, label, z in scored
    ]
    return to_table(rows, PREDICTIONS)


def material(seed: int, train_on: str = "ffpp", parts: tuple[str, ...] = PARTS) -> Material:
    origin = Origin(
        run_id=f"run {seed}",
        model="plain",
        train_on=train_on,
        seed=seed,
        failed_rule="exclude",
        pooling=Pooling(),
        parts=tuple(ScoredPart(name=n, dataset=n.partition("/")[0], split="test", codec="c23") for n in parts),
    )
    blocks = [({"part": name, "stage": FINAL, "perturbation": ""}, predictions(name, seed)) for name in parts]
    run = Run(folder=Path("nowhere"), origin=origin, blocks=())
    run.__dict__["sources"] = SOURCES.empty_table()
    return Material(
        row="row",
        seed=seed,
        run=run,
        results=to_table(results.every_row(origin, blocks, "commit"), RESULTS),
        scores={
            (block["part"], "video", ""): results.scores_at("video", origin, origin.part(block["part"]), table)
            for block, table in blocks
        },
        masks={},
    )


def test_the_mean_over_unseen_datasets_is_that_of_results_with_its_interval() -> None:
    """Celeb-DF is scored in two parts and counts once; in RESULTS and in what a report tests and joins over seeds."""
    seeds = [material(seed) for seed in range(2)]
    wanted = {"stage": FINAL, "test_dataset": UNSEEN, "level": "video", "metric": "auc"}
    column = Column.of(UNSEEN, "video", "auc")
    for one in seeds:
        (row,) = where(one.results, wanted).to_pylist()
        assert [len(group) for group in one.terms(column)] == [2, 1]
        estimate = significance.over_seeds("auc", [one.terms(column)], population([one]))
        assert estimate
        assert estimate.value == pytest.approx(row["value"])
        assert estimate.interval() == pytest.approx((row["low"], row["high"]), abs=1e-3)
        assert (row["n_real"], row["n_fake"]) == (2 * 20, 3 * 20)
    people = population(seeds)
    assert people.video_ids.to_pylist() == sorted(set(people.video_ids.to_pylist()))
    assert len(people.video_ids) == 3 * 20 + 4 * 20


@pytest.mark.parametrize(("train_on", "parts"), [("", PARTS), ("ffpp", PARTS[:3])], ids=["not known", "one dataset"])
def test_where_results_have_no_mean_over_unseen_datasets_nothing_is_tested(
    train_on: str, parts: tuple[str, ...]
) -> None:
    one = material(0, train_on, parts)
    assert where(one.results, {"test_dataset": UNSEEN}).num_rows == 0
    assert len(one.terms(Column.of(UNSEEN, "video", "auc"))) == 0


def test_a_column_of_one_part_is_that_part() -> None:
    one = material(0)
    for name, other in pairwise(PARTS):
        (group,) = one.terms(Column.of(name, "video", "auc"))
        assert [table["video_id"].to_pylist() for table in group] == [
            one.scores[name, "video", ""]["video_id"].to_pylist()
        ]
        assert group[0] is not one.scores[other, "video", ""]
