"""What learning rates by age cost: python -m benchmarks.rates [DEVICE]

An optimizer's step with adapted rates and its plain step are timed in turn, several times over in one run. A row shows
the median of the adapted steps as a multiple of the plain ones', with rates worked out at every step and at every
eighth; and the same ratio for a whole training step of the model, with rates at every step.
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
from torch import nn

import fxgrow

MODELS: dict[str, tuple[str, float | dict[str, float]]] = {
    "ViT-S, all of it twice as wide as ViT-Ti": ("vit_tiny_patch16_224", 2.0),
    "ViT-S, a fifth of the width of ViT-S added": ("vit_small_patch16_224", 1.2),
    "ResNet-50 at width 1.5": ("resnet50", 1.5),
    "ResNet-50 at width 1.2": ("resnet50", 1.2),
}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW, foreach": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True),
    "AdamW, fused": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True),
    "SGD, foreach": lambda model: torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, foreach=True),
    "SGD, fused": lambda model: torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True),
}
ROUNDS = 9
BATCH = 8


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(works: list[Callable[[], object]], rounds: int) -> list[float]:
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work))
    return [statistics.median(times[1:]) for times in taken]


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def measured(name: str, amount: float | dict[str, float], device: str) -> list[tuple[str, ...]]:
    """Rows for one model: optimizer, part of the entries that is new, the plain step, ratios."""
    grown = fxgrow.grow(timm.create_model(name), amount, verify=False).train().to(device)
    births = fxgrow.births(grown)
    new = sum(count for birth in births.values() for stage, count in birth.counts().items() if stage)
    share = new / sum(p.numel() for p in grown.parameters())
    x = torch.randn(BATCH, 3, 224, 224, device=device)
    rows = []
    for kind, make in OPTIMIZERS.items():
        optimizers = [make(grown) for _ in range(3)]
        for optimizer, every in zip(optimizers[1:], (1, 8), strict=True):
            fxgrow.adapt_rates(optimizer, grown, every=every)
        training_step(grown, optimizers[0], x)
        # every eighth: whole cycles, so that the mean and not the median of a step counts
        plain, adapted = medians([optimizer.step for optimizer in optimizers[:2]], ROUNDS)
        eight, seldom = medians([eightfold(optimizers[0]), eightfold(optimizers[2])], max(3, ROUNDS // 3))
        plain_step, both = medians(
            [lambda o=o: training_step(grown, o, x) for o in optimizers[:2]],  # type: ignore[misc]
            3,
        )
        rows.append(
            (
                kind,
                f"{share:.0%}",
                f"{1e3 * plain:.1f} ms",
                f"{adapted / plain:.2f}",
                f"{seldom / eight:.2f}",
                f"{both / plain_step:.2f}",
            )
        )
    return rows


def eightfold(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(8):
            optimizer.step()

    return steps


def main(device: str = "cpu") -> None:
    title = "optimizer steps with rates by age, as multiples of plain ones"
    where = f"{torch.get_num_threads()} thread(s)" if device == "cpu" else torch.cuda.get_device_name()
    table = Table(title=f"{title} ({where}, batch {BATCH})")
    headings = ("model", "optimizer", "new", "plain", "every step", "every 8th", "training step")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for label, (name, amount) in MODELS.items():
        for row in measured(name, amount, device):
            table.add_row(label, *row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
