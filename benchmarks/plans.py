"""Plans of many models, to compare commits: python -m benchmarks.plans dump DIR [...], compare DIR DIR, ...

`dump` writes the plan of each model to a JSON file, {"error": ...} where there is none, and leaves out what is there
already. `compare` prints the fields in which plans differ, and fails if any does; "nodes" stands for what follows
from how a model is captured: names of nodes, and reasons that say at which node. `forms DIR` counts how models come
back; `sizes DIR DIR` fails if a model is to have fewer parameters by a plan of the second than by that of the first.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fxgrow.zoo.choice import chosen

import fxgrow
from fxgrow.catalogue import without_weights
from fxgrow.errors import first_line

NODES = ("nodes", "places", "regions")
"""Fields that hold names of nodes, wherever they are in a plan."""


def dump(folder: Path, names: list[str], width: str | None, depth: str | None, form: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name.replace('/', '.')}.json"
        if not path.exists():
            try:
                text = fxgrow.plan(without_weights(name), width, depth, form=form).to_json(indent=1)
            except Exception as error:  # a crash is a finding, too
                text = json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"})
            path.write_text(text + "\n")
            print(name, flush=True)


def without_nodes(value: Any) -> Any:
    if isinstance(value, dict):
        without = {key: without_nodes(item) for key, item in value.items() if key not in NODES}
        return {**without, "reason": without["reason"].partition(" (at ")[0]} if "reason" in without else without
    return [without_nodes(item) for item in value] if isinstance(value, list) else value


def place_of(first: Any, second: Any) -> str:
    """The first place in which two values differ, and how."""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if isinstance(first, dict) and isinstance(second, dict):
        key = next(
            key for key in (*first, *second) if key not in first or key not in second or first[key] != second[key]
        )
        return f"{key}: {place_of(first.get(key), second.get(key))}"
    lengths = (
        f" ({len(first)} and {len(second)} of them)" if isinstance(first, list) and isinstance(second, list) else ""
    )
    return f"{str(first)[:100]} | {str(second)[:100]}{lengths}"


def compare(before: Path, after: Path) -> int:
    counts: Counter[str] = Counter()
    for file in sorted({path.name for folder in (before, after) for path in folder.glob("*.json")}):
        plans = [json.loads((f / file).read_text()) if (f / file).exists() else {} for f in (before, after)]
        pairs = {key: [plan.get(key) for plan in plans] for key in plans[0] | plans[1]}
        differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        beyond = {k: (a, b) for k, (a, b) in differing.items() if without_nodes({k: a}) != without_nodes({k: b})}
        counts["different" if beyond else "nodes" if differing else "same"] += 1
        for key, pair in (beyond or differing).items():
            print(f"{file.removesuffix('.json')}: {'' if beyond else 'nodes: '}{key}: {place_of(*pair)}")
    print(", ".join(f"{kind}: {counts[kind]}" for kind in ("same", "nodes", "different")))
    return 1 if counts["nodes"] or counts["different"] else 0


def sizes(before: Path, after: Path) -> int:
    """Which models get fewer parameters by the second plan than by the first, of those that have both."""

    def grown(folder: Path) -> dict[str, int]:
        plans = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        return {name: plan["totals"]["parameters_after"] for name, plan in plans.items() if "totals" in plan}

    then, now = grown(before), grown(after)
    common = [name for name in then if (after / f"{name}.json").exists()]
    smaller = [name for name in common if now.get(name, 0) < then[name]]
    for name in smaller:
        print(f"{name}: {then[name]:,} and {now.get(name, 0):,}")
    print(f"of {len(common)} models, smaller: {len(smaller)}, larger: {sum(now.get(n, 0) > then[n] for n in common)}")
    return 1 if smaller else 0


def forms(folder: Path) -> int:
    """How many of the models come back in their own class, and what stands in the way of the others."""
    counts: Counter[str] = Counter()
    others = []
    for path in sorted(folder.glob("*.json")):
        plan = json.loads(path.read_text())
        form = "not at all" if "error" in plan else "in parts" if plan["parts"] else plan["form"]
        if form == "graph" and plan["obstacle"] is None:
            form = "nothing grows"
        counts[form] += 1
        if form in ("graph", "not at all"):
            obstacle = plan.get("obstacle") or {"what": plan["error"], "where": ""}
            others.append(f"| {path.stem} | {form} | {obstacle['what'].partition(': pass')[0]} | {obstacle['where']} |")
    print(", ".join(f"{form}: {count}" for form, count in counts.most_common()))
    print("\n| model | comes back | what stands in the way | where |\n| --- | --- | --- | --- |", *others, sep="\n")
    return 0


def main(arguments: list[str]) -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    dumping, comparing = commands.add_parser("dump"), commands.add_parser("compare")
    dumping.add_argument("folder", type=Path)
    dumping.add_argument("--width", help="1.5 unless there is a depth")
    dumping.add_argument("--depth")
    dumping.add_argument("--form", default="auto", choices=("auto", "module", "graph"))
    dumping.add_argument(
        "--filter", action="append", metavar="GLOB", help="names of models, repeatable; all if left out"
    )
    dumping.add_argument("--families", action="store_true", help="only the smallest model of each family")
    dumping.add_argument("--most", type=float, default=float("inf"), metavar="MILLIONS", help="of parameters")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    sizing = commands.add_parser("sizes")
    sizing.add_argument("before", type=Path)
    sizing.add_argument("after", type=Path)
    commands.add_parser("forms").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "compare":
        return compare(options.before, options.after)
    if options.command == "sizes":
        return sizes(options.before, options.after)
    if options.command == "forms":
        return forms(options.folder)
    sample = "smallest-per-family" if options.families else "all"
    samples = [chosen(None, pattern, sample, at_most=options.most) for pattern in options.filter or ["*"]]
    names = dict.fromkeys(entry.full_name for entries in samples for entry in entries)
    dump(options.folder, list(names), options.width or (None if options.depth else "1.5"), options.depth, options.form)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
