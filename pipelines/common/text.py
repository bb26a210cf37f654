"""Text from files and errors, made safe and short enough to be shown.

A video id holds a file's name, and a file's name may hold anything: line breaks, control sequences of a terminal,
characters that reverse the direction of the text after them.
"""

import difflib
from collections.abc import Iterable

from pipelines.common.filenames import escaped


def printable(text: str) -> str:
    """Return the text with each unprintable character written as an escape, such as `\\x1b`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in escaped(text))


def markdown_cell(text: str) -> str:
    """Return the text escaped for a cell of a Markdown table: no part of it acts as markup or ends the cell."""
    shown = printable(text).replace("\\", "\\\\")
    for c in "`*_[]<>|#&!~$":
        shown = shown.replace(c, f"\\{c}")
    return shown


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # alone it is a command in some languages
    "[": "{[}",  # behind a line's end it would be taken for the space below the line
    "]": "{]}",
    "–": "--",
    "±": r"$\pm$",
    "°": r"$^{\circ}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def latex(text: str) -> str:
    """Return the text escaped for LaTeX: no part of it acts as markup, and two hyphens are no dash."""
    shown = printable(text)
    return "".join("-{}" if shown[i : i + 2] == "--" else LATEX.get(c, c) for i, c in enumerate(shown))


def first(texts: Iterable[str], limit: int = 5) -> str:
    """Return the first `limit` texts, made printable and joined by commas, and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(printable(text) for text in texts[:limit]) + more


def meant(wrong: str, known: Iterable[str], otherwise: str) -> str:
    """Return what a message says of a name that there is not: which one was probably meant, or `otherwise`.

    known: the names there are. otherwise: what is said where none is like the wrong one, such as a list of all.
    """
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"did you mean {printable(near[0])!r}?" if near else otherwise


def counted(number: int, name: str) -> str:
    """Return a number with the name of what was counted: `0 trials`, `1 trial`, `2 trials`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class where it has no message."""
    return escaped((str(error) or type(error).__name__).splitlines()[0])
