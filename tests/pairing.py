"""Pairs of parameters for tests that are too long for all of them in every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def in_turn(names: Iterable[Any], options: Sequence[Any], quick: Sequence[Any] | None = None) -> list[Any]:
    """Every name with every option; all but one option a name are slow, each in its turn.

    quick: the names that are in every run, where the others are slow with each option.
    """
    names = list(names)
    assert quick is None or all(name in names for name in quick), quick
    return [
        pytest.param(
            name,
            option,
            marks=() if number % len(options) == place and (quick is None or name in quick) else pytest.mark.slow,
        )
        for number, name in enumerate(names)
        for place, option in enumerate(options)
    ]


def few(names: Iterable[Any], *quick: Any) -> list[Any]:
    """Every name; all but the quick ones are slow."""
    names = list(names)
    assert all(name in names for name in quick), quick
    return [name if name in quick else slow(name) for name in names]


def slow(*values: Any, **named: Any) -> Any:
    """Parameters of a test that `pytest -m slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **named)
