"""Products of tensors whose axes their function names: of matrices, over named axes, of all pairs; readouts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fxgrow.axes.layout import Reason
from fxgrow.rules.calls import Call
from fxgrow.rules.contraction import Patterns, SumOfProducts
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Lookup, Terms, moved_core
from fxgrow.rules.op import Op, Tree
from fxgrow.rules.patterns import bind
from fxgrow.rules.shape import axis_of

_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class PatternProduct(SumOfProducts):
    """A sum of products whose patterns are given, or follow from the ranks of its operands and its arguments.

    given: what the operands are called among the arguments; without names they are all tensors that it is given.
    called: what proofs call it. added: whether the first argument is a tensor that is added, which may be broadcast.
    """

    spelled: Patterns | Callable[[Sequence[int], Lookup], Patterns]
    given: tuple[str, ...] = ()
    called: str = "matrix product"
    added: bool = False

    def operands(self, op: Any) -> tuple[list[Any], Any]:
        factors = [op.tensor(k, name) for k, name in enumerate(self.given, start=self.added)]
        return factors or list(op.operands()), op.tensor() if self.added else None

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        return self.spelled(ranks, look) if callable(self.spelled) else self.spelled

    def terms(self, call: Call | Op) -> Terms | None:
        factors, added = self.operands(call)
        passed = [added] if self.added and call.argument(9, "beta", 1) == 1 else []
        return Terms([added] if self.added else [], factors[::-1], passed)

    def relate(self, op: Op) -> Tree:
        operands, added = self.operands(op)
        inputs, output, _ = self.patterns([tensor.rank for tensor in operands], op.argument)
        made = self._summed(op, operands, added, output, bind(op, operands, inputs, {}))
        for own, facing in zip(added.axes, made.axes[made.rank - added.rank :], strict=True) if self.added else ():
            op.unifier.broadcast([own, facing])
        return made


_OF_MATRICES: dict[tuple[int, ...], Patterns] = {
    (2, 2): (("... n k", "... k m"), "... n m", None),
    (1, 2): (("k", "... k m"), "... m", None),
    (2, 1): (("... n k", "k"), "... n", None),
    (1, 1): (("k", "k"), "", None),
}


def of_matrices(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`a @ b` with broadcast leading axes; one-dimensional operands are read as torch does."""
    return _OF_MATRICES[tuple(min(rank, 2) for rank in ranks)]


def einsum(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`einsum`, whose equation is the pattern."""
    left, arrow, right = look(0, "equation").replace(" ", "").partition("->")
    if not arrow:
        names = re.findall(r"\w", left)
        right = "".join(sorted(n for n in set(names) if names.count(n) == 1))
        right = "..." + right if "..." in left else right
    *inputs, output = (" ".join(re.findall(r"\.\.\.|\w", part)) for part in (*left.split(","), right))
    return inputs, output, None


def tensordot(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`tensordot`: over the last axes of one and the first of the other, or over pairs of axes."""
    return over_pairs(ranks, look(2, "dims", 2))


def inner(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`inner`: over the last axis of both."""
    return over_pairs(ranks, ([-1], [-1]))


def outer(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`outer`: every entry of one times every entry of the other."""
    return over_pairs(ranks, 0)


def over_pairs(ranks: Sequence[int], dims: Any) -> Patterns:
    """Over pairs of axes, or so many last axes of one and first of the other.

    >>> over_pairs((2, 3), ([1], [2]))
    (('a b', 'c d b'), 'a c d', None)
    """
    first, second = ranks
    pairs = (list(range(first - dims, first)), list(range(dims))) if isinstance(dims, int) else dims
    left, right = list(_LETTERS[:first]), list(_LETTERS[first : first + second])
    for left_axis, right_axis in zip(*pairs, strict=True):
        right[right_axis] = left[left_axis]
    made = [letter for letter in (*left, *right) if not (letter in left and letter in right)]
    return (" ".join(left), " ".join(right)), " ".join(made), None


def readout(ranks: Sequence[int], look: Lookup) -> Patterns:
    """`guards.readout`: a linear map of all units of an axis. Weight `[core, units]`."""
    rank, axis = ranks[0], axis_of(int(look(2, "dim")), ranks[0])
    read, made = (" ".join(n if k == axis else _LETTERS[k] for k in range(rank)) for n in ("units", "core"))
    return (read, "core units"), made, None


class CoreReadout(PatternProduct):
    """The core units of an axis, plus a linear map of all units of it."""

    def terms(self, call: Call | Op) -> Terms | None:
        return None  # units are taken out as well

    def relate(self, op: Op) -> Tree:
        output = super().relate(op)
        why = Reason("a readout keeps the size of an output", op.place, quiet=True)
        op.unifier.fix(op.data["binding"].names["core"], why)
        return output

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return moved_core(op, know, op.tensor(0, "x").axes[int(op.argument(2, "dim"))], 3)
