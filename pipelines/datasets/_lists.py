"""Which videos a published list promises, for the doctor to hold a copy against.

Lists are not kept here: they come with the datasets. Of those that are public a digest is, which tells whether a copy
has the list that papers used; where only the number of names is known, a copy can have as many, no more is said.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedList:
    """A list of a copy: the labels that it promises, and which other videos of the copy it should have named."""

    name: str
    labels: Mapping[str, int]  # video_id -> label
    covers: Callable[[Mapping[str, Any]], bool]  # whether a row of VIDEOS is of the part that the list makes
    as_published: bool | None = None  # whether its digest is that of the owners' list; None: no digest is known
    num_published: int | None = None  # names in the owners' list, where no more than that is known
    tells_labels: bool = False  # apart from what labels the rows of VIDEOS, so that the two can differ


def digest(names: Iterable[str]) -> str:
    """Return what names a list, in whatever order it is: 16 hex digits of the SHA-256 of its sorted lines."""
    return sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
