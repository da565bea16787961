"""Similarities and distances of two tensors along an axis: cosine_similarity, pairwise_distance, cdist.

New units would count in them, so they are taken over the old units alone (`guards.core` on both tensors before).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fxgrow.axes.layout import Layout, Leaf, leaves, resolve
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Law, Lookup, Moves
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of


class Compared(Law):
    """Two tensors broadcast against each other, compared along one axis, which goes; `cdist`: of all pairs of rows."""

    family = "reduction"

    def __init__(self, default: int | None = None, pairs: bool = False) -> None:
        self.default = default  # None: the axis is an argument, and 1 where it is left out
        self.pairs = pairs

    def axis(self, module: Any, argument: Lookup, rank: int) -> int:
        """The axis that two tensors are compared along, of the so many that they have together; from the end."""
        dim = self.default if self.default is not None else getattr(module, "dim", None)
        return axis_of(argument(2, "dim", 1) if dim is None else dim, rank) - rank

    def relate(self, op: Op) -> Tree:
        operands = op.operands()
        rank = max((operand.rank for operand in operands), default=0)
        axis = self.axis(op.module, op.argument, rank)
        if len(operands) != 2 or len(op.node.args) < 2 or any(operand.rank < -axis for operand in operands):
            return super().relate(op)
        first, second = operands
        op.unifier.unify(first.axes[axis], second.axes[axis])
        op.data.update(operands=operands, axis=axis)
        facing = [[t.axes[k] for t in operands if t.rank >= -k] for k in range(-rank, 0)]
        if self.pairs:
            return op.result([*map(op.unifier.broadcast, facing[:-2]), first.axes[-2], second.axes[-2]])
        axes = [op.unifier.broadcast(axes) for k, axes in enumerate(facing, -rank) if k != axis]
        if len(op.value.shape) == rank:
            axes.insert(rank + axis, op.unifier.constant(1))
        return op.result(axes)

    def statistics(self, op: Op) -> Iterable[Layout]:
        yield from (operand.axes[op.data["axis"]] for operand in op.data.get("operands", ()))

    def _over(self, op: Op, know: Knowledge) -> list[Leaf]:
        return know.growing(*self.statistics(op))

    def facts(self, op: Op, know: Knowledge) -> None:
        output = op.output
        kept = {leaf for axis in output.axes for leaf in leaves(axis)} if isinstance(output, Tensor) else set()
        for leaf in self._over(op, know):
            if leaf in kept:
                know.fail(op, leaf, "it is both kept and compared")
            elif leaf not in know.guarded:
                know.fail(op, leaf, f"{op.name} is taken over it", guardable=True)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to units that it leaves out."""
        return leaf not in self._over(op, moves.know)

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        if not any(leaf in know.guarded for leaf in self._over(op, know)):
            return []
        axis: int = op.data["axis"]
        return [
            Edit("core_input", {"axis": operand.rank + axis, "core": resolve(operand.axes[axis]), "operand": k})
            for k, operand in enumerate(op.data["operands"])
        ]
