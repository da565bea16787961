"""How fast a grown model runs and trains beside one built at its sizes: python -m benchmarks.running [GLOB ...]

The first rows grow to the sizes of a larger model of timm (`like=`), the others to twice the width, beside a model
that is built with these sizes by hand. Both are run in turn, several times over, in one run; a row shows the grown
model's median time as a multiple of the built one's, its form, and how many of its layers compute something else than
their class does (norms over old units, calls with another number). Without such layers it runs the very code of the
built one, and 1.00 within the noise is expected; "noise" is the same ratio for a second model that was built.
"""

from __future__ import annotations

import argparse
import fnmatch
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fxgrow
from fxgrow.guarded_norms import NATIVE
from fxgrow.own.edited import Edited, Multiplied, SpelledOutAttention

LIKE = (
    ("vit_tiny_patch16_224", "vit_small_patch16_224"),
    ("resnet18", "resnet34"),
    ("resnet50", "wide_resnet50_2"),
    ("convnext_atto", "convnext_femto"),
)
"""Models, and others of timm that they grow to."""

BY_HAND: dict[str, dict[str, object]] = {
    "vit_tiny_patch16_224": {"embed_dim": 384, "num_heads": 6},
    "convnext_atto": {"dims": (80, 160, 320, 640)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 192, "num_heads": (6, 12, 24, 48)},
}
"""Models, and what to build them with to have the sizes of twice the width."""

OTHERWISE = (Edited, Multiplied, SpelledOutAttention, *NATIVE.values())
"""Layers that compute otherwise than their class."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pairs(globs: list[str]) -> Iterator[tuple[str, nn.Module, nn.Module, nn.Module]]:
    """What a row is called, the grown model, and two that are built at its sizes."""

    def wanted(name: str) -> bool:
        return not globs or any(fnmatch.fnmatch(name, glob) for glob in globs)

    for small, large in filter(lambda pair: wanted(pair[0]), LIKE):
        built, again = timm.create_model(large), timm.create_model(large)
        yield f"{small} to {large}", fxgrow.grow(timm.create_model(small), like=built, verify=False), built, again
    for name, options in filter(lambda item: wanted(item[0]), BY_HAND.items()):
        built, again = timm.create_model(name, **options), timm.create_model(name, **options)
        yield f"{name}, width 2", fxgrow.grow(timm.create_model(name), 2, verify=False), built, again


def multiples(models: list[nn.Module], work: Callable[[nn.Module], object], rounds: int) -> list[float]:
    """Median times, each as a multiple of the second model's; they are run in turn."""
    taken: list[list[float]] = [[] for _ in models]
    for model in models:
        work(model)  # to be warm
    for number in range(rounds):
        order = range(len(models)) if number % 2 == 0 else reversed(range(len(models)))
        for place in order:
            taken[place].append(seconds(lambda place=place: work(models[place])))  # type: ignore[misc]
    medians = [statistics.median(times) for times in taken]
    return [median / medians[1] for median in medians]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("globs", nargs="*", metavar="GLOB", help="names of models that grow; all if left out")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="run all of them under torch.compile")
    options = parser.parse_args(arguments)
    x = torch.randn(options.batch, 3, 224, 224)

    def forward(model: nn.Module) -> None:
        with torch.no_grad():
            model(x)

    def step(model: nn.Module) -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    how = f"{torch.get_num_threads()} threads{', compiled' if options.compile else ''}"
    table = Table(title=f"a grown model beside one built at its sizes: time as a multiple, {how}")
    columns = ("model", "form", "otherwise", "parameters", "built", "forward", "noise", "and backward", "noise")
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("model", "form") else "right")
    for label, *models in pairs(options.globs):
        grown, built, _ = models
        counts = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (grown, built)]
        runs: list[nn.Module] = [torch.compile(model) if options.compile else model for model in models]  # type: ignore[misc]
        rates = multiples([model.eval() for model in runs], forward, options.rounds)
        training = multiples([model.train() for model in runs], step, options.rounds)
        otherwise = sum(isinstance(part, OTHERWISE) for part in grown.modules())
        measured = [f"{rate:.2f}" for rate in (rates[0], rates[2], training[0], training[2])]
        table.add_row(label, fxgrow.report(grown).plan.form, str(otherwise), *counts, *measured)
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
