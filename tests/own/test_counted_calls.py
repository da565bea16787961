"""A model that makes calls of its class others counts its own code's alone, whatever its parts do since growth."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(3, 8)


class Centred(nn.Module):
    """Takes statistics of units before and after a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x - x.mean(-1, keepdim=True)
        x = x + self.inner(x)
        x = x / x.std(-1, keepdim=True)
        return self.last(x.relu())  # type: ignore[no-any-return]


class Wrapped(nn.Module):
    """A layer that is looked at."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        self.spread = x.detach().std(-1)
        return x - 0 * x.mean(-1, keepdim=True)


def wrap(model: Any) -> None:
    model.inner = Wrapped(model.inner)


def watch(model: Any) -> None:
    model.inner.register_forward_hook(lambda module, x, y: y - 0 * y.std(-1, keepdim=True) - 0 * y.mean())


class Normed(Centred):
    """Takes them in a layer that it makes as it runs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = Averaged()(x + self.inner(x))
        return self.last(x.relu())  # type: ignore[no-any-return]


class Averaged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("change", [watch, wrap])
@pytest.mark.parametrize("kind", [Centred, Normed])
def test_calls_of_hooks_and_of_layers_put_there_since_are_not_counted(kind: Any, change: Any) -> None:
    model = lively(kind()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, kind) and grown.first.out_features == 32
    for each in (model, grown):
        change(each)
    torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)
    torch._dynamo.reset()
    compiled = torch.compile(grown, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), model(X), rtol=EXACT, atol=EXACT)


class Penalised(Centred):
    """Takes a mean of what a norm gives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.first(x).relu())
        return self.last(x), x.pow(2).mean()


def test_compiled_the_steps_of_a_norm_over_old_units_are_not_counted() -> None:
    model = lively(Penalised()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert grown.first.out_features == 32
    torch._dynamo.reset()
    compiled = torch.compile(grown, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), model(X), rtol=EXACT, atol=EXACT)


@functools.lru_cache
def _far(tokens: int) -> Tensor:
    """Minus hundred for tokens that are not neighbours; kept, so that the next call reshapes nothing."""
    places = torch.arange(tokens).reshape(tokens, 1)
    return -100.0 * ((places - places.reshape(1, tokens)).abs() > 1).double()


class Near(nn.Module):
    """Attention with a bias by head, whose heads grow together: all of them have more units than the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix, self.out = nn.Linear(4, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.bias, self.leave = nn.Parameter(torch.randn(3, 1, 1)), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        batch, tokens, units = h.shape
        q, k, v = self.mix(h).reshape(batch, tokens, 3, 3, units // 3).permute(2, 0, 3, 1, 4)
        a = (q @ k.mT + self.bias + _far(tokens)).softmax(-1)
        return self.leave(h + self.out((a @ v).transpose(1, 2).reshape(batch, tokens, units)))  # type: ignore[no-any-return]


def test_calls_are_counted_as_they_are_where_a_function_keeps_what_it_gave() -> None:
    torch.manual_seed(0)
    model, x = Near().double().eval(), torch.randn(2, 4, 4).double()
    grown = fxgrow.grow(model, 1.5, example_inputs=x, form="module")
    assert grown.mix.out_features != 3 * grown.enter.out_features
    for inputs in (x, x, torch.randn(2, 6, 4).double()):
        _far.cache_clear()
        for _ in range(2):
            torch.testing.assert_close(grown(inputs), model(inputs), rtol=1e-12, atol=1e-12)
            _far.cache_clear()
        torch.testing.assert_close(model(inputs), grown(inputs), rtol=1e-12, atol=1e-12)


class Turning(nn.Module):
    """Scales by the number of units: once by chance in train mode, then at each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.query, self.last = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor, turns: int = 2) -> Tensor:
        x = self.first(x)
        if self.training:
            x = x * torch.full((1, 1), 1.5, dtype=x.dtype)
        for _ in range(turns):
            scores = (self.query(x) * x.shape[-1] ** -0.5) @ x.mT
            x = x + scores.softmax(-1) @ x
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [False, True])
def test_what_each_turn_calls_is_changed_at_further_turns_too(training: bool) -> None:
    model = lively(Turning().double()).train(training)
    grown = fxgrow.grow(model, 1.5, example_inputs=X)
    assert isinstance(grown, Turning)
    for turns in (1, 2, 3, 6):
        assert float((grown(X, turns) - model(X, turns)).abs().max()) < EXACT
