"""Code that may do more than compute is not run with other numbers: these are refused where units hang on them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(2, 3, 8, 8)
SEEN: dict[str, int] = {}


def tell() -> None:
    """Do more than compute."""
    SEEN.setdefault("calls", os.getpid())


class Acting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def changed(self, x: Tensor, k: int) -> Tensor:
        return x * k

    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        tell()
        x = self.changed(self.read(x).relu(), k)
        return self.head(self.inner(x).mean((2, 3)))  # type: ignore[no-any-return]


class Cut(Acting):
    def changed(self, x: Tensor, k: int) -> Tensor:
        return torch.cat([x[:, :k] * 2, x[:, k:]], 1)


class Along(Acting):
    def changed(self, x: Tensor, k: int) -> Tensor:
        return x.softmax(k)


class Turns(Acting):
    def changed(self, x: Tensor, k: int) -> Tensor:
        for _ in range(k):
            x = x * 0.5 + x.mean(1, keepdim=True)
        return x


class Groups(Acting):
    def changed(self, x: Tensor, k: int) -> Tensor:
        x = x.unflatten(1, (k, -1))
        return (x - x.mean(1, keepdim=True)).flatten(1, 2)


class Pooled(Acting):
    def changed(self, x: Tensor, k: int) -> Tensor:
        return nn.functional.interpolate(x, size=k + 3)


class Divided(Cut):
    """It does no more than compute."""

    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        turns, _ = divmod(9, 4)
        x = self.read(x).relu().roll(k, 2) * turns
        return self.head(self.inner(x).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Acting, Cut, Along, Turns, Groups, Pooled, Divided])
def test_another_number_computes_what_it_did_or_is_refused(kind: type[nn.Module]) -> None:
    model = lively(kind()).double()
    grown: Any = fxgrow.grow(model, {"read": 1.5}, example_inputs=(X, 2))
    taken = 0
    for number in (1, 2, 3, 4, 8, -1):
        try:
            before = model(X, number)
        except (IndexError, RuntimeError):
            continue
        try:
            torch.testing.assert_close(grown(X, number), before, rtol=EXACT, atol=EXACT)
        except SettledError as error:
            assert "may do more than compute" in str(error)
        else:
            taken += 1
    assert fxgrow.report(grown).plan.form == "module"
    assert taken == 1 if kind in (Cut, Along, Turns, Groups) else taken >= 5


class Shifted(Acting):
    """Adds what it is given to the units, if it is given anything."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:  # type: ignore[override]
        tell()
        x = self.read(x).relu()
        if shift is not None:
            x = x + shift
        return self.head(self.inner(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_tensor_in_place_of_none_is_refused_where_code_may_act() -> None:
    model = lively(Shifted().double())
    grown = fxgrow.grow(model, 1.5, example_inputs=X)
    assert float((grown(X) - model(X)).abs().max()) < EXACT
    with pytest.raises(SettledError, match="shift is a tensor, for which the model did not grow"):
        grown(X, normal(2, 8, 1, 1))
