"""New layers, concatenated with old ones: their output may be anything, since its readers count it as new units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxgrow.proof.claims import Claim, Unproved

_JOINS = (torch.cat, torch.concat, torch.concatenate)


def parts_of_join(node: fx.Node) -> list[fx.Node] | None:
    """What a node concatenates; None if it does something else."""
    parts = node.args[0] if node.op == "call_function" and node.target in _JOINS and node.args else None
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, fx.Node) for part in parts):
        return None
    return list(parts)


def axis_of_join(node: fx.Node) -> int:
    """Along which axis a node concatenates, counted from either end."""
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if not isinstance(axis, int):
        raise Unproved("the axis of a concatenation is not a number")
    return axis


def new_units(value: Any, axis: int) -> Claim:
    """The claim of a tensor that has no old units along an axis. value: of its shape."""
    if not isinstance(value, Tensor):
        raise Unproved("what is concatenated is not a tensor")
    axis %= value.ndim
    new = tuple(value.shape)
    old = tuple(0 if k == axis else size for k, size in enumerate(new))
    return Claim(old, new, tuple(torch.full((size,), -1) if k == axis else None for k, size in enumerate(new)))
