"""What tracing must leave whole: by the libraries' own registries, and functions with a backward of their own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class CustomFunction(nn.Module):
    """A `torch.autograd.Function` as a module, so that the grown model keeps its backward."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function.__name__


def whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that are one node."""
    return _timm_registry()[0] if "timm" in sys.modules else ()


def whole_modules() -> tuple[type[nn.Module], ...]:
    """Module classes that are one node."""
    return _timm_registry()[1] if "timm" in sys.modules else ()


@functools.cache
def _timm_registry() -> tuple[tuple[Callable[..., Any], ...], tuple[type[nn.Module], ...]]:
    from timm.models import _features_fx as registry

    return tuple(registry.get_notrace_functions()), tuple(registry.get_notrace_modules())


def hooked(module: nn.Module) -> bool:
    """Whether forward hooks can change what the module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
