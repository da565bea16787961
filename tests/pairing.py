"""Pairs of parameters for tests that are too long for all of them in every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def in_turn(names: Iterable[str], options: Sequence[Any]) -> list[Any]:
    """Every name with every option; all but one option a name are slow, each in its turn."""
    return [
        pytest.param(name, option, marks=() if number % len(options) == place else pytest.mark.slow)
        for number, name in enumerate(names)
        for place, option in enumerate(options)
    ]


def slow(*values: Any, **named: Any) -> Any:
    """Parameters of a test that `pytest -m slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **named)
