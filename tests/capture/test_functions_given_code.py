"""Functions with a backward of their own that run code of the model: checkpointing as people write it, reversible nets.

Inside them, attention takes its heads into the batch (`b * self.heads`), as such models do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class CheckpointFunction(torch.autograd.Function):
    """Named as torch's own is, with other arguments."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], count: int, *args: Tensor) -> Any:
        ctx.run, ctx.inputs, ctx.parameters = run, list(args[:count]), list(args[count:])
        with torch.no_grad():
            return ctx.run(*ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = [x.detach().requires_grad_(True) for x in ctx.inputs]
        with torch.enable_grad():
            out = ctx.run(*[x.view_as(x) for x in inputs])
        return (None, None, *torch.autograd.grad([out], inputs + ctx.parameters, gradients, allow_unused=True))


class Attention(nn.Module):
    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.heads, self.checkpointed = 2, checkpointed
        self.qkv, self.out = nn.Conv1d(8, 24, 1), nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Any:
        if self.checkpointed:
            return CheckpointFunction.apply(self.attend, 1, x, *self.parameters())
        return self.attend(x)

    def attend(self, x: Tensor) -> Tensor:
        b, width, length = self.qkv(x).shape
        size = width // (3 * self.heads)
        q, k, v = self.qkv(x).reshape(b * self.heads, size * 3, length).split(size, dim=1)
        scale = 1 / math.sqrt(math.sqrt(size))
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), -1)
        return x + self.out(torch.einsum("bts,bcs->bct", weights, v).reshape(b, -1, length))  # type: ignore[no-any-return]


def network(checkpointed: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 8, 1), Attention(checkpointed), nn.Conv1d(8, 2, 1)).double()


@pytest.mark.parametrize("checkpointed", [True, False])
def test_attention_with_its_heads_in_the_batch_grows_in_its_own_class(checkpointed: bool) -> None:
    model = network(checkpointed)
    grown = fxgrow.grow(model, 1.5, example_inputs=X)
    assert grown[1].heads == 3 and grown[1].qkv.out_channels == 36
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert all(worst_error(model, grown, (X,), training) <= 1e-10 for training in (False, True))
    grown(X).sum().backward()
    assert all(parameter.grad is not None for parameter in grown.parameters())


def test_a_graph_says_that_it_cannot_keep_the_backward_pass() -> None:
    with pytest.raises(PlanError, match="a graph cannot keep the backward pass of CheckpointFunction"):
        fxgrow.grow(network(True), 1.5, example_inputs=X, form="graph")
