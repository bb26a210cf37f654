"""Sharpness-aware minimization: every number worked out by hand on half the squared length of a vector."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from models._sam import SAM


def closure_of(parameter: nn.Parameter, optimizer: SAM, seen: list[Tensor]):
    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.append(parameter.detach().clone())
        loss = 0.5 * parameter.square().sum()
        loss.backward()
        return loss

    return closure


def test_one_step_by_hand():
    w, seen = nn.Parameter(torch.tensor([3.0, 4.0])), []
    optimizer = SAM(SGD([w], lr=0.1), rho=0.05)
    loss = optimizer.step(closure_of(w, optimizer, seen))
    assert loss.item() == 12.5  # of where it was, not of where it climbed to
    torch.testing.assert_close(seen[1], torch.tensor([3.03, 4.04]))  # 0.05 along (3, 4) / 5
    assert torch.linalg.vector_norm(seen[1] - seen[0]).item() == pytest.approx(0.05, rel=1e-5)
    torch.testing.assert_close(w.detach(), torch.tensor([3 - 0.303, 4 - 0.404]))  # from the old place


def test_the_norm_is_over_all_parameters_and_skips_those_without_a_gradient():
    a, b, unused = (nn.Parameter(torch.tensor([value])) for value in (3.0, 4.0, 7.0))
    optimizer = SAM(SGD([{"params": [a]}, {"params": [b, unused]}], lr=0.0), rho=1.0)
    places = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        places.append((a.item(), b.item(), unused.item()))
        loss = 0.5 * (a.square() + b.square()).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert places[1] == pytest.approx((3.6, 4.8, 7.0))
    assert (a.item(), b.item(), unused.item()) == (3.0, 4.0, 7.0)  # at rate 0 it is back exactly where it was


def test_schedule_and_checkpoint_are_those_of_the_base():
    def fresh() -> tuple[nn.Parameter, SAM, LambdaLR]:
        w = nn.Parameter(torch.tensor([3.0, 4.0]))
        optimizer = SAM(Adam([w], lr=0.1))
        return w, optimizer, LambdaLR(optimizer, lambda step: 0.5**step)

    w, optimizer, schedule = fresh()
    places: list[Tensor] = []
    for _ in range(4):
        optimizer.step(closure_of(w, optimizer, places))
        schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.1 / 16)

    again, first, first_schedule = fresh()
    for _ in range(2):
        first.step(closure_of(again, first, []))
        first_schedule.step()
    resumed, second, second_schedule = fresh()
    with torch.no_grad():
        resumed.copy_(again)
    second.load_state_dict(first.state_dict())
    second_schedule.load_state_dict(first_schedule.state_dict())
    for _ in range(2):
        second.step(closure_of(resumed, second, []))
        second_schedule.step()
    assert torch.equal(resumed, w)


def test_a_gradient_of_zero_moves_nothing():
    w = nn.Parameter(torch.zeros(2))
    optimizer = SAM(SGD([w], lr=0.1))
    optimizer.step(closure_of(w, optimizer, []))
    assert torch.equal(w.detach(), torch.zeros(2))


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan")])
def test_rho_must_be_positive(rho):
    with pytest.raises(ValueError, match="rho must be positive"):
        SAM(SGD([nn.Parameter(torch.zeros(1))], lr=0.1), rho=rho)
