"""Products of two tensors in other spellings: with a tensor added, over axes that are named, of all pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxgrow.proof.node_pair import Use, plain
from fxgrow.proof.products import Operand, contract, dropped
from fxgrow.rules.contraction import Contraction, MatrixProduct
from fxgrow.rules.op import Op, Tensor, Tree

_LETTERS = "abcdefghijklmnop"

Letters = tuple[str, str, str]
"""The letters of both operands and of the output, one an axis."""


class Lettered(MatrixProduct):
    """A sum of products whose axes are named by letters; `spelled` finds them from both ranks and the last argument."""

    def __init__(self, spelled: Callable[[int, int, Any], Letters], third: str = "", default: Any = None) -> None:
        self.spelled = spelled
        self.third = third
        self.default = default

    def _for(self, op: Op) -> Contraction:
        ranks = [operand.rank for operand in op.operands()]
        left, right, made = self.spelled(ranks[0], ranks[1], op.argument(2, self.third, self.default))
        return Contraction((" ".join(left), " ".join(right)), " ".join(made), lambda op: list(op.operands()))

    def prove(self, use: Use) -> Any:
        use.rule = "sum of products"
        use.same_numbers()
        one, two = use.claims()
        left, right, made = self.spelled(one.rank, two.rank, plain(use.argument(2, self.third, self.default)).new)
        return contract(use, [Operand(one, tuple(left)), Operand(two, tuple(right))], tuple(made))


def tensordot(first: int, second: int, dims: Any) -> Letters:
    """`tensordot`: over the last axes of one and the first of the other, or over pairs of axes.

    >>> tensordot(2, 3, ([1], [2]))
    ('ab', 'cdb', 'acd')
    """
    pairs = (list(range(first - dims, first)), list(range(dims))) if isinstance(dims, int) else dims
    left = list(_LETTERS[:first])
    right = list(_LETTERS[first : first + second])
    for one, other in zip(*pairs, strict=True):
        right[other] = left[one]
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

    def __init__(self, left: str, right: str, made: str) -> None:
        self.letters = left, right, made

    def _for(self, op: Op) -> Contraction:
        left, right, made = (" ".join(letters) for letters in self.letters)
        return Contraction((left, right), made, lambda op: [*op.operands()[1:], op.operands()[0]])

    def relate(self, op: Op) -> Tree:
        made, added = super().relate(op), op.operands()[0]
        assert isinstance(made, Tensor)
        for own, facing in zip(added.axes, made.axes[made.rank - added.rank :], strict=True):
            op.unifier.broadcast([own, facing])
        return made

    def prove(self, use: Use) -> Any:
        use.rule = "matrix product"
        use.same_numbers()
        added, one, two = use.claims()
        left, right, made = (tuple(letters) for letters in self.letters)
        letters = made[len(made) - added.rank :]
        for axis in reversed(range(added.rank)):
            if added.new[axis] == 1 != use.value.shape[len(made) - len(letters) + axis]:
                added, letters = dropped(added, axis), (*letters[:axis], *letters[axis + 1 :])
        return contract(use, [Operand(one, left), Operand(two, right)], made, Operand(added, letters))
