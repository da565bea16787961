"""Products that have one dimension on two axes: zero along one is not zero along the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.measure.liveness import unmoved
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bde,bnd->bne", torch.einsum("bnd,bne->bde", k, v), q)


def context_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (v.transpose(1, 2) @ k @ q.transpose(1, 2)).transpose(1, 2)


def by_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ (k.transpose(1, 2) @ v)


def by_broadcasting(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    context = (k.unsqueeze(-1) * v.unsqueeze(-2)).mean(1)
    return q @ context


def of_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    context = (k.unsqueeze(-1) + v.unsqueeze(-2)).mean(1)
    return q @ context


class Linear(nn.Module):
    """Attention that sums keys times values first; all three are rows of one weight."""

    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.way, self.qkv, self.out = way, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return self.out(self.way(*self.qkv(x).reshape(batch, length, 3, -1).unbind(2)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", [by_einsum, context_first, by_matmul, by_broadcasting, of_sums])
def test_linear_attention_grows_along_both_axes(way: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), Linear(way), nn.Linear(8, 3)).double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown[1].qkv.out_features == 36
    assert max(worst_error(model, grown, (X,), mode) for mode in (False, True)) <= 1e-12
    assert unmoved(grown, (X,)) == []
