"""Torch's own database of operators, by which it tests itself."""

from __future__ import annotations

import functools
import sys
import types
import unittest
from typing import Any

import torch


@functools.cache
def torchs_operators() -> list[Any]:
    """Every operator, with samples of what it takes."""
    if "expecttest" not in sys.modules:  # what torch's module needs for test cases of its own
        stub = types.ModuleType("expecttest")
        stub.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stub
    # torch's module freezes the switches of the backends for the whole process: other tests turn them
    with torch.backends.__allow_nonbracketed_mutation():
        from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)
