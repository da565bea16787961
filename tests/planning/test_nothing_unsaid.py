"""Every dimension of a parameter grows or is listed with the reason why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow


class Tied(nn.Module):
    """A weight and its transpose, as in autoencoders, and what stands between them; nothing else makes the units."""

    def __init__(self, function: Any, by_matmul: bool = False) -> None:
        super().__init__()
        self.weight, self.function, self.by_matmul = nn.Parameter(torch.randn(6, 10)), function, by_matmul

    def forward(self, x: Tensor) -> Tensor:
        if self.by_matmul:
            return self.function(x @ self.weight) @ self.weight.T
        return F.linear(self.function(F.linear(x, self.weight.t())), self.weight)


class AlsoMade(nn.Module):
    """Two layers make units; the weight of one of them, transposed, reads them too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.randn(6, 10)), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear((F.linear(x, self.weight.t()) + self.other(x)).tanh(), self.weight)


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("function", [torch.tanh, torch.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize("by_matmul", [False, True], ids=["linear", "matmul"])
def test_units_that_one_weight_makes_and_reads_are_held_with_the_reason(
    function: Any, by_matmul: bool, init: str
) -> None:
    """Sums of w f(w x) over new units vanish for all x only where all new w are zero, which then stay so."""
    plan = fxgrow.plan(Tied(function, by_matmul), 2, init=init, example_inputs=torch.randn(4, 6))
    assert not plan.groups
    assert [(staying.size, staying.where) for staying in plan.held] == [(10, ("weight[1]",))]
    assert "never learn" in plan.held[0].reason


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
def test_units_that_another_layer_makes_too_grow(init: str) -> None:
    model, x = AlsoMade().double(), torch.randn(4, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, init=init, example_inputs=x)
    assert grown.weight.shape == (6, 20)
    assert torch.allclose(grown(x), model(x), rtol=1e-10, atol=1e-12)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
