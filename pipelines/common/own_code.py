"""Python code of the user's own, loaded from a file that was named on the command line.

It runs with all rights of whoever starts the command, as `python FILE` would. No other file of Crossforge loads code by
a path, and none unpickles what was not written here.
"""

import importlib.util
import sys
import sysconfig
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

FAILURES = (Exception, SystemExit)  # of the user's code; it may not end the command as if all were done
_MODULE = "own_code_"  # how the module of a file begins
_OURS = frozenset({"models", "pipelines", "sweeps"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class OwnCodeError(ValueError):
    """A file of the user's own can't be used; the text says where and why."""


def load(path: Path, name: str) -> Any:
    """Return what a Python file calls `name`. The file is run once in a process, again if it was changed.

    Its folder is added to the end of the import path, so that it can import files beside it. Raises OwnCodeError where
    the file is missing, can't be run, or has no such name.
    """
    module = _module(path)
    if not hasattr(module, name):
        known = sorted(key for key in vars(module) if not key.startswith("_"))
        raise OwnCodeError(f"{path} has no {name}; it has {', '.join(known) or 'nothing'}")
    return getattr(module, name)


def _module(path: Path) -> ModuleType:
    if path.suffix == ".py" and not path.exists():
        raise OwnCodeError(f"{path} does not exist; it is looked for from {Path.cwd()}")
    if path.suffix != ".py" or not path.is_file():
        raise OwnCodeError(f"{path} is no Python file; name one that ends in .py")
    known_as = f"{_MODULE}{sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:16]}"
    if known_as in sys.modules:
        return sys.modules[known_as]
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(known_as, path)
    assert spec
    assert spec.loader  # of a .py file there is one
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # dataclasses and pickles of the file look for it there
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        del sys.modules[known_as]
        raise OwnCodeError(f"{path} can't be run: {reason(error)}") from error
    return module


def beside(path: Path) -> dict[str, str]:
    """Return the files that are imported from a file's folder, or from below it: relative path -> SHA-256.

    Neither the file itself, nor installed packages, nor Crossforge's own.
    """
    folder, standard = path.resolve().parent, Path(sysconfig.get_path("stdlib")).resolve()
    found = {}
    for name, module in sorted(sys.modules.items()):
        told = getattr(module, "__dict__", {}).get("__file__")
        if not told or name == "__main__" or name.startswith(_MODULE) or name.partition(".")[0] in _OURS:
            continue
        file = Path(told).resolve()
        own = file.is_relative_to(folder) and not file.is_relative_to(standard)
        if own and _INSTALLED.isdisjoint(file.relative_to(folder).parts) and file.is_file():
            found[file.relative_to(folder).as_posix()] = sha256(file.read_bytes()).hexdigest()
    return found


def reason(error: BaseException) -> str:
    """Return an error of the user's code in one line: what, and in which line of which file."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
