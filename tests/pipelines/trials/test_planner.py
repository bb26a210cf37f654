"""Which videos train which stage, and which stages are shared."""

import ast
import importlib
import pkgutil
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

import models
from pipelines import training
from pipelines.common.tables import SPLITS, VIDEOS, to_table
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics import results
from pipelines.scoring import predictions, score
from pipelines.training import stages
from pipelines.training.views import View
from pipelines.trials import planner
from pipelines.trials.trial import Trial, UsablePart

CODECS = ("c23", "c40")


def videos(*fakes: str) -> pa.Table:
    rows = []
    for codec, method, split, number in product(CODECS, ("real", *(fakes or ["Deepfakes"])), SPLITS, range(2)):
        row: dict[str, Any] = dict.fromkeys(VIDEOS.names, "x") | {"codec": codec, "method": method, "split": split}
        row |= {"dataset": "ffpp", "video_id": f"ffpp/{method}/{codec}/{split}{number}", "label": int(method != "real")}
        rows.append(row | {"source_ids": [f"ffpp/{split}{number}"]})
    return to_table(rows, VIDEOS)


def plan(codec: str, **settings: Any) -> Trial:
    experiment = Experiment(
        model="lre", train_on="ffpp", test_on=(), protocol="in_dataset", codec=codec, preset="small"
    ).override({f"model.{name}": value for name, value in settings.items()})
    return plan_of(experiment, videos())


def plan_of(experiment: Experiment, table: pa.Table) -> Trial:
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


# --------------------------------------------------------------------------- what decides a number is in a digest
IN_FFPP = {"train_on": "ffpp", "test_on": (), "protocol": "in_dataset", "preset": "small"}
ALONE = {"finetune.pairs": False, "localize.pairs": False}
DELOCATE = Experiment(model="delocate", **IN_FFPP, model_args=ALONE)  # type: ignore[arg-type]
BI = Experiment(model="laa_net", **IN_FFPP, model_args={"data.synthesis": "bi"})  # type: ignore[arg-type]


def with_sources(table: pa.Table, prefix: str) -> pa.Table:
    """As another `person` column of a list of one's own would have it."""
    rows = [row | {"source_ids": [f"{prefix}{name}" for name in row["source_ids"]]} for row in table.to_pylist()]
    return to_table(rows, VIDEOS)


def test_other_people_are_another_cut_into_domains_where_one_manipulation_is_trained_on() -> None:
    """Delocate cuts a single manipulation 7:3 by source id; several manipulations are domains by themselves."""
    for fakes, moved in ((["Deepfakes"], {"localize"}), (["Deepfakes", "FaceSwap"], set())):
        before, after = (digests(plan_of(DELOCATE, with_sources(videos(*fakes), prefix))) for prefix in ("", "other "))
        assert {name for name in before if before[name] != after[name]} == moved


@pytest.mark.parametrize("pairs", [(), ("finetune",), ("localize",)])
def test_whose_face_a_fake_shows_is_in_the_stages_that_pair_it_with_its_real_video(pairs: tuple[str, ...]) -> None:
    """With other targets a step has other real faces beside the same fakes."""
    asked = DELOCATE.override({f"model.{name}.pairs": name in pairs for name in ("finetune", "localize")})
    before = videos("Deepfakes", "FaceSwap")
    other = {"ffpp/train0": "ffpp/train1", "ffpp/train1": "ffpp/train0"}
    rows = before.to_pylist()
    swapped = [r | {"source_ids": [other.get(i, i) for i in r["source_ids"]]} if r["label"] else r for r in rows]
    trials = [plan_of(asked, table) for table in (before, to_table(swapped, VIDEOS))]
    for name in ("recover", "finetune", "localize"):
        stage = models.stage("delocate", name)
        steps = [
            [pick.video.video_id for pick in View(stage.view, t.train.videos, stage.feed(asked.config()), 0).step(0)]
            for t in trials
        ]
        same = digests(trials[0])[name] == digests(trials[1])[name]
        assert same == (steps[0] == steps[1]) == (name not in pairs), name


def test_who_is_in_a_scored_video_and_the_fakes_of_validation_are_in_a_trial_not_in_its_stages() -> None:
    """Intervals follow from people, a threshold from validation's fakes, also of a method that trains without any."""
    method = Experiment(model="adfd", train_on="ffpp", test_on=(), protocol="in_dataset", preset="small")
    rows = videos().to_pylist()

    def changed(**changes: Any) -> pa.Table:
        hit = [r for r in rows if r["label"] and r["codec"] == "c23" and r["video_id"].endswith(changes["video"])]
        return to_table([r | changes["to"] if r in hit else r for r in rows], VIDEOS)

    before = plan_of(method, videos())
    other_people = plan_of(method, changed(video="test0", to={"source_ids": ["ffpp/test0", "ffpp/test1"]}))
    other_fake = plan_of(method, changed(video="val0", to={"video_id": "ffpp/Deepfakes/c23/another"}))
    for after in (other_people, other_fake):
        assert after.digest != before.digest
        assert digests(after) == digests(before)


