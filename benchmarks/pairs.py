"""Grows models of timm to larger models of their families by `like`, where the sizes are those of a growth.

    python -m benchmarks.pairs [GLOB] --largest 60e6 --out pairs.jsonl     one JSON line a pair; goes on where it was
    python -m benchmarks.pairs --plan --largest 3e9 --out pairs.jsonl      planned on shapes alone, where too large
    python -m benchmarks.pairs --table --out pairs.jsonl                   the table of the documentation

A pair counts if the larger model has each tensor of the smaller one under its name, with no axis shorter. Steps from
one size to the next are tried, longer ones that they add up to are not. Images are 96 pixels wide where models
take them, weights random and moved away from trivial values, precision float64.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from fxgrow.zoo.images import bare
from fxgrow.zoo.nontrivial import lively
from fxgrow.zoo.sizes import parameters_of

import fxgrow
from fxgrow.catalogue import entries, find, without_weights
from fxgrow.errors import FxgrowError, first_line

Shapes = Mapping[str, tuple[int, ...]]
SIDE = 96


def shapes_of(name: str) -> Shapes | None:
    """The shapes of a model's parameters; None where it cannot be built without weights."""
    try:
        model = without_weights(name)
    except Exception:  # a constructor that reads values
        return None
    return {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}


def grows_into(small: Shapes, large: Shapes) -> bool:
    """Whether each tensor of a model is in another one, no axis of it shorter, and something is more there.

    >>> grows_into({"a": (2, 3)}, {"a": (4, 3), "b": (1,)}), grows_into({"a": (2, 3)}, {"a": (4, 2)})
    (True, False)
    """
    return small != large and all(
        name in large and len(large[name]) == len(shape) and all(map(int.__le__, shape, large[name]))
        for name, shape in small.items()
    )


def pairs(pattern: str, largest: float) -> Iterator[tuple[str, str, str]]:
    """Family, smaller and larger model: steps that no third size lies between; families of few small models first."""
    families: dict[str, list[tuple[int, str]]] = {}
    for entry in entries("timm"):
        if fnmatch.fnmatch(entry.name, pattern) and parameters_of(entry) <= largest:
            families.setdefault(entry.family, []).append((parameters_of(entry), entry.full_name))
    for family, sizes in sorted(families.items(), key=lambda item: sum(size for size, _ in item[1])):
        models: dict[str, Shapes] = {}
        for _, name in sorted(sizes):
            shapes = shapes_of(name)
            if shapes is not None and shapes not in models.values():  # others differ in settings alone
                models[name] = shapes
        into = {a: [b for b in models if grows_into(models[a], models[b])] for a in models}
        for small, others in into.items():
            for large in others:
                if not any(large in into[between] for between in others):
                    yield family, small, large


def tried(small: str, large: str, grow: bool) -> dict[str, Any]:
    """What came of one pair, grown and proved, or planned alone."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        model, options, inputs = bare(small, SIDE)
        target = without_weights(large, **options)
        if not grows_into(*({n: tuple(p.shape) for n, p in network.named_parameters()} for network in (model, target))):
            return {"outcome": "alike", "why": "they differ in the size of images alone"}
        shown = inputs[0] or inputs[1]
        if not grow:
            return {"outcome": "planned", **_unlike(fxgrow.plan(model, like=target, example_inputs=shown))}
        grown = fxgrow.grow(lively(find(small, **options)).double(), like=target, example_inputs=shown)
    except FxgrowError as error:
        return {"outcome": "refused", "why": str(error)}
    except Exception as error:
        return {"outcome": "failed", "why": f"{type(error).__name__}: {first_line(error)}"}
    step = fxgrow.report(grown)
    assert step.verification is not None and step.certificate is not None
    return {
        "outcome": "grown",
        "verdict": str(step.certificate.verdict),
        "error": max(step.verification.eval_error, step.verification.train_error),
        **_unlike(step.plan),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _unlike(plan: fxgrow.Plan) -> dict[str, Any]:
    """What will be other than the target's constructor makes it."""
    assert plan.like is not None
    settings = sorted({setting.attribute for setting in plan.like.settings})
    return {"settings": settings, "parts": len(plan.like.parts)}


def _alone(small: str, large: str, grow: bool, seconds: float) -> dict[str, Any]:
    """The same in a process of its own, which may die or take too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(tried(small, large, grow)))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else {"outcome": "failed", "why": f"over {seconds:g} s"}
    except EOFError:
        return {"outcome": "failed", "why": "the process died"}
    finally:
        process.kill()
        process.join()


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: a line for each pair."""
    rows = [row for row in rows if row["outcome"] != "alike"]
    done = [row for row in rows if row["outcome"] == "grown"]
    planned = [row for row in rows if row["outcome"] == "planned"]
    proved = sum(row["verdict"] == "PROVED" for row in done)
    plain = sum(not row["settings"] and not row["parts"] for row in done)
    worst = max((row["error"] for row in done), default=0.0)
    yield f"{len(done)} of {len(rows)} pairs grown, {proved} of them PROVED; {plain} need no setting and no part."
    yield f"{len(planned)} more were planned, on shapes alone."
    yield f"The largest error is {worst:.1e}."
    yield ""
    yield "| family | from | to | certificate | error | other than the target's constructor makes it, or why not |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: (row["family"], row["small"])):
        small, large = (row[key].removeprefix("timm/") for key in ("small", "large"))
        if row in done or row in planned:
            unlike = [f"`{name}`" for name in row["settings"]] + ([f"{row['parts']} norms"] if row["parts"] else [])
            error = f"{row['error']:.0e}" if row.get("error") else "0" if row in done else ""
            cells = [row.get("verdict", "planned"), error, ", ".join(unlike)]
        else:
            cells = [row["outcome"], "", row["why"].replace("|", "/")]
        yield f"| {row['family']} | {small} | {large} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="*", help="of names of models")
    parser.add_argument("--largest", type=float, default=30e6, help="parameters of a model at most")
    parser.add_argument("--seconds", type=float, default=600, help="for one pair at most")
    parser.add_argument("--plan", action="store_true", help="grow nothing: shapes alone, no certificate")
    parser.add_argument("--out", type=Path, default=Path("pairs.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there and try nothing")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table:
        print("\n".join(table(rows)))
        return
    done = {(row["small"], row["large"]) for row in rows}
    for family, small, large in pairs(options.pattern, options.largest):
        if (small, large) not in done:
            outcome = _alone(small, large, not options.plan, options.seconds)
            row = {"family": family, "small": small, "large": large, **outcome}
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
