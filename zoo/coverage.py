"""The table a sweep ends in: what was captured, grown and found, family by family."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from fxgrow.zoo.examine import Row
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def coverage(rows: Iterable[Row]) -> RenderableType:
    """A table of families, the failures by name, and totals."""
    found = list(rows)
    families: dict[str, list[Row]] = {}
    for row in sorted(found, key=lambda row: (row.task.family, row.task.model)):
        families.setdefault(row.task.family, []).append(row)
    table = Table(title="coverage by family", title_justify="left")
    table.add_column("family")
    for heading in (
        "models",
        "captured",
        "grown",
        "eval error",
        "train error",
        "proof",
        "ratio",
        "share",
        "plan s",
        "grow s",
    ):
        table.add_column(heading, justify="right")
    deeper = any(row.blocks[0] for row in found)
    if deeper:
        table.add_column("blocks", justify="right")
    table.add_column("what stays, and why", overflow="fold")
    for family, members in families.items():
        *cells, why = _cells(members)
        table.add_row(family, *cells, *([_blocks(members)] if deeper else []), why)
    bad = [row for row in found if not row.good]
    failures = [Text(f"{row.task.model} (width {row.task.width}): {row.status}: {_trouble(row)}") for row in bad]
    return Group(table, *failures, Text(_summary(found)))


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


def _blocks(rows: list[Row]) -> str:
    """Blocks in runs before and after, of all models together."""
    before, after = (sum(row.blocks[k] for row in rows) for k in (0, 1))
    return f"{before} → {after}" if before else ""


def _worst(errors: Iterable[float | None]) -> str:
    known = [error for error in errors if error is not None]
    return f"{max(known):.0e}" if known else ""


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
    ratios = [row.ratio for row in rows if row.tier]
    by_family: dict[str, list[float]] = {}
    for row in rows:
        if row.tier:
            by_family.setdefault(row.task.family, []).append(row.ratio)
    text = f"{len(good)} of {len(rows)} models, {len({row.task.family for row in good})} families"
    if ratios:
        median = statistics.median(statistics.median(family) for family in by_family.values())
        seconds = statistics.median(row.plan_seconds for row in rows if row.tier)
        text += f"; parameter ratio: median family {median:.2f}, worst model {min(ratios):.2f}; "
        text += f"planning: median {seconds:.1f} s"
    return text
