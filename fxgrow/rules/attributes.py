"""Attributes of tensors that are tensors (`x.T`, `x.mT`, `x.data`), and the named fields of what reductions return."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxgrow.proof.rules.movement import movement
from fxgrow.proof.use import Use, plain
from fxgrow.rules.law import Law
from fxgrow.rules.op import Op, Tensor, Tree, tensors
from fxgrow.rules.shape import Permute, last_two


class Attribute(Permute):
    """`getattr(x, name)`, as a graph has `x.name`."""

    def __init__(self) -> None:
        super().__init__(_order)

    def relate(self, op: Op) -> Tree:
        x, name = op.argument(0, "self"), op.argument(1, "name")
        if not isinstance(x, Tensor):
            return x[_field(op.node, name)] if any(True for _ in tensors(x)) else None
        if name in ("T", "H", "mT", "mH", "data", "real"):
            return super().relate(op)
        return Law.relate(self, op) if hasattr(op.value, "dtype") and hasattr(op.value, "shape") else None

    def prove(self, use: Use) -> Any:
        whole = use.args[0]
        if isinstance(whole, (tuple, list)):
            return whole[_field(use.old, plain(use.argument(1, "name")).new)]
        return movement(use)


def _order(op: Op, rank: int) -> list[int]:
    name = op.argument(1, "name")
    if name == "T":
        return list(range(rank))[::-1]
    return list(range(rank)) if name in ("data", "real") else last_two(op, rank)


def _field(node: fx.Node, name: str) -> int:
    """Which item of the named tuple that a node reads has this name."""
    container = node.all_input_nodes[0].meta["value"]
    found = getattr(container, name)
    return next(k for k, item in enumerate(container) if item is found)
