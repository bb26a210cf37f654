"""What all commands share: a parser, types of switches, and one `main` that turns errors into lines and exit codes."""

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console

from pipelines.common.storage import StorageError, expanded
from pipelines.common.text import meant, printable


def parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser without switches, whose help shows `doc` as it is written."""
    return _Parser(prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


class _Parser(argparse.ArgumentParser):
    """A parser that says what a misspelt switch or choice was probably meant to be."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Return the values of the switches, as argparse does; exit with 2 for a switch that there is not."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            wrong = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
            guess = meant(wrong, self._option_string_actions, "--help lists what there is")
            self.error(f"unrecognized arguments: {' '.join(rest)}; {guess}")
        return known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            guess = meant(str(value), choices, f"choose from {', '.join(choices)}")
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {guess}")


def not_negative(text: str) -> int:
    """Return the value of a switch that takes 0, 1, 2, ...; the `type` of an argument."""
    return _whole_number(text, least=0)


def positive(text: str) -> int:
    """Return the value of a switch that takes 1, 2, 3, ...; the `type` of an argument."""
    return _whole_number(text, least=1)


def path(text: str) -> Path:
    """Return the path that a switch names; shells leave the `~` of `--out=~/x` to us. The `type` of an argument."""
    try:
        return expanded(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
    return value


def check_there(paths: Iterable[str | Path]) -> None:
    """Raise ValueError for what is neither a file nor a folder of this machine, nor in a file as if that were a folder.

    Commands ask it first: what is wrong is then said before what works is imported, which takes seconds.
    """
    for path in (Path(os.path.expanduser(each)) for each in paths):  # `~x` stays as it is without a user x
        if not path.exists() and not any(parent.is_file() for parent in path.parents):  # an archive
            raise ValueError(f"there is no file or folder {path}")


def typed(argv: Sequence[str]) -> str:
    """Return a command to be shown to others, in the spelling of README: of an absolute path only the last part.

    argv: as in `sys.argv`.
    """
    path = PurePath(argv[0])
    program = path.name
    if path.suffix == ".py":
        is_command = path.parent.name == "pipelines"  # by `python -m`: as a file it would not find the others
        program = f"crossforge {path.stem.replace('_', '-')}" if is_command else f"python {'/'.join(path.parts[-2:])}"
    return " ".join(["uv run", program, *map(_without_path, argv[1:])])


def _without_path(word: str) -> str:
    return shlex.quote(re.sub(r"(?<![\w.~])/(?:[^/]+/)+", "…/", word))


def main(work: Callable[[Console], int], *, errors: tuple[type[Exception], ...] = (), stopped: str = "stopped") -> int:
    """Run the work of a command and return its exit code: what the work returns, 2 for an error, 130 after Ctrl-C.

    ValueError, OSError and the types in `errors` are for the user to correct: their text is printed, without a
    traceback. Any other exception is a mistake of ours and comes through. After Ctrl-C `stopped` is printed.
    """
    console = Console()
    for_the_user: tuple[type[Exception], ...] = (ValueError, OSError, *errors)
    try:
        return work(console)
    except for_the_user as error:
        said = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename:
            said = f"{error.filename}: {error.strerror}"
        text = "\n".join(printable(line) for line in said.splitlines())
        console.print(f"error: {text}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(stopped, highlight=False)
        return 130
