"""What a narrower model keeps of a wide one: the first units of each dimension, and numbers that follow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxgrow.axes.layout import Join, Layout, Leaf, resolve
from fxgrow.curves import nearest_even, rounded
from fxgrow.planning.analysis import Analysis, reading_places
from fxgrow.planning.numbers import Loose, number_edits, size_attributes
from fxgrow.planning.plan import AttributeEdit, NodeEdit
from fxgrow.planning.sizing import Sizing, blocks, producing_places, settle_equal_sizes, size_after


@dataclass(frozen=True)
class NarrowTensor:
    """What is kept of a parameter or buffer: positions on each axis, and a factor for the entries."""

    positions: tuple[tuple[int, ...], ...]
    scale: float


@dataclass(frozen=True)
class Narrowing:
    """How a model becomes narrower. Only names and sizes: weights are taken by `fxgrow.transforms.narrow`."""

    tensors: Mapping[str, NarrowTensor]
    nodes: tuple[NodeEdit, ...]
    attributes: tuple[AttributeEdit, ...]

    @classmethod
    def of(cls, analysis: Analysis, sizes: Mapping[Leaf, int]) -> Narrowing:
        """Take these sizes where they are free to be taken; a dimension that numbers are tied to keeps its size."""
        sizing = Sizing(dict(sizes), {})
        settle_equal_sizes(analysis, sizing)
        while True:
            try:
                nodes = tuple(number_edits(analysis, sizing.growth))
                break
            except Loose as loose:
                if not loose.leaves:
                    raise
                for leaf in loose.leaves:
                    sizing.growth.pop(leaf, None)
        return cls(
            dict(_tensors(analysis, sizing.growth)),
            nodes,
            tuple(dict.fromkeys(size_attributes(analysis, sizing.growth))),
        )


def narrow_sizes(analysis: Analysis, growable: Iterable[Leaf], start: float) -> dict[Leaf, int]:
    """Sizes at `start` of the width: in each product of which a factor can grow, one factor becomes smaller.

    The nearest even number, and at least two, since a dimension of one is broadcast and could never grow. Of heads
    and head width it is the one that comes closest.
    """
    able = set(growable)
    sizes: dict[Leaf, int] = {}
    seen: set[Leaf] = set()
    for _, layout in producing_places(analysis):
        for block in blocks(layout):
            free = [leaf for leaf in dict.fromkeys(block) if not leaf.fixed]
            if not able.intersection(free) or seen.intersection(free):
                continue
            seen.update(free)
            candidates = {
                leaf: max(2, rounded(leaf.size * start) if len(free) > 1 else nearest_even(leaf.size * start))
                for leaf in free
            }
            best = min(free, key=lambda leaf: abs(candidates[leaf] / leaf.size - start))
            if candidates[best] < best.size:
                sizes[best] = candidates[best]
    return sizes


def _tensors(analysis: Analysis, sizes: dict[Leaf, int]) -> list[tuple[str, NarrowTensor]]:
    weights = {t.parameter for op in analysis.ops for t, role in op.roles if role == "weight"}
    reading = reading_places(analysis)
    narrowed = []
    for name, tensor in analysis.parameters.items():
        positions = tuple(_kept(axis, sizes) for axis in tensor.axes)
        if all(len(staying) == axis.size for staying, axis in zip(positions, tensor.axes, strict=True)):
            continue
        read = [a for k, a in enumerate(tensor.axes) if name in weights and (name, k) in reading]
        ratio = math.prod(axis.size / size_after(axis, sizes) for axis in read)
        narrowed.append((name, NarrowTensor(tuple(map(tuple, positions)), math.sqrt(ratio))))
    return narrowed


def _kept(layout: Layout, sizes: dict[Leaf, int]) -> list[int]:
    """Positions of the units that stay, in order."""
    layout = resolve(layout)
    if isinstance(layout, Leaf):
        return list(range(sizes.get(layout, layout.size)))
    if isinstance(layout, Join):
        starts = itertools.accumulate((part.size for part in layout.parts), initial=0)
        return [start + unit for part, start in zip(layout.parts, starts, strict=False) for unit in _kept(part, sizes)]
    result = [0]
    for factor in layout.parts:
        inner = _kept(factor, sizes)
        result = [outer * factor.size + unit for outer in result for unit in inner]
    return result
