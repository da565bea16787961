"""How large new units start out beside old ones: python -m benchmarks.scale [NAME ...]

For the 30 architectures of benchmarks/sabotage.py, with init "zero" and "mirror": in how many layers the variance of
new units' pre-activations is within a tenth of the old units'. Predicted: from fan-ins and second moments. Expected:
the same with the second moments of a layer's inputs as they are on random inputs, which is the mean over all draws
of its weights. Measured: of this draw, on the same inputs, in train mode. What is further off is listed with its
reason.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from collections import Counter

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fxgrow
from benchmarks.sabotage import TIMM, TORCHVISION, built
from fxgrow.proof.scale import TOLERANCE, LayerScale
from tests.models import PLAIN

BATCH = 32


def example(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Random inputs of the kinds of a model's examples, many at a time."""
    return [
        torch.randn(BATCH, *given.shape[1:])
        if given.is_floating_point()
        else torch.randint(0, 10, (BATCH, *given.shape[1:]))
        for given in inputs
    ]


def layers(name: str, init: str) -> list[LayerScale]:
    torch.manual_seed(zlib.crc32(name.encode()))
    model, inputs = built(name)
    grown = fxgrow.grow(model, 1.5, init=init, example_inputs=inputs, verify=False)
    scale = fxgrow.certify(grown, model).scale.measured(*example(inputs))
    return [layer for layer in scale.layers if layer.measured is not None]


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    console, total = Console(), Counter[str]()
    table = Table(title="layers whose new units have the variance of old ones within a tenth")
    for heading in ("model", "init", "layers", "predicted", "expected", "measured"):
        table.add_column(heading, justify="left" if heading in ("model", "init") else "right")
    misses = []
    for name in names or [*PLAIN, *TIMM, *TORCHVISION]:
        for init in ("zero", "mirror"):
            found = layers(name, init)
            counts = Counter(layers=len(found))
            for kind in ("predicted", "expected", "measured"):
                counts[kind] = sum(abs(getattr(layer, kind) - 1) <= TOLERANCE for layer in found)
            total.update(counts)
            table.add_row(name, init, *(str(counts[kind]) for kind in ("layers", "predicted", "expected", "measured")))
            misses += [(name, init, layer) for layer in found if layer.reason]
    console.print(table)
    shares = (f"{kind} {total[kind]} of {total['layers']}" for kind in ("predicted", "expected", "measured"))
    console.print(", ".join(shares))
    for name, init, layer in misses:
        units = f"{len(layer.units)} new units, {len(layer.old_units)} old"
        console.print(f"{name} {init} {layer.layer}: {layer.measured:.2f} ({units}): {layer.reason}", highlight=False)


if __name__ == "__main__":
    main(sys.argv[1:])
