"""The readout: where a residual stream is itself an output, what reads it so that it can grow all the same."""

from __future__ import annotations

from typing import Any

from fxgrow.axes.layout import Reason, resolve
from fxgrow.proof.node_pair import Use, plain
from fxgrow.proof.rules.contraction import readout
from fxgrow.rules.contraction import Contraction, MatrixProduct
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of

_LETTERS = "abcdefgh"


class Readout(MatrixProduct):
    """`guards.readout`: the core units of an axis, plus a linear map of all units of it. Weight `[core, units]`."""

    def _for(self, op: Op) -> Contraction:
        rank, axis = op.tensor(0, "x").rank, _axis(op)
        read, made = ([("i" if made else "u") if k == axis else _LETTERS[k] for k in range(rank)] for made in (0, 1))
        return Contraction((" ".join(read), "i u"), " ".join(made), _operands)

    def relate(self, op: Op) -> Tree:
        output = super().relate(op)
        op.unifier.fix(
            op.data["binding"].names["i"], Reason("a readout keeps the size of an output", op.place, quiet=True)
        )
        return output

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        layout = resolve(op.tensor(0, "x").axes[_axis(op)])
        if not know.growing(layout):
            return []
        return [Edit("core", {"path": op.path(3, "core"), "core": layout, "old": op.argument(3, "core")})]

    def prove(self, use: Use) -> Any:
        use.same_numbers({"core"}, (3,))
        axis = int(plain(use.argument(2, "dim")).new)
        return readout(use, use.claim(0, "x"), use.claim(1, "weight"), axis, plain(use.argument(3, "core")))


def _axis(op: Op) -> int:
    """The axis that a readout reads."""
    return axis_of(int(op.argument(2, "dim")), op.tensor(0, "x").rank)


def _operands(op: Op) -> list[Tensor | None]:
    return [op.tensor(0, "x"), op.tensor(1, "weight")]
