"""What the quick test finds beside the full one and the certificate: python -m benchmarks.testing [COUNT] [NAME ...]

Grown models in float32, at the image sizes that they are made for, get COUNT faults each (26 unless told), one at a
time, as in benchmarks/sabotage.py. After each fault the certificate, the quick test and the full test look for it, each
by itself. Faults that the full test finds and the quick test misses are listed; the command fails if the certificate
has missed one of these, too.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table

import fxgrow
from benchmarks.sabotage import WAYS
from fxgrow.capture import GrownGraphModule, capture
from fxgrow.errors import VerificationError
from fxgrow.growth.certifying import Comparison
from fxgrow.growth.intermediate import GrowthStep
from fxgrow.history import drawn_by
from fxgrow.measure import quick
from fxgrow.measure.verification import verify
from fxgrow.testing.sabotage import faults
from tests.models import lively

NAMES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "lcnet_035")
HEADINGS = ("model", "way", "faults", "certificate", "in full", "quick", "not quick", "missed")


def finds(test: Callable[[], object]) -> bool:
    try:
        test()
    except VerificationError:
        return True
    except Exception:  # what corrupted code raises can be anything
        return True
    return False


def row(name: str, way: str, count: int) -> tuple[Counter[str], list[str]]:
    """How many faults there were in one model, how many each found, and what was found in full but not quickly."""
    torch.manual_seed(zlib.crc32(name.encode()))
    model = lively(timm.create_model(name)).float()
    captured = capture(model)
    wider = fxgrow.grow(model, verify=False, form="graph", **WAYS[way])
    assert isinstance(wider, GrownGraphModule)
    step, alike, inputs = fxgrow.report(wider), quick.alike_by_mode(captured), captured.inputs
    comparison = Comparison(captured, model, [GrowthStep(step.plan, drawn_by(step.seed, 1))])
    counts, places = Counter[str](), []
    for fault in faults(wider, count, seed=zlib.crc32(f"{name} {way}".encode())):
        in_full = finds(lambda: verify(model, wider, inputs))
        quickly = finds(lambda: quick.verify_quickly(model, wider, inputs, 0, step.plan, alike))
        doubted = not comparison.proves(wider)
        fault.undo()
        counts.update(["faults", *["certificate"] * doubted, *["in full"] * in_full, *["quick"] * quickly])
        if in_full and not quickly:
            counts.update(["not quick", *["missed"] * (not doubted)])
            places.append(f"{name} {way}: {fault.kind}: {fault.where}{'' if doubted else ': MISSED'}")
    return counts, places


def main(arguments: list[str]) -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    quick.ENOUGH = 0.0  # these models are so small that they would be tested in full
    count = int(arguments[0]) if arguments else 26
    console, table, total, places = Console(), Table(title="faults found"), Counter[str](), []
    for heading in HEADINGS:
        table.add_column(heading)
    for name in arguments[1:] or NAMES:
        for way in ("zero", "mirror", "deeper"):
            counts, misses = row(name, way, count)
            table.add_row(name, way, *(str(counts[heading]) for heading in HEADINGS[2:]))
            print(name, way, dict(counts), *misses, flush=True)
            total.update(counts)
            places += misses
    console.print(table)
    console.print(", ".join(f"{heading}: {total[heading]:,}" for heading in HEADINGS[2:]), *places, sep="\n")
    return 1 if total["missed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
