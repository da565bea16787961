"""Tensors that a forward makes in a precision of its own stay in it, in a graph that is cast as in the class."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import fxgrow
from tests.models import Branched

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Placed(nn.Module):
    """Reads places that are made in single precision, whatever its weights are of."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(8, 16), Branched(16, 32), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.linspace(-1, 1, 5)[:, None] * torch.linspace(1, 2, 2, dtype=torch.float32)
        places = (places * 3.14159).sin().expand(x.shape[0], -1, -1)
        return self.leave(self.block(self.enter(torch.cat((x, places), -1))))  # type: ignore[no-any-return]


def test_a_graph_that_is_cast_computes_what_the_class_does() -> None:
    torch.manual_seed(0)
    model, x = Placed().double(), X.double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=x, form="graph")
    for again in (grown, copy.deepcopy(grown).float().double(), fxgrow.grow(grown, width=1.5, example_inputs=x)):
        constants = [tensor for name, tensor in again.named_buffers() if name.startswith("_constant_")]
        assert constants and {tensor.dtype for tensor in constants} == {torch.float32}
    assert torch.allclose(grown(x), model(x), rtol=0, atol=1e-13)


def test_constants_follow_to_a_device() -> None:
    grown = fxgrow.grow(Placed(), width=1.5, example_inputs=X, form="graph").to("meta", torch.float64)
    devices = {tensor.device.type for tensor in (*grown.parameters(), *grown.buffers())}
    assert devices == {"meta"} and next(grown.parameters()).dtype == torch.float64
