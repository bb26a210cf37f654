"""File names that are not UTF-8, as tables and JSON can hold them.

Linux takes any bytes for a name. Python reads those that are not UTF-8 as lone surrogates, which no file, table or
terminal takes. Here such a byte is written `\\xe9` instead, and the file is found again by that name.
"""

import os
import re

_LONE = re.compile("[\udc80-\udcff]")  # bytes 0x80 to 0xff, as Python reads them in names (PEP 383)
_WRITTEN = re.compile(r"\\x([89a-f][0-9a-f])")


def escaped(name: str) -> str:
    """Return a file's name or path with each byte that is not UTF-8 written as `\\xe9`."""
    return _LONE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", name)


def on_disk(path: str) -> str:
    """Return the local path that `escaped` made `path` of; `path` itself where there is a file of just this name.

    Parts that do not exist are kept as they are: they may lead into an archive.
    """
    if "\\x" not in path:
        return path
    place = ""
    for number, part in enumerate(path.split("/")):
        written = f"{place}/{part}" if number else part
        meant = _WRITTEN.sub(lambda match: chr(0xDC00 + int(match[1], 16)), part)
        meant = f"{place}/{meant}" if number else meant
        place = meant if not os.path.lexists(written) and os.path.lexists(meant) else written
    return place
