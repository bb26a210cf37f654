"""The stage store: what names a stage, when it is done, and who may train it."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import models
from models._laa_net_config import SCHEDULES
from pipelines.common import storage
from pipelines.common.storage import StorageError
from pipelines.experiments.experiment import Experiment
from pipelines.training import stages, views
from pipelines.training.stages import PlannedStage

ROOT = Path(__file__).parents[3]
ROWS = {"real_clips": "r1", "clips": "c1", "frames": "f1", "domain_frames": "d1"}
BASE = Experiment(model="delocate", train_on="ffpp", test_on=("dfdc",), preset="small")


# ---------------------------------------------------------------------------------------- planning
def digests(changes: Mapping = {}, rows: Mapping = ROWS, base: Experiment = BASE) -> dict[str, str]:
    return {stage.name: stage.digest for stage in stages.plan(base.override(changes), rows, Path("/storage"))}


def changed(changes: Mapping = {}, rows: Mapping = ROWS) -> set[str]:
    before, after = digests(), digests(changes, rows)
    return {name for name in before if before[name] != after[name]}


def test_stages_come_in_order_each_in_its_own_folder():
    planned = stages.plan(BASE, ROWS, Path("/storage"))
    assert [stage.name for stage in planned] == ["recover", "finetune", "localize"]
    assert [stage.needs for stage in planned] == [(), ("recover",), ("recover",)]
    for stage in planned:
        assert stage.folder == Path("/storage/stages/delocate") / stage.name / stage.digest


def test_equal_experiments_share_their_stages():
    assert changed() == set()
    assert changed({"test_on": ("celeb_df",), "protocol": "in_dataset", "failed_videos": "half"}) == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.recover.mask_ratio": 0.5}, {"recover", "finetune", "localize"}),
        ({"model.clip.tubelet_frames": 3}, {"recover", "finetune", "localize"}),
        ({"model.finetune.num_epochs": 7}, {"finetune"}),
        ({"model.localize.use_meta": False}, {"localize"}),
        ({"model.localize.lr": 0.5}, {"localize"}),
        ({"seed": 1}, {"recover", "finetune", "localize"}),
        ({"precision": "fp32"}, {"recover", "finetune", "localize"}),
        ({"deterministic": True}, {"recover", "finetune", "localize"}),
        ({"model.vit.checkpoint_activations": True}, set()),  # memory and time only
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_a_setting_changes_the_stages_that_it_reaches(changes, expected):
    assert changed(changes) == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("real_clips", {"recover", "finetune", "localize"}),
        ("clips", {"finetune"}),
        ("domain_frames", {"localize"}),
        ("frames", set()),
    ],
)
def test_other_rows_change_the_stages_that_see_them(view, expected):
    assert changed(rows=ROWS | {view: "other"}) == expected


def test_a_stage_that_reads_nothing_does_not_depend_on_recover():
    alone = {"model.localize.use_map_loss": False}
    a, b = digests(alone), digests(alone | {"model.recover.mask_ratio": 0.5})
    assert a["recover"] != b["recover"]
    assert a["localize"] == b["localize"]
    only = digests(alone | {"model.stages": ["localize"]})
    assert only == {"localize": a["localize"]}


def test_spec_says_what_the_digest_covers_and_is_json():
    recover, finetune, _ = stages.plan(BASE.override({"seed": 4}), ROWS, Path("/storage"))
    spec = json.loads(json.dumps(finetune.spec))
    assert spec["needs"] == {"recover": recover.digest}
    assert (spec["paper"], spec["stage"], spec["rows"], spec["seed"]) == ("delocate", "finetune", "c1", 4)
    assert (spec["precision"], spec["deterministic"], spec["pretrained"]) == ("auto", False, [])
    assert spec["versions"] == {"delocate": models.version("delocate"), **stages.VERSIONS}
    assert spec["feed"]["view"] == "clips"
    assert spec["settings"]["finetune"]["num_epochs"] == BASE.config().finetune.num_epochs


@pytest.mark.parametrize(
    ("paper", "changes", "stage"),
    [("lre", {"model.video_frames": 8}, "reconstruct"), ("mc_lcr", {"model.crop_margin": 1.6}, "detect")],
)
def test_a_setting_that_reaches_training_through_the_feed_alone_is_in_its_stage(paper, changes, stage):
    base = Experiment(model=paper, train_on="ffpp", test_on=("dfdc",), preset="small")
    rows = dict.fromkeys(views.VIEWS, "rows")
    assert digests({}, rows, base)[stage] != digests(changes, rows, base)[stage]


def test_the_schedule_that_a_name_stands_for_is_in_its_stage(monkeypatch):
    base = Experiment(model="laa_net", train_on="ffpp", test_on=("dfdc",))
    rows = dict.fromkeys(views.VIEWS, "rows")
    before = digests({}, rows, base)
    monkeypatch.setitem(SCHEDULES, "paper", SCHEDULES["paper"] | {"boost": 5})
    assert digests({}, rows, base) != before


def test_how_faces_make_up_the_score_of_a_video_is_in_the_stages_that_score(monkeypatch):
    """Validation ranks videos by it, to choose the epoch."""
    for name in ("recover", "localize"):
        with monkeypatch.context() as patch:
            patch.setattr(models.stage("delocate", name), "pooling", lambda cfg: models.Pooling(frames="mean_logit"))
            after = digests()
        assert {other for other, digest in digests().items() if after[other] != digest} == {name} - {"recover"}


def test_a_new_version_of_a_paper_is_a_new_stage(monkeypatch):
    before = digests()
    monkeypatch.setattr("models.delocate.VERSION", 1_000)
    assert not set(before.values()) & set(digests().values())


# ------------------------------------------------------------------------------- pretrained weights
NAMED = {
    "adfd": {"detect": ["tf_efficientnet_b4.ap_in1k"]},
    "delocate": {"recover": [], "finetune": [], "localize": ["resnet18.a1_in1k", "legacy_seresnext50_32x4d.in1k"]},
    "laa_net": {"detect": ["tf_efficientnet_b4.ap_in1k"]},
    "lre": {"reconstruct": [], "detect": ["legacy_xception.tf_in1k"]},
    "mc_lcr": {"detect": ["legacy_xception.tf_in1k"]},
    "plain": {"detect": ["legacy_xception.tf_in1k"]},
}


def pretrained(changes: Mapping, model: str) -> dict[str, list[str]]:
    base = Experiment(model=model, train_on="ffpp", test_on=("dfdc",)).override(changes)
    planned = stages.plan(base, dict.fromkeys(views.VIEWS, "rows"), Path("/storage"))
    return {stage.name: list(stage.spec["pretrained"]) for stage in planned}


@pytest.mark.parametrize("model", models.names())
def test_the_weights_that_a_stage_starts_from_are_in_its_spec(model, monkeypatch):
    """They are those that it asks timm for."""
    asked: list[str] = []

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.extend([name] * pretrained)
        return make(name, pretrained=False, **options)

    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    for name, tags in pretrained({}, model).items():
        asked.clear()
        with torch.device("meta"):
            models.stage(model, name)(models.config(model))
        assert set(asked) == set(tags)
        assert tags == NAMED[model][name]
    assert not any(pretrained({"model.pretrained": False}, model).values())


def test_weights_without_a_tag_are_those_that_timm_takes():
    assert pretrained({"model.backbone": "resnet18", "model.input_px": 224}, "plain") == {
        "detect": ["resnet18.a1_in1k"]
    }
    assert pretrained({"model.backbone": "resnet18.tv_in1k"}, "plain") == {"detect": ["resnet18.tv_in1k"]}


# ------------------------------------------------------------------------------------- one stage
@pytest.fixture
def planned(tmp_path) -> PlannedStage:
    return stages.plan(BASE, ROWS, tmp_path)[0]


def test_a_stage_is_done_when_finished_with_the_weights_of_the_best_epoch(planned):
    for epoch in (2, 5):
        storage.put_folder(planned.folder, "best", epoch, {"weights.safetensors": f"of {epoch}".encode()})
        storage.put_folder(planned.folder, "checkpoint", epoch, {"weights.safetensors": b"last"})
    assert not planned.done
    planned.finish(2, {"best_epoch": 2, "seconds": 1.5})
    assert planned.done
    assert planned.summary() == {"best_epoch": 2, "seconds": 1.5}
    assert (planned.folder / "weights.safetensors").read_bytes() == b"of 2"
    assert {path.name for path in planned.folder.iterdir()} == {"_done.json", "weights.safetensors"}


def test_a_stage_whose_best_weights_are_missing_is_not_finished(planned):
    storage.put_folder(planned.folder, "checkpoint", 3, {"weights.safetensors": b"last"})
    with pytest.raises(FileNotFoundError):
        planned.finish(3, {})
    assert not planned.done
    assert storage.folders(planned.folder, "checkpoint")  # it can still go on


def test_the_summary_of_an_unfinished_stage_is_an_error(planned):
    with pytest.raises(StorageError, match="is not finished; run the sweep again"):
        planned.summary()


def test_curve_has_one_entry_per_line(planned):
    assert planned.curve() == []
    storage.write_bytes(planned.folder / "curves.jsonl", b'{"epoch": 1, "val/loss": 0.5}\n{"epoch": 2}\n')
    assert planned.curve() == [{"epoch": 1, "val/loss": 0.5}, {"epoch": 2}]


def test_why_a_stage_is_trained_again(tmp_path, monkeypatch):
    before = BASE.override({"seed": 1})
    for experiment in (before, before.override({"precision": "fp32", "deterministic": True})):
        for stage in stages.plan(experiment, ROWS, tmp_path):
            storage.write_json(stage.folder / "spec.json", dict(stage.spec))
            storage.write_json(stage.folder / "_done.json", {})
    asked = {stage.name: stage for stage in stages.plan(before, ROWS, tmp_path)}
    assert stages.trained_otherwise(asked["recover"]) == ("deterministic True -> False", "precision fp32 -> auto")
    views_before = stages.VERSIONS["views"]
    monkeypatch.setitem(stages.VERSIONS, "views", 9)
    recover, finetune, _ = stages.plan(before, ROWS | {"clips": "c2"}, tmp_path)
    assert stages.trained_otherwise(recover) == (f"versions.views {views_before} -> 9",)
    needs = f"needs.recover {asked['recover'].digest} -> {recover.digest}"
    assert stages.trained_otherwise(finetune) == (needs, "rows c1 -> c2", f"versions.views {views_before} -> 9")
    for other in ({"seed": 2}, {"model.recover.mask_ratio": 0.5}):  # another question, not the same one again
        assert stages.trained_otherwise(stages.plan(before.override(other), ROWS, tmp_path)[0]) == ()


HOLDER = """
import sys
from pathlib import Path
from pipelines.training.stages import PlannedStage
with PlannedStage(paper="p", name="s", folder=Path(sys.argv[1]), spec={}).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_other_processes_out_and_dies_with_its_process(planned):
    command = [sys.executable, "-c", HOLDER, str(planned.folder)]
    got = threading.Event()

    def take() -> None:
        with planned.lock():
            got.set()

    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            waiting = threading.Thread(target=take, daemon=True)
            waiting.start()
            assert not got.wait(0.5)
        finally:
            holder.kill()
    assert got.wait(10)
    waiting.join(10)


def test_a_lock_can_be_taken_again(planned):
    for _ in range(2):
        with planned.lock():
            pass
