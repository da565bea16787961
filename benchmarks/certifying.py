"""What a certificate costs, beside one forward pass: python -m benchmarks.certifying [--every N] [--most M] [PATTERN]

For the smallest model of each family, or of every Nth, of at most M million parameters: `fxgrow.certify(grown,
original)`, and one forward pass of the grown model on a batch of 8, both in seconds of processor time on one thread,
the shorter of two runs each. Part of the first is capturing the original anew, which the certificate that `grow`
attaches does without. Rows are printed as they are measured; the last line has the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from fxgrow.zoo.choice import chosen
from rich.console import Console
from rich.table import Table

import fxgrow
from fxgrow.capture import recapture
from fxgrow.capture.inputs import recalled
from fxgrow.catalogue import Entry, find
from fxgrow.errors import FxgrowError

BATCH = 8


class Row(NamedTuple):
    """Seconds of one model."""

    name: str
    verdict: str
    certify: float
    again: float
    forward: float


def seconds(work: Callable[[], object]) -> float:
    """The shorter of two runs, in processor time."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def measured(entry: Entry) -> Row | None:
    """One model, or None where it does not run on a batch of images or does not grow."""
    if entry.input_shape is None:
        return None
    try:
        model = find(entry.full_name).eval()
        grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, *entry.input_shape), verify=False)
    except FxgrowError as error:
        print(f"{entry.full_name}: {error}", flush=True)
        return None
    plan = fxgrow.report(grown).plan
    if plan.parts:
        return None
    x = torch.randn(BATCH, *entry.input_shape)
    with torch.no_grad():
        forward = seconds(lambda: grown.eval()(x))
    again = seconds(lambda: recapture(model, recalled(plan.inputs)))
    verdict = str(fxgrow.certify(grown, model).verdict)
    return Row(entry.full_name, verdict, seconds(lambda: fxgrow.certify(grown, model)), again, forward)


def rows(pattern: str, every: int, most: float) -> Iterator[Row]:
    for entry in chosen(pattern=pattern, at_most=most)[::every]:
        row = measured(entry)
        if row is not None:
            print(f"{row.name} {row.certify:.3f} {row.again:.3f} {row.forward:.3f}", flush=True)
            yield row


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--most", type=float, default=1000.0, metavar="MILLIONS")
    options = parser.parse_args(arguments)
    results = list(rows(options.pattern, options.every, options.most))
    table = Table(title=f"processor seconds on one thread; the forward pass is of a batch of {BATCH}")
    for heading in ("model", "verdict", "certify", "of it, capturing again", "forward", "certify / forward"):
        table.add_column(heading, justify="left" if heading in ("model", "verdict") else "right")
    for row in sorted(results, key=lambda row: row.certify / row.forward):
        times = (f"{value:.2f}" for value in (row.certify, row.again, row.forward))
        table.add_row(row.name, row.verdict, *times, f"{row.certify / row.forward:.2f}")
    Console().print(table)
    with_capture = statistics.median(row.certify / row.forward for row in results)
    inside = statistics.median((row.certify - row.again) / row.forward for row in results)
    print(f"median of {len(results)} families: {with_capture:.2f} forward passes; without capturing again {inside:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
