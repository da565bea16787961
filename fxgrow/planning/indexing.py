"""Index maps: where each new position of an axis was before growth."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fxgrow.planning.plan import Axis


@lru_cache(maxsize=4096)
def old_positions(axis: Axis) -> Tensor:
    """New position -> old position, or -1 where the position is new. Shape `[axis.new]`.

    >>> old_positions(Axis("grow", 2, 4)).tolist()
    [0, 1, -1, -1]
    """
    if axis.kind == "keep":
        return torch.arange(axis.old)
    if axis.kind == "grow":
        return torch.cat([torch.arange(axis.old), torch.full((axis.new - axis.old,), -1)])
    maps = [old_positions(part) for part in axis.parts]
    if axis.kind == "product":
        return _multiply([(m, part.old) for m, part in zip(maps, axis.parts, strict=True)])
    starts = [sum(part.old for part in axis.parts[:k]) for k in range(len(axis.parts))]
    return torch.cat([torch.where(m < 0, m, m + start) for m, start in zip(maps, starts, strict=True)])


def _multiply(maps: list[tuple[Tensor, int]]) -> Tensor:
    result = maps[0][0]
    for index, old in maps[1:]:
        pairs = result[:, None] * old + index[None, :]
        result = torch.where((result[:, None] < 0) | (index[None, :] < 0), -1, pairs).flatten()
    return result


@lru_cache(maxsize=4096)
def filled_by(axis: Axis, fills: frozenset[str]) -> Tensor:
    """Which new positions are new because of a run with one of `fills`. Shape `[axis.new]`, bool."""
    if axis.kind == "keep":
        return torch.zeros(axis.new, dtype=torch.bool)
    if axis.kind == "grow":
        return (torch.arange(axis.new) >= axis.old) & (axis.fill in fills)
    masks = [filled_by(part, fills) for part in axis.parts]
    if axis.kind == "join":
        return torch.cat(masks)
    result = masks[0]
    for mask in masks[1:]:
        result = (result[:, None] | mask[None, :]).flatten()
    return result


@lru_cache(maxsize=4096)
def source_positions(axis: Axis, fills: frozenset[str]) -> Tensor:
    """New position -> the new position it repeats, along runs with one of `fills`. Shape `[axis.new]`.

    A pair's second half repeats its first half; a copy repeats an old unit, the old units taken in turn.
    """
    if axis.kind == "keep" or (axis.kind == "grow" and axis.fill not in fills):
        return torch.arange(axis.new)
    if axis.kind == "grow":
        position = torch.arange(axis.new)
        if axis.fill in ("pair", "opposite"):
            half = (axis.new - axis.old) // 2
            return torch.where(position >= axis.old + half, position - half, position)
        return torch.where(position >= axis.old, (position - axis.old) % axis.old, position)
    return _composed(axis, [source_positions(part, fills) for part in axis.parts])


def _composed(axis: Axis, positions: list[Tensor]) -> Tensor:
    """New positions along an axis from those along its parts."""
    if axis.kind == "product":
        result = positions[0]
        for position, part in zip(positions[1:], axis.parts[1:], strict=True):
            result = (result[:, None] * part.new + position[None, :]).flatten()
        return result
    starts = [sum(part.new for part in axis.parts[:k]) for k in range(len(axis.parts))]
    return torch.cat([position + start for position, start in zip(positions, starts, strict=True)])


@lru_cache(maxsize=4096)
def opposite_signs(axis: Axis) -> Tensor:
    """+1, or -1 where a position is the second half of an odd number of opposite pairs. Shape `[axis.new]`.

    >>> opposite_signs(Axis("grow", 2, 4, fill="opposite")).tolist()
    [1, 1, 1, -1]
    """
    if axis.kind == "join":
        return torch.cat([opposite_signs(part) for part in axis.parts])
    if axis.kind == "product":
        result = torch.ones(1, dtype=torch.long)
        for part in axis.parts:
            result = (result[:, None] * opposite_signs(part)[None, :]).flatten()
        return result
    second = source_positions(axis, frozenset({"opposite"})) != torch.arange(axis.new)
    return torch.where(second, -1, 1)


@lru_cache(maxsize=4096)
def mean_labels(axis: Axis) -> Tensor:
    """New position -> the position that stands for its whole run, along runs filled by means."""
    if axis.kind == "keep" or (axis.kind == "grow" and axis.fill != "mean"):
        return torch.arange(axis.new)
    if axis.kind == "grow":
        return torch.zeros(axis.new, dtype=torch.long)
    return _composed(axis, [mean_labels(part) for part in axis.parts])
