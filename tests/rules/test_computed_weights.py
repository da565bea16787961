"""Weights that are computed from others read new units with zeros where the computation keeps zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

import fxgrow
from fxgrow.measure.liveness import unmoved
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class MaxNorm(nn.Module):
    """Each column is scaled to a norm of at most two."""

    def forward(self, weight: Tensor) -> Tensor:
        norm = weight.norm(2, dim=0, keepdim=True).clamp(min=1.0)
        return weight * (norm.clamp(max=2.0) / (norm + 1e-5))


class Renormed(nn.Module):
    """Each row is scaled to a norm of at most one."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.renorm(p=2, dim=0, maxnorm=1.0)


def last_step(h: Tensor) -> Tensor:
    return h.permute(0, 2, 1)[:, -1, :]


def mean(h: Tensor) -> Tensor:
    return h.mean(2)


class Read(nn.Module):
    def __init__(self, kind: type[nn.Module], taken: Callable[[Tensor], Tensor], large: bool) -> None:
        super().__init__()
        self.taken, self.makes, self.reads = taken, nn.Conv1d(4, 8, 1), nn.Linear(8, 4)
        register_parametrization(self.reads, "weight", kind())
        if large:
            with torch.no_grad():
                self.reads.parametrizations.weight.original.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        return self.reads(self.taken(self.makes(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("taken", [last_step, mean])
@pytest.mark.parametrize("kind", [MaxNorm, Renormed])
def test_zeros_stay_zeros(kind: type[nn.Module], taken: Callable[[Tensor], Tensor], large: bool) -> None:
    torch.manual_seed(0)
    model = Read(kind, taken, large).double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert not grown.reads.parametrizations.weight.original[:, 8:].any() and grown.makes.weight[8:].all()
    assert max(worst_error(model, grown, (X,), mode) for mode in (False, True)) <= 1e-14
    assert unmoved(grown, (X,)) == []
