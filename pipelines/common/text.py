"""Text that came with files, made fit to be shown.

A video id holds a file's name, and that may hold anything: line breaks, a terminal's control sequences,
characters that turn the direction of what follows.
"""

from collections.abc import Iterable


def printable(text: str) -> str:
    """`text` with every character that does not show as itself written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: nothing in it is a link, a tag, a formula or the end of the cell."""
    shown = printable(text).replace("\\", "\\\\")
    for c in "`*_[]<>|#&!~$":
        shown = shown.replace(c, f"\\{c}")
    return shown


def first(texts: Iterable[str], limit: int = 5) -> str:
    """The first `limit` of them and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(printable(text) for text in texts[:limit]) + more
