"""Functions with a backward of their own grow without a rule where they compute entry by entry, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BY_UNIT = torch.linspace(0.5, 2, 8, dtype=torch.float64).reshape(8, 1, 1)


class Given(torch.autograd.Function):
    """The gradient goes through as it is."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        context.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        (x,) = context.saved_tensors
        gate = torch.sigmoid(x)
        return gradients[0] * gate * (1 + x * (1 - gate)), None


class Reversed(Given):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x.view_as(x)


class Rounded(Given):
    """Flat everywhere, but for its backward."""

    @staticmethod
    def forward(context: Any, x: Tensor, levels: float) -> Tensor:
        return torch.round(x * levels) / levels


class Switched(Given):
    """Not zero at zero."""

    @staticmethod
    def forward(context: Any, x: Tensor, threshold: float) -> Tensor:
        return torch.where(x > -threshold, torch.ones_like(x), torch.zeros_like(x))


class Normed(Given):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x / x.norm(dim=1, keepdim=True)


class Scaled(Given):
    """By a number for each unit that no operand brings."""

    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x * BY_UNIT.to(x.device)


class Turned(Given):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x.transpose(2, 3).relu()


class Overwriting(Given):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        context.mark_dirty(x)
        return x.relu_()


class Noisy(Given):
    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x + torch.rand_like(x)


class Binary(Given):
    """Scaled by how many entries there are, as weights of one bit are."""

    @staticmethod
    def forward(context: Any, x: Tensor, _: float) -> Tensor:
        return x.sign() * (2 / (x.shape[1] * x.shape[2])) ** 0.5


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, 3.0)  # type: ignore[no-any-return, no-untyped-call]


def model_of(function: type[torch.autograd.Function]) -> nn.Sequential:
    layers = (nn.Conv2d(3, 8, 3), Applied(function), nn.Conv2d(8, 8, 3), Applied(function), nn.Conv2d(8, 2, 1))
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("function", [Swish, Reversed, Rounded, Switched])
def test_entry_by_entry_it_grows(function: type[torch.autograd.Function]) -> None:
    model = model_of(function)
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [grown[0].out_channels, grown[2].out_channels] == [16, 16]
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))
    for module in (model, grown):
        module(X).square().sum().backward()
    torch.testing.assert_close(grown[0].weight.grad[:8], model[0].weight.grad)
    optimizer = torch.optim.SGD(grown.parameters(), lr=1e-3)
    optimizer.step()
    grown.zero_grad()
    grown(X).square().sum().backward()
    assert all(bool(grown[place].weight.grad[8:].any(dim=0).all()) for place in (0, 2))


@pytest.mark.parametrize("function", [Normed, Scaled, Turned, Overwriting, Noisy, Binary])
def test_anything_else_holds_what_it_meets(function: type[torch.autograd.Function]) -> None:
    with pytest.raises(PlanError, match=f"{function.__name__} has no rule"):
        fxgrow.grow(model_of(function), width=2, example_inputs=X)


def test_what_it_gives_at_zero_goes_by_its_arguments() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Applied(Switched), nn.Conv2d(8, 2, 1)).double()
    plan = fxgrow.plan(model, width=2, example_inputs=X)
    assert [group.new for group in plan.groups] == [16]
