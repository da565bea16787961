"""Products of two tensors in other spellings: with a tensor added, over named axes, of all pairs; readouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fxgrow.axes.layout import Reason
from fxgrow.rules.calls import Call
from fxgrow.rules.contraction import MatrixProduct, Patterns
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Lookup, Terms, moved_core
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of

_LETTERS = "abcdefghijklmnop"

Letters = tuple[str, str, str]
"""The letters of both operands and of the output, one an axis."""


class Lettered(MatrixProduct):
    """A sum of products whose axes are named by letters; `spelled` finds them from both ranks and the last argument."""

    called = "sum of products"

    def __init__(
        self, spelled: Callable[[int, int, Any], Letters], *given: str, third: str = "", default: Any = None
    ) -> None:
        super().__init__(*given)
        self.spelled = spelled
        self.third = third, default

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        name, default = self.third
        letters = self.spelled(ranks[0], ranks[1], look(2, name, default) if name else default)
        left, right, made = map(" ".join, letters)
        return (left, right), made, None


def tensordot(first: int, second: int, dims: Any) -> Letters:
    """`tensordot`: over the last axes of one and the first of the other, or over pairs of axes.

    >>> tensordot(2, 3, ([1], [2]))
    ('ab', 'cdb', 'acd')
    """
    pairs = (list(range(first - dims, first)), list(range(dims))) if isinstance(dims, int) else dims
    left = list(_LETTERS[:first])
    right = list(_LETTERS[first : first + second])
    for left_axis, right_axis in zip(*pairs, strict=True):
        right[right_axis] = left[left_axis]
    made = [letter for letter in (*left, *right) if not (letter in left and letter in right)]
    return "".join(left), "".join(right), "".join(made)


def inner(first: int, second: int, _: Any) -> Letters:
    """`inner`: over the last axis of both."""
    return tensordot(first, second, ([first - 1], [second - 1]))


def outer(first: int, second: int, _: Any) -> Letters:
    """`outer`: every entry of one times every entry of the other."""
    return tensordot(first, second, 0)


class AddedProduct(MatrixProduct):
    """`addmm`, `baddbmm`, `addmv`: a product of matrices, plus a tensor that may be broadcast."""

    def __init__(self, letters: Letters, *given: str) -> None:
        super().__init__(*given)
        self.letters = letters

    def operands(self, op: Any) -> tuple[list[Any], Any]:
        return [op.tensor(k, name) for k, name in enumerate(self.given, 1)], op.tensor()

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        left, right, made = map(" ".join, self.letters)
        return (left, right), made, made

    def terms(self, call: Call | Op) -> Terms | None:
        factors, added = self.operands(call)
        return Terms([added], factors[::-1], [added] if call.argument(9, "beta", 1) == 1 else [])

    def relate(self, op: Op) -> Tree:
        made, added = super().relate(op), op.tensor()
        assert isinstance(made, Tensor)
        for own, facing in zip(added.axes, made.axes[made.rank - added.rank :], strict=True):
            op.unifier.broadcast([own, facing])
        return made


class Readout(MatrixProduct):
    """`guards.readout`: the core units of an axis, plus a linear map of all units of it. Weight `[core, units]`."""

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        rank, axis = ranks[0], axis_of(int(look(2, "dim")), ranks[0])
        read, made = (" ".join(n if k == axis else _LETTERS[k] for k in range(rank)) for n in ("units", "core"))
        return (read, "core units"), made, None

    def terms(self, call: Call | Op) -> Terms | None:
        return None  # units are taken out as well

    def relate(self, op: Op) -> Tree:
        output = super().relate(op)
        why = Reason("a readout keeps the size of an output", op.place, quiet=True)
        op.unifier.fix(op.data["binding"].names["core"], why)
        return output

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return moved_core(op, know, op.tensor(0, "x").axes[int(op.argument(2, "dim"))], 3)
