"""Forwards that call code which a compiler made: it is recorded as it was written, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.measure.verification import relative_error
from tests.models import lively

warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
ROWS = torch.randn(2, 5, 6, dtype=torch.float64)


@torch.compile(backend="eager")
def gated(x: Tensor, by: float) -> Tensor:
    return F.gelu(x) * torch.sigmoid(by * x)


@torch.compiler.disable
def plain(x: Tensor, by: float) -> Tensor:
    return F.gelu(x) * torch.sigmoid(by * x)


@torch.jit.script
def scripted(x: Tensor, by: float) -> Tensor:
    return F.gelu(x).mul_(torch.sigmoid(by * x))


class Between(nn.Module):
    """Calls a function between two layers."""

    def __init__(self, function: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = function

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x), 0.5))  # type: ignore[no-any-return]


class WithMethod(nn.Module):
    """A method of its own is compiled, and all of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    @torch.compile(backend="eager")
    def within(self, x: Tensor) -> Tensor:
        return F.gelu(self.enter(x))

    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.within(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("make", [*(lambda f=f: Between(f) for f in (gated, plain, scripted)), WithMethod])
def test_it_is_recorded_as_it_was_written(make: Callable[[], nn.Module], form: str) -> None:
    model = lively(make()).double()
    model(ROWS)  # what compiles when it runs has been compiled
    grown = fxgrow.grow(model, 2, example_inputs=ROWS, form=form)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert sum(p.numel() for p in grown.parameters()) > 1.8 * sum(p.numel() for p in model.parameters())
    assert relative_error(grown(ROWS), model(ROWS)) < 1e-10


def test_a_trace_is_no_code_and_is_refused() -> None:
    """It has the sizes for good that it was traced with."""
    traced: Any = torch.jit.trace(lambda x: x.reshape(2, 5, 2, x.shape[-1] // 2).sum(-1), torch.randn(2, 5, 8))

    def halves(x: Tensor, by: float) -> Tensor:
        return torch.cat(4 * [traced(x)], -1)  # type: ignore[no-any-return]

    with pytest.raises(FxgrowError):
        fxgrow.grow(lively(Between(halves)).double(), 2, example_inputs=ROWS)


def test_code_without_a_file_is_no_obstacle() -> None:
    """Compilers make functions whose global names are those of no file."""
    made: dict[str, Any] = {}
    exec("calls = 0\ndef twice(x, by):\n    return x + x", made)
    function = FunctionType(made["twice"].__code__, {key: item for key, item in made.items() if key != "__name__"})
    globals()["made_while_running"] = function
    try:
        model = lively(Between(function)).double()
        grown = fxgrow.grow(model, 2, example_inputs=ROWS)
        assert relative_error(grown(ROWS), model(ROWS)) < 1e-10
    finally:
        del globals()["made_while_running"]
