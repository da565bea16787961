"""The table at the end of a sweep: what was captured, what grew and what failed, family by family."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fxgrow.zoo.examine import Row
from rich.console import Group, RenderableType
from rich.text import Text

from fxgrow.grouping import grouped
from fxgrow.pages import titled


def coverage(rows: Iterable[Row]) -> RenderableType:
    """A table of families, the failures by name, and totals."""
    findings = list(rows)
    in_order = sorted(findings, key=lambda row: (row.task.family, row.task.model))
    widths, deeper = len(_widths(findings)) > 1, any(row.blocks[0] for row in findings)
    right = ["models", "captured", "grown", "eval error", "train error", "proof", "ratio", "share", "plan s", "grow s"]
    right += ["width"] * widths + ["blocks"] * deeper
    table = titled("coverage by family", "family", right=right)
    table.add_column("what stays, and why", overflow="fold")
    for family, members in grouped((row.task.family, row) for row in in_order).items():
        *cells, why = _cells(members)
        further = [", ".join(_widths(members))] if widths else []
        further += [_blocks(members)] if deeper else []
        table.add_row(family, *cells, *further, why)
    bad = [row for row in findings if not row.good]
    failures = [Text(f"{row.task.model} (width {row.task.width}): {row.status}: {_trouble(row)}") for row in bad]
    return Group(table, *failures, Text(_summary(findings)))


def newest(rows: Iterable[Row]) -> list[Row]:
    """One row a model, of the findings of several sweeps: the last that is good, or the last."""
    by_model: dict[str, Row] = {}
    for row in rows:
        earlier = by_model.get(row.task.model)
        if earlier is None or row.good or not earlier.good:
            by_model[row.task.model] = row
    return list(by_model.values())


def write_models(rows: Iterable[Row], path: Path) -> None:
    """What was found of each model, as a CSV file with a line for each, by name."""
    lines = [_line(row) for row in sorted(rows, key=lambda row: row.task.model)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=lines[0] if lines else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _line(row: Row) -> dict[str, object]:
    task = {name: getattr(row.task, name) for name in ("model", "family", "width", "depth", "init", "side")}
    outcome = {name: getattr(row, name) for name in ("status", "tier", "parameters", "grown_parameters")}
    return {
        **task,
        **outcome,
        "share": f"{row.share:.4f}",
        "eval_error": _worst([row.eval_error]),
        "train_error": _worst([row.train_error]),
        "verdict": row.verdict,
        "plan_seconds": f"{row.plan_seconds:.1f}",
        "grow_seconds": f"{row.grow_seconds:.1f}",
        "cause": _trouble(row),
    }


def _cells(rows: list[Row]) -> list[str]:
    captured = [row for row in rows if row.tier]
    tiers = sorted({row.tier for row in captured})
    good = [row for row in rows if row.good]
    return [
        str(len(rows)),
        f"{len(captured)} (tier {', '.join(map(str, tiers))})" if captured else "0",
        str(len(good)),
        _worst(row.eval_error for row in rows),
        _worst(row.train_error for row in rows),
        _verdicts(rows),
        _spread([row.ratio for row in captured]),
        f"{min(row.share for row in captured):.0%}" if captured else "",
        f"{statistics.median(row.plan_seconds for row in captured):.1f}" if captured else "",
        f"{statistics.median(row.grow_seconds for row in captured):.1f}" if captured else "",
        reasons(rows),
    ]


def _widths(rows: Iterable[Row]) -> list[str]:
    """The amounts of width that models were grown by."""
    return sorted({row.task.width for row in rows})


def _blocks(rows: list[Row]) -> str:
    """Blocks in runs before and after, of all models together."""
    before, after = (sum(row.blocks[k] for row in rows) for k in (0, 1))
    return f"{before} → {after}" if before else ""


def _worst(errors: Iterable[float | None]) -> str:
    measured = [error for error in errors if error is not None]
    return f"{max(measured):.0e}" if measured else ""


def _verdicts(rows: Iterable[Row]) -> str:
    counted = Counter(row.verdict for row in rows if row.verdict)
    if len(counted) == 1:
        return next(iter(counted))
    return ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common())


def _spread(ratios: list[float]) -> str:
    if not ratios:
        return ""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def reasons(rows: Iterable[Row], most: int = 2) -> str:
    """What ties the largest held dimensions, most frequent first."""
    counted: Counter[str] = Counter()
    for row in rows:
        for _, places, _, reason in row.held:
            if "another factor" not in reason:
                counted[reason.partition(" (at ")[0]] += places
    return "; ".join(text for text, _ in counted.most_common(most))


def _trouble(row: Row) -> str:
    return row.cause or ", ".join(row.dead)


def _summary(rows: list[Row]) -> str:
    good = [row for row in rows if row.good]
    text = f"{len(good)} of {len(rows)} models, {len({row.task.family for row in good})} families"
    captured = [row for row in rows if row.tier]
    widths = _widths(captured)
    for width in widths:
        at = f" at width {width}" if len(widths) > 1 else ""
        text += f"; parameter ratio{at}: {_ratios([row for row in captured if row.task.width == width])}"
    if captured:
        text += f"; planning: median {statistics.median(row.plan_seconds for row in captured):.1f} s"
    return text


def _ratios(rows: list[Row]) -> str:
    by_family = grouped((row.task.family, row.ratio) for row in rows)
    median = statistics.median(statistics.median(family) for family in by_family.values())
    return f"median family {median:.2f}, worst model {min(row.ratio for row in rows):.2f}"