@pytest.mark.parametrize(
    ("split", "label", "moved"),
    [
        ("train", 0, set()),  # it trains on the first face
        ("train", 1, set()),
        ("val", 0, {"recover", "finetune", "localize"}),
        ("val", 1, {"finetune", "localize"}),  # recover sees real videos only
    ],
)
def test_whether_every_face_counts_where_the_epoch_is_chosen_is_in_its_stages(
    split: str, label: int, moved: set[str]
) -> None:
    rows = [row | {"face_rule": "largest"} for row in videos().to_pylist()]
    other = [row | ({"face_rule": "all"} if (row["split"], row["label"]) == (split, label) else {}) for row in rows]
    before, after = (digests(plan_of(DELOCATE, to_table(each, VIDEOS))) for each in (rows, other))
    assert {name for name in before if before[name] != after[name]} == moved


def test_the_order_in_which_videos_are_listed_decides_nothing() -> None:
    table = videos()
    there, back = (
        plan_of(DELOCATE, table.take(pa.array(order))) for order in (range(len(table)), range(len(table))[::-1])
    )
    assert there.digest == back.digest
    assert there.train.videos == back.train.videos


# Of these nothing depends but time, memory, and what a failure costs.
DECIDE_NOTHING = {
    "batches.MOST_BLOCKS",
    "job.CHECKPOINT_SECONDS",
    "job.RESIZE_SECONDS",
    "kept.MOST_KEPT_BYTES",
    "kept.MOST_OF_DISK",
    "kept.MOST_OF_MEMORY",
    "learner.CHECKPOINT_TIMES",
    "loop.CHECK_SECONDS",
    "loop.CHECK_STEPS",
    "loop.NOTE_SECONDS",
    "predictions.MASKED_ROWS",
    "score.BATCH_SAMPLES",
    "score.MAX_RESTARTS",
    "score.MOST_PERTURBATIONS",
    "score.SLICE_BYTES",
    "score.SLICE_SECONDS",
    "score.VIDEOS_PER_TASK",
    "stages.MOST_TOLD",
    "train.MAX_FAILURES",
}


def numbers_of(module: ModuleType) -> set[str]:
    """Return the numbers that a module names at its top level in capitals."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if name.isupper() and isinstance(getattr(module, name), int | float)}


MODULES = [
    importlib.import_module(f"pipelines.training.{module.name}") for module in pkgutil.iter_modules(training.__path__)
]
CONSTANTS = [
    (module, name) for module in (*MODULES, predictions, score, results) for name in sorted(numbers_of(module))
]


@pytest.mark.parametrize(("module", "name"), [pytest.param(*c, id=f"{c[0].__name__}.{c[1]}") for c in CONSTANTS])
def test_a_constant_that_can_move_a_number_is_in_a_digest(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of training and scoring: a new constant has to find its place, in a digest or in `DECIDE_NOTHING`."""
    before = [plan_of(experiment, videos()).digest for experiment in (DELOCATE, BI)]
    monkeypatch.setattr(module, name, getattr(module, name) + 0.125)
    after = [plan_of(experiment, videos()).digest for experiment in (DELOCATE, BI)]
    short = f"{module.__name__.rpartition('.')[2]}.{name}"
    assert (before == after) == (short in DECIDE_NOTHING)


def test_a_version_of_the_code_is_in_the_digests_that_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    perturbed = DELOCATE.override({"perturbations": ["blur-1"]})
    before = plan_of(perturbed, videos())
    for name in stages.VERSIONS:
        with monkeypatch.context() as patch:
            patch.setitem(stages.VERSIONS, name, 999)
            after = digests(plan_of(perturbed, videos()))
            assert not set(after.values()) & set(digests(before).values())
    monkeypatch.setattr(perturb, "VERSION", 999)
    assert plan_of(perturbed, videos()).digest != before.digest
    assert digests(plan_of(perturbed, videos())) == digests(before)


def test_the_rule_for_the_score_of_a_video_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_of(DELOCATE, videos())
    mean_logit = models.Pooling(frames="mean_logit")
    monkeypatch.setattr(models.stage("delocate", "localize"), "pooling", lambda cfg: mean_logit)
    assert plan_of(DELOCATE, videos()).digest != before.digest


def test_a_video_with_a_face_in_too_few_frames_fails_where_a_minimum_is_asked_for() -> None:
    """A clip of 16 frames would show its one face 16 times. With several faces in a frame, frames count."""
    table = videos()
    counts = {"ffpp/real/c23/test0": (32, 1), "ffpp/real/c23/test1": (2, 64), "ffpp/Deepfakes/c23/test0": (32, 16)}
    ledger = {
        name: {"status": "ok", "reason": "", "content": name}
        | dict(zip(("num_frames", "num_faces"), counts.get(name, (32, 32)), strict=True))
        for name in table["video_id"].to_pylist()
    }

    def test_part(min_frames: int) -> UsablePart:
        experiment = DELOCATE.override({"min_frames": min_frames})
        planned = planner.Planner({"ffpp": table}, {"ffpp": ledger}, {"ffpp": Path("faces")}, Path("storage"))
        assert not planned(DELOCATE).test[0].failed
        return planned(experiment).test[0]

    assert test_part(16).failed == {
        "ffpp/real/c23/test0": "a face in too few frames: 1, at least 16 are asked for (min_frames)",
        "ffpp/real/c23/test1": "a face in too few frames: 2, at least 16 are asked for (min_frames)",
    }
    assert [video.video_id for video in test_part(16).videos] == [f"ffpp/Deepfakes/c23/test{i}" for i in range(2)]
    assert not test_part(1).failed
