"""How long the steps of a growth take: information of the logger `fxgrow`, which `--verbose` shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("fxgrow")


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Log how long a step took, once it is done.

    >>> with timed("nothing at all"):
    ...     pass
    """
    start = time.perf_counter()
    yield
    LOGGER.info("%s: %.2f s", step, time.perf_counter() - start)
