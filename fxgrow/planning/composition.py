"""Two growths of one tensor as one: it first reads new channels, then becomes wider."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

from fxgrow.errors import PlanError
from fxgrow.planning.plan import Axis, TensorGrowth


def joined(first: Mapping[str, TensorGrowth], then: tuple[TensorGrowth, ...]) -> tuple[TensorGrowth, ...]:
    """Growths of tensors that first read new channels and then become wider, as one each."""
    result = []
    for growth in then:
        before = first.get(growth.name)
        if before is None:
            result.append(growth)
            continue
        axes = tuple(composed(a, b) for a, b in zip(before.axes, growth.axes, strict=True))
        result.append(replace(growth, axes=axes))
    done = {growth.name for growth in then}
    return (*result, *(growth for name, growth in first.items() if name not in done))


def composed(first: Axis, then: Axis) -> Axis:
    """Two growths of one axis as one.

    >>> first = Axis("join", 3, 5, parts=(Axis("grow", 2, 4, "a", "silence"), Axis("keep", 1, 1)))
    >>> then = Axis("join", 5, 6, parts=(Axis("keep", 4, 4), Axis("grow", 1, 2, "b", "draw")))
    >>> [(part.kind, part.old, part.new) for part in composed(first, then).parts]
    [('join', 2, 4), ('grow', 1, 2)]
    """
    runs = list(_origins(first))
    if all(fill is None for fill in runs):
        return then
    return _composed(runs, then)


_Origin = tuple[str, str] | None
"""Of one position: None where it is old, else the group and the fill of the run that it is of."""


def _origins(axis: Axis) -> list[_Origin]:
    if axis.kind == "keep":
        return [None] * axis.new
    if axis.kind == "grow":
        return [None] * axis.old + [(axis.group, axis.fill)] * (axis.new - axis.old)
    if axis.kind == "join":
        return [origin for part in axis.parts for origin in _origins(part)]
    result: list[_Origin] = [None]
    for part in axis.parts:
        inner = _origins(part)
        result = [outer or origin for outer in result for origin in inner]
    return result


def _composed(origins: list[_Origin], then: Axis) -> Axis:
    if all(origin is None for origin in origins):
        return then
    if then.kind == "join":
        cuts = [0, *itertools.accumulate(part.old for part in then.parts)]
        pieces = [origins[a:b] for a, b in itertools.pairwise(cuts)]
        return _joined([_composed(o, part) for o, part in zip(pieces, then.parts, strict=True)])
    if then.kind == "product":
        return _product(origins, then)
    parts = []
    for origin, same in itertools.groupby(origins):
        size = len(list(same))
        parts.append(Axis("keep", size, size) if origin is None else Axis("grow", 0, size, *origin))
    if then.kind == "grow":  # its further units are of the run that ends it
        end = parts.pop()
        further = then.new - then.old
        if end.kind == "keep":
            parts.append(Axis("grow", end.old, end.new + further, then.group, then.fill))
        else:
            parts.append(Axis("grow", 0, end.new + further, end.group, end.fill))
    return _joined(parts)


def _product(origins: list[_Origin], then: Axis) -> Axis:
    """One factor of a product has new positions; the others are as they were."""
    for number, part in enumerate(then.parts):
        inner = math.prod(factor.old for factor in then.parts[number + 1 :])
        along = [origins[k * inner] for k in range(part.old)]
        expanded = [along[k // inner % part.old] for k in range(len(origins))]
        if expanded == origins:
            parts = tuple(_composed(along, p) if p is part else p for p in then.parts)
            return Axis("product", math.prod(p.old for p in parts), math.prod(p.new for p in parts), parts=parts)
    raise PlanError(
        "channels of new layers are one factor among several of an axis that grow",
        remedy="grow in depth first, then in width",
    )


def _joined(parts: list[Axis]) -> Axis:
    if len(parts) == 1:
        return parts[0]
    return Axis("join", sum(p.old for p in parts), sum(p.new for p in parts), parts=tuple(parts))
