"""How large new units start out beside old ones: python -m benchmarks.scale [NAME ...]

For the 30 architectures of benchmarks/sabotage.py, with init "zero" and "mirror": in how many layers the variance of
new units' pre-activations is within a tenth of the old units'. Predicted: from fan-ins and second moments. Expected:
the same with the second moments of a layer's inputs as they are on random inputs, which is the mean over all draws
of its weights. Measured: of this draw, on the same inputs, in train mode. Calibrated: the same
after growing with `calibrate=` these inputs; elsewhere: after growing with `calibrate=` other inputs of the same kind.
Layers that are further off are listed, those by measurement with the reason.
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
from fxgrow.measure.scale import TOLERANCE, LayerScale
from tests.models import PLAIN

BATCH = 256


def example(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Random inputs of the kinds of a model's examples, many at a time."""
    return tuple(
        torch.randn(BATCH, *operand.shape[1:])
        if operand.is_floating_point()
        else torch.randint(0, 10, (BATCH, *operand.shape[1:]))
        for operand in inputs
    )


def layers(name: str, init: str) -> dict[str, list[LayerScale]]:
    """The layers of a grown model that make new units, measured on a batch; by what it was calibrated on."""
    torch.manual_seed(zlib.crc32(name.encode()))
    model, inputs = built(name)
    batch, elsewhere = example(inputs), example(inputs)

    def measured(calibrate: tuple[Tensor, ...] | None) -> list[LayerScale]:
        grown = fxgrow.grow(model, 1.5, init=init, example_inputs=inputs, verify=False, calibrate=calibrate)
        scale = fxgrow.certify(grown, model).scale.measured(*batch)
        return [layer for layer in scale.layers if layer.measured is not None]

    return {"measured": measured(None), "calibrated": measured(batch), "elsewhere": measured(elsewhere)}


def near(ratio: float | None) -> bool:
    return ratio is not None and abs(ratio - 1) <= TOLERANCE


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    console, total = Console(), Counter[str]()
    table = Table(title="layers whose new units have the variance of old ones within a tenth")
    kinds = ("layers", "predicted", "expected", "measured", "calibrated", "elsewhere")
    for heading in ("model", "init", *kinds):
        table.add_column(heading, justify="left" if heading in ("model", "init") else "right")
    misses = []
    for name in names or [*PLAIN, *TIMM, *TORCHVISION]:
        for init in ("zero", "mirror"):
            by_kind = layers(name, init)
            counts = Counter({kind: sum(near(layer.measured) for layer in some) for kind, some in by_kind.items()})
            counts["layers"] = len(by_kind["measured"])
            for kind in ("predicted", "expected"):
                counts[kind] = sum(near(getattr(layer, kind)) for layer in by_kind["measured"])
            total.update(counts)
            table.add_row(name, init, *(str(counts[kind]) for kind in kinds))
            for kind, some in by_kind.items():
                far = (layer for layer in some if not near(layer.measured))
                misses += [(name, init, layer, layer.reason if kind == "measured" else kind) for layer in far]
    console.print(table)
    console.print(", ".join(f"{kind} {total[kind]} of {total['layers']}" for kind in kinds[1:]))
    for name, init, layer, reason in misses:
        units = f"{len(layer.units)} new units, {len(layer.old_units)} old"
        console.print(f"{name} {init} {layer.layer}: {layer.measured:.2f} ({units}): {reason}", highlight=False)


if __name__ == "__main__":
    main(sys.argv[1:])
