"""Weights that a forward computes of parameters: products, sums; and entries that it writes by an index."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.measure.verification import relative_error
from tests.models import lively

ROWS = torch.randn(2, 5, 6, dtype=torch.float64)


class Computed(nn.Module):
    """Two layers, of which the weight of one is computed; `up` and `down` are a product of low rank."""

    def __init__(self, first: bool, computed: Callable[[Computed, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        rows, columns = (8, 6) if first else (3, 8)
        self.up, self.down = nn.Parameter(torch.randn(rows, 2)), nn.Parameter(torch.randn(2, columns))
        self.other = nn.Parameter(torch.randn(rows, columns))
        self.first, self.computed = first, computed

    def forward(self, x: Tensor) -> Tensor:
        layers = self.enter, self.leave
        weights = [layer.weight for layer in layers]
        at = 0 if self.first else 1
        weights[at] = self.computed(self, weights[at])
        h = torch.relu(F.linear(x, weights[0], layers[0].bias))
        return F.linear(h, weights[1], layers[1].bias)


WAYS = {
    "a product is added": lambda model, weight: weight + model.up @ model.down,
    "two are added": lambda model, weight: weight + model.other,
    "nothing is added": lambda model, weight: weight + 0,
}


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_they_grow_and_stay_the_same_function(way: str, first: bool, init: str) -> None:
    model = lively(Computed(first, WAYS[way])).double()
    grown = fxgrow.grow(model, 1.5, example_inputs=ROWS, init=init)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert relative_error(grown(ROWS), model(ROWS)) < 1e-10
    if way != "a product is added":
        assert grown.get_parameter("enter.weight").shape == (12, 6)


def test_both_factors_of_a_product_grow() -> None:
    """One of them makes the units that the other cancels: as pairs, or as copies."""
    model = lively(Computed(True, WAYS["a product is added"])).double()
    for init in ("zero", "mirror", "replicate"):
        grown = fxgrow.grow(model, 2, example_inputs=ROWS, init=init)
        assert (grown.get_parameter("up").shape, grown.get_parameter("down").shape) == ((16, 4), (4, 6))


@pytest.mark.parametrize(
    ("index", "width"),
    [(lambda h: h < 0, 5), (lambda h: [0, 2], 10), (lambda h: torch.tensor([1]), 10)],
)
def test_what_an_index_is_written_along_stays(index: Callable[[Tensor], object], width: int) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
            self.wide = nn.Linear(4, 5)
            self.leave = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x).clone()
            h[:, [0, 2]] = 0.5
            h = self.wide(h)
            h[index(h)] = 0
            return self.leave(h)  # type: ignore[no-any-return]

    model = lively(Writing()).double()
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(3, 6))
    shapes = [tuple(grown.get_parameter(f"{name}.weight").shape) for name in ("body.0", "body.2", "wide", "leave")]
    assert shapes == [(16, 6), (4, 16), (width, 4), (3, width)]
    x = torch.randn(3, 6, dtype=torch.float64)
    assert relative_error(grown(x), model(x)) < 1e-10
    reasons = {staying.reason for staying in fxgrow.plan(model, 2, example_inputs=torch.randn(3, 6)).held}
    assert reasons >= {"setitem: its entries are written by an index (at setitem)"}
