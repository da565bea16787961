"""Layers that a forward gives tensors of its own making: first states, tables of coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class OnLiteral(nn.Module):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.enter, self.table, self.leave = nn.Linear(6, 8), nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2)
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu() + self.table(self.make()))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(5, 4).double(),
        lambda: torch.DoubleTensor(5, 4).fill_(0.5),
        lambda: torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4),
        lambda: torch.from_numpy(np.arange(20.0).reshape(5, 4)),
        lambda: torch.tensor([[0.5, 1.0, 2.0, 3.0]], dtype=torch.float64),
    ],
)
def test_a_layer_is_called_on_a_literal(make: Callable[[], Tensor]) -> None:
    model = OnLiteral(make).double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is OnLiteral and grown.enter.out_features == grown.table[0].out_features == 12
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))


class Recurrent(nn.Module):
    """A cell of a user's own, whose first state is zeros: the weights that meet them count for nothing there."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.carry, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 8, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = torch.tanh(self.read(x[:, step]) + self.carry(state))
        return self.leave(state)  # type: ignore[no-any-return]


def test_a_state_that_starts_at_zero_is_proved() -> None:
    model = Recurrent().double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert grown.carry.weight.shape == (12, 12)
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    with torch.no_grad():
        grown.carry.weight[0, 0] += 1
    assert fxgrow.certify(grown, model).verdict is Verdict.REFUTED


class MultiCrop(nn.Module):
    """Crops of one size are joined, by what their sizes are, as the wrappers of DINO and SwAV do."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 2)

    def forward(self, crops: list[Tensor]) -> Tensor:
        sizes = torch.tensor([crop.shape[-1] for crop in crops])
        ends = torch.cumsum(torch.unique_consecutive(sizes, return_counts=True)[1], 0)
        start, features = 0, torch.empty(0).to(crops[0])
        for end in ends:
            features = torch.cat((features, self.trunk(torch.cat(crops[start:end]))))
            start = end
        return self.head(features)  # type: ignore[no-any-return]


def test_what_goes_by_sizes_alone_is_worked_out() -> None:
    torch.manual_seed(0)
    large, small = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    model = MultiCrop().double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=([large, large, small],))
    assert type(grown) is MultiCrop and grown.head.in_features == 12
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    for crops in ([large, large, small], [large, small, small], [small]):
        torch.testing.assert_close(grown(crops), model(crops), rtol=1e-12, atol=0)
