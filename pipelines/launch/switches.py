"""Switches that several commands share, and what they say as a value. It imports nothing that takes long."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

from pipelines.common.command import not_negative, positive
from pipelines.common.storage import DEFAULT_STORAGE
from pipelines.experiments import space
from pipelines.experiments.experiment import FAILED_RULES, PRESETS
from pipelines.launch.options import Options

CODEC = "c23"  # of scores from elsewhere, unless the switch says otherwise


# ------------------------------------------------------------------------------------------ a launch
def add_launch(p: argparse.ArgumentParser, seeds: Mapping[str, int]) -> None:
    """Add the switches of a launch. seeds: preset -> how many seeds a row has, unless the switch says otherwise."""
    p.add_argument(
        "--datasets",
        metavar="FILE",
        help="datasets.toml: dataset name = root folder (default: "
        "$CROSSFORGE_DATASETS, ./datasets.toml, or the made-up sample corpus)",
    )
    p.add_argument(
        "--storage",
        metavar="DIR",
        default=DEFAULT_STORAGE,
        help="where faces, stages, runs and the MLflow database are kept: a folder, or s3://bucket/prefix or "
        "gs://bucket/prefix, and then the database in ./%(default)s (default: ./%(default)s)",
    )
    p.add_argument(
        "--preset",
        choices=PRESETS,
        help="paper: the paper's sizes; small: the same code, minutes on a CPU; tiny: does it run here at all? A few "
        "steps on a few videos, of datasets of your own, too; its numbers mean nothing "
        "(default: paper with datasets of your own, small on the sample corpus)",
    )
    p.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help=f"seeds per row (default: {seeds['paper']} for paper, {seeds['small']} for small and tiny)",
    )
    p.add_argument(
        "--set",
        nargs="+",
        type=_setting,
        metavar="KEY=VALUE",
        help="change settings of all rows, where a row does not say otherwise, e.g. precision=fp32 deterministic=true "
        'faces.margin=1.5 model.finetune.base_lr=1e-3 manipulations=["FaceSwap"]; a wrong KEY lists those there are',
    )
    p.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="training workers per trial, which share each step's samples; 0 trains inside the trial's process "
        "(default: 1 per trial for paper, else 0); 1-4 begins with as many as there is room for, and goes on with "
        "fewer when a node is lost, which takes more GPU memory in each, save in stages that --accumulate cuts exactly",
    )
    p.add_argument(
        "--gpus-per-worker",
        type=_share,
        metavar="X",
        help="GPUs of one worker, may be a fraction (default: 1 where the cluster has GPUs)",
    )
    p.add_argument(
        "--accumulate",
        nargs="+",
        type=_cuts,
        metavar="PAPER.STAGE=N",
        help="cut each worker's share of a step into N, one after the other through the network, where the paper's "
        "batch does not fit into memory, e.g. delocate.finetune=4",
    )
    p.add_argument(
        "--no-pretrained",
        action="store_true",
        help="start from random weights where the paper starts from ImageNet's (for machines that can't download them)",
    )
    p.add_argument(
        "--weights",
        nargs="+",
        type=_weights,
        metavar="[NETWORK=]FILE",
        help="start from these weights where the paper starts from ImageNet's: a .safetensors file, a state dict of "
        "torch, or the name of an installed Python package that has one; for all networks, or for the one of timm that "
        "is named",
    )
    add_address(p)
    p.add_argument(
        "--search",
        type=positive,
        metavar="N",
        help="try N settings instead of the rows (Optuna, ASHA), and score the one with the best validation AUC",
    )
    p.add_argument(
        "--space",
        nargs="+",
        metavar="KEY=VALUES",
        help="what --search varies, e.g. model.finetune.base_lr=1e-5..1e-2:log model.recover.mask_ratio=0.3..0.9 "
        "model.localize.use_meta=true,false (default: the settings in which the rows differ, or learning rates)",
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def add_address(p: argparse.ArgumentParser) -> None:
    """Add the switch of all commands that may run on a cluster."""
    p.add_argument(
        "--address",
        type=_address,
        metavar="ADDR",
        help="an existing Ray cluster, run on a node of it: auto, or host:port",
    )


def _address(text: str) -> str:
    """Return the address of a cluster: `auto`, or `<host>:<port>`."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text}: this reads and writes the storage itself, so it must run on a node of the cluster; submit "
            "it there (ray job submit, see docs/cluster.md) with --address auto"
        )
    host_and_port = re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):(\d+)", text)
    if text != "auto" and not (host_and_port and 0 < int(host_and_port[1]) < 2**16):
        raise argparse.ArgumentTypeError(
            f"must be auto, or the cluster's head as host:port, such as 10.0.0.5:6379; got {text!r}"
        )
    return text


