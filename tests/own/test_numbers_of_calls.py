"""A call that growth changes takes from the call that is made what growth does not change."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError, SettledError
from tests.capture.assembled import EXACT, normal

X = normal(2, 5, 8)


class Layers(nn.Module):
    """number: what its forward hands a call, and people change by hand."""

    number = 1e-5

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
        self.gain = nn.Parameter(torch.rand(12) + 1)
        self.number = type(self).number


class LayerNorm(Layers):
    def forward(self, x: Tensor, number: float | None = None) -> Tensor:
        x = self.read(x)
        return self.head(F.layer_norm(x, x.shape[-1:], eps=self.number if number is None else number))  # type: ignore[no-any-return]


class RMSNorm(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        return self.head(F.rms_norm(x, x.shape[-1:], None, self.number))  # type: ignore[no-any-return]


class GroupNorm(Layers):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.group_norm(self.read(x).mT, 1, eps=self.number).mT)  # type: ignore[no-any-return]


class Argument(Layers):
    """Where gain and eps make up for the new units."""

    def forward(self, x: Tensor, number: float = 1e-5) -> Tensor:
        x = self.read(x)
        return self.head(F.layer_norm(x, x.shape[-1:], self.gain, eps=number))  # type: ignore[no-any-return]


class Attention(Layers):
    number = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 36)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * (self.number / math.sqrt(q.shape[-1]))).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MoreInTraining(Attention):
    """Its modes have graphs of their own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.tanh() if self.training else x)


class Scaled(Attention):
    """Attention that derives its scale, unless it is given one."""

    def forward(self, x: Tensor, number: float | None = None) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        return self.head(F.scaled_dot_product_attention(q, k, v, scale=number).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Times(Layers):
    """A number that is whole, and no size."""

    def forward(self, x: Tensor, number: int = 1) -> Tensor:
        x = self.read(x)
        return self.head(x * (x.shape[-1] * number))  # type: ignore[no-any-return]


class Mean(Layers):
    def forward(self, x: Tensor, number: float = 1.0) -> Tensor:
        x = self.read(x)
        return self.head(x * (number / x.shape[-1] * x.sum(-1, keepdim=True)).sigmoid())  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", [{"width": 2}, {"width": 1.5, "init": "mirror"}], ids=str)
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm, GroupNorm, Attention, MoreInTraining])
def test_numbers_that_attributes_are_given_by_hand_count(kind: Any, how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model: Any = kind().double()
    grown: Any = fxgrow.grow(model, example_inputs=X, **how)
    copied = pickle.loads(pickle.dumps(grown))
    model.number = grown.number = copied.number = 2.0
    assert isinstance(grown, kind)
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=EXACT)
    torch.testing.assert_close(grown.eval()(X), model.eval()(X), rtol=0, atol=EXACT)
    model.train()
    torch.testing.assert_close(copied.train()(X), model(X), rtol=0, atol=EXACT)


@pytest.mark.parametrize("kind", [LayerNorm, Argument, Mean, Scaled])
def test_numbers_that_arguments_are_given_count_after_each_growth(kind: Any) -> None:
    torch.manual_seed(0)
    model: Any = kind().double()
    once: Any = fxgrow.grow(model, 1.5, init="mirror" if kind is Scaled else "zero", example_inputs=X)
    twice: Any = fxgrow.grow(once, 1.5, example_inputs=X)
    for number in (0.7, 3.0):
        assert (model(X, number) - model(X)).abs().max() > 1e-3
        torch.testing.assert_close(once(X, number), model(X, number), rtol=0, atol=EXACT)
        torch.testing.assert_close(twice(X, number), model(X, number), rtol=0, atol=EXACT)


def test_whole_numbers_stay_whole() -> None:
    torch.manual_seed(0)
    model = Times().double()
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=X)
    for number in (2, 3):
        torch.testing.assert_close(grown(X, number), model(X, number), rtol=0, atol=EXACT)


class Shaped(Layers):
    def forward(self, x: Tensor, number: int = 1) -> Tensor:
        x = self.read(x)
        return self.head(F.layer_norm(x, x.shape[-number:]))  # type: ignore[no-any-return]


class Grouped(Layers):
    number = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.group_norm(self.read(x).mT, self.number).mT)  # type: ignore[no-any-return]


class Direction(Layers):
    number = -1

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        return self.head(F.normalize(x + x.mean(-1, keepdim=True), dim=self.number))  # type: ignore[no-any-return]


def test_a_norm_over_other_axes_is_refused_by_name() -> None:
    torch.manual_seed(0)
    shaped, grouped, direction = (
        fxgrow.grow(kind().double(), 2, init="mirror", example_inputs=X) for kind in (Shaped, Grouped, Direction)
    )
    with pytest.raises(SettledError, match="number is 2, for which the model did not grow"):
        shaped(X, 2)
    grouped.number = 2
    with pytest.raises(SettledError, match="num_groups=2"):
        grouped(X)
    direction.number = 1
    with pytest.raises(SettledError, match="dim=1"):
        direction(X)


class Assigning(Layers):
    """Gives its norm the eps that it has, or another one."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm, self.number, self.wide = nn.LayerNorm(12, eps), 1e-5, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.eps = self.number
        return self.head(self.norm(self.read(self.wide(x).relu())))  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["zero", "mirror"])
def test_an_eps_that_the_forward_assigns_is_left_to_it(init: str) -> None:
    torch.manual_seed(0)
    model = Assigning().double()
    grown: Any = fxgrow.grow(model, 2, init=init, example_inputs=X)
    assert isinstance(grown, Assigning)
    assert grown.norm.weight.shape == (24,)
    model.number = grown.number = 0.5
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=EXACT)


def test_units_stay_whose_norm_has_another_eps_than_the_forward_gives_it() -> None:
    torch.manual_seed(0)
    model = Assigning(0.1).double()
    plan = fxgrow.plan(model, 2, example_inputs=X)
    assert any("the forward changes its eps (at norm)" in held.reason for held in plan.held)
    with pytest.raises(PlanError, match="what the forward assigns to the attribute eps"):
        fxgrow.grow(model, 2, form="graph", example_inputs=X)
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert grown.wide.out_features == 16
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=EXACT)
