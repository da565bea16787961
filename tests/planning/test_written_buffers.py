"""Buffers that a forward writes to before it reads them, as attention with a cache of keys and values does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PLACES = torch.arange(3)


class Cached(nn.Module):
    """What is read is the cache alone, whose new entries are zero until the forward writes to it."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.enter, self.leave, self.written = nn.Linear(8, 6), nn.Linear(6, 2), written
        self.register_buffer("cache", torch.zeros(2, 4, 6))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        made = self.enter(x)
        if self.written == "by index":
            self.cache[:, places] = made
        elif self.written == "by slice":
            self.cache[:, :3] = made
        elif self.written == "by name":
            self.cache[:, :3].copy_(made)
        else:
            self.cache.mul_(0.5).add_(made.mean(1, keepdim=True))
        return self.leave(torch.relu(self.cache))  # type: ignore[no-any-return]


@pytest.mark.parametrize("written", ["by index", "by slice", "by name", "averaged"])
def test_what_is_written_is_what_new_units_are(written: str) -> None:
    model = Cached(written).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=(X, PLACES))
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert grown.enter.out_features == 9
    assert all(worst_error(model, grown, (X, PLACES), training=mode) < 1e-12 for mode in (False, True))
    before, after = (each(X, PLACES) + each(X.flip(0), PLACES.flip(0)) for each in (model, grown))
    torch.testing.assert_close(after, before)
    assert bool(grown.enter.weight[6:].any(dim=1).all()), "new units are made at random"
