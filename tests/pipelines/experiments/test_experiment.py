"""Varying an experiment: what is allowed, what is refused, and the names that values get."""

import dataclasses
import json

import pytest

from models import delocate
from pipelines.common.storage import digest
from pipelines.experiments.experiment import Experiment

BASE = Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df", "dfdc"), preset="small")


def test_override_changes_what_it_names_and_nothing_else():
    changed = BASE.override({"seed": 3, "model.recover.mask_ratio": 0.5})
    assert (changed.seed, changed.config().recover.mask_ratio) == (3, 0.5)
    assert dataclasses.replace(changed, seed=0, model_args={}) == BASE
    assert BASE.config() == delocate.SMALL  # the base stays as it is


def test_overrides_add_up_and_the_last_one_counts():
    twice = BASE.override({"model.recover.mask_ratio": 0.5, "model.recover.lr": 0.1}).override(
        {"model.recover.mask_ratio": 0.25}
    )
    assert (twice.config().recover.mask_ratio, twice.config().recover.lr) == (0.25, 0.1)


def test_the_preset_is_the_base_of_model_settings():
    paper = BASE.override({"model.recover.mask_ratio": 0.5, "preset": "paper"}).config()
    assert paper == dataclasses.replace(
        delocate.Config(), recover=dataclasses.replace(delocate.RecoverConfig(), mask_ratio=0.5)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'\\?"),
        ({"model_args": {}}, "unknown key 'model_args'"),
        (
            {"recover.mask_ratio": 0.5},
            r"unknown key 'recover\.mask_ratio'; did you mean 'model\.recover\.mask_ratio'\?",
        ),
        (
            {"model.recover.mask_ration": 0.5},
            "unknown key 'model.recover.mask_ration'; did you mean 'model.recover.mask_ratio'\\?",
        ),
        ({"model.recover": 0.5}, "unknown key 'model.recover'"),
        ({"perturbations": "blur"}, "perturbations must be a list of names"),
        ({"perturbations": ("blur", "blurr-1")}, "unknown perturbation 'blurr-1'; did you mean 'blur-1'\\?"),
        ({"faces.margn": 1.5}, "unknown key 'faces.margn'; did you mean 'faces.margin'\\?"),
        ({"faces.margin": 0.5}, "margin must be >= 1"),
        ({"faces.detector": "retina"}, "detector must be one of 'dlib', 'dlib-cnn', 'retinaface', got 'retina'"),
        ({"model.recover.mask_ratio": "0.5"}, "recover.mask_ratio must be a finite float, got '0.5'"),
        ({"model.recover.mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\], got 0"),
        ({"model.recover.mask_ratio": -0.1}, r"mask_ratio must be in \(0, 1\], got -0.1"),
        ({"model.recover.mask_ratio": 1.01}, r"mask_ratio must be in \(0, 1\], got 1.01"),
        ({"model.recover.mask_ratio": float("nan")}, "mask_ratio must be"),
        ({"model.finetune.batch_size": 2.5}, "batch_size must be int"),
        ({"model.localize.use_meta": 1}, "use_meta must be bool"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, got -1"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"min_frames": 0}, "min_frames must be a whole number, 1 or more, got 0"),
        ({"min_frames": 1.5}, "min_frames must be a whole number"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16; got 'fp16'"),
        ({"deterministic": 1}, "deterministic must be true or false, got 1"),
        ({"preset": "large"}, "preset must be one of paper, small, tiny; got 'large'"),
        ({"model": "delocat"}, "model must be one of .*delocate.*; got 'delocat'"),
        ({"failed_videos": "zero"}, "failed_videos must be one of exclude, half; got 'zero'"),
        ({"test_on": "dfdc"}, "test_on must be"),
        ({"manipulations": "Deepfakes"}, "manipulations must be"),
    ],
)
def test_override_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        BASE.override(changes)


def test_extraction_is_the_papers_unless_an_override_says_otherwise():
    papers = BASE.override({"preset": "paper"}).recipe()
    config = delocate.Config()
    assert (papers.num_frames, papers.margin) == (config.video_frames, config.crop_margin)
    changed = BASE.override({"preset": "paper", "faces.margin": 2, "faces.num_frames": 5}).recipe()
    assert changed == dataclasses.replace(papers, margin=2.0, num_frames=5)
    assert BASE.override({"faces.margin": 2}).flat()["faces.margin"] == 2.0


def test_a_paper_may_say_whether_a_track_has_one_crop_box():
    assert BASE.override({"model": "laa_net"}).recipe().constant_box is False
    assert BASE.recipe().constant_box is True  # Delocate's Config does not say
    assert BASE.override({"model": "laa_net", "model.constant_box": True}).recipe().constant_box is True
    assert BASE.override({"model": "laa_net", "faces.constant_box": True}).recipe().constant_box is True


@pytest.mark.parametrize(("preset", "detector"), [("paper", "retinaface"), ("small", "dlib")])
@pytest.mark.parametrize("model", ["adfd", "laa_net", "lre", "plain"])
def test_papers_that_name_retinaface_and_plain_take_it_unless_told_otherwise(model, preset, detector):
    experiment = BASE.override({"model": model, "preset": preset})
    assert experiment.recipe().detector == detector
    assert experiment.override({"model.detector": "dlib-cnn"}).recipe().detector == "dlib-cnn"
    assert experiment.override({"faces.detector": "dlib"}).recipe().detector == "dlib"
    with pytest.raises(ValueError, match="detector must be one of dlib, dlib-cnn, retinaface; got 'mtcnn'"):
        experiment.override({"model.detector": "mtcnn"})


@pytest.mark.parametrize("model", ["delocate", "mc_lcr"])
def test_the_other_papers_take_dlibs_detector(model):
    assert BASE.override({"model": model}).recipe().detector == "dlib"


def test_mask_ratio_of_one_is_allowed():
    assert BASE.override({"model.recover.mask_ratio": 1}).config().recover.mask_ratio == 1.0


def test_flat_has_every_setting_under_its_dotted_name():
    flat = BASE.override({"model.recover.mask_ratio": 0.5, "manipulations": ("Deepfakes", "FaceSwap")}).flat()
    expected = {
        "model": "delocate",
        "train_on": "ffpp",
        "test_on": "celeb_df, dfdc",
        "manipulations": "Deepfakes, FaceSwap",
        "seed": 0,
        "preset": "small",
        "model_config.recover.mask_ratio": 0.5,
        "model_config.localize.use_meta": True,
        "model_config.stages": "recover, finetune, localize",
    }
    assert {name: flat[name] for name in expected} == expected
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())


def test_flat_names_settings_as_override_does():
    own = {name.removeprefix("model_config."): v for name, v in BASE.flat().items() if name.startswith("model_config.")}
    plain = {f"model.{name}": value for name, value in own.items() if ", " not in str(value)}
    assert len(plain) > 40
    assert BASE.override(plain).config() == BASE.config()


# ----------------------------------------------------------------------------------------- digests
@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: tuple[int, ...]


def test_equal_values_have_equal_digests():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert digest({"p": Point(0.5, (1, 2))}) == digest({"p": {"x": 0.5, "y": [1, 2]}})
    assert digest(json.loads(json.dumps({"x": 0.1}))) == digest({"x": 0.1})


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {}, [["a", 1]]])
def test_different_values_have_different_digests(other):
    assert digest(other) != digest({"a": 1})


def test_order_in_a_list_counts():
    assert digest([1, 2]) != digest([2, 1])


def test_digest_is_the_same_on_every_machine():
    # echo -n '{"a":[1,0.5,null]}' | sha256sum | cut -c 1-16
    assert digest({"a": (1, 0.5, None)}) == "0a9e7fb6e38afbba"


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, Point])
def test_digest_refuses_what_has_no_lasting_text(value):
    with pytest.raises(TypeError, match="cannot be part of a digest"):
        digest(value)
