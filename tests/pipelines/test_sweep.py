"""The switches of a sweep: what they take, what they refuse, and what a launch is told."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines import sweep
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.launch.switches import options as options_of
from pipelines.sweep import Experiment, Row, Sweep

BASE = Experiment(model="delocate", train_on="ffpp", test_on=("celeb_df",))
TINY = Sweep(name="tiny", title="", base=BASE, row_name="row", headings=("celeb_df",), rows=(Row("a", {}),))


def told(*switches: str) -> Options:
    return options_of(sweep.parser(TINY, None).parse_args(switches))


def test_a_command_without_switches_is_what_options_are_by_default() -> None:
    assert told() == Options()


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ("--datasets my.toml --storage /data --preset small --seeds 2", ("my.toml", "/data", "small", 2)),
        ("--dry-run --no-pretrained --address auto", (True, False, "auto")),
        ("--search 3 --space model.lr=1..2 model.b=true,false", (3, ("model.lr=1..2", "model.b=true,false"))),
    ],
)
def test_a_launch_is_told_what_the_switches_say(switches: str, expected: tuple[Any, ...]) -> None:
    options = told(*switches.split())
    names = {
        4: ("datasets", "storage", "preset", "seeds"),
        3: ("dry_run", "pretrained", "address"),
        2: ("search", "space"),
    }[len(expected)]
    assert tuple(getattr(options, name) for name in names) == expected


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ray://head:10001", "ray://head:10001: this reads and writes the storage itself, so it must run on a node of"),
        ("http://10.0.0.5:8265", "submit it there (ray job submit, see docs/cluster.md) with --address auto"),
        ("localhost", "must be auto, or the cluster's head as host:port, such as 10.0.0.5:6379; got 'localhost'"),
        ("10.0.0.5:", "got '10.0.0.5:'"),
        ("10.0.0.5:70000", "got '10.0.0.5:70000'"),
        ("a b:6379", "got 'a b:6379'"),
        ("", "got ''"),
    ],
)
def test_an_address_has_the_form_of_one(address: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told("--dry-run", "--address", address)
    assert text in " ".join(capsys.readouterr().err.split())


def test_an_address_is_auto_or_host_and_port() -> None:
    for address in ("auto", "10.0.0.5:6379", "head-0.ray.svc:6379", "[fe80::1]:6379"):
        assert told("--address", address).address == address


def test_a_space_without_a_search_is_refused() -> None:
    with pytest.raises(ValueError, match="--space says what --search varies; add --search N"):
        told("--space", "model.lr=1..2")


@pytest.mark.parametrize("number", ["-1", "nan", "inf", "one"])
def test_gpus_are_none_or_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told("--gpus-per-worker", number)
    assert "must be 0 or more" in capsys.readouterr().err
    assert told("--gpus-per-worker", "0.5").gpus_per_worker == 0.5


# ------------------------------------------------------------------------------------------ --set
def test_a_setting_is_set_in_all_rows_that_do_not_say_it_themselves() -> None:
    two = replace(TINY, rows=(Row("a", {}), Row("b", {"precision": "bf16"})))
    made = Request.of(
        two, told("--set", "precision=fp32", "deterministic=true", 'manipulations=["FaceSwap"]')
    ).experiments
    assert {row: experiment.precision for (row, _), experiment in made.items()} == {"a": "fp32", "b": "bf16"}
    assert all(experiment.deterministic for experiment in made.values())
    assert all(experiment.manipulations == ("FaceSwap",) for experiment in made.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision=fp16", "precision must be one of auto, fp32, bf16; got 'fp16'"),
        ("precison=fp32", "unknown key 'precison'; did you mean 'precision'\\?"),
        ("model.finetune.lr=x", r"unknown key 'model.finetune.lr'; did you mean 'model.finetune.base_lr'\?"),
        ("seed=3", "--set seed: use --seeds"),
        ("codec=c40", "--set codec: each row of tiny has its own; leave it out, or choose --rows"),
    ],
)
def test_a_setting_that_is_none_is_one_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request.of(replace(TINY, rows=(Row("a", {"codec": "c23"}),)), told("--set", text))


@pytest.mark.parametrize("text", ["precision", "=fp32", "precision="])
def test_what_sets_nothing_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told("--set", text)
    assert "must be KEY=VALUE, such as precision=fp32" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- --workers
@pytest.mark.parametrize(("text", "workers"), [("0", (0, 0)), ("4", (4, 4)), ("1-4", (1, 4)), ("2-2", (2, 2))])
def test_workers_are_a_number_or_a_range(text: str, workers: tuple[int, int]) -> None:
    assert told("--workers", text).workers == workers
    assert told("--workers", text, "--gpus-per-worker", "0.5").gpus_per_worker == 0.5


@pytest.mark.parametrize("text", ["-1", "0-2", "4-1", "1-", "1-2-3", "two", "1.5"])
def test_other_workers_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told(f"--workers={text}")
    assert "--workers" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- --accumulate
def test_accumulate_names_a_stage_and_a_number() -> None:
    options = told("--accumulate", "delocate.finetune=4", "delocate.recover=2")
    assert options.accumulate == {"delocate.finetune": 4, "delocate.recover": 2}
    assert Request.of(TINY, options).options.accumulate == options.accumulate


@pytest.mark.parametrize(
    "text", ["4", "finetune=4", "delocate.finetune=0", "delocate.finetune=two", "delocate.finetune"]
)
def test_what_names_no_stage_or_no_number_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        told("--accumulate", text)
    assert "--accumulate" in capsys.readouterr().err


def test_a_stage_that_the_sweep_lacks_or_that_cannot_be_cut_is_named() -> None:
    with pytest.raises(ValueError, match=r"--accumulate lre\.detect: this sweep trains delocate\.finetune, "):
        Request.of(TINY, Options(accumulate={"lre.detect": 2}))
    with pytest.raises(ValueError, match=r"delocate\.localize can't be cut"):
        Request.of(TINY, Options(accumulate={"delocate.localize": 2}))
