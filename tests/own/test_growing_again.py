"""Copies of the own class that grow again: what they compute otherwise already follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.guarded_norms import GuardedLayerNorm


class Merged(nn.Module):
    """Attention whose result is as wide as its input, and pairs of tokens that a norm reads together (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mix, self.out = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.leave = nn.LayerNorm(16), nn.Linear(16, 2)

    def attended(self, x: Tensor) -> Tensor:
        batch, tokens, units = x.shape
        q, k, v = self.mix(x).reshape(batch, tokens, 3, 2, units // 2).permute(2, 0, 3, 1, 4)
        h = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(h.transpose(1, 2).reshape(batch, tokens, units))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h = h + self.attended(h)
        return self.leave(self.norm(torch.cat([h[:, 0::2], h[:, 1::2]], -1)))  # type: ignore[no-any-return]


def test_a_norm_over_several_ranges_of_old_units_follows_beside_other_numbers() -> None:
    torch.manual_seed(0)
    model, x = Merged().double(), torch.randn(2, 6, 4, dtype=torch.float64)
    grown: Any = model
    for _ in range(2):
        grown = fxgrow.grow(grown, 1.25, example_inputs=x)
    assert isinstance(grown, Merged) and isinstance(grown.norm, GuardedLayerNorm)
    assert type(grown.norm) is GuardedLayerNorm and grown.norm.core == ((0, 8), (13, 21))
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        spectral_norm = nn.utils.parametrizations.spectral_norm
        self.enter, self.label = spectral_norm(nn.Linear(6, 8)), spectral_norm(nn.Embedding(5, 8))
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.enter(x).relu()
        return self.leave(h if y is None else h + self.label(y))  # type: ignore[no-any-return]


def test_arguments_that_were_none_are_tried_again_where_norms_count_old_units() -> None:
    torch.manual_seed(0)
    model, x, y = Labelled().double().eval(), torch.randn(3, 6).double(), torch.tensor([0, 4, 2])
    grown = fxgrow.grow(fxgrow.grow(model, 1.5, example_inputs=x), 1.5, example_inputs=x)
    torch.testing.assert_close(grown(x, y), model(x, y), rtol=1e-12, atol=1e-12)
