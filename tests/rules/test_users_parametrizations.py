"""Parametrizations that users write are run from inside: what computes a weight are ops like any others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fxgrow
from fxgrow.measure.verification import relative_error
from tests.models import lively

ROWS = torch.randn(2, 5, 6, dtype=torch.float64)


class LowRank(nn.Module):
    """What a frozen weight gets added, as in LoRA."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, columns)), nn.Parameter(torch.randn(rows, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class Standardised(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-5)


def model_with(parametrization: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    parametrize.register_parametrization(model[0], "weight", parametrization)
    return lively(model).double()


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("make", [lambda: LowRank(8, 6), Standardised], ids=["low rank", "standardised"])
def test_layers_grow_with_them(make: Callable[[], nn.Module], form: str, tmp_path: Path) -> None:
    model = model_with(make())
    grown = fxgrow.grow(model, 2, example_inputs=ROWS, form=form)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert relative_error(grown(ROWS), model(ROWS)) < 1e-10
    assert grown.get_parameter("0.parametrizations.weight.original").shape == (16, 6)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(ROWS), grown(ROWS))
    again = fxgrow.grow(grown, 1.5)
    assert relative_error(again(ROWS), model(ROWS)) < 1e-10
    for _ in range(2):
        again(ROWS).square().sum().backward()
        with torch.no_grad():
            for parameter in again.parameters():
                parameter -= 1e-3 * parameter.grad
                parameter.grad = None
    again(ROWS).square().sum().backward()
    assert all(bool(parameter.grad.ne(0).any()) for parameter in again.parameters())  # type: ignore[union-attr]


def test_what_would_change_old_units_is_held_at_the_op_that_does() -> None:
    class Positive(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return nn.functional.softplus(weight)

        def right_inverse(self, weight: Tensor) -> Tensor:
            return weight

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    parametrize.register_parametrization(model[2], "weight", Positive())
    plan = fxgrow.plan(lively(model).double(), 2, example_inputs=ROWS)
    assert [staying.reason for staying in plan.held] == [
        "linear sums over it, and neither side can be made to send nothing (at 2.linear)"
    ]
