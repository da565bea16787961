"""Other threads while a forward is recorded: they run as ever, and nothing of theirs is recorded."""

from __future__ import annotations

import queue
import threading

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrow


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return 2 * gradient * ctx.saved_tensors[0]


class Beside(nn.Module):
    """Its forward waits until another thread has run a model of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        return self.leave(self.enter(x).relu())


LAYER = nn.Linear(3, 1, bias=False).eval()
nn.init.ones_(LAYER.weight)
SERVED: queue.SimpleQueue[tuple[torch.dtype, list[float]]] = queue.SimpleQueue()  # no list: growth puts it back


def serve() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = LAYER(x)
    with torch.inference_mode():
        LAYER(x)
    Square.apply(checkpoint(LAYER, x, use_reentrant=False)).sum().backward()
    assert x.grad is not None
    SERVED.put((low.dtype, x.grad.flatten().tolist()))


def test_what_another_thread_runs_is_its_own() -> None:
    model, x = Beside().double(), torch.randn(2, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x, form="graph")
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    names = [str(node.target) for node in grown.graph.nodes]  # type: ignore[union-attr]
    assert names == ["x", "enter", "relu", "leave", "output"]
    assert not SERVED.empty()
    while not SERVED.empty():
        assert SERVED.get() == (torch.bfloat16, [12.0, 12.0, 12.0])


def test_several_threads_grow_at_once() -> None:
    models = [nn.Sequential(nn.Linear(4, size), nn.LayerNorm(size), nn.Linear(size, 2)).double() for size in (4, 6, 8)]
    x = torch.randn(2, 4, dtype=torch.float64)
    grown: dict[int, nn.Module] = {}

    def grow(number: int) -> None:
        grown[number] = fxgrow.grow(models[number], 2, example_inputs=x)

    threads = [threading.Thread(target=grow, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, model in enumerate(models):
        assert str(fxgrow.report(grown[number]).certificate.verdict) == "PROVED"
        torch.testing.assert_close(grown[number](x), model(x), rtol=1e-10, atol=1e-10)
