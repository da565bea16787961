"""What tracing must leave whole: by the libraries' own registries, and functions with a backward of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from timm.models import _features_fx as timm_registry
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


@functools.cache
def whole_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that are one node."""
    return tuple(timm_registry.get_notrace_functions())


@functools.cache
def whole_modules() -> tuple[type[nn.Module], ...]:
    """Module classes that are one node."""
    return tuple(timm_registry.get_notrace_modules())


def hooked(module: nn.Module) -> bool:
    """Whether forward hooks can change what the module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
