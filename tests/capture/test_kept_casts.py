"""Tensors that a forward casts to the type and place of its inputs and keeps: the next call does the same again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Centred(nn.Module):
    """`cast` is applied to the mean at each call; `by_size`: whether another size takes another course."""

    def __init__(self, cast: Callable[[Tensor, Tensor], Tensor], by_size: bool = False) -> None:
        super().__init__()
        self.enter, self.leave, self.cast, self.by_size = nn.Linear(6, 8), nn.Linear(8, 3), cast, by_size
        self.mean = torch.linspace(-1, 1, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.cast(self.mean, x)
        h = torch.relu(self.enter(x - self.mean))
        if self.by_size and x.shape[1] != 5:
            h = h.flip(1)
        return self.leave(h)  # type: ignore[no-any-return]


CASTS = {
    "type_as": lambda mean, x: mean.type_as(x),
    "to a tensor": lambda mean, x: mean.to(x),
    "to a device": lambda mean, x: mean.to(x.device),
    "both": lambda mean, x: mean.to(dtype=x.dtype, device=x.device),
}


@pytest.mark.parametrize("kind", CASTS)
@pytest.mark.parametrize("by_size", [False, True])
def test_a_cast_that_is_kept_is_proved(kind: str, by_size: bool) -> None:
    model = Centred(CASTS[kind], by_size)
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Centred)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for x in (X, X[:, :4], X):
        torch.testing.assert_close(grown(x), model(x))
    graph = fxgrow.grow(Centred(CASTS[kind]), 2, example_inputs=X, form="graph")
    torch.testing.assert_close(graph(X).shape, model(X).shape)


class Masked(nn.Module):
    """As in CLIP: blocks share a mask, cast each to the type that a weight has."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.full((5, 5), float("-inf")).triu_(1)
        self.enter, self.blocks = nn.Linear(6, 8), nn.ModuleList(Block(mask) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).type(self.enter.weight.dtype)
        for block in self.blocks:
            h = block(h)
        return h.mean(-1)


class Block(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.attend, self.mask = nn.MultiheadAttention(8, 2, batch_first=True), mask

    def forward(self, x: Tensor) -> Tensor:
        self.mask = self.mask.to(dtype=x.dtype, device=x.device)
        return x + self.attend(x, x, x, need_weights=False, attn_mask=self.mask)[0]  # type: ignore[no-any-return]


def test_a_mask_that_blocks_share_and_cast() -> None:
    torch.manual_seed(0)
    model = Masked()
    grown = fxgrow.grow(model, 1.5, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert all(worst_error(model, grown, (X,), training) <= 1e-5 for training in (False, True))
