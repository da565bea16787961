"""Modules whose forward is in a graph: what they refuse to be given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow import FxgrowError


class Scaled(nn.Module):
    """A block that scales what it computes, and may square it."""

    slope = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.squared = False
        self.label = "a block"

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x) * self.slope
        return x * x if self.squared else x


class Net(nn.Module):
    """Two blocks and a head whose outputs are divided by a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Scaled(), Scaled()])
        self.head = nn.Linear(6, 3)
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x) / self.temperature


@pytest.mark.parametrize("again", [lambda grown: grown, copy.deepcopy, lambda grown: fxgrow.grow(grown, 2)])
def test_a_graph_refuses_values_for_what_it_has_as_it_was(again) -> None:
    grown = again(fxgrow.grow(Net(), 1.5, example_inputs=torch.randn(2, 6), form="graph"))
    for part, name in ((grown, "temperature"), (grown.blocks[1], "slope"), (grown.blocks[0], "squared")):
        with pytest.raises(FxgrowError, match=f"the graph has {name} as it was"):
            setattr(part, name, 2.0)


def test_a_graph_takes_attributes_that_no_forward_reads() -> None:
    grown = fxgrow.grow(Net(), 1.5, example_inputs=torch.randn(2, 6), form="graph")
    grown.note = grown.blocks[0].label = "mine"
    grown.head = nn.Linear(9, 5)
    assert grown(torch.randn(2, 6)).shape == (2, 5)
