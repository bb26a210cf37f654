"""What can be asked, and how much of it is there: python -m sweeps [PART OF A NAME ...] [--storage DIR] [--trained]

For each question: the command, the paper's table, how many rows it has, how many of them the newest report has, and
what its trainings take at the papers' sizes with the default seeds, as an estimate (pipelines/launch/cost.py). It is
computed on first use and kept in the user's cache folder.
With --trained also how many distinct stages they train. Of these are counted as trained as many as lie in --storage
with the same settings and seed, whatever videos they were trained on; `python sweeps/<question>.py --dry-run` looks at
the videos too.
"""

import argparse
import ast
import csv
import importlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import DEFAULT_STORAGE, StorageError, check_storage, digest, read_json
from pipelines.common.text import meant
from pipelines.experiments.experiment import PRESETS, Experiment, Preset
from pipelines.experiments.sweep import Sweep
from pipelines.launch import cost
from sweeps import HERE, names

PROG = "python -m sweeps"
WIDTH = 80


def question(name: str) -> str:
    """Return the first line of the file's docstring."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    return text.splitlines()[0]


# ------------------------------------------------------------------------------- what is there
def trained(storage: Path) -> Counter[str]:
    """Return how many finished stages there are of each kind (see `kind`)."""
    specs = {path.parent.name: read_json(path) for path in storage.glob("stages/*/*/*/spec.json")}
    done = {path.parent.name for path in storage.glob("stages/*/*/*/_done.json")}
    return Counter(kind(specs[name], specs) for name in done & specs.keys())


def kind(spec: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a name for stages that differ only in the videos that they, and the stages they need, are trained on.

    others: digest -> spec of the stages there are.
    """
    needs = {
        name: kind(others[needed], others) if needed in others else needed for name, needed in spec["needs"].items()
    }
    return digest({**spec, "rows": None, "needs": needs})


def stages_of(sweep: Sweep, preset: Preset, num_seeds: int) -> Counter[str]:
    """Return how many distinct stages of each kind a sweep trains."""
    # Here: stages are networks, which take seconds to import.
    from pipelines.launch.cost import rows_unseen
    from pipelines.training import stages

    experiments = sweep.experiments(preset, num_seeds, {}).values()
    planned = [stage for each in experiments for stage in stages.plan(each, rows_unseen(each), Path())]
    specs = {stage.digest: stage.spec for stage in planned}
    return Counter(kind(spec, specs) for spec in specs.values())


def rows_reported(name: str, storage: Path) -> int | None:
    """Return how many rows of the newest report have a number; None where there is no report."""
    own = re.compile(rf"{name}-[0-9a-f]{{16}}")
    reports = [path for path in storage.glob(f"reports/{name}-*/{name}.csv") if own.fullmatch(path.parent.name)]
    if not reports:
        return None
    with max(reports, key=lambda path: path.stat().st_mtime).open() as file:
        heading, *lines = csv.reader(file)
    ours = heading.index("ours")
    return len({line[0] for line in lines if line[ours]})


# --------------------------------------------------------------------------------- the command
def sweep_of(name: str) -> Sweep:
    """Return what a question's file declares."""
    sweep: Sweep = importlib.import_module(f"sweeps.{name}").SWEEP
    return sweep


def of_paper(name: str) -> Iterable[Experiment]:
    """Return a question's experiments at the paper's size, with the default seeds."""
    sweep = sweep_of(name)
    return sweep.experiments("paper", sweep.seeds["paper"], {}).values()


def entry(name: str, estimate: str, preset: Preset | None, storage: Path, finished: Counter[str] | None) -> list[str]:
    """Return the lines that tell of a question.

    estimate: what its trainings take.
    preset, finished: whose stages are counted, and what `trained` found in the storage; None: they are not.
    """
    sweep = sweep_of(name)
    rows = rows_reported(name, storage)
    num_rows = len(sweep.running)
    others = f" and {more} published only" if (more := len(sweep.rows) - num_rows) else ""
    facts = f"{_count(num_rows, 'row')}{others}"
    if preset is not None and finished is not None:
        wanted = stages_of(sweep, preset, sweep.seeds[preset])
        num_trained = sum(min(count, finished[stage_kind]) for stage_kind, count in wanted.items())
        facts += f", {_count(wanted.total(), 'stage')}, {num_trained} trained"
    if rows is not None:
        facts += f"; newest report: {rows} of {num_rows} rows"
    texts = (question(name), sweep.title, f"at the paper's size: {estimate}", facts)
    return [f"python sweeps/{name}.py", *("    " + line for text in texts for line in textwrap.wrap(text, WIDTH - 4))]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("part", nargs="*", metavar="PART", help="only questions with this in their name, e.g. adfd or mask")
    p.add_argument("--storage", metavar="DIR", default=DEFAULT_STORAGE, help="as for the sweeps (default: %(default)s)")
    p.add_argument("--trained", action="store_true", help="count stages, and those that are trained; takes seconds")
    p.add_argument("--preset", choices=PRESETS, help="whose stages are counted (default: as for the sweeps)")
    return p


def preset_of(arguments: argparse.Namespace) -> Preset:
    """Return whose stages are counted."""
    from pipelines.faces.sources import datasets_file  # here: adapters of datasets take their time to import

    given: Preset | None = arguments.preset
    return given or ("paper" if datasets_file(None) else "small")


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> None:
    """Print the list and return; exit with 2 for wrong input."""
    arguments = parser(prog).parse_args(argv)
    preset = preset_of(arguments) if arguments.trained else None
    chosen = [name for name in names() if not arguments.part or any(part in name for part in arguments.part)]
    if not chosen:
        guess = meant(arguments.part[0], names(), f"there are {', '.join(names())}")
        parser(prog).error(f"no question has {' or '.join(arguments.part)} in its name; {guess}")
    try:
        storage = check_storage(arguments.storage, write=False)
        finished = trained(storage) if arguments.trained else None
    except StorageError as error:
        parser(prog).error(str(error))
    console, waiting = (Console(stderr=err, highlight=False, markup=False, soft_wrap=True) for err in (False, True))

    def say(number: int) -> None:
        waiting.print(f"Estimating {_count(number, 'question')}, which is done once and takes seconds ...")

    estimates = cost.kept({name: partial(of_paper, name) for name in chosen}, say)
    console.print(f"GPU hours are {cost.BASIS}\n")
    for name in chosen:
        console.print("\n".join(entry(name, estimates[name], preset, storage, finished)) + "\n")
    counted = f", {preset} preset, default seeds" if preset else ""
    console.print(f"{_count(len(chosen), 'question')}{counted}; --storage {arguments.storage}")


if __name__ == "__main__":
    main()
