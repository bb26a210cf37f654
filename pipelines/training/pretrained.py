"""Weights of one's own for the networks that stages start from: found, checked, kept in the storage, read back.

    <storage>/weights/<sha256>.safetensors    a network's tensors, without its classifier, by timm's names

The name is the SHA-256 of the file: all nodes of a cluster start from the same bytes, wherever these came from, and a
stage's digest changes with them and not with the place where they lay.
"""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from models._weights import architecture, fitted
from pipelines.common.storage import StorageError, expanded, write_bytes

SAFETENSORS = ".safetensors"
SUFFIXES = (SAFETENSORS, ".pth", ".pt", ".bin")  # of files with weights


def path_of(storage: Path, sha256: str) -> Path:
    """Return where the storage keeps weights."""
    return storage / "weights" / f"{sha256}{SAFETENSORS}"


def take(asked: Mapping[str, str], networks: Iterable[str], storage: Path | None) -> dict[str, str]:
    """Return the SHA-256 of the weights of each network that gets some, and keep these in the storage, if there is one.

    asked: name of a network of timm, or empty for all that are not named -> a file, or the name of an installed Python
    package. networks: those that the experiments start from, with or without tags. Raises ValueError for what can't be
    read or does not fit, and where no network would get the weights.
    """
    known = sorted({architecture(name) for name in networks})
    if not known:
        raise ValueError(
            "--weights: no network starts from weights here, by the preset or a setting; --set model.pretrained=true"
        )
    named = {architecture(name): source for name, source in asked.items() if name}
    if unknown := sorted(named.keys() - set(known)):
        raise ValueError(f"--weights {unknown[0]}={named[unknown[0]]}: the networks here are {', '.join(known)}")
    sources = {name: named.get(name, asked.get("", "")) for name in known}
    taken = {}
    for name, source in sources.items():
        if source:
            data = safetensors.torch.save(read(source, name))
            taken[name] = hashlib.sha256(data).hexdigest()
            if storage and not path_of(storage, taken[name]).exists():
                write_bytes(path_of(storage, taken[name]), data)
    return taken


def read(source: str, network: str) -> dict[str, Tensor]:
    """Return the weights of a network from a file or an installed package, checked: see `fitted`.

    A package's may have other names than timm's, if they follow the network in order. Raises ValueError, which says
    what is wrong and what to do.
    """
    file = expanded(source)
    of_package = not file.is_file()
    if of_package:
        file = _in_package(source)
    try:
        return fitted(network, _tensors(file), in_order=of_package)
    except ValueError as error:
        raise ValueError(
            f"--weights {source}: {error}. Give the weights of this network by timm's names, choose the network that "
            "they are of (a setting such as model.backbone), or name it: --weights NETWORK=FILE"
        ) from error


def load(files: Mapping[str, Path]) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each network from the storage. Raises StorageError for a file that is gone or changed."""
    weights = {}
    for name, path in files.items():
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise StorageError(
                f"the weights of {name} are {'damaged' if data else 'missing'}: {path}. "
                + ("Delete it and" if data else "Look whether this machine sees the storage folder, or")
                + " give --weights again"
            )
        weights[name] = safetensors.torch.load(data)
    return weights


def _in_package(name: str) -> Path:
    """Return the one file with weights that an installed package has; no code of it runs."""
    try:
        files = metadata.files(name) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise ValueError(f"--weights {name}: there is no such file, and no package of this name is installed") from None
    found = [file for file in files if file.suffix in SUFFIXES]
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise ValueError(f"--weights {name}: the package must have one file with weights, it has {listed}; name a file")
    return Path(str(found[0].locate()))


def _tensors(file: Path) -> dict[str, Tensor]:
    """Return a state dict from safetensors, or as torch saved it; nothing else is unpickled. Raises ValueError."""
    try:
        if file.suffix == SAFETENSORS:
            return safetensors.torch.load_file(file)
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of the readers of old formats, too, on files that are none of theirs
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is neither safetensors ({SAFETENSORS}) nor a state dict of tensors: {why}") from error
    for key in ("state_dict", "model"):  # a training's checkpoint
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ValueError(f"{file} holds no state dict: names with a tensor each")
    return {name.removeprefix("module."): value for name, value in saved.items()}
