"""Models whose forward is an attribute: one of their methods, chosen where they are made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.own.edited import plain_kind
from fxgrow.proof.certificate import Verdict

DOUBLE = torch.float64


class Chosen(nn.Module):
    """Which of its methods runs is chosen by name; it has no method `forward`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem, self.inner = nn.Linear(6, 12, dtype=DOUBLE), nn.Linear(12, 12, dtype=DOUBLE)
        self.head = nn.Linear(12, 3, dtype=DOUBLE)
        self.forward: Callable[..., Tensor] = getattr(self, name)  # type: ignore[method-assign]

    def plain(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.stem(x)).tanh())  # type: ignore[no-any-return]

    def shaped(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.stem(x).view(-1, 12)).tanh())  # type: ignore[no-any-return]

    def stream(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return h + self.inner(h.relu())  # type: ignore[no-any-return]


class Pooled(Chosen):
    def pooled(self, x: Tensor, least: int = 12) -> Tensor:
        h = self.inner(self.stem(x)).relu()
        return self.head(h) if least > 9 else self.head(h) + h.mean()  # type: ignore[no-any-return]


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.out = inner, nn.Linear(3, 2, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x))  # type: ignore[no-any-return]


def negated(model: Any, x: Tensor) -> Tensor:
    return -model.head(model.stem(x).relu())  # type: ignore[no-any-return]


def same(grown: nn.Module, model: nn.Module, *arguments: Any) -> None:
    torch.testing.assert_close(grown(*arguments), model(*arguments), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "within"), [("plain", False), ("shaped", False), ("stream", False), ("plain", True), ("shaped", True)]
)
def test_the_chosen_method_grows_in_the_class_of_the_model(name: str, within: bool) -> None:
    model = Around(Chosen(name)) if within else Chosen(name)
    x = torch.randn(4, 6, dtype=DOUBLE)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert plain_kind(grown) is type(model)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for twin in (grown, copy.deepcopy(grown), pickle.loads(pickle.dumps(grown))):
        same(twin, model, x)
        part: Any = twin.inner if isinstance(twin, Around) else twin
        assert part.forward.__self__ is part


def test_what_the_method_does_with_other_arguments_grows_as_well() -> None:
    model = Pooled("pooled")
    x = torch.randn(4, 6, dtype=DOUBLE)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    same(grown, model, x)
    same(grown, model, x, 3)


def test_a_forward_that_was_put_there_is_what_grows() -> None:
    model = Chosen("plain")
    model.forward = negated.__get__(model)  # type: ignore[method-assign]
    x = torch.randn(4, 6, dtype=DOUBLE)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert plain_kind(grown) is Chosen
    same(grown, model, x)


def test_a_forward_that_no_class_can_have_comes_back_as_a_graph() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 12, dtype=DOUBLE), nn.Linear(12, 3, dtype=DOUBLE)
            self.forward = lambda x: self.head(self.stem(x).relu())

    model, x = Closed(), torch.randn(4, 6, dtype=DOUBLE)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    same(grown, model, x)
    obstacle = fxgrow.report(grown).plan.obstacle
    assert obstacle is not None
    assert "a function that it holds" in obstacle.what
