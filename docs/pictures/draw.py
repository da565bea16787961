"""Draws the pictures of docs/explanation/certificates.md: python docs/pictures/draw.py"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import fxgrow

HERE = Path(__file__).parent


def certificate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.GELU(), nn.Linear(10, 3))
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 6), verify=False)
    found = fxgrow.certify(grown, model)
    console = Console(record=True, width=130, file=(HERE / "certificate.txt").open("w"))
    console.print(found.tree())
    console.save_svg(str(HERE / "certificate.svg"), title="print(certificate.expanded())", unique_id="fxgrow")


def scale() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    x = torch.randn(64, 8)
    found = fxgrow.coordinate_check(make, [1, 2, 4, 8], example_inputs=x, steps=3, init="mirror")
    found.plot(HERE / "scale.png")


if __name__ == "__main__":
    certificate()
    scale()
    (HERE / "certificate.txt").unlink()
