"""Gated linear units: one half of an axis times the sigmoid of the other."""

from __future__ import annotations

from fxgrow.axes.layout import Leaf
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Range, Want
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of


class GatedUnit(Law):
    """`F.glu` and `nn.GLU`: the halves of an axis grow alike."""

    family = "pointwise"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        axis = axis_of(op.setting(1, "dim", -1), x.rank)
        half = x.shape[axis] // 2
        first, second = op.unifier.split(x.axes[axis], [half, half])
        op.unifier.unify(first, second)
        op.data.update(axis=axis, half=half, kind="multiply")
        return op.result([first if k == axis else x.axes[k] for k in range(x.rank)])

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        """Zero where the first half is."""
        if want.fact is not Fact.ZERO or want.where is not None:
            return []
        return [[(op.tensor(), want.at(Range(op.data["axis"], 0, op.data["half"])))], [(op.tensor(), want)]]

    def facts(self, op: Op, know: Knowledge) -> None:
        output = op.output
        assert isinstance(output, Tensor)
        first = Range(op.data["axis"], 0, op.data["half"])
        for leaf in know.growing(*output.axes):
            if Fact.ZERO in self._known(op, know, leaf, first):
                know.learn(output, leaf, Fact.ZERO)

    @staticmethod
    def _known(op: Op, know: Knowledge, leaf: Leaf, first: Range) -> set[Fact | None]:
        known = know.ranged(op.tensor(), leaf)
        return {known.get(None), known.get(first)}
