"""Names of torch's elementwise functions, by kind; torch has them as functions, as methods, in place and as special.

`tests/rules/test_elementwise.py` compares the rows with torch's own database of operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fxgrow.rules.pointwise import Kind
from fxgrow.rules.registry import both

UNARY: dict[Kind, str] = {
    "linear": "deg2rad rad2deg positive neg conj conj_physical",
    "zero": "abs asin asinh atan atanh ceil entr erf erfinv expm1 floor frac i1 i1e log1p nan_to_num round sgn sign "
    "sin sinh sqrt square tan tanh trunc",
    "other": "acos acosh angle cos cosh digamma erfc erfcx exp exp2 expit gammaln i0 i0e isfinite isinf isnan isneginf "
    "isposinf isreal lgamma log log10 log2 log_ndtr logical_not logit ndtr ndtri psi reciprocal rsqrt sigmoid signbit "
    "sinc byte char short",
}
"""Of one tensor. linear: f(ax) = a f(x); zero: f(0) = 0; other: neither."""

BINARY: dict[Kind, str] = {
    "zero": "complex copysign fmax fmin heaviside hypot ldexp maximum minimum nextafter polar xlog1py xlogy",
    "other": "atan2 eq ne lt le gt ge clamp_max clamp_min float_power floor_divide fmod gammainc gammaincc igamma "
    "igammac isclose logaddexp logaddexp2 logical_and logical_or logical_xor remainder",
    "divide": "true_divide",
}
"""Of two tensors, or a tensor and a number. zero: f(0, 0) = 0, whatever the signs of the zeros."""


def rows(known: set[Any]) -> Iterator[tuple[Any, Kind]]:
    """Every spelling that torch has of these functions, but for those that have a rule already."""
    for kinds in (UNARY, BINARY):
        for kind, names in kinds.items():
            for name in names.split():
                in_place: list[Any] = [f"{name}_"] if hasattr(Tensor, f"{name}_") else []
                in_place += [getattr(torch, f"{name}_")] if hasattr(torch, f"{name}_") else []
                special = [getattr(torch.special, name)] if hasattr(torch.special, name) else []
                yield from ((target, kind) for target in (*both(name), *special, *in_place) if target not in known)
