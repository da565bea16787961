"""How long growing takes, beside the least it could take: python benchmarks/growing.py [NAME ...] [--memory]

The floor is writing the grown weights once. "Build" is what timm takes to build a model as wide as the grown one.
"Grow" is without proof and test, "verified" with both, as by default. All are measured in turn, several times over, in
one run. A row shows medians in seconds; growing as a multiple of the floor and of building; and the factor of proof and
test.

With --memory: the peak memory of a fresh process, less what importing the libraries takes, beside the weights before
and after; of a model of 304 million parameters unless others are named.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.models import efficientnet, mobilenetv3

import fxgrow

AS_WIDE: dict[str, Callable[[], object]] = {
    "resnet50": lambda: timm.create_model("resnet50", channels=(96, 192, 384, 768), stem_width=96),
    "vit_small_patch16_224": lambda: timm.create_model("vit_small_patch16_224", embed_dim=576, num_heads=9),
    "convnext_tiny": lambda: timm.create_model("convnext_tiny", dims=(144, 288, 576, 1152)),
    "densenet121": lambda: timm.create_model("densenet121", growth_rate=48),
    "swin_tiny_patch4_window7_224": lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_dim=144),
    "efficientnet_b0": lambda: efficientnet._gen_efficientnet("efficientnet_b0", channel_multiplier=1.5),
    "mobilenetv3_large_100": lambda: mobilenetv3._gen_mobilenet_v3("mobilenetv3_large_100", 1.5),
}
"""What builds models 1.5 times as wide."""
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
        "build": AS_WIDE.get(name, lambda: timm.create_model(name)),
        "floor": lambda: [torch.empty(shape).normal_() for shape in shapes],
    }
    taken: dict[str, list[float]] = {kind: [] for kind in works}
    for _ in range(ROUNDS):
        for kind, work in works.items():
            taken[kind].append(seconds(work))
    return {kind: statistics.median(times) for kind, times in taken.items()}


LARGE = ("vit_large_patch16_224",)
VERIFY = {"grow(verify=False)": False, "grow, as by default": True}


def peak(name: str, how: str) -> None:
    """Print the bytes of the weights before and after growth, and the most that was taken above what imports take."""
    fxgrow.grow(timm.create_model("test_vit"), 1.5)
    before = _most()
    model = timm.create_model(name)
    grown = fxgrow.grow(model, 1.5, verify=VERIFY[how])
    weights = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in (model, grown)]
    print(json.dumps([*weights, _most() - before]))


def _most() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(names: list[str]) -> None:
    table = Table(title="memory to grow by 1.5, in a fresh process")
    for heading in ("model", "call", "weights", "grown weights", "at most", "/ weights", "/ both"):
        table.add_column(heading, justify="left" if heading in ("model", "call") else "right")
    for name in names:
        for how in VERIFY:
            command = [sys.executable, __file__, "--peak", name, how]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            old, new, most = json.loads(printed.splitlines()[-1])
            sizes = (f"{value / 2**30:.2f} GiB" for value in (old, new, most))
            table.add_row(name, how, *sizes, f"{most / old:.2f}", f"{most / (old + new):.2f}")
    Console(width=160).print(table)


def main(names: list[str]) -> None:
    table = Table(title="growing by 1.5, beside building the model and writing the grown weights once")
    for heading in ("model", *KINDS, "grow / floor", "grow / build", "verified / grow"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in names:
        times = measured(name)
        table.add_row(
            name,
            *(f"{times[kind]:.2f} s" for kind in KINDS),
            f"{times['grow'] / times['floor']:.1f}",
            f"{times['grow'] / times['build']:.1f}",
            f"{times['verified'] / times['grow']:.1f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--peak"]:
        peak(*arguments[1:])
    elif "--memory" in arguments:
        memory([name for name in arguments if name != "--memory"] or list(LARGE))
    else:
        main(arguments or list(AS_WIDE))
