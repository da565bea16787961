"""Which attribute follows where a number is computed from several: the one that is a size elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
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


class GivingAway(nn.Module):
    """Gives the parameters of its layers to functions, and calls no layer but the first and the last."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.enter, self.conv = nn.Linear(3, 8), nn.Conv1d(8, 8, 3, groups=groups)
        self.wide, self.leave = nn.Linear(8, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).transpose(1, 2)
        x = nn.functional.conv1d(x, self.conv.weight, self.conv.bias, groups=self.conv.groups).transpose(1, 2)
        return self.leave(nn.functional.linear(x.relu(), self.wide.weight, self.wide.bias))  # type: ignore[no-any-return]


@pytest.mark.parametrize("groups", [1, 2])
def test_layers_whose_parameters_functions_are_given_say_their_sizes(groups: int) -> None:
    grown: Any = fxgrow.grow(GivingAway(groups), width=1.5, example_inputs=torch.randn(2, 5, 3))
    assert type(grown) is GivingAway
    assert (grown.conv.in_channels, grown.conv.out_channels) == (12, 12)
    assert grown.conv.weight.shape == (12, 12 // grown.conv.groups, 3)
    assert (grown.wide.in_features, grown.wide.out_features) == (12, 36)


def test_layers_in_the_attention_of_torchvisions_swin_say_their_sizes() -> None:
    model = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 4], [4, 4], num_classes=5)
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=torch.randn(2, 3, 32, 32), verify=False)
    for layer in (grown.features[1][0].attn.qkv, grown.features[1][0].attn.proj):
        assert (layer.out_features, layer.in_features) == layer.weight.shape
    assert grown.features[1][0].attn.qkv.weight.shape == (72, 24)
