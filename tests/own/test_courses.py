"""Courses that a forward takes by what is around it: precision, autocast, gradients. The own class holds for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError, SettledError

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Asking(nn.Module):
    """Takes another course by a question about what is around it, perhaps with a mean over its units."""

    def __init__(self, asks: Callable[[Tensor], bool], mixing: bool) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.asks, self.mixing = asks, mixing

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        if self.asks(h):
            return self.leave(self.inner(h).tanh())  # type: ignore[no-any-return]
        return self.leave(h - h.mean(-1, keepdim=True) if self.mixing else 2 * h)  # type: ignore[no-any-return]


AROUND: list[tuple[Callable[[Tensor], bool], Callable[[], AbstractContextManager[object]], torch.dtype]] = [
    (lambda h: h.dtype == torch.float32, nullcontext, torch.float64),
    (lambda h: torch.finfo(h.dtype).bits < 64, nullcontext, torch.float64),
    (lambda h: h.element_size() == 4, nullcontext, torch.float64),
    (lambda h: torch.is_grad_enabled(), torch.no_grad, torch.float32),
    (lambda h: h.requires_grad, torch.no_grad, torch.float32),
    (lambda h: not torch.is_inference_mode_enabled(), torch.inference_mode, torch.float32),
]


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("number", range(len(AROUND)))
def test_what_is_around_a_forward_is_looked_at(number: int, mixing: bool) -> None:
    asks, around, dtype = AROUND[number]
    torch.manual_seed(0)
    model = Asking(asks, mixing)
    try:
        grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    except FxgrowError as error:
        assert mixing and "takes another course" in str(error)
        return
    assert mixing or type(grown) is Asking
    model, grown, x = model.to(dtype), grown.to(dtype), X.to(dtype)
    with around():
        try:
            after = grown(x)
        except SettledError:
            assert mixing
            return
        torch.testing.assert_close(after, model(x), rtol=1e-5, atol=1e-6)
