"""What a node calls, and whether it writes to what it is given, however that is spelled."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import fxgrow
from fxgrow.rules.calls import name_of, writes


def node_of(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    graph = fx.Graph()
    kind = "call_method" if isinstance(target, str) else "call_function"
    return graph.create_node(kind, target, (graph.placeholder("x"), *args), kwargs)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (node_of(F.relu, True), True),  # by its place
        (node_of(F.relu, inplace=True), True),
        (node_of(F.relu), False),
        (node_of(F.dropout, 0.1, True, True), True),
        (node_of(F.dropout, 0.1, True), False),
        (node_of("add_", 1), True),
        (node_of("__add__", 1), False),
        (node_of(operator.iadd, 1), True),
        (node_of(operator.setitem, 0, 1), True),
        (node_of(torch.relu_), True),
        (node_of(torch.relu), False),
    ],
    ids=str,
)
def test_whether_a_node_writes_to_its_operand(node: fx.Node, expected: bool) -> None:
    assert writes(node) is expected


def test_a_module_says_so_itself() -> None:
    node = fx.Graph().create_node("call_module", "0")
    assert writes(node, nn.ReLU(inplace=True))
    assert not writes(node, nn.ReLU())
    assert name_of(node, nn.ReLU()) == "ReLU"


class Overwriting(nn.Module):
    """Reads a tensor once more after a function wrote to it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        F.relu(h, True)
        return self.leave(h + 1)


def test_a_function_told_by_its_place_to_write_is_known_to_write() -> None:
    model = Overwriting().double()
    x = torch.randn(3, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-12)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
