"""Which attribute follows where a number is computed from several: the one that is a size elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict


class Video(nn.Module):
    """Patches, of a size that is an attribute, counted by it; one mask for each patch and head."""

    def __init__(self, heads_first: bool, positions: bool) -> None:
        super().__init__()
        self.heads, self.patch, self.heads_first, self.positions = 2, 8, heads_first, positions
        self.embed, self.qkv, self.out, self.head = (nn.Linear(*s) for s in ((192, 16), (16, 48), (16, 16), (16, 3)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        heads, p = self.heads, self.patch
        rows, columns = height // p, width // p
        n = rows * columns
        x = x.reshape(batch, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        x = self.embed(x.reshape(batch, n, p * p * channels))
        q, k, v = (t.reshape(batch, n, heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        together = heads * n if self.heads_first else n * heads
        mask = mask[:, None, None].expand(batch, heads, n, n).reshape(batch, together, n)
        scores = (q @ k.transpose(2, 3)).flatten(1, 2).masked_fill(~mask, -1e9)
        if self.positions:
            scores = scores + torch.linspace(0, 1, rows, dtype=x.dtype).mean()
        attended = scores.reshape(batch, heads, n, n).softmax(-1) @ v
        return self.head((x + self.out(attended.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("heads_first", [False, True])
def test_a_number_of_patches_and_heads_has_more_heads(heads_first: bool, positions: bool) -> None:
    torch.manual_seed(0)
    model, x = Video(heads_first, positions).double(), torch.randn(2, 3, 16, 16).double()
    mask = torch.tensor([[True, True, False, True], [True, False, True, True]])
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=(x, mask))
    assert type(grown) is Video and (grown.heads, grown.patch) == (3, 8)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(x, mask), model(x, mask), rtol=0, atol=1e-12)
