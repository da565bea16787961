"""Tensors of one number that a forward makes of literals: `torch.zeros(16)`, and what literals make of that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxgrow.modules.containers import flat_tensors
from fxgrow.rules.calls import writes_by_name

_FILLING = (torch.zeros, torch.ones, torch.full)


class Filled:
    """Such tensors, and the nodes of the calls that gave them.

    One that is written to before it is used goes by its values, as other tensors do that are made of literals.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor, fx.Node]] = {}  # the tensor, which stays alive, and one entry of it

    def makes(self, function: Any, name: str, arguments: Any, value: Any) -> bool:
        """Whether a call gives such a tensor: of sizes and a number, or of others of them."""
        if function in _FILLING:
            return True
        tensors = list(flat_tensors(arguments))
        known = bool(tensors) and all(self.node_of(tensor) is not None for tensor in tensors)
        if not known or writes_by_name(name) or not isinstance(value, Tensor) or id(value) in map(id, tensors):
            return False
        return value.numel() > 1 and bool((value == value.flatten()[0]).all())

    def note(self, value: Tensor, node: fx.Node) -> None:
        """Note what a call gave; single numbers go by their values."""
        if value.numel() > 1:
            self._made[id(value)] = value, value.flatten()[0].clone(), node

    def node_of(self, tensor: Tensor) -> fx.Node | None:
        """The node that gives a tensor of one number, if it still holds that throughout."""
        value, number, node = self._made.get(id(tensor), (None, None, None))
        if value is not tensor or number is None:
            return None
        with torch._C.DisableTorchFunction():
            return node if bool((tensor == number).all()) else None
