"""The readout: reads a residual stream that is itself an output, so that the stream can grow all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxgrow.axes.layout import Reason
from fxgrow.rules.calls import Call
from fxgrow.rules.contraction import MatrixProduct
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Terms, moved_core
from fxgrow.rules.op import Op, Tree
from fxgrow.rules.shape import axis_of

_LETTERS = "abcdefgh"


class Readout(MatrixProduct):
    """`guards.readout`: the core units of an axis, plus a linear map of all units of it. Weight `[core, units]`."""

    argument = (2, "dim", None)

    def patterns(self, ranks: Sequence[int], argument: Any) -> tuple[tuple[str, ...], str]:
        rank, axis = ranks[0], axis_of(int(argument), ranks[0])
        read, made = (" ".join(letter if k == axis else _LETTERS[k] for k in range(rank)) for letter in "ui")
        return (read, "i u"), made

    def factors(self, op: Any) -> list[Any]:
        return [op.tensor(0, "x"), op.tensor(1, "weight")]

    def terms(self, call: Call | Op) -> Terms | None:
        return None  # units are taken out as well

    def relate(self, op: Op) -> Tree:
        output = super().relate(op)
        op.unifier.fix(
            op.data["binding"].names["i"], Reason("a readout keeps the size of an output", op.place, quiet=True)
        )
        return output

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return moved_core(op, know, op.tensor(0, "x").axes[int(op.argument(2, "dim"))], 3)
