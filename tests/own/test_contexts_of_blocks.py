"""Loops that enter a context for each block: a new block has its own, in the graph as in the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxgrow.transforms.contexts import contexts_around
from torch import Tensor, nn

import fxgrow
from fxgrow.capture.gradients import enter_grad, leave_grad
from fxgrow.proof.certificate import Verdict

X = torch.randn(3, 6, dtype=torch.float64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(10), nn.Linear(10, 14), nn.Linear(14, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(self.norm(x)).relu())  # type: ignore[no-any-return]


class Looped(nn.Module):
    def __init__(self, loop: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 10), nn.Linear(10, 2)
        self.blocks, self.loop = nn.ModuleList(Block() for _ in range(3)), loop

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.loop(self.blocks, self.enter(x)))  # type: ignore[no-any-return]


def without_gradients(blocks: Any, h: Tensor) -> Tensor:
    for block in blocks:
        with torch.no_grad():
            h = block(h)
    return h


def uncast(blocks: Any, h: Tensor) -> Tensor:
    for block in blocks:
        with torch.autocast("cpu", enabled=False):
            h = block(h)
    return h


def both(blocks: Any, h: Tensor) -> Tensor:
    for block in blocks:
        with torch.set_grad_enabled(False), torch.autocast("cpu", enabled=False):
            h = block(h)
    return h


def one_in_another(blocks: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        for block in blocks:
            with torch.autocast("cpu", enabled=False):
                h = block(h)
    return h


def around_all(blocks: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        for block in blocks:
            h = block(h)
    return h


@pytest.mark.parametrize("loop", [without_gradients, uncast, both, one_in_another, around_all])
@pytest.mark.parametrize("width", [None, 2.0])
def test_the_class_holds_more_blocks_each_in_its_context(
    loop: Callable[[Any, Tensor], Tensor], width: float | None
) -> None:
    model = Looped(loop).double()
    grown: Any = fxgrow.grow(model, width, depth=2, example_inputs=X)
    assert (type(grown), len(grown.blocks)) == (Looped, 6)
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None
    assert certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)


def test_a_graph_computes_new_blocks_in_contexts_of_their_own() -> None:
    model = Looped(without_gradients).double()
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=X, form="graph")
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    called = [node.target.__name__ for node in grown.graph.nodes if node.op == "call_function"]
    assert [called.count(name) for name in ("enter_grad", "leave_grad")] == [6, 6]
    grown(X).sum().backward()
    assert all(parameter.grad is None for parameter in grown.blocks.parameters())
    assert grown.leave.weight.grad is not None


@pytest.mark.parametrize(("turns", "found"), [(1, 0), (2, 1)])
def test_a_context_around_one_block_may_be_one_around_a_loop(turns: int, found: int) -> None:
    graph = torch.fx.Graph()
    h = graph.placeholder("x")
    for _ in range(turns):
        enters = graph.call_function(enter_grad, (False,))
        h = graph.call_function(torch.relu, (h,))
        graph.call_function(leave_grad, (enters,))
    graph.output(h)
    assert len(contexts_around([h])) == found
