"""What layers give, told by sizes, is what they give when they run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxgrow.capture.evaluation import told


def described(outputs: Any) -> tuple[Any, Any]:
    leaves, structure = pytree.tree_flatten(outputs)
    return structure, [(leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("shape", [(3, 7, 8), (7, 8), (1, 1, 8)])
def test_a_recurrent_layer_is_not_run(kind: Any, shape: tuple[int, ...]) -> None:
    for first, ways, layers, proj in itertools.product((False, True), (False, True), (1, 2), (0, 5)):
        more = {"proj_size": proj} if kind is nn.LSTM else {}
        layer = kind(8, 12, layers, batch_first=first, bidirectional=ways, **more).to("meta")
        x = torch.empty(shape, device="meta")
        outputs, states = layer(x)
        assert described(told(layer, (x,), {})) == described((outputs, states))
        assert described(told(layer, (x, states), {})) == described((outputs, states))


@pytest.mark.parametrize(
    "wrong",
    [
        (torch.empty(7, 3, 9, device="meta"),),
        (torch.empty(7, 3, 8, device="meta", dtype=torch.float64),),
        (torch.empty(0, 3, 8, device="meta"),),
        (torch.empty(7, 3, 8, device="meta"), torch.empty(1, 4, 12, device="meta")),
    ],
)
def test_one_that_would_refuse_its_inputs_is_run(wrong: tuple[Any, ...]) -> None:
    assert told(nn.GRU(8, 12).to("meta"), wrong, {}) is None
