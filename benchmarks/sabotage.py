"""Injects faults into grown models, and looks for one that is PROVED: python -m benchmarks.sabotage [COUNT] [NAME ...]

COUNT faults (10,000 unless told) are shared out over 32 architectures and six ways to grow: three ways to start new
units, new blocks, rescaled weights, and rescaled weights that were folded. Each is injected alone, and the model is
certified. Where the verdict is still PROVED the model is run: if its outputs differ, the fault was missed. Run
from the root of the repository; about an hour on one core. `--record FILE` writes each row as it is done and leaves out
rows that are there already, so that a run can be cut off and taken up again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

import fxgrow
from fxgrow.capture import GrownGraphModule
from fxgrow.testing.sabotage import sabotaged
from tests.models import PLAIN, lively

TIMM = (
    *("test_resnet", "test_vit", "test_vit2", "test_vit3", "test_vit4", "test_convnext", "test_convnext2"),
    *("test_convnext3", "test_efficientnet", "test_efficientnet_gn", "test_efficientnet_ln", "test_byobnet"),
    *("mobilenetv3_small_050", "resnet18", "resnet26", "lcnet_035", "mnasnet_small"),
)
TORCHVISION = {"squeezenet1_1": 64, "shufflenet_v2_x0_5": 32}
WAYS: dict[str, dict[str, Any]] = {
    "zero": {"width": 1.5},
    "mirror": {"width": 1.5, "init": "mirror"},
    "replicate": {"width": 1.5, "init": "replicate"},
    "deeper": {"width": 1.25, "depth": 1.5},
    "rescaled": {"width": 1.5, "init": "mirror", "parameterization": "variance-transfer"},
    "folded": {"width": 1.5, "parameterization": "variance-transfer"},
}
"""Ways to grow, and what they pass to `fxgrow.grow`."""

HEADINGS = ("model", "way", "verdict", "faults", "found", "harmless", "missed", "seconds")


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


def grown(name: str, way: str) -> tuple[nn.Module, GrownGraphModule]:
    model, inputs = built(name)
    wider = fxgrow.grow(model, example_inputs=inputs, verify=False, form="graph", **WAYS[way])
    wider = fxgrow.fold(wider) if way == "folded" else wider
    assert isinstance(wider, GrownGraphModule)
    return model, wider


def row_of(name: str, way: str, count: int) -> dict[str, Any]:
    """One architecture grown one way, with so many faults."""
    torch.manual_seed(zlib.crc32(name.encode()))
    model, wider = grown(name, way)
    verdict = fxgrow.certify(wider, model).verdict
    start = time.process_time()
    tally = sabotaged(model, wider, count, seed=zlib.crc32(f"{name} {way}".encode()))
    return {
        "model": name,
        "way": way,
        "verdict": str(verdict),
        "faults": tally.total,
        "found": tally.found.total(),
        "harmless": tally.harmless.total(),
        "missed": len(tally.missed),
        "seconds": round(time.process_time() - start, 1),
        "kinds": dict(tally.found),
        "places": [f"{fault.kind}: {fault.where}" for fault in tally.missed],
    }


def recorded(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def printed(rows: list[dict[str, Any]], names: list[str]) -> int:
    """The table of all rows, and whether a fault was missed."""
    console = Console()
    table = Table(title="faults in grown models, by architecture and way to grow")
    for heading in HEADINGS:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(str(row[heading]) for heading in HEADINGS))
    console.print(table)
    totals = {key: sum(row[key] for row in rows) for key in ("faults", "found", "harmless", "missed")}
    kinds = sum((Counter(row["kinds"]) for row in rows), Counter[str]())
    console.print(", ".join(f"{kind}: {count}" for kind, count in kinds.most_common()))
    console.print(
        f"{totals['faults']:,} faults in {len(names)} architectures: {totals['found']:,} found, "
        f"{totals['harmless']:,} harmless, {totals['missed']:,} missed"
    )
    return 1 if totals["missed"] else 0


def main(arguments: list[str]) -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=10_000)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args(arguments)
    names = options.names or [*PLAIN, *TIMM, *TORCHVISION]
    each = -(-options.count // (len(names) * len(WAYS)))
    rows = recorded(options.record)
    done = {(row["model"], row["way"]) for row in rows}
    for name, way in ((name, way) for name in names for way in WAYS if (name, way) not in done):
        row = row_of(name, way, each)
        rows.append(row)
        print(*(row[heading] for heading in HEADINGS), *row["places"], flush=True)
        if options.record is not None:
            with options.record.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return printed(rows, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
