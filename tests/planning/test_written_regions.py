"""Blocks that write into a part of what they are given become identities by what they write, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def added(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    y[:, 1:] += write(y[:, 1:])
    return y


def assigned(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    y[:, 1:] = y[:, 1:] + write(y[:, :-1])
    return y


def by_method(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    y.transpose(0, 1)[1:].add_(write(y[:, 1:]).transpose(0, 1))
    return y


def on_a_copy(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    copied = y.clone()
    copied[:, 1:] = y[:, 1:] + write(y[:, 1:])
    return copied


def into_the_branch(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    branch = write(y)
    branch[:, 0] = write(y[:, 0])
    return y + branch


def into_what_a_layer_passes_on(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    branch = nn.functional.dropout(write(y), 0.1, False)  # which is the tensor itself
    branch += y
    return branch


def shifted(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    y[:, 1:] = y[:, :-1].clone() + write(y[:, 1:])
    return y


def zeroed(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    y[:, 0] = 0.0
    return y + write(y)


def input_into_the_branch(y: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    branch = write(y)
    branch[:, 0] = y[:, 0]
    return y + branch


class Block(nn.Module):
    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.way, self.write, self.into, self.out = way, nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, y: Tensor) -> Tensor:
        y = self.way(y, self.write)
        return y + self.out(self.into(y).relu())


def model_of(way: Callable[..., Tensor]) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Sequential(Block(way), Block(way)), nn.Linear(8, 5)).double()


@pytest.mark.parametrize("way", [added, assigned, by_method, on_a_copy, into_the_branch])
def test_what_is_written_starts_at_zero(way: Callable[..., Tensor]) -> None:
    model = model_of(way)
    grown: Any = fxgrow.grow(model, depth={"1": 2}, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.TESTED  # of storage that is written, little is proved
    assert len(grown[1]) == 4
    assert worst_error(model, grown, (X,), training=True) <= 1e-12
    assert not grown[1][1].write.weight.any() and not grown[1][1].out.weight.any()


def test_a_sum_may_be_written_into_what_a_layer_passes_on() -> None:
    model = model_of(into_what_a_layer_passes_on)
    grown: Any = fxgrow.grow(model, depth={"1": 2}, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert len(grown[1]) == 4 and not grown[1][1].write.weight.any()
    assert worst_error(model, grown, (X,), training=True) <= 1e-12


@pytest.mark.parametrize("way", [shifted, zeroed, input_into_the_branch])
def test_what_writes_something_else_is_no_identity(way: Callable[..., Tensor]) -> None:
    model = model_of(way)
    try:
        grown = fxgrow.grow(model, depth=2, example_inputs=X)
    except PlanError as error:
        assert "1.0: its blocks stay as many as they are" in str(error)
    else:  # by identities of single layers
        assert all("1.0" not in run.units for run in fxgrow.report(grown).plan.depth.runs)
        assert worst_error(model, grown, (X,), training=True) <= 1e-12
