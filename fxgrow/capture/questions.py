"""What a forward asks of its inputs besides their sizes, and inputs of which the answer is another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxgrow.capture.methods import code_asking

NEEDING = "requires_grad"
LAID_OUT = "is_contiguous"

_RANK = ("dim", "ndimension", "ndim")
_LAYOUT = (LAID_OUT, "stride")
_ASKED = (*_RANK, *_LAYOUT, "dtype", "is_floating_point", NEEDING)


class Question(NamedTuple):
    """A property of an input that a forward asks for, by the name of the argument, and another that it may have."""

    argument: str
    property: str
    other: Any

    def answered(self, tensor: Tensor) -> Iterator[Tensor]:
        """Tensors like another one that have the other property, on the meta device; any axis may be more or less."""
        shape = tuple(tensor.shape)
        if self.property == "ndim":
            fewer = self.other < tensor.ndim
            for k in range(tensor.ndim if fewer else tensor.ndim + 1):
                other = (*shape[:k], *shape[k + 1 :]) if fewer else (*shape[:k], 1, *shape[k:])
                yield torch.empty(other, dtype=tensor.dtype, device="meta")
            return
        if self.property == LAID_OUT:
            laid_out = torch.empty(shape if self.other else shape[::-1], dtype=tensor.dtype, device="meta")
            yield laid_out if self.other else laid_out.permute(*range(tensor.ndim)[::-1])
            return
        dtype = self.other if self.property == "dtype" else tensor.dtype
        yield torch.empty(shape, dtype=dtype, device="meta", requires_grad=self.property == NEEDING)


def questions(argument: str, asked: str, tensor: Tensor) -> Iterator[Question]:
    """What a call or a property of torch asks of an argument, with each other answer that is tried.

    These are an axis more or less, another order in memory, gradients, and the types of numbers that the code which
    asks names: of two precisions, another comparison knows.
    """
    if asked not in _ASKED or (code := code_asking()) is None:
        return
    floating = tensor.dtype.is_floating_point
    if asked in _RANK:
        others: list[Any] = [tensor.ndim - 1, tensor.ndim + 1] if tensor.ndim > 1 else [tensor.ndim + 1]
        yield from (Question(argument, "ndim", other) for other in others)
    elif asked in _LAYOUT and tensor.ndim > 1:
        yield Question(argument, LAID_OUT, not tensor.is_contiguous())
    elif asked == "dtype":
        named = (getattr(torch, name, None) for name in code.co_names)
        dtypes = {dtype for dtype in named if isinstance(dtype, torch.dtype) and not dtype.is_floating_point}
        yield from (Question(argument, "dtype", other) for other in dtypes - {tensor.dtype})
    elif asked == "is_floating_point":
        yield Question(argument, "dtype", torch.int64 if floating else torch.get_default_dtype())
    elif asked == NEEDING and floating:
        yield Question(argument, NEEDING, True)