def _setting(text: str) -> tuple[str, Any]:
    """Return the key and its value: `<key>=<value>`, a value in JSON or a word."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, such as precision=fp32; got {text!r}")
    told = space.value(value)
    return key, tuple(told) if isinstance(told, list) else told


def _share(text: str) -> float:
    """Return a number of GPUs, 0 or more, a fraction maybe."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, such as 0.5 or 2; got {text!r}")
    return value


def _workers(text: str) -> tuple[int, int]:
    """Return the fewest and the most: `4` or `1-4`."""
    least, dash, most = text.partition("-")
    if not (least and dash):
        return (value := not_negative(text)), value
    bounds = positive(least), positive(most)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"the first number must not be above the second, got {text!r}")
    return bounds


def _weights(text: str) -> tuple[str, str]:
    """Return the network, empty for all, and the file: `<file>` or `<network>=<file>`."""
    network, equals, file = text.partition("=")
    if not (equals and network.replace(".", "_").isidentifier()):  # a folder's name may have the sign too
        network, file = "", text
    if not file:
        raise argparse.ArgumentTypeError(f"must be FILE or NETWORK=FILE, such as resnet18=weights.pth; got {text!r}")
    return network, file


def _cuts(text: str) -> tuple[str, int]:
    """Return the stage and the number: `<paper>.<stage>=N`."""
    name, _, number = text.partition("=")
    if name.count(".") != 1:
        raise argparse.ArgumentTypeError(f"must be <paper>.<stage>=N, such as delocate.finetune=4; got {text!r}")
    return name, positive(number)


def options(arguments: argparse.Namespace) -> Options:
    """Return what the switches of a launch say. Raises ValueError for a useless one."""
    if arguments.space and not arguments.search:
        raise ValueError("--space says what --search varies; add --search N")
    weights = dict(arguments.weights or ())
    if len(weights) < len(arguments.weights or ()):
        raise ValueError("--weights: two files for one network; name the networks, as in --weights resnet18=FILE")
    if weights and arguments.no_pretrained:
        raise ValueError("--weights and --no-pretrained exclude each other; leave one out")
    return Options(
        datasets=arguments.datasets,
        storage=arguments.storage,
        preset=arguments.preset,
        seeds=arguments.seeds,
        settings=dict(arguments.set or ()),
        pretrained=not arguments.no_pretrained,
        weights=weights,
        workers=arguments.workers,
        gpus_per_worker=arguments.gpus_per_worker,
        accumulate=dict(arguments.accumulate or ()),
        address=arguments.address,
        search=arguments.search,
        space=tuple(arguments.space or ()),
        dry_run=arguments.dry_run,
    )


# ----------------------------------------------------------------------------- scores from elsewhere
def add_foreign(p: argparse.ArgumentParser) -> None:
    """Add the switches of both commands that take scores from elsewhere."""
    what = p.add_argument_group("what is scored: test parts by name, or those of a sweep's row")
    what.add_argument(
        "--test-on",
        nargs="+",
        metavar="PART",
        default=[],
        help="test parts: celeb_df, ffpp (its four manipulations), ffpp/FaceSwap; with --sweep, only these columns",
    )
    what.add_argument(
        "--train-on",
        metavar="DATASET",
        default="",
        help="what the method was trained on: test videos that share a person or clip with its train and val parts are "
        "left out, as for our methods (default: not known; nothing is left out)",
    )
    what.add_argument(
        "--codec", metavar="CODEC", default="", help=f"of datasets in several compressions (default: {CODEC})"
    )
    what.add_argument(
        "--failed-videos",
        choices=FAILED_RULES,
        help="a video without a score: not counted in the numbers (exclude), or score 0.5 (half) (default: exclude, or "
        "what the sweep says)",
    )
    what.add_argument(
        "--sweep",
        metavar="FILE",
        default="",
        help="a sweep's file, e.g. sweeps/methods.py, which is run: the scores become a row of its table, whenever the "
        "sweep or `uv run crossforge report` makes it again",
    )
    what.add_argument(
        "--beside",
        metavar="ROW",
        default="",
        help="the sweep's row whose test parts are scored (default: the paper's own setting, else the first that runs)",
    )
    what.add_argument("--preset", choices=PRESETS, help="of the sweep (default: as for the sweep)")
    p.add_argument(
        "--against",
        nargs="+",
        metavar="RUN",
        default=[],
        help="without --sweep: beginnings of digests in <storage>/runs, as rows of the same table. The first is the "
        "baseline of the tests",
    )
    p.add_argument("--datasets", metavar="FILE", help="datasets.toml (default: as for the sweeps)")
    p.add_argument(
        "--storage", metavar="DIR", default=DEFAULT_STORAGE, help="as for the sweeps (default: ./%(default)s)"
    )
    p.add_argument("--dry-run", action="store_true", help="check all, print what would be done, and stop")
