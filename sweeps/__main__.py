"""The questions that can be asked, a line each: uv run crossforge sweeps [WORD ...] [--long] [--trained]

A word chooses, of several any: uv run crossforge sweeps lre, uv run crossforge sweeps noise "Table 5".

--long tells of each question the command, what it asks, how many rows its table has, how many of them the newest report
in --storage has, and what its trainings take at the paper's size with the default seeds. That is an estimate
(pipelines/launch/cost.py), computed on first use and kept in the user's cache folder.
--trained tells how many of the distinct stages that a question trains are there, and how many of its rows are reported.
As trained count as many as lie in --storage with the same settings and seed, whatever videos they were trained on;
`uv run python sweeps/<question>.py --dry-run` looks at the videos too.
"""

import argparse
import ast
import csv
import importlib
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.common import command
from pipelines.common.storage import DEFAULT_STORAGE, check_storage, digest, read_json
from pipelines.common.text import counted, meant
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


def chosen(words: Sequence[str]) -> list[str]:
    """Return the questions with one of the words in their name, title or text; the beginning of a word is enough."""
    if not words:
        return list(names())
    starts = "(?:(?<![a-z0-9])|(?![a-z0-9]))"  # of a word, or what is given begins with another character
    begins = re.compile("|".join(starts + re.escape(word) for word in words), re.IGNORECASE)
    return [name for name in names() if begins.search(f"{name}\n{sweep_of(name).title}\n{question(name)}")]


def num_trained(sweep: Sweep, preset: Preset, finished: Counter[str]) -> tuple[int, int]:
    """Return how many of a question's distinct stages are trained, and how many there are.

    preset: whose stages, with its default seeds. finished: what `trained` found.
    """
    wanted = stages_of(sweep, preset, sweep.seeds[preset])
    return sum(min(count, finished[stage_kind]) for stage_kind, count in wanted.items()), wanted.total()


def overview(questions: Sequence[str], preset: Preset | None, storage: Path, finished: Counter[str]) -> list[str]:
    """Return a line for each question: its title, or how much of it is there.

    preset: whose stages are counted; None for titles. finished: what `trained` found.
    """
    width = max(map(len, questions))
    if preset is None:
        return [f"{name:{width}} {sweep_of(name).title}" for name in questions]
    lines = [f"{'question':{width}}  stages trained  rows reported"]
    for name in questions:
        sweep = sweep_of(name)
        number, of = num_trained(sweep, preset, finished)
        reported = f"{rows_reported(name, storage) or 0} of {len(sweep.running)}"
        lines.append(f"{name:{width}}  {f'{number} of {of}':14}  {reported}")
    return lines


def entry(name: str, estimate: str, preset: Preset | None, storage: Path, finished: Counter[str]) -> list[str]:
    """Return the lines that tell of a question.

    estimate: what its trainings take.
    preset: whose stages are counted; None: they are not. finished: what `trained` found.
    """
    sweep = sweep_of(name)
    rows = rows_reported(name, storage)
    num_rows = len(sweep.running)
    others = f" and {more} published only" if (more := len(sweep.rows) - num_rows) else ""
    facts = f"{counted(num_rows, 'row')}{others}"
    if rows is not None:
        facts += f"; newest report: {rows} of {num_rows} rows"
    texts = [question(name), sweep.title, facts, f"at the paper's size: {estimate}"]
    if preset is not None:
        number, of = num_trained(sweep, preset, finished)
        texts.append(
            f"{preset} preset, {counted(sweep.seeds[preset], 'seed')}: {number} of {counted(of, 'stage')} trained"
        )
    return [
        f"uv run python sweeps/{name}.py",
        *("    " + line for text in texts for line in textwrap.wrap(text, WIDTH - 4)),
    ]


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument("word", nargs="*", metavar="WORD", help="only questions of a paper, or with a word: lre, noise")
    p.add_argument("--long", action="store_true", help="tell more of each question than its table")
    p.add_argument("--storage", metavar="DIR", default=DEFAULT_STORAGE, help="as for the sweeps (default: %(default)s)")
    p.add_argument("--trained", action="store_true", help="count stages, and those that are trained; takes seconds")
    p.add_argument("--preset", choices=PRESETS, help="of --trained (default: as for the sweeps)")
    return p


def preset_of(arguments: argparse.Namespace) -> Preset:
    """Return whose stages are counted."""
    from pipelines.faces.sources import datasets_file  # here: adapters of datasets take their time to import

    given: Preset | None = arguments.preset
    return given or ("paper" if datasets_file(None) else "small")


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> None:
    """Print the list and return; exit with 2 for wrong input."""
    arguments = parser(prog).parse_args(argv)
    questions = chosen(arguments.word)
    if not questions:
        words = sorted({word for name in names() for word in (name, *name.split("_"))})
        guess = meant(arguments.word[0], words, "`uv run crossforge sweeps` lists all")
        parser(prog).error(f"no question has {' or '.join(arguments.word)} in its name or text; {guess}")
    try:
        show(arguments, questions)
    except (ValueError, OSError) as error:  # of the storage, or of $CROSSFORGE_DATASETS
        parser(prog).error(str(error))
    except KeyboardInterrupt:  # while a bucket is waited for
        sys.exit(130)


def show(arguments: argparse.Namespace, questions: Sequence[str]) -> None:
    """Print what is asked of the questions. Raises ValueError or OSError for what can't be read."""
    storage = check_storage(arguments.storage, write=False)
    preset = preset_of(arguments) if arguments.trained else None
    finished = trained(storage) if arguments.trained else Counter()
    console, waiting = (Console(stderr=err, highlight=False, markup=False, soft_wrap=True) for err in (False, True))

    def say(number: int) -> None:
        waiting.print(f"Estimating {counted(number, 'question')}, which is done once and takes seconds ...")

    if arguments.long:
        estimates = cost.kept({name: partial(of_paper, name) for name in questions}, say)
        console.print(f"GPU hours are {cost.BASIS}\n")
        for name in questions:
            console.print("\n".join(entry(name, estimates[name], preset, storage, finished)) + "\n")
    else:
        console.print("\n".join(overview(questions, preset, storage, finished)) + "\n")
    of_stages = f"stages of the {preset} preset with its default seeds; " if preset else ""
    there = ""
    if arguments.long or arguments.trained:
        there = f"; {of_stages}--storage {arguments.storage}{'' if storage.is_dir() else ', which is not there yet'}"
    console.print(f"{counted(len(questions), 'question')}{there}")
    if not (arguments.long or arguments.trained):
        console.print(
            "One is asked by uv run python sweeps/<question>.py; --long tells more of each, --trained what is there"
        )


if __name__ == "__main__":
    main()
