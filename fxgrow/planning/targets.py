"""From a small model to a large one built alike: which dimensions differ, and by how much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fxgrow.axes.layout import Layout, Leaf, leaves
from fxgrow.errors import PlanError
from fxgrow.planning.analysis import OUTPUT, Analysis
from fxgrow.planning.sizes import DimensionPlace

_ALIKE = "build both with the same code, and give the sizes that differ as arguments"


@dataclass(frozen=True)
class Distance:
    """A dimension of the small model, and its size in the large one."""

    dimension: DimensionPlace
    leaf: Leaf
    last: int


Names = tuple[str, str]
PAIR = ("small model", "large model")
"""What a schedule's two models are called; classes are asked for beside a target alone."""
"""What errors call the small model and the large one."""


def distances(small: Analysis, large: Analysis, names: Names = PAIR) -> list[Distance]:
    """The dimensions in which a large model is larger than a small one, each once, in order.

    Raises
    ------
    PlanError: the two are not built alike, or the large one is smaller somewhere, or a dimension that cannot grow
        differs.
    """
    _check_same_parameters(small, large, names)
    last: dict[Leaf, int] = {}
    first: dict[Leaf, DimensionPlace] = {}
    for name, tensor in small.parameters.items():
        counterpart = large.parameters[name]
        for axis, (layout, target) in enumerate(zip(tensor.axes, counterpart.axes, strict=True)):
            for part, (leaf, size) in enumerate(_paired(f"{name}[{axis}]", layout, target, names)):
                dimension = DimensionPlace(name, axis, part, len(list(leaves(layout))))
                if last.setdefault(leaf, size) != size:
                    raise PlanError(
                        f"a dimension of {leaf.size} is {last[leaf]} at {first[leaf]} of the {names[1]} "
                        f"and {size} here, but it is one dimension of the {names[0]}"
                        + _joined_by(small, large, leaf, names),
                        where=str(dimension),
                        remedy="give the parts that share it one size",
                    )
                first.setdefault(leaf, dimension)
                _check_free(leaf, size, dimension, names)
    return [Distance(first[leaf], leaf, size) for leaf, size in last.items() if size > leaf.size]


def _joined_by(small: Analysis, large: Analysis, leaf: Leaf, names: Names) -> str:
    """What makes two dimensions of the small model one that are two in the large model, where that shows."""
    calls = Counter((str(op.node.meta.get("module_path", "")), op.name) for op in large.ops)
    for op in small.ops:
        part = str(op.node.meta.get("module_path", ""))
        calls[part, op.name] -= 1
        if calls[part, op.name] < 0 and sum(leaf in tensor.leaves() for tensor in op.operands()) > 1:
            where = f"{part} of the {names[0]}" if part else f"the {names[0]}"
            return f", as {where} has {op.name} of two tensors with it, which the {names[1]} has not"
    return ""


def _check_same_parameters(small: Analysis, large: Analysis, names: Names) -> None:
    for first, second, which in ((small, large, names[1]), (large, small, names[0])):
        missing = next((name for name in first.parameters if name not in second.parameters), None)
        if missing is not None:
            raise PlanError(f"the {which} has no such parameter", where=missing, remedy=_ALIKE)
    for name, tensor in small.parameters.items():
        if tensor.rank != large.parameters[name].rank:
            raise PlanError(
                f"it has {tensor.rank} axes in the {names[0]} and {large.parameters[name].rank} in the {names[1]}",
                where=name,
                remedy=_ALIKE,
            )


def _paired(where: str, small: Layout, large: Layout, names: Names) -> list[tuple[Leaf, int]]:
    """The parts of an axis of the small model, each with its size in the large one."""
    parts, others = list(leaves(small)), list(leaves(large))
    if len(parts) == len(others):
        return [(leaf, larger.size) for leaf, larger in zip(parts, others, strict=True)]
    if small.size == large.size:
        return [(leaf, leaf.size) for leaf in parts]
    raise PlanError(
        f"the axis has {len(parts)} parts in the {names[0]} and {len(others)} in the {names[1]}",
        where=where,
        remedy=_ALIKE,
    )


def _check_free(leaf: Leaf, size: int, dimension: DimensionPlace, names: Names) -> None:
    if size < leaf.size:
        raise PlanError(
            f"a dimension is {leaf.size} in the {names[0]} and only {size} in the {names[1]}",
            where=str(dimension),
            remedy=f"let the {names[0]} be the smaller one in every dimension",
        )
    if size > leaf.size and leaf.reason is not None:
        raise PlanError(
            f"a dimension is {leaf.size} in the {names[0]} and {size} in the {names[1]}, but it cannot grow: "
            f"{leaf.reason}",
            where=str(dimension),
            remedy=f"pass classes={size} if these are classes, or give that part the same size in both"
            if str(leaf.reason) == OUTPUT and names != PAIR
            else "give that part the same size in both",
        )
