"""Code that the backward pass runs again makes the calls that growth changed, as it did in the forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxgrow
from fxgrow.errors import FxgrowError
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(3, 8)


class OnceMore(torch.autograd.Function):
    """Checkpointing as people write it themselves."""

    @staticmethod
    def forward(ctx: Any, run_function: Callable[..., Tensor], x: Tensor) -> Tensor:
        ctx.run_function, ctx.given = run_function, x.detach()
        with torch.no_grad():
            return run_function(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x = ctx.given.requires_grad_()
        with torch.enable_grad():
            return None, torch.autograd.grad(ctx.run_function(x), x, gradients[0])[0]


class Both(OnceMore):
    @staticmethod
    def forward(ctx: Any, run_function: Callable[..., Tensor], x: Tensor) -> Tensor:
        ctx.inverse = abs
        return OnceMore.forward(ctx, run_function, x)


class Model(nn.Module):
    """Three calls of a function, the second of which is run again."""

    def __init__(self, again: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x / x.std(-1, keepdim=True)
        x = self.again(lambda x: self.inner(x).tanh() / x.std(-1, keepdim=True), x)
        return self.last(x / x.std(-1, keepdim=True))  # type: ignore[no-any-return]


def gradient(run: Any) -> Tensor:
    x = X.clone().requires_grad_()
    run(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


KEPT = functools.partial(checkpoint, use_reentrant=False)
REENTRANT = functools.partial(checkpoint, use_reentrant=True)


@pytest.mark.parametrize("again", [KEPT, REENTRANT, OnceMore.apply], ids=["kept", "reentrant", "by hand"])
def test_gradients_are_those_of_the_model(again: Any) -> None:
    model = lively(Model(again)).double()
    once = fxgrow.grow(model, 2, example_inputs=X, form="module")
    for grown in (once, fxgrow.grow(once, 1.5, example_inputs=X, form="module")):
        torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(gradient(grown), gradient(model), rtol=EXACT, atol=EXACT)


def test_compiled_it_makes_them_too() -> None:
    model = lively(Model(KEPT)).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    torch._dynamo.reset()
    compiled = torch.compile(grown, backend="aot_eager")
    torch.testing.assert_close(compiled(X), model(X), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(gradient(compiled), gradient(model), rtol=EXACT, atol=EXACT)


def over_std(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x) / x.std(-1, keepdim=True)  # type: ignore[no-any-return]


class OverStd:
    """An object that is called."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return over_std(self.layer, x)


def closure(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: over_std(layer, x)


def partial(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return functools.partial(over_std, layer)


def nested(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: KEPT(closure(layer), x) / x.std(-1, keepdim=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("made", [closure, partial, OverStd, nested])
@pytest.mark.parametrize("again", [KEPT, REENTRANT], ids=["kept", "reentrant"])
def test_compiled_what_alone_is_run_again_makes_them_too(made: Any, again: Any) -> None:
    """To modes, the compiler's checkpointing is one call; whatever of its functions calls is within."""

    class Only(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.again(made(self.inner), self.first(x)))  # type: ignore[no-any-return]

    model = lively(Only(again)).double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form="module")
    torch._dynamo.reset()
    compiled = torch.compile(grown, backend="aot_eager")
    torch.testing.assert_close(compiled(X), model(X), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(gradient(compiled), gradient(model), rtol=EXACT, atol=EXACT)


def test_where_it_cannot_be_told_what_is_run_again_growth_is_refused() -> None:
    with pytest.raises(FxgrowError, match=r"Both.* runs calls that growth changed"):
        fxgrow.grow(lively(Model(Both.apply)).double(), 2, example_inputs=X, form="module")
