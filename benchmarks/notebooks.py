"""Runs a notebook's code, and keeps its picture: python -m benchmarks.notebooks docs/notebooks/fine-tune.ipynb PICTURE

CIFAR-10 comes from the packed file in shared/data/ beside or above the repository, if there is one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.growth import cifar10


def run(notebook: Path) -> dict[str, Any]:
    """The names that a notebook leaves, after the code of its cells, one after the other."""
    if cifar10().exists():
        os.environ.setdefault("CIFAR10", str(cifar10()))
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook}, cell {number}", "exec"), names)
    return names


if __name__ == "__main__":
    figure = run(Path(sys.argv[1]))["figure"]
    for picture in sys.argv[2:]:
        figure.savefig(picture)
