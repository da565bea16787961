"""A number computed from a size that grows and from what a call is given is what it was, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal
from tests.models import lively

X = normal(2, 3, 8, 8)


class Scaled(nn.Module):
    """Features that are multiplied by a number: of samples, of units, of rows, and of an argument."""

    def __init__(self, number: Callable[[int, int, int, int], float]) -> None:
        super().__init__()
        self.read, self.inner = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head, self.number = nn.Linear(8, 4), number

    def forward(self, x: Tensor, k: int = 4) -> Tensor:
        x = self.read(x).relu()
        x = x * self.number(x.shape[0], x.shape[1], x.shape[2], k)
        return self.head(self.inner(x).mean((2, 3)))  # type: ignore[no-any-return]


OF_ONE_CALL: list[Callable[[int, int, int, int], float]] = [
    lambda b, c, h, k: 1 / (b * c + 1),
    lambda b, c, h, k: b // c + 1,
    lambda b, c, h, k: c // b,
    lambda b, c, h, k: c % (b + 1) + 0.5,
    lambda b, c, h, k: h // c + h * c + 1,
    lambda b, c, h, k: c % k + 1,
    lambda b, c, h, k: -(-c // k) + b,
    lambda b, c, h, k: c**0.5 + k,
]
OF_ANY_CALL: list[Callable[[int, int, int, int], float]] = [
    lambda b, c, h, k: 1 / (b * c),
    lambda b, c, h, k: (b * c * h) ** -0.5,
    lambda b, c, h, k: (b * c + c) / c + h,
    lambda b, c, h, k: c // 4 + 1,
]
CALLS = [(n, size, k) for n in (1, 2, 3, 7, 13) for size, k in ((8, 4), (5, 3), (14, 7))]


def assert_same_in_every_call(grown: nn.Module, model: nn.Module, k: bool = True) -> int:
    """How many calls are not refused, in all of which both compute the same."""
    taken = 0
    for samples, size, number in CALLS:
        x = normal(samples, 3, size, size)
        try:
            output = grown(x, number) if k else grown(x)
        except SettledError:
            continue
        torch.testing.assert_close(output, model(x, number) if k else model(x), rtol=EXACT, atol=EXACT)
        taken += 1
    return taken


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize("number", [*OF_ONE_CALL, *OF_ANY_CALL], ids=lambda number: "")
def test_every_other_call_computes_what_it_did(number: Any, form: str) -> None:
    model = lively(Scaled(number)).double()
    grown = fxgrow.grow(model, {"read": 2}, example_inputs=(X, 4), form=form)
    plan = fxgrow.report(grown).plan
    assert (plan.form, any(edit.kind == "as_before" for edit in plan.nodes)) == ("graph", number in OF_ONE_CALL) or (
        number in OF_ANY_CALL and plan.form == form.replace("auto", "module")
    )
    assert assert_same_in_every_call(grown, model) == len(CALLS)
    again = fxgrow.grow(grown, {"read": 1.5}, example_inputs=(X, 4))
    assert assert_same_in_every_call(again, model) == len(CALLS)
    assert str(fxgrow.certify(again, model).verdict) == "PROVED"


def test_what_the_class_cannot_compute_stays_where_a_class_is_asked_for() -> None:
    model = Scaled(OF_ONE_CALL[0])
    planned = fxgrow.plan(model, {"read": 2, "inner": 2}, example_inputs=(X.float(), 4), form="module")
    assert {growth.name.partition(".")[0] for growth in planned.tensors} == {"inner", "head"}


SELECTED: list[Callable[[int, int, int, int], float]] = [
    lambda b, c, h, k: max(b, c),
    lambda b, c, h, k: min(b * 4, c),
    lambda b, c, h, k: min(h, c),
    lambda b, c, h, k: 2 if c >= b else 3,
]


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize("number", SELECTED, ids=lambda number: "")
def test_a_call_in_which_a_size_is_more_than_one_that_grows_is_refused(number: Any, form: str) -> None:
    model = lively(Scaled(number)).double()
    grown = fxgrow.grow(model, {"read": 2}, example_inputs=(X,), form=form)
    assert 3 <= assert_same_in_every_call(grown, model, k=False) < len(CALLS)


class Along(nn.Module):
    """What an op does along an axis that a call names."""

    def __init__(self, op: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.read, self.inner, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 4)
        self.op = op

    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        return self.head(self.inner(self.op(self.read(x), k)).mean((2, 3)))  # type: ignore[no-any-return]


ALONG: list[Callable[[Tensor, int], Tensor]] = [
    lambda x, k: x.softmax(k),
    lambda x, k: x - x.mean(k, keepdim=True),
    lambda x, k: x.roll(1, k),
    lambda x, k: nn.functional.normalize(x, dim=k),
]
BY_A_NUMBER: list[Callable[[Tensor, int], Tensor]] = [
    lambda x, k: x.roll(k, 2),
    lambda x, k: x * k,
    lambda x, k: nn.functional.interpolate(x, size=k + 3),
]


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize("op", [*ALONG, *BY_A_NUMBER], ids=lambda op: "")
def test_another_axis_than_the_one_for_which_units_grew_is_refused(op: Any, form: str) -> None:
    model, refused = lively(Along(op)).double(), 0
    grown = fxgrow.grow(model, {"read": 2}, example_inputs=(X, 2), form=form)
    for number in (1, 2, 3, -1, -2, -3):
        try:
            output = grown(X, number)
        except SettledError:
            refused += 1
        except RuntimeError:
            assert op in BY_A_NUMBER  # the model does not take it either
        else:
            torch.testing.assert_close(output, model(X, number), rtol=EXACT, atol=EXACT)
    assert refused == 0 if op in BY_A_NUMBER else refused > 0 or form == "auto"
