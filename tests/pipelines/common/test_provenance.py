"""What a number is recorded with, and what is said of a table whose rows differ in it."""

import torch

from pipelines.common import device, provenance
from pipelines.common.numerics import Numerics

CPU = torch.device("cpu")


def test_what_a_number_was_made_with() -> None:
    made = device.made_with(Numerics(precision="auto", deterministic=True), CPU)
    assert made["torch"] == torch.__version__
    assert (made["cuda"], made["device"], made["precision"], made["deterministic"]) == ("none", "cpu", "fp32", "yes")
    assert made["timm"][0].isdigit()
    assert device.made_with(Numerics(precision="bf16"), CPU)["precision"] == "bf16"


def test_records_are_joined_value_by_value() -> None:
    records = [{"device": "cpu", "torch": "2.15"}, {"device": "T4", "torch": "2.15"}, {"device": "cpu, T4"}]
    assert provenance.joined(records) == {"device": "cpu, T4", "torch": "2.15"}
    assert provenance.joined([]) == {}


def test_rows_that_differ_are_named() -> None:
    one, other = {"torch": "2.15", "precision": "bf16"}, {"torch": "2.14", "precision": "bf16"}
    assert provenance.told({"A": one, "B": one}) == "torch 2.15, precision bf16"
    assert provenance.told({"A": one, "B": other, "C": one}) == (
        "precision bf16; ROWS DIFFER in torch (2.15: A, C; 2.14: B)"
    )
    assert provenance.told({"A": one, "B": {}}) == "torch 2.15, precision bf16"
    assert provenance.told({}) == ""
