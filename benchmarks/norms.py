"""What a norm over old units costs beside torch's over all units: python -m benchmarks.norms [--compile]

Both are run in turn, many times over, in one run, on one thread; a row shows the least CPU time of each, forward and
forward with backward, in milliseconds. Inputs are contiguous, or images whose channels are moved last, as in ConvNeXt.
With --compile all of them run under torch.compile, which needs a C++ compiler.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fxgrow import guards

SIZES = ((4, 56, 40), (4, 14, 160), (4, 14, 192), (8, 14, 384))
"""Samples, side and old units of what is normalised; as many units are new."""

ROUNDS = 40
EPS = 1e-6


def milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def least(works: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> list[tuple[float, float]]:
    """The least time of each norm: forward, and with backward."""
    x, gradient = x.detach().requires_grad_(), torch.randn(x.shape)
    taken: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for times, work in zip(taken, works, strict=True):
            with torch.no_grad():
                forward = milliseconds(functools.partial(work, x))
            times.append((forward, milliseconds(functools.partial(_step, work, x, gradient))))
    return [(min(time for time, _ in times), min(time for _, time in times)) for times in taken]


def _step(work: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> None:
    work(x).backward(gradient)


def norms(old: int) -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Norms of twice as many units: over the old ones, and over all."""
    shape, core = (2 * old,), ((0, old),)
    weight, bias = (torch.randn(shape, requires_grad=True) for _ in range(2))
    return {
        "LayerNorm": (
            lambda x: guards.layer_norm(x, shape, weight, bias, EPS, core),
            lambda x: F.layer_norm(x, shape, weight, bias, EPS),
        ),
        "RMSNorm": (
            lambda x: guards.rms_norm(x, shape, weight, EPS, core),
            lambda x: F.rms_norm(x, shape, weight, EPS),
        ),
    }


def main(compiled: bool) -> None:
    torch.set_num_threads(1)
    how = ", compiled" if compiled else ""
    table = Table(title=f"norms over half of the units, beside torch's over all: ms of CPU time{how}")
    for heading in ("norm", "input", "layout", "forward", "torch's", "with backward", "torch's", "ratio"):
        table.add_column(heading, justify="left" if heading in ("norm", "layout") else "right")
    for samples, side, old in SIZES:
        images = torch.randn(samples, 2 * old, side, side).movedim(1, -1)
        for norm, works in norms(old).items():
            for layout, x in (("last", images.contiguous()), ("moved", images)):
                torch._dynamo.reset()  # type: ignore[no-untyped-call]  # it gives up where a function has many sizes
                run = tuple(torch.compile(work) for work in works) if compiled else works
                (forward, both), (plain, plain_both) = least(run, x)
                cells = [f"{value:.2f}" for value in (forward, plain, both, plain_both, both / plain_both)]
                table.add_row(norm, f"{samples} x {side} x {side} x {2 * old}", layout, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main("--compile" in sys.argv[1:])
