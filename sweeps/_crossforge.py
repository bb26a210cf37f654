"""All commands of Crossforge under one name.

uv run crossforge doctor                        every other command likewise: `uv run crossforge COMMAND --help`
uv run crossforge sweeps                        what can be asked, and how much of it is there
uv run crossforge sweep mask_ratio --dry-run    the same as `uv run python sweeps/mask_ratio.py --dry-run`
uv run crossforge completion bash               completion for bash, zsh, fish or tcsh, to be sourced by the shell:
                                                source .venv/bin/activate; source <(crossforge completion bash)
                                                completes `crossforge`, not `uv run crossforge`
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pipelines.common import command
from pipelines.common.provenance import commit
from sweeps import names

COMMANDS = {
    "doctor": "examine datasets before anything is spent on them",
    "preprocess": "extract faces ahead of the sweeps",
    "train": "train and score one method on your own data",
    "sweep": "answer a question of a paper: uv run crossforge sweep NAME",
    "sweeps": "list the questions, and what of them is there",
    "predict": "score videos by a trained trial",
    "report": "make stored reports again",
    "coverage": "say what became of every video of an extraction",
    "browse": "show faces, landmarks and masks of an extraction",
    "score-file": "put a method's scores, made elsewhere, into our tables",
    "score-detector": "score a detector of your own over our faces",
    "completion": "print the completion of a shell",
}


def module(name: str) -> Any:
    """Import a command's file, which has `parser` and `main`."""
    return importlib.import_module("sweeps.__main__" if name == "sweeps" else f"pipelines.{name.replace('-', '_')}")


def question(name: str) -> Any:
    """Import a question's file, which has `SWEEP`."""
    return importlib.import_module(f"sweeps.{name}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the first word; what follows it is for the command."""
    p = command.parser("crossforge", f"{__doc__}\ncommands:\n{_listed()}")
    p.add_argument("--version", action="store_true", help="print version and commit")
    p.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND", help="one of those above")
    p.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="of the command")
    return p


def _listed() -> str:
    return "\n".join(f"    {name:16}{text}" for name, text in COMMANDS.items())


def sweep_parser() -> argparse.ArgumentParser:
    """Return the parser of `uv run crossforge sweep`, up to the question's name."""
    p = command.parser("crossforge sweep", f"Answers a question of a paper.\n\n{_questions()}")
    p.add_argument(
        "name",
        choices=names(),
        metavar="NAME",
        help="a question; `uv run crossforge sweeps` lists them",
    )
    p.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own: uv run crossforge sweep NAME --help")
    return p


def _questions() -> str:
    return "questions:\n" + "\n".join(f"    {name}" for name in names())


def completed() -> argparse.ArgumentParser:
    """Return a parser that knows all words of all commands, to make completions of."""
    p = command.parser("crossforge", None)
    p.add_argument("--version", action="store_true", help="print version and commit")
    below = p.add_subparsers()
    for name, text in COMMANDS.items():
        if name == "completion":
            below.add_parser(name, help=text).add_argument("shell", choices=_shells())
            continue
        own = module(name).parser(question(names()[0]).SWEEP, None) if name == "sweep" else None
        words = below.add_parser(name, help=text, parents=[own or module(name).parser()], add_help=False)
        if name == "sweep":
            words.add_argument("name", choices=names())
    return p


def _shells() -> tuple[str, ...]:
    import shtab

    return tuple(shtab.SUPPORTED_SHELLS)


def completion(argv: Sequence[str]) -> int:
    """Print the completion of a shell and return the exit code."""
    import shtab

    p = command.parser("crossforge completion", "Prints the completion of a shell, to be sourced by it.")
    p.add_argument("shell", choices=_shells(), help="your shell")
    shell = p.parse_args(argv).shell
    told = completed()
    for words in told._actions[-1].choices.values():  # type: ignore[union-attr]
        for action in words._actions:
            if action.choices is None and (kind := _PLACES.get(str(action.metavar))):
                action.complete = getattr(shtab, kind)
    sys.stdout.write(shtab.complete(told, shell) + "\n")
    return 0


# What an argument is told by, and what a shell completes it with.
_PLACES = {"DIR": "DIRECTORY", "DATASET|FOLDER": "DIRECTORY", "SWEEP|FOLDER": "DIRECTORY"} | dict.fromkeys(
    ("FILE", "FILE.csv", "VIDEO", "SCORES", "FILE:FACTORY", "NAME=FILE"), "FILE"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the command."""
    arguments = parser().parse_args(argv)
    name, rest = arguments.command, arguments.rest
    if arguments.version:
        sys.stdout.write(f"crossforge {version('crossforge')}, commit {commit()}\n")
        return 0
    if name is None:
        parser().print_help()
        return 2
    if name == "completion":
        return completion(rest)
    if name == "sweep":
        told = sweep_parser().parse_args(rest)
        asked = question(told.name)
        module(name).main(asked.SWEEP, asked.__doc__, told.rest, f"crossforge sweep {told.name}")  # exits
    return module(name).main(rest, f"crossforge {name}") or 0


if __name__ == "__main__":
    sys.exit(main())
