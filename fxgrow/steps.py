"""Logs the steps of a growth and how long each took, in the logger `fxgrow`, which `--verbose` shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("fxgrow")

_TOLD: ContextVar[Callable[[str], None] | None] = ContextVar("_TOLD", default=None)
"""Who is told what is being done."""


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Tell what is being done, and log how long it took, once it is done.

    >>> with timed("nothing at all"):
    ...     pass
    """
    tell = _TOLD.get()
    if tell is not None:
        tell(step)
    start = time.perf_counter()
    yield
    LOGGER.info("%s: %.2f s", step, time.perf_counter() - start)


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Let a function know the steps that are taken meanwhile."""
    token = _TOLD.set(tell)
    try:
        yield
    finally:
        _TOLD.reset(token)


@contextmanager
def shown(wanted: bool) -> Iterator[None]:
    """Show on stderr, if wanted, what is being done; lines that end are not kept."""
    if not wanted:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("growing \u2026") as status, told(lambda step: status.update(f"{step} \u2026")):
        yield
