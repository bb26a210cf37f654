"""The simulations of scale run, at toy size: what they call is found, and what they count is right."""

import os
from pathlib import Path

import pytest

from benchmarks import scale

pytestmark = pytest.mark.nightly


def test_the_head_plans_and_files_are_compacted(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    assert len(scale.manifest(50, tmp_path)) == 6
    assert len(scale.parts(20, tmp_path / "parts")) == 7


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="pages cannot be given back")
def test_bytes_are_counted(tmp_path: Path) -> None:
    picture, light = (name for name, *_ in scale.bytes_read(1, tmp_path) if name.startswith("..."))
    assert "kB from the disk for each" in picture
    assert "kB from the disk for each" in light
