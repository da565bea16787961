"""How many parameters each model of the catalogue has, measured once and shipped, so that choosing among them is cheap.

`python -m fxgrow.zoo.sizes` measures every model anew, on the meta device, and writes the table beside this file.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from fxgrow.catalogue import Entry, entries, without_weights
from fxgrow.modules.tensors import parameter_count

TABLE = Path(__file__).with_name("sizes.csv")


@functools.cache
def _table() -> dict[str, int]:
    with TABLE.open(newline="") as file:
        return {name: int(size) for name, size in csv.reader(file)}


def parameters_of(entry: Entry) -> int:
    """The number of parameters of a model; those of a newer library than the table knows are measured."""
    listed = _table().get(entry.full_name)
    return listed if listed is not None else measured(entry)


def measured(entry: Entry) -> int:
    """The number of parameters, counted."""
    return parameter_count(without_weights(entry.full_name))


def main() -> None:
    """Measure every model and write the table."""
    rows = [(entry.full_name, measured(entry)) for entry in entries()]
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
