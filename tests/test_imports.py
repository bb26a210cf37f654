"""Who may import whom: sweeps -> pipelines -> models, and the heavy packages only where they are used."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = (
    "models",
    "models.delocate",
    "pipelines.common.tables",
    "pipelines.media.decode",
    "pipelines.faces.detect",
    "pipelines.faces.follow",
    "pipelines.faces.crops",
    "pipelines.reporting.coverage",
    "pipelines.metrics.detection",
    "pipelines.experiments.experiment",
    "pipelines.datasets",
    *(
        f"pipelines.datasets.{path.stem}"
        for path in sorted((ROOT / "pipelines/datasets").glob("*.py"))
        if path.stem != "__init__"
    ),
    "pipelines.experiments.protocol",
    "pipelines.report",
    "pipelines.training.stages",
)
HEAVY = ("ray", "mlflow", "timm")
IMPORT_ALL = """
import importlib, json, sys
names, heavy = json.loads(sys.argv[1])
brought = {}
for name in names:
    before = set(sys.modules)
    importlib.import_module(name)
    brought[name] = [package for package in heavy if package in sys.modules.keys() - before]
print(json.dumps(brought))
"""


@pytest.fixture(scope="module")
def brought() -> dict[str, list[str]]:
    """Module -> the heavy packages that its import brought in, in one interpreter that starts with none."""
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps([LIGHT, HEAVY])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", LIGHT)
def test_importing_it_brings_in_nothing_heavy(name, brought):
    assert brought[name] == []


@cache
def names_in(path: Path) -> frozenset[str]:
    """Modules that a file imports anywhere (`from a import b` as `a` and `a.b`), and dotted names as it uses them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return frozenset(names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def users(package: str, *folders: str) -> set[str]:
    """Files below `folders` that import or use `package`."""
    return {
        str(path.relative_to(ROOT)) for path in files(*folders) if any(within(name, package) for name in names_in(path))
    }


@pytest.mark.parametrize("package", ["pipelines", "sweeps", "ray", "mlflow"])
def test_no_model_knows_the_pipeline(package):
    assert users(package, "models") == set()


def test_nothing_knows_the_sweeps():
    assert users("sweeps", "models", "pipelines") == set()


def test_few_files_know_mlflow():
    assert users("mlflow", "models", "pipelines", "sweeps") == {
        "pipelines/tracking/client.py",
        "pipelines/tracking/registry.py",
        "pipelines/tracking/pyfunc.py",
    }


def test_one_file_knows_ray_tune():
    assert users("ray.tune", "models", "pipelines", "sweeps") == {"pipelines/trials/tune.py"}


@pytest.mark.parametrize("package", ["models", "ray", "torch", "numpy"])
def test_a_sweep_is_a_declaration(package):
    assert users(package, "sweeps") == set()


@pytest.mark.parametrize("path", files("models", "pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_a_file_runs_nothing(path):
    """The body of a module defines; it calls nothing by itself."""
    body = ast.parse(path.read_text()).body
    bare = [node for node in body if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)]
    assert [ast.unparse(node) for node in bare] == []
