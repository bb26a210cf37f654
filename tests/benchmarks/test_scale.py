"""The simulations of scale run, at toy size: what they call is found, and what they count is right."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def scale() -> Iterator[ModuleType]:
    """The script as a module that its child processes find, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("scale")


def test_the_head_plans_and_files_are_compacted(scale: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    assert len(scale.manifest(50, tmp_path)) == 6
    assert len(scale.parts(20, tmp_path / "parts")) == 7


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="pages cannot be given back")
def test_bytes_are_counted(scale: ModuleType, tmp_path: Path) -> None:
    picture, light = (name for name, *_ in scale.bytes_read(1, tmp_path) if name.startswith("..."))
    assert "kB from the disk for each" in picture
    assert "kB from the disk for each" in light
