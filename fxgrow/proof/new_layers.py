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


def beside(old: Claim, others: list[Tensor], axis: int, place: int) -> Claim:
    """A tensor with new units along an axis, in the order of `others` and itself at `place` among them."""
    if old.held is not None:
        raise Unproved("a parameter is concatenated with what is new")
    axis %= old.rank
    sizes = [other.shape[axis] for other in others]
    before, after = sum(sizes[:place]), sum(sizes[place:])
    position = torch.cat([torch.full((before,), -1), old.map(axis), torch.full((after,), -1)])
    new = tuple(size + before + after if k == axis else size for k, size in enumerate(old.new))
    if any(tuple(other.shape[:axis] + other.shape[axis + 1 :]) != new[:axis] + new[axis + 1 :] for other in others):
        raise Unproved("what is concatenated differs in other axes")
    return Claim(old.old, new, tuple(position if k == axis else m for k, m in enumerate(old.maps)))
