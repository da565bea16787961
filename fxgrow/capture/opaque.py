"""What tracing must leave whole, by the libraries' own registries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from timm.models import _features_fx as timm_registry
from torch import nn


@functools.cache
def whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that are one node."""
    return tuple(timm_registry.get_notrace_functions())


@functools.cache
def whole_modules() -> tuple[type[nn.Module], ...]:
    """Module classes that are one node."""
    return tuple(timm_registry.get_notrace_modules())
