"""Draws the pictures of docs/: python docs/pictures/draw.py

Those of docs/reference/plots.md are drawn by the code on that page; fine-tuning.png is drawn by a notebook, which
benchmarks/notebooks.py runs.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import timm
import torch
from fxgrow.zoo.nontrivial import lively
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

import fxgrow

HERE = Path(__file__).resolve().parent
PLOTS = HERE.parent / "reference" / "plots.md"


def certificate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.GELU(), nn.Linear(10, 3))
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 6), verify=False)
    proof = fxgrow.certify(grown, model)
    console = Console(record=True, width=130, file=(HERE / "certificate.txt").open("w"))
    console.print(proof.tree())
    console.save_svg(str(HERE / "certificate.svg"), title="print(certificate.expanded())", unique_id="fxgrow")


def scale() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    torch.manual_seed(0)
    x = torch.randn(64, 8)
    for parameterization in ("standard", "mup"):
        check = fxgrow.coordinate_check(
            make, [1, 2, 4, 8, 16], example_inputs=x, init="mirror", parameterization=parameterization
        )
        check.plot().savefig(HERE / f"scale-{parameterization}.png")


def ratios() -> None:
    """New units' variance beside old ones', layer by layer, before and on data, and once calibrated on other data."""
    torch.manual_seed(0)
    model = lively(timm.create_model("lcnet_035"))
    batch, elsewhere = torch.randn(256, 3, 64, 64), torch.randn(256, 3, 64, 64)
    plain, calibrated = (
        fxgrow.certify(grown, model).scale.measured(batch).layers
        for grown in (
            fxgrow.grow(model, 1.5, init="mirror", calibrate=data, verify=False) for data in (None, elsewhere)
        )
    )
    figure = Figure(figsize=(8, 4), layout="constrained")
    panel = figure.subplots()
    panel.axhspan(0.9, 1.1, color="0.92")
    places = range(len(plain))
    for kind, marker in (("predicted", "_"), ("expected", "x"), ("measured", "o")):
        panel.plot(places, [getattr(layer, kind) for layer in plain], marker, label=kind)
    panel.plot(places, [layer.measured for layer in calibrated], "+", label="measured, calibrated elsewhere")
    panel.set(ylim=(0.4, 1.8), ylabel="variance, new / old", title="lcnet_035 grown by 1.5, mirror pairs")
    panel.set_xticks(places, [layer.layer for layer in plain], rotation=90, fontsize="x-small")
    panel.legend(ncols=4, fontsize="small")
    figure.savefig(HERE / "ratios.png")


def plots() -> None:
    """What the blocks of the page on plots write."""
    names: dict[str, object] = {"__name__": "page"}
    with contextlib.chdir(HERE):
        for block in re.findall(r"^```python\n(.*?)^```", PLOTS.read_text(), re.MULTILINE | re.DOTALL):
            exec(block, names)


if __name__ == "__main__":
    plots()
    certificate()
    scale()
    ratios()
    (HERE / "certificate.txt").unlink()
