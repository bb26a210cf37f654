from dataclasses import replace

import pytest

from pipelines.experiments import space
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.space import Range

BASE = Experiment(model="plain", train_on="ffpp", test_on=("celeb_df",), preset="small")


def test_settings_as_they_are_written():
    assert space.parse(["model.lr=1e-5..1e-2:log", "model.batch_size=8..64", "model.flip=true,false"]) == {
        "model.lr": Range(1e-5, 1e-2, log=True),
        "model.batch_size": Range(8, 64),
        "model.flip": (True, False),
    }
    assert space.parse(["model.schedule=constant,cosine"]) == {"model.schedule": ("constant", "cosine")}


@pytest.mark.parametrize(
    "text", ["model.lr", "=1..2", "model.lr=", "model.lr=1..", "model.lr=a..b", "model.lr=1..2:lin"]
)
def test_what_cannot_be_read_is_said(text):
    with pytest.raises(ValueError, match=r"LOW\.\.HIGH"):
        space.parse([text])


@pytest.mark.parametrize("ends", [(2, 1), (1, 1), (float("nan"), 1)])
def test_a_range_goes_up(ends):
    with pytest.raises(ValueError, match="from a low to a high"):
        Range(*ends)


def test_a_logarithm_needs_positive_ends():
    with pytest.raises(ValueError, match="above 0"):
        Range(0.0, 1.0, log=True)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "nothing to search.*--space"),
        ({"train_on": ("ffpp", "dfdc")}, "train_on can't be searched"),
        ({"faces.margin": Range(1.0, 2.0)}, r"faces\.margin can't be searched"),
        ({"model.lrr": Range(0.1, 0.2)}, "unknown key 'model\\.lrr'; did you mean 'model\\.lr'\\?"),
        ({"model.smallest_crop": Range(0.5, 1.5)}, "smallest_crop"),  # the high end
        ({"model.smallest_crop": Range(-0.5, 1.0)}, "smallest_crop"),  # the low end
        ({"model.schedule": ("cosine", "linear")}, "linear"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_starts(chosen, message):
    with pytest.raises(ValueError, match=message):
        space.check(chosen, BASE)


def test_rows_that_differ_in_the_papers_settings_are_a_space():
    own = BASE.config().lr
    rows = [{"model.lr": 0.1, "model.flip": True}, {"model.lr": 0.2}, {"manipulations": ("FaceSwap",)}, {}]
    assert space.of_rows(BASE, rows) == {"model.lr": (0.1, 0.2, own)}


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.input_px": 64},  # other faces
        {"model.crop_margin": 2.0},
        {"model.backbone": "none", "model.batch_size": 3},  # refused, the second one
        {"manipulations": ("Deepfakes",), "codec": "c40"},  # other videos
        {"model.flip": True},  # the base's own
    ],
)
def test_what_asks_for_other_faces_or_is_refused_is_none(overrides):
    assert space.of_rows(BASE, [overrides]).keys() <= {"model.backbone"}


def test_stages_and_the_videos_of_a_stage_are_not_searched():
    lre = replace(BASE, model="lre")
    rows = [{"model.reconstruct.codec": "raw"}, {"model.stages": ("reconstruct",)}, {"model.detect.gate": "none"}]
    assert space.of_rows(lre, rows).keys() == {"model.detect.gate"}


def test_rates_are_those_of_the_stages_that_are_trained():
    ends = {"model.reconstruct.lr": (1e-5, 1e-3), "model.detect.lr": (1e-5, 1e-3)}
    lre = replace(BASE, model="lre", preset="paper")
    assert space.rates(lre) == {key: Range(low, high, log=True) for key, (low, high) in ends.items()}
    alone = lre.override({"model.stages": ("reconstruct",), "model.pretrained": False})
    assert space.rates(alone).keys() == {"model.reconstruct.lr"}
    # the rate of a schedule, where the setting itself is left open
    assert space.rates(replace(BASE, model="laa_net", preset="paper")) == {
        "model.optim.lr": Range(5e-6, 5e-4, log=True)
    }


def test_contains():
    assert space.contains(Range(0.1, 0.9), 0.9)
    assert not space.contains(Range(0.1, 0.9), 0.91)
    assert space.contains(("a", None), None)
