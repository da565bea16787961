"""A number that is given instead of another one, and meets a size that grew, is served or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(4, 6)
NUMBERS = (0.5, 1, 2, 3, 4, 5, 7, 10, 100, -1, 0, 0.25, 0.7, True, False)


class Layers(nn.Module):
    """What `k` and the number of channels multiply the channels by."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(6, 8), nn.Linear(8, 3)


class Remainder(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * (x.shape[1] % k + 1))  # type: ignore[no-any-return]


class Quotient(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        return self.head(x / abs(x.shape[1] // k) ** 0.5)  # type: ignore[no-any-return]


class Both(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        turns, rest = divmod(x.shape[1], k)
        return self.head(x * turns + rest)  # type: ignore[no-any-return]


class Rounded(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * round(x.shape[1] / k))  # type: ignore[no-any-return]


class AtMost(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * min(x.shape[1], k))  # type: ignore[no-any-return]


class Beyond(Layers):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * (x.shape[1] > k))  # type: ignore[no-any-return]


class Switch(Layers):
    def forward(self, x: Tensor, k: bool = True) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * (x.shape[1] * k + 1))  # type: ignore[no-any-return]


class Axis(Layers):
    def forward(self, x: Tensor, k: int = -1) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * x.shape[k] ** -0.5)  # type: ignore[no-any-return]


class Power(Layers):
    def forward(self, x: Tensor, k: float = 0.5) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * x.shape[1] ** -k)  # type: ignore[no-any-return]


class Asked(Layers):
    def forward(self, x: Tensor, k: int = 4) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * (1 + x.shape[1] % k) if k else x)  # type: ignore[no-any-return]


class Share(Layers):
    def forward(self, x: Tensor, k: float = 2.0) -> Tensor:
        x = self.read(x).relu()
        return self.head(x * (x.shape[1] / k))  # type: ignore[no-any-return]


def served(kind: type[nn.Module]) -> list[Any]:
    """The numbers that a grown model takes; it computes what it did with each of them."""
    model = lively(kind()).double()
    grown, takes = fxgrow.grow(model, 1.5, example_inputs=X), list[Any]()
    assert fxgrow.report(grown).plan.tensors
    for number in NUMBERS:
        try:
            before = model(X, number)
        except (ZeroDivisionError, IndexError, TypeError):
            continue
        try:
            torch.testing.assert_close(grown(X, number), before, rtol=EXACT, atol=EXACT, equal_nan=True)
        except SettledError:
            continue
        takes.append(number)
    return takes


@pytest.mark.parametrize("kind", [AtMost, Beyond, Both, Switch, Axis, Asked])
def test_a_number_with_which_something_scales_otherwise_is_refused(kind: type[nn.Module]) -> None:
    assert 1 <= len(served(kind)) < 9


@pytest.mark.parametrize("kind", [Remainder, Quotient, Rounded, Power, Share])
def test_any_number_is_taken_where_what_is_computed_from_it_can_be_as_before(kind: type[nn.Module]) -> None:
    assert len(served(kind)) >= len(NUMBERS) - 2  # without those by which nothing can be divided
