"""The map must fit the house: what docs/, CONTRIBUTING.md and the packages' own docstrings say of files is so.

For README.md see also `test_readme`.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIPELINES = ROOT / "pipelines"
FOLDERS = ("benchmarks", "docs", "models", "pipelines", "sweeps", "tests")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./<>*-]*[\w/>*]")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
ENTRY = re.compile(r"^ {4}([a-z_]\w*(?:, \w+)*) {2,}\S", re.M)  # `    name, name    what it is`


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""


README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
MAP = docstring(PIPELINES / "__init__.py")
PACKAGES = sorted(path.parent.name for path in PIPELINES.glob("*/__init__.py"))
COMMANDS = sorted(path.stem for path in PIPELINES.glob("[!_]*.py"))
ORDER = [name for name in ENTRY.findall(MAP) if name in PACKAGES]


@pytest.mark.parametrize("page", [*PAGES, "the map"])
def test_named_files_exist(page: str) -> None:
    named = set(PATH.findall(PAGES.get(page, MAP)))
    assert [path for path in sorted(named) if not any(ROOT.glob(re.sub(r"<\w+>", "*", path)))] == []


def test_code_spells_commands_as_the_readme_does() -> None:
    """What stands first in a string is the name of a program, as its usage has it."""
    commands = "|".join([*(name.replace("_", "-") for name in COMMANDS), "sweeps", "completion"])
    program = rf"crossforge (?:{commands})\b|python sweeps/|python -m (?:pipelines|sweeps)\b"
    bare = re.compile(rf"(?<!uv run )(?<![\"(])(?:{program})")
    files = [path for folder in ("models", "pipelines", "sweeps") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): bare.findall(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = LINK.findall(PAGES[page])
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    code = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    named = re.findall(r"`(test_\w+)`", PAGES[page])
    assert [name for name in named if f"def {name}(" not in code] == []


def test_the_index_names_every_page() -> None:
    index = {link for link in LINK.findall(PAGES["docs/README.md"]) if "/" not in link}
    assert index == {path.name for end in ("md", "yaml") for path in ROOT.glob(f"docs/*.{end}")} - {"README.md"}


def test_the_map_names_every_package_and_command() -> None:
    assert sorted(ORDER) == PACKAGES
    commands = re.search(r"On top are the commands: ([\w,\s]+)\.", MAP)
    assert commands
    assert sorted(re.split(r",\s", commands[1])) == COMMANDS


def test_the_diagram_has_the_packages_in_the_order_of_the_map() -> None:
    diagram = PAGES["docs/code.md"].split("```")[1]
    assert re.findall(r"\w+", diagram.split("sweeps/ > pipelines/*.py >")[1]) == ORDER[::-1]


def test_the_readme_has_the_packages_in_the_order_of_the_map() -> None:
    section = README.split("## Where things are")[1].split("\n## ")[0]
    assert re.findall(r"^pipelines/(\w+)/ ", section, re.M) == ORDER
    assert sorted(re.findall(r"\w+", section.split("the commands:")[1].split(";")[0])) == COMMANDS


@pytest.mark.parametrize("package", [*PACKAGES, "datasets/sample"])
def test_a_package_says_what_each_of_its_files_is_for(package: str) -> None:
    folder = PIPELINES / package
    named = [name for entry in ENTRY.findall(docstring(folder / "__init__.py")) for name in entry.split(", ")]
    there = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(there + [path.parent.name for path in folder.glob("*/__init__.py")])
