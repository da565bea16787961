"""Similarities and distances of two tensors along an axis: cosine_similarity, pairwise_distance, cdist.

New units would count in them, so that they are taken over the old ones alone (`guards.core` before both).
"""

from __future__ import annotations

from collections.abc import Iterable

from fxgrow.axes.layout import Layout, Leaf, leaves, resolve
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Law
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of


class Compared(Law):
    """Two tensors broadcast against each other, compared along one axis, which goes; `cdist`: of all pairs of rows."""

    family = "reduction"

    def __init__(self, default: int | None = None, pairs: bool = False) -> None:
        self.default = default  # None: the axis is an argument, and 1 where it is left out
        self.pairs = pairs

    def relate(self, op: Op) -> Tree:
        operands = op.operands()
        if len(operands) != 2 or len(op.node.args) < 2 or operands[0].rank != operands[1].rank:
            return super().relate(op)
        rank = operands[0].rank
        given = (
            self.default if self.default is not None else getattr(op.module, "dim", None) or op.argument(2, "dim", 1)
        )
        axis = axis_of(given, rank)
        one, two = operands
        op.unifier.unify(one.axes[axis], two.axes[axis])
        op.data.update(operands=operands, axis=axis)
        if self.pairs:
            lead = [op.unifier.broadcast([one.axes[k], two.axes[k]]) for k in range(rank - 2)]
            return op.result([*lead, one.axes[-2], two.axes[-2]])
        axes: list[Layout] = [op.unifier.broadcast([one.axes[k], two.axes[k]]) for k in range(rank) if k != axis]
        if len(op.value.shape) == rank:
            axes.insert(axis, op.unifier.constant(1))
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

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        if not any(leaf in know.guarded for leaf in self._over(op, know)):
            return []
        axis = op.data["axis"]
        cores = [resolve(operand.axes[axis]) for operand in op.data["operands"]]
        return [Edit("core_input", {"axis": axis, "core": core, "operand": k}) for k, core in enumerate(cores)]
