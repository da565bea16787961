"""Torch's own database of elementwise operators beside the rows: what has none, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fxgrow.planning import analysis  # noqa: F401  (registers the rows)
from fxgrow.rules.registry import law_of_function, law_of_method
from tests.database import torchs_operators

LEFT_OUT = {
    "of whole numbers, which never are units": (
        *("bitwise_left_shift", "bitwise_right_shift", "lcm", "gcd", "__rand__", "__ror__", "__rxor__"),
    ),
    "graphs have the operator instead": (
        *("__radd__", "__rdiv__", "__rmul__", "__rmod__", "__rpow__", "__rsub__", "rsub"),
    ),
    "methods alone, which have rows": (
        "bfloat16",
        "bool",
        "byte",
        "cdouble",
        "cfloat",
        "char",
        "double",
        "float",
        "half",
        "int",
        "long",
        "short",
    ),
    "returns two tensors": ("frexp",),
    "of numbers that torch hardly computes with": ("chalf",),
    "has a row, which the database wraps": ("nn.functional.rrelu",),
    "made for CUDA sources of one's own": ("jiterator_unary", "jiterator_binary", "jiterator_binary_return_by_ref"),
    "takes another tensor or an order first": (
        "polygamma",
        "special.polygamma",
        "mvlgamma",
        "fill",
        "nn.functional.prelu",
    ),
    "special functions without a derivative": (
        *("special.airy_ai", "special.bessel_", "special.modified_bessel_", "special.scaled_modified_bessel_"),
        *("special.spherical_bessel_", "special.chebyshev_polynomial_", "special.shifted_chebyshev_polynomial_"),
        *("special.hermite_polynomial_", "special.laguerre_polynomial_", "special.legendre_polynomial_"),
        "special.zeta",
    ),
}


def operators() -> list[Any]:
    """Every elementwise operator that torch tests itself by."""
    every = torchs_operators()
    from torch.testing._internal.opinfo.core import BinaryUfuncInfo, UnaryUfuncInfo

    return [info for info in every if isinstance(info, (UnaryUfuncInfo, BinaryUfuncInfo))]


def why_left_out(name: str) -> str | None:
    for why, names in LEFT_OUT.items():
        if any(name == left or (left.endswith("_") and name.startswith(left)) for left in names):
            return why
    return None


@pytest.fixture(scope="module")
def database() -> list[Any]:
    infos = operators()
    assert len(infos) > 150
    return infos


def test_every_elementwise_function_of_torch_has_a_row_or_a_reason(database: list[Any]) -> None:
    missing = [info.name for info in database if law_of_function(info.op) is None and why_left_out(info.name) is None]
    assert sorted(set(missing)) == []


def test_so_have_the_methods_and_what_they_do_in_place(database: list[Any]) -> None:
    variants = [(info.name, form) for info in database for form in (info.method_variant, info.inplace_variant)]
    named = {(name, getattr(form, "__name__", "<lambda>")) for name, form in variants if form is not None}
    missing = [
        method
        for name, method in named
        if method != "<lambda>" and law_of_method(method) is None and why_left_out(name) is None
    ]
    assert sorted(missing) == []


def test_nothing_is_left_out_that_has_a_row_or_that_torch_does_not_have(database: list[Any]) -> None:
    names = {info.name for info in database}
    for left in (name for left_out in LEFT_OUT.values() for name in left_out):
        assert left in names or (left.endswith("_") and any(name.startswith(left) for name in names)), left
    idle = [i.name for i in database if law_of_function(i.op) is not None and why_left_out(i.name) is not None]
    assert sorted(set(idle)) == []


def test_torchs_functions_have_rows_in_place_as_well() -> None:
    named = [name for name in dir(F) if name.endswith("_") and not name.startswith("_")]
    assert {"selu_", "leaky_relu_"} <= {*named}
    assert [name for name in named if law_of_function(getattr(F, name)) is None] == []
    assert law_of_function(torch.tanh_) is not None
