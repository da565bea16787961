"""A model that makes calls of its class others counts its own code's alone, whatever its parts do since growth."""

from __future__ import annotations

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
