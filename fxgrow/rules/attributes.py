"""Attributes of tensors that are tensors (`x.real`); capture records views such as `x.T` as the methods they are."""

from __future__ import annotations

from fxgrow.rules.law import Law
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import Permute


class Attribute(Permute):
    """`getattr(x, name)`, as a graph has `x.name`."""

    def __init__(self) -> None:
        super().__init__(lambda op, rank: list(range(rank)))

    def relate(self, op: Op) -> Tree:
        if op.argument(1, "name") == "real" and isinstance(op.argument(0, "self"), Tensor):
            return super().relate(op)
        return Law.relate(self, op) if hasattr(op.value, "dtype") and hasattr(op.value, "shape") else None
