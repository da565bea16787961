"""Forwards that catch errors: those of calls that fail are theirs; what is refused is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import UntraceableError

X = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.other = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(11, 3)


class FailingView(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        try:
            return self.leave(x.view(7, -1))
        except RuntimeError:
            return self.leave(x.relu())


class FailingLayer(Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        try:
            return self.other(x)
        except RuntimeError:
            return self.leave(x)


class NoMapping(Layers):
    def forward(self, x: Any) -> Tensor:
        try:
            x = x["image"]
        except (IndexError, TypeError):
            x = x + 0
        return self.leave(self.enter(x).relu())


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("kind", [FailingView, FailingLayer, NoMapping])
def test_what_a_forward_catches_is_what_was_raised(kind: type[Layers], form: str) -> None:
    model = kind().double()
    grown = fxgrow.grow(model, {"enter": 2.0}, example_inputs=X, form=form)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)


class Part(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x.relu()


class CatchesAll(Layers):
    """Would go on without what could not be recorded."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.part = how, Part()

    def asks(self, x: Tensor) -> Tensor:
        if self.how == "number":
            return x * float(x.mean())
        if self.how == "course":
            return x if x.mean() > 0 else x.relu()
        return self.part(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        try:
            x = self.asks(x)
        except:  # noqa: E722
            x = x.tanh()
        return self.leave(x)


@pytest.mark.parametrize("how", ["number", "course", "part"])
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_what_is_refused_is_refused_whatever_the_forward_makes_of_it(how: str, form: str) -> None:
    with pytest.raises(UntraceableError):
        fxgrow.grow(CatchesAll(how).double(), 2, example_inputs=X, form=form)


def test_names_that_python_keeps_for_itself() -> None:
    model = nn.Sequential()
    model.add_module("class", nn.Linear(6, 8))
    model.add_module("is", nn.ReLU())
    model.add_module("0", nn.Linear(8, 3))
    model.double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form="graph")
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
