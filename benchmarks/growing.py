"""How long growing takes, beside the least it could take: python benchmarks/growing.py [NAME ...]

The floor is writing the grown weights once. "Grow" is without proof and test, "verified" with both, as by default.
All are measured in turn, several times over, in one run; a row shows medians in seconds and, what counts, growing as a
multiple of the floor and of building the model, and what proof and test multiply it by.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table

import fxgrow

NAMES = (
    *("resnet50", "vit_small_patch16_224", "convnext_tiny", "densenet121", "swin_tiny_patch4_window7_224"),
    *("efficientnet_b0", "mobilenetv3_large_100"),
)
KINDS = ("plan", "grow", "verified", "build", "floor")
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(name: str) -> dict[str, float]:
    """Median seconds of each kind of work for one model at width 1.5."""
    model = timm.create_model(name)
    shapes = [p.shape for p in fxgrow.grow(model, 1.5, verify=False).parameters()]
    works: dict[str, Callable[[], object]] = {
        "plan": lambda: fxgrow.plan(model, 1.5),
        "grow": lambda: fxgrow.grow(model, 1.5, verify=False),
        "verified": lambda: fxgrow.grow(model, 1.5),
        "build": lambda: timm.create_model(name),
        "floor": lambda: [torch.empty(shape).normal_() for shape in shapes],
    }
    taken: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(ROUNDS):
        for kind, work in works.items():
            taken[kind].append(seconds(work))
    return {kind: statistics.median(times) for kind, times in taken.items()}


def main(names: list[str]) -> None:
    table = Table(title="growing by 1.5, beside building the model and writing the grown weights once")
    for heading in ("model", *KINDS, "grow / floor", "grow / build", "verified / grow"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in names:
        found = measured(name)
        table.add_row(
            name,
            *(f"{found[kind]:.2f} s" for kind in KINDS),
            f"{found['grow'] / found['floor']:.1f}",
            f"{found['grow'] / found['build']:.1f}",
            f"{found['verified'] / found['grow']:.1f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
