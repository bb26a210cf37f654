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
        ({"model.lrr": Range(0.1, 0.2)}, "lrr.*allowed are .*lr"),
        ({"model.smallest_crop": Range(0.5, 1.5)}, "smallest_crop"),  # the high end
        ({"model.smallest_crop": Range(-0.5, 1.0)}, "smallest_crop"),  # the low end
        ({"model.schedule": ("cosine", "linear")}, "linear"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_starts(chosen, message):
    with pytest.raises(ValueError, match=message):
        space.check(chosen, BASE)


def test_rows_that_differ_in_the_papers_settings_are_a_space():
    rows = {"a": {"model.lr": 0.1, "model.flip": True}, "b": {"model.lr": 0.2, "model.flip": True}}
    assert space.of_rows(rows) == {"model.lr": (0.1, 0.2), "model.flip": (True,)}


@pytest.mark.parametrize(
    "rows",
    [
        {"a": {"model.lr": 0.1}, "b": {}},  # what b has is the base's: not said
        {"a": {"model.lr": 0.1}, "b": {"model.flip": True}},
        {"a": {"manipulations": ("Deepfakes",)}, "b": {"manipulations": ("FaceSwap",)}},  # other data
    ],
)
def test_other_rows_are_none(rows):
    assert space.of_rows(rows) == {}


def test_contains():
    assert space.contains(Range(0.1, 0.9), 0.9)
    assert not space.contains(Range(0.1, 0.9), 0.91)
    assert space.contains(("a", None), None)
