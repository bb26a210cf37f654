"""Hand-made dataset folders: empty files where videos would be, since an adapter never opens one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """`tree("name", {"a/b.txt": "text"}, "c.mp4", ...)` makes these files below a folder and returns it."""

    def make(name: str, texts: Mapping[str, str], *empty: str) -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for path, text in [*texts.items(), *((path, "") for path in empty)]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root

    return make
