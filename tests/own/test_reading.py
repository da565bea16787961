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
    def read(block: Block) -> set[str]:
        return may_read(nn.Sequential(block), [(block, "hidden_size"), (block, "embed_dim")])

    assert read(Block(4)) == set()
    for kind in (Scaled, LookedUp, Named):
        assert read(kind(4)) == {"hidden_size"}


class Ranked(Block):
    """Calls a method of tensors that has the name, and reads another module's own number of that name."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.dim, self.pool = size, Pooled()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(super().forward(x)) if x.dim() == 2 else x


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dim = -1

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(self.dim, keepdim=True)


def test_what_is_called_and_what_others_have_of_the_name_is_not_read() -> None:
    model = nn.Sequential(Ranked(4))
    assert may_read(model, [(model[0], "dim")]) == set()
    assert may_read(model, [(model[0], "dim"), (model[0].pool, "dim")]) == {"dim"}
