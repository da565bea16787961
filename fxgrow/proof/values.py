"""Comparison of actual values, with the rounding that growth may do."""

from __future__ import annotations

import torch
from torch import Tensor

from fxgrow.modules.containers import has_fractions

ULPS = 4
"""Where growth rounds (scaled gains, means, shares of weights): units in the last place of the stored dtype."""


DERIVED_ULPS = 64
"""The same for values computed from parameters in float64, against the largest of them."""


def precision(tensor: Tensor) -> float:
    """The unit in the last place of 1 in the dtype of a tensor; 0 for integers."""
    return float(torch.finfo(tensor.dtype).eps) if has_fractions(tensor) else 0.0


def exact(tensor: Tensor) -> Tensor:
    """The same in float64, or in complex128."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def differing(tensor: Tensor, wanted: Tensor, bound: float = 0.0, largest: bool = False) -> Tensor:
    """Which entries differ by more than `bound`, relative to the wanted entry or to the largest one."""
    if bound == 0.0:
        wrong = tensor != wanted
    else:
        difference = (exact(tensor) - exact(wanted)).abs()
        scale = exact(wanted).abs()
        wrong = ~(difference <= bound * (scale.amax() if largest and scale.numel() else scale))
    if bool(wrong.any()):  # seldom: where both are no number, they do not differ
        wrong &= ~((tensor != tensor) & (wanted != wanted))
    return wrong


def first(wrong: Tensor) -> tuple[int, ...]:
    """The index of the first entry that is True."""
    return tuple(int(k) for k in wrong.nonzero()[0])


def at_index(tensor: Tensor, place: tuple[int, ...]) -> complex:
    entry: complex = tensor[place].item()
    return entry
