"""Gives attributes other values for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute be another one, and put it back.

    >>> import math
    >>> with replaced(math, "pi", 3):
    ...     print(math.pi)
    3
    >>> math.pi > 3
    True
    """
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
