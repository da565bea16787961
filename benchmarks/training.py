"""Growing beside training the large network, on scikit-learn's handwritten digits: python -m benchmarks.training

Every method trains the same network, in the same epochs, on the same images in the same order, with the same learning
rates; methods differ in how they get to its width. All growing ones follow one schedule and have one budget. Each runs
with several seeds. Runs are kept in a folder and are not run twice; a killed benchmark goes on. About ten minutes
on one core. Writes the table and the plot that docs/explanation/training-a-growing-network.md shows.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxgrow.zoo.recipes import recipe
from fxgrow.zoo.training import Row, Run
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.ways import RandomPadding

SEEDS = 5
EVERY = 4
"""Epochs between tests, for the plot."""

GROWING: Mapping[str, Any] = {"growth": "linear", "stages": 4, "first_epochs": 8, "epoch_rate": 0.0}
"""8 of the 40 epochs each at 1/4, 1/2 and 3/4 of the width, 16 at all of it; else as the recipe "digits" has it."""


@dataclass(frozen=True)
class Method:
    """A way to get to the large network."""

    changes: Mapping[str, Any]
    kind: type[Run] = Run


def growing(init: str, parameterization: str = "standard", rates: str = "none") -> Method:
    return Method({"init": init, "parameterization": parameterization, "rates": rates})


METHODS: dict[str, Method] = {
    "large network": Method({"growth": "none"}),
    "mirror + both (the paper's)": growing("mirror", "variance-transfer", "norm"),
    "Net2Net (replicate)": growing("replicate"),
    "random padding": Method({"init": "zero", "parameterization": "standard", "rates": "none"}, RandomPadding),
    "zero-out + gradient rates": growing("zero", rates="gradient"),
    "zero-out": growing("zero"),
    "mirror": growing("mirror"),
    "mirror + variance transfer": growing("mirror", "variance-transfer"),
    "mirror + rate adaptation": growing("mirror", rates="norm"),
    "small network, a quarter as wide": Method({"growth": "none", "options": (("width", 4),)}),
}


def trained(name: str, seed: int, folder: Path) -> list[Row]:
    """The log of one run, which is trained unless the folder holds it already."""
    method = METHODS[name]
    settings = recipe("digits", epochs=40, verify=False, **{**GROWING, **method.changes, "seed": seed})
    place = folder / f"{list(METHODS).index(name)}-{seed}"
    if not (place / "outcome.json").exists():
        method.kind(settings, place, evaluate_every=EVERY, checkpoint_minutes=2).train()
    with (place / "log.csv").open() as file:
        return [{heading: float(value) for heading, value in row.items()} for row in csv.DictReader(file)]


def spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values)


def table(logs: Mapping[str, list[list[Row]]]) -> Table:
    """Accuracy and loss on the test images at the end: mean and deviation over seeds."""
    result = Table(title=f"handwritten digits, {SEEDS} seeds, mean ± deviation", title_justify="left")
    for heading in ("method", "FLOPs", "test accuracy", "test loss", "each seed's accuracy"):
        result.add_column(heading, justify="left" if heading == "method" else "right")
    for name, runs in logs.items():
        last = [rows[-1] for rows in runs]
        accuracy = spread([100 * row["test_accuracy"] for row in last])
        loss = spread([row["test_loss"] for row in last])
        budget = last[0]["budget"] if "small" not in name else math.nan
        result.add_row(
            name,
            f"{budget:.1%}" if budget == budget else "-",
            f"{accuracy[0]:.2f} ± {accuracy[1]:.2f}",
            f"{loss[0]:.4f} ± {loss[1]:.4f}",
            " ".join(f"{100 * row['test_accuracy']:.2f}" for row in last),
        )
    return result


def plot(logs: Mapping[str, list[list[Row]]]) -> Figure:
    """Test error over floating-point operations spent: the mean over seeds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, runs in logs.items():
        if "small" in name:
            continue
        spent = [row["budget"] for row in runs[0]]
        errors = [statistics.mean(100 - 100 * rows[k]["test_accuracy"] for rows in runs) for k in range(len(spent))]
        deviation = statistics.stdev(100 - 100 * rows[-1]["test_accuracy"] for rows in runs)
        style = {"color": "black", "linewidth": 2.5} if name == "large network" else {}
        line = axes.plot(spent, errors, label=name, **style)[0]
        axes.errorbar(spent[-1], errors[-1], deviation, color=line.get_color(), capsize=3)
    axes.set(
        xlabel="floating-point operations, as a part of the large network's training",
        ylabel="test error, %",
        yscale="log",
        title=f"digits: mean of {SEEDS} seeds; bars: deviation at the end",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize="small")
    return figure


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0] if arguments else "build/training")
    logs: dict[str, list[list[Row]]] = {name: [] for name in METHODS}
    for seed in track(range(SEEDS), "seeds", console=Console(stderr=True)):
        for name in METHODS:
            logs[name].append(trained(name, seed, folder))
    console = Console(width=140, record=True)
    console.print(table(logs))
    (folder / "table.txt").write_text(console.export_text())
    plot(logs).savefig(folder / "training.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
