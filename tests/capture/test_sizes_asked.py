"""Courses that a forward takes by the size of its input: those on the other side of what it asks are looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError

X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class BySize(nn.Module):
    """Has a mean over units on one side of a question about the length of its input."""

    def __init__(self, asks: Callable[[int], bool]) -> None:
        super().__init__()
        self.enter, self.leave, self.asks = nn.Linear(6, 8), nn.Linear(8, 3), asks

    def forward(self, x: Tensor) -> Tensor:
        length, x = x.shape[1], self.enter(x)
        return self.leave(x.relu() if self.asks(length) else x - x.mean(-1, keepdim=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("asks", "length"), [(lambda n: n > 2, 2), (lambda n: n < 100, 128), (lambda n: n != 3, 3)])
def test_a_course_beyond_a_bound_is_served_or_refused_by_name(asks: Callable[[int], bool], length: int) -> None:
    torch.manual_seed(0)
    model = BySize(asks).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    other = torch.randn(2, length, 6, dtype=torch.float64)
    try:
        assert torch.allclose(grown(other), model(other), rtol=0, atol=1e-12)
    except SettledError as refusal:
        assert f"x has {length} entries along axis 1" in str(refusal)
