"""Two processes against one: sums, gathering, batch norm and its second derivative."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from models._distributed import (
    NativeSyncBatchNorm,
    SyncBatchNorm,
    alone,
    broadcast,
    gather,
    synchronize_batch_norm,
    total,
    world_size,
)
from models._layers import batch_norm_at_rest, set_bn_momentum

WORKER = """
import sys, torch, torch.distributed as dist
from models._distributed import SyncBatchNorm, broadcast, form, gather, synchronize_batch_norm, total
from torch import nn
called = []
for collective in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast"):
    def counted(*arguments, own=getattr(dist, collective), **options):
        called.append(own.__name__)
        return own(*arguments, **options)
    setattr(dist, collective, counted)
rank, number, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=number)
if number > 2:
    form(2, "gloo")
    if rank >= 2:
        sys.exit()
given = torch.load(f"{folder}/given")
x = given["x"].chunk(2)[rank].clone().requires_grad_()
norm = nn.Sequential(nn.BatchNorm2d(3))
norm[0].weight.data, norm[0].bias.data = given["weight"].clone(), given["bias"].clone()
synchronize_batch_norm(norm)
y = norm(x)
forward = len(called)
torch.autograd.grad(y.sum(), x, retain_graph=True)
backward = len(called) - forward
# A gradient step inside the loss, as in meta-learning: needs the second derivative.
inner = total(torch.autograd.grad((y ** 3).sum(), norm[0].weight, create_graph=True)[0])
loss = total((norm(x) * (norm[0].weight - 0.1 * inner)[:, None, None]).square().sum())
loss.backward()
rows = gather(x.detach()[:, 0, 0, 0])
torch.save({"y": y.detach(), "gx": x.grad / 2, "loss": loss.detach(), "rows": rows, "mean": norm[0].running_mean,
            "var": norm[0].running_var, "cast": broadcast(torch.tensor([float(rank)])),
            "collectives": (forward, backward)}, f"{folder}/out{rank}")
dist.destroy_process_group()
"""


def test_alone_nothing_happens():
    x = torch.arange(3.0)
    assert world_size() == 1
    assert all(call(x) is x for call in (total, gather, broadcast))


@pytest.mark.parametrize("number", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_two_workers_normalise_as_one(number: int, tmp_path: Path):
    """Also if they are the first two of three, the last of which leaves."""
    torch.manual_seed(0)
    x = (torch.randn(4, 3, 5, 5, dtype=torch.float64) * 3 + 1000).float()  # a large mean: digits must not be lost
    given = {"x": x, "weight": torch.tensor([0.5, 1.0, 2.0]), "bias": torch.tensor([0.0, 1.0, -1.0])}
    torch.save(given, tmp_path / "given")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(number), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(number)
    ]
    errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(errors)
    first, second = (torch.load(tmp_path / f"out{rank}") for rank in range(2))

    norm = nn.BatchNorm2d(3)
    norm.weight.data, norm.bias.data = given["weight"].clone(), given["bias"].clone()
    x.requires_grad_()
    y = norm(x)
    (inner,) = torch.autograd.grad((y**3).sum(), norm.weight, create_graph=True)
    loss = (norm(x) * (norm.weight - 0.1 * inner)[:, None, None]).square().sum()
    loss.backward()
    torch.testing.assert_close(torch.cat([first["y"], second["y"]]), y.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first["loss"], loss.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        torch.cat([first["gx"], second["gx"]]), x.grad, rtol=1e-3, atol=1e-2 * x.grad.abs().max().item()
    )
    for worker in (first, second):
        torch.testing.assert_close(worker["mean"], norm.running_mean)
        torch.testing.assert_close(worker["var"], norm.running_var, rtol=1e-4, atol=1e-5)
        assert torch.equal(worker["rows"], x.detach()[:, 0, 0, 0])
        assert worker["cast"].item() == 0
        assert worker["collectives"] == (1, 1)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
@pytest.mark.parametrize("native", [False, True])
@torch.no_grad()
def test_a_converted_network_is_the_same_network(name, native):
    net = timm.create_model(name).eval()
    image = torch.rand(2, 3, 64, 64)
    before, keys, parameters = net(image), list(net.state_dict()), list(map(id, net.parameters()))
    synchronize_batch_norm(net, native=native)
    assert torch.equal(net(image), before)
    assert list(net.state_dict()) == keys
    assert list(map(id, net.parameters())) == parameters  # an optimizer that holds them still does
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {type(norm) for norm in norms} == {NativeSyncBatchNorm if native else SyncBatchNorm}
    with batch_norm_at_rest(net, True):  # SAM's second pass
        assert {norm.momentum for norm in norms} == {0.0}
    assert 0.0 not in {norm.momentum for norm in norms}
    set_bn_momentum(net, 0.25)
    assert {norm.momentum for norm in norms} == {0.25}
    if native:  # on a GPU only does it train
        return
    with alone():
        net.train()(image)
    assert not torch.equal(net.eval()(image), before)  # running statistics moved
