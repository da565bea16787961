"""Places of entries that are true: how many there are hangs on values, so that a record assumes a number.

What another number would change of the record hangs on it, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.containers import of_kind

ALL: Callable[[int], int] = int
OTHERS: tuple[Callable[[int], int], ...] = (lambda entries: 10**6 * entries, lambda entries: 1, lambda entries: 0)
"""How many entries of so many are taken to be true: at first, and again, beyond what a forward may compare with."""


def taking(number: int) -> Callable[[int], int]:
    """So many, whatever the number of entries."""
    return lambda entries: number


MASKING = (torch.bool, torch.uint8)
"""Dtypes of tensors by which entries are picked where they are true."""


def asks_for_places(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call gives the places of entries that are true."""
    return name in ("nonzero", "argwhere") or (name == "where" and len(args) + len(kwargs) == 1)


def masked(args: Any, kwargs: Any) -> Tensor:
    """The tensor whose true entries such a call asks for."""
    return next(of_kind((args, kwargs), Tensor))


def places(name: str, of: Tensor, count: Callable[[int], int] = ALL, as_tuple: bool = False) -> Any:
    """Places on the meta device: an index for each axis, or a row for each entry.

    >>> places("argwhere", torch.empty(2, 3, device="meta")).shape
    torch.Size([6, 2])
    """
    number = count(of.numel())
    if as_tuple or name == "where":
        return tuple(torch.empty(number, dtype=torch.long, device="meta") for _ in range(of.ndim))
    return torch.empty(number, of.ndim, dtype=torch.long, device="meta")


def masks(index: Any) -> bool:
    """Whether entries are picked by a mask.

    >>> masks((slice(2), torch.ones(3) > 0)), masks(torch.arange(3))
    (True, False)
    """
    items = index if isinstance(index, tuple) else (index,)
    with torch._C.DisableTorchFunction():  # no forward has asked for these dtypes
        return any(isinstance(item, Tensor) and item.dtype in MASKING and item.ndim for item in items)


def by_places(index: Any) -> tuple[Any, ...]:
    """The same index with places in place of masks."""
    items = index if isinstance(index, tuple) else (index,)
    taken = [item.nonzero(as_tuple=True) if masks(item) else (item,) for item in items]
    return tuple(item for some in taken for item in some)


def fills_masked(tensor: Tensor, index: Any, value: Any) -> bool:
    """Whether `tensor[index] = value` puts the same tensor, or number, wherever a mask over its first axes is true.

    A number is put by places where the mask leaves axes out: their units take on the number as a whole.
    """
    if not (isinstance(index, Tensor) and masks(index)):
        return False
    axes_of_value, axes_left = value.ndim if isinstance(value, Tensor) else 0, tensor.ndim - index.ndim
    return 0 < axes_of_value <= axes_left or axes_of_value == axes_left == 0


def where_masked(tensor: Tensor, mask: Tensor, value: Any) -> Tensor:
    """What a tensor is once `tensor[mask] = value` has been done."""
    axes = (1,) * (tensor.ndim - mask.ndim)
    put = value.to(tensor.dtype) if isinstance(value, Tensor) else value
    return torch.where(mask.bool().reshape(*mask.shape, *axes) if axes else mask.bool(), put, tensor)
