"""Python files of the user's own: what is run, and what is said of one that can't be."""

import re
from pathlib import Path

import pytest

from pipelines.common import own_code
from pipelines.common.own_code import OwnCodeError


def test_a_name_comes_from_the_file_and_from_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("NUMBER = 6")
    (tmp_path / "mine.py").write_text("from beside_it import NUMBER\nANSWER = 7 * NUMBER")
    assert own_code.load(tmp_path / "mine.py", "ANSWER") == 42


def test_a_file_is_run_once_and_again_when_it_is_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("LIST = []")
    first = own_code.load(tmp_path / "mine.py", "LIST")
    assert own_code.load(tmp_path / "mine.py", "LIST") is first
    (tmp_path / "mine.py").write_text("LIST = [1]")
    assert own_code.load(tmp_path / "mine.py", "LIST") == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "mine.py has no build; it has x"),
        ("_x = 1", "mine.py has no build; it has nothing"),
        ("\n1 / 0", "mine.py can't be run: ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("import no_such_package", "mine.py can't be run: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def build(:", "mine.py can't be run: SyntaxError"),
    ],
)
def test_a_file_that_is_no_use_says_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    for _ in range(2):  # a file that failed is not taken for one that was run
        with pytest.raises(OwnCodeError, match=re.escape(said)):
            own_code.load(tmp_path / "mine.py", "build")


def test_only_python_files_are_run(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"")
    for name, said in (("none.py", "does not exist"), ("network.pt", r"is no Python file; name one that ends in \.py")):
        with pytest.raises(OwnCodeError, match=said):
            own_code.load(tmp_path / name, "build")
