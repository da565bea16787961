"""Attributes that hold sizes follow growth, but for those that the forward needs as they were."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.own.reading import may_read
from tests.models import lively


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden_size, self.size_beside = size, size
        self.layer = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.layer(x))


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.hidden_size**-0.5


class Compared(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.hidden_size == self.size_beside else x


class Repeated(Block):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.hidden_size):
            x = x + self.layer(torch.sin(x)) / 100
        return x


class LookedUp(Block):
    """By a function outside of the class, in a table."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * of_table(self)


class Named(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * math.sqrt(getattr(self, "hidden_size"))  # noqa: B009


def of_table(block: Any) -> float:
    return {8: 1.5, 16: 2.5}[block.hidden_size]


@pytest.mark.parametrize("kind", [Scaled, Compared, Repeated, LookedUp, Named])
def test_what_the_forward_needs_stays(kind: type[Block]) -> None:
    model = lively(nn.Sequential(nn.Linear(3, 8), kind(8), nn.Linear(8, 2)))
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 3))
    assert grown[1].layer.in_features == 16
    assert grown[1].hidden_size == 8
    assert fxgrow.report(grown).plan.form == "module"


def test_what_it_does_not_read_follows() -> None:
    model = lively(nn.Sequential(nn.Linear(3, 8), Block(8), nn.Linear(8, 2)))
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 3))
    assert grown[1].hidden_size == 16


def test_code_is_looked_through() -> None:
    names = {"hidden_size", "embed_dim"}
    assert may_read(nn.Sequential(Block(4)), names) == set()
    for kind in (Scaled, LookedUp, Named):
        assert may_read(nn.Sequential(kind(4)), names) == {"hidden_size"}
