"""Gated linear units: one half of an axis times the sigmoid of the other."""

from __future__ import annotations

from fxgrow.axes.layout import Leaf
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Range, Terms, Want
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

    def terms(self, call: Call | Op) -> Terms:
        return Terms(call.operands(), tried=True)

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        """Zero where the first half is."""
        if want.fact is not Fact.ZERO or want.where is not None:
            return []
        return [[(op.tensor(), want.at(Range(op.data["axis"], 0, op.data["half"])))], [(op.tensor(), want)]]

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        known, first = know.ranged(op.tensor(), leaf), Range(op.data["axis"], 0, op.data["half"])
        return {None: Fact.ZERO} if Fact.ZERO in (known.get(None), known.get(first)) else {}
