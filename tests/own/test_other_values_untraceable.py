"""Other values of an argument with which no graph holds the forward are refused; others beside them are served."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal

X = normal(2, 4)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def by_chance(self, x: Tensor) -> bool:
        return bool(x.sum() > -1e9)

    def forward(self, x: Tensor, turned: bool = False, doubled: bool = False) -> Tensor:
        x = self.read(x)
        if turned and self.by_chance(x):
            x = x.flip(-1)
        return self.head(x * 2 if doubled else x)  # type: ignore[no-any-return]


class ByNumpy(Turned):
    def by_chance(self, x: Tensor) -> bool:
        return bool(x.detach().numpy().sum() > -1e9)


class ByPython(Turned):
    def by_chance(self, x: Tensor) -> bool:
        return random.random() < 2


@pytest.mark.parametrize("kind", [Turned, ByNumpy, ByPython])
def test_a_value_with_which_no_graph_holds_the_forward_is_refused(kind: type[Turned]) -> None:
    model, before = kind().double(), random.getstate()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert random.getstate() == before
    with pytest.raises(SettledError, match=r"turned is True, .*: with turned=True nothing can be said"):
        grown(X, turned=True)
    torch.testing.assert_close(grown(X, doubled=True), model(X, doubled=True), rtol=EXACT, atol=EXACT)


def test_a_value_that_the_model_does_not_take_fails_by_itself() -> None:
    class Untaken(Turned):
        def by_chance(self, x: Tensor) -> bool:
            raise NotImplementedError("not yet")

    grown = fxgrow.grow(Untaken().double(), width=2, example_inputs=X)
    with pytest.raises(NotImplementedError, match="not yet"):
        grown(X, turned=True)
