"""Trains and scores one method on one's own data, without a sweep's file: uv run crossforge train METHOD ...

    uv run crossforge train plain --datasets datasets.toml --train-on ffpp --test-on celeb_df dfdc
    uv run crossforge train lre --lists mine=videos.csv --seeds 3
    uv run crossforge train plain                          # no datasets: made-up sample corpus, small preset

It is a sweep of one row: the same protocol, the same switches, a report, runs in MLflow and a registered model, named
train_METHOD. A checkpoint is chosen on the validation part of the training dataset; test parts are scored once. A
list has the columns path, label (real, fake) and split (train, val, test); docs/adding.md says what else it may have.
The same command again goes on where the last one stopped.
Exit code: 0, 1 if training failed or MLflow can't be reached, 2 for wrong input.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import models
from pipelines.common import cluster, command
from pipelines.common.storage import check_storage, digest, expanded, write_text
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.sweep import Row, Sweep
from pipelines.faces.store import ExtractionError
from pipelines.launch import switches
from pipelines.launch.options import Options
from pipelines.metrics.names import UNSEEN

PROG = "python -m pipelines.train"
SHOWN = ("auc", "ap", "eer", "acc_at_0_5")  # of the table, of several parts the first; RESULTS have all metrics
SEEDS = {"paper": 1, "small": 1, "tiny": 1}
_NAME = re.compile(r"[A-Za-z]\w*")


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("method", choices=models.names(), metavar="METHOD", help=f"one of {', '.join(models.names())}")
    p.add_argument(
        "--lists",
        nargs="+",
        type=_list,
        default=[],
        metavar="NAME=FILE",
        help="your own videos: a dataset's name, and a .csv or .parquet file that lists its videos, besides those of "
        "datasets.toml",
    )
    p.add_argument(
        "--train-on",
        metavar="DATASET",
        default="",
        help="what it is trained on (default: the first of --lists, or else ffpp)",
    )
    p.add_argument(
        "--test-on",
        nargs="+",
        metavar="PART",
        default=[],
        help="test parts: celeb_df, ffpp/FaceSwap (default: the test part of the dataset that is trained on)",
    )
    p.add_argument("--name", default="", help="of the report and in MLflow (default: train_METHOD)")
    switches.add_launch(p, SEEDS)
    return p


def _list(text: str) -> tuple[str, str]:
    """Return a dataset's name and its list: `<name>=<file>`."""
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, such as mine=videos.csv; got {text!r}")
    return name, file


def sweep_of(method: str, train_on: str, test_on: Sequence[str], name: str = "") -> Sweep:
    """Return the sweep of one row. test_on: empty for the test part of the training dataset.

    Raises ValueError for a name that can't be that of a report.
    """
    name = name or f"train_{method}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"--name {name}: a letter, then letters, digits and _")
    parts = tuple(dict.fromkeys(test_on)) or (train_on,)
    unseen = {part.partition("/")[0] for part in parts} - {train_on}
    shown = (*parts, UNSEEN) if len(unseen) > 1 else parts
    metrics = SHOWN if len(shown) == 1 else SHOWN[:1]
    return Sweep(
        name=name,
        title=f"{method}, trained on {train_on}",
        base=Experiment(
            model=method,
            train_on=train_on,
            test_on=tuple(dict.fromkeys(test_on)),
            protocol="cross_dataset" if test_on else "in_dataset",
        ),
        row_name="method",
        headings=tuple(f"{part} {metric}" for part in shown for metric in metrics),
        rows=(Row(method, {}),),
        seeds=SEEDS,
    )


def toml(lists: Mapping[str, str], config_file: Path | None) -> str:
    """Return a datasets.toml with these lists, and with all that another one names. Raises OSError, or ValueError."""
    from pipelines import datasets

    known = datasets.read_config(config_file) if config_file else datasets.Config({}, {})
    for name, file in lists.items():
        if wrong := datasets.what_is_wrong(name, file):
            raise ValueError(f"--lists {name}={file}: {wrong}")
    own_roots = {name: file if "://" in file else str(expanded(file).absolute()) for name, file in lists.items()}
    roots = {**known, **own_roots}
    lines = []
    for name, root in roots.items():
        own = {} if name in lists else known.options.get(name, {})
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in {"root": root, **own}.items())]
    return "\n".join(lines) + "\n"


def with_lists(lists: Mapping[str, str], asked: Options, kept: ExitStack) -> Options:
    """Return the options with a datasets.toml that has the lists: in the storage, or in a dry run only while `kept`."""
    from pipelines.faces.sources import datasets_file

    if not lists:
        return asked
    config_file = datasets_file(asked.datasets)
    text = toml(lists, config_file)
    storage = check_storage(asked.storage, write=not asked.dry_run)
    folder = Path(kept.enter_context(tempfile.TemporaryDirectory())) if asked.dry_run else storage / "datasets"
    path = folder / f"{'-'.join(lists)}-{digest(text)}.toml"
    write_text(path, text)
    named = [*(f"{name}={file}" for name, file in lists.items()), *([str(config_file)] if config_file else [])]
    return replace(asked, datasets=str(path), named=", ".join(named))


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser(prog).parse_args(argv)

    def work(console: Console) -> int:
        lists = dict(arguments.lists)
        train_on = arguments.train_on or next(iter(lists), "ffpp")
        sweep = sweep_of(arguments.method, train_on, arguments.test_on, arguments.name)
        asked = switches.options(arguments)
        cluster.prepare_environment(asked.address)
        check_storage(asked.storage, write=False)
        # Here: what trains takes seconds to import, which `--help` does without.
        from pipelines.commands.sweep import run

        with ExitStack() as kept:
            return run(sweep, with_lists(lists, asked, kept), console)

    return command.main(work, errors=(ExtractionError,), stopped="stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
