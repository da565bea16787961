"""Tensors of one number that a forward makes of literals follow what they meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from tests.checks import assert_grows

X = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


def zeros(*sizes: int) -> Tensor:
    return torch.zeros(*sizes, dtype=torch.float64)


def fading(h: Tensor) -> Tensor:
    """A sum whose first term literals make of other literals."""
    total = zeros(1, 8)
    for step in range(h.shape[1]):
        total = 0.5 * total + h[:, step]
    return total


def beside_others(h: Tensor) -> Tensor:
    """Only the second call of the function is to make more."""
    other = zeros(2, 3)
    return torch.cat([zeros(h.shape[0], 1, 8), h], 1).relu() + other.sum()


MADE = {
    "added": lambda h: (h + zeros(8)).relu(),
    "a factor": lambda h: h * (1 - torch.full((1, 8), 0.25, dtype=h.dtype)),
    "a bound": lambda h: torch.maximum(h, torch.ones(8).to(h) * 0.1),
    "a token": lambda h: torch.cat([zeros(1, 1, 8).expand(h.shape[0], -1, -1), h], 1).relu(),
    "written to after": lambda h: written_to_after(h, zeros(8)),
    "a fading sum": fading,
    "beside others": beside_others,
}


def written_to_after(h: Tensor, made: Tensor) -> Tensor:
    shifted = h + made
    made += 1
    return shifted * made


@pytest.mark.parametrize("name", MADE)
def test_what_is_filled_with_one_number_follows(name: str) -> None:
    torch.manual_seed(0)
    model = Between(MADE[name]).double()
    grown = assert_grows(model, (X,), 2, "zero", least_ratio=1.9)
    assert isinstance(grown, Between)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def written_to_before(h: Tensor) -> Tensor:
    made = zeros(8)
    made[3] = 2.0
    return h + made


def test_what_is_written_to_before_it_is_used_is_a_constant() -> None:
    model = Between(written_to_before).double()
    plan = fxgrow.plan(model, 2, example_inputs=X)
    assert not plan.groups
    assert "constant" in plan.held[0].reason
