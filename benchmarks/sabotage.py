"""Faults in grown models that change outputs, none of them PROVED: python -m benchmarks.sabotage [COUNT] [NAME ...]

COUNT faults (10,000 unless told) are shared out over 30 architectures and three ways to start new units. Each is
injected alone, the model is certified, and where the verdict is still PROVED it is run: outputs that differ make
the fault a missed one. Run from the root of the repository; about an hour on one core.
"""

from __future__ import annotations

import sys
import time
import warnings
import zlib

import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

import fxgrow
from fxgrow.proof.sabotage import Tally, sabotaged
from tests.models import PLAIN, lively

TIMM = (
    *("test_resnet", "test_vit", "test_vit2", "test_vit3", "test_vit4", "test_convnext", "test_convnext2"),
    *("test_convnext3", "test_efficientnet", "test_efficientnet_gn", "test_efficientnet_ln", "test_byobnet"),
    *("mobilenetv3_small_050", "resnet18", "resnet26", "lcnet_035", "mnasnet_small"),
)
TORCHVISION = {"squeezenet1_1": 64, "shufflenet_v2_x0_5": 32}
INITS = ("zero", "mirror", "replicate")


def built(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A model away from trivial values, in float64, and inputs as small as it takes."""
    if name in PLAIN:
        make, inputs = PLAIN[name]
        return lively(make()), inputs
    if name in TORCHVISION:
        return lively(torchvision.models.get_model(name)), (torch.randn(2, 3, TORCHVISION[name], TORCHVISION[name]),)
    model = timm.create_model(name)
    size = 160 if "vit" in name else 64
    return lively(model), (torch.randn(2, 3, size, size),)


def main(arguments: list[str]) -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    count = int(arguments[0]) if arguments else 10_000
    names = arguments[1:] or [*PLAIN, *TIMM, *TORCHVISION]
    each = -(-count // (len(names) * len(INITS)))
    total, console = Tally(), Console()
    table = Table(title=f"{each} faults for each model and init")
    for heading in ("model", "init", "verdict", "faults", "found", "harmless", "missed", "seconds"):
        table.add_column(heading)
    for name in names:
        for init in INITS:
            model, inputs = built(name)
            grown = fxgrow.grow(model, 1.5, init=init, example_inputs=inputs, verify=False)
            verdict = fxgrow.certify(grown, model).verdict
            start = time.perf_counter()
            tally = sabotaged(model, grown, each, seed=zlib.crc32(f"{name} {init}".encode()))
            total.add(tally)
            row = (name, init, verdict, tally.total, tally.found.total(), tally.harmless.total(), len(tally.missed))
            table.add_row(*map(str, row), f"{time.perf_counter() - start:.0f}")
            print(*row, flush=True)
            for fault in tally.missed:
                print("  missed:", fault.kind, fault.where, flush=True)
    console.print(table)
    console.print(
        f"{total.total:,} faults in {len(names)} architectures: {total.found.total():,} found, "
        f"{total.harmless.total():,} harmless, {len(total.missed):,} missed"
    )
    return 1 if total.missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
