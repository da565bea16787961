"""Modules that a forward gives other tensors than their own are recorded with those that they have when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.capture import capture
from fxgrow.errors import UntraceableError
from tests.capture.assembled import EXACT, assembled, assert_same_in_both_modes, normal

X = normal(5, 3, 6, 6)


class Exchanging(nn.Module):
    """Convolutions, a norm and a head, of which some run with other tensors."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
        self.mask = nn.Parameter(torch.rand(8, 3, 3, 3))
        self.leave, self.run = nn.Linear(6, 2), run

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.run(self, x).mean((2, 3)))  # type: ignore[no-any-return]


def called_with_others(self: Any, x: Tensor) -> Tensor:
    others = {name: parameter.tanh() for name, parameter in self.net.named_parameters()}
    return torch.func.functional_call(self.net, others, (x,))  # type: ignore[no-any-return]


def masked_for_a_while(self: Any, x: Tensor) -> Tensor:
    first = self.net[0]
    weight = first.weight
    del first.weight
    first.weight = weight * self.mask
    try:
        return self.net(x)  # type: ignore[no-any-return]
    finally:
        del first.weight
        first.weight = weight


@pytest.mark.parametrize("run", [called_with_others, masked_for_a_while])
def test_a_graph_computes_with_the_tensors_that_a_module_is_given(run: Callable[..., Any]) -> None:
    model = Exchanging(run).double()
    assert_same_in_both_modes(model, assembled(model, X), X)
    for form in ("auto", "graph"):
        grown = fxgrow.grow(model, 2, example_inputs=X, form=form, verify="full")
        assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
        torch.testing.assert_close(grown.eval()(X), model.eval()(X), rtol=EXACT, atol=EXACT)


def test_a_parameter_made_anew_in_the_forward_is_refused() -> None:
    def replacing(self: Any, x: Tensor) -> Tensor:
        self.net[0].weight = nn.Parameter(self.mask * 2)
        return self.net(x)  # type: ignore[no-any-return]

    with pytest.raises(UntraceableError, match="comes from a function that cannot be seen into"):
        capture(Exchanging(replacing).double(), X)
