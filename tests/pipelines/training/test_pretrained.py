import hashlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from pipelines.common.storage import StorageError
from pipelines.experiments.experiment import Experiment
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.train import sweep_of
from pipelines.training import pretrained, stages, views
from pipelines.training.job import Job
from pipelines.training.learner import Learner, newest_checkpoint

NETWORK = "test_resnet"
BASE = Experiment(
    model="plain", train_on="ffpp", test_on=("dfdc",), preset="small", model_args={"pretrained": True, "input_px": 64}
)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    weights = timm.create_model(NETWORK, pretrained=False).state_dict()
    return {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}


@pytest.fixture
def file(tmp_path, weights) -> Path:
    torch.save(weights, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def planned(experiment: Experiment, storage: Path) -> stages.PlannedStage:
    return stages.plan(experiment, dict.fromkeys(views.VIEWS, "rows"), storage)[0]


def job(experiment: Experiment, storage: Path) -> Job:
    stage = planned(experiment, storage)
    return Job(planned=stage, config=experiment.config(), train=(), select=(), faces={}, earlier={})


# --------------------------------------------------------------------------------- from file to storage
def test_the_storage_keeps_the_weights_by_their_content(tmp_path, weights, file):
    taken = pretrained.take({"": str(file)}, [f"{NETWORK}.r160_in1k"], tmp_path / "storage")
    kept = pretrained.path_of(tmp_path / "storage", taken[NETWORK])
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == taken[NETWORK] == kept.stem
    read = pretrained.load({NETWORK: kept})[NETWORK]
    assert torch.equal(read["conv1.0.weight"], weights["conv1.0.weight"])
    assert not [name for name in read if name.startswith("fc.")]


@pytest.mark.parametrize("form", ["safetensors", "checkpoint"])
def test_the_same_tensors_have_one_name_wherever_they_are_from(tmp_path, weights, file, form):
    other = tmp_path / f"elsewhere.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        safetensors.torch.save_file(weights, other, {"said": "something"})
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}, other)
    assert pretrained.take({"": str(file)}, [NETWORK], None) == pretrained.take({NETWORK: str(other)}, [NETWORK], None)


def test_an_installed_package_gives_weights_by_names_of_its_own(tmp_path, weights, file, monkeypatch):
    """Its code does not run."""
    package, info = tmp_path / "site" / "net_weights", tmp_path / "site" / "net_weights-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('ran')")
    named = {f"_{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(weights.items())}
    torch.save(named, package / "net.pth")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: net-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("net_weights/__init__.py,,\nnet_weights/net.pth,,\n")
    monkeypatch.syspath_prepend(str(package.parent))
    own, from_file = (pretrained.take({"": name}, [NETWORK], None) for name in ("net-weights", str(file)))
    assert own == from_file
    assert "net_weights" not in sys.modules
    (info / "RECORD").write_text("net_weights/__init__.py,,\n")
    with pytest.raises(ValueError, match="net-weights: the package must have one file with weights, it has none"):
        pretrained.take({"": "net-weights"}, [NETWORK], None)


def test_a_pickle_of_a_stranger_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.0.weight": Evil()}))
    torch.save({"conv1.0.weight": Evil()}, tmp_path / "evil.pt")
    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(ValueError, match=r"neither safetensors .* nor a state dict of tensors"):
            pretrained.take({"": str(tmp_path / name)}, [NETWORK], None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("asked", "networks", "text"),
    [
        ({"": "no_such_thing"}, [NETWORK], "no_such_thing: there is no such file, and no package of this name"),
        ({"resnet18": "FILE"}, [NETWORK], "resnet18=.*: the networks here are test_resnet"),
        ({"": "FILE"}, [], "no network starts from weights here.*model.pretrained=true"),
        ({"": "FILE"}, ["resnet18.a1_in1k"], r"FILE: weights of \d+ tensors do not fit resnet18.*model.backbone"),
    ],
)
def test_weights_that_cannot_be_used(file, asked, networks, text):
    asked = {name: source.replace("FILE", str(file)) for name, source in asked.items()}
    with pytest.raises(ValueError, match=text.replace("FILE", ".*weights.pth")):
        pretrained.take(asked, networks, None)


# ------------------------------------------------------------------------------- from storage to network
def test_a_training_starts_from_them(tmp_path, weights, file):
    taken = pretrained.take({"": str(file)}, [NETWORK], tmp_path)
    own = job(replace(BASE, weights=taken), tmp_path)
    network = Learner.begin(own, 10, torch.device("cpu")).module.network
    assert torch.equal(network.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])


def test_a_training_that_goes_on_needs_no_weights(tmp_path, weights, file):
    own = job(replace(BASE, weights=pretrained.take({"": str(file)}, [NETWORK], tmp_path)), tmp_path)
    learner = Learner.begin(own, 10, torch.device("cpu"))
    learner.snapshot()(own.planned.folder)
    own.planned.weights[NETWORK].unlink()
    again = Learner.begin(own, 10, torch.device("cpu"), newest_checkpoint(own))
    assert torch.equal(again.module.network.conv1[0].weight, weights["conv1.0.weight"])


def test_weights_that_are_missing_or_damaged(tmp_path, weights):
    own = job(replace(BASE, weights={NETWORK: "0" * 64}), tmp_path)
    with pytest.raises(StorageError, match=r"weights of test_resnet are missing: .*0000.*sees the storage"):
        Learner.begin(own, 10, torch.device("cpu"))
    path = own.planned.weights[NETWORK]
    path.parent.mkdir()
    safetensors.torch.save_file(weights, path)
    with pytest.raises(StorageError, match=r"weights of test_resnet are damaged: .*Delete it"):
        Learner.begin(own, 10, torch.device("cpu"))


# ------------------------------------------------------------------------------------------- the digest
def test_the_stage_is_named_by_the_content(tmp_path):
    without, one, other = (
        planned(replace(BASE, weights=own), tmp_path) for own in ({}, {NETWORK: "1" * 64}, {NETWORK: "2" * 64})
    )
    assert len({without.digest, one.digest, other.digest}) == 3
    assert without.pretrained == ("test_resnet.r160_in1k",)
    assert one.pretrained == (f"{NETWORK} sha256:{'1' * 64}",)
    not_its_own = planned(replace(BASE, weights={"resnet18": "1" * 64}), tmp_path)
    assert not_its_own.digest == without.digest


def test_the_switch_reaches_the_experiments(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Options(
        storage=str(tmp_path / "s"), weights={"": str(file)}, settings={"model.pretrained": True}, dry_run=True
    )
    sweep = sweep_of("plain", "ffpp", [])
    (experiment,) = Request.of(sweep, asked).experiments.values()
    assert not (tmp_path / "s").exists()
    request = Request.of(sweep, replace(asked, dry_run=False))
    assert request.experiments["plain", 0] == experiment
    assert pretrained.path_of(request.storage, experiment.weights[NETWORK]).is_file()
    assert experiment.flat()[f"weights.{NETWORK}"] == experiment.weights[NETWORK]
    with pytest.raises(ValueError, match="no network starts from weights"):
        Request.of(sweep, replace(asked, settings={}))
    with pytest.raises(ValueError, match="--set weights: use --weights"):
        Request.of(sweep, replace(asked, settings={"weights": "x"}))
