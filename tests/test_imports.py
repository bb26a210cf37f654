"""Who may import whom: sweeps -> pipelines -> models, in pipelines from the ground up, heavy packages where needed."""

import ast
import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (  # of pipelines, from the ground up: each imports only those before it
    "common",
    "media",
    "datasets",
    "faces",
    "metrics",
    "experiments",
    "training",
    "reporting",
    "scoring",
    "trials",
    "tracking",
    "launch",
    "commands",
)
COMMANDS = len(PACKAGES)  # the files on top of them
LIGHT = (
    "models",
    "models.delocate",
    "pipelines.common.tables",
    "pipelines.media.decode",
    "pipelines.faces.detect",
    "pipelines.faces.follow",
    "pipelines.faces.crops",
    "pipelines.reporting.coverage",
    "pipelines.reporting.report",
    "pipelines.metrics.detection",
    "pipelines.experiments.experiment",
    "pipelines.datasets",
    *(
        f"pipelines.datasets.{path.stem}"
        for path in sorted((ROOT / "pipelines/datasets").glob("*.py"))
        if path.stem != "__init__"
    ),
    "pipelines.experiments.protocol",
    "pipelines.commands.report",
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


BY_NAME = ("importlib.import_module", "__import__", "pkgutil.resolve_name")  # what loads the module of a name


@cache
def names_in(path: Path) -> frozenset[str]:
    """Modules that a file imports anywhere (`from a import b` as `a` and `a.b`), and dotted names that it uses.

    What it calls otherwise (`import a as b`) has its own name here, and a module that is loaded by a name that is spelt
    out is imported.
    """
    tree = ast.parse(path.read_text(), str(path))
    names: set[str] = set()
    called: dict[str, str] = {}  # as the file calls it -> its name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            called |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            own = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {str(node.module), *own.values()}
            called |= own

    def named(node: ast.AST) -> str:
        head, dot, rest = ast.unparse(node).partition(".")
        return called.get(head, head) + dot + rest

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(named(node))
        elif isinstance(node, ast.Call) and named(node.func) in BY_NAME:
            names |= {named(node.func), *(str(a.value) for a in node.args if isinstance(a, ast.Constant))}
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


def test_only_tracking_knows_mlflow():
    assert {str(Path(path).parent) for path in users("mlflow", "models", "pipelines", "sweeps")} == {
        "pipelines/tracking"
    }


def test_one_file_knows_ray_tune():
    assert users("ray.tune", "models", "pipelines", "sweeps") == {"pipelines/trials/tune.py"}


@pytest.mark.parametrize("package", ["models", "ray", "torch", "numpy"])
def test_a_sweep_is_a_declaration(package):
    assert users(package, "sweeps") == set()


def test_a_sweep_takes_all_from_one_module():
    """Its file says what is asked; what makes a `Sweep` of it is behind `pipelines.sweep`.

    `__main__` lists them, `_crossforge` calls them.
    """
    taken = {
        str(node.module)
        for path in files("sweeps")
        if path.stem not in ("__main__", "_crossforge")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and within(str(node.module), "pipelines")
    }
    assert taken == {"pipelines.sweep"}


@pytest.mark.parametrize("path", files("models", "pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_a_file_runs_nothing(path):
    """The body of a module defines; it calls nothing by itself."""
    body = ast.parse(path.read_text()).body
    bare = [node for node in body if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)]
    assert [ast.unparse(node) for node in bare] == []


# ----------------------------------------------------------------------------------------- the house of pipelines
def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in files("pipelines")}


def imports_of(module: str) -> set[str]:
    """Modules of pipelines that a file names in an import, wherever it stands: in a function, under TYPE_CHECKING."""
    return {name for name in names_in(MODULES[module]) if name in MODULES and name != module} - {"pipelines"}


def floor(module: str) -> int:
    parts = module.split(".")
    return PACKAGES.index(parts[1]) if (ROOT / "pipelines" / parts[1]).is_dir() else COMMANDS


def test_the_packages_are_those_of_the_map():
    folders = {path.parent.relative_to(ROOT / "pipelines").parts[0] for path in (ROOT / "pipelines").glob("*/*.py")}
    assert folders == set(PACKAGES)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"pipelines"}))
