"""How fast a grown model runs and trains, beside one of the same sizes built by hand: python benchmarks/running.py

Both are run in turn, several times over, in one run; a row shows the grown model's median time as a multiple of
the hand-built one's, and says its form and how many of its layers compute otherwise than their class does
(norms over old units, calls with another number). Without such layers it runs the very code of the hand-built one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fxgrow
from fxgrow.own.edited import NATIVE, Edited

PAIRS: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {"embed_dim": 384, "num_heads": 6},
    "convnext_atto": {"dims": (80, 160, 320, 640)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 192, "num_heads": (6, 12, 24, 48)},
}
"""Models, and what to build them with to have the sizes of twice the width."""

ROUNDS = 7
x = torch.randn(4, 3, 224, 224)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def step(model: nn.Module) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


def ratio(grown: nn.Module, built: nn.Module, work: Callable[[nn.Module], object]) -> float:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for times, model in zip(taken, (grown, built), strict=True):
            times.append(seconds(lambda model=model: work(model)))  # type: ignore[misc]
    return statistics.median(taken[0]) / statistics.median(taken[1])


def main() -> None:
    table = Table(title="a grown model beside one built by hand: time as a multiple")
    for heading in ("model", "form", "guarded", "parameters", "built by hand", "forward", "and backward"):
        table.add_column(heading, justify="left" if heading in ("model", "form") else "right")
    for name, options in PAIRS.items():
        grown = fxgrow.grow(timm.create_model(name), 2.0, verify=False)
        built = timm.create_model(name, **options)
        counts = [sum(p.numel() for p in model.parameters()) for model in (grown, built)]
        with torch.no_grad():
            forward = ratio(grown.eval(), built.eval(), lambda model: model(x))
        both = ratio(grown.train(), built.train(), step)
        form = fxgrow.report(grown).plan.form
        guarded = sum(isinstance(part, (Edited, *NATIVE.values())) for part in grown.modules())
        sizes = [f"{count:,}" for count in counts]
        table.add_row(name, form, str(guarded), *sizes, f"{forward:.2f}", f"{both:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
