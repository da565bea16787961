"""How often the old logits of a head with more classes are other bits: python -m benchmarks.heads

A BLAS picks its kernel by the shape of a product, and another kernel may sum in another order. So a head with more
classes is compared with the old one on the same samples, and beside it the old head with itself, on the same samples
in a batch three times as large. A row shows in what share of heads and batches some logit differs, and by how much at
most, relative to the largest logit.
"""

from __future__ import annotations

import itertools
import platform

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fxgrow.measure.verification import relative_error

FEATURES = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 2048)
CLASSES = (2, 10, 37, 100, 365, 1000)
MORE = (1, 5, 100)
SAMPLES = (1, 2, 8, 32)


@torch.no_grad()
def compared(dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """How far old logits differ beside new ones, and in another batch, over all heads and batches."""
    beside, in_batch = [], []
    for features, classes, more, samples in itertools.product(FEATURES, CLASSES, MORE, SAMPLES):
        old, new = nn.Linear(features, classes, dtype=dtype), nn.Linear(features, classes + more, dtype=dtype)
        for grown, kept in zip(new.parameters(), old.parameters(), strict=True):
            grown[:classes] = kept
        x = torch.randn(samples, features, dtype=dtype)
        logits = old(x)
        beside.append(relative_error(new(x)[:, :classes], logits))
        in_batch.append(relative_error(old(x.repeat(3, 1))[:samples], logits))
    return beside, in_batch


def main() -> None:
    torch.manual_seed(0)
    table = Table(
        title=f"old logits, {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for heading in ("dtype", "compared", "other bits", "at most"):
        table.add_column(heading, justify="right" if heading in ("other bits", "at most") else "left")
    for dtype in (torch.float32, torch.float64):
        for said, differences in zip(("beside more classes", "in a larger batch"), compared(dtype), strict=True):
            share = sum(each > 0 for each in differences) / len(differences)
            table.add_row(str(dtype).removeprefix("torch."), said, f"{share:.1%}", f"{max(differences):.0e}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
