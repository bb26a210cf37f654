"""What README.md names must be there: files, modules, switches, markers of tests."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from pipelines.sweep import parser
from sweeps._crossforge import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ("benchmarks", "docs", "models", "pipelines", "sweeps", "tests")
SWITCH = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def code() -> list[str]:
    """Lines of fenced blocks, with continued lines joined, and inline code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", README, re.M | re.S)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    rest = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    return lines + re.findall(r"`([^`\n]+)`", rest)


def commands() -> list[list[str]]:
    """Single commands in words, without comments; `a; b && c` are three."""
    found = []
    for line in code():
        bare = re.sub(r"\s#.*", "", line)
        found += [part.split() for part in re.split(r"&&|\|\||;|\|", bare) if part.split()]
    return found


def target(command: list[str]) -> tuple[str, str] | None:
    """("file", "sweeps/x.py"), ("module", "pipelines.predict") or ("crossforge", "predict"): what a command runs."""
    if "crossforge" in command[:-1]:
        named = command[command.index("crossforge") + 1 :]
        return ("file", f"sweeps/{named[1]}.py") if named[0] == "sweep" else ("crossforge", named[0])
    at = next((i for i, word in enumerate(command) if word.rsplit("/", 1)[-1] in ("python", "python3")), None)
    if at is None or at + 1 == len(command):
        return None
    named = command[at + 1]
    return ("module", command[at + 2]) if named == "-m" else ("file", named)


TARGETS = sorted({found for command in commands() if (found := target(command))})
PATHS = sorted(set(re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*", README)))


@cache
def own_switches(kind: str, name: str) -> frozenset[str]:
    """The switches of one of our programs; of a sweep by its parser, of others from their help."""
    if name.startswith("sweeps/"):
        sweep = importlib.import_module(f"sweeps.{Path(name).stem}").SWEEP
        return frozenset(option for action in parser(sweep, None)._actions for option in action.option_strings)
    if name.startswith("-"):
        return frozenset({name})
    programs = {"module": [sys.executable, "-m", name], "crossforge": [f"{sys.prefix}/bin/crossforge", name]}
    command = programs.get(kind, [sys.executable, name])
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return frozenset(SWITCH.findall(shown.stdout))


def is_own(kind: str, name: str) -> bool:
    return kind == "crossforge" or name.split("." if kind == "module" else "/")[0] in FOLDERS


def test_the_first_command_is_there() -> None:
    assert ("file", "sweeps/mask_ratio.py") in TARGETS


@pytest.mark.parametrize(("kind", "name"), TARGETS)
def test_what_python_is_told_to_run_exists(kind: str, name: str) -> None:
    if "<" in name:
        pytest.skip("a placeholder")
    if kind == "crossforge":
        assert name.startswith("-") or name in COMMANDS
    else:
        assert importlib.util.find_spec(name) if kind == "module" else (ROOT / name).is_file()


@pytest.mark.parametrize("path", PATHS)
def test_a_named_path_exists(path: str) -> None:
    assert (ROOT / path.rstrip(".")).exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?://|#)([^)#]+)", README))) or ["README.md"])
def test_a_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.nightly
def test_switches_of_our_commands_exist() -> None:
    unknown = []
    for command in commands():
        if (found := target(command)) and is_own(*found) and "<" not in found[1]:
            used = {word.split("=")[0] for word in command if word.startswith("--")}
            unknown += [(*found, switch) for switch in used - own_switches(*found)]
    assert unknown == []


@pytest.mark.nightly
def test_switches_named_without_a_command_are_of_ours() -> None:
    ours = frozenset().union(*(own_switches(*found) for found in TARGETS if is_own(*found) and "<" not in found[1]))
    bare = {word.split("=")[0] for command in commands() if command[0].startswith("--") for word in command}
    assert {word for word in bare if word.startswith("--")} <= ours


def test_markers_of_tests_exist() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    known = {marker.split(":")[0] for marker in settings["markers"]} | {"not", "and", "or"}
    for line in code():
        if "pytest" in line and '"' in line:
            words = shlex.split(line, comments=True)
            asked = words[words.index("-m", words.index("pytest")) + 1] if "-m" in words else ""
            assert set(re.findall(r"\w+", asked)) <= known
