"""Times capture, plans and growth beside another commit: python -m benchmarks.beside CHECKOUT [NAME ...]

CHECKOUT is a work tree of that commit with an environment of its own (`.venv`). Each model is measured in both in turn,
each time in a fresh process that has captured it once before. A row shows medians in seconds, there and here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.growing import AS_WIDE

HERE = Path(__file__).parents[1]
TURNS = 1

MEASURE = """
import json, statistics, sys, time, warnings
warnings.filterwarnings("ignore")
import timm, fxgrow
from fxgrow.capture import capture

def seconds(work, rounds):
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)

model = timm.create_model(sys.argv[1])
fxgrow.grow(model, 1.5, verify=False)
print(json.dumps({
    "capture": seconds(lambda: capture(model), 5),
    "plan": seconds(lambda: fxgrow.plan(model, 1.5), 5),
    "grow": seconds(lambda: fxgrow.grow(model, 1.5, verify=False), 3),
    "default": seconds(lambda: fxgrow.grow(model, 1.5), 3),
}))
"""


def measured(checkout: Path, name: str) -> dict[str, float]:
    """Seconds of each kind of work in a fresh process of a checkout."""
    command = [str(checkout / ".venv/bin/python"), "-c", MEASURE, name]
    printed = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout
    seconds: dict[str, float] = json.loads(printed.splitlines()[-1])
    return seconds


def main(reference: str, names: list[str]) -> None:
    print("| model | " + " | ".join(f"{kind} there | here | ratio" for kind in ("capture", "plan", "grow", "default")))
    print("| --- |" + " ---: |" * 12)
    for name in names:
        runs = {checkout: [measured(checkout, name) for _ in range(TURNS)] for checkout in (Path(reference), HERE)}
        cells = []
        for kind in ("capture", "plan", "grow", "default"):
            there, here = (statistics.median(run[kind] for run in taken) for taken in runs.values())
            cells.append(f"{there:.2f} | {here:.2f} | {here / there:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or list(AS_WIDE))
