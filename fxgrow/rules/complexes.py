"""Complex numbers and their parts: views and attributes that read the one as the other."""

from __future__ import annotations

from fxgrow.rules.law import Law
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import Passing, Shape, straight


class ComplexPart(Passing):
    """`torch.real`, `torch.imag`."""

    moves = False


class PartByName(ComplexPart):
    """`getattr(x, name)`, as a graph has `x.real`; capture records views such as `x.T` as the methods they are."""

    def relate(self, op: Op) -> Tree:
        if is_part(op.argument(1, "name")) and isinstance(op.argument(0, "self"), Tensor):
            return super().relate(op)
        return Law.relate(self, op) if hasattr(op.value, "dtype") and hasattr(op.value, "shape") else None


def is_part(name: object) -> bool:
    """Whether an attribute of this name is the real or the imaginary part.

    >>> is_part("imag"), is_part("grad")
    (True, False)
    """
    return name in ("real", "imag")


class Pairs(Shape):
    """`view_as_real`: both parts side by side on a last axis of two; `inverse`: `view_as_complex`."""

    moves = False

    def __init__(self, inverse: bool = False) -> None:
        self.inverse = inverse

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        if not self.inverse:
            return self.drawn(op, [*x.axes, op.unifier.constant(2)], straight(x, range(x.rank)))
        op.unifier.fix(x.axes[-1], "it holds the real and the imaginary part")
        return self.drawn(op, x.axes[:-1], straight(x, [*range(x.rank - 1), None]))
