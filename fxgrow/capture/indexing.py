"""Indices spelled out where torch would ask them for values: masks, single places, new axes beside tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxgrow.capture.masks import MASKING, by_places, fills_masked, masks, where_masked


def picked(x: Tensor, index: Any) -> Any:
    """`x[index]`, by indices that have an axis; NotImplemented where all have one."""
    if masks(index):
        return x[by_places(index)]
    items = list(index) if isinstance(index, tuple) else [index]
    if any(map(_are_tensors, items)):
        return x[tuple(torch.stack(item) if _are_tensors(item) else item for item in items)]
    slot = _single(items)
    if slot is not None:
        axis = _axes_before(x, items, slot)
        single = x[(*[slice(None)] * axis, items.pop(slot).reshape(1))].squeeze(axis)
        return single[tuple(items)] if items else single
    new = [place for place, item in enumerate(items) if item is None]
    if not new or not any(isinstance(item, Tensor) for item in items) or any(i is Ellipsis for i in items[: new[-1]]):
        return NotImplemented
    for place in new:
        x, items[place] = x.unsqueeze(place), slice(None)
    return x[tuple(items)]


def put(x: Tensor, index: Any, value: Any) -> Any:
    """`x[index] = value`, likewise."""
    if fills_masked(x, index, value):
        x[...] = where_masked(x, index, value)
        return None
    items = list(index) if isinstance(index, tuple) else [index]
    slot = _single(items)
    whole = [item is Ellipsis or isinstance(item, slice) for item in items]
    if slot is None or not all(whole[:slot] + whole[slot + 1 :]):
        return NotImplemented
    after = x.dim() - _axes_before(x, items, slot) - 1
    items[slot] = items[slot].reshape(1)
    if isinstance(value, Tensor):
        value = (value.unsqueeze(-after - 1) if value.dim() > after else value).to(x.dtype)
    x[tuple(items)] = value
    return None


def _are_tensors(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(each, Tensor) for each in item)


def _single(items: list[Any]) -> int | None:
    """Which item is a place that a tensor without axes says."""
    single = (k for k, item in enumerate(items) if isinstance(item, Tensor) and not item.dim())
    with torch._C.DisableTorchFunction():  # as in `masks`
        return next((k for k in single if items[k].dtype not in MASKING), None)


def _axes_before(x: Tensor, items: list[Any], slot: int) -> int:
    """How many axes of a tensor come before the one that an item of an index is for."""
    taken = [item is not None and item is not Ellipsis for item in items]
    spare = x.dim() - sum(taken)
    return sum(taken[:slot]) + (spare if any(item is Ellipsis for item in items[:slot]) else 0)