def test_a_module_imports_only_from_below(module):
    """Within a package anything but a circle; commands import no commands."""
    upward = [
        name for name in imports_of(module) if floor(name) > floor(module) or COMMANDS == floor(name) == floor(module)
    ]
    assert upward == []


def test_there_is_no_circle():
    graph = {module: imports_of(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


def test_underscores_mean_private_to_models_and_datasets():
    assert [name for name in MODULES if "._" in name and not name.startswith("pipelines.datasets._")] == []


@pytest.mark.parametrize("path", files("pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_is_for_type_checking_only(path):
    """What types need is an arrow like any other, and would be one that runs back up."""
    assert "TYPE_CHECKING" not in names_in(path) | {name.rpartition(".")[2] for name in names_in(path)}


@pytest.mark.parametrize("path", files("pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_takes_a_private_name_of_another(path):
    assert [name for name in names_in(path) if private(name) and not within(name, module_of(path))] == []


def private(name: str) -> str:
    """Return the module of pipelines of which a dotted name is private; empty where it is public, or a module."""
    parts = name.split(".")
    for number in range(1, len(parts)):
        module, taken = ".".join(parts[:number]), parts[number]
        if module in MODULES and taken[0] == "_" and not taken.startswith("__") and f"{module}.{taken}" not in MODULES:
            return module
    return ""


def test_modules_are_loaded_by_name_where_files_are_found_by_name_only():
    """It would hide an arrow: adapters of datasets are found by their file names."""
    by_name = {path for name in BY_NAME for path in users(name, "pipelines")}
    assert by_name <= {"pipelines/datasets/__init__.py", "pipelines/commands/doctor.py"}


@pytest.mark.parametrize("path", files("models", "pipelines", "sweeps"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_run_as_code(path):
    """It would hide an arrow."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"eval", "exec", "compile"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import pipelines.launch.plan", "pipelines.launch.plan"),
        ("import pipelines.launch.plan as p", "pipelines.launch.plan"),
        ("from pipelines.launch import plan", "pipelines.launch.plan"),
        ("from pipelines.launch import plan as p", "pipelines.launch.plan"),
        ("from pipelines.launch.plan import planner as p", "pipelines.launch.plan.planner"),
        ("def f():\n    import pipelines.launch.plan", "pipelines.launch.plan"),
        ("import pipelines\nx = pipelines.launch.plan.planner", "pipelines.launch.plan.planner"),
        ("import pipelines as p\nx = p.launch.plan.planner", "pipelines.launch.plan.planner"),
        ("from pipelines import launch as p\nx = p.plan.planner", "pipelines.launch.plan.planner"),
        ("import ray as r\nx = r.tune.Tuner", "ray.tune.Tuner"),
        ("import importlib\nimportlib.import_module('pipelines.launch')", "pipelines.launch"),
        ("from importlib import import_module as get\nget('pipelines.launch')", "pipelines.launch"),
        ("from importlib import import_module as get\nget(name)", "importlib.import_module"),
        ("__import__('pipelines.launch')", "pipelines.launch"),
        ("import pipelines.training.samples as s\nx = s._stable", "pipelines.training.samples._stable"),
    ],
)
def test_an_import_is_seen_however_it_is_written(text, seen, tmp_path):
    (tmp_path / "file.py").write_text(text)
    assert seen in names_in(tmp_path / "file.py")


def test_one_file_runs_code_of_the_users_own():
    assert users("importlib.util.spec_from_file_location", "models", "pipelines", "sweeps") == {
        "pipelines/common/own_code.py"
    }
    assert users("runpy", "models", "pipelines", "sweeps") == set()
