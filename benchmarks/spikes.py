"""Whether the loss jumps after growth: python benchmarks/spikes.py [SEEDS [MODEL ...]]

A network trains on scikit-learn's digits; halfway a twin of it grows, and once more fifty steps later, and both go on
with the same batches and settings. A row shows by how much the loss, averaged over five batches, rose at most in the
fifty steps after the moment of growth, above what it was then: mean over seeds and growths, and the largest, for the
network that grew and for the one that did not. `gap` is the difference of the loss right before and after growth.
"""

from __future__ import annotations

import copy
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import timm
import torch
from fxgrow.zoo.data import load
from fxgrow.zoo.networks import resnet8
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import fxgrow

OPTIONS = {"in_chans": 1, "num_classes": 10}
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet8": (lambda: resnet8(8, in_chans=1), 8),
    "test_vit": (lambda: timm.create_model("test_vit", img_size=8, patch_size=2, **OPTIONS), 8),
    "test_resnet": (lambda: timm.create_model("test_resnet", **OPTIONS), 32),
    "test_convnext": (lambda: timm.create_model("test_convnext", **OPTIONS), 32),
}
"""Networks, and the size of the images they see."""

OPTIMIZERS: dict[str, Callable[[list[dict[str, object]]], torch.optim.Optimizer]] = {
    "SGD, momentum 0.9": lambda groups: torch.optim.SGD(groups, 0.02, 0.9),
    "AdamW": lambda groups: torch.optim.AdamW(groups, 1e-3),
}
WAYS: dict[str, dict[str, str]] = {
    "zero": {},
    "mirror": {"init": "mirror"},
    "mirror, variance transfer": {"init": "mirror", "parameterization": "variance-transfer"},
}
BEFORE, WINDOW, GROWTHS, AMOUNT, BATCH = 100, 50, 2, 1.5, 32


@dataclass
class Training:
    """A network in training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)

    def go_on(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        for images, labels in batches:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())

    def grow(self, images: Tensor, options: dict[str, str]) -> float:
        """Grow, and return how far the loss moved."""
        before = self.model
        self.model = fxgrow.grow(before, AMOUNT, example_inputs=images[:2], verify=False, **options)  # type: ignore[arg-type]
        fxgrow.replace_parameters(self.optimizer, self.model)
        fxgrow.adapt_rates(self.optimizer, self.model)
        labels = torch.zeros(len(images), dtype=torch.long)
        with torch.no_grad():
            losses = [F.cross_entropy(copy.deepcopy(model)(images), labels).item() for model in (before, self.model)]
        return abs(losses[1] - losses[0])

    def rise(self, start: int) -> float:
        """How far the loss rose at most in the window from a step on."""
        smooth = [statistics.mean(self.losses[k - 4 : k + 1]) for k in range(start - 1, start + WINDOW)]
        return max(smooth[1:]) - smooth[0]


def batches(size: int, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        data, epoch = load("digits"), 0
        while True:
            yield from data.batches(seed, epoch, BATCH)
            epoch += 1

    drawn = (batch for batch, _ in zip(endless(), range(count), strict=False))
    return [(F.interpolate(images, (size, size), mode="bilinear"), labels) for images, labels in drawn]


def rises(name: str, kind: str, seed: int) -> dict[str, list[tuple[float, float]]]:
    """For each way and each growth: the rise, and the gap; `plain` is the network that does not grow."""
    make, size = MODELS[name]
    torch.manual_seed(seed)
    model = make()
    data = batches(size, BEFORE + GROWTHS * WINDOW, seed)
    trunk = Training(model, OPTIMIZERS[kind](fxgrow.param_groups(model, 5e-4)))
    trunk.go_on(data[:BEFORE])
    starts = [BEFORE + number * WINDOW for number in range(GROWTHS)]
    by_way: dict[str, list[tuple[float, float]]] = {}
    for way, options in {"plain": None, **WAYS}.items():
        twin = copy.deepcopy(trunk.model)
        optimizer = OPTIMIZERS[kind](fxgrow.param_groups(twin, 5e-4))
        optimizer.load_state_dict(copy.deepcopy(trunk.optimizer.state_dict()))
        branch = Training(twin, optimizer, list(trunk.losses))
        gaps = []
        for start in starts:
            gaps.append(branch.grow(data[start][0], options) if options is not None else 0.0)
            branch.go_on(data[start : start + WINDOW])
        by_way[way] = [(branch.rise(start), gap) for start, gap in zip(starts, gaps, strict=True)]
    return by_way


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore")
    seeds = int(arguments[0]) if arguments else 5
    table = Table(title=f"largest rise of the loss in {WINDOW} steps after growth by {AMOUNT}, {seeds} seeds")
    for heading in ("model", "optimizer", "init", "grown: mean", "largest", "not grown: mean", "largest", "gap"):
        table.add_column(heading, justify="left" if heading in ("model", "optimizer", "init") else "right")
    for name in arguments[1:] or MODELS:
        for kind in OPTIMIZERS:
            runs = [rises(name, kind, seed) for seed in range(seeds)]
            plain = [rise for run in runs for rise, _ in run["plain"]]
            for way in WAYS:
                grown = [rise for run in runs for rise, _ in run[way]]
                gap = max(gap for run in runs for _, gap in run[way])
                cells = (statistics.mean(grown), max(grown), statistics.mean(plain), max(plain))
                table.add_row(name, kind, way, *(f"{cell:.3f}" for cell in cells), f"{gap:.0e}")
                print(name, kind, way, *(f"{cell:.3f}" for cell in cells), f"{gap:.0e}", file=sys.stderr, flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
