"""Code read for whether it only passes tensors on: what it has to see through, and what it must not believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxgrow.proof.straight_through import puts_out, takes_in


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.limit = 3

    def middle(self, x: Tensor) -> Tensor:
        return x.relu()


class Plain(Model):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.limit):
            x = self.middle(x) + x
        return self.last(x)  # type: ignore[no-any-return]


class ByMethods(Model):
    def scored(self, h: Tensor) -> Any:
        scores = self.last(self.middle(h))
        return {"scores": scores, "features": h}

    def entered(self, image: Tensor, scale: float) -> Tensor:
        return self.first(image) * scale  # type: ignore[no-any-return]

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        h = self.entered(x, scale)
        if bool(h.sum() > 0):
            return self.scored(h)
        return self.scored(-h)


class Inside(Model):
    def __init__(self) -> None:
        super().__init__()
        self.body = Plain()

    def forward(self, x: Tensor) -> Any:
        return (self.body(x),)


@pytest.mark.parametrize(("model", "prefix"), [(Plain(), ""), (ByMethods(), ""), (Inside(), "body.")], ids=str)
def test_it_sees_that_tensors_go_straight_through(model: nn.Module, prefix: str) -> None:
    assert puts_out(model, f"{prefix}last")
    assert takes_in(model, f"{prefix}first", 0)
    assert takes_in(model, f"{prefix}first", "x")
    assert not puts_out(model, f"{prefix}first")
    assert not takes_in(model, f"{prefix}last", 0)


class Rescored(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)).softmax(-1)  # type: ignore[no-any-return]


class Counted(Model):
    def forward(self, x: Tensor) -> Any:
        scores = self.last(self.first(x))
        return scores if scores.shape[1] == 2 else None


class Kept(Model):
    def forward(self, x: Tensor) -> Any:
        scores = self.scores = self.last(self.first(x))
        return scores


class OneOfTwo(Model):
    def forward(self, x: Tensor) -> Any:
        if bool(x.sum() > 0):
            return self.last(self.first(x))
        return self.last(self.first(x)) * 2


class Aliased(Model):
    def forward(self, x: Tensor) -> Any:
        layer = self.last
        scores = layer(self.first(x)) * 2
        return scores + self.last(self.first(x)) * 0 if self.limit > 5 else self.last(self.first(x))


class Looped(Model):
    def forward(self, x: Tensor) -> Any:
        for part in self.children():
            x = part(x)
        return x


class InAMethod(Model):
    def scored(self, h: Tensor) -> Tensor:
        return self.last(h)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Any:
        return self.scored(self.first(x)).exp()


class CalledByAnother(Model):
    def __init__(self) -> None:
        super().__init__()
        self.again = [self.last]

    def forward(self, x: Tensor) -> Any:
        return self.last(self.first(x)) if self.limit else self.again[0](self.first(x)).exp()


def doubling(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: function(*args) * 2


class Decorated(Model):
    @doubling
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))  # type: ignore[no-any-return]


def hooked() -> nn.Module:
    model = Plain()
    model.register_forward_hook(lambda module, args, output: output.softmax(-1))
    return model


OTHERWISE = [
    *(Rescored(), Counted(), Kept(), OneOfTwo(), Aliased(), Looped(), InAMethod(), CalledByAnother(), Decorated()),
    *(hooked(), nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1))),
]


@pytest.mark.parametrize("model", OTHERWISE, ids=lambda model: type(model).__name__)
def test_it_believes_nothing_else(model: nn.Module) -> None:
    assert not puts_out(model, "last" if hasattr(model, "last") else "0")


class Measured(Model):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return self.last(y / x.shape[1])


class Again(Model):
    def forward(self, x: Tensor) -> Any:
        for _ in range(2):
            x = self.first(x)[..., :3] + x
        return self.last(self.first(x))


class Changed(Model):
    def forward(self, x: Tensor) -> Any:
        x = x * 2
        return self.last(self.first(x))


class AnyArguments(Model):
    def forward(self, *x: Tensor) -> Any:
        return self.last(self.first(*x))


@pytest.mark.parametrize(
    "model", [Measured(), Again(), Changed(), AnyArguments()], ids=lambda model: type(model).__name__
)
def test_inputs_that_something_else_reads(model: nn.Module) -> None:
    assert not takes_in(model, "first", 0)


def test_code_that_is_nowhere_written_proves_nothing() -> None:
    space: dict[str, Any] = {"Model": Model, "torch": torch}
    exec("class Typed(Model):\n    def forward(self, x):\n        return self.last(self.first(x))", space)
    assert not puts_out(space["Typed"](), "last")
