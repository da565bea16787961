"""What layers of new blocks make: which of their units are zero, by the axes that their laws name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from fxgrow.proof.rules.identity import Maker, PartlyZero
from fxgrow.rules.calls import Call
from fxgrow.rules.registry import law_of_module


def units_found_silent(layer: Any, x: Tensor) -> Any:
    """What the kernel says of a layer whose second unit has no weights, seen as rows of its tensors."""
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor[1] = 0
    graph = fx.symbolic_trace(nn.Sequential(layer)).graph
    (node,) = (node for node in graph.nodes if node.op == "call_module")
    node.meta["value"] = layer(x)
    law = law_of_module(layer)
    assert law is not None
    intermediate: Any = SimpleNamespace(
        silent_rows=lambda name: (
            (layer.get_parameter(name.removeprefix("0.")) == 0).flatten(1).all(1)
            if name.endswith("weight")
            else layer.bias == 0
        )
    )
    made = Maker(intermediate, {})._silent_units(Call(node, layer, law), {})
    return made and made.value


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(4, 4), (4, 4, 4)), (nn.Conv1d(4, 4, 1), (2, 4, 4)), (nn.Conv1d(4, 4, 1), (4, 4))],
    ids=["linear", "convolution", "convolution of one sample"],
)
def test_units_without_weights_are_zero_where_the_layer_puts_them(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    found = units_found_silent(layer, x)
    assert isinstance(found, PartlyZero)
    with torch.no_grad():
        assert torch.equal(found.zero.expand(layer(x).shape), layer(x) == 0)


@pytest.mark.parametrize("layer", [nn.ConvTranspose1d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)], ids=["1d", "2d"])
def test_rows_of_a_transposed_convolution_are_no_units(layer: nn.Module) -> None:
    assert units_found_silent(layer, torch.randn(1, 4, *(3,) * (layer.weight.ndim - 2))) is None
